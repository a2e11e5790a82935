// A thread with a queue: one owns the device, others read files or drive training. Work runs in order and settles a promise on Node's
// thread. Background work (training) shares the device's thread with the queue, piece by piece.
#pragma once
#include <napi.h>

#include <atomic>
#include <chrono>
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

/// Calls close() of `owner` when Node leaves while it lives: threads must end before Node frees what they call back into. The last
/// made is called first. Node's thread only.
template <class Owner>
class AtExit {
 public:
  AtExit(Napi::Env env, Owner* owner) : env_(env), owner_(owner) { napi_add_env_cleanup_hook(env_, call, owner_); }
  ~AtExit() { napi_remove_env_cleanup_hook(env_, call, owner_); }
  AtExit(const AtExit&) = delete;
  AtExit& operator=(const AtExit&) = delete;

 private:
  static void call(void* owner) { static_cast<Owner*>(owner)->close(); }
  napi_env env_;
  Owner* owner_;
};

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
  /// Runs background work here and waits for it; called from another such thread. It calls `pause` between its pieces. After a quantum
  /// of some 10 ms a pause runs at least one piece of queued work that waits, and more until the background's share of the time is at
  /// most `share`. A pause throws Error ABORTED once `aborted` is set or the thread closes.
  void run_background(const std::function<void(const std::function<void()>& pause)>& work, double share, const std::atomic<bool>& aborted);
  /// Lets a pause that waits see that its work was aborted.
  void wake() { wake_.notify_all(); }
  /// Calls back into JavaScript from work that is running; does not wait.
  void notify(std::function<void(Napi::Env)> call);
  /// Finishes what is queued and ends the thread. Promises of work never begun are rejected.
  void close();

 private:
  using Clock = std::chrono::steady_clock;
  struct Item;
  struct Background;
  /// The time that background work took of late from requests, of all that passed: seconds, fading.
  struct DeviceTime {
    double background = 0, all = 0;
    Clock::time_point accounted = Clock::now();
    void pass(Clock::time_point now, double more_background);
    bool may_train(double share) const { return share >= 1 || background <= share * all; }
  };
  void loop();
  void run_item(Item* item);
  Item* take_item();  // null: none waits
  void settle(Item* item);
  void pause(Background& background);
  void give_way(const Background& background);
  bool wait_for_next_step(std::unique_lock<std::mutex>& lock, const Background& background);

  Napi::ThreadSafeFunction to_node_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Item*> queue_;
  std::shared_ptr<Background> background_;  // waits to begin
  Clock::time_point last_item_end_{};  // of queued work; the device's thread only, as is device_time_
  DeviceTime device_time_;
  bool closing_ = false, closed_ = false;
  int in_flight_ = 0;  // promises not settled; Node's thread only
  Napi::Env env_;
  std::thread thread_;
  std::unique_ptr<AtExit<DeviceThread>> at_exit_;
};

}  // namespace lorikeet
