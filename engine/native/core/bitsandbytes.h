// One NF4 matrix as bitsandbytes stores it: packed codes, scales that may be quantised themselves, and a description in JSON.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "checkpoint.h"
#include "host_tensor.h"

namespace lorikeet {

constexpr const char* kNF4StateKey = "quant_state.bitsandbytes__nf4";
// What may hang on the name of a weight.
constexpr const char* kNF4Parts[] = {"absmax", "quant_map", "nested_absmax", "nested_quant_map", kNF4StateKey};

class StoredNF4 {
 public:
  // `weight` is the name of the packed tensor, `get` finds tensors by name or throws. Everything but the scales' values is
  // checked. Throws MODEL_INVALID, FILE_INVALID, UNSUPPORTED.
  StoredNF4(const std::string& weight, const std::vector<int64_t>& shape, const std::function<HostTensor(const std::string&)>& get);

  // The codes in place, the scales freshly dequantised. Throws MODEL_INVALID where they hold an infinity or NaN.
  HostMatrix matrix() const;

 private:
  std::string weight_;
  std::vector<int64_t> shape_;             // [rows, cols]
  HostTensor packed_;                      // rows * cols / 2 bytes, whatever dtype quant_storage gave them
  HostTensor absmax_;                      // F32, or U8 when nested
  HostTensor nested_absmax_, nested_map_;
  float nested_offset_ = 0;
};

}  // namespace lorikeet
