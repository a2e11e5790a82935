// Files of training: the adapter as PEFT writes it, and the state from which a run goes on bit for bit. Tensors move between device
// and host piece by piece through a Transfer, so that steps of requests run between them.
#pragma once
#include <string>

#include "optimizer.h"
#include "safetensors.h"

namespace lorikeet {

/// Copies between host and device memory: download(host, device, bytes) or upload(device, host, bytes).
using Transfer = std::function<void(void* to, const void* from, size_t bytes)>;

/// The tensors of adapter_model.safetensors. Saved matrices are bf16 where the model computes in bf16, as PEFT keeps them.
std::vector<NamedTensor> adapter_tensors(const std::vector<Parameter>& parameters, DType act);

/// Durable when it returns. @throws Error FILE_INVALID, DISK_FULL.
void save_adapter(const std::string& path, const TrainedAdapter& trained, DType act, const Transfer& download);

/// Values read from an adapter file, to be uploaded: [i] belongs to parameter i.
using ParameterValues = std::vector<std::vector<float>>;

/// From an adapter directory or its adapter_model.safetensors, in any of PEFT's spellings.
/// @throws Error ADAPTER_INVALID where tensors are missing, unknown, of other shapes or not finite; MODEL_NOT_FOUND.
ParameterValues read_adapter_values(const std::string& path, const std::vector<Parameter>& parameters);

/// "adapter.NAME", "exp_avg.NAME", "exp_avg_sq.NAME" and the number of steps in the metadata; 8-bit moments as U8 codes beside
/// "exp_avg_absmax.NAME", "exp_avg_sq_absmax.NAME".
void save_state(const std::string& path, const TrainedAdapter& trained, const Optimizer& optimizer, const Transfer& download);

/// A state file that fits, open. @throws Error FILE_INVALID where a tensor is missing, unknown or of another shape.
struct StateFile {
  Safetensors file;
  int64_t n_steps;
};
StateFile open_state(const std::string& path, const TrainedAdapter& trained, const Optimizer& optimizer);
void load_state(const StateFile& state, TrainedAdapter& trained, Optimizer& optimizer, const Transfer& upload);

}  // namespace lorikeet
