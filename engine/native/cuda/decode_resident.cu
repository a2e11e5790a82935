// One block a multiprocessor stays for all layers of a step. Every warp of it has the same columns of the residual stream in every layer
// and keeps them, for all tokens, in shared memory: a norm's sums are all that a block's warps tell each other about it. Weights stream in
// as resident_stages.h says, values travel between blocks as decode_exchange.h says. A layer is
//   norm, qkv | attention (| merging of its splits) | o | norm, gate and up, GEGLU | down
// and every bar is one such exchange. Adapters: A x is more row tiles of a product, for the blocks that have fewer of them, and one
// exchange more; B's part is added to the sums of whoever has the rows (resident_lora.h). The words of a step are emptied during the next
// of as many tokens: there are two sets in turn.
#include <algorithm>
#include <bit>

#include "ops.h"
#include "resident_kernel.h"
#include "weights.h"

namespace lorikeet::cuda {
namespace {

/// Launches of one model's plans.
template <template <int, bool> class PlanOf>
struct Build {
  using One = PlanOf<1, false>;
  static constexpr int kMostTokens = One::kColumnTiles <= 18 ? 8 : 4;
  template <int T>
  static void launch_for(bool adapters, const ResidentArgs& p, int n_blocks, cudaStream_t stream) {
    if (adapters)
      launch_resident<PlanOf<T, true>>(p, n_blocks, stream);
    else
      launch_resident<PlanOf<T, false>>(p, n_blocks, stream);
  }
  static void launch(const Resident::Shape& shape, const ResidentArgs& p, int n_blocks, cudaStream_t stream) {
    switch (shape.n_tokens) {
      case 1:
        return launch_for<1>(shape.adapters, p, n_blocks, stream);
      case 2:
        return launch_for<2>(shape.adapters, p, n_blocks, stream);
      case 4:
        return launch_for<4>(shape.adapters, p, n_blocks, stream);
      default:
        if constexpr (kMostTokens >= 8) return launch_for<8>(shape.adapters, p, n_blocks, stream);
    }
  }
};

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
    using Plan = typename Built::One;
    if (c.hidden_size != Plan::kColumns || c.n_heads != c.n_kv_heads * Plan::G) return;
    if (!has_resident_code<Plan>()) return;
    if (n < Built::kMostTokens * c.n_kv_heads) return;  // a block takes one token and kv head at most
    r->launch_ = Built::launch;
    r->n_warps_ = Plan::kWarps;
    r->most_tokens_ = Built::kMostTokens;
  };
  take(Build<PlanOf270m>{});
  take(Build<PlanOf1b>{});
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
  const auto shrunk = [&](int kind, int modules, int64_t columns) {
    at.shrunk[kind] = take(modules * ceil_div(int(columns / kTileCols), n_warps_) * T * kDecodeRank);
  };
  shrunk(kQkv, 3, c.hidden_size);
  shrunk(kO, 1, c.q_dim());
  shrunk(kGateUp, 2, c.hidden_size);
  shrunk(kDown, 1, c.intermediate_size);
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
Resident::Shape Resident::shape_of(int n_tokens, int longest, bool adapters) const {
  if (n_tokens > most_tokens_) return {};
  const int T = int(std::bit_ceil(unsigned(n_tokens))), most = most_splits(T), few = std::min(most, T == 1 ? 8 : 16);
  return {T, few, longest > 1024 ? most : few, adapters};
}

void Resident::begin(const Shape& shape, DecodeStep& step) {
  Sets& sets = sets_[set_of(shape.n_tokens)];
  step.set = sets.turn;
  std::copy_n(sets.splits[sets.turn ^ 1], 2, step.used_splits);
  step.used_adapters = sets.adapters[sets.turn ^ 1];
}

void Resident::queued(const Shape& shape) {
  Sets& sets = sets_[set_of(shape.n_tokens)];
  sets.splits[sets.turn][0] = shape.n_splits_sliding;
  sets.splits[sets.turn][1] = shape.n_splits_global;
  sets.adapters[sets.turn] = shape.adapters;
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
  launch_(shape, args, n_blocks_, stream);
}

}  // namespace lorikeet::cuda
