// What JavaScript sees of the native engine: NativeAddon of engine/native.ts.
#include <napi.h>

#include "bindings/files_binding.h"
#include "bindings/merge_binding.h"
#include "bindings/model_binding.h"
#include "bindings/trainer_binding.h"
#include "core/backend.h"

namespace lorikeet {
namespace {

Napi::Value system_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object out = Napi::Object::New(env);
  out.Set("version", "0.1.0");
  const std::vector<std::string> isas = cpu_isas();
  Napi::Array list = Napi::Array::New(env, isas.size());
  for (size_t i = 0; i < isas.size(); i++) list.Set(uint32_t(i), isas[i]);
  out.Set("isas", list);
  out.Set("physicalCores", physical_cores());
  Napi::Object cuda = Napi::Object::New(env);
  cuda.Set("built", cuda_built());
  const std::vector<std::string> gpus = cuda_devices();
  Napi::Array devices = Napi::Array::New(env, gpus.size());
  for (size_t i = 0; i < gpus.size(); i++) devices.Set(uint32_t(i), gpus[i]);
  cuda.Set("devices", devices);
  out.Set("cuda", cuda);
  return out;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  ModelBinding::define(env);
  TrainerBinding::define(env);
  exports.Set("systemInfo", Napi::Function::New(env, system_info));
  exports.Set("loadModel", Napi::Function::New(env, ModelBinding::load));
  define_files(env, exports);
  define_merge(env, exports);
  return exports;
}

}  // namespace
}  // namespace lorikeet

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) { return lorikeet::init(env, exports); }
NODE_API_MODULE(lorikeet, init_addon)
