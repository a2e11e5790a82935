// Hugging Face directories: config.json and safetensors, single or sharded, 16 or 32 bit or bitsandbytes NF4.
#include <filesystem>
#include <map>
#include <set>

#include "bitsandbytes.h"
#include "error.h"
#include "json.h"
#include "safetensors.h"
#include "weight_source.h"

namespace lorikeet {
namespace {

constexpr uint64_t kMaxConfigBytes = 4u << 20, kMaxIndexBytes = 64u << 20;

[[noreturn]] void invalid(const std::string& message) { throw Error("MODEL_INVALID", message); }

// The name without the prefix of its model class; "" for what a text model reads past.
std::string canonical_name(std::string_view name) {
  for (const std::string_view tower : {"vision_tower.", "model.vision_tower.", "multi_modal_projector.", "model.multi_modal_projector."}) {
    if (name.starts_with(tower)) return "";
  }
  for (const std::string_view prefix : {"model.language_model.", "language_model.model.", "language_model.", "model."}) {
    if (!name.starts_with(prefix)) continue;
    name.remove_prefix(prefix.size());
    break;
  }
  if (name.ends_with(".rotary_emb.inv_freq") || name == "embed_tokens.embed_scale") return "";
  return std::string(name);
}

// A file name of index.json: inside the directory, whatever it says.
void check_shard_name(const std::string& name) {
  const bool plain = name.size() <= 255 && name.ends_with(".safetensors") && name[0] != '.' &&
                     name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
  if (!plain)
    invalid("model.safetensors.index.json names the file " + json_quote(name.substr(0, 200)) + ", expected a plain *.safetensors name");
}

struct Stored {
  const Safetensors* file;
  const TensorInfo* info;
};

class HfSource final : public WeightSource {
 public:
  explicit HfSource(const std::string& directory) : directory_(directory) {
    read_config();
    map_files();
    index_tensors();
    check_tensors();
  }

  bool prequantised() const override { return prequantised_; }

  void read(const std::string& name, int64_t begin, int64_t end, float* out) const override {
    const HostTensor tensor = float_tensor(name);
    to_float(tensor.dtype, static_cast<const uint8_t*>(tensor.data) + begin * dtype_bytes(tensor.dtype), end - begin, out);
  }

  std::optional<HostTensor> in_place(const std::string& name) const override { return float_tensor(name); }

  std::optional<HostMatrix> nf4(const std::string& name) const override {
    const auto it = nf4_.find(name);
    return it == nf4_.end() ? std::nullopt : std::optional(it->second.matrix());
  }

 private:
  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  void read_config() {
    if (!is_file(path("config.json"))) throw Error("MODEL_NOT_FOUND", directory_ + " has no config.json");
    files_.push_back(MappedFile::open(path("config.json")));
    if (files_[0]->size() > kMaxConfigBytes) throw Error("FILE_INVALID", path("config.json") + " is larger than 4 MiB");
    config_ = parse_config_json(files_[0]->text());
    if (is_file(path("generation_config.json"))) {
      apply_generation_config(config_, read_file(path("generation_config.json"), kMaxConfigBytes).text());
    }
    config_.name = directory_name();
    const Json root = Json::parse(files_[0]->text());
    const Json* quantisation = root.find_set("quantization_config");
    if (quantisation == nullptr) return;
    const Json *method = quantisation->find_set("quant_method"), *bits8 = quantisation->find_set("load_in_8bit");
    if (method == nullptr || !method->is_string() || method->as_string("quant_method") != "bitsandbytes") {
      throw Error("UNSUPPORTED", "quantization_config names another method than bitsandbytes: convert the model to 16 bit or NF4");
    }
    if (bits8 != nullptr && bits8->is_bool() && bits8->as_bool("load_in_8bit")) {
      throw Error("UNSUPPORTED", "an 8-bit bitsandbytes checkpoint: only NF4 (load_in_4bit) is read");
    }
    prequantised_ = true;
  }

  // The directory's own name; in the hub's cache, where that is a commit, the repository's: models--google--gemma-3-1b-it.
  std::string directory_name() const {
    const std::string name = path_name(directory_);
    const bool commit = name.size() == 40 && name.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!commit) return name;
    const std::filesystem::path folder = std::filesystem::path(directory_).lexically_normal().parent_path().parent_path();
    const std::string repository = folder.filename().string();
    const size_t dashes = repository.rfind("--");
    return repository.starts_with("models--") ? repository.substr(dashes + 2) : config_.name.empty() ? name : config_.name;
  }

  void map_files() {
    std::set<std::string> names;
    if (is_file(path("model.safetensors"))) {
      names.insert("model.safetensors");
    } else if (is_file(path("model.safetensors.index.json"))) {
      read_index(names);
    } else if (is_file(path("pytorch_model.bin")) || is_file(path("pytorch_model.bin.index.json"))) {
      throw Error("UNSUPPORTED", directory_ + " holds pickle weights (pytorch_model.bin): convert them to safetensors");
    } else {
      throw Error("MODEL_NOT_FOUND", directory_ + " has neither model.safetensors nor model.safetensors.index.json");
    }
    for (const std::string& name : names) {
      auto file = MappedFile::open(path(name));
      shards_.emplace(name, Safetensors::parse(file->path(), file->text(), file));
      files_.push_back(std::move(file));
    }
  }

  void read_index(std::set<std::string>& names) {
    const auto bytes = read_file(path("model.safetensors.index.json"), kMaxIndexBytes);
    const Json root = Json::parse(bytes.text());
    const Json* map = root.find("weight_map");
    if (map == nullptr || !map->is_object() || map->keys().empty()) invalid("model.safetensors.index.json has no weight_map");
    for (size_t i = 0; i < map->keys().size(); ++i) {
      const std::string& name = map->items()[i].as_string("a value of weight_map");
      check_shard_name(name);
      names.insert(name);
      shard_of_.emplace(map->keys()[i], name);
    }
  }

  void index_tensors() {
    for (const auto& [tensor, shard] : shard_of_) {
      if (shards_.at(shard).find(tensor) == nullptr) invalid(json_quote(tensor) + " is not in " + shard + ", where the index puts it");
    }
    for (const auto& [shard, file] : shards_) {
      for (const TensorInfo& info : file.tensors()) {
        const auto listed = shard_of_.find(info.name);
        if (!shard_of_.empty() && (listed == shard_of_.end() || listed->second != shard)) continue;
        const std::string name = canonical_name(info.name);
        if (name.empty()) continue;
        if (!tensors_.emplace(name, Stored{&file, &info}).second)
          invalid("two tensors are named " + json_quote(name) + " once their prefix is off");
      }
    }
  }

  void check_tensors() {
    std::set<std::string> known;
    for (const ExpectedTensor& expected : expected_tensors(config_)) {
      const std::string weight = expected.name + ".weight";
      known.insert(weight);
      const Stored stored = find(weight);
      if (tensors_.contains(weight + "." + kNF4StateKey)) {
        for (const char* part : kNF4Parts) known.insert(weight + "." + part);
        if (expected.shape.size() != 2 || expected.name == "embed_tokens") invalid(weight + " is quantised, expected 16 bit");
        nf4_.emplace(expected.name, StoredNF4(weight, expected.shape, [&](const std::string& name) {
          const Stored part = find(name);
          return part.file->tensor(*part.info);
        }));
        prequantised_ = true;
        continue;
      }
      if (tensors_.contains(weight + ".quant_state.bitsandbytes__fp4")) {
        throw Error("UNSUPPORTED", weight + " is FP4: only NF4 is read (bnb_4bit_quant_type=\"nf4\")");
      }
      if (stored.info->shape != expected.shape) {
        invalid(weight + " has shape " + shape_text(stored.info->shape) + ", config.json needs " + shape_text(expected.shape));
      }
      if (!is_float(stored.info->dtype)) {
        throw Error("UNSUPPORTED",
                    weight + " has dtype " + dtype_name(stored.info->dtype) + ": F32, BF16, F16 and bitsandbytes NF4 are read");
      }
    }
    for (const auto& [name, stored] : tensors_) {
      const bool tied_head = config_.tied && name == "lm_head.weight";
      if (!known.contains(name) && !tied_head)
        invalid("tensor " + json_quote(stored.info->name.substr(0, 200)) + " belongs to no part of this model");
    }
  }

  Stored find(const std::string& name) const {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) invalid("the weights lack " + name + ", which config.json calls for");
    return it->second;
  }

  HostTensor float_tensor(const std::string& name) const {
    const Stored stored = find(name + ".weight");
    return stored.file->tensor(*stored.info);
  }

  std::string directory_;
  bool prequantised_ = false;
  std::map<std::string, Safetensors> shards_;          // by file name
  std::map<std::string, std::string> shard_of_;        // of index.json; empty for a single file
  std::map<std::string, Stored> tensors_;              // by canonical name
  std::map<std::string, StoredNF4> nf4_;
};

}  // namespace

std::unique_ptr<WeightSource> open_hf_source(const std::string& directory) try {
  return std::make_unique<HfSource>(directory);
} catch (const Error& error) {
  const std::string message = error.what();
  if (message.find(directory) != std::string::npos) throw;
  throw Error(error.code(), directory + ": " + message);
}

}  // namespace lorikeet
