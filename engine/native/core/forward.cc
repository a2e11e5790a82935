#include "forward.h"

#include <cmath>

namespace lorikeet {

Workspace::Workspace(Backend& backend, const Gemma3Config& c, int max_tokens, int max_outputs) : max_tokens(max_tokens), max_outputs(max_outputs) {
  const size_t T = size_t(max_tokens), act = size_of(backend.act_dtype());
  const auto take = [&](size_t n) {
    bytes += n;
    return backend.allocate(n);
  };
  x = take(T * c.hidden_size * 4);
  y = take(T * c.hidden_size * 4);
  normed = take(T * c.hidden_size * act);
  qkv = take(T * (c.q_dim() + 2 * c.kv_dim()) * 4);
  q = take(T * c.q_dim() * act);
  attended = take(T * c.q_dim() * act);
  gate_up = take(T * 2 * c.intermediate_size * 4);
  inner = take(T * c.intermediate_size * act);
  rope_local = take(T * c.head_dim * 4);
  rope_global = take(T * c.head_dim * 4);
  hidden = take(size_t(max_outputs) * c.hidden_size * act);
  scores = take(size_t(max_outputs) * c.vocab_size * 4);
}

Tensor forward(Backend& backend, const Weights& weights, const AdapterSlots& slots, KvPools& pools, Workspace& ws, const Batch& batch,
               const HiddenTap& tap) {
  const Gemma3Config& c = weights.config;
  const int64_t T = batch.n_tokens(), H = c.hidden_size, I = c.intermediate_size, q_dim = c.q_dim(), kv_dim = c.kv_dim();
  const DType act = backend.act_dtype();
  const Tensor x = ws.view(ws.x, DType::kF32, T, H), y = ws.view(ws.y, DType::kF32, T, H), normed = ws.view(ws.normed, act, T, H);
  const Tensor qkv = ws.view(ws.qkv, DType::kF32, T, q_dim + 2 * kv_dim);
  const Tensor q = ws.view(ws.q, act, T, q_dim), attended = ws.view(ws.attended, act, T, q_dim);
  const Tensor gate_up = ws.view(ws.gate_up, DType::kF32, T, 2 * I), inner = ws.view(ws.inner, act, T, I);
  const Tensor rope_local = ws.view(ws.rope_local, DType::kF32, T, c.head_dim), rope_global = ws.view(ws.rope_global, DType::kF32, T, c.head_dim);

  const std::vector<AdapterRun> runs = adapter_runs(batch.rows, slots);
  const auto adapt = [&](Tensor out, Tensor in, int layer, Module m) {
    if (!runs.empty()) backend.lora_add(out, in, lora_segments(runs, layer, m));
  };

  backend.embed(x, batch.token_ids, *weights.embedding, weights.embed_scale, edge_segments(runs));
  backend.rope_table(rope_local, batch.positions, c.rope_theta_local, 1.0f);
  backend.rope_table(rope_global, batch.positions, c.rope_theta_global, c.rope_scaling_factor);
  backend.rmsnorm(normed, x, weights.layers[0].input_layernorm, c.rms_norm_eps);

  for (int i = 0; i < c.n_layers; i++) {
    const LayerWeights& w = weights.layers[i];
    KvPool& pool = w.is_global ? *pools.global : *pools.sliding;
    const bool sliding = !w.is_global;
    if (tap) tap(i, x);

    backend.linear(qkv, normed, *w.qkv_proj);
    adapt(qkv.col_range(0, q_dim), normed, i, Module::q_proj);
    adapt(qkv.col_range(q_dim, q_dim + kv_dim), normed, i, Module::k_proj);
    adapt(qkv.col_range(q_dim + kv_dim, q_dim + 2 * kv_dim), normed, i, Module::v_proj);
    backend.qk_norm_rope_append(q, {qkv, sliding ? rope_local : rope_global, w.q_norm, w.k_norm, c.rms_norm_eps, c.n_heads, c.n_kv_heads,
                                    c.head_dim, &pool, w.pool_layer, sliding, batch.rows});
    backend.attention(attended, q, {&pool, w.pool_layer, sliding, c.n_heads, c.n_kv_heads, c.head_dim, 1.0f / std::sqrt(c.query_pre_attn_scalar),
                                    sliding ? c.sliding_window : 0, batch.rows});
    backend.linear(y, attended, *w.o_proj);
    adapt(y, attended, i, Module::o_proj);
    backend.residual_rmsnorm(normed, x, y, w.post_attention_layernorm, w.pre_feedforward_layernorm, c.rms_norm_eps);

    backend.linear(gate_up, normed, *w.gate_up_proj);
    adapt(gate_up.col_range(0, I), normed, i, Module::gate_proj);
    adapt(gate_up.col_range(I, 2 * I), normed, i, Module::up_proj);
    backend.geglu(inner, gate_up);
    backend.linear(y, inner, *w.down_proj);
    adapt(y, inner, i, Module::down_proj);
    const float* next = i + 1 < c.n_layers ? weights.layers[i + 1].input_layernorm : weights.final_norm;
    backend.residual_rmsnorm(normed, x, y, w.post_feedforward_layernorm, next, c.rms_norm_eps);
  }
  if (tap) tap(c.n_layers, x);
  return normed;
}

Scores score_outputs(Backend& backend, const Weights& weights, const AdapterSlots& slots, Workspace& ws, const Batch& batch, Tensor normed,
                     std::vector<EdgeSegment>& edges) {
  const int64_t S = int64_t(batch.outputs.size());
  Scores scores;
  scores.values = ws.view(ws.scores, DType::kF32, S, weights.config.vocab_size);
  scores.hidden = ws.view(ws.hidden, normed.dtype, S, weights.config.hidden_size);
  std::vector<int32_t> tokens;
  edges.clear();
  edges.reserve(size_t(S));
  for (int s = 0; s < S; s++) {
    tokens.push_back(batch.outputs[s].token);
    const DeviceAdapter* adapter = slots.at(batch.rows[batch.outputs[s].row].adapter);
    if (adapter && adapter->changes_edges()) edges.push_back(head_edge(*adapter, s));
    const EdgeSegment* edge = adapter && adapter->changes_edges() ? &edges.back() : nullptr;
    scores.edges.push_back(edge);
    scores.heads.push_back(edge && edge->head ? edge->head : weights.head.get());
  }
  backend.gather_rows(scores.hidden, normed, tokens);
  backend.logits(scores);
  return scores;
}

}  // namespace lorikeet
