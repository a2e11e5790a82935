// The one exception of the native engine. A code is one of engine/errors.ts; the addon turns it into {code, message}.
#pragma once

#include <stdexcept>
#include <string>

namespace lorikeet {

class Error : public std::runtime_error {
 public:
  // `code` must be a string literal: it is kept by address.
  Error(const char* code, std::string message) : std::runtime_error(std::move(message)), code_(code) {}
  const char* code() const { return code_; }

 private:
  const char* code_;
};

}  // namespace lorikeet
