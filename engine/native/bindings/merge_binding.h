// NativeMergedWeights of engine/native.ts: a base with an adapter merged in, read row by row.
#pragma once
#include <napi.h>

namespace lorikeet {

void define_merge(Napi::Env env, Napi::Object exports);

}  // namespace lorikeet
