#include "backward.h"

namespace lorikeet {
namespace {

class Backward {
 public:
  Backward(TrainingStep& step) : step_(step), ops_(step.ops), g_(step.tape.gradients), c_(step.config()) {}

  /// dnormed of the final norm: the supervised rows, zero elsewhere.
  void scatter(std::span<const int32_t> rows) {
    const int64_t S = int64_t(rows.size());
    std::vector<int32_t> source(step_.batch.n_tokens(), int32_t(S));  // row S is zero
    for (int64_t s = 0; s < S; s++) source[rows[s]] = int32_t(s);
    clear(g_.dhidden.row_range(S, S + 1));
    step_.backend.gather_rows(g_.dnormed, g_.dhidden, source);
    clear(g_.dx);
  }

  /// x[i + 1] = x_middle + norm(down_proj(gelu(gate) * up)): dnormed, dx of the next layer -> dnormed of the MLP, dx of x_middle.
  void mlp(int i, const GradientTap& tap) {
    const LayerWeights& w = step_.weights.layers[i];
    const LayerTape& t = step_.tape.layers[i];
    ops_.residual_rmsnorm_backward(g_.dx, g_.dy, g_.dnormed, step_.tape.x[i + 1], t.y_mlp, w.post_feedforward_layernorm, norm_after(step_.weights, i),
                                   c_.rms_norm_eps);
    if (tap) tap(i + 1, g_.dx);
    project(g_.dinner, g_.dy, t.inner, t.y_mlp, *w.down_proj, i, {Module::down_proj});
    ops_.geglu_backward(g_.dgate_up, g_.dinner, t.gate_up);
    project(g_.dnormed, g_.dgate_up, t.normed_mlp, t.gate_up, *w.gate_up_proj, i, {Module::gate_proj, Module::up_proj});
  }

  /// x_middle = x[i] + norm(o_proj(attention(q, k, v))): dnormed, dx of the MLP -> dnormed, dx of the layer.
  void attention(int i) {
    const LayerWeights& w = step_.weights.layers[i];
    const LayerTape& t = step_.tape.layers[i];
    ops_.residual_rmsnorm_backward(g_.dx, g_.dy, g_.dnormed, t.x_middle, t.y_attention, w.post_attention_layernorm, w.pre_feedforward_layernorm,
                                   c_.rms_norm_eps);
    project(g_.dattended, g_.dy, t.attended, t.y_attention, *w.o_proj, i, {Module::o_proj});
    ops_.attention_backward(g_.dq, g_.dk, g_.dv, g_.dattended, t.attended, t.log_sum_exp, t.q, t.k, t.v, step_.attention_shape(i));
    ops_.qk_norm_rope_backward(g_.dqkv, g_.dq, g_.dk, g_.dv, t.qkv, step_.qkv_shape(i));
    project(g_.dnormed, g_.dqkv, t.normed, t.qkv, *w.qkv_proj, i, {Module::q_proj, Module::k_proj, Module::v_proj});
  }

  void embedding(const GradientTap& tap) {
    ops_.rmsnorm_backward(g_.dx, g_.dnormed, step_.tape.x[0], step_.weights.layers[0].input_layernorm, c_.rms_norm_eps);
    if (tap) tap(0, g_.dx);
    step_.trained.embed_backward(ops_, g_.dx, step_.batch.token_ids, step_.weights.embed_scale);
  }

 private:
  /// out = in @ w^T with the trained pairs of w's parts: din, and the pairs' own gradients. dout is scaled in place where DoRA is used.
  void project(Tensor din, Tensor dout, Tensor in, Tensor out, const Linear& w, int layer, std::initializer_list<Module> modules) {
    const auto part = [&](Tensor fused, Module m) {
      const int64_t begin = module_place(step_.weights, layer, m).row_begin;
      return fused.col_range(begin, begin + module_rows(c_, m));
    };
    for (Module m : modules) {
      const TrainedModule* trained = step_.trained.module(layer, m);
      if (trained && trained->magnitude)
        ops_.dora_backward(trained->dmagnitude, part(dout, m), part(out, m), trained->magnitude, trained->row_norm);
    }
    ops_.linear_backward(din, dout, w, false);
    for (Module m : modules) {
      if (const TrainedModule* trained = step_.trained.module(layer, m))
        ops_.lora_backward(din, trained->da, trained->db, part(dout, m), step_.tape.layers[layer].kept[int(m)], in, step_.pair(layer, m));
    }
  }

  void clear(Tensor t) {
    const std::vector<float> zeros(size_t(t.rows * t.cols));
    step_.backend.upload(t.data, zeros.data(), zeros.size() * 4);
  }

  TrainingStep& step_;
  TrainingOps& ops_;
  const GradientBuffers& g_;
  const Gemma3Config& c_;
};

}  // namespace

void backward(TrainingStep& step, TapedForward& forward, Checkpointing policy, std::span<const int32_t> rows, const Pause& pause,
              const GradientTap& tap) {
  Backward layers(step);
  layers.scatter(rows);
  for (int i = step.config().n_layers - 1; i >= step.trained.lowest_layer(); i--) {
    const bool on_tape = i + 1 == step.config().n_layers;  // the forward pass ended here
    if (policy == Checkpointing::kLayer && !on_tape) {
      forward.normalise(i);
      forward.attention_half(i);
      pause();
    }
    if (policy != Checkpointing::kNone && !on_tape) {
      forward.mlp_half(i);
      pause();
    }
    layers.mlp(i, tap);
    pause();
    layers.attention(i);
    pause();
  }
  if (step.trained.lowest_layer() == 0 && (step.trained.trains_embedding() || tap)) layers.embedding(tap);
}

}  // namespace lorikeet
