// NativeTrainer of engine/native.ts: a Trainer whose work runs on the model's device thread, between steps.
#pragma once
#include <napi.h>

#include <atomic>
#include <memory>

#include "../core/model.h"
#include "../core/trainer.h"
#include "device_thread.h"

namespace lorikeet {

/// A trainer and the threads it needs. Calls queue on `worker`, which hands their work to the device piece by piece.
struct TrainerSession {
  std::shared_ptr<Model> model;
  std::shared_ptr<DeviceThread> device, worker;
  std::unique_ptr<Trainer> trainer;  // worker thread
  double train_share = 1;
  std::unique_ptr<AtExit<TrainerSession>> at_exit;
  std::atomic<bool> aborted{false};  // closing: running work ends at its next pause, queued work does not begin
  std::atomic<bool> ended{false};    // the trainer's memory is free

  /// Runs work on the device and waits. Worker thread.
  void on_device(const std::function<void(const Pause&)>& work) { device->run_background(work, train_share, aborted); }
  /// Ends everything at once; Node's thread.
  void close();
  /// Frees the trainer's memory; when no work runs.
  void release();
};

class TrainerBinding : public Napi::ObjectWrap<TrainerBinding> {
 public:
  static void define(Napi::Env env);
  /// createTrainer(options): Promise<NativeTrainer>. `session` is set at once, so that the model can close it.
  static Napi::Value create(const Napi::CallbackInfo& info, std::shared_ptr<Model> model, std::shared_ptr<DeviceThread> device,
                            std::shared_ptr<TrainerSession>& session);

  explicit TrainerBinding(const Napi::CallbackInfo& info) : Napi::ObjectWrap<TrainerBinding>(info) {}
  ~TrainerBinding() override;

 private:
  Napi::Value get_n_trained(const Napi::CallbackInfo& info);
  Napi::Value get_bytes(const Napi::CallbackInfo& info);
  Napi::Value accumulate(const Napi::CallbackInfo& info);
  Napi::Value evaluate(const Napi::CallbackInfo& info);
  Napi::Value optimizer_step(const Napi::CallbackInfo& info);
  Napi::Value save_adapter(const Napi::CallbackInfo& info);
  Napi::Value save_state(const Napi::CallbackInfo& info);
  Napi::Value load_state(const Napi::CallbackInfo& info);
  Napi::Value load_adapter(const Napi::CallbackInfo& info);
  Napi::Value parameter(const Napi::CallbackInfo& info);
  Napi::Value gradient(const Napi::CallbackInfo& info);
  Napi::Value set_parameter(const Napi::CallbackInfo& info);
  Napi::Value trace(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  /// Queues work on the session's worker; ABORTED once it closes.
  Napi::Value run(Napi::Env env, std::function<DeviceThread::Settle(TrainerSession&)> work);

  std::shared_ptr<TrainerSession> session_;
  double n_trained_ = 0;
  std::vector<std::pair<std::string, uint64_t>> bytes_;
};

}  // namespace lorikeet
