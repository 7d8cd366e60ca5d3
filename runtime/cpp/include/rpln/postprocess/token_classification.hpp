// Token classification: a label for every token, or groups of tokens that are one entity.
//
// A text that is too long is never cut: it is read in overlapping windows. Offsets count characters, as in Python, and
// stand beside offsets that count the bytes of the UTF-8.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rpln/postprocess/base.hpp"

namespace rpln::detail {

// A token of the text, or a word that several tokens make up, with the probabilities of its labels.
struct ScoredToken {
  std::string word;
  std::vector<float> scores;
  Span characters;
  Span bytes;
  std::int32_t index;  // the place of the token among all tokens of the text, special tokens included
  bool continues_word;
};

// Neighbouring tokens that are one entity. `label` is without its prefix B- or I-.
struct EntityGroup {
  std::string label;
  double score;
  std::string word;
  Span characters;
  Span bytes;
};

class TokenClassification {
 public:
  using Scores = std::vector<float>;  // the probabilities of the labels, an array (tokens, labels)
  static constexpr std::string_view name = "token-classification";

  static inline const Names options{"aggregation_strategy", "ignore_labels", "stride", "is_split_into_words",
                                     "delimiter"};
  static inline const Names outputs{"logits"};
  static inline const Fields fields{{"text"}};

  TokenClassification(const Context& context, const Options& given)
      : context_(context),
        strategy_(given.choice("aggregation_strategy", "none", {"none", "simple", "first", "average", "max"})) {
    if (given.has("ignore_labels")) {
      const Json labels = given.value("ignore_labels");
      const auto is_text = [](const Json& label) { return label.is_string(); };
      if (!labels.is_array() || !std::all_of(labels.begin(), labels.end(), is_text)) {
        throw InputError("ignore_labels is " + shown(labels) + ", expected a list of texts.");
      }
      ignored_ = labels.get<std::vector<std::string>>();
    }
    const std::int64_t limit = context.manifest.usable_length;
    stride_ = given.optional_integer("stride", 0, limit - 1).value_or(limit / 4);
    in_words_ = given.boolean("is_split_into_words", false);
    if (given.has("delimiter")) delimiter_ = given.text("delimiter");
    if (in_words_ && !context.tokenizer.takes_words()) {
      throw InputError(
          "is_split_into_words needs a tokenizer that puts a space before a text (add_prefix_space), which that of "
          "this bundle does not. Give the words as a text, with spaces between them.");
    }
  }

  [[nodiscard]] bool always_list() const { return false; }

  [[nodiscard]] std::vector<Encoding> encode(const Json& item) const {
    const Encoding encoding = in_words_ ? context_.tokenizer.encode_words(words_from_json(item), delimiter_)
                                        : context_.tokenizer.encode(text_from_json(item));
    return windows(encoding, context_.manifest.usable_length, stride_, context_.manifest.truncation_side);
  }

  [[nodiscard]] Scores score(const Row& row) const {
    const Rows& logits = row.outputs.front();
    Scores scores(logits.data, logits.data + logits.count * logits.columns);
    for (std::size_t token = 0; token < logits.count; ++token) {
      softmax(scores.data() + token * logits.columns, logits.columns);
    }
    return scores;
  }

  [[nodiscard]] Json answer(const Case<Scores>& one) const {
    const std::string text = in_words_ ? joined(words_from_json(one.item)) : std::string(text_from_json(one.item));
    if (strategy_ == "none") return tokens_from_windows(text, one);
    std::vector<EntityGroup> groups;
    for (std::size_t at = 0; at < one.encodings.size(); ++at) {
      append_groups(groups, read(text, one.encodings[at], one.scores[at]));
    }
    if (one.encodings.size() > 1) groups = without_overlaps(std::move(groups));
    Json answer = Json::array();
    for (const EntityGroup& group : groups) {
      answer.push_back({{"entity_group", group.label},
                        {"score", group.score},
                        {"word", group.word},
                        {"start", group.characters.begin},
                        {"end", group.characters.end},
                        {"byte_start", group.bytes.begin},
                        {"byte_end", group.bytes.end}});
    }
    return answer;
  }

 private:
  using Tokens = std::vector<ScoredToken>;

  static std::vector<std::string> words_from_json(const Json& item) {
    if (!item.is_array()) {
      throw InputError("with is_split_into_words, an item is " + kind_of(item) + ", expected a list of words.");
    }
    std::vector<std::string> words;
    for (const Json& word : item) words.emplace_back(text_from_json(word));
    return words;
  }

  // Returns the text that the places of split words are counted in.
  [[nodiscard]] std::string joined(const std::vector<std::string>& words) const {
    std::string text;
    for (const std::string& word : words) text += (&word == words.data() ? "" : delimiter_) + word;
    return text;
  }

  [[nodiscard]] std::size_t label_of(const ScoredToken& token) const {
    return index_of_highest(token.scores.data(), token.scores.size());
  }

  [[nodiscard]] const std::string& label_name(const ScoredToken& token) const {
    return context_.manifest.labels.at(label_of(token));
  }

  [[nodiscard]] bool is_ignored(const std::string& label) const {
    return std::find(ignored_.begin(), ignored_.end(), label) != ignored_.end();
  }

  // A token that is in two windows keeps its scores from the window in which it is farther from the ends.
  [[nodiscard]] Json tokens_from_windows(std::string_view text, const Case<Scores>& one) const {
    // The end of the text is in the last window, or in the first one if texts are cut on the left.
    const std::int32_t last = std::max(one.encodings.front().back().position, one.encodings.back().back().position);
    const auto count = static_cast<std::size_t>(last) + 1;
    const std::size_t labels = context_.manifest.labels.size();
    Encoding whole(count);
    Scores scores(count * labels);
    std::vector<std::int64_t> depths(count, -1);
    for (std::size_t window = 0; window < one.encodings.size(); ++window) {
      const Encoding& encoding = one.encodings[window];
      for (std::size_t at = 0; at < encoding.size(); ++at) {
        const auto depth = static_cast<std::int64_t>(std::min(at, encoding.size() - 1 - at));
        const auto place = static_cast<std::size_t>(encoding[at].position);
        if (depth <= depths[place]) continue;
        whole[place] = encoding[at];
        depths[place] = depth;
        std::copy_n(&one.scores[window][at * labels], labels, &scores[place * labels]);
      }
    }
    Json answer = Json::array();
    for (const ScoredToken& token : read(text, whole, scores)) {
      if (is_ignored(label_name(token))) continue;
      answer.push_back({{"entity", label_name(token)},
                        {"score", token.scores[label_of(token)]},
                        {"index", token.index},
                        {"word", token.word},
                        {"start", token.characters.begin},
                        {"end", token.characters.end},
                        {"byte_start", token.bytes.begin},
                        {"byte_end", token.bytes.end}});
    }
    return answer;
  }

  // Returns the tokens of `text`, without special tokens.
  [[nodiscard]] Tokens read(std::string_view text, const Encoding& encoding, const Scores& scores) const {
    const std::size_t labels = context_.manifest.labels.size();
    const std::optional<std::int64_t> unknown = context_.tokenizer.unknown_id();
    Tokens tokens;
    for (std::size_t at = 0; at < encoding.size(); ++at) {
      const Token& token = encoding[at];
      if (token.sequence != 0) continue;
      const float* first = scores.data() + at * labels;
      ScoredToken& found = tokens.emplace_back();
      found.scores.assign(first, first + labels);
      found.characters = token.characters;
      found.bytes = token.bytes;
      found.index = token.position;
      const bool is_unknown = token.id == unknown;
      found.word = is_unknown ? std::string(substring(text, token.bytes)) : context_.tokenizer.token(token.id);
      found.continues_word = !is_unknown && !starts_word(text, token.bytes);
    }
    return tokens;
  }

  static std::string_view substring(std::string_view text, const Span& bytes) {
    return text.substr(static_cast<std::size_t>(bytes.begin), static_cast<std::size_t>(bytes.size()));
  }

  // Whether a byte-level token starts a word: at the start of the text, with a space, or right after one.
  static bool starts_word(std::string_view text, const Span& bytes) {
    if (bytes.begin == 0) return true;
    return substring(text, {bytes.begin - 1, std::min<std::int64_t>(bytes.begin + 1, static_cast<std::int64_t>(
                                                                                         text.size()))})
               .find(' ') != std::string_view::npos;
  }

  void append_groups(std::vector<EntityGroup>& groups, Tokens tokens) const {
    if (strategy_ != "simple") tokens = words_from_tokens(tokens);
    for (auto first = tokens.cbegin(); first != tokens.cend();) {
      auto last = first + 1;
      while (last != tokens.cend() && goes_on(*(last - 1), *last)) ++last;
      EntityGroup group = group_from_tokens(first, last);
      if (!is_ignored(group.label)) groups.push_back(std::move(group));
      first = last;
    }
  }

  // Whether a token belongs to the entity of the token before it. B- starts a new entity; otherwise equal labels,
  // prefixes aside, belong together.
  [[nodiscard]] bool goes_on(const ScoredToken& before, const ScoredToken& token) const {
    const std::string& label = label_name(token);
    return label.compare(0, 2, "B-") != 0 && tag(label) == tag(label_name(before));
  }

  static std::string_view tag(std::string_view label) {
    const std::string_view prefix = label.substr(0, 2);
    return prefix == "B-" || prefix == "I-" ? label.substr(2) : label;
  }

  [[nodiscard]] EntityGroup group_from_tokens(Tokens::const_iterator first, Tokens::const_iterator last) const {
    double sum = 0;
    std::vector<std::string> words;
    for (auto token = first; token != last; ++token) {
      sum += static_cast<double>(token->scores[label_of(*token)]);
      words.push_back(token->word);
    }
    const std::string& label = label_name(*first);
    const std::size_t dash = label.find('-');
    return {dash == label.npos ? label : label.substr(dash + 1), sum / static_cast<double>(last - first),
            context_.tokenizer.join(words), {first->characters.begin, (last - 1)->characters.end},
            {first->bytes.begin, (last - 1)->bytes.end}};
  }

  // Joins tokens to words. A word has the scores of its first token, the mean of all scores, or the scores of the token
  // with the highest one, as the aggregation strategy says.
  [[nodiscard]] Tokens words_from_tokens(const Tokens& tokens) const {
    Tokens words;
    for (auto first = tokens.begin(); first != tokens.end();) {
      auto last = first + 1;
      while (last != tokens.end() && last->continues_word) ++last;
      std::vector<std::string> parts;
      for (auto token = first; token != last; ++token) parts.push_back(token->word);
      words.push_back({context_.tokenizer.join(parts), word_scores(first, last),
                       {first->characters.begin, (last - 1)->characters.end},
                       {first->bytes.begin, (last - 1)->bytes.end}, first->index, false});
      first = last;
    }
    return words;
  }

  [[nodiscard]] std::vector<float> word_scores(Tokens::const_iterator first, Tokens::const_iterator last) const {
    if (strategy_ == "first") return first->scores;
    if (strategy_ == "max") {
      const auto highest = [](const ScoredToken& t) { return *std::max_element(t.scores.begin(), t.scores.end()); };
      const auto lower = [&](const ScoredToken& a, const ScoredToken& b) { return highest(a) < highest(b); };
      return std::max_element(first, last, lower)->scores;
    }
    std::vector<float> means(first->scores.size());
    for (auto token = first; token != last; ++token) {
      for (std::size_t label = 0; label < means.size(); ++label) means[label] += token->scores[label];
    }
    for (float& mean : means) mean /= static_cast<float>(last - first);
    return means;
  }

  // Where entities of two windows overlap, the longer one is kept, or the one with the higher score of two equally
  // long.
  static std::vector<EntityGroup> without_overlaps(std::vector<EntityGroup> groups) {
    const auto rank = [](const EntityGroup& group) { return std::pair(group.characters.size(), group.score); };
    std::stable_sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) {
      return a.characters.begin < b.characters.begin;
    });
    std::vector<EntityGroup> kept;
    for (EntityGroup& group : groups) {
      if (kept.empty() || group.characters.begin >= kept.back().characters.end) {
        kept.push_back(std::move(group));
      } else if (rank(group) > rank(kept.back())) {
        kept.back() = std::move(group);
      }
    }
    return kept;
  }

  Context context_;
  std::string strategy_;
  std::vector<std::string> ignored_{"O"};
  std::int64_t stride_ = 0;
  bool in_words_ = false;
  std::string delimiter_ = " ";
};

}  // namespace rpln::detail
