// UTF-8: whether a text is valid, its characters, a replacement for invalid bytes, and lower case.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "rpln/errors.hpp"
#include "rpln/tokenizer/unicode.hpp"

namespace rpln::utf8 {

inline bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U; }

// A decoded character. `length` is in bytes. Where `valid` is false, it is the length of the bytes that could begin a
// character.
struct Character {
  char32_t code = 0;
  std::size_t length = 1;
  bool valid = true;
};

// Decodes the character that begins at `at` (Unicode 16, table 3-7: the well-formed byte sequences).
inline Character decode(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t offset) -> unsigned {
    return at + offset < text.size() ? static_cast<unsigned char>(text[at + offset]) : 0;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  if (lead < 0xC2 || lead > 0xF4) return {0, 1, false};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // These limits of the second byte exclude overlong forms, surrogates, and numbers beyond U+10FFFF.
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) return {0, 1, false};
  char32_t code = (lead & (0x7FU >> length)) << 6U | (byte(1) & 0x3FU);
  for (std::size_t offset = 2; offset < length; ++offset) {
    if ((byte(offset) & 0xC0U) != 0x80U) return {0, offset, false};
    code = code << 6U | (byte(offset) & 0x3FU);
  }
  return {code, length, true};
}

// Appends a character to a text.
inline void append(std::string& text, char32_t code) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
  const auto put_rest = [&](unsigned shift) { put(0x80U | (code >> shift & 0x3FU)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0U | code >> 6U), put_rest(0);
  } else if (code < 0x10000) {
    put(0xE0U | code >> 12U), put_rest(6), put_rest(0);
  } else {
    put(0xF0U | code >> 18U), put_rest(12), put_rest(6), put_rest(0);
  }
}

// Returns the place of the first byte that is not valid UTF-8, or none.
inline std::optional<std::size_t> first_invalid(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const Character character = decode(text, at);
    if (!character.valid) return at;
    at += character.length;
  }
  return std::nullopt;
}

// Throws InputError for a text that is not valid UTF-8.
inline void check(std::string_view text) {
  if (const auto at = first_invalid(text)) {
    throw InputError("a text is not valid UTF-8 at byte " + std::to_string(*at) +
                     ": replace the invalid bytes, for example with rpln::utf8::repaired(text).");
  }
}

// Returns `text` with U+FFFD in place of invalid bytes: one for each longest sequence that could begin a character, as
// Python's errors="replace" and Rust's from_utf8_lossy do.
inline std::string repaired(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Character character = decode(text, at);
    if (character.valid) {
      result += text.substr(at, character.length);
    } else {
      append(result, 0xFFFD);
    }
    at += character.length;
  }
  return result;
}

inline std::size_t count_characters(std::string_view text) {
  std::size_t count = 0;
  for (const char byte : text) count += continues(byte) ? 0U : 1U;
  return count;
}

// Returns `text` in lower case, as Python's str.lower() does, except for the Greek sigma at the end of a word.
inline std::string lower(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const Character character = decode(text, at);
    at += character.length;
    append(result, unicode::lower(character.code));
    if (character.code == 0x130) append(result, 0x307);  // the only letter whose lower case has two characters
  }
  return result;
}

}  // namespace rpln::utf8
