#include "decode.h"

#include <algorithm>

#include "../core/lora.h"
#include "decode_attention.h"
#include "decode_ends.h"
#include "decode_gemm.h"
#include "ops.h"
#include "weights.h"

namespace lorikeet::cuda {
namespace {

constexpr int kTokenBuckets[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 40, 48, 56, 64};
constexpr int kGroupBuckets[] = {1, 2, 4, 8, 16, 32, 64};
constexpr int kMostSplits = 32, kSites = 4;
constexpr int kMostParts = 256;  // splits x tokens

template <size_t N>
int bucket(const int (&buckets)[N], int n) {
  return *std::lower_bound(buckets, buckets + N - 1, n);
}

/// Enough blocks to fill the device, fewer where the next product merges them in every block; more where a context is long.
int splits_for(int n_tokens, int n_kv_heads, int longest) {
  const int wanted = n_tokens <= kRowsInShared ? (longest > 2048 ? 64 : 8) : 256;
  int splits = 1;
  while (splits * 2 <= kMostSplits && splits * 2 * n_tokens * n_kv_heads <= wanted && splits * 2 * n_tokens <= kMostParts) splits *= 2;
  return splits;
}

bool has_tiles(const std::unique_ptr<Linear>& linear) {
  const auto& w = static_cast<const LinearCuda&>(*linear);
  return w.tiled() && w.cols % 64 == 0;
}

/// What the fused kernels are built for; other models take the ops one by one.
bool fits(const Weights& weights) {
  const Gemma3Config& c = weights.config;
  if (c.hidden_size % 64 || c.hidden_size > 6144 || c.q_dim() % 64 || c.intermediate_size % 64 ||
      !decode_attention_has(c.n_heads, c.n_kv_heads, c.head_dim))
    return false;
  return std::all_of(weights.layers.begin(), weights.layers.end(), [](const LayerWeights& l) {
    return has_tiles(l.qkv_proj) && has_tiles(l.o_proj) && has_tiles(l.gate_up_proj) && has_tiles(l.down_proj);
  });
}

bool takes(const AdapterSlots& slots, const Batch& batch) {
  if (batch.n_tokens() > kDecodeTokens || batch.outputs.size() > size_t(batch.n_tokens())) return false;
  for (const BatchRow& row : batch.rows) {
    if (row.length() != 1) return false;
    const DeviceAdapter* adapter = slots.at(row.adapter);
    if (adapter && !static_cast<const AdapterIndexCuda&>(*adapter->index).fused) return false;
  }
  return true;
}

}  // namespace

/// Sized for kDecodeTokens of one model.
struct Decode::Memory {
  Buffer x[2], y, y_squares, qkv, rope_local, rope_global, part_sums, part_stats, normed, attended, inner, shrunk, counters;
  Buffer step;              // DecodeStep, then the rows' tables
  void* staging = nullptr;  // pinned, as large
  int n_counters = 0;

  explicit Memory(const Gemma3Config& c) {
    const size_t T = kDecodeTokens, H = size_t(c.hidden_size);
    for (Buffer& b : x) b = allocate_device(T * H * 4);
    y = allocate_device(T * H * 4);
    y_squares = allocate_device(T * H / 8 * 4);
    qkv = allocate_device(T * (c.q_dim() + 2 * c.kv_dim()) * 4);
    rope_local = allocate_device(T * c.head_dim * 4);
    rope_global = allocate_device(T * c.head_dim * 4);
    part_sums = allocate_device(size_t(kMostParts) * c.q_dim() * 4);
    part_stats = allocate_device(size_t(kMostParts) * c.n_heads * sizeof(float2));
    normed = allocate_device(fragment_bytes(kDecodeTokens, c.hidden_size));
    attended = allocate_device(fragment_bytes(kDecodeTokens, c.q_dim()));
    inner = allocate_device(fragment_bytes(kDecodeTokens, c.intermediate_size));
    shrunk = allocate_device(size_t(kShrinkPieces) * kModulesOfSite * kDecodeTokens * kDecodeRank * 4);
    n_counters = c.n_layers * kSites * 2;
    counters = allocate_device(size_t(n_counters) * 4);
  }
  ~Memory() {
    if (staging) cudaFreeHost(staging);
  }

  const DecodeStep* device_step() const { return static_cast<const DecodeStep*>(step.data()); }
  const int32_t* tables() const { return reinterpret_cast<const int32_t*>(static_cast<char*>(step.data()) + sizeof(DecodeStep)); }
};

Decode::Decode(bool overlaps, cudaStream_t stream) : overlaps_(overlaps), stream_(stream) {}

Decode::~Decode() { drop_graphs(); }

void Decode::drop_graphs() {
  for (auto& [shape, graph] : graphs_)
    if (graph.exec) cudaGraphExecDestroy(graph.exec);
  graphs_.clear();
}

void Decode::prepare(const Weights& weights) {
  if (weights_ == &weights) return;
  drop_graphs();
  memory_.reset();
  resident_.reset();
  usable_ = fits(weights);
  if (usable_) memory_ = std::make_unique<Memory>(weights.config);
  weights_ = &weights;
  if (!usable_ || !overlaps_) return;
  try {
    resident_ = Resident::make(weights);
  } catch (const Error& e) {
    if (std::string_view(e.code()) != "OUT_OF_MEMORY") throw;  // else steps go the other way
  }
}

/// Fills and uploads the step's data. @returns what the step needs a graph of.
Decode::Shape Decode::write_step(const Weights& weights, const AdapterSlots& slots, const KvPools& pools, const Batch& batch) {
  Memory& m = *memory_;
  size_t n_entries = 0;
  for (const BatchRow& row : batch.rows) n_entries += size_t(row.n_global + row.n_sliding);
  const size_t need = sizeof(DecodeStep) + n_entries * 4;
  check(cudaStreamSynchronize(stream_), "step");  // the last step has read its data
  if (m.step.bytes() < need || !m.staging) {
    drop_graphs();  // they know the address
    if (m.staging) cudaFreeHost(m.staging);
    m.staging = nullptr;
    m.step = allocate_device(std::max<size_t>(need * 2, 1 << 18));
    check(cudaMallocHost(&m.staging, m.step.bytes()), "pinned memory of a step");
  }
  auto& step = *static_cast<DecodeStep*>(m.staging);
  auto* tables = reinterpret_cast<int32_t*>(static_cast<char*>(m.staging) + sizeof(DecodeStep));
  const int T = batch.n_tokens();
  int at = 0, longest = 0;
  std::fill_n(step.positions, kDecodeTokens, -1);
  std::fill_n(step.out_tokens, kDecodeTokens, -1);
  std::fill_n(step.group_of, kDecodeTokens, -1);
  std::fill_n(step.token_ids, kDecodeTokens, 0);
  for (int t = 0; t < T; t++) {
    const BatchRow& row = batch.rows[t];
    step.token_ids[t] = batch.token_ids[t];
    step.positions[t] = row.position;
    step.rows[t] = {t, t + 1, row.position, at, at + row.n_global, row.sliding_first};
    std::copy_n(row.global_blocks, row.n_global, tables + at);
    std::copy_n(row.sliding_blocks, row.n_sliding, tables + at + row.n_global);
    at += row.n_global + row.n_sliding;
    longest = std::max(longest, row.position + 1);
  }
  for (size_t s = 0; s < batch.outputs.size(); s++) step.out_tokens[s] = batch.outputs[s].token;
  int n_groups = 0, rank_tiles = 0;
  for (const AdapterRun& run : adapter_runs(batch.rows, slots)) {
    const auto& index = static_cast<const AdapterIndexCuda&>(*run.adapter->index);
    step.groups[n_groups] = {static_cast<const DevicePair*>(index.pairs.data()),
                             static_cast<const int32_t*>(index.row_ids.data()),
                             index.rows,
                             index.n_row_ids,
                             run.begin,
                             run.end};
    std::fill(step.group_of + run.begin, step.group_of + run.end, n_groups++);
    rank_tiles = std::max(rank_tiles, index.rank_tiles);
  }
  step.n_groups = n_groups;
  step.rank_tiles = rank_tiles;
  const Resident::Shape resident = resident_ ? resident_->shape_of(T, longest, n_groups > 0) : Resident::Shape{};
  if (resident.n_tokens) resident_->begin(resident, step);
  check(cudaMemcpyAsync(m.step.data(), m.staging, need, cudaMemcpyHostToDevice, stream_), "upload of a step");
  const int tokens = resident.n_tokens ? resident.n_tokens : bucket(kTokenBuckets, T);
  if (rank_tiles == 3) rank_tiles = 4;
  return {static_cast<const KvPoolCuda&>(*pools.global).buffer.data(),
          static_cast<const KvPoolCuda&>(*pools.sliding).buffer.data(),
          tokens,
          std::min(tokens, bucket(kTokenBuckets, int(batch.outputs.size()))),
          resident.n_tokens ? 0 : splits_for(tokens, weights.config.n_kv_heads, longest),
          n_groups && !resident.n_tokens ? bucket(kGroupBuckets, n_groups) : 0,
          n_groups && !resident.n_tokens ? std::max(rank_tiles, 1) : 0,
          resident};
}

bool Decode::run(Tensor hidden, const Weights& weights, const AdapterSlots& slots, KvPools& pools, const Batch& batch) {
  if (!takes(slots, batch)) return false;
  prepare(weights);
  if (!usable_) return false;
  if (hidden_ != hidden.data) drop_graphs();
  hidden_ = hidden.data;
  const Shape shape = write_step(weights, slots, pools, batch);
  if (clock) clock->enter(StepPart::kLayers);
  Graph& graph = graphs_[shape];
  if (graph.uses++ == 0) {  // a size seen once is not worth a capture, and kernels are loaded outside of one
    launch(shape, hidden, weights, pools);
    plain++;
    if (shape.resident.n_tokens) resident_->queued(shape.resident);
    return true;
  }
  (graph.exec ? hits : captures)++;
  if (!graph.exec) {
    cudaGraph_t captured;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
    try {
      launch(shape, hidden, weights, pools);
    } catch (...) {
      cudaStreamEndCapture(stream_, &captured);
      throw;
    }
    check(cudaStreamEndCapture(stream_, &captured), "capture");
    const cudaError_t status = cudaGraphInstantiate(&graph.exec, captured, 0);
    cudaGraphDestroy(captured);
    check(status, "cudaGraphInstantiate");
  }
  check(cudaGraphLaunch(graph.exec, stream_), "cudaGraphLaunch");
  if (shape.resident.n_tokens) resident_->queued(shape.resident);
  return true;
}

namespace {

template <class T = float>
T* as(const Buffer& b) {
  return static_cast<T*>(b.data());
}

GemmArgs product(const std::unique_ptr<Linear>& linear, int n_tokens, int halves = 1) {
  const auto& w = static_cast<const LinearCuda&>(*linear);
  GemmArgs p{};
  p.tiles = as<const uint4>(w.data);
  p.scales = as<const float>(w.scales);
  p.k_tiles = int(w.cols / 64);
  p.row_tiles = int(w.rows / 16 / halves);
  p.n_tokens = n_tokens;
  return p;
}

}  // namespace

void Decode::launch(const Shape& shape, Tensor hidden, const Weights& weights, KvPools& pools) {
  const Memory& m = *memory_;
  const Gemma3Config& c = weights.config;
  begin_decode({m.device_step(), static_cast<const EmbeddingCuda&>(*weights.embedding).table(), as(m.x[0]), as(m.rope_local),
                as(m.rope_global), c.rope_theta_local, c.rope_theta_global, c.rope_scaling_factor, weights.embed_scale, c.hidden_size,
                c.head_dim, shape.n_tokens, as<int>(m.counters), m.n_counters},
               stream_);
  if (shape.resident.n_tokens) return launch_resident(shape, hidden, pools);
  for (int i = 0; i < c.n_layers; i++) launch_layer(i, shape, weights, pools);
  norm_to_rows(nv(hidden.b16()), shape.n_outputs,
               {as(m.x[shape.n_tokens <= kRowsInShared]), as(m.y), as(m.y_squares), weights.layers.back().post_feedforward_layernorm,
                weights.final_norm, c.rms_norm_eps, c.hidden_size, shape.n_tokens},
               m.device_step(), overlaps_, stream_);
}

void Decode::launch_resident(const Shape& shape, Tensor hidden, KvPools& pools) {
  const Memory& m = *memory_;
  ResidentArgs args{};
  args.step = m.device_step();
  args.tables = m.tables();
  args.x = as(m.x[0]);
  args.hidden = nv(hidden.b16());
  args.n_outputs = shape.n_outputs;
  for (const bool global : {false, true}) {
    ResidentAttention& a = args.attention[global];
    a.rope = as(global ? m.rope_global : m.rope_local);
    a.pool = view(global ? *pools.global : *pools.sliding, 0);
  }
  resident_->launch(shape.resident, args, stream_);
}

/// Up to kRowsInShared tokens the products norm the stream themselves, so it moves from one x to the other: x[1] is what a layer leaves,
/// x[0] what stands in its middle. More tokens are normed by a kernel of their own, in place, in x[0].
void Decode::launch_layer(int i, const Shape& shape, const Weights& weights, KvPools& pools) {
  const Memory& m = *memory_;
  const Gemma3Config& c = weights.config;
  const LayerWeights& w = weights.layers[i];
  const int T = shape.n_tokens, H = c.hidden_size;
  const bool few = T <= kRowsInShared;
  const auto lora = [&](int site, Module first, std::initializer_list<int> row_begin, int k_tiles) {
    SiteLora l;
    l.step = m.device_step();
    l.first_module = i * kModules + int(first);
    l.n_modules = int(row_begin.size());
    std::copy(row_begin.begin(), row_begin.end(), l.row_begin);
    l.n_groups = shape.n_groups;
    l.rank_tiles = shape.rank_tiles;
    l.pieces = k_tiles > 40 ? kShrinkPieces : 1;
    l.shrunk = as(m.shrunk);
    l.counter = as<int>(m.counters) + (i * kSites + site) * 2;
    return l;
  };
  const auto norm = [&](const float* post_w, const float* next_w) {
    return NormArgs{as(m.x[0]), post_w ? as(m.y) : nullptr, as(m.y_squares), post_w, next_w, c.rms_norm_eps, H, T};
  };
  /// in = rmsnorm of the stream (after the last sublayer's output is added), by the product or before it.
  const auto norm_product = [&](GemmOut out, GemmArgs p, const float* post_w, const float* next_w, int from) {
    if (!few) {
      norm_to_fragments(as<nv_bf16>(m.normed), norm(post_w, next_w), overlaps_, stream_);
      p.fragments = as<const uint4>(m.normed);
      return decode_gemm(GemmIn::kFragments, out, p, overlaps_, stream_);
    }
    p.x = as(m.x[from]);
    p.y = post_w ? as(m.y) : nullptr;
    p.y_squares = as(m.y_squares);
    p.post_w = post_w;
    p.next_w = next_w;
    p.x_out = post_w ? as(m.x[1 - from]) : nullptr;
    p.eps = c.rms_norm_eps;
    decode_gemm(GemmIn::kNorm, out, p, overlaps_, stream_);
  };

  GemmArgs qkv = product(w.qkv_proj, T);
  qkv.out = as(m.qkv);
  qkv.lora = lora(0, Module::q_proj, {0, c.q_dim(), c.q_dim() + c.kv_dim()}, qkv.k_tiles);
  norm_product(GemmOut::kRows, qkv, i ? weights.layers[i - 1].post_feedforward_layernorm : nullptr, w.input_layernorm, i ? 1 : 0);

  const KvPool& pool = w.is_global ? *pools.global : *pools.sliding;
  const DecodeAttentionArgs attention{as(m.qkv),
                                      as(w.is_global ? m.rope_global : m.rope_local),
                                      w.q_norm,
                                      w.k_norm,
                                      c.rms_norm_eps,
                                      attention_scale(c),
                                      c.n_heads,
                                      c.n_kv_heads,
                                      c.head_dim,
                                      attention_window(weights, i),
                                      shape.n_splits,
                                      T,
                                      !w.is_global,
                                      view(pool, w.pool_layer),
                                      m.device_step(),
                                      m.tables(),
                                      as(m.part_sums),
                                      as<float2>(m.part_stats)};
  decode_attention(attention, overlaps_, stream_);

  GemmArgs o = product(w.o_proj, T);
  o.out = as(m.y);
  o.out_squares = as(m.y_squares);
  o.lora = lora(1, Module::o_proj, {0}, o.k_tiles);
  if (few) {
    o.part_sums = as(m.part_sums);
    o.part_stats = as<const float2>(m.part_stats);
    o.n_splits = shape.n_splits;
    o.head_dim = c.head_dim;
    decode_gemm(GemmIn::kCombine, GemmOut::kStream, o, overlaps_, stream_);
  } else {
    combine_attention(as<nv_bf16>(m.attended), attention, overlaps_, stream_);
    o.fragments = as<const uint4>(m.attended);
    decode_gemm(GemmIn::kFragments, GemmOut::kStream, o, overlaps_, stream_);
  }

  GemmArgs gate_up = product(w.gate_up_proj, T, 2);
  gate_up.inner = as<nv_bf16>(m.inner);
  gate_up.lora = lora(2, Module::gate_proj, {0, 0}, gate_up.k_tiles);
  norm_product(GemmOut::kGeglu, gate_up, w.post_attention_layernorm, w.pre_feedforward_layernorm, 0);

  GemmArgs down = product(w.down_proj, T);
  down.fragments = as<const uint4>(m.inner);
  down.out = as(m.y);
  down.out_squares = as(m.y_squares);
  down.lora = lora(3, Module::down_proj, {0}, down.k_tiles);
  decode_gemm(GemmIn::kFragments, GemmOut::kStream, down, overlaps_, stream_);
}

}  // namespace lorikeet::cuda
