// The weights of a base with an adapter merged into them, read a few rows at a time: what `lorikeet merge` and `export` write.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapter_file.h"
#include "weight_source.h"

namespace lorikeet {

enum class MergeBase : uint8_t {
  k16Bit,                                  // the source's own values; a bitsandbytes checkpoint has none but its NF4 ones
  kNF4,                                    // its NF4 form dequantised to bf16: what the adapter was trained on
};

class MergedWeights {
 public:
  struct Tensor {
    std::string name;                      // canonical: "embed_tokens", "layers.3.self_attn.q_proj", "norm"
    std::vector<int64_t> shape;            // {n} for norms (zero-centred), {rows, cols} for matrices
  };

  // `adapter` is a PEFT directory, "" for none. Throws what opening a model or an adapter throws.
  MergedWeights(const std::string& path, const std::string& adapter, MergeBase base, int max_rank);

  // The base's, but tied only where the merged head is still the merged embedding.
  const Gemma3Config& config() const { return config_; }
  const AdapterFile* adapter() const { return adapter_ ? &*adapter_ : nullptr; }
  const std::vector<Tensor>& tensors() const { return tensors_; }

  // Rows [begin, end) in fp32, not rounded after the merge (a norm is one row). W' = W + s B A; with DoRA
  // W' = magnitude * (W + s B A) / rownorm(W + s B A). One tensor after another: the last one's quantised form is kept.
  void read(size_t index, int64_t begin, int64_t end, float* out);   // [end - begin, cols]

 private:
  void read_base(const std::string& name, const std::vector<int64_t>& shape, int64_t begin, int64_t end, float* out);
  void read_linear(const Tensor& tensor, int64_t begin, int64_t end, float* out);
  void read_embedding(int64_t begin, int64_t end, float* out);
  void read_head(int64_t begin, int64_t end, float* out);
  void load_pair(const std::string& key, const LoraPair& pair);
  bool head_leaves_embedding() const;

  std::unique_ptr<WeightSource> source_;
  MergeBase base_;
  Gemma3Config config_;
  std::optional<AdapterFile> adapter_;
  std::vector<Tensor> tensors_;
  std::string quantised_name_;             // of the matrix in quantised_
  HostMatrix quantised_;
  std::string pair_name_;                  // of the module whose A and B are in a_ and b_
  std::vector<float> a_, b_;               // [rank, n_in], [n_out, rank]
};

}  // namespace lorikeet
