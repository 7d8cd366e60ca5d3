// Gives any bytes to the tokenizer. It must refuse what is not UTF-8. For other texts, the words must be those that
// PCRE2 finds with GPT-2's expression, the offsets of tokens must lie in the text, in order, and the tokens must decode
// to it.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "rpln/tokenizer/tokenizer.hpp"

namespace {

void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

// Returns a character class that lists `ranges`. PCRE2's own letters come from another version of Unicode.
template <std::size_t count>
std::string class_from_ranges(const rpln::unicode::Range (&ranges)[count]) {
  std::string text;
  char buffer[40];
  for (const rpln::unicode::Range& range : ranges) {
    (void)std::snprintf(buffer, sizeof buffer, "\\x{%X}-\\x{%X}", static_cast<unsigned>(range.first),
                        static_cast<unsigned>(range.last));
    text += buffer;
  }
  return text;
}

class Expression {
 public:
  Expression() {
    const std::string letters = class_from_ranges(rpln::unicode::letter_ranges);
    const std::string numbers = class_from_ranges(rpln::unicode::number_ranges);
    const std::string spaces = "\\x09-\\x0D \\x85\\xA0\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
    const std::string pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?[" + letters + "]+| ?[" + numbers + "]+| ?[^" + spaces +
                                letters + numbers + "]+|[" + spaces + "]+(?![^" + spaces + "])|[" + spaces + "]+";
    int error = 0;
    PCRE2_SIZE at = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF, &error, &at,
                              nullptr));
    check(code_ != nullptr, "the expression does not compile");
    match_.reset(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  }

  [[nodiscard]] std::vector<std::string_view> words(std::string_view text) const {
    std::vector<std::string_view> found;
    for (std::size_t at = 0; at < text.size(); at += found.back().size()) {
      const int count = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                    PCRE2_ANCHORED, match_.get(), nullptr);
      check(count > 0, "the expression covers every text");
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match_.get());
      found.push_back(text.substr(ends[0], ends[1] - ends[0]));
    }
    return found;
  }

 private:
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
  };
  std::unique_ptr<pcre2_code, Free> code_;
  std::unique_ptr<pcre2_match_data, Free> match_;
};

// A tokenizer with a token for every byte, a few merges, and the five special tokens.
rpln::Tokenizer make_tokenizer() {
  const auto& alphabet = rpln::detail::ByteAlphabet::instance();
  nlohmann::json vocabulary;
  const std::vector<std::string> special{"<s>", "<pad>", "</s>", "<unk>", "<mask>"};
  nlohmann::json added;
  for (const std::string& name : special) {
    added.push_back({{"id", vocabulary.size()}, {"content", name}, {"special", true}, {"lstrip", name == "<mask>"}});
    vocabulary[name] = vocabulary.size();
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    vocabulary[alphabet.letter(static_cast<unsigned char>(byte))] = vocabulary.size();
  }
  nlohmann::json merges;
  const std::string space = alphabet.letter(' ');
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{
           {"a", "a"}, {"a", "b"}, {"aa", "b"}, {"a", "aa"}, {space, "a"}, {space, "aa"}, {"b", "c"}, {"ab", "c"}}) {
    merges.push_back({left, right});
    if (!vocabulary.contains(left + right)) vocabulary[left + right] = vocabulary.size();
  }
  const nlohmann::json document = {
      {"added_tokens", added},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
      {"post_processor",
       {{"type", "RobertaProcessing"}, {"cls", {"<s>", 0}}, {"sep", {"</s>", 2}}, {"add_prefix_space", false}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
  return rpln::Tokenizer(rpln::detail::tokenizer_file_from_text(document.dump(), "a tokenizer made for this"));
}

void check_words(std::string_view text) {
  static const Expression expression;
  rpln::detail::Words words(text);
  for (const std::string_view expected : expression.words(text)) {
    check(!words.done() && words.next() == expected, "a word is another than PCRE2's");
  }
  check(words.done(), "there are more words than PCRE2's");
}

void check_encoding(std::string_view text, const rpln::Encoding& encoding, const rpln::Tokenizer& tokenizer) {
  const auto count = static_cast<std::int64_t>(rpln::utf8::count_characters(text));
  const auto size = static_cast<std::int64_t>(text.size());
  std::int64_t before = 0;
  for (const rpln::Token& token : encoding) {
    if (token.sequence < 0) continue;
    check(0 <= token.characters.begin && token.characters.begin <= token.characters.end, "an offset is reversed");
    check(token.characters.end <= count && token.bytes.end <= size, "an offset is beyond the text");
    check(token.bytes.begin >= before, "offsets go back");
    before = token.bytes.begin;
    const std::string_view head = text.substr(0, static_cast<std::size_t>(token.bytes.begin));
    check(static_cast<std::int64_t>(rpln::utf8::count_characters(head)) == token.characters.begin,
          "bytes and characters disagree");
  }
  // Without added tokens, decoding gives the text.
  const bool plain = text.find('<') == text.npos;
  if (plain) check(tokenizer.decode(rpln::ids_of(encoding), true) == text, "the text does not come back");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const rpln::Tokenizer tokenizer = make_tokenizer();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  // A text whose invalid bytes are replaced is valid, so the checks below always run.
  const std::string repaired = rpln::utf8::repaired(text);
  try {
    (void)tokenizer.encode(text);
    check(repaired == text, "a text that is no UTF-8 was taken");
  } catch (const rpln::InputError&) {
    check(repaired != text, "a valid text was refused");
  }
  check_words(repaired);
  check_encoding(repaired, tokenizer.encode(repaired), tokenizer);
  (void)tokenizer.encode(repaired, repaired);
  return 0;
}
