// The classes of characters that RoBERTa's tokenizer distinguishes, and lower case.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "rpln/tokenizer/unicode_classes.hpp"

namespace rpln::unicode {

enum class Class : std::uint8_t { other, letter, number, space };

// Whether a character has the Unicode property White_Space, as \s in a regular expression.
inline bool is_space(char32_t code) {
  return (code >= 0x9 && code <= 0xD) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

// A table of the class of every character, up to the last letter or number. Each takes a byte.
class Classes {
 public:
  static const Classes& instance() {
    static const Classes classes;
    return classes;
  }

  [[nodiscard]] Class of(char32_t code) const { return code < table_.size() ? table_[code] : Class::other; }

 private:
  Classes() : table_(std::max(std::rbegin(letter_ranges)->last, std::rbegin(number_ranges)->last) + 1) {
    for (const Range& range : letter_ranges) fill(range, Class::letter);
    for (const Range& range : number_ranges) fill(range, Class::number);
    for (char32_t code = 0; code <= 0x3000; ++code) {
      if (is_space(code)) table_[code] = Class::space;
    }
  }

  void fill(const Range& range, Class value) {
    std::fill(table_.begin() + static_cast<std::ptrdiff_t>(range.first),
              table_.begin() + static_cast<std::ptrdiff_t>(range.last) + 1, value);
  }

  std::vector<Class> table_;
};

// Returns the lower case of a character, or the character itself where it has none.
inline char32_t lower(char32_t code) {
  const auto* row = std::upper_bound(std::begin(lower_ranges), std::end(lower_ranges), code,
                                     [](char32_t wanted, const LowerRange& range) { return wanted < range.first; });
  if (row == std::begin(lower_ranges)) return code;
  --row;
  const bool inside = code <= row->last && (code - row->first) % row->step == 0;
  return inside ? static_cast<char32_t>(static_cast<std::int32_t>(code) + row->distance) : code;
}

}  // namespace rpln::unicode
