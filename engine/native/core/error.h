// The one exception of native code. `code` is one of engine/errors.ts; bindings/ turns it into a JavaScript EngineError.
#pragma once
#include <stdexcept>
#include <string>

namespace lorikeet {

class Error : public std::runtime_error {
 public:
  Error(const char* code, const std::string& message) : std::runtime_error(message), code_(code) {}
  const char* code() const { return code_; }

 private:
  const char* code_;  // a string literal
};

}  // namespace lorikeet
