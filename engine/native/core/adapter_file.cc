// The order of work: config, tensor table, names and shapes, then the data, then its values. What PEFT would only warn of
// (tensors that belong nowhere, modules without tensors) is refused: the adapter would not be what its author trained.
#include "adapter_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "adapter_config.h"
#include "adapter_keys.h"
#include "error.h"
#include "json.h"
#include "mapped_file.h"
#include "safetensors.h"

namespace lorikeet {
namespace {

constexpr uint64_t kMaxConfigBytes = 1 << 20;
constexpr uint64_t kMaxFileBytes = uint64_t{16} << 30;   // two fp32 matrices of the largest vocabulary and more

std::string quoted(const std::string& name) { return json_quote(name.substr(0, 200)); }

// Tensors of one module.
struct Parts {
  std::map<Part, const TensorInfo*> tensors;
  const TensorInfo* find(Part part) const {
    const auto it = tensors.find(part);
    return it == tensors.end() ? nullptr : it->second;
  }
};

class AdapterReader {
 public:
  AdapterReader(const std::string& dir, const Gemma3Config& base, int max_rank) : dir_(dir), base_(base), max_rank_(max_rank) {}

  AdapterFile read() {
    read_config();
    read_table();
    sort_tensors();
    check_targets();
    out_.layers.resize(static_cast<size_t>(base_.n_layers));
    plan();
    refuse_leftovers();
    load();
    return std::move(out_);
  }

 private:
  std::string path(const char* name) const { return dir_ + "/" + name; }

  void read_config() {
    if (!is_directory(dir_)) throw Error("ADAPTER_NOT_FOUND", quoted(path_name(dir_)) + " is not an adapter directory");
    if (!is_file(path("adapter_config.json"))) refuse_adapter("missing file", "adapter_config.json");
    try {
      config_ = parse_adapter_config(read_file(path("adapter_config.json"), kMaxConfigBytes).text());
    } catch (const Error& error) {
      if (std::string_view(error.code()) == "ADAPTER_INVALID") throw;
      refuse_adapter("config", "adapter_config.json cannot be read or is larger than 1 MiB");
    }
    out_.base_model = config_.base_model;
    out_.use_dora = config_.use_dora;
  }

  void read_table() {
    if (!is_file(path("adapter_model.safetensors"))) {
      if (is_file(path("adapter_model.bin"))) {
        refuse_adapter("unsupported format", "adapter_model.bin is a pickle, which can run code: save it as safetensors");
      }
      refuse_adapter("missing file", "adapter_model.safetensors");
    }
    try {
      file_.emplace(Safetensors::open_owned(path("adapter_model.safetensors"), kAdapterLimits));
    } catch (const Error& error) {
      refuse_adapter("container", error.what());
    }
    if (file_->data_bytes() > kMaxFileBytes) refuse_adapter("container", "adapter_model.safetensors is larger than 16 GiB");
    out_.bytes = file_->data_bytes();
    out_.n_tensors = static_cast<int>(file_->tensors().size());
  }

  void sort_tensors() {
    for (const TensorInfo& info : file_->tensors()) {
      auto place = parse_adapter_key(info.name);
      if (!place) refuse_adapter("unknown tensor", quoted(info.name) + " belongs to no module of the base");
      if (place->vision) {
        vision_.push_back({&info, place->part});
        continue;
      }
      if (!place->prefix.empty() && !prefix_.empty() && place->prefix != prefix_) {
        refuse_adapter("unknown tensor", quoted(info.name) + " is spelled for another model class than the tensors before it");
      }
      if (!place->prefix.empty()) prefix_ = place->prefix;
      if (!modules_[place->module].tensors.emplace(place->part, &info).second) {
        refuse_adapter("unknown tensor", quoted(info.name) + " stands twice in two spellings");
      }
    }
    if (prefix_.empty()) prefix_ = "model.";
  }

  // The name of a module as PEFT saw it, which target and pattern expressions are about.
  std::string full_name(const std::string& module) const { return module == "lm_head" ? module : prefix_ + module; }

  bool adapts(const std::string& module, int layer) const {
    // A flag of PEFT 0.19: LoRA on a tied embedding comes with its transpose on the head.
    if (module == "lm_head" && config_.ensure_weight_tying && base_.tied && out_.embed_tokens) return true;
    if (config_.targets || config_.all_linear) return config_.adapts(full_name(module), layer);
    const auto it = modules_.find(module);  // target_modules absent: the file says it
    return it != modules_.end() && it->second.find(Part::kA) != nullptr;
  }

  // Every name of a target list must exist in the base, and something must be adapted at all.
  void check_targets() {
    if (!config_.targets) return;
    const std::vector<std::string> all = module_names();
    if (!config_.targets->is_list()) {
      const bool any = std::any_of(all.begin(), all.end(), [&](const std::string& module) { return config_.targets->contains(module); });
      if (!any) refuse_adapter("config", "the regular expression in target_modules matches no module of the base");
      return;
    }
    for (const std::string& target : config_.targets->names()) {
      const bool exists = std::any_of(all.begin(), all.end(), [&](const std::string& module) { return names_module(module, target); });
      if (!exists && !is_vision_module(target))
        refuse_adapter("config", "target_modules names " + quoted(target) + ", which the base does not have");
    }
  }

  // "all-linear" over a model with a vision tower lists its modules too.
  bool is_vision_module(const std::string& target) const {
    if (prefix_ == "model.") return false;
    for (const char* name : {"out_proj", "fc1", "fc2"}) {
      if (names_module(target, name)) return true;
    }
    return target.find("vision_tower.") != std::string::npos;
  }

  std::vector<std::string> module_names() const {
    std::vector<std::string> names{full_name("embed_tokens"), full_name("lm_head")};
    for (int layer = 0; layer < base_.n_layers; ++layer) {
      for (int m = 0; m < kModules; ++m)
        names.push_back(full_name("layers." + std::to_string(layer) + "." + module_path(static_cast<Module>(m))));
    }
    return names;
  }

  // Takes every tensor that the config calls for out of modules_, checked against the base.
  void plan() {
    for (int layer = 0; layer < base_.n_layers; ++layer) {
      for (int m = 0; m < kModules; ++m) {
        const auto module = static_cast<Module>(m);
        const std::string name = "layers." + std::to_string(layer) + "." + module_path(module);
        if (!adapts(name, layer)) continue;
        plan_pair(name, module_rows(base_, module), module_cols(base_, module),
                  out_.layers[static_cast<size_t>(layer)][static_cast<size_t>(m)]);
      }
    }
    if (adapts("embed_tokens", -1)) plan_pair("embed_tokens", base_.hidden_size, base_.vocab_size, out_.embed_tokens);
    if (adapts("lm_head", -1)) plan_pair("lm_head", base_.vocab_size, base_.hidden_size, out_.lm_head);
    plan_token_rows("embed_tokens", config_.embed_token_ids, out_.token_rows);
    plan_head_rows();
    plan_saved();
  }

  const TensorInfo* take(const std::string& module, Part part) {
    const auto it = modules_.find(module);
    if (it == modules_.end()) return nullptr;
    const TensorInfo* info = it->second.find(part);
    it->second.tensors.erase(part);
    if (it->second.tensors.empty()) modules_.erase(it);
    return info;
  }

  // Registers a tensor whose shape and dtype are right, to be filled by load().
  void expect(const TensorInfo* info, const std::string& what, const std::vector<int64_t>& shape, HostTensor& to) {
    if (info == nullptr) refuse_adapter("missing tensor", what + ", expected with shape " + shape_text(shape));
    if (!is_float(info->dtype))
      refuse_adapter("dtype", quoted(info->name) + " is " + dtype_name(info->dtype) + ", expected F32, BF16 or F16");
    if (info->shape != shape)
      refuse_adapter("shape", quoted(info->name) + " has shape " + shape_text(info->shape) + ", expected " + shape_text(shape));
    wanted_.push_back({info, &to});
  }

  void plan_pair(const std::string& module, int64_t n_out, int64_t n_in, std::optional<LoraPair>& to) {
    const std::string name = full_name(module);
    const int rank = config_.rank_of(name);
    if (rank > max_rank_) {
      throw Error("ADAPTER_RANK_TOO_LARGE", name + " has r=" + std::to_string(rank) + ", this server allows " + std::to_string(max_rank_) +
                                                " (set LORIKEET_MAX_LORA_RANK)");
    }
    LoraPair& pair = to.emplace();
    pair.rank = rank;
    pair.scale = config_.scale_of(name);
    if (!std::isfinite(pair.scale)) refuse_adapter("config", "lora_alpha of " + name + " is too large");
    out_.max_rank = std::max(out_.max_rank, rank);
    expect(take(module, Part::kA), name + ".lora_A", {rank, n_in}, pair.a);
    expect(take(module, Part::kB), name + ".lora_B", {n_out, rank}, pair.b);
    zero_at_start_.push_back(module == "embed_tokens" ? &pair.a : &pair.b);
    if (!config_.use_dora) return;
    if (module == "embed_tokens" || module == "lm_head") refuse_adapter("unsupported", "DoRA on " + module);
    expect(take(module, Part::kMagnitude), name + ".lora_magnitude_vector", {n_out}, pair.magnitude);
  }

  void plan_token_rows(const std::string& module, const std::vector<int>& ids, std::optional<TokenRows>& to) {
    if (ids.empty()) return;
    if (std::set<int>(ids.begin(), ids.end()).size() != ids.size()) refuse_adapter("config", "trainable_token_indices names a token twice");
    const int largest = *std::max_element(ids.begin(), ids.end());
    if (largest >= base_.vocab_size) {
      refuse_adapter("config", "trainable_token_indices names token " + std::to_string(largest) + ", the base has " +
                                   std::to_string(base_.vocab_size));
    }
    TokenRows& rows = to.emplace();
    rows.token_ids = ids;
    expect(take(module, Part::kTokenRows), full_name(module) + ".token_adapter.trainable_tokens_delta",
           {static_cast<int64_t>(ids.size()), base_.hidden_size}, rows.rows);
  }

  // Over a tied base PEFT ties the rows of both ends and saves those of the embedding alone.
  void plan_head_rows() {
    if (config_.head_token_ids.empty()) return;
    const auto it = modules_.find("lm_head");
    const bool stored = it != modules_.end() && it->second.find(Part::kTokenRows) != nullptr;
    if (!base_.tied) return plan_token_rows("lm_head", config_.head_token_ids, out_.head_rows);
    if (stored || config_.head_token_ids != config_.embed_token_ids) {
      refuse_adapter("unsupported", "trainable_token_indices of lm_head that differ from those of embed_tokens, over a tied base");
    }
  }

  bool saves(const char* module) const {
    return std::any_of(config_.saved_modules.begin(), config_.saved_modules.end(),
                       [&](const std::string& name) { return names_module(name, module); });
  }

  // Full matrices: named by modules_to_save (each end its own), or written by PEFT beside a targeted or resized embedding,
  // which it then loads into the base, whose two ends are one matrix when tied.
  void plan_saved() {
    for (const std::string& name : config_.saved_modules) {
      const bool known = names_module(name, "embed_tokens") || names_module(name, "lm_head");
      if (!known) refuse_adapter("unsupported", "modules_to_save names " + quoted(name) + ", only embed_tokens and lm_head are served");
    }
    const std::vector<int64_t> shape{base_.vocab_size, base_.hidden_size};
    const TensorInfo* embed = take("embed_tokens", Part::kWeight);
    const TensorInfo* head = take("lm_head", Part::kWeight);
    const TensorInfo* embed_copy = take("embed_tokens", Part::kBaseWeight);
    const TensorInfo* head_copy = take("lm_head", Part::kBaseWeight);
    if (saves("embed_tokens") || embed != nullptr) expect(embed, full_name("embed_tokens") + ".weight", shape, out_.saved_embed_tokens);
    if (saves("lm_head") || head != nullptr) expect(head, "lm_head.weight", shape, out_.saved_lm_head);
    const bool copies = embed_copy != nullptr || head_copy != nullptr;
    if (copies && (embed != nullptr || head != nullptr))
      refuse_adapter("unknown tensor", "both a saved embedding and a copy of the base's");
    if (embed_copy != nullptr) expect(embed_copy, "", shape, out_.saved_embed_tokens);
    if (head_copy != nullptr) expect(head_copy, "", shape, out_.saved_lm_head);
    out_.saved_is_base_copy = copies;
    const bool one_matrix = copies || config_.ensure_weight_tying || !(saves("embed_tokens") || saves("lm_head"));
    shares_ends_ = base_.tied && one_matrix;
    if (out_.token_rows && saves("embed_tokens"))
      refuse_adapter("config", "embed_tokens stands in modules_to_save and in trainable_token_indices");
  }

  void refuse_leftovers() {
    for (const auto& [module, parts] : modules_) {
      const TensorInfo* info = parts.tensors.begin()->second;
      refuse_adapter("unknown tensor", quoted(info->name) + " is not called for by adapter_config.json, or is of no module of the base");
    }
    if (wanted_.empty()) refuse_adapter("missing tensor", "adapter_model.safetensors holds nothing for the text model");
  }

  void load() {
    try {
      file_->load();
    } catch (const Error& error) {
      if (std::string_view(error.code()) == "OUT_OF_MEMORY") throw;
      refuse_adapter("container", error.what());
    }
    for (const auto& [info, to] : wanted_) {
      *to = file_->tensor(*info);
      if (!all_finite(*to)) refuse_adapter("non-finite value", quoted(info->name) + " holds an infinity or NaN");
    }
    if (shares_ends_ && !out_.saved_embed_tokens.empty() && out_.saved_lm_head.empty()) out_.saved_lm_head = out_.saved_embed_tokens;
    if (shares_ends_ && out_.saved_embed_tokens.empty() && !out_.saved_lm_head.empty()) out_.saved_embed_tokens = out_.saved_lm_head;
    check_vision();
    warn();
  }

  static bool all_finite(const HostTensor& tensor) {
    const int64_t n = tensor.numel();
    bool finite = true;
    if (tensor.dtype == FileDtype::kF32) {
      const auto* x = static_cast<const uint32_t*>(tensor.data);
      for (int64_t i = 0; i < n; ++i) finite &= (x[i] & 0x7f800000u) != 0x7f800000u;
    } else {
      const auto* x = static_cast<const uint16_t*>(tensor.data);
      const uint16_t exponent = tensor.dtype == FileDtype::kBF16 ? 0x7f80 : 0x7c00;
      for (int64_t i = 0; i < n; ++i) finite &= (x[i] & exponent) != exponent;
    }
    return finite;
  }

  static bool all_zero(const HostTensor& tensor) {
    const auto* bytes = static_cast<const uint8_t*>(tensor.data);
    const int64_t n = tensor.bytes(), width = dtype_bytes(tensor.dtype);
    uint8_t any = 0;
    for (int64_t i = 0; i < n; ++i) any |= i % width == width - 1 ? static_cast<uint8_t>(bytes[i] & 0x7f) : bytes[i];   // -0 counts as 0
    return any == 0;
  }

  // Text-only training leaves the vision tower's B at zero; anything else would be lost here.
  void check_vision() const {
    for (const auto& [info, part] : vision_) {
      if (!is_float(info->dtype))
        refuse_adapter("dtype", quoted(info->name) + " is " + dtype_name(info->dtype) + ", expected F32, BF16 or F16");
      if (part != Part::kA && part != Part::kB)
        refuse_adapter("unsupported", quoted(info->name) + " changes the vision tower, which is not served");
      if (part == Part::kB && !all_zero(file_->tensor(*info))) {
        refuse_adapter("unsupported", quoted(info->name) + " is not zero: the adapter was trained on images, which are not served");
      }
    }
  }

  void warn() {
    const bool changes_ends = out_.token_rows || out_.head_rows || !out_.saved_embed_tokens.empty() || !out_.saved_lm_head.empty();
    const bool zero = std::all_of(zero_at_start_.begin(), zero_at_start_.end(), [](const HostTensor* b) { return all_zero(*b); });
    if (zero && !zero_at_start_.empty() && !changes_ends && !config_.use_dora) {
      out_.warnings.push_back("every lora_B is zero: the adapter answers as the base does");
    }
    if (!vision_.empty()) out_.warnings.push_back(std::to_string(vision_.size()) + " tensors of the vision tower are zero and read past");
  }

  struct Wanted {
    const TensorInfo* info;
    HostTensor* to;
  };
  struct VisionTensor {
    const TensorInfo* info;
    Part part;
  };

  const std::string dir_;
  const Gemma3Config& base_;
  const int max_rank_;
  AdapterConfig config_;
  std::optional<Safetensors> file_;
  std::string prefix_;
  std::map<std::string, Parts> modules_;   // what is not yet called for
  std::vector<VisionTensor> vision_;
  std::vector<Wanted> wanted_;
  std::vector<const HostTensor*> zero_at_start_;   // what training starts from zero: lora_B, lora_embedding_A
  bool shares_ends_ = false;
  AdapterFile out_;
};

}  // namespace

AdapterFile read_adapter(const std::string& dir, const Gemma3Config& config, int max_rank) {
  return AdapterReader(dir, config, max_rank).read();
}

}  // namespace lorikeet
