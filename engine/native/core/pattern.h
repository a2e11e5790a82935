// Regular expressions of adapter configs (target_modules, rank_pattern), matched in time linear in the text: whoever wrote the
// config is not trusted. The subset of Python's syntax that matches without looking around or back.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lorikeet {

class Pattern {
 public:
  // Literals, . [] \d \w \s \. | () (?:) (?P<name>) * + ? {m,n}, lazy or not; ^ first and $ last in the whole expression.
  // Throws ADAPTER_INVALID "config: ..." for anything else, and for expressions of more than 4,096 states.
  explicit Pattern(std::string_view expression);

  bool matches(std::string_view text) const;        // from its first byte to its last: re.fullmatch
  // re.match("(.*\.)?(expression)$", text): the whole text, or what follows one of its points.
  bool matches_suffix(std::string_view text) const;

  // All patterns of one config together may take 200 million state steps on this thread; then matching throws ADAPTER_INVALID.
  static void renew_budget();

 private:
  friend class PatternParser;
  using Set = std::bitset<256>;
  enum class Op : uint8_t { kSet, kSplit, kMatch };
  struct State {
    Op op = Op::kMatch;
    int next = -1;                         // of kSet and kSplit
    int other = -1;                        // of kSplit
    int set = -1;                          // of kSet: index into sets_
  };
  void follow(int state, std::vector<int>& list, std::vector<uint32_t>& seen, uint32_t mark) const;

  std::vector<State> states_;
  std::vector<Set> sets_;
  int start_ = 0;
};

}  // namespace lorikeet
