// The least that a test program needs: named checks, a count of both kinds, and scratch directories.
#pragma once

#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <string_view>

#include "../core/error.h"

namespace lorikeet::testing {

inline int n_passed = 0, n_failed = 0;

inline void check(bool passed, const std::string& behaviour) {
  (passed ? n_passed : n_failed)++;
  if (!passed) std::printf("FAILED: %s\n", behaviour.c_str());
}

// `run` must throw lorikeet::Error with this code and with `part` in its message; anything else fails.
inline void check_error(const std::string& behaviour, const char* code, const char* part, const std::function<void()>& run) {
  try {
    run();
    check(false, behaviour + " (nothing was thrown)");
  } catch (const Error& error) {
    const bool right = std::string_view(error.code()) == code && std::string(error.what()).find(part) != std::string::npos;
    check(right, behaviour + " (got " + error.code() + ": " + error.what() + ")");
  } catch (const std::exception& error) {
    check(false, behaviour + " (got another exception: " + error.what() + ")");
  }
}

inline int finish() {
  std::printf("%d passed, %d failed\n", n_passed, n_failed);
  return n_failed == 0 ? 0 : 1;
}

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline void write_text(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}

// A directory that is gone when the test ends.
class Scratch {
 public:
  Scratch() {
    const bool in_memory = std::filesystem::is_directory("/dev/shm");
    std::string name = (in_memory ? "/dev/shm" : std::filesystem::temp_directory_path().string()) + "/lorikeet-test-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw Error("INTERNAL", "no scratch directory");
    path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Reference data: the first argument, or LORIKEET_GOLDENS, or ../shared/goldens beside the repository; "" when there is none.
inline std::string goldens_directory(int n_args, char** args) {
  const char* environment = ::getenv("LORIKEET_GOLDENS");
  std::string path = n_args > 1 ? args[1] : environment != nullptr ? environment
                     : std::filesystem::path(__FILE__).parent_path().string() + "/../../../../shared/goldens";
  if (std::filesystem::is_directory(path)) return path;
  std::printf("skipped: no reference data at %s\n", path.c_str());
  return "";
}

}  // namespace lorikeet::testing
