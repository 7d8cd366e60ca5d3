// Splits a text into words as the tokenizers of GPT-2 and RoBERTa do, by code that does the same as their regular
// expression:
//
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// (Radford et al., 2019). A fuzz test compares it with PCRE2 running that expression.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include "rpln/tokenizer/unicode.hpp"
#include "rpln/tokenizer/utf8.hpp"

namespace rpln::detail {

// Returns the words of a text one after the other. Together they are the text.
class Words {
 public:
  explicit Words(std::string_view text) : text_(text) {}

  [[nodiscard]] bool done() const { return at_ == text_.size(); }

  [[nodiscard]] std::string_view next() {
    const std::size_t start = at_;
    at_ = end_of_word(start);
    return text_.substr(start, at_ - start);
  }

 private:
  using Class = unicode::Class;

  struct Step {
    Class kind;
    std::size_t next;
  };

  // Returns the class of the character at `at`, and where the next character begins.
  [[nodiscard]] Step step(std::size_t at) const {
    const auto byte = static_cast<unsigned char>(text_[at]);
    if (byte < 0x80) return {classes_.of(byte), at + 1};
    const utf8::Character character = utf8::decode(text_, at);
    return {character.valid ? classes_.of(character.code) : Class::other, at + character.length};
  }

  [[nodiscard]] std::size_t end_of_word(std::size_t start) const {
    if (text_[start] == '\'') {
      if (const std::size_t length = contraction(start)) return start + length;
    }
    const Step first = step(start);
    if (first.kind != Class::space) return end_of_run(first);
    // A space belongs to the word after it, unless another space follows.
    if (text_[start] == ' ' && first.next < text_.size()) {
      const Step second = step(first.next);
      if (second.kind != Class::space) return end_of_run(second);
    }
    return end_of_spaces(first.next);
  }

  // Returns where the characters of one class end. `step_` is the first of them.
  [[nodiscard]] std::size_t end_of_run(Step step_) const {
    const Class kind = step_.kind;
    std::size_t end = step_.next;
    while (end < text_.size()) {
      step_ = step(end);
      if (step_.kind != kind) break;
      end = step_.next;
    }
    return end;
  }

  // Returns where spaces end. The last one belongs to the word after them, where there is one.
  [[nodiscard]] std::size_t end_of_spaces(std::size_t second) const {
    std::size_t last = second;  // where the last space begins, once there are two
    std::size_t end = second;
    while (end < text_.size()) {
      const Step next = step(end);
      if (next.kind != Class::space) return last > second || end > second ? last : end;
      last = end;
      end = next.next;
    }
    return end;
  }

  [[nodiscard]] std::size_t contraction(std::size_t at) const {
    for (const std::string_view form : contractions) {
      if (text_.compare(at, form.size(), form) == 0) return form.size();
    }
    return 0;
  }

  static constexpr std::array<std::string_view, 7> contractions{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};

  const unicode::Classes& classes_ = unicode::Classes::instance();
  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace rpln::detail
