// Turns tokens into pieces of text one by one. Joined, the pieces are the text of all tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "rpln/tokenizer/tokenizer.hpp"

namespace rpln {

// The text of one sequence. A character that several tokens spell is part of the piece of the last of them.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // Adds a token and returns the text that it completes, which may be empty.
  [[nodiscard]] std::string push(std::int64_t token) {
    tokens_.push_back(token);
    const std::string text = tokenizer_.decode(tokens_, true);
    const bool incomplete = text.size() >= replacement.size() &&
                            text.compare(text.size() - replacement.size(), replacement.size(), replacement) == 0;
    const std::size_t complete = text.size() - (incomplete ? replacement.size() : 0);
    std::string piece = complete > given_ ? text.substr(given_, complete - given_) : std::string();
    given_ = std::max(given_, complete);
    if (!incomplete) {
      // The last token is kept, because the text of the next one may depend on it, for example its first space.
      tokens_ = {token};
      given_ = tokenizer_.decode(tokens_, true).size();
    }
    return piece;
  }

  // Returns the rest: a character that was never completed, or nothing.
  [[nodiscard]] std::string close() const {
    const std::string text = tokenizer_.decode(tokens_, true);
    return text.substr(std::min(given_, text.size()));
  }

 private:
  static constexpr std::string_view replacement = "\xEF\xBF\xBD";

  const Tokenizer& tokenizer_;
  std::vector<std::int64_t> tokens_;
  std::size_t given_ = 0;  // how many bytes of their text were returned already
};

}  // namespace rpln
