// Memory of sampling: on the device, and pinned on the host for both to read.
#include "ops.h"
#include "sampler.h"

namespace lorikeet::cuda {
namespace {

void grow_pinned(char*& memory, size_t bytes) {
  if (memory) cudaFreeHost(memory);
  memory = nullptr;
  check(cudaMallocHost(reinterpret_cast<void**>(&memory), bytes), "pinned memory of sampling");
}

}  // namespace

SamplerScratch::~SamplerScratch() {
  if (staging) cudaFreeHost(staging);
  if (answers) cudaFreeHost(answers);
}

void SamplerScratch::reserve_outputs(int64_t wanted, int64_t wanted_V, int64_t wanted_H, cudaStream_t stream) {
  if (wanted <= n_outputs && wanted_V <= V && wanted_H <= H) return;
  check(cudaStreamSynchronize(stream), "step");
  while (n_outputs < wanted) n_outputs = n_outputs == 0 ? 8 : n_outputs * 2;
  V = std::max(V, wanted_V);
  H = std::max(H, wanted_H);
  const size_t N = size_t(n_outputs), n_parts = size_t(parts_of(V));
  parts = allocate_device(N * n_parts * sizeof(Part));
  sums = allocate_device(N * n_parts * 8);
  bounds = allocate_device(N * n_parts * 8);
  normalisers = allocate_device(N * 8);
  hidden8 = allocate_device(N * 2 * size_t(H));
  hidden_meta = allocate_device(N * 16);
  mass_states = allocate_device(N * mass_state_bytes());
  grow_pinned(answers, N * (2 + 2 * kMaxAlternatives) * 4);
}

void SamplerScratch::reserve_staging(size_t bytes, cudaStream_t stream) {
  if (bytes <= staged.bytes()) return;
  check(cudaStreamSynchronize(stream), "step");
  bytes = std::max<size_t>(64 << 10, bytes * 2);
  staged = allocate_device(bytes);
  saved = allocate_device(bytes / sizeof(ScoreChange) * 4);
  grow_pinned(staging, bytes);
}

}  // namespace lorikeet::cuda
