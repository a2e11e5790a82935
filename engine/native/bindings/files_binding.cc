#include "files_binding.h"

#include "../core/float_types.h"
#include "../core/ggml_types.h"
#include "../core/gguf_tokenizer.h"
#include "../core/nf4.h"
#include "../core/safetensors.h"
#include "args.h"

namespace lorikeet {
namespace {

std::string string_arg(const Napi::CallbackInfo& info, size_t i, const char* name) {
  if (info.Length() <= i || !info[i].IsString()) throw js_error(info.Env(), "INVALID_REQUEST", std::string(name) + " must be a string");
  return info[i].As<Napi::String>().Utf8Value();
}

std::vector<uint8_t> bytes_arg(const Napi::CallbackInfo& info, size_t i, const char* name) {
  if (info.Length() <= i || !info[i].IsTypedArray() || info[i].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    throw js_error(info.Env(), "INVALID_REQUEST", std::string(name) + " must be a Uint8Array");
  const auto array = info[i].As<Napi::Uint8Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

/// NativeGgufTokenizer of engine/native.ts.
class GgufTokenizerBinding : public Napi::ObjectWrap<GgufTokenizerBinding> {
 public:
  static void define(Napi::Env env) {
    constructor() = Napi::Persistent(DefineClass(env, "NativeGgufTokenizer",
                                                 {InstanceAccessor<&GgufTokenizerBinding::vocab_size>("vocabSize"),
                                                  InstanceAccessor<&GgufTokenizerBinding::bos_id>("bosId"),
                                                  InstanceAccessor<&GgufTokenizerBinding::eos_id>("eosId"),
                                                  InstanceAccessor<&GgufTokenizerBinding::chat_template>("chatTemplate"),
                                                  InstanceMethod<&GgufTokenizerBinding::encode>("encode"),
                                                  InstanceMethod<&GgufTokenizerBinding::table>("table")}));
    constructor().SuppressDestruct();
  }
  static Napi::Value open(const Napi::CallbackInfo& info) {
    const std::string path = string_arg(info, 0, "path");
    auto tokenizer = guarded(info.Env(), [&] { return GgufTokenizer::open(path); });
    Napi::Object object = constructor().New({});
    Unwrap(object)->tokenizer_ = std::move(tokenizer);
    return object;
  }
  explicit GgufTokenizerBinding(const Napi::CallbackInfo& info) : Napi::ObjectWrap<GgufTokenizerBinding>(info) {}

 private:
  static Napi::FunctionReference& constructor() {
    static Napi::FunctionReference reference;
    return reference;
  }
  Napi::Value vocab_size(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), tokenizer_->vocab_size()); }
  Napi::Value bos_id(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), tokenizer_->bos_id()); }
  Napi::Value eos_id(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), tokenizer_->eos_id()); }
  Napi::Value chat_template(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), tokenizer_->chat_template()); }
  Napi::Value encode(const Napi::CallbackInfo& info) {
    const std::string text = string_arg(info, 0, "text");
    const bool parse_special = info.Length() > 1 && info[1].ToBoolean();
    return to_typed<Napi::Int32Array>(info.Env(), guarded(info.Env(), [&] { return tokenizer_->encode(text, parse_special); }));
  }
  Napi::Value table(const Napi::CallbackInfo& info) {
    const GgufTokenizer::Table table = tokenizer_->table();
    Napi::Object out = Napi::Object::New(info.Env());
    out.Set("bytes", to_typed<Napi::Uint8Array>(info.Env(), table.bytes));
    out.Set("offsets", to_typed<Napi::Uint32Array>(info.Env(), table.offsets));
    out.Set("kinds", to_typed<Napi::Uint8Array>(info.Env(), table.kinds));
    return out;
  }
  std::unique_ptr<GgufTokenizer> tokenizer_;
};

Napi::Value read_header(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string path = string_arg(info, 0, "path");
  const Safetensors file = guarded(env, [&] { return Safetensors::map(path); });
  Napi::Object out = Napi::Object::New(env);
  for (const TensorInfo& t : file.tensors()) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("dtype", dtype_name(t.dtype));
    Napi::Array shape = Napi::Array::New(env, t.shape.size());
    for (size_t i = 0; i < t.shape.size(); i++) shape.Set(uint32_t(i), double(t.shape[i]));
    entry.Set("shape", shape);
    entry.Set("bytes", double(t.end - t.begin));
    out.Set(t.name, entry);
  }
  return out;
}

Napi::Value read_tensor(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string path = string_arg(info, 0, "path"), name = string_arg(info, 1, "name");
  const std::vector<uint8_t> bytes = guarded(env, [&] {
    const Safetensors file = Safetensors::map(path);
    const TensorInfo* t = file.find(name);
    if (!t) throw Error("FILE_INVALID", path + " has no tensor \"" + name + "\"");
    const HostTensor tensor = file.tensor(*t);
    const auto* data = static_cast<const uint8_t*>(tensor.data);
    return std::vector<uint8_t>(data, data + tensor.bytes());
  });
  return to_typed<Napi::Uint8Array>(env, bytes);
}

Napi::Value quantize(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::vector<float> weight = to_floats(info[0], "weight");
  if (weight.size() % kNF4Block) throw js_error(env, "INVALID_REQUEST", "weight: a multiple of 64 values");
  std::vector<uint8_t> packed(weight.size() / 2);
  std::vector<float> absmax(weight.size() / kNF4Block);
  nf4_quantize(weight.data(), int64_t(weight.size()), packed.data(), absmax.data());
  Napi::Object out = Napi::Object::New(env);
  out.Set("packed", to_typed<Napi::Uint8Array>(env, packed));
  out.Set("absmax", to_typed<Napi::Float32Array>(env, absmax));
  return out;
}

Napi::Value quantize_absmax(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::vector<float> absmax = to_floats(info[0], "absmax");
  const DoubleQuant dq = double_quantize(absmax.data(), int64_t(absmax.size()));
  std::vector<float> back(absmax.size());
  double_dequantize(dq.q8.data(), dq.nested_absmax.data(), dq.map.data(), dq.offset, int64_t(absmax.size()), back.data());
  Napi::Object out = Napi::Object::New(env);
  out.Set("q8", to_typed<Napi::Uint8Array>(env, dq.q8));
  out.Set("nestedAbsmax", to_typed<Napi::Float32Array>(env, dq.nested_absmax));
  out.Set("nestedMap", to_typed<Napi::Float32Array>(env, std::vector<float>(dq.map.begin(), dq.map.end())));
  out.Set("offset", double(dq.offset));
  out.Set("reconstructed", to_typed<Napi::Float32Array>(env, back));
  return out;
}

Napi::Value dequantize(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::vector<uint8_t> packed = bytes_arg(info, 0, "packed");
  const std::vector<float> absmax = to_floats(info[1], "absmax");
  const bool half = string_arg(info, 2, "dtype") == "bf16";
  const int64_t n = int64_t(packed.size()) * 2;
  if (n % kNF4Block || absmax.size() != size_t(n / kNF4Block)) throw js_error(env, "INVALID_REQUEST", "absmax: one value for 64 weights");
  std::vector<float> out(n);
  if (half) {
    std::vector<uint16_t> bits(n);
    nf4_dequantize_bf16(packed.data(), absmax.data(), n, bits.data());
    for (int64_t i = 0; i < n; i++) out[i] = bf16_to_f32(bits[i]);
  } else {
    nf4_dequantize(packed.data(), absmax.data(), n, out.data());
  }
  return to_typed<Napi::Float32Array>(env, out);
}

Napi::Value ggml_dequantize_rows(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::string type = string_arg(info, 0, "type");
  const std::vector<uint8_t> raw = bytes_arg(info, 1, "raw");
  const int64_t n = info.Length() > 2 && info[2].IsNumber() ? info[2].As<Napi::Number>().Int64Value() : -1;
  const std::vector<float> out = guarded(env, [&] {
    const GgmlTypeInfo* t = ggml_type_info(type);
    if (!t) throw Error("UNSUPPORTED", "GGUF tensor type " + type);
    if (n < 0 || n % t->block != 0 || uint64_t(n / t->block) * uint64_t(t->bytes) != raw.size())
      throw Error("INVALID_REQUEST", "raw: wrong number of bytes for n values of " + type);
    std::vector<float> values(n);
    ggml_dequantize(t->type, raw.data(), n, values.data());
    return values;
  });
  return to_typed<Napi::Float32Array>(env, out);
}

}  // namespace

void define_files(Napi::Env env, Napi::Object exports) {
  GgufTokenizerBinding::define(env);
  exports.Set("openGgufTokenizer", Napi::Function::New(env, GgufTokenizerBinding::open));
  exports.Set("readSafetensorsHeader", Napi::Function::New(env, read_header));
  exports.Set("readSafetensor", Napi::Function::New(env, read_tensor));
  exports.Set("nf4Quantize", Napi::Function::New(env, quantize));
  exports.Set("nf4DoubleQuantize", Napi::Function::New(env, quantize_absmax));
  exports.Set("nf4Dequantize", Napi::Function::New(env, dequantize));
  exports.Set("ggmlDequantize", Napi::Function::New(env, ggml_dequantize_rows));
}

}  // namespace lorikeet
