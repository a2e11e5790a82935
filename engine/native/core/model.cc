#include "model.h"

#include <algorithm>
#include <numeric>
#include <string_view>

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

bool is_lost(const Error& error) { return std::string_view(error.code()) == "DEVICE_LOST"; }

std::string describe(const StepShape& s) {
  if (s.number == 0) return "none";
  const auto count = [](int n, const char* what) { return std::to_string(n) + what; };
  return "number " + std::to_string(s.number) + ", " + phase_name(s.phase) + ", " + count(s.tokens, " tokens in ") +
         count(s.rows, " rows, ") + count(s.rows_with_adapter, " of them with an adapter, ") + count(s.outputs, " outputs, ") +
         "longest context " + std::to_string(s.longest);
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
  if (o.nvtx) model->backend_->show_ranges();
  const auto checkpoint = open_checkpoint(o.path, {weight_format(o.weights), o.cache_dir, progress});
  const HeadFormat head = head_format(o, gpu_index(o.device) >= 0);
  if (model->backend_->total_bytes() > 0 && o.gpu_memory_utilization > 0) {  // refused before minutes of reading
    std::vector<MemoryNeed> needs = weight_needs(checkpoint->config(), weight_format(o.weights), head == HeadFormat::kInt8);
    needs.push_back({"workspace", Workspace::bytes_for(*model->backend_, checkpoint->config(), o.max_batch_tokens, o.max_num_seqs)});
    model->plan_device_memory(checkpoint->config(), std::move(needs));
  }
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

KvNeeds Model::kv_needs(const Gemma3Config& c) const {
  const int n_global = int(std::count(c.is_global.begin(), c.is_global.end(), 1));
  KvNeeds needs;
  needs.bytes_per_layer = uint64_t(2) * kBlockTokens * uint64_t(c.kv_dim()) * size_of(backend_->act_dtype());
  needs.n_global = n_global;
  needs.n_sliding = c.n_layers - n_global;
  needs.sliding_window = c.sliding_window;
  needs.wanted_len = options_.max_model_len > 0 ? std::min(options_.max_model_len, c.max_position) : c.max_position;
  needs.must_reach = options_.max_model_len > 0;
  needs.max_num_seqs = options_.max_num_seqs;
  needs.max_batch_tokens = options_.max_batch_tokens;
  return needs;
}

/// Of a device with memory of its own. needs: what has yet to be allocated, beside adapters and what steps take.
MemoryPlan Model::plan_device_memory(const Gemma3Config& c, std::vector<MemoryNeed> needs) const {
  const ModelOptions& o = options_;
  const DeviceMemory memory{backend_->total_bytes(), backend_->available_bytes(), backend_->allocated_bytes()};
  needs.push_back({"adapters", adapter_bytes(c, o.max_loras, o.max_lora_rank)});
  needs.push_back(reserve_need(c, memory, o.max_batch_tokens, o.max_lora_rank));
  const uint64_t dequantised = o.weights == "nf4" ? dequantised_bytes(c) : 0;
  if (o.kv_cache_bytes > 0) return plan_memory(memory, 1, needs, o.kv_cache_bytes, dequantised);
  return plan_memory(memory, o.gpu_memory_utilization, needs, least_kv_bytes(kv_needs(c)), dequantised);
}

void Model::size_kv() {
  const Gemma3Config& c = weights_.config;
  const KvNeeds needs = kv_needs(c);
  const uint64_t total = backend_->total_bytes();
  uint64_t budget = options_.kv_cache_bytes;
  if (total > 0 && options_.gpu_memory_utilization > 0) {
    const MemoryPlan plan = plan_device_memory(c, {});
    if (budget == 0) budget = plan.kv_bytes;
    backend_->keep_dequantised(plan.dequantised_bytes);
  } else {
    const uint64_t available = backend_->available_bytes();
    if (budget == 0) budget = std::min<uint64_t>(1024 * kMiB, available / 4);
    // A quarter of the device stays free for what comes later.
    if (available > budget + total / 4) backend_->keep_dequantised(available - budget - total / 4);
  }
  const KvPlan plan = plan_kv(needs, budget);
  pools_.global = backend_->make_kv_pool(std::max(plan.global_blocks, 1), std::max(needs.n_global, 1), c.n_kv_heads, c.head_dim);
  pools_.sliding = backend_->make_kv_pool(plan.sliding_blocks, std::max(needs.n_sliding, 1), c.n_kv_heads, c.head_dim);
  info_.max_model_len = std::min(needs.wanted_len, plan.reach);
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

namespace {

StepShape shape_of(const Batch& batch, uint64_t number) {
  StepShape s{number, StepPhase::kMixed, batch.n_tokens(), int(batch.rows.size()), int(batch.outputs.size()), 0, 0};
  int n_single = 0;
  for (const BatchRow& row : batch.rows) {
    n_single += row.length() == 1;
    s.rows_with_adapter += row.adapter >= 0;
    s.longest = std::max(s.longest, row.position + row.length());
  }
  if (n_single == s.rows) s.phase = StepPhase::kDecode;
  if (n_single == 0) s.phase = StepPhase::kPrefill;
  return s;
}

}  // namespace

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

/// Where the device is lost, the error says what it was doing: work fails when somebody next waits for it, so the step before may be to
/// blame.
template <class F>
auto Model::on_device(const char* work, F run) -> decltype(run()) {
  const StepShape before = last_shape();
  try {
    return run();
  } catch (const Error& e) {
    if (!is_lost(e)) throw;
    const StepShape last = last_shape();
    const std::string now = last.number == before.number ? "" : " " + describe(last);
    throw Error("DEVICE_LOST", std::string(e.what()) + "; running: " + work + now + "; step before: " + describe(before));
  }
}

StepShape Model::last_shape() const {
  const std::lock_guard lock(shape_mutex_);
  return shape_;
}

SampleResult Model::step(const StepPlan& plan) {
  return on_device("step", [&] { return run_step(plan); });
}

SampleResult Model::run_step(const StepPlan& plan) {
  for (const SequenceStart& start : plan.starts) begin_sequence(start);
  if (plan.token_ids.empty()) return {};
  const Batch batch = make_batch(plan);
  const StepShape shape = shape_of(batch, last_shape().number + 1);
  {
    const std::lock_guard lock(shape_mutex_);
    shape_ = shape;
  }
  StepClock& clock = backend_->clock();
  clock.begin(shape.phase);
  const Tensor hidden = forward(*backend_, weights_, slots_, pools_, *workspace_, batch);
  if (batch.outputs.empty()) {
    clock.end();
    return {};
  }
  clock.enter(StepPart::kHead);
  Scores scores = score_outputs(*backend_, weights_, slots_, *workspace_, batch, 0, hidden, edges_, &table_);
  clock.enter(StepPart::kSample);
  SampleResult result = backend_->sample(scores, batch.outputs, table_, batch.rows);
  clock.end();
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
  const ClockRange range(backend_->clock(), "adapter upload");
  on_device("upload of an adapter", [&] { slots_.put(slot, upload_adapter(adapter, weights_, *backend_)); });
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
  std::vector<std::pair<std::string, uint64_t>> out = {{"weights", weights_.linear_bytes}, {"dequantised", backend_->dequantised_bytes()},
                                                       {"embedding", weights_.embedding->bytes}, {"head", weights_.head->bytes},
                                                       {"kv_global", pools_.global->bytes}, {"kv_sliding", pools_.sliding->bytes},
                                                       {"adapters", slots_.bytes()}, {"workspace", workspace_->bytes}};
  if (backend_->total_bytes() > 0) {  // what else this process holds there: of decode, sampling, products
    uint64_t named = 0;
    for (const auto& [purpose, bytes] : out) named += bytes;
    const uint64_t all = backend_->allocated_bytes();
    out.back().second += all > named ? all - named : 0;
  }
  if (keeps_host_adapters()) out.emplace_back("adapter_images", host_adapters_->bytes());
  return out;
}

DeviceStats Model::device_stats() const {
  DeviceStats stats;
  stats.total_bytes = backend_->total_bytes();
  try {
    if (stats.total_bytes > 0) stats.free_bytes = backend_->available_bytes();
  } catch (const Error&) {  // the device is lost: what runs on it says so
  }
  stats.graphs = backend_->graph_counts();
  stats.times = backend_->clock().times();
  return stats;
}

}  // namespace lorikeet
