#include "safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "checked.h"
#include "error.h"
#include "json.h"

static_assert(std::endian::native == std::endian::little, "safetensors and GGUF are read in place");

namespace lorikeet {
namespace {

constexpr int kMaxDims = 8;

std::string quoted(std::string_view name) { return json_quote(name.substr(0, 200)); }

FileDtype parse_dtype(const std::string& text, const std::string& tensor) {
  for (int i = 0; i <= static_cast<int>(FileDtype::kBool); ++i) {
    if (text == dtype_name(static_cast<FileDtype>(i))) return static_cast<FileDtype>(i);
  }
  throw Error("FILE_INVALID", "tensor " + quoted(tensor) + " has the unknown dtype " + quoted(text));
}

uint64_t parse_size(const Json& value, const std::string& what) {
  const int64_t n = value.as_int(what);
  if (n < 0) throw Error("FILE_INVALID", what + " must not be negative, it is " + std::to_string(n));
  return static_cast<uint64_t>(n);
}

// One entry of the header; its place is checked against the others by check_layout.
TensorInfo parse_entry(const std::string& name, const Json& entry, uint64_t data_bytes) {
  const std::string who = "tensor " + quoted(name);
  const Json *dtype = entry.find("dtype"), *shape = entry.find("shape"), *offsets = entry.find("data_offsets");
  if (!entry.is_object() || dtype == nullptr || shape == nullptr || offsets == nullptr || entry.keys().size() != 3) {
    throw Error("FILE_INVALID", who + " must have exactly dtype, shape and data_offsets");
  }
  TensorInfo info;
  info.name = name;
  info.dtype = parse_dtype(dtype->as_string(who + " dtype"), name);
  if (shape->as_array(who + " shape").size() > kMaxDims) throw Error("FILE_INVALID", who + " has more than 8 dimensions");
  Checked bytes(static_cast<uint64_t>(dtype_bytes(info.dtype)));
  for (const Json& d : shape->items()) {
    const uint64_t n = parse_size(d, who + " shape");
    bytes = bytes * n;
    info.shape.push_back(static_cast<int64_t>(n));
  }
  if (offsets->as_array(who + " data_offsets").size() != 2) throw Error("FILE_INVALID", who + " needs two data_offsets");
  info.begin = parse_size(offsets->items()[0], who + " data_offsets");
  info.end = parse_size(offsets->items()[1], who + " data_offsets");
  if (bytes.overflow) throw Error("FILE_INVALID", who + " has a shape whose size overflows");
  if (info.begin > info.end) throw Error("FILE_INVALID", who + " begins after its end");
  if (info.end > data_bytes) {
    throw Error("FILE_INVALID",
                who + " ends at byte " + std::to_string(info.end) + " of the data, which has " + std::to_string(data_bytes));
  }
  if (!bytes.equals(info.end - info.begin)) {
    throw Error("FILE_INVALID", who + " has " + std::to_string(info.end - info.begin) + " bytes where its shape and dtype need " +
                                    std::to_string(bytes.value));
  }
  return info;
}

// The tensors must tile the data section: no overlap, no hole, no rest.
void check_layout(const std::vector<TensorInfo>& tensors, uint64_t data_bytes) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t x, size_t y) {
    return std::pair(tensors[x].begin, tensors[x].end) < std::pair(tensors[y].begin, tensors[y].end);
  });
  uint64_t at = 0;
  for (const size_t i : order) {
    if (tensors[i].begin != at) {
      const char* fault = tensors[i].begin < at ? " overlaps another" : " leaves a hole before it";
      throw Error("FILE_INVALID", "tensor " + quoted(tensors[i].name) + fault + " at byte " + std::to_string(tensors[i].begin));
    }
    at = tensors[i].end;
  }
  if (at != data_bytes) {
    throw Error("FILE_INVALID", std::to_string(data_bytes) + " bytes of data, but the tensors cover " + std::to_string(at));
  }
}

// The header's length out of the first 8 bytes of a file of `file_bytes`.
uint64_t header_length(const char* first8, uint64_t file_bytes, const SafetensorsLimits& limits) {
  uint64_t n = 0;
  std::memcpy(&n, first8, 8);
  if (n > limits.header_bytes) {
    throw Error("FILE_INVALID",
                "claims a header of " + std::to_string(n) + " bytes, at most " + std::to_string(limits.header_bytes) + " are read");
  }
  if (n > file_bytes - 8) throw Error("FILE_INVALID", "ends inside its header of " + std::to_string(n) + " bytes");
  return n;
}

void check_first8(uint64_t file_bytes) {
  if (file_bytes < 8) throw Error("FILE_INVALID", "has " + std::to_string(file_bytes) + " bytes, too few for a header");
}

std::map<std::string, std::string> parse_metadata(const Json& value) {
  if (!value.is_object()) throw Error("FILE_INVALID", "__metadata__ must be an object");
  std::map<std::string, std::string> metadata;
  for (size_t i = 0; i < value.keys().size(); ++i) metadata[value.keys()[i]] = value.items()[i].as_string("a value of __metadata__");
  return metadata;
}

}  // namespace

Safetensors Safetensors::map(const std::string& path, const SafetensorsLimits& limits) {
  auto file = MappedFile::open(path);
  return parse(path, file->text(), file, limits);
}

Safetensors Safetensors::parse(const std::string& name, std::string_view bytes, std::shared_ptr<const void> owner,
                               const SafetensorsLimits& limits) try {
  Safetensors file;
  file.name_ = name;
  file.owner_ = std::move(owner);
  check_first8(bytes.size());
  const uint64_t n = header_length(bytes.data(), bytes.size(), limits);
  file.data_ = bytes.data() + 8 + n;
  file.data_bytes_ = bytes.size() - 8 - n;
  file.parse_header(bytes.substr(8, n), limits);
  return file;
} catch (const Error& error) {
  throw Error(error.code(), name + ": " + error.what());
}

Safetensors Safetensors::open_owned(const std::string& path, const SafetensorsLimits& limits) {
  Safetensors file;
  file.name_ = path_name(path);
  file.reader_ = std::make_shared<FileReader>(path);
  try {
    char first8[8];
    check_first8(file.reader_->size());
    file.reader_->read(0, first8, 8);
    const uint64_t n = header_length(first8, file.reader_->size(), limits);
    std::string header(n, '\0');
    file.reader_->read(8, header.data(), n);
    file.data_bytes_ = file.reader_->size() - 8 - n;
    file.parse_header(header, limits);
    return file;
  } catch (const Error& error) {
    throw Error(error.code(), file.name_ + ": " + error.what());
  }
}

void Safetensors::load() {
  auto bytes = allocate_bytes(data_bytes_);
  reader_->read(reader_->size() - data_bytes_, bytes.get(), data_bytes_);
  data_ = reinterpret_cast<const char*>(bytes.get());
  owner_ = std::move(bytes);
}

void Safetensors::parse_header(std::string_view text, const SafetensorsLimits& limits) {
  if (text.empty() || text[0] != '{') throw Error("FILE_INVALID", "its header does not start with {");
  // A tensor of two dimensions is 9 values and 4 keys.
  const Json header = Json::parse(text, {.depth = 8, .values = 1000 + 20 * limits.tensors});
  if (header.keys().size() > limits.tensors) {
    throw Error("FILE_INVALID",
                "holds " + std::to_string(header.keys().size()) + " tensors, at most " + std::to_string(limits.tensors) + " are read");
  }
  tensors_.reserve(header.keys().size());
  for (size_t i = 0; i < header.keys().size(); ++i) {
    const std::string& key = header.keys()[i];
    if (key == "__metadata__") metadata_ = parse_metadata(header.items()[i]);
    else tensors_.push_back(parse_entry(key, header.items()[i], data_bytes_));
  }
  check_layout(tensors_, data_bytes_);
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

const TensorInfo* Safetensors::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

HostTensor Safetensors::tensor(const TensorInfo& info) const {
  if (data_ == nullptr) throw Error("INTERNAL", name_ + " is not loaded");
  HostTensor tensor{info.dtype, info.shape, data_ + info.begin, owner_};
  if (reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(dtype_bytes(info.dtype)) != 0) {
    auto copy = allocate_bytes(info.end - info.begin);
    std::memcpy(copy.get(), tensor.data, info.end - info.begin);
    tensor.data = copy.get();
    tensor.owner = std::move(copy);
  }
  return tensor;
}

std::string plan_safetensors(std::vector<NamedTensor>& tensors, const Metadata& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const NamedTensor& a, const NamedTensor& b) {
    const int64_t x = dtype_bytes(a.dtype), y = dtype_bytes(b.dtype);
    return x != y ? x > y : a.name < b.name;
  });
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) header += json_quote(key) + ':' + json_quote(value) + ',';
    header.back() = '}';
    header += ',';
  }
  uint64_t at = 0;
  for (const NamedTensor& t : tensors) {
    uint64_t n = static_cast<uint64_t>(dtype_bytes(t.dtype));
    header += json_quote(t.name) + ":{\"dtype\":\"" + dtype_name(t.dtype) + "\",\"shape\":[";
    for (size_t i = 0; i < t.shape.size(); ++i) {
      header += (i == 0 ? "" : ",") + std::to_string(t.shape[i]);
      n *= static_cast<uint64_t>(t.shape[i]);
    }
    header += "],\"data_offsets\":[" + std::to_string(at) + ',' + std::to_string(at + n) + "]},";
    at += n;
  }
  if (header.size() > 1) header.back() = '}';
  else header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header;
}

void write_safetensors(const std::string& path, std::vector<NamedTensor> tensors, const Metadata& metadata) {
  const std::string head = plan_safetensors(tensors, metadata);
  DurableFile file(path);
  file.write(head.data(), head.size());
  for (const NamedTensor& t : tensors) {
    uint64_t n = static_cast<uint64_t>(dtype_bytes(t.dtype));
    for (const int64_t d : t.shape) n *= static_cast<uint64_t>(d);
    file.write(t.data, n);
  }
  file.commit();
}

}  // namespace lorikeet
