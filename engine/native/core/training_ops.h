// What a device must do to train, beside backend.h: the forward ops that keep what their gradients need, and every gradient.
// backward.cc is written once over it; cpu/ and cuda/ implement it. T = tokens of a micro-batch, S = supervised tokens, H = hidden_size,
// D = head_dim. `act` as in backend.h. Gradients and trained parameters are f32; "+=" adds to what is there. Orders of reduction are
// fixed, so the same micro-batch gives the same bytes each time (CPU).
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "tensor.h"

namespace lorikeet {

struct Linear;
struct Head;

/// Tokens [starts[d], starts[d + 1]) are document d: they attend to one another only, and positions restart.
struct Documents {
  std::span<const int32_t> starts;  // [n_documents + 1], starts[0] = 0, the last = T
};

/// Which elements of a module's input are dropped: element (t, i) by philox(seed, token counter + t, module), the same in forward,
/// recomputation and backward. What stays is divided by 1 - p.
struct Dropout {
  float p = 0;
  uint64_t seed = 0;
  uint64_t token_counter = 0;  // tokens seen by the run before this micro-batch
  uint32_t module = 0;         // layer * kModules + module
};

/// A pair in training: y += scale * B (A dropout(x)).
struct TrainedPair {
  Tensor a;  // [r, n_in]  f32
  Tensor b;  // [n_out, r] f32
  float scale = 1;
  Dropout dropout;
};

/// What the loss says of one micro-batch.
struct LossResult {
  double loss_sum = 0;   // nats, over the supervised tokens
  int64_t n_targets = 0;
  int64_t n_correct = 0; // greedy hits
};

struct AdamW {
  double lr, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;  // doubles: 1 - 0.999f is 5e-5 off
  int64_t step = 1;           // from 1: for the bias correction
  double gradient_scale = 1;  // of clipping
};

class TrainingOps {
 public:
  virtual ~TrainingOps() = default;

  /// kept = dropout(x) A^T; out += scale * kept B^T
  virtual void lora_forward(Tensor out,   // [T, n_out] f32, updated in place
                            Tensor kept,  // [T, r]     f32
                            Tensor x,     // [T, n_in]  act
                            const TrainedPair& pair) = 0;
  /// dB += scale * dout^T kept; dk = scale * dout B; dA += dk^T dropout(x); dx += dropout'(dk A)
  virtual void lora_backward(Tensor dx,    // [T, n_in]  f32, +=
                             Tensor da,    // [r, n_in]  f32, +=
                             Tensor db,    // [n_out, r] f32, +=
                             Tensor dout,  // [T, n_out] f32
                             Tensor kept,  // [T, r]     f32
                             Tensor x,     // [T, n_in]  act
                             const TrainedPair& pair) = 0;

  /// DoRA: out *= magnitude / row_norm by column.
  virtual void dora_scale(Tensor out,                // [T, n_out] f32, updated in place
                          const float* magnitude,    // [n_out]
                          const float* row_norm) = 0;  // [n_out] of W + scale B A, a constant for the gradient
  /// dmagnitude += sum over t of dout * out / magnitude; dout *= magnitude / row_norm. `out` as dora_scale left it.
  virtual void dora_backward(float* dmagnitude,      // [n_out]
                             Tensor dout,            // [T, n_out] f32, updated in place
                             Tensor out,             // [T, n_out] f32
                             const float* magnitude, const float* row_norm) = 0;

  /// dx (+)= dout @ W; parts of a fused matrix at once, as in Backend::linear. dout is rounded to act on its way into the product.
  virtual void linear_backward(Tensor dx,    // [T, n_in]  f32
                               Tensor dout,  // [T, n_out] f32
                               const Linear& w, bool add) = 0;

  /// dx += d rmsnorm(x, w) / dx applied to dout. Norm weights are frozen.
  virtual void rmsnorm_backward(Tensor dx,    // [T, H] f32, +=
                                Tensor dout,  // [T, H] f32
                                Tensor x,     // [T, H] f32
                                const float* w, float eps) = 0;
  /// Gradient of Backend::residual_rmsnorm: dx (of its x) enters as the gradient of the updated x and leaves as that of the old x,
  /// which is the same plus rmsnorm(x, next_w)'s; dy is new.
  virtual void residual_rmsnorm_backward(Tensor dx,    // [T, H] f32, updated in place
                                         Tensor dy,    // [T, H] f32
                                         Tensor dout,  // [T, H] f32
                                         Tensor x,     // [T, H] f32, after the addition
                                         Tensor y,     // [T, H] f32
                                         const float* post_w, const float* next_w, float eps) = 0;

  /// q, k = rope(rmsnorm(., weight)) by head, v copied: Backend::qk_norm_rope_append without a cache.
  struct QkvShape {
    Tensor rope;                      // [T, D] f32, of rope_table
    const float *q_norm, *k_norm;     // [D] device
    float eps;
    int n_heads, n_kv_heads, head_dim;
  };
  virtual void qk_norm_rope(Tensor q,    // [T, n_heads * D]    act
                            Tensor k,    // [T, n_kv_heads * D] act
                            Tensor v,    // [T, n_kv_heads * D] act
                            Tensor qkv,  // [T, (n_heads + 2 n_kv_heads) * D] f32
                            const QkvShape& shape) = 0;
  virtual void qk_norm_rope_backward(Tensor dqkv,                    // as qkv, f32
                                     Tensor dq, Tensor dk, Tensor dv,  // as q, k, v, f32
                                     Tensor qkv, const QkvShape& shape) = 0;

  /// Attention inside documents, causal, keys (position - window, position]; window 0 = all.
  struct AttentionShape {
    Documents documents;
    int n_heads, n_kv_heads, head_dim;
    float scale;
    int window;
  };
  virtual void attention_forward(Tensor out,                  // [T, n_heads * D] act
                                 Tensor log_sum_exp,          // [T, n_heads] f32
                                 Tensor q, Tensor k, Tensor v,  // act
                                 const AttentionShape& shape) = 0;
  virtual void attention_backward(Tensor dq, Tensor dk, Tensor dv,  // f32
                                  Tensor dout,                      // [T, n_heads * D] f32
                                  Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v, const AttentionShape& shape) = 0;

  virtual void geglu_backward(Tensor dgate_up,    // [T, 2 I] f32
                              Tensor dinner,      // [T, I] f32
                              Tensor gate_up) = 0;  // [T, 2 I] f32

  /// Softmax cross-entropy of hidden @ head^T against targets, by pieces of the vocabulary: logits are never held whole.
  /// dhidden = scale * (softmax - onehot) @ head. With token_rows, those ids score by the trained rows instead.
  struct LossHead {
    const Head* head;                         // frozen; null where trained_head is given
    Tensor trained_head;                      // [V, H] f32: modules_to_save; dhead is its gradient
    Tensor dhead;                             // [V, H] f32, +=
    std::span<const int32_t> token_ids;       // trained tokens of a tied head: [n]
    Tensor token_rows, dtoken_rows;           // [n, H] f32, f32 +=
    float scale;                              // 1 / targets of the accumulation window
    bool gradient;                            // false: only the loss (evaluation); dhidden is not touched
    /// Called between pieces of at most some 20 ms, outside parallel regions. It may run steps of requests on this thread (so no scratch
    /// that ops of backend.h share may be live across it), and it throws to end the work.
    const std::function<void()>* pause = nullptr;
  };
  virtual LossResult cross_entropy(Tensor dhidden,                     // [S, H] f32
                                   Tensor hidden,                      // [S, H] act
                                   std::span<const int32_t> targets,   // [S]
                                   const LossHead& head) = 0;

  /// The trained rows of the input embedding: rows i of token_ids get += embed_scale * dx[t] wherever ids[t] == token_ids[i].
  virtual void embed_rows_backward(Tensor drows,  // [n, H] f32, +=
                                   Tensor dx,     // [T, H] f32
                                   std::span<const int32_t> ids, std::span<const int32_t> token_ids, float embed_scale) = 0;

  /// modules_to_save: demb[ids[t]] += embed_scale * dx[t].
  virtual void embed_backward(Tensor demb,  // [V, H] f32, +=
                              Tensor dx,    // [T, H] f32
                              std::span<const int32_t> ids, float embed_scale) = 0;

  /// Sum of squares of n numbers, in double, in a fixed order.
  virtual double sum_squares(const float* values, int64_t n) = 0;
  /// PyTorch's AdamW: decoupled decay, eps after the bias correction (reference: torch.optim.AdamW).
  virtual void adamw(float* parameter, const float* gradient, float* exp_avg, float* exp_avg_sq, int64_t n, const AdamW& options) = 0;
};

}  // namespace lorikeet
