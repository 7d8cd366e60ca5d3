// Added tokens, such as <mask>, which are found in a text before it is split into words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "rpln/tokenizer/unicode.hpp"
#include "rpln/tokenizer/utf8.hpp"

namespace rpln::detail {

struct AddedToken {
  std::int64_t id = 0;
  std::string content;
  bool lstrip = false;  // whether the spaces before the token belong to it
  bool rstrip = false;  // whether the spaces after the token belong to it
  bool normalized = false;
  bool special = false;
};

// A part of a text: an added token with the spaces that belong to it, or text between such tokens, where `token` is
// null.
struct Stretch {
  std::size_t begin;
  std::size_t end;
  const AddedToken* token;
};

// Returns where `text` ends without the spaces at its end.
inline std::size_t end_without_spaces(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t begin = end - 1;
    while (begin > 0 && utf8::continues(text[begin])) --begin;
    if (!unicode::is_space(utf8::decode(text, begin).code)) break;
    end = begin;
  }
  return end;
}

inline std::size_t count_leading_space_bytes(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const utf8::Character character = utf8::decode(text, at);
    if (!unicode::is_space(character.code)) break;
    at += character.length;
  }
  return at;
}

inline std::size_t count_bytes_without_spaces(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t at = 0; at < text.size();) {
    const utf8::Character character = utf8::decode(text, at);
    if (!unicode::is_space(character.code)) count += character.length;
    at += character.length;
  }
  return count;
}

// Finds added tokens in a text, from left to right. Of several tokens that begin at the same place, the longest counts.
class AddedTokens {
 public:
  void add(AddedToken token) {
    if (token.content.empty()) return;
    std::vector<AddedToken>& row = by_first_byte_[static_cast<unsigned char>(token.content.front())];
    const auto shorter = [&](const AddedToken& other) { return other.content.size() < token.content.size(); };
    row.insert(std::find_if(row.begin(), row.end(), shorter), std::move(token));
  }

  // Splits text[begin, end) and appends its parts, none of which is empty, to `stretches`.
  void split(std::string_view text, std::size_t begin, std::size_t end, std::vector<Stretch>& stretches) const {
    std::size_t done = begin;
    for (std::size_t at = begin; at < end;) {
      const AddedToken* token = match(text.substr(at, end - at));
      if (!token) {
        ++at;
        continue;
      }
      const std::size_t behind = at + token->content.size();
      // Spaces that belong to the token before stay with it.
      std::size_t first = std::max(at, done);
      if (token->lstrip) first = std::max(begin + end_without_spaces(text.substr(begin, at - begin)), done);
      std::size_t last = std::max(behind, done);
      if (token->rstrip) last = std::max(behind + count_leading_space_bytes(text.substr(behind, end - behind)), done);
      if (done < first) stretches.push_back({done, first, nullptr});
      stretches.push_back({first, last, token});
      done = last;
      at = behind;
    }
    if (done < end) stretches.push_back({done, end, nullptr});
  }

 private:
  [[nodiscard]] const AddedToken* match(std::string_view text) const {
    for (const AddedToken& token : by_first_byte_[static_cast<unsigned char>(text.front())]) {
      if (text.compare(0, token.content.size(), token.content) == 0) return &token;
    }
    return nullptr;
  }

  std::array<std::vector<AddedToken>, 256> by_first_byte_;
};

}  // namespace rpln::detail
