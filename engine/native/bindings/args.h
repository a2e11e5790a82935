// JavaScript values to plain structs: checked here, before anything native sees them.
#pragma once
#include <napi.h>

#include <string>
#include <vector>

#include "device_thread.h"

namespace lorikeet {

inline Napi::Value required(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (value.IsUndefined()) throw js_error(object.Env(), "INVALID_REQUEST", std::string("missing field ") + name);
  return value;
}

inline std::string get_string(const Napi::Object& object, const char* name) {
  const Napi::Value value = required(object, name);
  if (!value.IsString()) throw js_error(object.Env(), "INVALID_REQUEST", std::string(name) + " must be a string");
  return value.As<Napi::String>().Utf8Value();
}

inline double get_number(const Napi::Object& object, const char* name) {
  const Napi::Value value = required(object, name);
  if (!value.IsNumber()) throw js_error(object.Env(), "INVALID_REQUEST", std::string(name) + " must be a number");
  return value.As<Napi::Number>().DoubleValue();
}

inline int get_int(const Napi::Object& object, const char* name) {
  const double value = get_number(object, name);
  if (!(value >= -2147483648.0 && value <= 2147483647.0)) throw js_error(object.Env(), "INVALID_REQUEST", std::string(name) + " is out of range");
  return int(value);
}

inline std::vector<int32_t> to_ints(const Napi::Value& value, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array)
    throw js_error(value.Env(), "INVALID_REQUEST", std::string(name) + " must be an Int32Array");
  const auto array = value.As<Napi::Int32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

inline std::vector<int32_t> get_ints(const Napi::Object& object, const char* name) { return to_ints(required(object, name), name); }

inline std::vector<float> to_floats(const Napi::Value& value, const char* name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array)
    throw js_error(value.Env(), "INVALID_REQUEST", std::string(name) + " must be a Float32Array");
  const auto array = value.As<Napi::Float32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

template <class Array, class T>
Array to_typed(Napi::Env env, const std::vector<T>& values) {
  Array array = Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

}  // namespace lorikeet
