// A small strict JSON reader (RFC 8259) for headers and configs that nobody vouches for. Numbers keep their text, so that
// 2^63 and 0.1 are read exactly or refused. Duplicate keys, lone surrogates, NaN and Infinity are errors.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lorikeet {

struct JsonLimits {
  int depth = 64;
  size_t values = 1u << 20;                // values and keys in the whole text: bounds the memory of the tree
};

class Json {
 public:
  enum class Type : uint8_t { kNull, kBool, kNumber, kString, kArray, kObject };

  // Throws FILE_INVALID with the byte offset and the cause.
  static Json parse(std::string_view text, const JsonLimits& limits = {});

  Type type() const { return type_; }
  bool is_null() const { return type_ == Type::kNull; }
  bool is_bool() const { return type_ == Type::kBool; }
  bool is_number() const { return type_ == Type::kNumber; }
  bool is_string() const { return type_ == Type::kString; }
  bool is_array() const { return type_ == Type::kArray; }
  bool is_object() const { return type_ == Type::kObject; }

  // Each throws FILE_INVALID when the value is of another type or does not fit. `what` names the value in the message.
  bool as_bool(std::string_view what) const;
  int64_t as_int(std::string_view what) const;             // written without point or exponent
  double as_double(std::string_view what) const;           // finite
  const std::string& as_string(std::string_view what) const;
  const std::vector<Json>& as_array(std::string_view what) const;

  const std::vector<std::string>& keys() const { return keys_; }   // of an object, in file order
  const std::vector<Json>& items() const { return items_; }        // of an array, or an object's values
  const Json* find(std::string_view key) const;                    // nullptr when absent (or no object)
  const Json* find_set(std::string_view key) const;                // nullptr when absent or null

 private:
  friend class JsonParser;
  Type type_ = Type::kNull;
  bool bool_ = false;
  std::string text_;                       // of a number or string
  std::vector<Json> items_;
  std::vector<std::string> keys_;
};

const char* json_type_name(Json::Type type);
bool is_utf8(std::string_view text);       // no overlong forms, no surrogates, at most U+10FFFF
std::string json_quote(std::string_view utf8);   // with the quotes

}  // namespace lorikeet
