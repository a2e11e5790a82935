#include "weights.h"

#include <cmath>

namespace lorikeet {
namespace {

/// All norm weights in one device buffer, each at a 64-byte boundary.
class NormTable {
 public:
  NormTable(Checkpoint& checkpoint, Backend& backend) : checkpoint_(checkpoint), backend_(backend) {
    const Gemma3Config& c = checkpoint.config();
    const size_t floats = size_t(c.n_layers) * (4 * aligned(c.hidden_size) + 2 * aligned(c.head_dim)) + aligned(c.hidden_size);
    buffer_ = backend.allocate(floats * 4);
  }
  const float* add(const std::string& name) {
    const std::vector<float> w = checkpoint_.norm(name);
    float* at = static_cast<float*>(buffer_.data()) + used_;
    backend_.upload(at, w.data(), w.size() * 4);
    used_ += aligned(w.size());
    return at;
  }
  Buffer take() { return std::move(buffer_); }

 private:
  static size_t aligned(size_t n) { return (n + 15) / 16 * 16; }
  Checkpoint& checkpoint_;
  Backend& backend_;
  Buffer buffer_;
  size_t used_ = 0;
};

std::unique_ptr<Linear> fuse(Checkpoint& checkpoint, Backend& backend, int layer, std::initializer_list<Module> modules) {
  std::vector<HostMatrix> parts;
  for (Module m : modules) parts.push_back(checkpoint.linear(layer, m));
  return backend.make_linear(parts);
}

}  // namespace

ModulePlace module_place(const Weights& weights, int layer, Module m) {
  const LayerWeights& l = weights.layers[layer];
  const Gemma3Config& c = weights.config;
  switch (m) {
    case Module::q_proj: return {l.qkv_proj.get(), 0};
    case Module::k_proj: return {l.qkv_proj.get(), c.q_dim()};
    case Module::v_proj: return {l.qkv_proj.get(), c.q_dim() + c.kv_dim()};
    case Module::o_proj: return {l.o_proj.get(), 0};
    case Module::gate_proj: return {l.gate_up_proj.get(), 0};
    case Module::up_proj: return {l.gate_up_proj.get(), c.intermediate_size};
    default: return {l.down_proj.get(), 0};
  }
}

Weights load_weights(Checkpoint& checkpoint, Backend& backend, HeadFormat head, bool exact_embed_scale, const ProgressFn& progress) {
  Weights w;
  w.config = checkpoint.config();
  w.hash = checkpoint.hash();
  const Gemma3Config& c = w.config;
  w.embed_scale = std::sqrt(float(c.hidden_size));
  if (!exact_embed_scale) w.embed_scale = to_f32(to_bf16(w.embed_scale));
  NormTable norms(checkpoint, backend);
  int n_of_kind[2] = {0, 0};
  for (int i = 0; i < c.n_layers; i++) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    LayerWeights l;
    l.qkv_proj = fuse(checkpoint, backend, i, {Module::q_proj, Module::k_proj, Module::v_proj});
    l.o_proj = fuse(checkpoint, backend, i, {Module::o_proj});
    l.gate_up_proj = fuse(checkpoint, backend, i, {Module::gate_proj, Module::up_proj});
    l.down_proj = fuse(checkpoint, backend, i, {Module::down_proj});
    l.input_layernorm = norms.add(layer + "input_layernorm");
    l.post_attention_layernorm = norms.add(layer + "post_attention_layernorm");
    l.pre_feedforward_layernorm = norms.add(layer + "pre_feedforward_layernorm");
    l.post_feedforward_layernorm = norms.add(layer + "post_feedforward_layernorm");
    l.q_norm = norms.add(layer + "self_attn.q_norm");
    l.k_norm = norms.add(layer + "self_attn.k_norm");
    l.is_global = c.is_global[i] != 0;
    l.pool_layer = n_of_kind[l.is_global]++;
    w.linear_bytes += l.qkv_proj->bytes + l.o_proj->bytes + l.gate_up_proj->bytes + l.down_proj->bytes;
    w.layers.push_back(std::move(l));
    if (progress) progress("packing", uint64_t(i + 1), uint64_t(c.n_layers + 1));
  }
  w.final_norm = norms.add("norm");
  w.embedding = backend.make_embedding(checkpoint.embedding());
  w.head = backend.make_head(checkpoint.head(), head, c.tied ? w.embedding.get() : nullptr);
  w.norms = norms.take();
  if (progress) progress("packing", uint64_t(c.n_layers + 1), uint64_t(c.n_layers + 1));
  return w;
}

}  // namespace lorikeet
