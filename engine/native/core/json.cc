#include "json.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <unordered_set>

#include "error.h"

namespace lorikeet {
namespace {

[[noreturn]] void mismatch(std::string_view what, const char* expected, const Json& got) {
  throw Error("FILE_INVALID", std::string(what) + " must be " + expected + ", not " + json_type_name(got.type()));
}

void append_utf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 63));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 63));
    out += static_cast<char>(0x80 | (c & 63));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 63));
    out += static_cast<char>(0x80 | ((c >> 6) & 63));
    out += static_cast<char>(0x80 | (c & 63));
  }
}

}  // namespace

class JsonParser {
 public:
  JsonParser(std::string_view text, const JsonLimits& limits) : text_(text), limits_(limits) {}

  Json parse() {
    if (!is_utf8(text_)) fail("not valid UTF-8");
    Json value;
    parse_value(value, 0);
    skip_space();
    if (pos_ != text_.size()) fail("text after the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const char* cause) const {
    throw Error("FILE_INVALID", "invalid JSON at byte " + std::to_string(pos_) + ": " + cause);
  }

  void skip_space() {
    while (pos_ < text_.size() && (text_[pos_] == ' ' || text_[pos_] == '\n' || text_[pos_] == '\r' || text_[pos_] == '\t')) ++pos_;
  }

  bool take(char c) {
    if (pos_ >= text_.size() || text_[pos_] != c) return false;
    ++pos_;
    return true;
  }

  void count_value() {
    if (++n_values_ > limits_.values) fail("too many values");
  }

  void parse_value(Json& out, int depth) {
    if (depth > limits_.depth) fail("nested too deeply");
    count_value();
    skip_space();
    if (pos_ >= text_.size()) fail("the text ends where a value should be");
    switch (text_[pos_]) {
      case '{': return parse_object(out, depth);
      case '[': return parse_array(out, depth);
      case '"':
        out.type_ = Json::Type::kString;
        return parse_string(out.text_);
      case 't': return parse_word(out, "true", Json::Type::kBool, true);
      case 'f': return parse_word(out, "false", Json::Type::kBool, false);
      case 'n': return parse_word(out, "null", Json::Type::kNull, false);
      default: return parse_number(out);
    }
  }

  void parse_word(Json& out, std::string_view word, Json::Type type, bool value) {
    if (text_.substr(pos_, word.size()) != word) fail("not a JSON value");
    pos_ += word.size();
    out.type_ = type;
    out.bool_ = value;
  }

  size_t take_digits() {
    const size_t start = pos_;
    while (pos_ < text_.size() && text_[pos_] >= '0' && text_[pos_] <= '9') ++pos_;
    return pos_ - start;
  }

  void parse_number(Json& out) {
    const size_t start = pos_;
    take('-');
    const bool leads_with_zero = pos_ < text_.size() && text_[pos_] == '0';
    const size_t n = take_digits();
    if (n == 0 || (leads_with_zero && n > 1)) fail("not a JSON value");
    if (take('.') && take_digits() == 0) fail("no digit after the point");
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      if (take_digits() == 0) fail("no digit in the exponent");
    }
    out.type_ = Json::Type::kNumber;
    out.text_ = text_.substr(start, pos_ - start);
  }

  uint32_t parse_hex4() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++pos_) {
      const char c = pos_ < text_.size() ? text_[pos_] : ' ';
      if (c >= '0' && c <= '9') value = value * 16 + static_cast<uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f') value = value * 16 + static_cast<uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') value = value * 16 + static_cast<uint32_t>(c - 'A' + 10);
      else fail("bad \\u escape");
    }
    return value;
  }

  void parse_unicode_escape(std::string& out) {
    uint32_t c = parse_hex4();
    if (c >= 0xD800 && c < 0xE000) {
      if (c >= 0xDC00 || !take('\\') || !take('u')) fail("lone surrogate");
      const uint32_t low = parse_hex4();
      if (low < 0xDC00 || low >= 0xE000) fail("lone surrogate");
      c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(out, c);
  }

  void parse_string(std::string& out) {
    ++pos_;
    while (true) {
      const size_t start = pos_;
      while (pos_ < text_.size() && text_[pos_] != '"' && text_[pos_] != '\\' && static_cast<uint8_t>(text_[pos_]) >= 0x20) ++pos_;
      out.append(text_, start, pos_ - start);
      if (pos_ >= text_.size()) fail("the text ends inside a string");
      if (take('"')) return;
      if (!take('\\')) fail("control character in a string");
      const char c = pos_ < text_.size() ? text_[pos_++] : ' ';
      switch (c) {
        case '"': case '\\': case '/': out += c; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'u': parse_unicode_escape(out); break;
        default: fail("bad escape");
      }
    }
  }

  void parse_array(Json& out, int depth) {
    out.type_ = Json::Type::kArray;
    ++pos_;
    skip_space();
    if (take(']')) return;
    do {
      parse_value(out.items_.emplace_back(), depth + 1);
      skip_space();
    } while (take(','));
    if (!take(']')) fail("expected , or ]");
  }

  void parse_object(Json& out, int depth) {
    out.type_ = Json::Type::kObject;
    ++pos_;
    skip_space();
    if (take('}')) return;
    do {
      skip_space();
      if (pos_ >= text_.size() || text_[pos_] != '"') fail("expected a key");
      count_value();
      parse_string(out.keys_.emplace_back());
      skip_space();
      if (!take(':')) fail("expected :");
      parse_value(out.items_.emplace_back(), depth + 1);
      skip_space();
    } while (take(','));
    if (!take('}')) fail("expected , or }");
    std::unordered_set<std::string_view> seen(out.keys_.begin(), out.keys_.end());
    if (seen.size() != out.keys_.size()) fail("a key stands twice in one object");
  }

  std::string_view text_;
  const JsonLimits& limits_;
  size_t pos_ = 0;
  size_t n_values_ = 0;
};

Json Json::parse(std::string_view text, const JsonLimits& limits) { return JsonParser(text, limits).parse(); }

bool Json::as_bool(std::string_view what) const {
  if (type_ != Type::kBool) mismatch(what, "true or false", *this);
  return bool_;
}

int64_t Json::as_int(std::string_view what) const {
  if (type_ != Type::kNumber) mismatch(what, "an integer", *this);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
  if (error != std::errc{} || end != text_.data() + text_.size()) {
    throw Error("FILE_INVALID", std::string(what) + " must be an integer of 64 bits, not " + text_.substr(0, 40));
  }
  return value;
}

double Json::as_double(std::string_view what) const {
  if (type_ != Type::kNumber) mismatch(what, "a number", *this);
  double value = 0;
  const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
  if (error != std::errc{} || end != text_.data() + text_.size() || !std::isfinite(value)) {
    throw Error("FILE_INVALID", std::string(what) + " must be a finite number, not " + text_.substr(0, 40));
  }
  return value;
}

const std::string& Json::as_string(std::string_view what) const {
  if (type_ != Type::kString) mismatch(what, "a string", *this);
  return text_;
}

const std::vector<Json>& Json::as_array(std::string_view what) const {
  if (type_ != Type::kArray) mismatch(what, "an array", *this);
  return items_;
}

const Json* Json::find(std::string_view key) const {
  for (size_t i = 0; i < keys_.size(); ++i) {
    if (keys_[i] == key) return &items_[i];
  }
  return nullptr;
}

const Json* Json::find_set(std::string_view key) const {
  const Json* value = find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

const char* json_type_name(Json::Type type) {
  static constexpr const char* kNames[] = {"null", "a boolean", "a number", "a string", "an array", "an object"};
  return kNames[static_cast<int>(type)];
}

bool is_utf8(std::string_view text) {
  const auto* p = reinterpret_cast<const uint8_t*>(text.data());
  const uint8_t* const end = p + text.size();
  while (p < end) {
    if (*p < 0x80) {
      ++p;
      continue;
    }
    const int n = *p >= 0xC2 && *p < 0xE0 ? 2 : *p >= 0xE0 && *p < 0xF0 ? 3 : *p >= 0xF0 && *p < 0xF5 ? 4 : 0;
    if (n == 0 || end - p < n) return false;
    uint32_t c = *p & (0xFFu >> (n + 1));
    for (int i = 1; i < n; ++i) {
      if ((p[i] & 0xC0) != 0x80) return false;
      c = (c << 6) | (p[i] & 63u);
    }
    if ((n == 3 && c < 0x800) || (n == 4 && c < 0x10000) || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return false;
    p += n;
  }
  return true;
}

std::string json_quote(std::string_view utf8) {
  std::string out = "\"";
  for (const char c : utf8) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<uint8_t>(c) >= 0x20) {
      out += c;
    } else {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    }
  }
  return out + '"';
}

}  // namespace lorikeet
