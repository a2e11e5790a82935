#include "bitsandbytes.h"

#include <cmath>

#include "error.h"
#include "json.h"
#include "nf4.h"

namespace lorikeet {
namespace {

[[noreturn]] void invalid(const std::string& message) { throw Error("MODEL_INVALID", message); }
[[noreturn]] void unsupported(const std::string& message) { throw Error("UNSUPPORTED", message); }

HostTensor checked(HostTensor tensor, const std::string& name, FileDtype dtype, int64_t n) {
  if (tensor.dtype != dtype || tensor.numel() != n) {
    invalid(name + " is " + dtype_name(tensor.dtype) + " " + shape_text(tensor.shape) + ", expected " + dtype_name(dtype) + " [" +
            std::to_string(n) + "]");
  }
  return tensor;
}

Json read_state(const std::string& weight, const std::vector<int64_t>& shape, const HostTensor& bytes) {
  if (bytes.dtype != FileDtype::kU8) invalid(weight + "." + kNF4StateKey + " is not U8");
  Json state = Json::parse({static_cast<const char*>(bytes.data), static_cast<size_t>(bytes.numel())});
  const Json *type = state.find("quant_type"), *block = state.find("blocksize"), *dims = state.find("shape");
  if (type == nullptr || block == nullptr || dims == nullptr)
    invalid(weight + "." + kNF4StateKey + " lacks quant_type, blocksize or shape");
  if (type->as_string("quant_type") != "nf4")
    unsupported(weight + " has quant_type " + json_quote(type->as_string("quant_type")) + ", only nf4 is read");
  if (block->as_int("blocksize") != kNF4Block)
    unsupported(weight + " has blocks of " + std::to_string(block->as_int("blocksize")) + ", only 64 is read");
  std::vector<int64_t> stored;
  for (const Json& d : dims->as_array("shape")) stored.push_back(d.as_int("shape"));
  if (stored != shape) invalid(weight + " has shape " + shape_text(stored) + ", config.json needs " + shape_text(shape));
  const Json* nested = state.find_set("nested_blocksize");
  if (nested != nullptr && nested->as_int("nested_blocksize") != kNestedBlock)
    unsupported(weight + " has nested blocks of another size than 256");
  return state;
}

void check_code(const std::string& weight, const HostTensor& code) {
  const std::vector<float> values = to_float(checked(code, weight + ".quant_map", FileDtype::kF32, 16));
  for (size_t i = 0; i < 16; ++i) {
    if (!(std::fabs(values[i] - kNF4Code[i]) < 1e-6f)) unsupported(weight + ".quant_map is not the NF4 code");
  }
}

}  // namespace

StoredNF4::StoredNF4(const std::string& weight, const std::vector<int64_t>& shape, const std::function<HostTensor(const std::string&)>& get)
    : weight_(weight), shape_(shape), packed_(get(weight)) {
  const int64_t n = shape[0] * shape[1], n_blocks = n / kNF4Block;
  const Json state = read_state(weight, shape, get(weight + "." + kNF4StateKey));
  check_code(weight, get(weight + ".quant_map"));
  if (packed_.bytes() != n / 2) {
    invalid(weight + " has " + std::to_string(packed_.bytes()) + " bytes, NF4 of " + shape_text(shape) + " needs " + std::to_string(n / 2));
  }
  const Json* offset = state.find_set("nested_offset");
  absmax_ = checked(get(weight + ".absmax"), weight + ".absmax", offset == nullptr ? FileDtype::kF32 : FileDtype::kU8, n_blocks);
  if (offset == nullptr) return;
  nested_offset_ = static_cast<float>(offset->as_double("nested_offset"));
  nested_absmax_ =
      checked(get(weight + ".nested_absmax"), weight + ".nested_absmax", FileDtype::kF32, (n_blocks + kNestedBlock - 1) / kNestedBlock);
  nested_map_ = checked(get(weight + ".nested_quant_map"), weight + ".nested_quant_map", FileDtype::kF32, 256);
}

HostMatrix StoredNF4::matrix() const {
  struct Owner {
    std::shared_ptr<const void> packed;
    std::vector<float> absmax;
  };
  auto owner = std::make_shared<Owner>(packed_.owner, std::vector<float>(static_cast<size_t>(absmax_.numel())));
  if (absmax_.dtype == FileDtype::kF32) {
    to_float(absmax_, owner->absmax.data());
  } else {
    double_dequantize(static_cast<const uint8_t*>(absmax_.data), static_cast<const float*>(nested_absmax_.data),
                      static_cast<const float*>(nested_map_.data), nested_offset_, absmax_.numel(), owner->absmax.data());
  }
  for (const float a : owner->absmax) {
    if (!std::isfinite(a)) invalid(weight_ + ".absmax holds an infinity or NaN");
  }
  return {WeightFormat::kNF4, shape_[0], shape_[1], packed_.data, owner->absmax.data(), owner};
}

}  // namespace lorikeet
