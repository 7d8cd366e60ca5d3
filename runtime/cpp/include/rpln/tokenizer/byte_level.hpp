// The alphabet of GPT-2's vocabularies, which has a printable character for every byte (Radford et al., 2019).
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>

#include "rpln/tokenizer/utf8.hpp"

namespace rpln::detail {

class ByteAlphabet {
 public:
  static const ByteAlphabet& instance() {
    static const ByteAlphabet alphabet;
    return alphabet;
  }

  [[nodiscard]] const std::string& letter(unsigned char byte) const { return letters_[byte]; }

  // Appends the bytes that `token` spells. A token with a character outside the alphabet, such as an added token, is
  // appended as it is.
  void append_bytes(std::string& bytes, std::string_view token) const {
    const std::size_t before = bytes.size();
    for (std::size_t at = 0; at < token.size();) {
      const utf8::Character character = utf8::decode(token, at);
      const auto found = character.valid ? bytes_.find(character.code) : bytes_.end();
      if (found == bytes_.end()) {
        bytes.resize(before);
        bytes += token;
        return;
      }
      bytes += found->second;
      at += character.length;
    }
  }

 private:
  ByteAlphabet() {
    char32_t next = 256;
    for (std::size_t byte = 0; byte < letters_.size(); ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      const char32_t code = printable ? static_cast<char32_t>(byte) : next++;
      utf8::append(letters_[byte], code);
      bytes_[code] = static_cast<char>(static_cast<unsigned char>(byte));
    }
  }

  std::array<std::string, 256> letters_;
  std::unordered_map<char32_t, char> bytes_;
};

}  // namespace rpln::detail
