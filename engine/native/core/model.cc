#include "model.h"

#include <algorithm>
#include <numeric>

namespace lorikeet {
namespace {

constexpr uint64_t kMiB = 1ull << 20;

WeightFormat weight_format(const std::string& name) {
  return name == "f32" ? WeightFormat::kF32 : name == "bf16" ? WeightFormat::kBF16 : WeightFormat::kNF4;
}

HeadFormat head_format(const ModelOptions& o, bool on_gpu) {
  if (o.weights == "f32") return HeadFormat::kF32;
  if (on_gpu && o.head == "auto") return HeadFormat::kBF16;
  if (o.head == "nf4") return HeadFormat::kNF4;
  if (o.head == "bf16" || (o.head == "auto" && o.compute == "fp32")) return HeadFormat::kBF16;
  return HeadFormat::kInt8;
}

const char* head_name(HeadFormat format) {
  switch (format) {
    case HeadFormat::kF32: return "f32";
    case HeadFormat::kBF16: return "bf16";
    case HeadFormat::kInt8: return "int8";
    default: return "nf4";
  }
}

bool ends_with(const std::string& s, const std::string& end) { return s.size() >= end.size() && s.compare(s.size() - end.size(), end.size(), end) == 0; }

/// Index of the GPU that `device` names, or -1 for the CPU. "auto" takes the CPU, because CUDA cannot train.
int gpu_index(const std::string& device) {
  if (device == "auto" || device == "cpu") return -1;
  if (device == "cuda") return 0;
  const std::string digits = device.substr(0, 5) == "cuda:" ? device.substr(5) : "";
  if (digits.empty() || digits.size() > 3 || !std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; }))
    throw Error("INVALID_REQUEST", "device \"" + device + "\": expected auto, cpu, cuda or cuda:N");
  return std::stoi(digits);
}

std::unique_ptr<Backend> make_backend(const ModelOptions& o) {
  const int gpu = gpu_index(o.device);
  if (gpu < 0) return make_cpu_backend({o.isa, o.n_threads, o.compute == "fp32"});
  if (o.compute == "fp32") throw Error("UNSUPPORTED", "--compute fp32 is the CPU's: on CUDA activations are bf16");
  return make_cuda_backend(gpu);
}

int blocks_for(int tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

}  // namespace

std::unique_ptr<Model> Model::load(const ModelOptions& options, const ProgressFn& progress) {
  std::unique_ptr<Model> model(new Model);
  model->options_ = options;
  ModelOptions& o = model->options_;
  if (o.compute == "auto") o.compute = o.weights == "f32" ? "fp32" : "bf16";
  if (o.weights == "f32" && o.compute != "fp32") throw Error("UNSUPPORTED", "--weights f32 needs --compute fp32");
  model->backend_ = make_backend(o);
  const auto checkpoint = open_checkpoint(o.path, {weight_format(o.weights), o.cache_dir, progress});
  const HeadFormat head = head_format(o, gpu_index(o.device) >= 0);
  model->weights_ = load_weights(*checkpoint, *model->backend_, head, o.weights == "f32" && ends_with(o.path, ".gguf"), progress);
  model->workspace_ = std::make_unique<Workspace>(*model->backend_, model->weights_.config, o.max_batch_tokens, o.max_num_seqs);
  model->slots_.resize(o.max_loras);
  model->host_adapters_ = std::make_unique<HostAdapters>(o.adapter_host_bytes);
  model->table_ = SequenceTable(o.max_num_seqs);
  const Gemma3Config& c = model->weights_.config;
  model->info_ = {c.name, checkpoint->hash(), model->backend_->name(), o.compute, o.weights, head_name(head), c.vocab_size, c.hidden_size,
                  c.n_layers, c.sliding_window, 0, 0, 0, c.eos_ids};
  model->size_kv();
  return model;
}

/// Splits the KV budget between the pools: a sequence keeps all its tokens in global blocks and a window (and the step's tokens) in
/// sliding ones, which prefix caching wants to keep for longer; so half as many sliding blocks as global ones, where contexts are
/// long, and as many where they are short.
void Model::size_kv() {
  const Gemma3Config& c = weights_.config;
  const int n_global = int(std::count(c.is_global.begin(), c.is_global.end(), 1)), n_sliding = c.n_layers - n_global;
  const uint64_t per_layer = uint64_t(2) * kBlockTokens * c.kv_dim() * size_of(backend_->act_dtype());
  const int wanted_len = options_.max_model_len > 0 ? std::min(options_.max_model_len, c.max_position) : c.max_position;
  uint64_t budget = options_.kv_cache_bytes;
  if (budget == 0) budget = std::min<uint64_t>(1024 * kMiB, backend_->available_bytes() / 4);
  const double sliding_share = wanted_len > 2 * c.sliding_window ? 0.5 : 1.0;
  const double per_block = double(per_layer) * (n_global + sliding_share * n_sliding);
  // More than every sequence can use is waste.
  const int most = blocks_for(wanted_len) * options_.max_num_seqs + 1;
  int global = std::min(most, int(double(budget) / per_block));
  const int least_sliding = blocks_for(std::min(wanted_len, c.sliding_window + options_.max_batch_tokens)) + 2;
  const int sliding = std::max(least_sliding, int(global * sliding_share));
  const int reachable = global * kBlockTokens;
  if (reachable < std::min(wanted_len, 512) || (options_.max_model_len > 0 && reachable < wanted_len)) {
    throw Error("OUT_OF_MEMORY", "KV cache of " + std::to_string(budget / kMiB) + " MiB holds " + std::to_string(reachable) + " tokens of context; " +
                                     std::to_string(wanted_len) + " need " +
                                     std::to_string(uint64_t(per_block * blocks_for(wanted_len)) / kMiB + 1) + " MiB (set --kv-cache-bytes or --max-model-len)");
  }
  pools_.global = backend_->make_kv_pool(std::max(global, 1), std::max(n_global, 1), c.n_kv_heads, c.head_dim);
  pools_.sliding = backend_->make_kv_pool(sliding, std::max(n_sliding, 1), c.n_kv_heads, c.head_dim);
  info_.max_model_len = std::min(wanted_len, reachable);
  info_.n_global_blocks = pools_.global->n_blocks;
  info_.n_sliding_blocks = pools_.sliding->n_blocks;
}

namespace {

void require(bool holds, const char* what) {
  if (!holds) throw Error("INVALID_REQUEST", std::string("malformed step plan: ") + what);
}

void check_starts(const std::vector<int32_t>& starts, size_t n_rows, size_t total, const char* what) {
  require(starts.size() == n_rows + 1 && starts.front() == 0 && size_t(starts.back()) == total, what);
  require(std::is_sorted(starts.begin(), starts.end()), what);
}

bool all_in(const std::vector<int32_t>& values, int64_t low, int64_t high) {
  return std::all_of(values.begin(), values.end(), [&](int32_t v) { return v >= low && v < high; });
}

}  // namespace

void Model::check(const StepPlan& p) const {
  const size_t T = p.token_ids.size(), R = p.slots.size(), O = p.out_tokens.size();
  require(T <= size_t(options_.max_batch_tokens), "more tokens than max_batch_tokens");
  require(O <= size_t(options_.max_num_seqs), "more outputs than max_num_seqs");
  require(p.positions.size() == T && all_in(p.token_ids, -1, info_.vocab_size) && all_in(p.positions, 0, info_.max_model_len), "tokens");
  check_starts(p.row_starts, R, T, "row_starts");
  check_starts(p.global_starts, R, p.global_table.size(), "global_starts");
  check_starts(p.sliding_starts, R, p.sliding_table.size(), "sliding_starts");
  require(all_in(p.slots, 0, table_.size()), "slots");
  require(all_in(p.global_table, 0, info_.n_global_blocks) && all_in(p.sliding_table, 0, info_.n_sliding_blocks), "block tables");
  require(p.sliding_first.size() == R, "sliding_first");
  for (size_t r = 0; r < R; r++) {
    const int begin = p.row_starts[r], end = p.row_starts[r + 1];
    require(end > begin, "an empty row");
    for (int t = begin; t < end; t++) {
      require(p.positions[t] == p.positions[begin] + (t - begin), "positions of a row must follow each other");
      require(p.token_ids[t] >= 0 || t == end - 1, "only a row's last token may be the sampled one");
    }
    const int last_block = p.positions[end - 1] / kBlockTokens, n_sliding = p.sliding_starts[r + 1] - p.sliding_starts[r];
    const int first_key = std::max(0, p.positions[begin] - info_.sliding_window + 1);
    require(p.global_starts[r + 1] - p.global_starts[r] > last_block, "global table too short");
    require(p.sliding_first[r] >= 0 && p.sliding_first[r] <= first_key / kBlockTokens && p.sliding_first[r] + n_sliding > last_block, "sliding table");
  }
  require(p.out_targets.size() == O && p.out_logprobs.size() == O, "outputs");
  require(all_in(p.out_tokens, 0, int64_t(T)) && all_in(p.out_targets, -1, info_.vocab_size) && all_in(p.out_logprobs, -1, 21), "outputs");
  for (const SequenceStart& s : p.starts) {
    require(s.slot >= 0 && s.slot < table_.size() && s.adapter >= -1 && s.adapter < slots_.size(), "starts");
    require(s.sampling.temperature >= 0 && s.sampling.repetition_penalty > 0, "sampling");
  }
}

void Model::begin_sequence(const SequenceStart& start) {
  SequenceState& state = table_[start.slot];
  state = SequenceState{};
  state.sampling = start.sampling;
  state.adapter = start.adapter;
  if (start.sampling.counts_tokens())
    for (int32_t id : start.prompt_ids) state.prompt_counts[id]++;
  for (int32_t id : start.output_ids) state.push(id);
}

/// Rows are laid out by adapter, so that the tokens of one adapter lie together.
Batch Model::make_batch(const StepPlan& p) {
  const int R = int(p.slots.size());
  std::vector<int> order(R);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return table_[p.slots[a]].adapter < table_[p.slots[b]].adapter; });
  Batch batch;
  std::vector<int> moved(p.token_ids.size()), row_of(p.token_ids.size());
  for (int r : order) {
    const SequenceState& state = table_[p.slots[r]];
    BatchRow row;
    row.begin = batch.n_tokens();
    row.position = p.positions[p.row_starts[r]];
    row.slot = p.slots[r];
    row.adapter = state.adapter;
    row.global_blocks = p.global_table.data() + p.global_starts[r];
    row.n_global = p.global_starts[r + 1] - p.global_starts[r];
    row.sliding_blocks = p.sliding_table.data() + p.sliding_starts[r];
    row.n_sliding = p.sliding_starts[r + 1] - p.sliding_starts[r];
    row.sliding_first = p.sliding_first[r];
    for (int t = p.row_starts[r]; t < p.row_starts[r + 1]; t++) {
      moved[t] = batch.n_tokens();
      row_of[t] = int(batch.rows.size());
      const int32_t id = p.token_ids[t] >= 0 ? p.token_ids[t] : state.last_token;
      // A sequence whose logits held a NaN has no last token; its row is about to be discarded.
      batch.token_ids.push_back(std::max(id, 0));
      batch.positions.push_back(p.positions[t]);
    }
    row.end = batch.n_tokens();
    batch.rows.push_back(row);
  }
  for (size_t o = 0; o < p.out_tokens.size(); o++)
    batch.outputs.push_back({moved[p.out_tokens[o]], row_of[p.out_tokens[o]], p.out_targets[o], p.out_logprobs[o]});
  return batch;
}

SampleResult Model::step(const StepPlan& plan) {
  for (const SequenceStart& start : plan.starts) begin_sequence(start);
  if (plan.token_ids.empty()) return {};
  const Batch batch = make_batch(plan);
  const Tensor hidden = forward(*backend_, weights_, slots_, pools_, *workspace_, batch);
  if (batch.outputs.empty()) return {};
  Scores scores = score_outputs(*backend_, weights_, slots_, *workspace_, batch, 0, hidden, edges_, &table_);
  SampleResult result = backend_->sample(scores, batch.outputs, table_, batch.rows);
  for (size_t o = 0; o < batch.outputs.size(); o++)
    if (batch.outputs[o].target < 0) table_[batch.rows[batch.outputs[o].row].slot].push(result.token_ids[o]);
  return result;
}

std::shared_ptr<const HostAdapter> Model::prepare_adapter(const std::string& dir) {
  if (auto found = host_adapters_->find(dir)) return found;
  const AdapterStamp stamp = adapter_stamp(dir);
  auto adapter = std::make_shared<const HostAdapter>(host_adapter(read_adapter_file(dir), weights_, *backend_));
  if (adapter->is_image()) host_adapters_->add(dir, stamp, adapter);
  return adapter;
}

void Model::load_adapter(int slot, const HostAdapter& adapter) {
  if (slot < 0 || slot >= slots_.size()) throw Error("INVALID_REQUEST", "adapter slot out of range");
  if (slots_.at(slot)) throw Error("ADAPTER_EXISTS", "adapter slot " + std::to_string(slot) + " is taken");
  slots_.put(slot, upload_adapter(adapter, weights_, *backend_));
}

void Model::unload_adapter(int slot) {
  if (slot >= 0 && slot < slots_.size()) slots_.take(slot);
}

void Model::run_fresh(const std::vector<int32_t>& token_ids, int adapter, const HiddenTap& tap,
                      const std::function<void(int, const Batch&, Tensor)>& each) {
  const int T = int(token_ids.size());
  if (T == 0 || T > weights_.config.max_position) throw Error("CONTEXT_LENGTH_EXCEEDED", "prompt of " + std::to_string(T) + " tokens");
  for (int32_t id : token_ids)
    if (id < 0 || id >= weights_.config.vocab_size) throw Error("INVALID_REQUEST", "token id out of range");
  const Gemma3Config& c = weights_.config;
  const int n_blocks = blocks_for(T), n_global = int(std::count(c.is_global.begin(), c.is_global.end(), 1));
  KvPools pools{backend_->make_kv_pool(n_blocks, std::max(1, n_global), c.n_kv_heads, c.head_dim),
                backend_->make_kv_pool(n_blocks, std::max(1, c.n_layers - n_global), c.n_kv_heads, c.head_dim)};
  std::vector<int32_t> blocks(n_blocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  for (int begin = 0; begin < T; begin += options_.max_batch_tokens) {
    const int end = std::min(T, begin + options_.max_batch_tokens);
    Batch batch;
    batch.token_ids.assign(token_ids.begin() + begin, token_ids.begin() + end);
    for (int t = begin; t < end; t++) {
      batch.positions.push_back(t);
      batch.outputs.push_back({t - begin, 0, -1, -1});
    }
    batch.rows.push_back({0, end - begin, begin, 0, adapter, blocks.data(), blocks.data(), 0, n_blocks, n_blocks});
    const Tensor hidden = forward(*backend_, weights_, slots_, pools, *workspace_, batch, tap);
    each(begin, batch, hidden);
  }
}

std::vector<float> Model::logits(const std::vector<int32_t>& token_ids, int adapter) {
  const int64_t V = weights_.config.vocab_size;
  std::vector<float> out(token_ids.size() * size_t(V));
  run_fresh(token_ids, adapter, {}, [&](int begin, const Batch& batch, Tensor hidden) {
    for (int64_t t = 0; t < hidden.rows; t += workspace_->max_outputs) {
      const int64_t end = std::min<int64_t>(hidden.rows, t + workspace_->max_outputs);
      const Scores scores = score_outputs(*backend_, weights_, slots_, *workspace_, batch, int(t), hidden.row_range(t, end), edges_, nullptr);
      backend_->download(out.data() + (begin + t) * V, scores.values.data, size_t((end - t) * V) * 4);
    }
  });
  return out;
}

std::vector<float> Model::hidden(const std::vector<int32_t>& token_ids, int layer, int adapter) {
  const int64_t H = weights_.config.hidden_size;
  std::vector<float> out(token_ids.size() * size_t(H));
  size_t written = 0;
  const auto tap = [&](int at, const Tensor& x) {
    if (at != layer) return;
    backend_->download(out.data() + written, x.data, size_t(x.rows * H) * 4);
    written += size_t(x.rows * H);
  };
  run_fresh(token_ids, adapter, tap, [](int, const Batch&, Tensor) {});
  return out;
}

std::vector<std::pair<std::string, uint64_t>> Model::memory() const {
  std::vector<std::pair<std::string, uint64_t>> bytes = {
      {"weights", weights_.linear_bytes}, {"embedding", weights_.embedding->bytes}, {"head", weights_.head->bytes},
      {"kv", pools_.global->bytes + pools_.sliding->bytes}, {"adapters", slots_.bytes()}, {"scratch", workspace_->bytes}};
  if (keeps_host_adapters()) bytes.emplace_back("adapter_images", host_adapters_->bytes());
  return bytes;
}

}  // namespace lorikeet
