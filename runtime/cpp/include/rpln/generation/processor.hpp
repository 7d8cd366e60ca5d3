// Changes the logits of a row as its tokens so far require. rpln_runtime/generation/processors.py does the same in Python
// and says where the rules come from. A logit of -inf leaves its token out.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "rpln/generation/logits.hpp"
#include "rpln/generation/options.hpp"

namespace rpln::detail {

using TokenIds = std::vector<std::int64_t>;

// Makes earlier tokens less likely (Keskar et al., 2019). How often a token occurs makes no difference.
inline void penalize_repetition(RowLogits& logits, const TokenIds& tokens, float penalty) {
  for (const std::int64_t token : std::set<std::int64_t>(tokens.begin(), tokens.end())) {
    float& score = logits.at(static_cast<std::size_t>(token));
    score = score < 0 ? score * penalty : score / penalty;
  }
}

// Returns the tokens that would complete an n-gram of `size` tokens which is among `tokens` already.
inline TokenIds repeating_tokens(const TokenIds& tokens, std::size_t size) {
  TokenIds found;
  if (tokens.size() < size) return found;
  const auto start = tokens.end() - static_cast<std::ptrdiff_t>(size - 1);
  for (auto at = tokens.begin(); at + static_cast<std::ptrdiff_t>(size - 1) != tokens.end(); ++at) {
    if (std::equal(start, tokens.end(), at)) found.push_back(at[static_cast<std::ptrdiff_t>(size - 1)]);
  }
  return found;
}

// What the options of a generation change in the logits of a row before a token is chosen.
class LogitsProcessor {
 public:
  // `stops` are the tokens that end a text, `limit` is the most new tokens of a row.
  LogitsProcessor(const GenerationOptions& options, TokenIds stops, std::int64_t limit)
      : options_(options), stops_(std::move(stops)), limit_(limit) {
    for (const TokenIds& word : options.bad_words_ids) {
      const bool is_stop = word.size() == 1 && std::find(stops_.begin(), stops_.end(), word[0]) != stops_.end();
      if (!is_stop) words_.push_back(word);
    }
  }

  void change(RowLogits& logits, const TokenIds& prompt, const TokenIds& new_tokens) const {
    TokenIds tokens = prompt;
    tokens.insert(tokens.end(), new_tokens.begin(), new_tokens.end());
    const auto fresh = static_cast<std::int64_t>(new_tokens.size());
    const std::int64_t least = options_.min_new_tokens ? 0 : options_.min_length;
    if (options_.repetition_penalty != 1) {
      penalize_repetition(logits, tokens, static_cast<float>(options_.repetition_penalty));
    }
    if (options_.no_repeat_ngram_size) {
      exclude(logits, repeating_tokens(tokens, static_cast<std::size_t>(options_.no_repeat_ngram_size)));
    }
    for (const TokenIds& word : words_) {
      if (completed_by_last(tokens, word)) exclude(logits, {word.back()});
    }
    if (static_cast<std::int64_t>(tokens.size()) < least || fresh < options_.min_new_tokens.value_or(0)) {
      exclude(logits, stops_);
    }
    if (options_.forced_bos_token_id && tokens.size() == 1) force(logits, {*options_.forced_bos_token_id});
    if (!options_.forced_eos_token_id.empty() && fresh == limit_ - 1) force(logits, options_.forced_eos_token_id);
    exclude(logits, options_.suppress_tokens);
    if (fresh == (options_.forced_bos_token_id && prompt.size() == 1 ? 1 : 0)) {
      exclude(logits, options_.begin_suppress_tokens);
    }
  }

 private:
  // Stop tokens that a user names may lie outside of the vocabulary.
  static void exclude(RowLogits& logits, const TokenIds& tokens) {
    for (const std::int64_t token : tokens) {
      if (static_cast<std::size_t>(token) < logits.size()) logits[static_cast<std::size_t>(token)] = left_out;
    }
  }

  static void force(RowLogits& logits, const TokenIds& tokens) {
    std::fill(logits.begin(), logits.end(), left_out);
    for (const std::int64_t token : tokens) logits.at(static_cast<std::size_t>(token)) = 0;
  }

  // Whether `tokens` end with all of `word` but its last token.
  static bool completed_by_last(const TokenIds& tokens, const TokenIds& word) {
    if (word.size() - 1 > tokens.size()) return false;
    return std::equal(word.begin(), word.end() - 1, tokens.end() - static_cast<std::ptrdiff_t>(word.size() - 1));
  }

  const GenerationOptions& options_;
  TokenIds stops_;
  std::int64_t limit_;
  std::vector<TokenIds> words_;
};

}  // namespace rpln::detail
