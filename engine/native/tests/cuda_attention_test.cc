// Attention on CUDA against a double-precision reference: prompts from the beginning and in the middle, with and without a window, mixed
// with rows of one token. Bound: weights and outputs are rounded to bf16, at most half an ulp (2^-8 = 0.004) each, 0.0016 in the mean
// square, so a head's output is off by about 0.003 of its length; one key of 1,000 lost or added weighs about 0.03. Hence 0.01.
#include <cstring>

#include "attention_case.h"
#include "check.h"
#include "../core/backend.h"
#if defined(LORIKEET_CUDA_BUILT)
#include "../cuda/ops.h"
#include "../cuda/kv_pool.h"
#endif

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

constexpr double kBound = 0.01;

#if defined(LORIKEET_CUDA_BUILT)
std::vector<bf16> attend(Backend& gpu, const AttentionCase& c) {
  const AttentionShape& s = c.shape;
  const int64_t T = c.n_tokens(), width = s.n_heads * s.head_dim;
  const auto pool = gpu.make_kv_pool(c.n_blocks, AttentionCase::kLayers, s.n_kv_heads, s.head_dim);
  gpu.upload(static_cast<cuda::KvPoolCuda&>(*pool).buffer.data(), c.pool.data(), c.pool.size() * 2);
  Buffer q = gpu.allocate(c.q.size() * 2), out = gpu.allocate(c.q.size() * 2);
  gpu.upload(q.data(), c.q.data(), c.q.size() * 2);
  gpu.begin_step(c.batch);
  gpu.attention({out.data(), DType::kBF16, T, width, width}, {q.data(), DType::kBF16, T, width, width},
                {pool.get(), AttentionCase::kLayer, s.window > 0, s.n_heads, s.n_kv_heads, s.head_dim, c.scale(), s.window, c.batch.rows});
  std::vector<bf16> got(c.q.size());
  gpu.download(got.data(), out.data(), got.size() * 2);
  return got;
}

std::string name_of(const AttentionShape& s) {
  return std::to_string(s.n_heads) + "/" + std::to_string(s.n_kv_heads) + " heads of " + std::to_string(s.head_dim) +
         (s.window ? ", window " + std::to_string(s.window) : std::string(", no window"));
}

void test_case(Backend& gpu, const AttentionShape& shape, const std::vector<RowLength>& rows, const std::string& what) {
  const AttentionCase c(shape, rows, 11);
  const double off = c.worst(attend(gpu, c));
  std::printf("%s, %s: off by %.5f\n", name_of(shape).c_str(), what.c_str(), off);
  check(off < kBound, name_of(shape) + ", " + what + ": off by " + std::to_string(off));
}

/// Steps of decode alone, few and many, short and long.
void test_single_tokens(Backend& gpu, const AttentionShape& shape) {
  for (int n : {1, 31, 33, 257}) {
    std::vector<RowLength> rows;
    for (int r = 0; r < n; r++) rows.push_back({r == 0 ? 4100 : r * 37 % 700, 1});
    test_case(gpu, shape, rows, std::to_string(n) + " rows of one token");
  }
}

/// The same row alone, behind others, and in two steps: equal bit for bit.
void test_independence(Backend& gpu, const AttentionShape& shape) {
  const int width = shape.n_heads * shape.head_dim;
  AttentionCase c(shape, {{700, 300}, {0, 64}, {40, 1}, {1000, 33}}, 5), alone = c, late = c;
  const std::vector<bf16> together = attend(gpu, c);
  const BatchRow row = c.batch.rows[0];
  alone.batch.rows = {row};
  late.batch.rows = {row};
  late.batch.rows[0].begin = 100;  // the first 100 tokens belong to no row: they stay as they were
  late.batch.rows[0].position += 100;
  const auto equal = [&](const std::vector<bf16>& got, int begin) {
    return std::memcmp(&got[size_t(begin) * width], &together[size_t(begin) * width], size_t(row.end - begin) * width * 2) == 0;
  };
  check(equal(attend(gpu, alone), 0), name_of(shape) + ": a row's output does not depend on other rows");
  check(equal(attend(gpu, late), 100), name_of(shape) + ": a token's output does not depend on where its step begins");
}

void test_device(Backend& gpu) {
  const std::vector<RowLength> mixed = {{0, 2}, {41, 1}, {1, 15}, {0, 16}, {5, 17}, {500, 31}, {2000, 33}, {900, 1}, {0, 64}, {511, 257}, {2047, 1}};
  for (int head_dim : {64, 128, 256})
    for (const auto& [n_heads, n_kv_heads] : {std::pair{2, 2}, {4, 2}, {4, 1}, {8, 1}})
      for (int window : {0, 512}) test_case(gpu, {n_heads, n_kv_heads, head_dim, window}, mixed, "11 mixed rows");
  for (int window : {0, 512, 1024}) {
    test_case(gpu, {4, 1, 256, window}, {{0, 600}, {5, 1100}}, "600 and 1,100 tokens");
    test_case(gpu, {8, 4, 256, window}, {{2000, 600}, {500, 257}}, "600 at 2,000, 257 at 500");
    test_case(gpu, {8, 4, 128, window}, {{1, 600}, {2000, 257}}, "600 at 1, 257 at 2,000");
  }
  // Enough tiles that an A100 takes the wide ones.
  test_case(gpu, {16, 8, 256, 512}, {{0, 1100}, {0, 33}}, "1,100 and 33 tokens");
  for (int window : {0, 512}) test_single_tokens(gpu, {4, 1, 256, window});
  for (int window : {0, 1024}) test_single_tokens(gpu, {8, 4, 256, window});
  test_single_tokens(gpu, {16, 8, 256, 1024});
  test_single_tokens(gpu, {32, 16, 128, 1024});
  for (int head_dim : {64, 128, 256}) test_independence(gpu, {4, 1, head_dim, 512});
}
#endif

}  // namespace

int main() {
  try {
    if (cuda_devices().empty()) {
      std::printf("%d passed, %d failed; skipped: %s\n", n_passed, n_failed, cuda_built() ? "no GPU here" : "built without CUDA");
      return 0;
    }
#if defined(LORIKEET_CUDA_BUILT)
    test_device(*make_cuda_backend(0));
#endif
  } catch (const Error& e) {
    check(false, std::string(e.code()) + ": " + e.what());
  }
  return finish();
}
