// When the parts of a step run on the device, by events that are read at the beginning of a later step: nobody waits for them. Decode
// steps are short and many, so one in sixteen is measured. The same calls open and close the ranges that NVIDIA's profilers show.
#pragma once
#include "device.h"

namespace lorikeet::cuda {

class EventClock final : public StepClock {
 public:
  explicit EventClock(cudaStream_t stream) : stream_(stream) {}
  ~EventClock() override;

  /// @throws Error UNSUPPORTED where the toolkit that built this had no NVTX
  void show_ranges();

  void begin(StepPhase phase) override;
  void enter(StepPart part) override;
  void end() override;
  void open_range(const char* name) override;
  void close_range() override;

 private:
  static constexpr int kMeasured = 4;  // steps that may be on their way
  static constexpr int kDecodeInterval = 16;

  struct Measured {
    StepPhase phase = StepPhase::kPrefill;
    bool pending = false;
    bool entered[kStepParts] = {};
    cudaEvent_t starts[kStepParts + 1] = {};  // of the parts; the last one ends the step
  };

  void collect();
  void record(cudaEvent_t& event);
  void close_ranges();

  cudaStream_t stream_;
  Measured measured_[kMeasured];
  Measured* current_ = nullptr;  // null: this step is not measured
  uint64_t n_decode_ = 0;
  bool shows_ranges_ = false;
  int open_ranges_ = 0;  // of the step
};

}  // namespace lorikeet::cuda
