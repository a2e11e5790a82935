// One block a multiprocessor stays for all layers of a step. Every warp of it has the same columns of the residual stream in every layer
// and keeps them, for all tokens, in shared memory: a norm's sums are all that a block's warps tell each other about it. Weights stream in
// as resident_stages.h says, values travel between blocks as decode_exchange.h says. A layer is
//   norm, qkv | attention (| merging of its splits) | o | norm, gate and up, GEGLU | down
// and every bar is one such exchange. The words of a step are emptied during the next of as many tokens: there are two sets in turn.
#include <algorithm>
#include <bit>

#include "ops.h"
#include "resident_block.h"
#include "weights.h"

namespace lorikeet::cuda {
namespace {

template <int T, int KT, int N, int G>
__global__ void __launch_bounds__((N + 1) * kWarp, 1) resident_kernel(const __grid_constant__ ResidentArgs p) {
#if __CUDA_ARCH__ >= 900
  Block<T, KT, N, G>(p).run();
#endif
}

// What the kernel is built for: tiles of columns a warp, warps, query heads of a kv head. 4b would be <2, 20, 2>: it has been timed, but
// its answers have not been compared with the CPU's.
template <int KT, int N, int G>
struct Build {
  static constexpr int kWarps = N, kTiles = KT, kGroup = G, kMostTokens = N * KT <= 18 ? 8 : 4;
  /// Whether the device runs code of 9.0 or later: code of earlier ones, compiled again by the driver, has an empty kernel.
  static bool has_code() {
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, resident_kernel<1, KT, N, G>), "the resident kernel's code");
    return attributes.ptxVersion >= 90;
  }
  template <int T>
  static void launch_for(const ResidentArgs& p, int n_blocks, cudaStream_t stream) {
    constexpr auto kernel = resident_kernel<T, KT, N, G>;
    allow_shared<kernel>();
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeCooperative;  // all blocks at once or an error
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(unsigned(n_blocks));
    config.blockDim = dim3((N + 1) * kWarp);
    config.dynamicSmemBytes = BlockPlan<T, KT, N, G>::kBytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    check(cudaLaunchKernelEx(&config, kernel, p), "launch of the resident kernel");
  }
  static void launch(int n_tokens, const ResidentArgs& p, int n_blocks, cudaStream_t stream) {
    switch (n_tokens) {
      case 1:
        return launch_for<1>(p, n_blocks, stream);
      case 2:
        return launch_for<2>(p, n_blocks, stream);
      case 4:
        return launch_for<4>(p, n_blocks, stream);
      default:
        if constexpr (kMostTokens >= 8) return launch_for<8>(p, n_blocks, stream);
    }
  }
};

using Of270m = Build<1, 10, 4>;
using Of1b = Build<1, 18, 4>;

int attribute_of_device(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

/// Index of the sets of 1, 2, 4 or 8 tokens.
int set_of(int n_tokens) { return std::bit_width(unsigned(n_tokens)) - 1; }

}  // namespace
/// Models that there is a kernel for.
std::unique_ptr<Resident> Resident::make(const Weights& weights) {
  const Gemma3Config& c = weights.config;
  const int n = attribute_of_device(cudaDevAttrMultiProcessorCount);
  if (c.head_dim != 256 || !attribute_of_device(cudaDevAttrCooperativeLaunch)) return nullptr;
  if (c.n_layers > kMostLayers || attribute_of_device(cudaDevAttrMaxSharedMemoryPerBlockOptin) < kMostSharedBytes) return nullptr;
  auto r = std::unique_ptr<Resident>(new Resident);
  r->weights_ = &weights;
  r->n_blocks_ = n;
  const auto take = [&]<class Built>(Built) {
    if (c.hidden_size != Built::kWarps * Built::kTiles * kTileCols || c.n_heads != c.n_kv_heads * Built::kGroup) return;
    if (!Built::has_code()) return;
    if (n < Built::kMostTokens * c.n_kv_heads) return;  // a block takes one token and kv head at most
    r->launch_ = Built::launch;
    r->most_tokens_ = Built::kMostTokens;
  };
  take(Of270m{});
  take(Of1b{});
  if (!r->launch_) return nullptr;

  std::vector<ResidentLayer> layers(size_t(c.n_layers) + 1);
  for (int i = 0; i < c.n_layers; i++) {
    const LayerWeights& w = weights.layers[i];
    ResidentLayer& l = layers[i];
    const std::unique_ptr<Linear>* linears[] = {&w.qkv_proj, &w.o_proj, &w.gate_up_proj, &w.down_proj};
    for (int m = 0; m < 4; m++) {
      const auto& linear = static_cast<const LinearCuda&>(**linears[m]);
      l.tiles[m] = static_cast<const uint4*>(linear.data.data());
      l.scales[m] = static_cast<const float*>(linear.scales.data());
    }
    l.norms[1] = w.input_layernorm;
    l.norms[2] = w.post_attention_layernorm;
    l.norms[3] = w.pre_feedforward_layernorm;
    layers[i + 1].norms[0] = w.post_feedforward_layernorm;
    l.q_norm = w.q_norm;
    l.k_norm = w.k_norm;
    l.pool_layer = w.pool_layer;
    l.sliding = !w.is_global;
  }
  layers.back().norms[1] = weights.final_norm;
  r->layers_ = allocate_device(layers.size() * sizeof(ResidentLayer));
  upload_device(r->layers_.data(), layers.data(), layers.size() * sizeof(ResidentLayer), "upload of the layers' places");
  for (int T = 1; T <= r->most_tokens_; T *= 2) {
    const size_t bytes = 2 * size_t(c.n_layers) * size_t(r->places(T).end) * 4;
    Buffer& memory = r->sets_[set_of(T)].memory = allocate_device(bytes);
    check(cudaMemset(memory.data(), 0xff, bytes), "emptying of the exchange");
  }
  check(cudaDeviceSynchronize(), "emptying of the exchange");
  return r;
}

int Resident::most_splits(int n_tokens) const {
  return std::min(64, int(std::bit_floor(unsigned(std::max(1, n_blocks_ / (n_tokens * weights_->config.n_kv_heads))))));
}

ExchangePlaces Resident::places(int n_tokens) const {
  const Gemma3Config& c = weights_->config;
  const int T = n_tokens, splits = most_splits(T);
  ExchangePlaces at{};
  int end = 0;
  const auto take = [&](int words) {
    const int begin = end;
    end += (words + 3) / 4 * 4;
    return begin;
  };
  at.qkv = take(T * int(c.q_dim() + 2 * c.kv_dim()));
  at.stats = take(T * splits * c.n_heads * 2);
  at.attended = take(T * int(c.q_dim()) / 2);
  at.mid = take(T * int(c.hidden_size));
  at.inner = take(T * int(c.intermediate_size) / 2);
  at.out = take(T * int(c.hidden_size));
  at.sums = take(splits * T * int(c.q_dim()));
  at.end = end;
  return at;
}

/// Splits of about 64 keys; more of a long context, as far as there are blocks.
Resident::Shape Resident::shape_of(int n_tokens, int longest) const {
  if (n_tokens > most_tokens_) return {};
  const int T = int(std::bit_ceil(unsigned(n_tokens))), most = most_splits(T), few = std::min(most, T == 1 ? 8 : 16);
  return {T, few, longest > 1024 ? most : few};
}

void Resident::begin(const Shape& shape, DecodeStep& step) {
  Sets& sets = sets_[set_of(shape.n_tokens)];
  step.set = sets.turn;
  std::copy_n(sets.splits[sets.turn ^ 1], 2, step.used_splits);
}

void Resident::queued(const Shape& shape) {
  Sets& sets = sets_[set_of(shape.n_tokens)];
  sets.splits[sets.turn][0] = shape.n_splits_sliding;
  sets.splits[sets.turn][1] = shape.n_splits_global;
  sets.turn ^= 1;
}

void Resident::launch(const Shape& shape, ResidentArgs args, cudaStream_t stream) {
  const Gemma3Config& c = weights_->config;
  args.layers = static_cast<const ResidentLayer*>(layers_.data());
  args.n_layers = c.n_layers;
  args.exchange = static_cast<float*>(sets_[set_of(shape.n_tokens)].memory.data());
  args.places = places(shape.n_tokens);
  args.q_tiles = int(c.q_dim() / kTileCols);
  args.i_tiles = int(c.intermediate_size / kTileCols);
  args.n_heads = c.n_heads;
  args.n_kv_heads = c.n_kv_heads;
  args.eps = c.rms_norm_eps;
  args.scale = attention_scale(c);
  args.attention[0].window = c.sliding_window;
  args.attention[0].n_splits = shape.n_splits_sliding;
  args.attention[1].n_splits = shape.n_splits_global;
  launch_(shape.n_tokens, args, n_blocks_, stream);
}

}  // namespace lorikeet::cuda
