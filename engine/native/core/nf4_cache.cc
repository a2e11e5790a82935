// The NF4 form of a 16-bit or GGUF source on disk: a bitsandbytes checkpoint that transformers can load too, found again by the
// content of its source, checked by size and check sum at every start, and made again when it is torn.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>

#include "error.h"
#include "float_types.h"
#include "json.h"
#include "nf4.h"
#include "parallel.h"
#include "safetensors.h"
#include "sha256.h"
#include "weight_source.h"

namespace lorikeet {
namespace {

constexpr int kCacheFormat = 1;            // raised when the bytes of a cache entry change meaning
constexpr int64_t kStateBytes = 192;       // quant_state JSON, padded with spaces: its length is planned before its content is known
constexpr const char* kWeightsFile = "model.safetensors";
constexpr const char* kConfigFile = "config.json";
constexpr const char* kManifestFile = "manifest.json";

std::string float_text(double value) {     // shortest text that reads back as the same fp32, always with a point or exponent
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  return std::strpbrk(text, ".e") == nullptr ? std::string(text) + ".0" : text;
}

std::string config_json(const Gemma3Config& c) {
  const auto number = [](int64_t n) { return std::to_string(n); };
  const float whole = std::floor(c.query_pre_attn_scalar);   // transformers insists on an integer
  std::string types, eos;
  for (const uint8_t global : c.is_global)
    types += std::string(types.empty() ? "" : ", ") + (global != 0 ? "\"full_attention\"" : "\"sliding_attention\"");
  for (const int id : c.eos_ids) eos += (eos.empty() ? "" : ", ") + std::to_string(id);
  const std::string scaling =
      c.rope_scaling_factor == 1 ? "null" : "{\"rope_type\": \"linear\", \"factor\": " + float_text(c.rope_scaling_factor) + "}";
  const std::pair<const char*, std::string> fields[] = {
      {"architectures", "[\"Gemma3ForCausalLM\"]"},
      {"model_type", "\"gemma3_text\""},
      {"attention_bias", "false"},
      {"bos_token_id", number(c.bos_id)},
      {"eos_token_id", "[" + eos + "]"},
      {"pad_token_id", number(c.pad_id)},
      {"head_dim", number(c.head_dim)},
      {"hidden_activation", "\"gelu_pytorch_tanh\""},
      {"hidden_size", number(c.hidden_size)},
      {"intermediate_size", number(c.intermediate_size)},
      {"layer_types", "[" + types + "]"},
      {"max_position_embeddings", number(c.max_position)},
      {"num_attention_heads", number(c.n_heads)},
      {"num_hidden_layers", number(c.n_layers)},
      {"num_key_value_heads", number(c.n_kv_heads)},
      {"query_pre_attn_scalar", whole == c.query_pre_attn_scalar ? number(int64_t(whole)) : float_text(c.query_pre_attn_scalar)},
      {"rms_norm_eps", float_text(c.rms_norm_eps)},
      {"rope_local_base_freq", float_text(c.rope_theta_local)},
      {"rope_scaling", scaling},
      {"rope_theta", float_text(c.rope_theta_global)},
      {"sliding_window", number(c.sliding_window)},
      {"tie_word_embeddings", c.tied ? "true" : "false"},
      {"torch_dtype", "\"bfloat16\""},
      {"vocab_size", number(c.vocab_size)},
      {"quantization_config",
       "{\"quant_method\": \"bitsandbytes\", \"load_in_4bit\": true, \"load_in_8bit\": false, \"bnb_4bit_compute_dtype\": \"bfloat16\", "
       "\"bnb_4bit_quant_storage\": \"uint8\", \"bnb_4bit_quant_type\": \"nf4\", \"bnb_4bit_use_double_quant\": true}"},
  };
  std::string out = "{\n";
  for (const auto& [key, value] : fields) out += std::string(out.size() > 2 ? ",\n" : "") + "  \"" + key + "\": " + value;
  return out + "\n}\n";
}

std::string state_json(int64_t rows, int64_t cols, float offset) {
  std::string text = "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [" + std::to_string(rows) + ", " +
                     std::to_string(cols) +
                     "], \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": " + float_text(offset) + "}";
  text.resize(kStateBytes, ' ');
  return text;
}

bool is_linear(const ExpectedTensor& tensor) { return tensor.shape.size() == 2 && tensor.name.starts_with("layers."); }

// Name, dtype and shape of everything in the file.
std::vector<NamedTensor> planned_tensors(const Gemma3Config& config) {
  std::vector<NamedTensor> all;
  for (const ExpectedTensor& t : expected_tensors(config)) {
    const std::string weight = "model." + t.name + ".weight";
    if (t.name == "lm_head") {
      all.push_back({"lm_head.weight", FileDtype::kBF16, t.shape});
    } else if (t.shape.size() == 1) {
      all.push_back({weight, FileDtype::kF32, t.shape});
    } else if (!is_linear(t)) {
      all.push_back({weight, FileDtype::kBF16, t.shape});
    } else {
      const int64_t n = t.shape[0] * t.shape[1], n_blocks = n / kNF4Block;
      all.push_back({weight, FileDtype::kU8, {n / 2, 1}});
      all.push_back({weight + ".absmax", FileDtype::kU8, {n_blocks}});
      all.push_back({weight + ".quant_map", FileDtype::kF32, {16}});
      all.push_back({weight + ".nested_absmax", FileDtype::kF32, {(n_blocks + kNestedBlock - 1) / kNestedBlock}});
      all.push_back({weight + ".nested_quant_map", FileDtype::kF32, {256}});
      all.push_back({weight + ".quant_state.bitsandbytes__nf4", FileDtype::kU8, {kStateBytes}});
    }
  }
  return all;
}

// A file of known layout whose tensors arrive in any order; check sums are kept on the way.
class CacheWriter {
 public:
  CacheWriter(const std::string& path, const Gemma3Config& config) : path_(path) {
    std::vector<NamedTensor> tensors = planned_tensors(config);
    const std::string head = plan_safetensors(tensors, {{"format", "pt"}});
    uint64_t at = head.size();
    for (const NamedTensor& t : tensors) {
      offsets_[t.name] = at;
      uint64_t n = static_cast<uint64_t>(dtype_bytes(t.dtype));
      for (const int64_t d : t.shape) n *= static_cast<uint64_t>(d);
      at += n;
    }
    fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd_ < 0 || ::ftruncate(fd_, static_cast<off_t>(at)) != 0) fail();
    write_at(0, head.data(), head.size());
  }
  ~CacheWriter() { ::close(fd_); }
  CacheWriter(const CacheWriter&) = delete;
  CacheWriter& operator=(const CacheWriter&) = delete;

  void put(const std::string& name, const void* data, uint64_t n, uint64_t at = 0) const { write_at(offsets_.at(name) + at, data, n); }
  void sync() const {
    if (::fsync(fd_) != 0) fail();
  }

 private:
  [[noreturn]] void fail() const { throw Error("FILE_INVALID", path_ + ": cannot be written: " + std::strerror(errno)); }

  void write_at(uint64_t offset, const void* data, uint64_t n) const {
    const auto* p = static_cast<const uint8_t*>(data);
    while (n > 0) {
      const ssize_t done = ::pwrite(fd_, p, n, static_cast<off_t>(offset));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) fail();
      p += done;
      offset += static_cast<uint64_t>(done);
      n -= static_cast<uint64_t>(done);
    }
  }

  std::string path_;
  std::map<std::string, uint64_t> offsets_;
  int fd_ = -1;
};

void write_linear(const CacheWriter& file, const WeightSource& source, const ExpectedTensor& t) {
  const int64_t n = t.shape[0] * t.shape[1];
  const QuantisedMatrix q = quantise_matrix(source, t.name, n);
  const std::string weight = "model." + t.name + ".weight", state = state_json(t.shape[0], t.shape[1], q.offset);
  file.put(weight, q.packed.get(), static_cast<uint64_t>(n / 2));
  file.put(weight + ".absmax", q.q8.data(), q.q8.size());
  file.put(weight + ".quant_map", kNF4Code, sizeof kNF4Code);
  file.put(weight + ".nested_absmax", q.nested_absmax.data(), q.nested_absmax.size() * 4);
  file.put(weight + ".nested_quant_map", nested_quant_map().data(), 1024);
  file.put(weight + ".quant_state.bitsandbytes__nf4", state.data(), state.size());
}

void write_bf16(const CacheWriter& file, const WeightSource& source, const std::string& name, const std::string& key, int64_t n) {
  parallel_pieces(n, 1 << 20, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(end - begin));
    std::vector<uint16_t> halves(values.size());
    source.read(name, begin, end, values.data());
    for (size_t i = 0; i < values.size(); ++i) halves[i] = f32_to_bf16(values[i]);
    file.put(key, halves.data(), halves.size() * 2, static_cast<uint64_t>(begin) * 2);
  });
}

void write_weights(const std::string& path, const WeightSource& source, const LoadOptions& options) {
  const std::vector<ExpectedTensor> tensors = expected_tensors(source.config());
  uint64_t total = 0, done = 0;
  for (const ExpectedTensor& t : tensors) total += static_cast<uint64_t>(t.shape[0] * (t.shape.size() == 2 ? t.shape[1] : 1)) * 2;
  const CacheWriter file(path, source.config());
  for (const ExpectedTensor& t : tensors) {
    const int64_t n = t.shape[0] * (t.shape.size() == 2 ? t.shape[1] : 1);
    if (is_linear(t)) {
      write_linear(file, source, t);
    } else if (t.shape.size() == 2) {
      write_bf16(file, source, t.name, t.name == "lm_head" ? "lm_head.weight" : "model." + t.name + ".weight", n);
    } else {
      std::vector<float> values(static_cast<size_t>(n));
      source.read(t.name, 0, n, values.data());
      file.put("model." + t.name + ".weight", values.data(), values.size() * 4);
    }
    done += static_cast<uint64_t>(n) * 2;
    if (options.progress) options.progress("quantising", done, total);
  }
  file.sync();
}

// Check sums of the pieces of a file, as hex.
std::string file_checksum(const std::string& path) {
  const auto file = MappedFile::open(path);
  constexpr int64_t kPiece = 8 << 20;
  std::vector<uint64_t> sums(static_cast<size_t>((file->size() + kPiece - 1) / kPiece));
  parallel_pieces(static_cast<int64_t>(file->size()), kPiece, [&](int64_t begin, int64_t end) {
    sums[static_cast<size_t>(begin / kPiece)] =
        checksum64(file->text().substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
  });
  const std::string all(reinterpret_cast<const char*>(sums.data()), sums.size() * 8);
  return sha256_hex(all + std::to_string(file->size()));
}

std::string manifest_json(const std::string& directory) {
  return "{\"format\": " + std::to_string(kCacheFormat) + ", \"checksums\": {" + json_quote(kConfigFile) + ": " +
         json_quote(file_checksum(directory + "/" + kConfigFile)) + ", " + json_quote(kWeightsFile) + ": " +
         json_quote(file_checksum(directory + "/" + kWeightsFile)) + "}}\n";
}

// The manifest is a function of the files, so that a sound entry is one whose manifest can be computed again.
bool is_sound(const std::string& directory) try {
  const std::string manifest = directory + "/" + kManifestFile;
  return is_file(manifest) && read_file(manifest, 1 << 16).text() == manifest_json(directory);
} catch (const Error&) {
  return false;
}

// Removes what builders left behind that died on the way.
void sweep(const std::string& cache_dir) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(cache_dir, error)) {
    const std::string name = entry.path().filename().string();
    const size_t mark = name.rfind(".tmp-");
    if (mark == std::string::npos) continue;
    const int pid = std::atoi(name.c_str() + mark + 5);
    if (pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH) std::filesystem::remove_all(entry.path(), error);
  }
}

void build(const std::string& directory, const WeightSource& source, const LoadOptions& options) {
  const std::string temporary = directory + ".tmp-" + std::to_string(::getpid());
  std::filesystem::remove_all(temporary);
  make_directories(temporary);
  try {
    write_weights(temporary + "/" + kWeightsFile, source, options);
    write_file_durably(temporary + "/" + kConfigFile, config_json(source.config()));
    write_file_durably(temporary + "/" + kManifestFile, manifest_json(temporary));
    std::filesystem::remove_all(directory);
    std::filesystem::rename(temporary, directory);
    sync_directory(std::filesystem::path(directory).parent_path().string());
  } catch (const std::filesystem::filesystem_error& error) {
    std::error_code ignored;
    std::filesystem::remove_all(temporary, ignored);
    if (is_sound(directory)) return;       // another process was faster
    throw Error("FILE_INVALID", directory + ": the NF4 form cannot be kept: " + error.code().message());
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove_all(temporary, ignored);
    throw;
  }
}

}  // namespace

std::string ensure_nf4_cache(const WeightSource& source, const std::string& hash, const LoadOptions& options) {
  const std::string directory = options.cache_dir + "/" + hash;
  if (!is_sound(directory)) {
    make_directories(options.cache_dir);
    sweep(options.cache_dir);
    build(directory, source, options);
  }
  return directory;
}

}  // namespace lorikeet
