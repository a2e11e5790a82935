#include "forward.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace lorikeet {

namespace {

/// Bytes of a workspace's buffers, in the order of its members.
std::array<size_t, 11> workspace_sizes(const Backend& backend, const Gemma3Config& c, int max_tokens, int max_outputs) {
  const size_t T = size_t(max_tokens), act = size_of(backend.act_dtype()), projected = size_of(backend.projected_dtype());
  const size_t H = size_t(c.hidden_size), I = size_t(c.intermediate_size), q = size_t(c.q_dim()), D = size_t(c.head_dim);
  return {T * H * 4, T * H * 4, T * H * act,
          T * std::max((q + 2 * c.kv_dim()) * projected, H * 4),  // in the end the outputs' stream
          T * q * act, T * q * act, T * 2 * I * projected, T * I * act, T * D * 4, T * D * 4, size_t(max_outputs) * c.vocab_size * 4};
}

}  // namespace

Workspace::Workspace(Backend& backend, const Gemma3Config& c, int max_tokens, int max_outputs)
    : max_tokens(max_tokens), max_outputs(max_outputs) {
  Buffer* buffers[] = {&x, &y, &normed, &qkv, &q, &attended, &gate_up, &inner, &rope_local, &rope_global, &scores};
  const auto sizes = workspace_sizes(backend, c, max_tokens, max_outputs);
  for (size_t i = 0; i < sizes.size(); i++) {
    *buffers[i] = backend.allocate(sizes[i]);
    bytes += sizes[i];
  }
}

size_t Workspace::bytes_for(const Backend& backend, const Gemma3Config& c, int max_tokens, int max_outputs) {
  const auto sizes = workspace_sizes(backend, c, max_tokens, max_outputs);
  return std::accumulate(sizes.begin(), sizes.end(), size_t{0});
}

float attention_scale(const Gemma3Config& c) { return 1.0f / std::sqrt(c.query_pre_attn_scalar); }

int attention_window(const Weights& weights, int layer) { return weights.layers[layer].is_global ? 0 : weights.config.sliding_window; }

const float* norm_after(const Weights& weights, int layer) {
  return layer + 1 == weights.config.n_layers ? weights.final_norm : weights.layers[layer + 1].input_layernorm;
}

void LayerForward::project_qkv(int i) {
  project(qkv_, normed_, *weights_.layers[i].qkv_proj, i, {Module::q_proj, Module::k_proj, Module::v_proj});
}

void LayerForward::project_attended(int i) { project(y_, attended_, *weights_.layers[i].o_proj, i, {Module::o_proj}); }

void LayerForward::mlp(int i) {
  project(gate_up_, normed_, *weights_.layers[i].gate_up_proj, i, {Module::gate_proj, Module::up_proj});
  backend_.geglu(inner_, gate_up_);
  project(y_, inner_, *weights_.layers[i].down_proj, i, {Module::down_proj});
}

void LayerForward::add_to_stream(const float* post_w, const float* next_w) {
  backend_.residual_rmsnorm(normed_, x_, y_, post_w, next_w, c_.rms_norm_eps);
}

void LayerForward::fill_rope_tables(Tensor local, Tensor global, std::span<const int32_t> positions) {
  backend_.rope_table(local, positions, c_.rope_theta_local, 1.0f);
  backend_.rope_table(global, positions, c_.rope_theta_global, c_.rope_scaling_factor);
}

namespace {

/// One pass over the layers. The tensors shrink once: at the last layer, to the rows of the outputs.
class Pass : LayerForward {
 public:
  Pass(Backend& backend, const Weights& weights, const AdapterSlots& slots, KvPools& pools, Workspace& ws, const Batch& batch)
      : LayerForward(backend, weights), slots_(slots), pools_(pools), ws_(ws), batch_(batch), runs_(adapter_runs(batch.rows, slots)) {
    shape(batch.n_tokens());
    x_ = ws.view(ws.x, DType::kF32, batch.n_tokens(), c_.hidden_size);
  }

  Tensor run(const HiddenTap& tap) {
    const int64_t T = batch_.n_tokens();
    const Tensor rope_local = ws_.view(ws_.rope_local, DType::kF32, T, c_.head_dim), rope_global = ws_.view(ws_.rope_global, DType::kF32, T, c_.head_dim);
    backend_.embed(x_, batch_.token_ids, *weights_.embedding, weights_.embed_scale, edge_segments(runs_));
    fill_rope_tables(rope_local, rope_global, batch_.positions);
    backend_.rmsnorm(normed_, x_, weights_.layers[0].input_layernorm, c_.rms_norm_eps);
    for (int i = 0; i < c_.n_layers; i++) {
      const LayerWeights& w = weights_.layers[i];
      if (tap) tap(i, x_);
      const bool last = i + 1 == c_.n_layers;
      project_qkv(i);
      append_keys(i, w.is_global ? rope_global : rope_local);
      if (last && batch_.outputs.empty()) return normed_.row_range(0, 0);
      attend(i);
      if (last) keep_outputs();
      project_attended(i);
      add_to_stream(w.post_attention_layernorm, w.pre_feedforward_layernorm);
      mlp(i);
      add_to_stream(w.post_feedforward_layernorm, norm_after(weights_, i));
    }
    if (tap) tap(c_.n_layers, x_);
    return normed_;
  }

 private:
  void shape(int64_t n) {
    const DType act = backend_.act_dtype(), projected = backend_.projected_dtype();
    y_ = ws_.view(ws_.y, DType::kF32, n, c_.hidden_size);
    normed_ = ws_.view(ws_.normed, act, n, c_.hidden_size);
    qkv_ = ws_.view(ws_.qkv, projected, n, c_.q_dim() + 2 * c_.kv_dim());
    q_ = ws_.view(ws_.q, act, n, c_.q_dim());
    attended_ = ws_.view(ws_.attended, act, n, c_.q_dim());
    gate_up_ = ws_.view(ws_.gate_up, projected, n, 2 * c_.intermediate_size);
    inner_ = ws_.view(ws_.inner, act, n, c_.intermediate_size);
  }

  void project(Tensor out, Tensor in, const Linear& w, int layer, std::initializer_list<Module> modules) override {
    std::vector<LoraPart> parts;
    if (!runs_.empty())
      for (Module m : modules) parts.push_back({module_place(weights_, layer, m).row_begin, lora_segments(runs_, layer, m)});
    backend_.linear(out, in, w, parts);
  }

  KvPool& pool_of(int layer) { return weights_.layers[layer].is_global ? *pools_.global : *pools_.sliding; }

  void append_keys(int i, Tensor rope) {
    const LayerWeights& w = weights_.layers[i];
    backend_.qk_norm_rope_append(q_, {qkv_, rope, w.q_norm, w.k_norm, c_.rms_norm_eps, c_.n_heads, c_.n_kv_heads, c_.head_dim, &pool_of(i),
                                      w.pool_layer, !w.is_global, batch_.rows});
  }

  void attend(int i) {
    const LayerWeights& w = weights_.layers[i];
    backend_.attention(attended_, q_, {&pool_of(i), w.pool_layer, !w.is_global, c_.n_heads, c_.n_kv_heads, c_.head_dim,
                                       attention_scale(c_), attention_window(weights_, i), batch_.rows});
  }

  /// From here on row s is output s. The queries' and qkv's memory is free by now.
  void keep_outputs() {
    const int64_t S = int64_t(batch_.outputs.size());
    std::vector<int32_t> tokens;
    for (const BatchOutput& o : batch_.outputs) tokens.push_back(o.token);
    const Tensor kept_x = ws_.view(ws_.qkv, DType::kF32, S, c_.hidden_size), kept = ws_.view(ws_.q, backend_.act_dtype(), S, c_.q_dim());
    backend_.gather_rows(kept_x, x_, tokens);
    backend_.gather_rows(kept, attended_, tokens);
    runs_ = output_runs(batch_, slots_);
    shape(S);
    x_ = kept_x;
    attended_ = kept;
  }

  const AdapterSlots& slots_;
  KvPools& pools_;
  Workspace& ws_;
  const Batch& batch_;
  std::vector<AdapterRun> runs_;
  Tensor q_;
};

}  // namespace

Tensor forward(Backend& backend, const Weights& weights, const AdapterSlots& slots, KvPools& pools, Workspace& ws, const Batch& batch,
               const HiddenTap& tap) {
  if (!tap && !batch.outputs.empty()) {
    const Tensor hidden = ws.view(ws.normed, backend.act_dtype(), int64_t(batch.outputs.size()), weights.config.hidden_size);
    if (backend.decode(hidden, weights, slots, pools, batch)) return hidden;
  }
  backend.begin_step(batch);
  backend.clock().enter(StepPart::kLayers);
  return Pass(backend, weights, slots, pools, ws, batch).run(tap);
}

Scores score_outputs(Backend& backend, const Weights& weights, const AdapterSlots& slots, Workspace& ws, const Batch& batch, int begin,
                     Tensor hidden, std::vector<EdgeSegment>& edges, const SequenceTable* table) {
  const int64_t S = hidden.rows;
  Scores scores;
  scores.values = ws.view(ws.scores, DType::kF32, S, weights.config.vocab_size);
  scores.hidden = hidden;
  edges.clear();
  edges.reserve(size_t(S));
  for (int s = 0; s < S; s++) {
    const BatchOutput& output = batch.outputs[begin + s];
    const BatchRow& row = batch.rows[output.row];
    const DeviceAdapter* adapter = slots.at(row.adapter);
    if (adapter && adapter->changes_edges()) edges.push_back(head_edge(*adapter, s));
    const EdgeSegment* edge = adapter && adapter->changes_edges() ? &edges.back() : nullptr;
    scores.edges.push_back(edge);
    scores.heads.push_back(edge && edge->head ? edge->head : weights.head.get());
    scores.greedy.push_back(table && output.target < 0 && output.n_logprobs < 0 && (*table)[row.slot].sampling.temperature <= 0);
  }
  backend.logits(scores);
  return scores;
}

}  // namespace lorikeet
