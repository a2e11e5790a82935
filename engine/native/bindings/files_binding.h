// Readers of model files for JavaScript: tokenizers, safetensors, and the number formats that goldens check.
#pragma once
#include <napi.h>

namespace lorikeet {

void define_files(Napi::Env env, Napi::Object exports);

}  // namespace lorikeet
