#include "tape.h"

#include <numeric>

namespace lorikeet {
namespace {

/// Tensors one after another, each at a 64-byte boundary.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  Tensor take(DType dtype, int64_t rows, int64_t cols) {
    const Tensor t{base_ ? base_ + used_ : nullptr, dtype, rows, cols, cols};
    used_ += (uint64_t(rows * cols) * size_of(dtype) + 63) / 64 * 64;
    return t;
  }
  uint64_t used() const { return used_; }

 private:
  char* base_;
  uint64_t used_ = 0;
};

void take_attention(LayerTape& t, Arena& arena, const Gemma3Config& c, DType act, int rank, int64_t T) {
  const int64_t H = c.hidden_size, q = c.q_dim(), kv = c.kv_dim();
  t.normed = arena.take(act, T, H);
  t.qkv = arena.take(DType::kF32, T, q + 2 * kv);
  t.q = arena.take(act, T, q);
  t.k = arena.take(act, T, kv);
  t.v = arena.take(act, T, kv);
  t.attended = arena.take(act, T, q);
  t.log_sum_exp = arena.take(DType::kF32, T, c.n_heads);
  t.y_attention = arena.take(DType::kF32, T, H);
  t.x_middle = arena.take(DType::kF32, T, H);
  t.normed_mlp = arena.take(act, T, H);
  for (Module m : {Module::q_proj, Module::k_proj, Module::v_proj, Module::o_proj}) t.kept[int(m)] = arena.take(DType::kF32, T, rank);
}

void take_mlp(LayerTape& t, Arena& arena, const Gemma3Config& c, DType act, int rank, int64_t T) {
  t.gate_up = arena.take(DType::kF32, T, 2 * c.intermediate_size);
  t.inner = arena.take(act, T, c.intermediate_size);
  t.y_mlp = arena.take(DType::kF32, T, c.hidden_size);
  for (Module m : {Module::gate_proj, Module::up_proj, Module::down_proj}) t.kept[int(m)] = arena.take(DType::kF32, T, rank);
}

void take_gradients(GradientBuffers& g, Arena& arena, const Gemma3Config& c, DType act, int64_t T) {
  const int64_t H = c.hidden_size, I = c.intermediate_size, q = c.q_dim(), kv = c.kv_dim();
  g.dx = arena.take(DType::kF32, T, H);
  g.dy = arena.take(DType::kF32, T, H);
  g.dnormed = arena.take(DType::kF32, T, H);
  g.dinner = arena.take(DType::kF32, T, I);
  g.dgate_up = arena.take(DType::kF32, T, 2 * I);
  g.dattended = arena.take(DType::kF32, T, q);
  g.dq = arena.take(DType::kF32, T, q);
  g.dk = arena.take(DType::kF32, T, kv);
  g.dv = arena.take(DType::kF32, T, kv);
  g.dqkv = arena.take(DType::kF32, T, q + 2 * kv);
  g.hidden = arena.take(act, T, H);
  g.dhidden = arena.take(DType::kF32, T + 1, H);
}

}  // namespace

TapeLayout lay_out_tape(const Gemma3Config& c, DType act, int rank, Checkpointing policy, int64_t T, void* base) {
  TapeLayout layout;
  Arena arena(base);
  for (int i = 0; i <= c.n_layers; i++) layout.x.push_back(arena.take(DType::kF32, T, c.hidden_size));
  layout.layers.resize(c.n_layers);
  // A half that is computed again has the first layer's memory in every layer.
  for (int i = 0; i < c.n_layers; i++) {
    if (i == 0 || policy != Checkpointing::kLayer) take_attention(layout.layers[i], arena, c, act, rank, T);
    else layout.layers[i] = layout.layers[0];
    if (i == 0 || policy == Checkpointing::kNone) {
      take_mlp(layout.layers[i], arena, c, act, rank, T);
    } else {
      const LayerTape& first = layout.layers[0];
      LayerTape& t = layout.layers[i];
      t.gate_up = first.gate_up;
      t.inner = first.inner;
      t.y_mlp = first.y_mlp;
      for (Module m : {Module::gate_proj, Module::up_proj, Module::down_proj}) t.kept[int(m)] = first.kept[int(m)];
    }
  }
  layout.final_normed = arena.take(act, T, c.hidden_size);
  layout.rope_local = arena.take(DType::kF32, T, c.head_dim);
  layout.rope_global = arena.take(DType::kF32, T, c.head_dim);
  take_gradients(layout.gradients, arena, c, act, T);
  layout.bytes = arena.used();
  return layout;
}

Tape::Tape(Backend& backend, const Gemma3Config& config, int rank, Checkpointing policy, int max_tokens)
    : config_(config), act_(backend.act_dtype()), rank_(rank), policy_(policy), max_tokens_(max_tokens) {
  buffer_ = backend.allocate(lay_out_tape(config, act_, rank, policy, max_tokens, nullptr).bytes);
}

TrainedPair TrainingStep::pair(int layer, Module m) const {
  TrainedPair pair = trained.module(layer, m)->pair;
  const TrainedConfig& c = trained.config();
  pair.dropout = {drops ? c.dropout : 0.0f, c.seed, batch.token_counter, uint32_t(layer * kModules + int(m))};
  return pair;
}

TrainingOps::QkvShape TrainingStep::qkv_shape(int i) const {
  const Gemma3Config& c = config();
  const LayerWeights& w = weights.layers[i];
  return {w.is_global ? tape.rope_global : tape.rope_local, w.q_norm, w.k_norm, c.rms_norm_eps, c.n_heads, c.n_kv_heads, c.head_dim};
}

TrainingOps::AttentionShape TrainingStep::attention_shape(int i) const {
  const Gemma3Config& c = config();
  return {{batch.document_starts}, c.n_heads, c.n_kv_heads, c.head_dim, attention_scale(c), attention_window(weights, i)};
}

TapedForward::TapedForward(TrainingStep& step) : LayerForward(step.backend, step.weights), step_(step), every_row_(step.batch.n_tokens()) {
  std::iota(every_row_.begin(), every_row_.end(), 0);
  const std::vector<int32_t>& starts = step.batch.document_starts;
  for (size_t d = 0; d + 1 < starts.size(); d++)
    for (int32_t t = starts[d]; t < starts[d + 1]; t++) positions_.push_back(t - starts[d]);
}

void TapedForward::embed() {
  fill_rope_tables(step_.tape.rope_local, step_.tape.rope_global, positions_);
  backend_.embed(step_.tape.x[0], step_.batch.token_ids, *weights_.embedding, weights_.embed_scale, step_.trained.embed_edges(step_.batch.n_tokens()));
  normalise(0);
}

void TapedForward::normalise(int i) {
  backend_.rmsnorm(step_.tape.layers[i].normed, step_.tape.x[i], weights_.layers[i].input_layernorm, c_.rms_norm_eps);
}

void TapedForward::attention_half(int i) {
  const LayerWeights& w = weights_.layers[i];
  const LayerTape& t = step_.tape.layers[i];
  normed_ = t.normed;
  qkv_ = t.qkv;
  project_qkv(i);
  step_.ops.qk_norm_rope(t.q, t.k, t.v, t.qkv, step_.qkv_shape(i));
  step_.ops.attention_forward(t.attended, t.log_sum_exp, t.q, t.k, t.v, step_.attention_shape(i));
  attended_ = t.attended;
  y_ = t.y_attention;
  project_attended(i);
  copy(t.x_middle, step_.tape.x[i]);
  x_ = t.x_middle;
  normed_ = t.normed_mlp;
  add_to_stream(w.post_attention_layernorm, w.pre_feedforward_layernorm);
}

void TapedForward::mlp_half(int i) {
  const LayerTape& t = step_.tape.layers[i];
  normed_ = t.normed_mlp;
  gate_up_ = t.gate_up;
  inner_ = t.inner;
  y_ = t.y_mlp;
  mlp(i);
}

void TapedForward::enter_next(int i) {
  const LayerTape& t = step_.tape.layers[i];
  x_ = step_.tape.x[i + 1];
  y_ = t.y_mlp;
  normed_ = i + 1 == c_.n_layers ? step_.tape.final_normed : step_.tape.layers[i + 1].normed;
  copy(x_, t.x_middle);
  add_to_stream(weights_.layers[i].post_feedforward_layernorm, norm_after(weights_, i));
}

void TapedForward::project(Tensor out, Tensor in, const Linear& w, int layer, std::initializer_list<Module> modules) {
  backend_.linear(out, in, w);
  for (Module m : modules) {
    const TrainedModule* trained = step_.trained.module(layer, m);
    if (!trained) continue;
    const int64_t begin = module_place(weights_, layer, m).row_begin;
    const Tensor part = out.col_range(begin, begin + module_rows(c_, m));
    step_.ops.lora_forward(part, step_.tape.layers[layer].kept[int(m)], in, step_.pair(layer, m));
    if (trained->magnitude) step_.ops.dora_scale(part, trained->magnitude, trained->row_norm);
  }
}

void TapedForward::copy(Tensor out, Tensor x) { backend_.gather_rows(out, x, every_row_); }

}  // namespace lorikeet
