// The parameters that training moves, under PEFT's names: pairs of A and B, DoRA magnitudes, token rows, saved matrices. All are f32 in
// one device buffer, their gradients in another of the same layout, so that the optimizer sweeps over both.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "weights.h"

namespace lorikeet {

/// Called between pieces of training: gives way to steps of requests, and throws Error ABORTED to end the work.
using Pause = std::function<void()>;

struct TrainedConfig {
  int rank = 16;
  double alpha = 16;
  bool use_rslora = false, use_dora = false;
  float dropout = 0;
  std::vector<Module> modules;
  std::vector<int32_t> layers;     // empty = all
  std::vector<int32_t> token_ids;  // trainable_token_indices
  bool saves_embedding = false, saves_head = false;  // modules_to_save
  uint64_t seed = 0;               // of A's initial values and of dropout
};

/// @throws Error INVALID_REQUEST naming the field, UNSUPPORTED.
void check_trained_config(const TrainedConfig& config, const Gemma3Config& base);

/// What a tensor is to training.
enum class ParameterKind : uint8_t { kA, kB, kMagnitude, kTokenRows, kEmbedding, kHead };

struct Parameter {
  std::string name;            // as in adapter_model.safetensors
  ParameterKind kind;
  std::vector<int64_t> shape;
  int layer = -1;
  Module module = Module::q_proj;
  int64_t begin = 0, size = 0;  // in floats, within the buffer
};

/// Every trained tensor, in the order of the buffer. Each begins at a multiple of 256 floats; what lies between is zero.
std::vector<Parameter> plan_parameters(const TrainedConfig& config, const Gemma3Config& base);
/// Length of the buffer in floats.
int64_t planned_size(const std::vector<Parameter>& parameters);

/// One adapted module: views into the buffers.
struct TrainedModule {
  TrainedPair pair;
  Tensor da, db;
  float *magnitude = nullptr, *dmagnitude = nullptr;  // [n_out], null without DoRA
  float* row_norm = nullptr;                          // [n_out] of W + scale B A
};

class TrainedAdapter {
 public:
  /// Allocates, and sets the initial values: A kaiming-uniform (a = sqrt 5) by philox(seed), B zero, the rest the base's.
  TrainedAdapter(Backend& backend, const Weights& weights, const TrainedConfig& config, const Pause& pause);

  const TrainedConfig& config() const { return config_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  const Parameter* find(const std::string& name) const;
  float* values() const { return static_cast<float*>(values_.data()); }
  float* gradients() const { return static_cast<float*>(gradients_.data()); }
  int64_t size() const { return size_; }
  int64_t n_trained() const;
  uint64_t bytes() const { return values_.bytes() + token_rows_.rows.bytes() + row_norms_.bytes(); }

  /// Null where the module is not adapted.
  const TrainedModule* module(int layer, Module m) const { return has_module_[layer][int(m)] ? &modules_[layer][int(m)] : nullptr; }
  /// Lowest layer with an adapted module, or 0 where the embedding is trained: gradients need to go no deeper.
  int lowest_layer() const { return lowest_layer_; }
  bool trains_embedding() const { return token_rows_param_ || embedding_param_; }

  /// What embed() reads instead of the base's rows, for T tokens.
  std::vector<EdgeSegment> embed_edges(int64_t T) const;
  /// Adds dx = gradient of the stream entering layer 0 to the embedding's trained rows.
  void embed_backward(TrainingOps& ops, Tensor dx, std::span<const int32_t> ids, float embed_scale) const;
  /// The head as cross-entropy wants it; scale, gradient and pause are the caller's.
  TrainingOps::LossHead loss_head() const;

  /// To be called after values have moved: row norms of DoRA, token rows as activations.
  void refresh(const Pause& pause);

 private:
  void bind();
  void initialise(const Pause& pause);
  void initialise_matrix(const Parameter& p, const Pause& pause);
  void initialise_token_rows(const Parameter& p);
  std::vector<float> row_norms(int layer, Module m) const;
  float* at(float* base, const Parameter& p) const { return base + p.begin; }

  Backend& backend_;
  const Weights& weights_;
  TrainedConfig config_;
  std::vector<Parameter> parameters_;
  int64_t size_ = 0;
  Buffer values_, gradients_, row_norms_;
  std::vector<std::array<TrainedModule, kModules>> modules_;
  std::vector<std::array<bool, kModules>> has_module_;
  const Parameter *token_rows_param_ = nullptr, *embedding_param_ = nullptr, *head_param_ = nullptr;
  TokenRowsDevice token_rows_;             // as activations
  std::unique_ptr<Embedding> embedding_;   // over the saved matrix, in place
  int lowest_layer_ = 0;
};

}  // namespace lorikeet
