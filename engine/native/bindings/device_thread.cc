#include "device_thread.h"

#include <cmath>
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

namespace {

constexpr auto kQuantum = std::chrono::milliseconds(10);      // of background work while steps wait, and the piece that goes beyond it
constexpr auto kStepGap = std::chrono::milliseconds(5);       // from the end of a step until the next one is surely queued
constexpr auto kServingGap = std::chrono::milliseconds(250);  // after so long without a step nobody is being served
constexpr double kWindowSeconds = 1;                          // over which shares are measured, fading

double seconds(std::chrono::steady_clock::duration d) { return std::chrono::duration<double>(d).count(); }

}  // namespace

/// Background work on its way.
struct DeviceThread::Background {
  Background(double share, const std::atomic<bool>& aborted) : share(share), aborted(aborted) {}
  const double share;
  const std::atomic<bool>& aborted;
  std::packaged_task<void()> task;
  Clock::time_point quantum_begin{};
};

/// Time that passes makes both fade; what has passed is of the window.
void DeviceThread::DeviceTime::pass(Clock::time_point now, double more_background) {
  const double fade = std::exp(-seconds(now - accounted) / kWindowSeconds);
  accounted = now;
  background = background * fade + more_background;
  all = all * fade + kWindowSeconds * (1 - fade);
}

DeviceThread::DeviceThread(Napi::Env env) : env_(env) {
  to_node_ = Napi::ThreadSafeFunction::New(env, Napi::Function(), "lorikeet device", 0, 1);
  to_node_.Unref(env);  // an idle device keeps no process alive
  at_exit_ = std::make_unique<AtExit<DeviceThread>>(env, this);  // after to_node_, so that it is called before Node frees that
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
    std::shared_ptr<Background> background;  // ours until its task has returned: who waits for it may be gone before
    Item* item = nullptr;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return closing_ || background_ || !queue_.empty(); });
      // Background work begins with a pause, which runs what waits in the queue.
      background = std::move(background_);
      if (!background && queue_.empty()) return;
      if (!background) item = take_item();
    }
    if (background) background->task();
    else run_item(item);
  }
}

DeviceThread::Item* DeviceThread::take_item() {
  if (queue_.empty()) return nullptr;
  Item* item = queue_.front();
  queue_.pop_front();
  return item;
}

void DeviceThread::run_item(Item* item) {
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
  last_item_end_ = Clock::now();
  if (!item->deferred) {
    delete item;
    return;
  }
  item->work = nullptr;  // releases what the work held, on the thread that used it
  to_node_.NonBlockingCall([this, item](Napi::Env, Napi::Function) { settle(item); });
}

void DeviceThread::run_background(const std::function<void(const std::function<void()>&)>& work, double share, const std::atomic<bool>& aborted) {
  const auto background = std::make_shared<Background>(share, aborted);
  const std::function<void()> pause = [&, own = background.get()] { this->pause(*own); };
  background->task = std::packaged_task<void()>([&, own = background.get()] {
    give_way(*own);
    own->quantum_begin = Clock::now();
    work(pause);
  });
  std::future<void> done = background->task.get_future();
  {
    const std::lock_guard lock(mutex_);
    if (closing_) throw Error("ABORTED", "the model is closed");
    background_ = background;
  }
  wake_.notify_all();
  done.get();
}

void DeviceThread::pause(Background& background) {
  const auto quantum = Clock::now() - background.quantum_begin;
  {
    const std::lock_guard lock(mutex_);
    if (closing_ || background.aborted) throw Error("ABORTED", "the training was ended");
    if (quantum < kQuantum) return;
  }
  if (background.quantum_begin - last_item_end_ < kServingGap) device_time_.pass(Clock::now(), seconds(quantum));
  give_way(background);
  background.quantum_begin = Clock::now();
}

/// Runs what waits: one piece at least, and more while the background is above its share.
void DeviceThread::give_way(const Background& background) {
  for (;;) {
    Item* item;
    {
      std::unique_lock lock(mutex_);
      if (closing_ || background.aborted) throw Error("ABORTED", "the training was ended");
      item = take_item();
      if (!item && !wait_for_next_step(lock, background)) return;
      if (!item) continue;
    }
    run_item(item);
    device_time_.pass(last_item_end_, 0);
    if (device_time_.may_train(background.share)) return;
  }
}

/// Between two steps of running requests the queue is empty for a moment. Training that has had its share does not slip in there.
/// @returns whether to look again.
bool DeviceThread::wait_for_next_step(std::unique_lock<std::mutex>& lock, const Background& background) {
  device_time_.pass(Clock::now(), 0);
  if (device_time_.may_train(background.share)) return false;
  const auto until = last_item_end_ + kStepGap;
  if (Clock::now() >= until) return false;
  wake_.wait_until(lock, until, [&] { return closing_ || background.aborted || !queue_.empty(); });
  return true;
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
  at_exit_.reset();
  to_node_.Release();
}

}  // namespace lorikeet
