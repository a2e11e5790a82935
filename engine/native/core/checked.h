// Unsigned 64-bit arithmetic on numbers from files: an overflow anywhere in an expression marks its result.
#pragma once

#include <cstdint>

namespace lorikeet {

struct Checked {
  uint64_t value = 0;
  bool overflow = false;

  constexpr Checked(uint64_t v) : value(v) {}   // NOLINT: implicit, so that expressions read as arithmetic

  friend constexpr Checked operator+(Checked a, Checked b) {
    Checked r(0);
    r.overflow = __builtin_add_overflow(a.value, b.value, &r.value) || a.overflow || b.overflow;
    return r;
  }
  friend constexpr Checked operator*(Checked a, Checked b) {
    Checked r(0);
    r.overflow = __builtin_mul_overflow(a.value, b.value, &r.value) || a.overflow || b.overflow;
    return r;
  }
  // False also when the value is not known.
  constexpr bool at_most(uint64_t limit) const { return !overflow && value <= limit; }
  constexpr bool equals(uint64_t other) const { return !overflow && value == other; }
};

}  // namespace lorikeet
