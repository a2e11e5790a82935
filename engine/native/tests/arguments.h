// "--name value" pairs of a bench's command line.
#pragma once
#include <cstdlib>
#include <map>
#include <string>

#include "../core/error.h"

namespace lorikeet::testing {

class Arguments {
 public:
  /// defaults: every option there is. The one argument without a name goes to `path`. @throws Error USAGE
  Arguments(int n_args, char** args, std::map<std::string, std::string> defaults) : values_(std::move(defaults)) {
    for (int i = 1; i < n_args; i++) {
      const std::string name = args[i];
      if (name.substr(0, 2) != "--") { values_["path"] = name; continue; }
      const auto value = values_.find(name.substr(2));
      if (value == values_.end()) throw Error("USAGE", "unknown option " + name);
      if (i + 1 >= n_args) throw Error("USAGE", "no value for " + name);
      value->second = args[++i];
    }
  }

  const std::string& text(const char* name) const { return values_.at(name); }
  int number(const char* name) const { return std::atoi(text(name).c_str()); }
  float real(const char* name) const { return float(std::atof(text(name).c_str())); }

 private:
  std::map<std::string, std::string> values_;
};

}  // namespace lorikeet::testing
