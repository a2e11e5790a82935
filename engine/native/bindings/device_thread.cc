#include "device_thread.h"

#include <future>
#include <new>
#include <optional>

namespace lorikeet {

Napi::Error js_error(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

struct DeviceThread::Item {
  std::shared_ptr<DeviceThread> owner;
  Work work;
  Settle settle;
  std::optional<Napi::Promise::Deferred> deferred;  // none: another thread waits, not JavaScript
  std::string error_code, error_message;
};

DeviceThread::DeviceThread(Napi::Env env) : env_(env) {
  to_node_ = Napi::ThreadSafeFunction::New(env, Napi::Function(), "lorikeet device", 0, 1);
  to_node_.Unref(env);  // an idle device keeps no process alive
  thread_ = std::thread([this] { loop(); });
}

DeviceThread::~DeviceThread() { close(); }

Napi::Promise DeviceThread::run(Napi::Env env, Work work) {
  auto* item = new Item{shared_from_this(), std::move(work), {}, Napi::Promise::Deferred::New(env), {}, {}};
  const Napi::Promise promise = item->deferred->Promise();
  if (in_flight_++ == 0) to_node_.Ref(env);
  {
    const std::lock_guard lock(mutex_);
    if (!closing_) {
      queue_.push_back(item);
      item = nullptr;
    }
  }
  wake_.notify_one();
  if (item) {
    item->error_code = "ENGINE_UNAVAILABLE";
    item->error_message = "the model is closed";
    settle(item);
  }
  return promise;
}

void DeviceThread::run_and_wait(std::function<void()> piece) {
  std::packaged_task<void()> task(std::move(piece));
  std::future<void> done = task.get_future();
  {
    const std::lock_guard lock(mutex_);
    if (closing_) throw Error("ENGINE_UNAVAILABLE", "the model is closed");
    auto shared = std::make_shared<std::packaged_task<void()>>(std::move(task));
    queue_.push_back(new Item{nullptr, [shared]() -> Settle { (*shared)(); return {}; }, {}, std::nullopt, {}, {}});
  }
  wake_.notify_one();
  done.get();
}

void DeviceThread::notify(std::function<void(Napi::Env)> call) {
  to_node_.NonBlockingCall([call = std::move(call)](Napi::Env env, Napi::Function) { call(env); });
}

void DeviceThread::loop() {
  for (;;) {
    Item* item;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;
      item = queue_.front();
      queue_.pop_front();
    }
    try {
      item->settle = item->work();
    } catch (const Error& e) {
      item->error_code = e.code();
      item->error_message = e.what();
    } catch (const std::bad_alloc&) {
      item->error_code = "OUT_OF_MEMORY";
      item->error_message = "out of memory";
    } catch (const std::exception& e) {
      item->error_code = "INTERNAL";
      item->error_message = e.what();
    }
    if (!item->deferred) {
      delete item;
      continue;
    }
    item->work = nullptr;  // releases what the work held, on the thread that used it
    to_node_.NonBlockingCall([this, item](Napi::Env, Napi::Function) { settle(item); });
  }
}

void DeviceThread::settle(Item* item) {
  const Napi::HandleScope scope(env_);
  try {
    if (item->error_code.empty()) item->deferred->Resolve(item->settle(env_));
    else item->deferred->Reject(js_error(env_, item->error_code.c_str(), item->error_message).Value());
  } catch (const Napi::Error& e) {
    item->deferred->Reject(e.Value());
  }
  const std::shared_ptr<DeviceThread> self = std::move(item->owner);
  delete item;
  if (--in_flight_ == 0 && !closed_) to_node_.Unref(env_);
}

void DeviceThread::close() {
  {
    const std::lock_guard lock(mutex_);
    if (closing_) return;
    closing_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
  closed_ = true;
  to_node_.Release();
}

}  // namespace lorikeet
