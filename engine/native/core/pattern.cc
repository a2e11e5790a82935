// Thompson's construction and a simulation of all states at once.
#include "pattern.h"

#include "error.h"
#include "json.h"

namespace lorikeet {
namespace {

constexpr size_t kMaxExpression = 4096, kMaxStates = 4096;
constexpr int kMaxDepth = 100, kMaxRepeat = 1000;
constexpr uint64_t kStepBudget = 200'000'000;

thread_local uint64_t steps_left = kStepBudget;

void spend(uint64_t steps) {
  if (steps > steps_left) throw Error("ADAPTER_INVALID", "config: its regular expressions take too long to match");
  steps_left -= steps;
}

}  // namespace

// Recursive descent. A fragment is a start state and the dangling ends that must be tied to what follows; ends are kept as
// (state, which arm) pairs.
class PatternParser {
 public:
  PatternParser(Pattern& out, std::string_view text) : out_(out), text_(text) {}

  void parse() {
    if (text_.size() > kMaxExpression) fail("is longer than 4,096 bytes");
    if (text_.starts_with('^')) ++pos_;
    const Fragment whole = parse_alternatives(0);
    if (pos_ != text_.size()) fail("has an unexpected )");
    const int match = add({});
    tie(whole.ends, match);
    out_.start_ = whole.start;
  }

 private:
  struct End {
    int state;
    bool other;
  };
  struct Fragment {
    int start;
    std::vector<End> ends;
  };

  [[noreturn]] void fail(const char* cause) const {
    throw Error("ADAPTER_INVALID", "config: the regular expression " + json_quote(text_.substr(0, 80)) + " " + cause);
  }

  int add(Pattern::State state) {
    if (out_.states_.size() >= kMaxStates) fail("is too large");
    out_.states_.push_back(state);
    return static_cast<int>(out_.states_.size()) - 1;
  }
  int add_split(int next, int other) { return add({Pattern::Op::kSplit, next, other, -1}); }
  Fragment add_set(const Pattern::Set& set) {
    out_.sets_.push_back(set);
    const int state = add({Pattern::Op::kSet, -1, -1, static_cast<int>(out_.sets_.size()) - 1});
    return {state, {{state, false}}};
  }
  Fragment empty() {
    const int state = add_split(-1, -1);   // both arms lead to what follows
    return {state, {{state, false}, {state, true}}};
  }

  void tie(const std::vector<End>& ends, int target) {
    for (const End& end : ends) {
      Pattern::State& state = out_.states_[static_cast<size_t>(end.state)];
      (end.other ? state.other : state.next) = target;
    }
  }
  static void append(std::vector<End>& to, const std::vector<End>& from) { to.insert(to.end(), from.begin(), from.end()); }

  bool more() const { return pos_ < text_.size(); }
  bool take(std::string_view token) {
    if (!text_.substr(pos_).starts_with(token)) return false;
    pos_ += token.size();
    return true;
  }

  Fragment parse_alternatives(int depth) {
    if (depth > kMaxDepth) fail("is nested too deeply");
    Fragment left = parse_sequence(depth);
    while (take("|")) {
      Fragment right = parse_sequence(depth);
      left.start = add_split(left.start, right.start);
      append(left.ends, right.ends);
    }
    return left;
  }

  Fragment parse_sequence(int depth) {
    Fragment sequence = empty();
    while (more() && text_[pos_] != '|' && text_[pos_] != ')') {
      if (text_[pos_] == '$' && pos_ + 1 == text_.size()) {
        ++pos_;
        break;
      }
      Fragment item = parse_repeated(depth);
      tie(sequence.ends, item.start);
      sequence.ends = std::move(item.ends);
    }
    return sequence;
  }

  // One atom with its quantifier. A counted repeat parses the atom anew for each copy.
  Fragment parse_repeated(int depth) {
    const size_t begin = pos_;
    Fragment atom = parse_atom(depth);
    if (!more()) return atom;
    int least = 1, most = 1;
    if (!take_quantifier(least, most)) return atom;
    const size_t end = pos_;
    if (more() && (text_[pos_] == '*' || text_[pos_] == '+' || text_[pos_] == '{')) fail("repeats a repeat");
    const auto copy = [&] {
      pos_ = begin;
      return parse_atom(depth);
    };
    Fragment out = repeat(std::move(atom), least, most, copy);
    pos_ = end;
    return out;
  }

  template <typename Copy>
  Fragment repeat(Fragment atom, int least, int most, Copy copy) {
    Fragment out = empty();
    bool used = false;
    const auto next = [&] {
      if (used) return copy();
      used = true;
      return atom;
    };
    for (int i = 0; i < least; ++i) {
      Fragment item = next();
      tie(out.ends, item.start);
      out.ends = item.ends;
    }
    if (most < 0) {                        // any number more
      Fragment item = next();
      const int loop = add_split(item.start, -1);
      tie(out.ends, loop);
      tie(item.ends, loop);
      out.ends = {{loop, true}};
    }
    std::vector<End> skipped;
    for (int i = least; i < most; ++i) {
      Fragment item = next();
      const int option = add_split(item.start, -1);
      tie(out.ends, option);
      out.ends = item.ends;
      skipped.push_back({option, true});
    }
    append(out.ends, skipped);
    return out;
  }

  bool take_quantifier(int& least, int& most) {
    if (take("*")) least = 0, most = -1;
    else if (take("+")) least = 1, most = -1;
    else if (take("?")) least = 0, most = 1;
    else if (take("{")) take_bounds(least, most);
    else return false;
    take("?");                             // lazy: the same strings match
    return true;
  }

  int take_number() {
    int value = 0;
    while (more() && text_[pos_] >= '0' && text_[pos_] <= '9') {
      value = value * 10 + (text_[pos_++] - '0');
      if (value > kMaxRepeat) fail("repeats more than 1,000 times");
    }
    return value;
  }

  void take_bounds(int& least, int& most) {
    const size_t begin = pos_;
    least = take_number();
    most = least;
    if (take(",")) most = more() && text_[pos_] != '}' ? take_number() : -1;
    if (!take("}") || pos_ == begin + 1 || (most >= 0 && most < least)) fail("has a malformed {m,n}");
  }

  Fragment parse_atom(int depth) {
    if (take("(")) return parse_group(depth);
    if (take("[")) return add_set(parse_class());
    Pattern::Set set;
    if (take(".")) return add_set(set.set().reset('\n'));
    if (take("\\")) return add_set(parse_escape());
    const char c = text_[pos_];
    if (c == '*' || c == '+' || c == '?' || c == '{') fail("has a repeat without anything to repeat");
    if (c == '^' || c == '$') fail("has an anchor inside");
    ++pos_;
    return add_set(set.set(static_cast<uint8_t>(c)));
  }

  Fragment parse_group(int depth) {
    if (take("?")) {
      if (take("P<")) {
        while (more() && text_[pos_] != '>') ++pos_;
        if (!take(">")) fail("has a malformed group name");
      } else if (!take(":")) {
        fail("uses a construct that is not supported (look-around, flags or back-references)");
      }
    }
    Fragment inside = parse_alternatives(depth + 1);
    if (!take(")")) fail("lacks a )");
    return inside;
  }

  static Pattern::Set range(uint8_t from, uint8_t to) {
    Pattern::Set set;
    for (int c = from; c <= to; ++c) set.set(static_cast<size_t>(c));
    return set;
  }

  // After the backslash.
  Pattern::Set parse_escape() {
    if (!more()) fail("ends in a backslash");
    const char c = text_[pos_++];
    const Pattern::Set digits = range('0', '9'), word = digits | range('a', 'z') | range('A', 'Z') | range('_', '_');
    const Pattern::Set space = range('\t', '\r') | range(' ', ' ');
    switch (c) {
      case 'd': return digits;
      case 'D': return ~digits;
      case 'w': return word;
      case 'W': return ~word;
      case 's': return space;
      case 'S': return ~space;
      case 't': return range('\t', '\t');
      case 'n': return range('\n', '\n');
      default: break;
    }
    if (word.test(static_cast<uint8_t>(c))) fail("uses an escape that is not supported");
    return range(static_cast<uint8_t>(c), static_cast<uint8_t>(c));
  }

  // One member of a class; `single` is its character, or -1 for a class escape.
  Pattern::Set parse_member(int& single) {
    if (!more()) fail("lacks a ]");
    if (take("\\")) {
      const Pattern::Set set = parse_escape();
      single = set.count() == 1 ? static_cast<uint8_t>(text_[pos_ - 1]) : -1;
      return set;
    }
    single = static_cast<uint8_t>(text_[pos_++]);
    return range(static_cast<uint8_t>(single), static_cast<uint8_t>(single));
  }

  Pattern::Set parse_class() {
    const bool negated = take("^");
    Pattern::Set set;
    bool first = true;
    while (first || !take("]")) {
      first = false;
      int low = -1, high = -1;
      Pattern::Set member = parse_member(low);
      const bool is_range = pos_ + 1 < text_.size() && text_[pos_] == '-' && text_[pos_ + 1] != ']';
      if (is_range) {
        ++pos_;
        parse_member(high);
        if (low < 0 || high < low) fail("has a malformed range");
        member = range(static_cast<uint8_t>(low), static_cast<uint8_t>(high));
      }
      set |= member;
    }
    return negated ? ~set : set;
  }

  Pattern& out_;
  std::string_view text_;
  size_t pos_ = 0;
};

Pattern::Pattern(std::string_view expression) {
  PatternParser(*this, expression).parse();
  spend(100 * states_.size());             // their memory counts too
}

void Pattern::renew_budget() { steps_left = kStepBudget; }

// Adds a state and all that it reaches without reading; `seen` holds the mark of the step in which a state was last added.
void Pattern::follow(int state, std::vector<int>& list, std::vector<uint32_t>& seen, uint32_t mark) const {
  std::vector<int> pending{state};
  while (!pending.empty()) {
    spend(1);
    const int s = pending.back();
    pending.pop_back();
    if (s < 0 || seen[static_cast<size_t>(s)] == mark) continue;
    seen[static_cast<size_t>(s)] = mark;
    const State& at = states_[static_cast<size_t>(s)];
    if (at.op == Op::kSplit) {
      pending.push_back(at.other);
      pending.push_back(at.next);
    } else {
      list.push_back(s);
    }
  }
}

bool Pattern::matches(std::string_view text) const {
  std::vector<int> current, next;
  std::vector<uint32_t> seen(states_.size(), 0);
  uint32_t mark = 1;
  spend(states_.size());
  follow(start_, current, seen, mark);
  for (const char c : text) {
    next.clear();
    ++mark;
    for (const int s : current) {
      const State& at = states_[static_cast<size_t>(s)];
      if (at.op == Op::kSet && sets_[static_cast<size_t>(at.set)].test(static_cast<uint8_t>(c))) follow(at.next, next, seen, mark);
    }
    current.swap(next);
    if (current.empty()) return false;
  }
  for (const int s : current) {
    if (states_[static_cast<size_t>(s)].op == Op::kMatch) return true;
  }
  return false;
}

bool Pattern::matches_suffix(std::string_view text) const {
  if (matches(text)) return true;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '.' && matches(text.substr(i + 1))) return true;
  }
  return false;
}

}  // namespace lorikeet
