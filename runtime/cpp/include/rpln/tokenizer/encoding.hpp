// The tokens of a text or of a pair of texts, and windows over tokens that are too many for the model.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "rpln/errors.hpp"

namespace rpln {

// The places from `begin` up to, but not including, `end`.
struct Span {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  [[nodiscard]] std::int64_t size() const { return end - begin; }
  friend bool operator==(const Span& a, const Span& b) { return a.begin == b.begin && a.end == b.end; }
};

struct Token {
  std::int64_t id = 0;
  Span characters;            // the part of the text that the token stands for, counted in characters
  Span bytes;                 // the same part, counted in bytes of the UTF-8
  std::int32_t word = -1;     // the number of the word that the token is part of; -1 for special tokens
  std::int32_t sequence = -1; // 0 for tokens of the text, 1 for tokens of its pair, -1 for special tokens around them
  std::int32_t position = 0;  // the place of the token in the whole encoding, from which windows are cut
  std::int64_t type = 0;      // the token type
};

// The tokens of one text or pair, or a window of them.
using Encoding = std::vector<Token>;

inline std::vector<std::int64_t> ids_of(const Encoding& encoding) {
  std::vector<std::int64_t> ids;
  ids.reserve(encoding.size());
  for (const Token& token : encoding) ids.push_back(token.id);
  return ids;
}

namespace detail {

// Returns the places of the tokens of `sequence`, which follow each other.
inline Span span_of(const Encoding& encoding, std::int32_t sequence) {
  const auto inside = [&](const Token& token) { return token.sequence == sequence; };
  const auto first = std::find_if(encoding.begin(), encoding.end(), inside);
  const auto last = std::find_if_not(first, encoding.end(), inside);
  return {first - encoding.begin(), last - encoding.begin()};
}

inline void append_tokens(Encoding& target, const Encoding& source, std::int64_t begin, std::int64_t end) {
  target.insert(target.end(), source.begin() + begin, source.begin() + end);
}

// Returns how many tokens each text of a pair keeps, by the strategy "longest first" of the tokenizers library.
inline std::pair<std::int64_t, std::int64_t> longest_first(std::int64_t first, std::int64_t second, std::int64_t room) {
  const std::int64_t shorter = std::min({first, second, room / 2});
  const std::int64_t longer = room - shorter;
  return first <= second ? std::pair(shorter, longer) : std::pair(longer, shorter);
}

}  // namespace detail

// Splits the tokens of `sequence` into windows. Every window has at most `max_length` tokens, with the special tokens
// and the other sequence in each, and neighbouring windows share `stride` tokens. An encoding that is short enough is
// one window. If `truncation_side` is "left", they begin with the window at the end of the text, as those of the
// tokenizers library do. Throws InputError where the other tokens leave room for `stride` tokens or fewer.
inline std::vector<Encoding> windows(const Encoding& encoding, std::int64_t max_length, std::int64_t stride,
                                     std::string_view truncation_side, std::int32_t sequence = 0) {
  const auto length = static_cast<std::int64_t>(encoding.size());
  if (length <= max_length) return {encoding};
  const Span inside = detail::span_of(encoding, sequence);
  const std::int64_t others = length - inside.size();
  const std::int64_t room = max_length - others;
  if (room <= stride) {
    throw InputError("windows of " + std::to_string(max_length) + " tokens leave " +
                     std::to_string(std::max<std::int64_t>(room, 0)) + " for the text, because " +
                     std::to_string(others) + " other tokens are in each: expected more than the stride of " +
                     std::to_string(stride) + ". Lower the stride, or shorten the other text.");
  }
  const bool left = truncation_side == "left";
  std::vector<Encoding> found;
  for (std::int64_t start = inside.begin; start < inside.end - stride; start += room - stride) {
    Span part{start, std::min(start + room, inside.end)};
    if (left) part = {inside.begin + inside.end - part.end, inside.begin + inside.end - part.begin};
    Encoding& window = found.emplace_back();
    detail::append_tokens(window, encoding, 0, inside.begin);
    detail::append_tokens(window, encoding, part.begin, part.end);
    detail::append_tokens(window, encoding, inside.end, length);
  }
  return found;
}

// Cuts `encoding` to `max_length` tokens, the longer text first: from its end, or from its start if `truncation_side` is
// "left". Special tokens stay.
inline Encoding truncate(const Encoding& encoding, std::int64_t max_length, std::string_view truncation_side) {
  const auto length = static_cast<std::int64_t>(encoding.size());
  if (length <= max_length) return encoding;
  const Span first = detail::span_of(encoding, 0);
  const Span second = detail::span_of(encoding, 1);
  const std::int64_t room = std::max<std::int64_t>(max_length - (length - first.size() - second.size()), 0);
  const auto [first_kept, second_kept] = second.size() == 0
                                             ? std::pair(std::min(first.size(), room), std::int64_t{0})
                                             : detail::longest_first(first.size(), second.size(), room);
  const auto kept_of = [&](const Span& span, std::int64_t count) {
    return truncation_side == "left" ? Span{span.end - count, span.end} : Span{span.begin, span.begin + count};
  };
  const Span inside_first = kept_of(first, first_kept);
  const Span inside_second = kept_of(second, second_kept);
  const auto holds = [](const Span& span, std::int64_t at) { return span.begin <= at && at < span.end; };
  Encoding kept;
  for (std::int64_t at = 0; at < length; ++at) {
    const Token& token = encoding[static_cast<std::size_t>(at)];
    if (token.sequence < 0 || holds(inside_first, at) || holds(inside_second, at)) kept.push_back(token);
  }
  return kept;
}

}  // namespace rpln
