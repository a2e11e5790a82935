// A thread with a queue: one owns the device, another reads adapter files. Work runs in order and settles a promise on Node's thread.
#pragma once
#include <napi.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "../core/error.h"

namespace lorikeet {

/// {code, message} as JavaScript expects it from native code.
Napi::Error js_error(Napi::Env env, const char* code, const std::string& message);

/// Runs a callback of JavaScript's and turns what native code throws into a JavaScript error with a code.
template <class F>
auto guarded(Napi::Env env, F body) -> decltype(body()) {
  try {
    return body();
  } catch (const Error& e) {
    throw js_error(env, e.code(), e.what());
  } catch (const std::bad_alloc&) {
    throw js_error(env, "OUT_OF_MEMORY", "out of memory");
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& e) {
    throw js_error(env, "INTERNAL", e.what());
  }
}

/// Held by shared_ptr: work in flight keeps it alive.
class DeviceThread : public std::enable_shared_from_this<DeviceThread> {
 public:
  /// Makes the JavaScript value of a finished piece of work; runs on Node's thread.
  using Settle = std::function<Napi::Value(Napi::Env)>;
  /// Runs on the device thread.
  using Work = std::function<Settle()>;

  explicit DeviceThread(Napi::Env env);
  ~DeviceThread();

  Napi::Promise run(Napi::Env env, Work work);
  /// Runs a piece here after what is queued, and waits for it; called from work on another such thread. Rethrows what it throws.
  void run_and_wait(std::function<void()> piece);
  /// Calls back into JavaScript from work that is running; does not wait.
  void notify(std::function<void(Napi::Env)> call);
  /// Finishes what is queued and ends the thread. Promises of work never begun are rejected.
  void close();

 private:
  struct Item;
  void loop();
  void settle(Item* item);

  Napi::ThreadSafeFunction to_node_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Item*> queue_;
  bool closing_ = false, closed_ = false;
  int in_flight_ = 0;  // promises not settled; Node's thread only
  Napi::Env env_;
  std::thread thread_;
};

}  // namespace lorikeet
