#include "trained_files.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

#include "adapter_keys.h"
#include "json.h"

namespace lorikeet {
namespace {

constexpr size_t kPieceBytes = 16 << 20;

int64_t blocks_of(int64_t n) { return (n + kStateBlock - 1) / kStateBlock; }

/// One tensor of a state file and where it lies on the device.
struct StatePart {
  NamedTensor tensor;  // data: device memory
  size_t bytes;
};

std::vector<StatePart> state_parts(const TrainedAdapter& trained, const Optimizer& optimizer) {
  std::vector<StatePart> parts;
  for (size_t i = 0; i < trained.parameters().size(); i++) {
    const Parameter& p = trained.parameters()[i];
    const Moments& m = optimizer.moments(i);
    const auto add = [&](const char* kind, FileDtype dtype, std::vector<int64_t> shape, int64_t n, const void* data) {
      parts.push_back({{kind + p.name, dtype, std::move(shape), data}, size_t(n * dtype_bytes(dtype))});
    };
    const auto add_moment = [&](const std::string& kind, const float* wide, const EightBitMoment& narrow) {
      if (wide) return add((kind + ".").c_str(), FileDtype::kF32, p.shape, p.size, wide);
      add((kind + ".").c_str(), FileDtype::kU8, p.shape, p.size, narrow.codes);
      add((kind + "_absmax.").c_str(), FileDtype::kF32, {blocks_of(p.size)}, blocks_of(p.size), narrow.absmax);
    };
    add("adapter.", FileDtype::kF32, p.shape, p.size, trained.values() + p.begin);
    add_moment("exp_avg", m.exp_avg, m.exp_avg_8bit);
    add_moment("exp_avg_sq", m.exp_avg_sq, m.exp_avg_sq_8bit);
  }
  return parts;
}

/// Writes device memory, as it is or as bf16.
void write_device(DurableFile& file, const void* device, size_t bytes, bool halve, const Transfer& download) {
  std::vector<char> piece(std::min(bytes, kPieceBytes));
  std::vector<bf16> half;
  for (size_t at = 0; at < bytes; at += kPieceBytes) {
    const size_t n = std::min(kPieceBytes, bytes - at);
    download(piece.data(), static_cast<const char*>(device) + at, n);
    if (!halve) {
      file.write(piece.data(), n);
      continue;
    }
    const auto* values = reinterpret_cast<const float*>(piece.data());
    half.resize(n / 4);
    std::transform(values, values + n / 4, half.begin(), to_bf16);
    file.write(half.data(), half.size() * 2);
  }
}

void transfer_pieces(void* to, const void* from, size_t bytes, const Transfer& transfer) {
  for (size_t at = 0; at < bytes; at += kPieceBytes)
    transfer(static_cast<char*>(to) + at, static_cast<const char*>(from) + at, std::min(kPieceBytes, bytes - at));
}

[[noreturn]] void refuse_adapter(const std::string& what) { throw Error("ADAPTER_INVALID", what); }

/// Module and part of a PEFT key, whatever the model class it is spelled for.
std::pair<std::string, Part> place_of(const std::string& name) {
  const auto place = parse_adapter_key(name);
  if (!place) refuse_adapter("unknown tensor: " + json_quote(name.substr(0, 200)) + " belongs to no module of the base");
  return {place->module, place->part};
}

int64_t steps_of(const Safetensors& file) {
  const auto it = file.metadata().find("step");
  int64_t step = -1;
  if (it != file.metadata().end()) std::from_chars(it->second.data(), it->second.data() + it->second.size(), step);
  if (step < 0) throw Error("FILE_INVALID", file.name() + ": its metadata names no step");
  return step;
}

}  // namespace

std::vector<NamedTensor> adapter_tensors(const std::vector<Parameter>& parameters, DType act) {
  std::vector<NamedTensor> tensors;
  for (const Parameter& p : parameters) {
    const bool half = act == DType::kBF16 && (p.kind == ParameterKind::kEmbedding || p.kind == ParameterKind::kHead);
    tensors.push_back({p.name, half ? FileDtype::kBF16 : FileDtype::kF32, p.shape, nullptr});
  }
  return tensors;
}

void save_adapter(const std::string& path, const TrainedAdapter& trained, DType act, const Transfer& download) {
  std::vector<NamedTensor> tensors = adapter_tensors(trained.parameters(), act);
  const std::string head = plan_safetensors(tensors, {{"format", "pt"}});
  DurableFile file(path);
  file.write(head.data(), head.size());
  for (const NamedTensor& t : tensors) {
    const Parameter& p = *trained.find(t.name);
    write_device(file, trained.values() + p.begin, size_t(p.size) * 4, t.dtype == FileDtype::kBF16, download);
  }
  file.commit();
}

ParameterValues read_adapter_values(const std::string& path, const std::vector<Parameter>& parameters) {
  Safetensors file = Safetensors::open_owned(is_directory(path) ? path + "/adapter_model.safetensors" : path, kAdapterLimits);
  std::map<std::pair<std::string, Part>, const TensorInfo*> found;
  for (const TensorInfo& t : file.tensors()) found[place_of(t.name)] = &t;
  std::vector<const TensorInfo*> wanted;
  for (const Parameter& p : parameters) {
    const auto it = found.find(place_of(p.name));
    if (it == found.end()) refuse_adapter("missing tensor: " + p.name);
    const TensorInfo& t = *it->second;
    if (!is_float(t.dtype)) refuse_adapter("dtype: " + p.name + " is " + dtype_name(t.dtype));
    if (t.shape != p.shape) refuse_adapter("shape: " + p.name + " has shape " + shape_text(t.shape) + ", expected " + shape_text(p.shape));
    wanted.push_back(&t);
    found.erase(it);
  }
  if (!found.empty()) refuse_adapter("unknown tensor: " + found.begin()->second->name + " is not trained here");
  file.load();
  ParameterValues values;
  for (size_t i = 0; i < wanted.size(); i++) {
    values.push_back(to_float(file.tensor(*wanted[i])));
    if (!std::all_of(values[i].begin(), values[i].end(), [](float v) { return std::isfinite(v); }))
      refuse_adapter("non-finite value: " + parameters[i].name);
  }
  return values;
}

void save_state(const std::string& path, const TrainedAdapter& trained, const Optimizer& optimizer, const Transfer& download) {
  std::vector<NamedTensor> tensors;
  std::map<std::string, size_t> bytes;
  for (const StatePart& part : state_parts(trained, optimizer)) {
    tensors.push_back(part.tensor);
    bytes[part.tensor.name] = part.bytes;
  }
  const std::string head = plan_safetensors(tensors, {{"format", "pt"}, {"step", std::to_string(optimizer.n_steps())}});
  DurableFile file(path);
  file.write(head.data(), head.size());
  for (const NamedTensor& t : tensors) write_device(file, t.data, bytes[t.name], false, download);
  file.commit();
}

StateFile open_state(const std::string& path, const TrainedAdapter& trained, const Optimizer& optimizer) {
  Safetensors file = Safetensors::open_owned(path, {});
  const auto refuse = [&](const std::string& what) { throw Error("FILE_INVALID", path + ": " + what); };
  const std::vector<StatePart> parts = state_parts(trained, optimizer);
  for (const StatePart& part : parts) {
    const TensorInfo* t = file.find(part.tensor.name);
    if (!t) refuse("no tensor " + part.tensor.name);
    if (t->dtype != part.tensor.dtype || t->shape != part.tensor.shape)
      refuse(part.tensor.name + " is " + dtype_name(t->dtype) + " " + shape_text(t->shape) + ", expected " + dtype_name(part.tensor.dtype) + " " +
             shape_text(part.tensor.shape));
  }
  if (file.tensors().size() != parts.size()) refuse("holds tensors that are not trained here");
  const int64_t n_steps = steps_of(file);
  file.load();
  return {std::move(file), n_steps};
}

void load_state(const StateFile& state, TrainedAdapter& trained, Optimizer& optimizer, const Transfer& upload) {
  for (const StatePart& part : state_parts(trained, optimizer)) {
    const HostTensor tensor = state.file.tensor(*state.file.find(part.tensor.name));
    transfer_pieces(const_cast<void*>(part.tensor.data), tensor.data, part.bytes, upload);
  }
  optimizer.set_steps(state.n_steps);
}

}  // namespace lorikeet
