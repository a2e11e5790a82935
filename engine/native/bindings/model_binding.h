// NativeModel of engine/native.ts: a Model behind its device thread.
#pragma once
#include <napi.h>

#include <memory>

#include "../core/model.h"
#include "device_thread.h"
#include "trainer_binding.h"

namespace lorikeet {

class ModelBinding : public Napi::ObjectWrap<ModelBinding> {
 public:
  static void define(Napi::Env env);
  /// loadModel(options, onProgress): Promise<NativeModel>
  static Napi::Value load(const Napi::CallbackInfo& info);

  explicit ModelBinding(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ModelBinding>(info) {}
  ~ModelBinding() override;

 private:
  Napi::Value get_info(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value load_adapter(const Napi::CallbackInfo& info);
  Napi::Value prefetch_adapter(const Napi::CallbackInfo& info);
  Napi::Value unload_adapter(const Napi::CallbackInfo& info);
  Napi::Value validate_adapter(const Napi::CallbackInfo& info);
  Napi::Value logits(const Napi::CallbackInfo& info);
  Napi::Value hidden(const Napi::CallbackInfo& info);
  Napi::Value create_trainer(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  Napi::Value device(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  Napi::Value run(Napi::Env env, DeviceThread::Work work);
  void close_threads();

  std::shared_ptr<DeviceThread> thread_;
  std::shared_ptr<DeviceThread> reader_;  // adapter files are read and checked here, so that steps go on meanwhile
  std::shared_ptr<DeviceThread> copier_;  // adapters that are in host memory already go to the device from here
  std::shared_ptr<Model> model_;
  std::shared_ptr<TrainerSession> trainer_;  // the last one made
};

}  // namespace lorikeet
