// The CPU's layout of the vocabulary as output: exact rows, and int8 codes beside them where the head is int8.
#pragma once
#include "linear.h"

namespace lorikeet::CPU_NS {

struct HeadCpu : Head {
  LinearCpu exact;            // bf16 or f32 rows as the checkpoint has them (NF4: the packed codes)
  Buffer codes;               // int8 + 128, [ceil(V/16)][H/4][16][4]: one register is four elements of sixteen rows
  std::vector<float> scale;   // [V]
  std::vector<float> error;   // [V] see above
  float norm_max = 0;         // largest row norm
};

}  // namespace lorikeet::CPU_NS
