// Scores of up to 32 outputs at once: persistent blocks of 8 warps, a warp 16 rows of the vocabulary at a time, all hidden states in
// shared memory. Limit: one read of the head (1b: 604 MB in bf16, 302 MB in int8).
#include "head_tile.h"
#include "ops.h"

namespace lorikeet::cuda {
namespace {

constexpr int kWarps = 8;
static_assert(kWarps * kTileRows == kPartWidth, "a block's round is a part");

struct TileArgs {
  const char* rows;    // [V, row_bytes]
  const char* hidden;  // [planes of an output][row_bytes], outputs hidden_stride bytes apart
  int64_t hidden_stride;
  int64_t V;
  int row_bytes, n, n_parts;
  float* values;  // [n, stride]
  int64_t stride;
  Part* parts;     // bf16: [n, n_parts]
  float2* bounds;  // int8: [n, n_parts]
  const CodeMeta* code_meta;
  const HiddenMeta* hidden_meta;
};

/// Hidden states to shared memory: [plane][groups * 8] rows of hidden_pitch bytes, zeros where there is no output.
template <int kPlanes, int kGroups>
__device__ void load_hidden(char* to, const TileArgs& a) {
  const int pitch = hidden_pitch(a.row_bytes), pieces = a.row_bytes / 16;
  for (int i = threadIdx.x; i < kPlanes * kGroups * kTileOutputs * pieces; i += blockDim.x) {
    const int slot = i / pieces, at = i % pieces * 16, plane = slot / (kGroups * kTileOutputs), output = slot % (kGroups * kTileOutputs);
    uint4 x{0, 0, 0, 0};
    if (output < a.n) x = *reinterpret_cast<const uint4*>(a.hidden + output * a.hidden_stride + plane * a.row_bytes + at);
    *reinterpret_cast<uint4*>(to + slot * pitch + at) = x;
  }
  __syncthreads();
}

/// Sums of a warp's 16 rows from `row`. kSteps steps of 64 bytes are in flight at once.
template <int kPlanes, int kGroups, int kSteps, class Sum>
__device__ void sum_rows(Sum (&sums)[kPlanes][kGroups][4], const TileArgs& a, int64_t row, const char* hidden) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4, pitch = hidden_pitch(a.row_bytes);
  const char* upper = a.rows + min(row + g, a.V - 1) * a.row_bytes + t * 16;
  const char* lower = a.rows + min(row + g + 8, a.V - 1) * a.row_bytes + t * 16;
  const char* x = hidden + g * pitch + t * 16;
  for (int at = 0; at < a.row_bytes; at += kSteps * kStepBytes) {
    uint4 u[kSteps], l[kSteps];
#pragma unroll
    for (int i = 0; i < kSteps; i++) {
      u[i] = load_stream(upper + at + i * kStepBytes);
      l[i] = load_stream(lower + at + i * kStepBytes);
    }
#pragma unroll
    for (int i = 0; i < kSteps; i++)
#pragma unroll
      for (int p = 0; p < kPlanes; p++)
#pragma unroll
        for (int n = 0; n < kGroups; n++)
          step(sums[p][n], u[i], l[i], *reinterpret_cast<const uint4*>(x + (p * kGroups + n) * kTileOutputs * pitch + at + i * kStepBytes));
  }
}

/// Over the warp's sixteen rows: lanes with the same t.
template <class T, class F>
__device__ T over_rows(T v, F best) {
  for (int o = 4; o < kWarp; o *= 2) v = best(v, __shfl_xor_sync(kAllLanes, v, o));
  return v;
}

/// Writes the scores of outputs 2t and 2t + 1 of a group, and the best of the warp's rows to slots[8].
__device__ void write_tile(const TileArgs& a, int64_t row, int first, const float (&sums)[1][4], u64* slots) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  for (int j = 0; j < 2; j++) {
    const int output = first + 2 * t + j;
    u64 best = 0;
    for (int half = 0; half < 2; half++) {
      const int64_t r = row + g + half * 8;
      const float score = sums[0][half * 2 + j];
      if (r >= a.V || output >= a.n) continue;
      a.values[output * a.stride + r] = score;
      best = larger(best, packed(order_key(score), score != score ? -1 : int32_t(r)));
    }
    best = over_rows(best, larger);
    if (g == 0) slots[2 * t + j] = best;
  }
}

__device__ void write_tile(const TileArgs& a, int64_t row, int first, const int (&sums)[2][4], float2* slots) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  for (int j = 0; j < 2; j++) {
    const int output = first + 2 * t + j;
    float2 bound{-INFINITY, -INFINITY};
    for (int half = 0; half < 2; half++) {
      const int64_t r = row + g + half * 8;
      if (r >= a.V || output >= a.n) continue;
      const CodeMeta code = a.code_meta[r];
      const HiddenMeta x = a.hidden_meta[output];
      const float score = float(sums[0][half * 2 + j] * 128 + sums[1][half * 2 + j]) * (code.scale * x.scale);
      const float error = x.norm * code.error + x.constant;
      a.values[output * a.stride + r] = score;
      bound = {fmaxf(bound.x, score - error), fmaxf(bound.y, score + error)};
    }
    bound.x = over_rows(bound.x, [](float p, float q) { return fmaxf(p, q); });
    bound.y = over_rows(bound.y, [](float p, float q) { return fmaxf(p, q); });
    if (g == 0) slots[2 * t + j] = bound;
  }
}

__device__ Part part_of(const u64* slots, int stride) {
  u64 best = 0;
  for (int w = 0; w < kWarps; w++) best = larger(best, slots[w * stride]);
  return unpacked(best);
}
__device__ float2 part_of(const float2* slots, int stride) {
  float2 bound{-INFINITY, -INFINITY};
  for (int w = 0; w < kWarps; w++) bound = {fmaxf(bound.x, slots[w * stride].x), fmaxf(bound.y, slots[w * stride].y)};
  return bound;
}

template <bool kInt8, int kGroups, int kSteps>
__global__ void __launch_bounds__(kWarps* kWarp, kGroups <= 2 ? 2 : 1) head_kernel(TileArgs a) {
  using Sum = std::conditional_t<kInt8, int, float>;
  using Slot = std::conditional_t<kInt8, float2, u64>;
  constexpr int kPlanes = kInt8 ? 2 : 1, kOutputs = kGroups * kTileOutputs;
  extern __shared__ __align__(16) char hidden[];
  __shared__ Slot slots[2][kWarps][kOutputs];  // of this round and the one before
  load_hidden<kPlanes, kGroups>(hidden, a);
  const int warp = threadIdx.x / kWarp;
  int odd = 0;
  for (int part = blockIdx.x; part < a.n_parts; part += gridDim.x, odd ^= 1) {
    const int64_t row = int64_t(part) * kPartWidth + warp * kTileRows;
    Sum sums[kPlanes][kGroups][4] = {};
    sum_rows<kPlanes, kGroups, kSteps>(sums, a, row, hidden);
    for (int n = 0; n < kGroups; n++) {
      Sum tile[kPlanes][4];
      for (int p = 0; p < kPlanes; p++)
        for (int i = 0; i < 4; i++) tile[p][i] = sums[p][n][i];
      write_tile(a, row, n * kTileOutputs, tile, slots[odd][warp] + n * kTileOutputs);
    }
    __syncthreads();  // the other half of the slots is free until the next
    if (int(threadIdx.x) < a.n) {
      const auto best = part_of(&slots[odd][0][threadIdx.x], kOutputs);
      const int64_t at = int64_t(threadIdx.x) * a.n_parts + part;
      if constexpr (kInt8)
        a.bounds[at] = best;
      else
        a.parts[at] = best;
    }
  }
}

int groups_of(int64_t n) { return n <= 8 ? 1 : n <= 16 ? 2 : 4; }

size_t shared_bytes(int64_t n, int row_bytes, bool int8) {
  return size_t(groups_of(n)) * kTileOutputs * (int8 ? 2 : 1) * hidden_pitch(row_bytes);
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

int n_processors() {
  static const int n = device_attribute(cudaDevAttrMultiProcessorCount);
  return n;
}

/// Bytes for hidden states in a block: 91 KB on 8.6 and 8.9, 155 KB on 8.0, 219 KB on 9.0.
int shared_limit() {
  static const int bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - 8 * 1024;
  return bytes;
}

template <bool kInt8, int kGroups, int kSteps>
void launch(const TileArgs& a, size_t shared, cudaStream_t stream) {
  const auto kernel = head_kernel<kInt8, kGroups, kSteps>;
  static const bool allowed =
      (check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_limit()), "shared memory"), true);
  (void)allowed;
  const int blocks_of_processor = kGroups <= 2 && int(shared) * 2 <= shared_limit() ? 2 : 1;
  const int blocks = std::min(a.n_parts, n_processors() * blocks_of_processor);
  kernel<<<unsigned(blocks), kWarps * kWarp, shared, stream>>>(a);
}

template <bool kInt8, int kGroups>
void launch_steps(const TileArgs& a, size_t shared, cudaStream_t stream) {
  const int steps = a.row_bytes / kStepBytes;
  if (steps % 6 == 0)
    launch<kInt8, kGroups, 6>(a, shared, stream);
  else if (steps % 5 == 0)
    launch<kInt8, kGroups, 5>(a, shared, stream);
  else
    launch<kInt8, kGroups, 1>(a, shared, stream);
}

template <bool kInt8>
void launch_groups(const TileArgs& a, cudaStream_t stream) {
  const size_t shared = shared_bytes(a.n, a.row_bytes, kInt8);
  switch (groups_of(a.n)) {
    case 1:
      launch_steps<kInt8, 1>(a, shared, stream);
      break;
    case 2:
      launch_steps<kInt8, 2>(a, shared, stream);
      break;
    default:
      launch_steps<kInt8, 4>(a, shared, stream);
  }
  check_launch("head");
}

}  // namespace

int tiled_outputs(int64_t H, bool int8) {
  const int64_t row_bytes = H * (int8 ? 1 : 2);
  if (row_bytes % kStepBytes != 0) return 0;
  for (const int n : {32, 16, 8})
    if (shared_bytes(n, int(row_bytes), int8) <= size_t(shared_limit())) return n;
  return 0;
}

void score_bf16(Tensor values, Tensor hidden, const HeadCuda& head, int64_t first, SamplerScratch& scratch, cudaStream_t stream) {
  TileArgs a{};
  a.rows = reinterpret_cast<const char*>(head.weights);
  a.hidden = static_cast<const char*>(hidden.data);
  a.hidden_stride = hidden.stride * 2;
  a.V = head.rows;
  a.row_bytes = int(head.cols) * 2;
  a.n = int(values.rows);
  a.n_parts = parts_of(head.rows);
  a.values = values.f32();
  a.stride = values.stride;
  a.parts = static_cast<Part*>(scratch.parts.data()) + first * a.n_parts;
  launch_groups<false>(a, stream);
}

void score_codes(Tensor values, const HeadCuda& head, int64_t first, SamplerScratch& scratch, cudaStream_t stream) {
  TileArgs a{};
  a.rows = static_cast<const char*>(head.codes.data());
  a.hidden = static_cast<const char*>(scratch.hidden8.data()) + first * 2 * head.cols;
  a.hidden_stride = 2 * head.cols;
  a.V = head.rows;
  a.row_bytes = int(head.cols);
  a.n = int(values.rows);
  a.n_parts = parts_of(head.rows);
  a.values = values.f32();
  a.stride = values.stride;
  a.bounds = static_cast<float2*>(scratch.bounds.data()) + first * a.n_parts;
  a.code_meta = static_cast<const CodeMeta*>(head.code_meta.data());
  a.hidden_meta = static_cast<const HiddenMeta*>(scratch.hidden_meta.data()) + first;
  launch_groups<true>(a, stream);
}

}  // namespace lorikeet::cuda
