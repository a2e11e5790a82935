#include "step_clock.h"

namespace lorikeet {

const char* phase_name(StepPhase phase) {
  constexpr const char* kNames[] = {"prefill", "decode", "mixed"};
  return kNames[size_t(phase)];
}

const char* part_name(StepPart part) {
  constexpr const char* kNames[] = {"upload", "layers", "head", "sample"};
  return kNames[size_t(part)];
}

}  // namespace lorikeet
