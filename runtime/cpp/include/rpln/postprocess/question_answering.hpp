// Question answering: the spans of a context that answer a question.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "rpln/postprocess/base.hpp"
#include "rpln/tokenizer/utf8.hpp"

namespace rpln::detail {

// A part of the context, and its score: the probability that the answer starts with its first token times the
// probability that the answer ends with its last one.
struct AnswerSpan {
  Span characters;
  Span bytes;
  float score;
};

class QuestionAnswering {
 public:
  // The best spans of a window in descending order, and the score of the window holding no answer.
  struct Scores {
    std::vector<AnswerSpan> spans;
    float no_answer = 0;
  };
  static constexpr std::string_view name = "question-answering";

  static inline const Names options{"top_k", "handle_impossible_answer", "max_answer_len", "max_seq_len",
                                    "doc_stride", "align_to_words"};
  static inline const Names outputs{"start_logits", "end_logits"};
  static inline const Fields fields{{"question"}, {"context"}};

  QuestionAnswering(const Context& context, const Options& given)
      : context_(context),
        top_k_(static_cast<std::size_t>(given.integer("top_k", 1, 1))),
        takes_no_answer_(given.boolean("handle_impossible_answer", false)),
        aligns_(given.boolean("align_to_words", true)),
        longest_(static_cast<std::size_t>(given.integer("max_answer_len", 15, 1))) {
    const std::int64_t limit = context.manifest.usable_length;
    max_length_ = given.optional_integer("max_seq_len", 1, limit).value_or(std::min<std::int64_t>(limit, 384));
    stride_ = given.optional_integer("doc_stride", 0).value_or(std::min<std::int64_t>(max_length_ / 2, 128));
  }

  [[nodiscard]] bool always_list() const { return false; }

  [[nodiscard]] std::vector<Encoding> encode(const Json& item) const {
    check_fields(item, fields);
    for (const auto& [field, text] : item.items()) {
      if (text == "") throw InputError("the " + field + " is empty, expected a text.");
    }
    const std::string_view question = text_from_json(item["question"]);
    // The question is in every window.
    context_.tokenizer.check_bytes(question, max_length_, "shorten the question.");
    const Encoding encoding = context_.tokenizer.encode(question, text_from_json(item["context"]));
    return windows(encoding, max_length_, stride_, context_.manifest.truncation_side, in_context);
  }

  [[nodiscard]] Scores score(const Row& row) const {
    const std::vector<float> start = probabilities(row, row.outputs[0]);
    const std::vector<float> end = probabilities(row, row.outputs[1]);
    Scores found;
    found.no_answer = start[0] * end[0];
    for (const Candidate& best : best_spans(row.encoding, start, end)) {
      found.spans.push_back(span_from(row.encoding, best));
    }
    return found;
  }

  // Answers with the same text, upper and lower case aside, become one answer; their scores are added.
  [[nodiscard]] Json answer(const Case<Scores>& one) const {
    const std::string_view context = text_from_json(one.item["context"]);
    std::vector<Answer> answers;
    std::unordered_map<std::string, std::size_t> by_text;
    float no_answer = std::numeric_limits<float>::infinity();
    for (const Scores& window : one.scores) {
      no_answer = std::min(no_answer, window.no_answer);
      for (const AnswerSpan& span : window.spans) {
        const std::string_view text = context.substr(static_cast<std::size_t>(span.bytes.begin),
                                                     static_cast<std::size_t>(span.bytes.size()));
        const auto [place, is_new] = by_text.emplace(utf8::lower(text), answers.size());
        if (is_new) answers.push_back({0, span.characters, span.bytes, std::string(text)});
        answers[place->second].score += static_cast<double>(span.score);
      }
    }
    if (takes_no_answer_ || answers.empty()) answers.push_back({static_cast<double>(no_answer), {}, {}, ""});
    std::stable_sort(answers.begin(), answers.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
    if (top_k_ == 1) return json_from_answer(answers.front());
    Json best = Json::array();
    for (std::size_t at = 0; at < std::min(top_k_, answers.size()); ++at) best.push_back(json_from_answer(answers[at]));
    return best;
  }

 private:
  static constexpr std::int32_t in_context = 1;

  struct Answer {
    double score;
    Span characters;
    Span bytes;
    std::string text;
  };

  struct Candidate {
    std::size_t first;
    std::size_t last;
    float score;
  };

  static Json json_from_answer(const Answer& answer) {
    return {{"score", answer.score},          {"start", answer.characters.begin},
            {"end", answer.characters.end},   {"answer", answer.text},
            {"byte_start", answer.bytes.begin}, {"byte_end", answer.bytes.end}};
  }

  // Returns the probabilities of the context's tokens and of the first token, which stands for "no answer".
  static std::vector<float> probabilities(const Row& row, const Rows& logits) {
    std::vector<float> values(row.encoding.size(), -std::numeric_limits<float>::infinity());
    for (std::size_t at = 0; at < values.size(); ++at) {
      if (at == 0 || row.encoding[at].sequence == in_context) values[at] = *logits[at];
    }
    softmax(values.data(), values.size());
    return values;
  }

  // Returns the best spans of the context in descending order, without those of score 0.
  [[nodiscard]] std::vector<Candidate> best_spans(const Encoding& encoding, const std::vector<float>& start,
                                                  const std::vector<float>& end) const {
    const Span context = span_of(encoding, in_context);
    const auto stop = static_cast<std::size_t>(context.end);
    std::vector<Candidate> found;
    for (auto first = static_cast<std::size_t>(context.begin); first < stop; ++first) {
      for (std::size_t last = first; last < std::min(stop, first + longest_); ++last) {
        const float score = start[first] * end[last];
        if (score != 0) found.push_back({first, last, score});
      }
    }
    // Several spans may become the same one when they are widened to whole words, so more of them are kept.
    const std::size_t count = std::min(aligns_ ? top_k_ * 2 + 10 : top_k_, found.size());
    const auto better = [](const Candidate& a, const Candidate& b) {
      if (a.score != b.score) return a.score > b.score;
      return std::pair(a.first, a.last) < std::pair(b.first, b.last);
    };
    std::partial_sort(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(count), found.end(), better);
    found.resize(count);
    return found;
  }

  [[nodiscard]] AnswerSpan span_from(const Encoding& encoding, const Candidate& best) const {
    std::size_t first = best.first;
    std::size_t last = best.last;
    const auto same_word = [&](std::size_t a, std::size_t b) {
      return encoding[b].sequence == in_context && encoding[a].word == encoding[b].word;
    };
    if (aligns_) {
      while (same_word(first, first - 1)) --first;
      while (last + 1 < encoding.size() && same_word(last, last + 1)) ++last;
    }
    return {{encoding[first].characters.begin, encoding[last].characters.end},
            {encoding[first].bytes.begin, encoding[last].bytes.end},
            best.score};
  }

  Context context_;
  std::size_t top_k_;
  bool takes_no_answer_;
  bool aligns_;
  std::size_t longest_;
  std::int64_t max_length_ = 0;
  std::int64_t stride_ = 0;
};

}  // namespace rpln::detail
