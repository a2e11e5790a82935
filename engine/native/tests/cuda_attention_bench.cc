// Prefill attention on CUDA: microseconds a layer and TFLOP/s of useful work (4 D operations for each query head, query and key it sees),
// against the card's dense bf16 peak. Usage: cuda_attention_bench [--peak TFLOPS] [--repeat N]
#include <cstdio>

#include "arguments.h"
#include "attention_case.h"
#include "../core/backend.h"
#if defined(LORIKEET_CUDA_BUILT)
#include "../cuda/ops.h"
#include "../cuda/kv_pool.h"
#include "../cuda/query_tiles.h"
#endif

using namespace lorikeet;
using namespace lorikeet::testing;

#if defined(LORIKEET_CUDA_BUILT)
namespace {

using cuda::PrefillTiles;

template <class T>
Buffer upload(const std::vector<T>& values) {
  Buffer out = cuda::allocate_device(values.size() * sizeof(T));
  cuda::check(cudaMemcpy(out.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  return out;
}

std::vector<bf16> noise(size_t n) {
  std::vector<bf16> out(n);
  uint32_t state = 1;
  for (bf16& v : out) {
    state = state * 1664525u + 1013904223u;
    v = to_bf16(float(state >> 8) * (4.0f / 16777216.0f) - 2.0f);
  }
  return out;
}

/// A step of prompts of equal length from position 0, as the kernels see it.
class PrefillStep {
 public:
  static constexpr int kLayers = 4;

  PrefillStep(AttentionShape shape, int n_rows, int length) : shape_(shape), length_(length) {
    const int per_row = (length + kBlockTokens - 1) / kBlockTokens;
    std::vector<int32_t> table(size_t(n_rows * per_row));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(3));
    std::vector<cuda::DeviceRow> device_rows;
    for (int r = 0; r < n_rows; r++) {
      BatchRow row;
      row.begin = r * length;
      row.end = row.begin + length;
      rows_.push_back(row);
      device_rows.push_back({row.begin, row.end, 0, r * per_row, r * per_row, 0});
    }
    for (int i = 0; i < cuda::kQueryTileLists; i++) {
      std::vector<cuda::QueryTile> tiles(size_t(cuda::count_query_tiles(rows_, cuda::query_tile_size(i))));
      cuda::write_query_tiles(rows_, cuda::query_tile_size(i), tiles.data());
      step_.n_query_tiles[i] = int(tiles.size());
      step_.query_tiles[i] = keep<cuda::QueryTile>(upload(tiles));
    }
    step_.rows = keep<cuda::DeviceRow>(upload(device_rows));
    step_.global_table = step_.sliding_table = keep<int32_t>(upload(table));
    step_.n_rows = n_rows;
    step_.n_tokens = n_rows * length;
    pool_ = cuda::make_kv_pool_cuda(int(table.size()), kLayers, shape.n_kv_heads, shape.head_dim);
    const std::vector<bf16> values = noise(pool_->bytes / 2);
    cuda::check(cudaMemcpy(static_cast<cuda::KvPoolCuda&>(*pool_).buffer.data(), values.data(), pool_->bytes, cudaMemcpyHostToDevice), "upload");
    q_ = upload(noise(size_t(step_.n_tokens) * shape.n_heads * shape.head_dim));
    out_ = cuda::allocate_device(q_.bytes());
  }

  /// Seconds of one layer.
  double measure(int window, PrefillTiles tiles, int repeat) {
    cudaEvent_t begin, end;
    cuda::check(cudaEventCreate(&begin), "event");
    cuda::check(cudaEventCreate(&end), "event");
    for (int i = 0; i < repeat + 3; i++) {
      if (i == 3) cuda::check(cudaEventRecord(begin, nullptr), "event");
      run(i % kLayers, window, tiles);
    }
    cuda::check(cudaEventRecord(end, nullptr), "event");
    cuda::check(cudaEventSynchronize(end), "attention");
    float ms = 0;
    cuda::check(cudaEventElapsedTime(&ms, begin, end), "event");
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return double(ms) / repeat * 1e-3;
  }

  double useful_operations(int window) const {
    double seen = 0;
    for (int t = 0; t < length_; t++) seen += window ? std::min(t + 1, window) : t + 1;
    return seen * double(rows_.size()) * shape_.n_heads * shape_.head_dim * 4;
  }

 private:
  template <class T>
  const T* keep(Buffer buffer) {
    buffers_.push_back(std::move(buffer));
    return static_cast<const T*>(buffers_.back().data());
  }
  void run(int layer, int window, PrefillTiles tiles) {
    const int64_t T = step_.n_tokens, width = shape_.n_heads * shape_.head_dim;
    cuda::attention_prefill_cuda({out_.data(), DType::kBF16, T, width, width}, {q_.data(), DType::kBF16, T, width, width},
                                 {pool_.get(), layer, window > 0, shape_.n_heads, shape_.n_kv_heads, shape_.head_dim,
                                  1.0f / std::sqrt(float(shape_.head_dim)), window, rows_},
                                 step_, nullptr, tiles);
  }

  AttentionShape shape_;
  int length_;
  std::vector<BatchRow> rows_;
  cuda::StepData step_{};
  std::vector<Buffer> buffers_;
  std::unique_ptr<KvPool> pool_;
  Buffer q_, out_;
};

struct Layers {
  const char* name;
  AttentionShape shape;
  int n_sliding, n_global;
};

void bench(const Layers& model, int n_rows, int length, double peak, int repeat) {
  PrefillStep step(model.shape, n_rows, length);
  for (PrefillTiles tiles : {PrefillTiles::kNarrow, PrefillTiles::kWide, PrefillTiles::kBest}) {
    const char* name = tiles == PrefillTiles::kNarrow ? "64 rows" : tiles == PrefillTiles::kWide ? "128 rows" : "chosen";
    std::printf("%-5s %d x %-5d %-8s", model.name, n_rows, length, name);
    double total = 0;
    for (int window : {model.shape.window, 0}) {
      const double seconds = step.measure(window, tiles, repeat), tflops = step.useful_operations(window) / seconds * 1e-12;
      total += seconds * (window ? model.n_sliding : model.n_global);
      std::printf("  %s %8.1f us %6.1f TFLOP/s (%4.1f %%)", window ? "window" : "global", seconds * 1e6, tflops, 100 * tflops / peak);
    }
    std::printf("  all layers %.2f ms\n", total * 1e3);
  }
}

}  // namespace
#endif

int main(int argc, char** argv) {
  try {
    const Arguments arguments(argc, argv, {{"peak", "989"}, {"repeat", "20"}});
    if (cuda_devices().empty()) {
      std::printf("skipped: %s\n", cuda_built() ? "no GPU here" : "built without CUDA");
      return 0;
    }
#if defined(LORIKEET_CUDA_BUILT)
    std::printf("%s, peak taken as %s TFLOP/s\n", cuda_devices()[0].c_str(), arguments.text("peak").c_str());
    const Layers shapes[] = {{"1b", {4, 1, 256, 512}, 22, 4}, {"4b", {8, 4, 256, 1024}, 29, 5}, {"27b", {32, 16, 128, 1024}, 52, 10}};
    for (const Layers& model : shapes)
      for (const auto& [n_rows, length] : {std::pair{1, 512}, {1, 2048}, {4, 2048}, {1, 8192}})
        bench(model, n_rows, length, arguments.real("peak"), arguments.number("repeat"));
#endif
  } catch (const Error& e) {
    std::printf("%s: %s\n", e.code(), e.what());
    return 1;
  }
  return 0;
}
