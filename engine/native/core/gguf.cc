#include "gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "checked.h"
#include "error.h"
#include "json.h"

namespace lorikeet {
namespace {

constexpr uint32_t kMagic = 0x46554747;    // "GGUF"
constexpr uint64_t kMaxValues = 100'000, kMaxTensors = 100'000, kMaxNameBytes = 1024, kMaxAlignment = 1 << 20;
constexpr uint32_t kMaxDims = 4;

// Bytes of one scalar; 0 for strings and arrays.
uint64_t scalar_bytes(GgufType type) {
  static constexpr uint8_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kBytes[static_cast<uint32_t>(type)];
}

template <typename T>
T load(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

}  // namespace

class GgufParser {
 public:
  GgufParser(Gguf& out, std::string_view bytes) : out_(out), bytes_(bytes) {}

  void parse() {
    check_magic();
    const uint64_t n_tensors = take_count("tensors", kMaxTensors), n_values = take_count("key-values", kMaxValues);
    for (uint64_t i = 0; i < n_values; ++i) parse_key_value();
    sort_unique(out_.values_, [](const auto& v) { return v.first; }, "key");
    const uint64_t alignment = parse_alignment();
    for (uint64_t i = 0; i < n_tensors; ++i) parse_tensor();
    place_tensors(alignment);
  }

 private:
  [[noreturn]] void fail(const std::string& cause) const {
    throw Error("FILE_INVALID", "invalid GGUF at byte " + std::to_string(pos_) + ": " + cause);
  }

  std::string_view take(uint64_t n, const char* what) {
    if (n > bytes_.size() - pos_) fail(std::string("the file ends inside ") + what);
    const std::string_view part = bytes_.substr(pos_, n);
    pos_ += n;
    return part;
  }

  template <typename T>
  T take(const char* what) { return load<T>(take(sizeof(T), what)); }

  std::string_view take_string(const char* what) {
    const auto n = take<uint64_t>(what);
    return take(n, what);
  }

  uint64_t take_count(const char* what, uint64_t most) {
    const auto n = take<uint64_t>(what);
    if (n > most) fail("claims " + std::to_string(n) + " " + what + ", at most " + std::to_string(most) + " are read");
    return n;
  }

  std::string_view take_name(const char* what) {
    const std::string_view name = take_string(what);
    if (name.empty() || name.size() > kMaxNameBytes || !is_utf8(name)) fail(std::string(what) + " is empty, too long or not UTF-8");
    return name;
  }

  void check_magic() {
    if (take<uint32_t>("the magic number") != kMagic) fail("not a GGUF file");
    const auto version = take<uint32_t>("the version");
    if (version == __builtin_bswap32(2) || version == __builtin_bswap32(3)) throw Error("UNSUPPORTED", "a big-endian GGUF file");
    if (version != 2 && version != 3) throw Error("UNSUPPORTED", "GGUF version " + std::to_string(version) + ", only 2 and 3 are read");
  }

  GgufType take_type() {
    const auto type = take<uint32_t>("a value type");
    if (type > static_cast<uint32_t>(GgufType::kF64)) fail("unknown value type " + std::to_string(type));
    return static_cast<GgufType>(type);
  }

  void parse_key_value() {
    const std::string_view key = take_name("a key");
    GgufValue value;
    value.type = take_type();
    if (value.type == GgufType::kString) value.bytes = take_string("a string");
    else if (value.type == GgufType::kArray) parse_array(value);
    else value.bytes = take(scalar_bytes(value.type), "a value");
    if (value.type == GgufType::kBool && static_cast<uint8_t>(value.bytes[0]) > 1) fail("a boolean that is neither 0 nor 1");
    out_.values_.emplace_back(key, value);
  }

  void parse_array(GgufValue& value) {
    value.item = take_type();
    value.count = take<uint64_t>("an array");
    if (value.item == GgufType::kArray) fail("an array of arrays");
    const uint64_t start = pos_;
    if (value.item == GgufType::kString) {
      if (value.count > (bytes_.size() - pos_) / 8) fail("an array of " + std::to_string(value.count) + " strings does not fit the file");
      for (uint64_t i = 0; i < value.count; ++i) take_string("a string of an array");
    } else {
      const Checked n = Checked(value.count) * scalar_bytes(value.item);
      if (!n.at_most(bytes_.size() - pos_)) fail("an array of " + std::to_string(value.count) + " values does not fit the file");
      pos_ += n.value;
    }
    value.bytes = bytes_.substr(start, pos_ - start);
  }

  uint64_t parse_alignment() const {
    const GgufValue* value = out_.find("general.alignment");
    if (value == nullptr) return 32;
    if (value->type != GgufType::kU32) fail("general.alignment must be a uint32");
    const auto alignment = load<uint32_t>(value->bytes);
    if (alignment < 8 || alignment > kMaxAlignment || !std::has_single_bit(alignment)) {
      fail("general.alignment is " + std::to_string(alignment) + ", expected a power of two from 8 on");
    }
    return alignment;
  }

  void parse_tensor() {
    GgufTensor tensor;
    tensor.name = take_name("a tensor's name");
    const auto n_dims = take<uint32_t>("a tensor's dimensions");
    if (n_dims < 1 || n_dims > kMaxDims) fail("tensor " + json_quote(tensor.name) + " has " + std::to_string(n_dims) + " dimensions");
    Checked numel(1);
    for (uint32_t i = 0; i < n_dims; ++i) {
      const auto d = take<uint64_t>("a tensor's dimensions");
      if (d == 0 || d > INT64_MAX) fail("tensor " + json_quote(tensor.name) + " has a dimension of " + std::to_string(d));
      numel = numel * d;
      tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(d));
    }
    if (!numel.at_most(INT64_MAX / 4)) fail("tensor " + json_quote(tensor.name) + " has a shape whose size overflows");
    tensor.numel = static_cast<int64_t>(numel.value);
    const auto type = take<uint32_t>("a tensor's type");
    tensor.type = ggml_type_info(type);
    if (tensor.type == nullptr) {
      throw Error("UNSUPPORTED", "tensor " + json_quote(tensor.name) + " has ggml type " + std::to_string(type) +
                                     ": F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K are read");
    }
    if (tensor.shape.back() % tensor.type->block != 0) {
      fail("tensor " + json_quote(tensor.name) + " has rows of " + std::to_string(tensor.shape.back()) + ", no multiple of a block of " +
           tensor.type->name);
    }
    offsets_.push_back(take<uint64_t>("a tensor's offset"));
    out_.tensors_.push_back(std::move(tensor));
  }

  // Offsets count from the data section, which starts at the next multiple of the alignment.
  void place_tensors(uint64_t alignment) {
    const uint64_t start = (pos_ + alignment - 1) / alignment * alignment;
    if (start > bytes_.size() && !offsets_.empty()) fail("the file ends before its tensor data");
    const uint64_t data_bytes = offsets_.empty() ? 0 : bytes_.size() - start;
    std::vector<std::pair<uint64_t, uint64_t>> spans;
    for (size_t i = 0; i < offsets_.size(); ++i) {
      GgufTensor& tensor = out_.tensors_[i];
      const auto n = static_cast<uint64_t>(tensor.numel / tensor.type->block * tensor.type->bytes);
      if (offsets_[i] % alignment != 0) fail("tensor " + json_quote(tensor.name) + " is not aligned to " + std::to_string(alignment));
      if (!(Checked(offsets_[i]) + n).at_most(data_bytes)) fail("tensor " + json_quote(tensor.name) + " reaches past the end of the file");
      tensor.data = reinterpret_cast<const uint8_t*>(bytes_.data()) + start + offsets_[i];
      spans.emplace_back(offsets_[i], offsets_[i] + n);
    }
    std::sort(spans.begin(), spans.end());
    for (size_t i = 1; i < spans.size(); ++i) {
      if (spans[i].first < spans[i - 1].second) fail("two tensors overlap at byte " + std::to_string(spans[i].first) + " of the data");
    }
    sort_unique(out_.tensors_, [](const GgufTensor& t) { return std::string_view(t.name); }, "tensor");
  }

  template <typename Item, typename Key>
  void sort_unique(std::vector<Item>& items, Key key, const char* what) const {
    std::sort(items.begin(), items.end(), [&](const Item& a, const Item& b) { return key(a) < key(b); });
    for (size_t i = 1; i < items.size(); ++i) {
      if (key(items[i]) == key(items[i - 1])) fail(std::string("the ") + what + " " + json_quote(key(items[i])) + " stands twice");
    }
  }

  Gguf& out_;
  std::string_view bytes_;
  uint64_t pos_ = 0;
  std::vector<uint64_t> offsets_;          // in the order of the file, as out_.tensors_ until they are sorted
};

Gguf Gguf::open(const std::string& path) {
  Gguf gguf;
  gguf.file_ = MappedFile::open(path);
  try {
    GgufParser(gguf, gguf.file_->text()).parse();
  } catch (const Error& error) {
    throw Error(error.code(), path + ": " + error.what());
  }
  return gguf;
}

const GgufTensor* Gguf::tensor(std::string_view name) const {
  const auto it =
      std::lower_bound(tensors_.begin(), tensors_.end(), name, [](const GgufTensor& t, std::string_view n) { return t.name < n; });
  return it == tensors_.end() || it->name != name ? nullptr : &*it;
}

const GgufValue* Gguf::find(std::string_view key) const {
  const auto it = std::lower_bound(values_.begin(), values_.end(), key, [](const auto& v, std::string_view k) { return v.first < k; });
  return it == values_.end() || it->first != key ? nullptr : &it->second;
}

std::optional<int64_t> Gguf::integer(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return std::nullopt;
  switch (v->type) {
    case GgufType::kU8: return load<uint8_t>(v->bytes);
    case GgufType::kI8: return load<int8_t>(v->bytes);
    case GgufType::kU16: return load<uint16_t>(v->bytes);
    case GgufType::kI16: return load<int16_t>(v->bytes);
    case GgufType::kU32: return load<uint32_t>(v->bytes);
    case GgufType::kI32: return load<int32_t>(v->bytes);
    case GgufType::kI64: return load<int64_t>(v->bytes);
    case GgufType::kU64:
      if (load<uint64_t>(v->bytes) <= INT64_MAX) return static_cast<int64_t>(load<uint64_t>(v->bytes));
      [[fallthrough]];
    default: throw Error("FILE_INVALID", json_quote(key) + " must be an integer");
  }
}

std::optional<double> Gguf::number(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return std::nullopt;
  if (v->type == GgufType::kF32) return load<float>(v->bytes);
  if (v->type == GgufType::kF64) return load<double>(v->bytes);
  return static_cast<double>(*integer(key));
}

std::optional<std::string> Gguf::string(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return std::nullopt;
  if (v->type != GgufType::kString || !is_utf8(v->bytes)) throw Error("FILE_INVALID", json_quote(key) + " must be a UTF-8 string");
  return std::string(v->bytes);
}

std::string_view GgufStrings::next() {
  const auto n = load<uint64_t>(rest_);
  const std::string_view item = rest_.substr(8, n);
  rest_.remove_prefix(8 + n);
  return item;
}

}  // namespace lorikeet
