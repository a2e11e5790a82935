// Where the time of a step goes: begun, told which part comes next, ended. The device decides how it measures.
#pragma once
#include <array>
#include <chrono>
#include <cstdint>
#include <mutex>

namespace lorikeet {

/// Rows of a step: several tokens each, one token each, or some of both.
enum class StepPhase : uint8_t { kPrefill, kDecode, kMixed };
constexpr int kStepPhases = 3;
const char* phase_name(StepPhase phase);  // "prefill"

enum class StepPart : uint8_t { kUpload, kLayers, kHead, kSample };
constexpr int kStepParts = 4;
const char* part_name(StepPart part);  // "upload"

/// Seconds by part, summed over the steps of a phase that were measured.
struct PhaseTimes {
  uint64_t steps = 0;
  std::array<double, kStepParts> seconds{};
};
using StepTimes = std::array<PhaseTimes, kStepPhases>;

/// Written by the device's thread, read by any.
class StepTotals {
 public:
  void add(StepPhase phase, const std::array<double, kStepParts>& seconds) {
    const std::lock_guard lock(mutex_);
    PhaseTimes& times = times_[size_t(phase)];
    times.steps++;
    for (int i = 0; i < kStepParts; i++) times.seconds[i] += seconds[i];
  }
  StepTimes read() const {
    const std::lock_guard lock(mutex_);
    return times_;
  }

 private:
  mutable std::mutex mutex_;
  StepTimes times_{};
};

/// A step that is begun anew without having ended was given up: it does not count.
class StepClock {
 public:
  virtual ~StepClock() = default;
  virtual void begin(StepPhase phase) = 0;
  /// Work from here on belongs to this part, which is none that was left before. Outside of a step nothing happens.
  virtual void enter(StepPart part) = 0;
  virtual void end() = 0;
  /// A range of work beside the steps, as a profiler shows it.
  virtual void open_range(const char* /*name*/) {}
  virtual void close_range() {}

  StepTimes times() const { return totals_.read(); }

 protected:
  StepTotals totals_;
};

class ClockRange {
 public:
  ClockRange(StepClock& clock, const char* name) : clock_(clock) { clock.open_range(name); }
  ~ClockRange() { clock_.close_range(); }
  ClockRange(const ClockRange&) = delete;

 private:
  StepClock& clock_;
};

/// By the host's clock, where an operation has run when its call returns.
class HostClock final : public StepClock {
 public:
  void begin(StepPhase phase) override {
    phase_ = phase;
    seconds_ = {};
    running_ = true;
    part_ = StepPart::kUpload;
    since_ = Clock::now();
  }
  void enter(StepPart part) override {
    if (!running_) return;
    pass();
    part_ = part;
  }
  void end() override {
    if (!running_) return;
    pass();
    running_ = false;
    totals_.add(phase_, seconds_);
  }

 private:
  using Clock = std::chrono::steady_clock;
  void pass() {
    const Clock::time_point now = Clock::now();
    seconds_[size_t(part_)] += std::chrono::duration<double>(now - since_).count();
    since_ = now;
  }

  StepPhase phase_ = StepPhase::kPrefill;
  StepPart part_ = StepPart::kUpload;
  bool running_ = false;
  Clock::time_point since_;
  std::array<double, kStepParts> seconds_{};
};

}  // namespace lorikeet
