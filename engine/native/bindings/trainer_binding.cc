#include "trainer_binding.h"

#include <cmath>

#include "../core/trained_files.h"
#include "args.h"

namespace lorikeet {
namespace {

[[noreturn]] void refuse(Napi::Env env, const std::string& what) { throw js_error(env, "INVALID_REQUEST", what); }

uint64_t get_uint64(const Napi::Object& object, const char* name) {
  const Napi::Value value = required(object, name);
  bool lossless = false;
  const uint64_t number = value.IsBigInt() ? value.As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  if (!lossless) refuse(object.Env(), std::string(name) + " must be a bigint of 64 bits, not negative");
  return number;
}

bool get_bool(const Napi::Object& object, const char* name) {
  const Napi::Value value = required(object, name);
  if (!value.IsBoolean()) refuse(object.Env(), std::string(name) + " must be a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::vector<std::string> get_strings(const Napi::Object& object, const char* name) {
  const Napi::Value value = required(object, name);
  if (!value.IsArray()) refuse(object.Env(), std::string(name) + " must be an array of strings");
  const auto array = value.As<Napi::Array>();
  std::vector<std::string> strings;
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value item = array.Get(i);
    if (!item.IsString()) refuse(object.Env(), std::string(name) + " must be an array of strings");
    strings.push_back(item.As<Napi::String>().Utf8Value());
  }
  return strings;
}

/// Index of a word in a list of choices.
int get_choice(const Napi::Object& object, const char* name, std::initializer_list<const char*> choices) {
  const std::string word = get_string(object, name);
  std::string all;
  int i = 0;
  for (const char* choice : choices) {
    if (word == choice) return i;
    all += std::string(i++ ? ", " : "") + choice;
  }
  refuse(object.Env(), std::string(name) + " must be one of " + all);
}

std::vector<Module> to_modules(Napi::Env env, const std::vector<std::string>& names) {
  std::vector<Module> modules;
  for (int m = 0; m < kModules; m++)
    if (std::find(names.begin(), names.end(), module_name(Module(m))) != names.end()) modules.push_back(Module(m));
  for (const std::string& name : names) {
    const bool known = std::any_of(modules.begin(), modules.end(), [&](Module m) { return name == module_name(m); });
    if (!known) refuse(env, "targetModules: the model has no \"" + name + "\"");
  }
  return modules;
}

TrainerOptions to_options(const Napi::Object& o) {
  TrainerOptions out;
  out.trained.rank = get_int(o, "rank");
  out.trained.alpha = get_number(o, "alpha");
  out.trained.use_rslora = get_bool(o, "useRslora");
  out.trained.use_dora = get_bool(o, "useDora");
  out.trained.dropout = float(get_number(o, "dropout"));
  out.trained.modules = to_modules(o.Env(), get_strings(o, "targetModules"));
  out.trained.layers = get_ints(o, "layers");
  out.trained.token_ids = get_ints(o, "trainableTokenIds");
  for (const std::string& name : get_strings(o, "modulesToSave")) {
    if (name == "embed_tokens") out.trained.saves_embedding = true;
    else if (name == "lm_head") out.trained.saves_head = true;
    else refuse(o.Env(), "modulesToSave: \"" + name + "\" cannot be trained, only embed_tokens and lm_head");
  }
  out.trained.seed = get_uint64(o, "seed");
  out.checkpointing = Checkpointing(get_choice(o, "checkpointing", {"none", "mlp", "layer"}));
  out.eight_bit = get_choice(o, "optimizer", {"adamw", "adamw_8bit"}) == 1;
  out.max_tokens = get_int(o, "maxTokens");
  return out;
}

MicroBatch to_batch(const Napi::CallbackInfo& info) {
  if (info.Length() < 1 || !info[0].IsObject()) refuse(info.Env(), "a micro-batch is expected");
  const auto o = info[0].As<Napi::Object>();
  return {get_ints(o, "tokenIds"), get_ints(o, "documentStarts"), get_ints(o, "targets"), get_uint64(o, "tokenCounter")};
}

double to_scale(const Napi::CallbackInfo& info) {
  if (info.Length() < 2 || !info[1].IsNumber()) refuse(info.Env(), "gradientScale must be a number");
  return info[1].As<Napi::Number>().DoubleValue();
}

std::string to_text(const Napi::CallbackInfo& info, const char* name) {
  if (info.Length() < 1 || !info[0].IsString()) refuse(info.Env(), std::string(name) + " must be a string");
  return info[0].As<Napi::String>().Utf8Value();
}

DeviceThread::Settle settle_loss(const LossResult& loss) {
  return [loss](Napi::Env env) -> Napi::Value {
    Napi::Object out = Napi::Object::New(env);
    out.Set("lossSum", loss.loss_sum);
    out.Set("targets", double(loss.n_targets));
    out.Set("correct", double(loss.n_correct));
    return out;
  };
}

DeviceThread::Settle settle_nothing() {
  return [](Napi::Env env) { return env.Undefined(); };
}

Transfer transfer_from(Trainer& trainer) {
  return [&backend = trainer.backend()](void* host, const void* device, size_t bytes) { backend.download(host, device, bytes); };
}

const Parameter& find(Trainer& trainer, const std::string& name) {
  const Parameter* p = trainer.trained().find(name);
  if (!p) throw Error("INVALID_REQUEST", "no trained tensor is called \"" + name + "\"");
  return *p;
}

DeviceThread::Settle settle_floats(std::vector<float> values) {
  return [values = std::make_shared<std::vector<float>>(std::move(values))](Napi::Env env) -> Napi::Value {
    return to_typed<Napi::Float32Array>(env, *values);
  };
}

Napi::FunctionReference trainer_class;

}  // namespace

void TrainerSession::close() {
  aborted = true;
  device->wake();
  worker->close();
  at_exit.reset();
  release();
}

void TrainerSession::release() {
  trainer.reset();
  model.reset();
  ended = true;
}

void TrainerBinding::define(Napi::Env env) {
  trainer_class = Napi::Persistent(DefineClass(env, "NativeTrainer",
                                               {InstanceAccessor<&TrainerBinding::get_n_trained>("nTrained"),
                                                InstanceAccessor<&TrainerBinding::get_bytes>("bytes"),
                                                InstanceMethod<&TrainerBinding::accumulate>("accumulate"),
                                                InstanceMethod<&TrainerBinding::evaluate>("evaluate"),
                                                InstanceMethod<&TrainerBinding::optimizer_step>("optimizerStep"),
                                                InstanceMethod<&TrainerBinding::save_adapter>("saveAdapter"),
                                                InstanceMethod<&TrainerBinding::save_state>("saveState"),
                                                InstanceMethod<&TrainerBinding::load_state>("loadState"),
                                                InstanceMethod<&TrainerBinding::load_adapter>("loadAdapter"),
                                                InstanceMethod<&TrainerBinding::parameter>("parameter"),
                                                InstanceMethod<&TrainerBinding::gradient>("gradient"),
                                                InstanceMethod<&TrainerBinding::set_parameter>("setParameter"),
                                                InstanceMethod<&TrainerBinding::trace>("trace"),
                                                InstanceMethod<&TrainerBinding::close>("close")}));
  trainer_class.SuppressDestruct();
}

TrainerBinding::~TrainerBinding() {
  if (session_ && !session_->ended) session_->close();
}

Napi::Value TrainerBinding::create(const Napi::CallbackInfo& info, std::shared_ptr<Model> model, std::shared_ptr<DeviceThread> device,
                                   std::shared_ptr<TrainerSession>& current) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsObject()) refuse(env, "createTrainer(options)");
  const auto object = info[0].As<Napi::Object>();
  const TrainerOptions options = to_options(object);
  const double share = get_number(object, "trainShare");
  if (!(share > 0 && share <= 1)) refuse(env, "trainShare must be in (0, 1]");
  if (current && !current->ended) throw js_error(env, "TRAINING_BUSY", "a trainer runs already: one at a time");
  auto session = std::make_shared<TrainerSession>();
  session->model = std::move(model);
  session->device = std::move(device);
  session->worker = std::make_shared<DeviceThread>(env);
  session->train_share = share;
  session->at_exit = std::make_unique<AtExit<TrainerSession>>(env, session.get());
  current = session;
  return session->worker->run(env, [session, options]() -> DeviceThread::Settle {
    try {
      session->on_device([&](const Pause& pause) {
        session->trainer = std::make_unique<Trainer>(session->model->backend(), session->model->weights(), options, pause);
      });
    } catch (...) {
      session->release();
      throw;
    }
    return [session](Napi::Env env) -> Napi::Value {
      if (session->aborted) throw js_error(env, "ABORTED", "the trainer is closed");
      Napi::Object out = trainer_class.New({});
      TrainerBinding* binding = Unwrap(out);
      binding->session_ = session;
      binding->n_trained_ = double(session->trainer->trained().n_trained());
      binding->bytes_ = session->trainer->memory();
      return out;
    };
  });
}

Napi::Value TrainerBinding::run(Napi::Env env, std::function<DeviceThread::Settle(TrainerSession&)> work) {
  if (!session_ || session_->aborted) {
    const auto deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(js_error(env, "ABORTED", "the trainer is closed").Value());
    return deferred.Promise();
  }
  return session_->worker->run(env, [session = session_, work = std::move(work)]() -> DeviceThread::Settle {
    if (session->aborted) throw Error("ABORTED", "the trainer was closed before this began");
    return work(*session);
  });
}

Napi::Value TrainerBinding::get_n_trained(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), n_trained_); }

Napi::Value TrainerBinding::get_bytes(const Napi::CallbackInfo& info) {
  Napi::Object out = Napi::Object::New(info.Env());
  for (const auto& [purpose, bytes] : bytes_) out.Set(purpose, double(bytes));
  return out;
}

Napi::Value TrainerBinding::accumulate(const Napi::CallbackInfo& info) {
  return run(info.Env(), [batch = to_batch(info), scale = to_scale(info)](TrainerSession& s) {
    LossResult loss;
    s.on_device([&](const Pause& pause) { loss = s.trainer->accumulate(batch, scale, pause); });
    return settle_loss(loss);
  });
}

Napi::Value TrainerBinding::evaluate(const Napi::CallbackInfo& info) {
  return run(info.Env(), [batch = to_batch(info)](TrainerSession& s) {
    LossResult loss;
    s.on_device([&](const Pause& pause) { loss = s.trainer->evaluate(batch, pause); });
    return settle_loss(loss);
  });
}

Napi::Value TrainerBinding::optimizer_step(const Napi::CallbackInfo& info) {
  if (info.Length() < 1 || !info[0].IsObject()) refuse(info.Env(), "optimizerStep(options)");
  const auto o = info[0].As<Napi::Object>();
  const OptimizerOptions options{get_number(o, "lr"), get_number(o, "beta1"), get_number(o, "beta2"), get_number(o, "eps"),
                                 get_number(o, "weightDecay"), get_number(o, "maxGradNorm")};
  return run(info.Env(), [options](TrainerSession& s) -> DeviceThread::Settle {
    double norm = 0;
    s.on_device([&](const Pause& pause) { norm = s.trainer->optimizer_step(options, pause); });
    return [norm](Napi::Env env) -> Napi::Value {
      Napi::Object out = Napi::Object::New(env);
      out.Set("gradNorm", norm);
      return out;
    };
  });
}

// Files and single tensors: what is trained stands still while the worker is here, so it is read beside running steps.

Napi::Value TrainerBinding::save_adapter(const Napi::CallbackInfo& info) {
  return run(info.Env(), [path = to_text(info, "path")](TrainerSession& s) {
    lorikeet::save_adapter(path, s.trainer->trained(), s.trainer->backend().act_dtype(), transfer_from(*s.trainer));
    return settle_nothing();
  });
}

Napi::Value TrainerBinding::save_state(const Napi::CallbackInfo& info) {
  return run(info.Env(), [path = to_text(info, "path")](TrainerSession& s) {
    lorikeet::save_state(path, s.trainer->trained(), s.trainer->optimizer(), transfer_from(*s.trainer));
    return settle_nothing();
  });
}

Napi::Value TrainerBinding::load_state(const Napi::CallbackInfo& info) {
  return run(info.Env(), [path = to_text(info, "path")](TrainerSession& s) {
    const StateFile state = open_state(path, s.trainer->trained(), s.trainer->optimizer());
    s.on_device([&](const Pause& pause) {
      const Transfer upload = [&](void* device, const void* host, size_t bytes) {
        s.trainer->backend().upload(device, host, bytes);
        pause();
      };
      lorikeet::load_state(state, s.trainer->trained(), s.trainer->optimizer(), upload);
      s.trainer->trained().refresh(pause);
    });
    return settle_nothing();
  });
}

Napi::Value TrainerBinding::load_adapter(const Napi::CallbackInfo& info) {
  return run(info.Env(), [path = to_text(info, "path")](TrainerSession& s) {
    TrainedAdapter& trained = s.trainer->trained();
    const ParameterValues values = read_adapter_values(path, trained.parameters());
    s.on_device([&](const Pause& pause) {
      for (size_t i = 0; i < values.size(); i++) {
        s.trainer->backend().upload(trained.values() + trained.parameters()[i].begin, values[i].data(), values[i].size() * 4);
        pause();
      }
      trained.refresh(pause);
    });
    return settle_nothing();
  });
}

Napi::Value TrainerBinding::parameter(const Napi::CallbackInfo& info) {
  return run(info.Env(), [name = to_text(info, "name")](TrainerSession& s) {
    const Parameter& p = find(*s.trainer, name);
    std::vector<float> values(size_t(p.size));
    s.trainer->backend().download(values.data(), s.trainer->trained().values() + p.begin, values.size() * 4);
    return settle_floats(std::move(values));
  });
}

Napi::Value TrainerBinding::gradient(const Napi::CallbackInfo& info) {
  return run(info.Env(), [name = to_text(info, "name")](TrainerSession& s) {
    const Parameter& p = find(*s.trainer, name);
    std::vector<float> values(size_t(p.size));
    s.trainer->backend().download(values.data(), s.trainer->trained().gradients() + p.begin, values.size() * 4);
    return settle_floats(std::move(values));
  });
}

Napi::Value TrainerBinding::set_parameter(const Napi::CallbackInfo& info) {
  const std::string name = to_text(info, "name");
  return run(info.Env(), [name, values = to_floats(info[1], "values")](TrainerSession& s) {
    const Parameter& p = find(*s.trainer, name);
    if (int64_t(values.size()) != p.size)
      throw Error("INVALID_REQUEST", name + " has " + std::to_string(p.size) + " values, got " + std::to_string(values.size()));
    s.on_device([&](const Pause& pause) {
      s.trainer->backend().upload(s.trainer->trained().values() + p.begin, values.data(), values.size() * 4);
      s.trainer->trained().refresh(pause);
    });
    return settle_nothing();
  });
}

Napi::Value TrainerBinding::trace(const Napi::CallbackInfo& info) {
  return run(info.Env(), [batch = to_batch(info), scale = to_scale(info)](TrainerSession& s) -> DeviceThread::Settle {
    auto seen = std::make_shared<std::map<std::string, std::vector<float>>>();
    s.on_device([&](const Pause&) { *seen = s.trainer->trace(batch, scale); });
    return [seen](Napi::Env env) -> Napi::Value {
      Napi::Object out = Napi::Object::New(env);
      for (const auto& [name, values] : *seen) out.Set(name, to_typed<Napi::Float32Array>(env, values));
      return out;
    };
  });
}

Napi::Value TrainerBinding::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto deferred = Napi::Promise::Deferred::New(env);
  if (!session_ || session_->aborted.exchange(true)) {
    deferred.Resolve(env.Undefined());
    return deferred.Promise();
  }
  session_->device->wake();
  // Behind what the worker still has, which ends at once.
  return session_->worker->run(env, [session = session_]() -> DeviceThread::Settle {
    session->release();
    return [session](Napi::Env env) -> Napi::Value {
      session->close();
      return env.Undefined();
    };
  });
}

}  // namespace lorikeet
