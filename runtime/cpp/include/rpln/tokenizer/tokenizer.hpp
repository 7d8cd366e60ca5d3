// Turns text into tokens by the bundle's tokenizer.json, RoBERTa's byte-level BPE. Offsets count characters and bytes.
//
// Tokens, offsets and words are those of the tokenizers library. Padding and truncation that the file may ask for are
// ignored, so that nothing is cut silently.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "rpln/errors.hpp"
#include "rpln/manifest.hpp"
#include "rpln/tokenizer/added_tokens.hpp"
#include "rpln/tokenizer/byte_level.hpp"
#include "rpln/tokenizer/byte_pairs.hpp"
#include "rpln/tokenizer/encoding.hpp"
#include "rpln/tokenizer/tokenizer_file.hpp"
#include "rpln/tokenizer/utf8.hpp"
#include "rpln/tokenizer/words.hpp"

namespace rpln {

// A tokenizer. Several threads may use it at once.
class Tokenizer {
 public:
  // Reads the tokenizer of the bundle in `folder`. Throws ManifestError where there is none, or one that is not
  // supported.
  static Tokenizer from_bundle(const std::filesystem::path& folder, const Manifest& manifest) {
    if (!manifest.lists_file(file_name)) {
      throw ManifestError(folder.string() + " lists no " + file_name +
                          ": export a checkpoint that has a fast tokenizer.");
    }
    return Tokenizer(detail::read_tokenizer_file(folder / file_name));
  }

  explicit Tokenizer(detail::TokenizerFile file) : file_(std::make_unique<detail::TokenizerFile>(std::move(file))) {
    for (const detail::AddedToken& token : file_->added_tokens) {
      (token.normalized ? normalized_ : verbatim_).add(token);
      special_[token.id] = token.special;
      longest_ = std::max(longest_, token.content.size());
    }
    for (const auto& [name, _] : file_->model_ids) longest_ = std::max(longest_, utf8::count_characters(name));
    const auto& bytes = file_->byte_ids;
    knows_bytes_ = std::find(bytes.begin(), bytes.end(), detail::TokenizerFile::no_id) == bytes.end();
  }

  // Encodes `text` with special tokens. Throws InputError for a text that is not UTF-8.
  [[nodiscard]] Encoding encode(std::string_view text) const { return encode_parts({text, {}}, file_->single); }

  // The same for a pair of texts.
  [[nodiscard]] Encoding encode(std::string_view text, std::string_view pair) const {
    return encode_parts({text, pair}, file_->pair);
  }

  // Throws InputError for a long text whose bytes alone show that it has more than `most` tokens. This costs almost no
  // time.
  void check_bytes(std::string_view text, std::int64_t most, const std::string& advice) const {
    utf8::check(text);
    if (!knows_bytes_ || utf8::count_characters(text) <= short_text) return;
    // A token stands for at most `longest_` bytes, apart from spaces that an added token takes along.
    const bool all = std::none_of(file_->added_tokens.begin(), file_->added_tokens.end(), [&](const auto& token) {
      return (token.lstrip || token.rstrip) && text.find(token.content) != text.npos;
    });
    const std::size_t bytes = all ? text.size() : detail::count_bytes_without_spaces(text);
    const std::size_t least = (bytes + longest_ - 1) / longest_;
    if (to_signed(least) > most) {
      throw InputError("a text has " + std::to_string(least) + " tokens or more, the limit of this model is " +
                       std::to_string(most) + ": " + advice);
    }
  }

  // Encodes each of the `words` with special tokens around all of them, as transformers does it for split words. Places
  // are those in the text of the words with the `delimiter` between them.
  [[nodiscard]] Encoding encode_words(const std::vector<std::string>& words, std::string_view delimiter) const {
    for (const std::string& word : words) utf8::check(word);
    return encode_template(file_->single, [&](Encoding& encoding, const detail::TemplatePart& part) {
      Span start;  // where the word begins: in characters and in bytes
      for (std::size_t at = 0; at < words.size(); ++at) {
        const std::size_t first = encoding.size();
        add_text(encoding, words[at], part.sequence);
        for (std::size_t token = first; token < encoding.size(); ++token) {
          shift(encoding[token].characters, start.begin);
          shift(encoding[token].bytes, start.end);
          encoding[token].word = static_cast<std::int32_t>(at);
        }
        start.begin += to_signed(utf8::count_characters(words[at]) + utf8::count_characters(delimiter));
        start.end += to_signed(words[at].size() + delimiter.size());
      }
    });
  }

  // Whether words that are given one by one become the tokens that they have in a text with spaces.
  [[nodiscard]] bool takes_words() const { return ids_of(encode("a a")) == ids_of(encode_words({"a", "a"}, " ")); }

  // Returns the text of `ids`.
  [[nodiscard]] std::string decode(const std::vector<std::int64_t>& ids, bool skip_special_tokens = false) const {
    std::vector<std::string_view> tokens;
    for (const std::int64_t id : ids) {
      const auto special = special_.find(id);
      const bool skipped = skip_special_tokens && special != special_.end() && special->second;
      const std::string* name = find_token(id);
      if (name && !skipped) tokens.push_back(*name);
    }
    return join(tokens);
  }

  // Returns the text of tokens that are given by name.
  template <class Text>
  [[nodiscard]] std::string join(const std::vector<Text>& tokens) const {
    std::string bytes;
    for (const Text& token : tokens) {
      if (file_->decodes_bytes) {
        detail::ByteAlphabet::instance().append_bytes(bytes, token);
      } else {
        bytes += bytes.empty() && &token == &tokens.front() ? "" : " ";
        bytes += token;
      }
    }
    return file_->decodes_bytes ? utf8::repaired(bytes) : bytes;
  }

  // Returns the name of the token `id`, or an empty text where there is no such token.
  [[nodiscard]] std::string token(std::int64_t id) const {
    const std::string* name = find_token(id);
    return name ? *name : std::string();
  }

  // Returns the id of the token that is called `name`, or none where there is no such token.
  [[nodiscard]] std::optional<std::int64_t> token_id(const std::string& name) const {
    const auto found = file_->ids.find(name);
    return found == file_->ids.end() ? std::nullopt : std::optional<std::int64_t>(found->second);
  }

  [[nodiscard]] std::optional<std::int64_t> unknown_id() const {
    return token_id(file_->unknown.empty() ? "<unk>" : file_->unknown);
  }

  static constexpr const char* file_name = "tokenizer.json";

 private:
  // Shorter texts are encoded at once: that costs little, and a message then has the number of their tokens.
  static constexpr std::size_t short_text = std::size_t{1} << 14U;

  // The memory that one thread works with while it encodes. Threads borrow one each, so that they need not wait.
  struct Desk {
    detail::WordCache cache;
    detail::Merger merger;
    std::vector<detail::Piece> pieces;
    std::vector<detail::Stretch> verbatim;
    std::vector<detail::Stretch> stretches;
    std::string prefixed;

    // Returns how many bytes of memory are kept for the next text, the cache left aside.
    [[nodiscard]] std::size_t memory() const {
      return merger.memory() + pieces.capacity() * sizeof(detail::Piece) + prefixed.capacity() +
             (verbatim.capacity() + stretches.capacity()) * sizeof(detail::Stretch);
    }
  };

  class Desks {
   public:
    std::unique_ptr<Desk> borrow() {
      const std::lock_guard lock(mutex_);
      if (free_.empty()) return std::make_unique<Desk>();
      std::unique_ptr<Desk> desk = std::move(free_.back());
      free_.pop_back();
      return desk;
    }

    void give_back(std::unique_ptr<Desk> desk) {
      if (desk->memory() > most_kept) return;
      const std::lock_guard lock(mutex_);
      free_.push_back(std::move(desk));
    }

   private:
    // A long text may need a thousand times this; then it is freed.
    static constexpr std::size_t most_kept = std::size_t{1} << 20U;

    std::mutex mutex_;
    std::vector<std::unique_ptr<Desk>> free_;
  };

  // Counts the characters of a text, from left to right.
  class Counter {
   public:
    explicit Counter(std::string_view text) : text_(text) {}

    // Returns the bytes and the numbers of the characters that bytes `begin` to `end` are part of, at least one. Calls
    // must go through the text from left to right.
    std::pair<Span, Span> characters(std::size_t begin, std::size_t end) {
      while (next(at_) <= begin) at_ = next(at_), ++count_;
      const std::size_t first_byte = at_;
      const std::int64_t first = count_;
      while (next(at_) < end) at_ = next(at_), ++count_;
      return {{to_signed(first_byte), to_signed(next(at_))}, {first, count_ + 1}};
    }

   private:
    [[nodiscard]] std::size_t next(std::size_t at) const {
      ++at;
      while (at < text_.size() && utf8::continues(text_[at])) ++at;
      return at;
    }

    std::string_view text_;
    std::size_t at_ = 0;
    std::int64_t count_ = 0;
  };

  // A text that is being encoded, and how far it is.
  struct Progress {
    Encoding& encoding;
    std::string_view text;
    Desk& desk;
    Counter counter;
    std::size_t first;  // the text's first token in `encoding`
    std::int32_t sequence;
    std::int32_t word = 0;
  };

  static std::int64_t to_signed(std::size_t size) { return static_cast<std::int64_t>(size); }

  [[nodiscard]] Encoding encode_parts(const std::array<std::string_view, 2>& texts,
                                      const detail::Template& parts) const {
    for (const std::string_view text : texts) utf8::check(text);
    return encode_template(parts, [&](Encoding& encoding, const detail::TemplatePart& part) {
      const std::string_view text = texts[static_cast<std::size_t>(part.sequence)];
      encoding.reserve(encoding.size() + text.size() / 3 + parts.size());
      add_text(encoding, text, part.sequence);
    });
  }

  static void shift(Span& span, std::int64_t by) {
    span.begin += by;
    span.end += by;
  }

  // Encodes a template, in which `add` adds the tokens of each part that is no special token.
  template <class Add>
  [[nodiscard]] static Encoding encode_template(const detail::Template& parts, const Add& add) {
    Encoding encoding;
    for (const detail::TemplatePart& part : parts) {
      if (part.sequence < 0) {
        encoding.push_back({part.special, {}, {}, -1, -1, 0, part.type});
      } else {
        const std::size_t first = encoding.size();
        add(encoding, part);
        for (std::size_t at = first; at < encoding.size(); ++at) encoding[at].type = part.type;
      }
    }
    std::int32_t position = 0;
    for (Token& token : encoding) token.position = position++;
    return encoding;
  }

  void add_text(Encoding& encoding, std::string_view text, std::int32_t sequence) const {
    std::unique_ptr<Desk> desk = desks_->borrow();
    desk->verbatim.clear();
    desk->stretches.clear();
    verbatim_.split(text, 0, text.size(), desk->verbatim);
    for (const detail::Stretch& stretch : desk->verbatim) {
      if (stretch.token) {
        desk->stretches.push_back(stretch);
      } else {
        normalized_.split(text, stretch.begin, stretch.end, desk->stretches);
      }
    }
    Progress progress{encoding, text, *desk, Counter(text), encoding.size(), sequence};
    for (const detail::Stretch& stretch : desk->stretches) {
      if (stretch.token) {
        add_added_token(progress, stretch);
      } else {
        add_words(progress, stretch);
      }
    }
    desks_->give_back(std::move(desk));
  }

  void add_added_token(Progress& progress, const detail::Stretch& stretch) const {
    const std::string_view shown = progress.text.substr(stretch.begin, stretch.end - stretch.begin);
    const std::size_t leading = detail::count_leading_space_bytes(shown);
    const std::size_t trailing = shown.size() - detail::end_without_spaces(shown);
    add_token(progress, stretch.token->id, stretch.begin, stretch.end, utf8::count_characters(shown.substr(0, leading)),
              utf8::count_characters(shown.substr(shown.size() - trailing)));
    ++progress.word;
  }

  void add_words(Progress& progress, const detail::Stretch& stretch) const {
    std::string_view text = progress.text.substr(stretch.begin, stretch.end - stretch.begin);
    const bool prefixed = file_->add_prefix_space && text.front() != ' ';
    if (prefixed) {
      progress.desk.prefixed.assign(1, ' ').append(text);
      text = progress.desk.prefixed;
    }
    if (!file_->splits_words) {
      add_word(progress, text, stretch.begin, prefixed);
      return;
    }
    std::size_t begin = stretch.begin;
    bool starts_with_prefix = prefixed;
    for (detail::Words words(text); !words.done(); starts_with_prefix = false) {
      const std::string_view word = words.next();
      add_word(progress, word, begin, starts_with_prefix);
      begin += word.size() - (starts_with_prefix ? 1 : 0);
    }
  }

  // Adds the tokens of a word that begins at byte `begin`. `prefixed` says that its first space was added to the text.
  void add_word(Progress& progress, std::string_view word, std::size_t begin, bool prefixed) const {
    const auto known = progress.desk.cache.find(word);
    const detail::Piece* piece = known.first;
    std::size_t count = known.count;
    if (!known.found) {
      pieces_from_word(progress.desk, word);
      progress.desk.cache.remember(word, progress.desk.pieces);
      piece = progress.desk.pieces.data();
      count = progress.desk.pieces.size();
    }
    std::size_t in_word = 0;
    for (const detail::Piece* last = piece + count; piece != last; ++piece) {
      const std::string_view bytes = word.substr(in_word, piece->length);
      // A space that was added has the place of the character after it.
      const std::size_t from = begin + in_word - (prefixed && in_word > 0 ? 1 : 0);
      const std::size_t to = begin + in_word + piece->length - (prefixed ? 1 : 0);
      add_token(progress, piece->id, from, std::max(to, from + 1), count_leading(bytes), count_trailing(bytes));
      in_word += piece->length;
    }
    ++progress.word;
  }

  static std::size_t count_leading(std::string_view bytes) {
    return std::min(bytes.find_first_not_of(' '), bytes.size());
  }

  static std::size_t count_trailing(std::string_view bytes) {
    const std::size_t last = bytes.find_last_not_of(' ');
    return last == bytes.npos ? bytes.size() : bytes.size() - 1 - last;
  }

  // Adds the token of bytes `from` to `to`, which begins with `leading` and ends with `trailing` spaces.
  void add_token(Progress& progress, std::int64_t id, std::size_t from, std::size_t to, std::size_t leading,
                 std::size_t trailing) const {
    auto [bytes, characters] = progress.counter.characters(from, to);
    if (file_->trim_offsets && (leading || trailing)) {
      // A single space at the start of the first token counts as added, even if it is in the text.
      const bool first = progress.encoding.size() == progress.first || characters.begin == 0;
      const bool prefix = first && leading == 1 && file_->keeps_first_space;
      trim(progress.text, bytes, characters, prefix ? 0 : to_signed(leading), to_signed(trailing));
    }
    progress.encoding.push_back({id, characters, bytes, progress.word, progress.sequence, 0, 0});
  }

  static void trim(std::string_view text, Span& bytes, Span& characters, std::int64_t leading, std::int64_t trailing) {
    const auto inside = [&](std::int64_t at) { return utf8::continues(text[static_cast<std::size_t>(at)]); };
    for (; leading > 0 && characters.begin < characters.end; --leading) {
      ++characters.begin;
      for (++bytes.begin; bytes.begin < bytes.end && inside(bytes.begin);) ++bytes.begin;
    }
    if (characters.end < trailing) return;
    for (; trailing > 0 && characters.end > characters.begin; --trailing) {
      --characters.end;
      for (--bytes.end; inside(bytes.end);) --bytes.end;
    }
  }

  void pieces_from_word(Desk& desk, std::string_view word) const {
    desk.pieces.clear();
    if (file_->ignore_merges) {
      std::string letters;
      for (const char byte : word) letters += detail::ByteAlphabet::instance().letter(static_cast<unsigned char>(byte));
      if (const auto whole = file_->model_ids.find(letters); whole != file_->model_ids.end()) {
        desk.pieces.push_back({whole->second, static_cast<std::uint32_t>(word.size())});
        return;
      }
    }
    for (const char byte : word) {
      const std::int32_t id = file_->byte_ids[static_cast<unsigned char>(byte)];
      const bool fuses = file_->fuses_unknown && id == detail::TokenizerFile::no_id && !desk.pieces.empty() &&
                         desk.pieces.back().id == file_->unknown_id;
      if (fuses) {
        ++desk.pieces.back().length;
      } else {
        desk.pieces.push_back({id == detail::TokenizerFile::no_id ? file_->unknown_id : id, 1});
      }
    }
    desk.merger.merge(desk.pieces, file_->merges);
  }

  [[nodiscard]] const std::string* find_token(std::int64_t id) const {
    const auto found = file_->names.find(id);
    return found == file_->names.end() ? nullptr : &found->second;
  }

  std::unique_ptr<detail::TokenizerFile> file_;
  detail::AddedTokens verbatim_;
  detail::AddedTokens normalized_;
  std::unordered_map<std::int64_t, bool> special_;
  std::size_t longest_ = 1;  // the most bytes that a token stands for
  bool knows_bytes_ = true;  // whether every byte has a token, so that none stands for any number of them
  std::unique_ptr<Desks> desks_ = std::make_unique<Desks>();
};

}  // namespace rpln
