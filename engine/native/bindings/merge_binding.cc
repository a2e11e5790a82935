#include "merge_binding.h"

#include "../core/encode.h"
#include "../core/merge.h"
#include "args.h"

namespace lorikeet {
namespace {

Napi::Array to_array(Napi::Env env, const std::vector<int64_t>& values) {
  Napi::Array out = Napi::Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i) out.Set(uint32_t(i), double(values[i]));
  return out;
}

Napi::Object config_object(Napi::Env env, const Gemma3Config& c) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("name", c.name);
  const std::pair<const char*, double> numbers[] = {
      {"nLayers", c.n_layers}, {"hiddenSize", c.hidden_size}, {"intermediateSize", c.intermediate_size}, {"nHeads", c.n_heads},
      {"nKvHeads", c.n_kv_heads}, {"headDim", c.head_dim}, {"vocabSize", c.vocab_size}, {"slidingWindow", c.sliding_window},
      {"maxPosition", c.max_position}, {"rmsNormEps", c.rms_norm_eps}, {"queryPreAttnScalar", c.query_pre_attn_scalar},
      {"ropeThetaGlobal", c.rope_theta_global}, {"ropeThetaLocal", c.rope_theta_local}, {"ropeScalingFactor", c.rope_scaling_factor},
      {"bosId", c.bos_id}, {"padId", c.pad_id}};
  for (const auto& [name, value] : numbers) out.Set(name, value);
  out.Set("tied", c.tied);
  out.Set("multimodal", c.multimodal);
  Napi::Array global = Napi::Array::New(env, c.is_global.size());
  for (size_t i = 0; i < c.is_global.size(); ++i) global.Set(uint32_t(i), Napi::Boolean::New(env, c.is_global[i] != 0));
  out.Set("isGlobal", global);
  Napi::Array eos = Napi::Array::New(env, c.eos_ids.size());
  for (size_t i = 0; i < c.eos_ids.size(); ++i) eos.Set(uint32_t(i), c.eos_ids[i]);
  out.Set("eosIds", eos);
  return out;
}

class MergedWeightsBinding : public Napi::ObjectWrap<MergedWeightsBinding> {
 public:
  static void define(Napi::Env env) {
    constructor() = Napi::Persistent(DefineClass(env, "NativeMergedWeights",
                                                 {InstanceAccessor<&MergedWeightsBinding::config>("config"),
                                                  InstanceAccessor<&MergedWeightsBinding::tensors>("tensors"),
                                                  InstanceAccessor<&MergedWeightsBinding::lora>("lora"),
                                                  InstanceMethod<&MergedWeightsBinding::read>("read"),
                                                  InstanceMethod<&MergedWeightsBinding::lora_values>("loraValues")}));
    constructor().SuppressDestruct();
  }

  static Napi::Value open(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    if (info.Length() < 1 || !info[0].IsObject()) throw js_error(env, "INVALID_REQUEST", "options must be an object");
    const auto options = info[0].As<Napi::Object>();
    const std::string path = get_string(options, "path"), adapter = get_string(options, "adapter"), base = get_string(options, "base");
    const int max_rank = get_int(options, "maxRank");
    auto weights = guarded(env, [&] {
      return std::make_unique<MergedWeights>(path, adapter, base == "nf4" ? MergeBase::kNF4 : MergeBase::k16Bit, max_rank);
    });
    Napi::Object object = constructor().New({});
    Unwrap(object)->weights_ = std::move(weights);
    return object;
  }

  explicit MergedWeightsBinding(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MergedWeightsBinding>(info) {}

 private:
  static Napi::FunctionReference& constructor() {
    static Napi::FunctionReference reference;
    return reference;
  }

  Napi::Value config(const Napi::CallbackInfo& info) { return config_object(info.Env(), weights_->config()); }

  Napi::Value tensors(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    Napi::Array out = Napi::Array::New(env, weights_->tensors().size());
    for (size_t i = 0; i < weights_->tensors().size(); ++i) {
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("name", weights_->tensors()[i].name);
      entry.Set("shape", to_array(env, weights_->tensors()[i].shape));
      out.Set(uint32_t(i), entry);
    }
    return out;
  }

  /// read(index, begin, end, encoding): Uint8Array
  Napi::Value read(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    if (info.Length() < 4 || !info[0].IsNumber() || !info[1].IsNumber() || !info[2].IsNumber() || !info[3].IsString())
      throw js_error(env, "INVALID_REQUEST", "expected tensor, first row, row after the last, encoding");
    const auto index = info[0].As<Napi::Number>().Int64Value(), begin = info[1].As<Napi::Number>().Int64Value(),
               end = info[2].As<Napi::Number>().Int64Value();
    const auto encoding = file_encoding(info[3].As<Napi::String>().Utf8Value());
    if (!encoding) throw js_error(env, "INVALID_REQUEST", "encoding is F32, BF16, F16 or Q8_0");
    const std::vector<uint8_t> bytes = guarded(env, [&] {
      if (index < 0 || index >= int64_t(weights_->tensors().size()) || begin < 0 || begin > end)
        throw Error("INVALID_REQUEST", "no such rows");
      const std::vector<int64_t>& shape = weights_->tensors()[size_t(index)].shape;
      const int64_t n = (end - begin) * shape.back();
      if (end > (shape.size() == 1 ? 1 : shape[0])) throw Error("INVALID_REQUEST", "no such rows");
      if (encoding == FileEncoding::kQ8_0 && shape.back() % 32) throw Error("INVALID_REQUEST", "Q8_0: rows of multiples of 32");
      std::vector<float> values(size_t(n), 0.0f);
      weights_->read(size_t(index), begin, end, values.data());
      std::vector<uint8_t> out(size_t(encoded_bytes(*encoding, n)));
      encode(*encoding, values.data(), n, out.data());
      return out;
    });
    return to_typed<Napi::Uint8Array>(env, bytes);
  }

  /// What a LoRA-only format can hold of the adapter, and whether there is more to it.
  Napi::Value lora(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const AdapterFile* adapter = weights_->adapter();
    if (!adapter) return env.Null();
    Napi::Array modules = Napi::Array::New(env);
    for (size_t layer = 0; layer < adapter->layers.size(); ++layer) {
      for (int m = 0; m < kModules; ++m) {
        const auto& pair = adapter->layers[layer][size_t(m)];
        if (!pair) continue;
        Napi::Object entry = Napi::Object::New(env);
        entry.Set("layer", double(layer));
        entry.Set("module", module_path(Module(m)));
        entry.Set("rank", pair->rank);
        entry.Set("scale", double(pair->scale));
        entry.Set("shape", to_array(env, {pair->b.shape[0], pair->a.shape[1]}));
        modules.Set(modules.Length(), entry);
      }
    }
    Napi::Object out = Napi::Object::New(env);
    out.Set("modules", modules);
    out.Set("usesDora", adapter->use_dora);
    out.Set("changesTokens", adapter->token_rows || adapter->head_rows || adapter->embed_tokens || adapter->lm_head ||
                                 !adapter->saved_embed_tokens.empty() || !adapter->saved_lm_head.empty());
    return out;
  }

  /// loraValues(layer, module, "a" | "b"): Float32Array, [rank, n_in] or [n_out, rank]
  Napi::Value lora_values(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    if (info.Length() < 3 || !info[0].IsNumber() || !info[1].IsString() || !info[2].IsString())
      throw js_error(env, "INVALID_REQUEST", "expected layer, module, part");
    const auto layer = info[0].As<Napi::Number>().Int64Value();
    const std::string module = info[1].As<Napi::String>().Utf8Value(), part = info[2].As<Napi::String>().Utf8Value();
    return to_typed<Napi::Float32Array>(env, guarded(env, [&] {
      const AdapterFile* adapter = weights_->adapter();
      for (int m = 0; adapter && m < kModules; ++m) {
        if (module != module_path(Module(m)) || layer < 0 || size_t(layer) >= adapter->layers.size()) continue;
        const auto& pair = adapter->layers[size_t(layer)][size_t(m)];
        if (pair) return to_float(part == "a" ? pair->a : pair->b);
      }
      throw Error("INVALID_REQUEST", "the adapter has no LoRA on " + module);
    }));
  }

  std::unique_ptr<MergedWeights> weights_;
};

}  // namespace

void define_merge(Napi::Env env, Napi::Object exports) {
  MergedWeightsBinding::define(env);
  exports.Set("openMergedWeights", Napi::Function::New(env, MergedWeightsBinding::open));
}

}  // namespace lorikeet
