#include "trained_adapter.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "philox.h"

namespace lorikeet {
namespace {

constexpr int64_t kAlign = 256;       // floats; a block of 8-bit optimizer state
constexpr int64_t kRowsAtOnce = 512;  // rows of a matrix copied between two pauses

[[noreturn]] void refuse(const std::string& what) { throw Error("INVALID_REQUEST", what); }

std::string class_prefix(const Gemma3Config& base) {
  return base.multimodal ? "base_model.model.model.language_model." : "base_model.model.model.";
}

float scale_of(const TrainedConfig& c) { return float(c.alpha / (c.use_rslora ? std::sqrt(double(c.rank)) : double(c.rank))); }

bool trains_layer(const TrainedConfig& c, int layer) {
  return c.layers.empty() || std::find(c.layers.begin(), c.layers.end(), layer) != c.layers.end();
}

bool distinct(const std::vector<int32_t>& values) { return std::set<int32_t>(values.begin(), values.end()).size() == values.size(); }

bool within(const std::vector<int32_t>& values, int end) {
  return std::all_of(values.begin(), values.end(), [&](int32_t v) { return v >= 0 && v < end; });
}

}  // namespace

void check_trained_config(const TrainedConfig& c, const Gemma3Config& base) {
  if (c.rank < 1 || c.rank > 1024) refuse("rank must be in [1, 1024], got " + std::to_string(c.rank));
  if (!std::isfinite(c.alpha) || c.alpha <= 0) refuse("alpha must be positive and finite");
  if (!(c.dropout >= 0 && c.dropout < 1)) refuse("dropout must be in [0, 1)");
  if (!within(c.layers, base.n_layers) || !distinct(c.layers)) refuse("layers must be distinct and in [0, " + std::to_string(base.n_layers) + ")");
  if (!within(c.token_ids, base.vocab_size) || !distinct(c.token_ids))
    refuse("trainableTokenIds must be distinct and in [0, " + std::to_string(base.vocab_size) + ")");
  if (!c.token_ids.empty() && (c.saves_embedding || c.saves_head)) refuse("trainableTokenIds and modulesToSave exclude each other");
  if (c.modules.empty() && c.token_ids.empty() && !c.saves_embedding && !c.saves_head) refuse("targetModules is empty: nothing would be trained");
  if (c.saves_head && !base.tied) throw Error("UNSUPPORTED", "modulesToSave lm_head over a base whose head is its own matrix");
}

std::vector<Parameter> plan_parameters(const TrainedConfig& c, const Gemma3Config& base) {
  std::vector<Parameter> all;
  int64_t end = 0;
  const auto add = [&](const std::string& name, ParameterKind kind, std::vector<int64_t> shape, int layer = -1, Module m = Module::q_proj) {
    const int64_t size = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    all.push_back({name, kind, std::move(shape), layer, m, end, size});
    end += (size + kAlign - 1) / kAlign * kAlign;
  };
  const std::string prefix = class_prefix(base);
  for (int layer = 0; layer < base.n_layers; layer++) {
    if (!trains_layer(c, layer)) continue;
    for (Module m : c.modules) {
      const std::string name = prefix + "layers." + std::to_string(layer) + "." + module_path(m);
      add(name + ".lora_A.weight", ParameterKind::kA, {c.rank, module_cols(base, m)}, layer, m);
      add(name + ".lora_B.weight", ParameterKind::kB, {module_rows(base, m), c.rank}, layer, m);
      if (c.use_dora) add(name + ".lora_magnitude_vector", ParameterKind::kMagnitude, {module_rows(base, m)}, layer, m);
    }
  }
  const std::vector<int64_t> matrix{base.vocab_size, base.hidden_size};
  if (!c.token_ids.empty())
    add(prefix + "embed_tokens.token_adapter.trainable_tokens_delta", ParameterKind::kTokenRows, {int64_t(c.token_ids.size()), base.hidden_size});
  if (c.saves_embedding) add(prefix + "embed_tokens.weight", ParameterKind::kEmbedding, matrix);
  if (c.saves_head) add("base_model.model.lm_head.weight", ParameterKind::kHead, matrix);
  return all;
}

int64_t planned_size(const std::vector<Parameter>& parameters) {
  return parameters.empty() ? 0 : parameters.back().begin + (parameters.back().size + kAlign - 1) / kAlign * kAlign;
}

TrainedAdapter::TrainedAdapter(Backend& backend, const Weights& weights, const TrainedConfig& config, const Pause& pause)
    : backend_(backend), weights_(weights), config_(config), parameters_(plan_parameters(config, weights.config)), size_(planned_size(parameters_)) {
  values_ = backend.allocate(size_t(size_) * 4);
  gradients_ = backend.allocate(size_t(size_) * 4);
  bind();
  initialise(pause);
  refresh(pause);
}

void TrainedAdapter::bind() {
  const int n_layers = weights_.config.n_layers;
  modules_.resize(n_layers);
  has_module_.assign(n_layers, {});
  lowest_layer_ = n_layers;
  int64_t n_norms = 0;
  for (const Parameter& p : parameters_)
    if (p.kind == ParameterKind::kMagnitude) n_norms += (p.size + 15) / 16 * 16;
  row_norms_ = backend_.allocate(size_t(n_norms) * 4);
  float* norms = static_cast<float*>(row_norms_.data());
  const auto matrix = [](float* data, const Parameter& p) { return Tensor{data, DType::kF32, p.shape[0], p.shape[1], p.shape[1]}; };
  for (const Parameter& p : parameters_) {
    float *value = at(values(), p), *gradient = at(gradients(), p);
    if (p.kind == ParameterKind::kTokenRows) token_rows_param_ = &p;
    if (p.kind == ParameterKind::kEmbedding) embedding_param_ = &p;
    if (p.kind == ParameterKind::kHead) head_param_ = &p;
    if (p.layer < 0) continue;
    TrainedModule& module = modules_[p.layer][int(p.module)];
    has_module_[p.layer][int(p.module)] = true;
    lowest_layer_ = std::min(lowest_layer_, p.layer);
    if (p.kind == ParameterKind::kA) {
      module.pair.a = matrix(value, p);
      module.da = matrix(gradient, p);
      module.pair.scale = scale_of(config_);
    } else if (p.kind == ParameterKind::kB) {
      module.pair.b = matrix(value, p);
      module.db = matrix(gradient, p);
    } else {
      module.magnitude = value;
      module.dmagnitude = gradient;
      module.row_norm = norms;
      norms += (p.size + 15) / 16 * 16;
    }
  }
  if (trains_embedding()) lowest_layer_ = 0;
  if (token_rows_param_) {
    token_rows_.token_ids = config_.token_ids;
    token_rows_.rows = backend_.allocate(size_t(token_rows_param_->size) * size_of(backend_.act_dtype()));
  }
  if (embedding_param_) {
    const Gemma3Config& c = weights_.config;
    embedding_ = backend_.make_embedding({WeightFormat::kF32, c.vocab_size, c.hidden_size, at(values(), *embedding_param_), nullptr, nullptr});
  }
}

void TrainedAdapter::initialise(const Pause& pause) {
  for (const Parameter& p : parameters_) {
    pause();
    if (p.kind == ParameterKind::kA) {
      // torch's kaiming_uniform_(a = sqrt 5): uniform in (-1/sqrt(n_in), 1/sqrt(n_in)).
      const double bound = 1.0 / std::sqrt(double(p.shape[1]));
      const uint64_t stream = (uint64_t{1} << 32) | uint64_t(p.layer * kModules + int(p.module));  // apart from dropout's
      std::vector<float> values(p.size);
      for (int64_t i = 0; i < p.size; i++) values[i] = float((2.0 * (philox(config_.seed, uint64_t(i), stream)[0] + 0.5) * 0x1p-32 - 1.0) * bound);
      backend_.upload(at(this->values(), p), values.data(), size_t(p.size) * 4);
    } else if (p.kind == ParameterKind::kMagnitude) {
      const std::vector<float> norms = row_norms(p.layer, p.module);  // B is zero: of W
      backend_.upload(at(values(), p), norms.data(), size_t(p.size) * 4);
    } else if (p.kind == ParameterKind::kTokenRows) {
      initialise_token_rows(p);
    } else if (p.kind != ParameterKind::kB) {
      initialise_matrix(p, pause);
    }
  }
}

/// Rows of the base: its embedding, which is its head too (check_trained_config).
void TrainedAdapter::initialise_matrix(const Parameter& p, const Pause& pause) {
  const int64_t V = p.shape[0], H = p.shape[1];
  std::vector<int32_t> ids(kRowsAtOnce);
  for (int64_t begin = 0; begin < V; begin += kRowsAtOnce) {
    const int64_t n = std::min(kRowsAtOnce, V - begin);
    std::iota(ids.begin(), ids.end(), int32_t(begin));
    backend_.embed({at(values(), p) + begin * H, DType::kF32, n, H, H}, std::span(ids).first(size_t(n)), *weights_.embedding, 1.0f, {});
    pause();
  }
}

void TrainedAdapter::initialise_token_rows(const Parameter& p) {
  backend_.embed({at(values(), p), DType::kF32, p.shape[0], p.shape[1], p.shape[1]}, config_.token_ids, *weights_.embedding, 1.0f, {});
}

std::vector<float> TrainedAdapter::row_norms(int layer, Module m) const {
  const TrainedModule& module = modules_[layer][int(m)];
  const ModulePlace place = module_place(weights_, layer, m);
  const auto host = [&](const Tensor& t) {
    auto copy = std::make_shared<std::vector<float>>(t.rows * t.cols);
    backend_.download(copy->data(), t.data, copy->size() * 4);
    return HostTensor{FileDtype::kF32, {t.rows, t.cols}, copy->data(), copy};
  };
  return backend_.dora_row_norms(*place.linear, place.row_begin, host(module.pair.a), host(module.pair.b), module.pair.scale);
}

void TrainedAdapter::refresh(const Pause& pause) {
  for (const Parameter& p : parameters_) {
    if (p.kind != ParameterKind::kMagnitude) continue;
    const std::vector<float> norms = row_norms(p.layer, p.module);
    backend_.upload(modules_[p.layer][int(p.module)].row_norm, norms.data(), norms.size() * 4);
    pause();
  }
  if (!token_rows_param_) return;
  std::vector<float> rows(token_rows_param_->size);
  backend_.download(rows.data(), at(values(), *token_rows_param_), rows.size() * 4);
  if (backend_.act_dtype() == DType::kF32) return backend_.upload(token_rows_.rows.data(), rows.data(), rows.size() * 4);
  std::vector<bf16> half(rows.size());
  std::transform(rows.begin(), rows.end(), half.begin(), to_bf16);
  backend_.upload(token_rows_.rows.data(), half.data(), half.size() * 2);
}

const Parameter* TrainedAdapter::find(const std::string& name) const {
  const auto it = std::find_if(parameters_.begin(), parameters_.end(), [&](const Parameter& p) { return p.name == name; });
  return it == parameters_.end() ? nullptr : &*it;
}

int64_t TrainedAdapter::n_trained() const {
  return std::accumulate(parameters_.begin(), parameters_.end(), int64_t{0}, [](int64_t n, const Parameter& p) { return n + p.size; });
}

std::vector<EdgeSegment> TrainedAdapter::embed_edges(int64_t T) const {
  if (!trains_embedding()) return {};
  return {{0, int(T), embedding_.get(), nullptr, token_rows_param_ ? &token_rows_ : nullptr, nullptr, nullptr}};
}

void TrainedAdapter::embed_backward(TrainingOps& ops, Tensor dx, std::span<const int32_t> ids, float embed_scale) const {
  const int64_t H = dx.cols;
  const auto gradient = [&](const Parameter& p) { return Tensor{at(gradients(), p), DType::kF32, p.shape[0], H, H}; };
  if (token_rows_param_) ops.embed_rows_backward(gradient(*token_rows_param_), dx, ids, config_.token_ids, embed_scale);
  if (embedding_param_) ops.embed_backward(gradient(*embedding_param_), dx, ids, embed_scale);
}

TrainingOps::LossHead TrainedAdapter::loss_head() const {
  const int64_t H = weights_.config.hidden_size;
  const auto view = [&](float* base, const Parameter& p) { return Tensor{at(base, p), DType::kF32, p.shape[0], H, H}; };
  TrainingOps::LossHead head{};
  head.head = head_param_ ? nullptr : weights_.head.get();
  if (head_param_) {
    head.trained_head = view(values(), *head_param_);
    head.dhead = view(gradients(), *head_param_);
  }
  if (token_rows_param_ && weights_.config.tied) {
    head.token_ids = config_.token_ids;
    head.token_rows = view(values(), *token_rows_param_);
    head.dtoken_rows = view(gradients(), *token_rows_param_);
  }
  return head;
}

}  // namespace lorikeet
