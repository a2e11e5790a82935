#include "event_clock.h"

#include <algorithm>

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define LORIKEET_HAS_NVTX 1
#endif

namespace lorikeet::cuda {
namespace {

#if defined(LORIKEET_HAS_NVTX)
void push_range(const char* name) { nvtxRangePushA(name); }
void pop_range() { nvtxRangePop(); }
#else
void push_range(const char*) {}
void pop_range() {}
#endif

}  // namespace

EventClock::~EventClock() {
  for (Measured& m : measured_)
    for (cudaEvent_t event : m.starts)
      if (event) cudaEventDestroy(event);
}

void EventClock::show_ranges() {
#if defined(LORIKEET_HAS_NVTX)
  shows_ranges_ = true;
#else
  throw Error("UNSUPPORTED", "--nvtx: this build has no NVTX, because its CUDA toolkit lacked nvtx3/nvToolsExt.h");
#endif
}

void EventClock::begin(StepPhase phase) {
  close_ranges();  // of a step that failed
  collect();
  open_range(phase == StepPhase::kDecode ? "decode step" : phase == StepPhase::kPrefill ? "prefill step" : "mixed step");
  open_range(part_name(StepPart::kUpload));
  open_ranges_ = 2;
  current_ = nullptr;
  if (phase == StepPhase::kDecode && n_decode_++ % kDecodeInterval != 0) return;
  const auto unused = std::find_if(std::begin(measured_), std::end(measured_), [](const Measured& m) { return !m.pending; });
  if (unused == std::end(measured_)) return;
  current_ = unused;
  current_->phase = phase;
  std::fill(std::begin(current_->entered), std::end(current_->entered), false);
  current_->entered[0] = true;
  record(current_->starts[0]);
}

void EventClock::enter(StepPart part) {
  if (open_ranges_ == 0) return;
  if (current_ && !current_->entered[size_t(part)]) {
    current_->entered[size_t(part)] = true;
    record(current_->starts[size_t(part)]);
  }
  close_range();
  open_range(part_name(part));
}

void EventClock::end() {
  if (current_) {
    record(current_->starts[kStepParts]);
    current_->pending = true;
    current_ = nullptr;
  }
  close_ranges();
}

/// Those that have ended by now.
void EventClock::collect() {
  for (Measured& m : measured_) {
    if (!m.pending) continue;
    const cudaError_t status = cudaEventQuery(m.starts[kStepParts]);
    if (status == cudaErrorNotReady) {
      cudaGetLastError();  // not an error of the next launch
      continue;
    }
    check(status, "time of a step");
    std::array<double, kStepParts> seconds{};
    for (int i = 0; i < kStepParts; i++) {
      if (!m.entered[i]) continue;
      int next = i + 1;
      while (next < kStepParts && !m.entered[next]) next++;
      float ms = 0;
      check(cudaEventElapsedTime(&ms, m.starts[i], m.starts[next]), "time of a step");
      seconds[size_t(i)] = ms / 1e3;
    }
    totals_.add(m.phase, seconds);
    m.pending = false;
  }
}

void EventClock::record(cudaEvent_t& event) {
  if (!event) check(cudaEventCreate(&event), "cudaEventCreate");
  check(cudaEventRecord(event, stream_), "cudaEventRecord");
}

void EventClock::open_range(const char* name) {
  if (shows_ranges_) push_range(name);
}

void EventClock::close_range() {
  if (shows_ranges_) pop_range();
}

void EventClock::close_ranges() {
  for (; open_ranges_ > 0; open_ranges_--) close_range();
}

}  // namespace lorikeet::cuda
