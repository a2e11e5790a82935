#include "model_binding.h"

#include <chrono>

#include "args.h"

namespace lorikeet {
namespace {

ModelOptions to_options(const Napi::Object& o) {
  ModelOptions out;
  out.path = get_string(o, "path");
  out.device = get_string(o, "device");
  out.isa = get_string(o, "isa");
  out.compute = get_string(o, "compute");
  out.weights = get_string(o, "weights");
  out.head = get_string(o, "head");
  out.n_threads = get_int(o, "nThreads");
  out.max_model_len = get_int(o, "maxModelLen");
  out.kv_cache_bytes = uint64_t(std::max(0.0, get_number(o, "kvCacheBytes")));
  if (o.Get("gpuMemoryUtilization").IsNumber()) out.gpu_memory_utilization = get_number(o, "gpuMemoryUtilization");
  out.nvtx = o.Get("nvtx").ToBoolean();
  if (!(out.gpu_memory_utilization >= 0 && out.gpu_memory_utilization <= 1))
    throw js_error(o.Env(), "INVALID_REQUEST", "gpuMemoryUtilization must lie in [0, 1]");
  out.max_batch_tokens = get_int(o, "maxBatchTokens");
  out.max_num_seqs = get_int(o, "maxNumSeqs");
  out.max_loras = get_int(o, "maxLoras");
  out.max_lora_rank = get_int(o, "maxLoraRank");
  out.cache_dir = get_string(o, "cacheDir");
  if (o.Has("adapterHostBytes")) out.adapter_host_bytes = uint64_t(std::max(0.0, get_number(o, "adapterHostBytes")));
  if (out.max_batch_tokens < 1 || out.max_num_seqs < 1 || out.max_loras < 0 || out.max_lora_rank < 0)
    throw js_error(o.Env(), "INVALID_REQUEST", "maxBatchTokens and maxNumSeqs must be positive, maxLoras and maxLoraRank not negative");
  return out;
}

Sampling to_sampling(const Napi::Object& o) {
  Sampling s;
  s.temperature = float(get_number(o, "temperature"));
  s.top_k = get_int(o, "topK");
  s.top_p = float(get_number(o, "topP"));
  s.min_p = float(get_number(o, "minP"));
  s.repetition_penalty = float(get_number(o, "repetitionPenalty"));
  s.presence_penalty = float(get_number(o, "presencePenalty"));
  s.frequency_penalty = float(get_number(o, "frequencyPenalty"));
  bool lossless = true;
  const Napi::Value seed = required(o, "seed");
  if (!seed.IsBigInt()) throw js_error(o.Env(), "INVALID_REQUEST", "seed must be a bigint");
  s.seed = seed.As<Napi::BigInt>().Uint64Value(&lossless);
  const std::vector<int32_t> ids = get_ints(o, "biasIds");
  const std::vector<float> values = to_floats(required(o, "biasValues"), "biasValues");
  if (ids.size() != values.size()) throw js_error(o.Env(), "INVALID_REQUEST", "biasIds and biasValues differ in length");
  for (size_t i = 0; i < ids.size(); i++) s.bias.emplace_back(ids[i], values[i]);
  s.min_tokens = get_int(o, "minTokens");
  s.suppressed = get_ints(o, "suppressedIds");
  return s;
}

StepPlan to_plan(const Napi::Object& o) {
  StepPlan p;
  const Napi::Value starts = required(o, "starts");
  if (!starts.IsArray()) throw js_error(o.Env(), "INVALID_REQUEST", "starts must be an array");
  const auto list = starts.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); i++) {
    const Napi::HandleScope scope(o.Env());
    const auto start = list.Get(i).As<Napi::Object>();
    p.starts.push_back({get_int(start, "slot"), get_int(start, "adapter"), to_sampling(required(start, "sampling").As<Napi::Object>()),
                        get_ints(start, "promptIds"), get_ints(start, "outputIds")});
  }
  p.token_ids = get_ints(o, "tokenIds");
  p.positions = get_ints(o, "positions");
  p.row_starts = get_ints(o, "rowStarts");
  p.slots = get_ints(o, "slots");
  p.global_table = get_ints(o, "globalTable");
  p.global_starts = get_ints(o, "globalStarts");
  p.sliding_table = get_ints(o, "slidingTable");
  p.sliding_starts = get_ints(o, "slidingStarts");
  p.sliding_first = get_ints(o, "slidingFirst");
  p.out_tokens = get_ints(o, "outTokens");
  p.out_targets = get_ints(o, "outTargets");
  p.out_logprobs = get_ints(o, "outLogprobs");
  return p;
}

Napi::Object adapter_info(Napi::Env env, int rank, double bytes, int n_tensors, const std::vector<std::string>& warnings) {
  Napi::Object info = Napi::Object::New(env);
  info.Set("rank", rank);
  info.Set("bytes", bytes);
  info.Set("nTensors", n_tensors);
  Napi::Array list = Napi::Array::New(env, warnings.size());
  for (size_t i = 0; i < warnings.size(); i++) list.Set(uint32_t(i), warnings[i]);
  info.Set("warnings", list);
  return info;
}

Napi::FunctionReference model_class;  // one per process: the engine loads the addon once

}  // namespace

void ModelBinding::define(Napi::Env env) {
  model_class = Napi::Persistent(DefineClass(env, "NativeModel",
                                             {InstanceAccessor<&ModelBinding::get_info>("info"),
                                              InstanceMethod<&ModelBinding::step>("step"),
                                              InstanceMethod<&ModelBinding::load_adapter>("loadAdapter"),
                                              InstanceMethod<&ModelBinding::prefetch_adapter>("prefetchAdapter"),
                                              InstanceMethod<&ModelBinding::unload_adapter>("unloadAdapter"),
                                              InstanceMethod<&ModelBinding::validate_adapter>("validateAdapter"),
                                              InstanceMethod<&ModelBinding::logits>("logits"),
                                              InstanceMethod<&ModelBinding::hidden>("hidden"),
                                              InstanceMethod<&ModelBinding::create_trainer>("createTrainer"),
                                              InstanceMethod<&ModelBinding::memory>("memory"),
                                              InstanceMethod<&ModelBinding::device>("device"),
                                              InstanceMethod<&ModelBinding::close>("close")}));
  model_class.SuppressDestruct();
}

ModelBinding::~ModelBinding() { close_threads(); }

/// The device last: what the others hold may wait for it.
void ModelBinding::close_threads() {
  if (trainer_ && !trainer_->ended) trainer_->close();
  if (reader_) reader_->close();
  if (copier_) copier_->close();
  if (thread_) thread_->close();
}

Napi::Value ModelBinding::load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsObject()) throw js_error(env, "INVALID_REQUEST", "loadModel(options, onProgress)");
  const ModelOptions options = to_options(info[0].As<Napi::Object>());
  auto progress = std::make_shared<Napi::FunctionReference>();
  if (info.Length() > 1 && info[1].IsFunction()) *progress = Napi::Persistent(info[1].As<Napi::Function>());
  auto thread = std::make_shared<DeviceThread>(env);
  return thread->run(env, [options, progress, thread]() -> DeviceThread::Settle {
    // Hundreds of reports a second would help nobody.
    auto last = std::make_shared<std::chrono::steady_clock::time_point>();
    const auto report = [&](const char* phase, uint64_t done, uint64_t total) {
      const auto now = std::chrono::steady_clock::now();
      if (done < total && now - *last < std::chrono::milliseconds(50)) return;
      *last = now;
      thread->notify([progress, phase = std::string(phase), done, total](Napi::Env env) {
        if (!progress->IsEmpty()) progress->Call({Napi::String::New(env, phase), Napi::Number::New(env, double(done)), Napi::Number::New(env, double(total))});
      });
    };
    std::shared_ptr<Model> model = Model::load(options, report);
    return [model, thread, progress](Napi::Env env) -> Napi::Value {
      progress->Reset();
      Napi::Object object = model_class.New({});
      ModelBinding* binding = Unwrap(object);
      binding->thread_ = thread;
      binding->reader_ = std::make_shared<DeviceThread>(env);
      binding->copier_ = std::make_shared<DeviceThread>(env);
      binding->model_ = model;
      return object;
    };
  });
}

Napi::Value ModelBinding::run(Napi::Env env, DeviceThread::Work work) {
  if (!model_) throw js_error(env, "ENGINE_UNAVAILABLE", "the model is closed");
  return thread_->run(env, std::move(work));
}

Napi::Value ModelBinding::get_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!model_) throw js_error(env, "ENGINE_UNAVAILABLE", "the model is closed");
  const ModelInfo& m = model_->info();
  Napi::Object out = Napi::Object::New(env);
  out.Set("name", m.name);
  out.Set("hash", m.hash);
  out.Set("device", m.device);
  out.Set("compute", m.compute);
  out.Set("weights", m.weights);
  out.Set("head", m.head);
  out.Set("vocabSize", m.vocab_size);
  out.Set("hiddenSize", m.hidden_size);
  out.Set("nLayers", m.n_layers);
  out.Set("slidingWindow", m.sliding_window);
  out.Set("maxModelLen", m.max_model_len);
  out.Set("blockTokens", kBlockTokens);
  out.Set("nGlobalBlocks", m.n_global_blocks);
  out.Set("nSlidingBlocks", m.n_sliding_blocks);
  Napi::Array eos = Napi::Array::New(env, m.eos_ids.size());
  for (size_t i = 0; i < m.eos_ids.size(); i++) eos.Set(uint32_t(i), m.eos_ids[i]);
  out.Set("eosTokenIds", eos);
  return out;
}

Napi::Value ModelBinding::step(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!model_) throw js_error(env, "ENGINE_UNAVAILABLE", "the model is closed");
  if (info.Length() < 1 || !info[0].IsObject()) throw js_error(env, "INVALID_REQUEST", "step(plan)");
  auto plan = std::make_shared<StepPlan>(to_plan(info[0].As<Napi::Object>()));
  guarded(env, [&] { model_->check(*plan); });
  return run(env, [model = model_, plan]() -> DeviceThread::Settle {
    const auto begin = std::chrono::steady_clock::now();
    auto result = std::make_shared<SampleResult>(model->step(*plan));
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    return [result, ms](Napi::Env env) -> Napi::Value {
      Napi::Object out = Napi::Object::New(env);
      out.Set("tokenIds", to_typed<Napi::Int32Array>(env, result->token_ids));
      out.Set("logprobs", to_typed<Napi::Float32Array>(env, result->logprobs));
      out.Set("topIds", to_typed<Napi::Int32Array>(env, result->top_ids));
      out.Set("topLogprobs", to_typed<Napi::Float32Array>(env, result->top_logprobs));
      out.Set("deviceMs", ms);
      return out;
    };
  });
}

Napi::Value ModelBinding::load_adapter(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[0].IsNumber() || !info[1].IsString()) throw js_error(env, "INVALID_REQUEST", "loadAdapter(slot, path)");
  const int slot = info[0].As<Napi::Number>().Int32Value();
  if (!model_) throw js_error(env, "ENGINE_UNAVAILABLE", "the model is closed");
  std::string path = info[1].As<Napi::String>().Utf8Value();
  // What is in host memory does not wait behind files that are being read.
  DeviceThread& thread = model_->host_adapters().has(path) ? *copier_ : *reader_;
  return thread.run(env, [model = model_, device = thread_, slot, path = std::move(path)]() -> DeviceThread::Settle {
    std::shared_ptr<const HostAdapter> adapter = model->host_adapters().find(path);
    const bool from_image = adapter != nullptr;
    if (!from_image) adapter = model->prepare_adapter(path);
    double bytes = 0;
    const auto load = [&] {
      model->load_adapter(slot, *adapter);
      bytes = double(model->adapter(slot)->bytes);
    };
    if (adapter->is_image()) load();
    else device->run_and_wait(load);
    const AdapterFile& file = adapter->file;
    return [rank = file.max_rank, bytes, n = file.n_tensors, warnings = file.warnings, from_image](Napi::Env env) {
      Napi::Object info = adapter_info(env, rank, bytes, n, warnings);
      info.Set("fromImage", from_image);
      return info;
    };
  });
}

Napi::Value ModelBinding::prefetch_adapter(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsString()) throw js_error(env, "INVALID_REQUEST", "prefetchAdapter(path)");
  if (!model_) throw js_error(env, "ENGINE_UNAVAILABLE", "the model is closed");
  return reader_->run(env, [model = model_, path = info[0].As<Napi::String>().Utf8Value()]() -> DeviceThread::Settle {
    if (model->keeps_host_adapters()) model->prepare_adapter(path);
    return [](Napi::Env env) { return env.Undefined(); };
  });
}

Napi::Value ModelBinding::unload_adapter(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsNumber()) throw js_error(env, "INVALID_REQUEST", "unloadAdapter(slot)");
  return run(env, [model = model_, slot = info[0].As<Napi::Number>().Int32Value()]() -> DeviceThread::Settle {
    model->unload_adapter(slot);
    return [](Napi::Env env) { return env.Undefined(); };
  });
}

Napi::Value ModelBinding::validate_adapter(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsString()) throw js_error(env, "INVALID_REQUEST", "validateAdapter(path)");
  if (!model_) throw js_error(env, "ENGINE_UNAVAILABLE", "the model is closed");
  return reader_->run(env, [model = model_, path = info[0].As<Napi::String>().Utf8Value()]() -> DeviceThread::Settle {
    const AdapterFile file = model->read_adapter_file(path);
    return [rank = file.max_rank, bytes = double(file.bytes), n = file.n_tensors, warnings = file.warnings](Napi::Env env) {
      return adapter_info(env, rank, bytes, n, warnings);
    };
  });
}

Napi::Value ModelBinding::logits(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 2 || !info[1].IsNumber()) throw js_error(env, "INVALID_REQUEST", "logits(tokenIds, adapter)");
  return run(env, [model = model_, ids = to_ints(info[0], "tokenIds"), adapter = info[1].As<Napi::Number>().Int32Value()]() -> DeviceThread::Settle {
    auto out = std::make_shared<std::vector<float>>(model->logits(ids, adapter));
    return [out](Napi::Env env) -> Napi::Value { return to_typed<Napi::Float32Array>(env, *out); };
  });
}

Napi::Value ModelBinding::hidden(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 3 || !info[1].IsNumber() || !info[2].IsNumber()) throw js_error(env, "INVALID_REQUEST", "hidden(tokenIds, layer, adapter)");
  return run(env, [model = model_, ids = to_ints(info[0], "tokenIds"), layer = info[1].As<Napi::Number>().Int32Value(),
                   adapter = info[2].As<Napi::Number>().Int32Value()]() -> DeviceThread::Settle {
    auto out = std::make_shared<std::vector<float>>(model->hidden(ids, layer, adapter));
    return [out](Napi::Env env) -> Napi::Value { return to_typed<Napi::Float32Array>(env, *out); };
  });
}

Napi::Value ModelBinding::create_trainer(const Napi::CallbackInfo& info) {
  if (!model_) throw js_error(info.Env(), "ENGINE_UNAVAILABLE", "the model is closed");
  return TrainerBinding::create(info, model_, thread_, trainer_);
}

Napi::Value ModelBinding::memory(const Napi::CallbackInfo& info) {
  Napi::Object out = Napi::Object::New(info.Env());
  if (model_)
    for (const auto& [purpose, bytes] : model_->memory()) out.Set(purpose, double(bytes));
  return out;
}

Napi::Value ModelBinding::device(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  DeviceStats stats;
  if (model_) stats = model_->device_stats();
  Napi::Object out = Napi::Object::New(env), graphs = Napi::Object::New(env), phases = Napi::Object::New(env);
  out.Set("totalBytes", double(stats.total_bytes));
  out.Set("freeBytes", double(stats.free_bytes));
  graphs.Set("hit", double(stats.graphs.hit));
  graphs.Set("capture", double(stats.graphs.capture));
  graphs.Set("plain", double(stats.graphs.plain));
  out.Set("graphs", graphs);
  for (int p = 0; p < kStepPhases; p++) {
    Napi::Object phase = Napi::Object::New(env), seconds = Napi::Object::New(env);
    for (int i = 0; i < kStepParts; i++) seconds.Set(part_name(StepPart(i)), stats.times[p].seconds[i]);
    phase.Set("steps", double(stats.times[p].steps));
    phase.Set("seconds", seconds);
    phases.Set(phase_name(StepPhase(p)), phase);
  }
  out.Set("stepTimes", phases);
  return out;
}

Napi::Value ModelBinding::close(const Napi::CallbackInfo& info) {
  close_threads();
  model_.reset();
  return info.Env().Undefined();
}

}  // namespace lorikeet
