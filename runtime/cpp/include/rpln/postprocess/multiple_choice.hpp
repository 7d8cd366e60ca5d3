// Multiple choice: which of several continuations fits a prompt best.
#pragma once

#include <string>
#include <vector>

#include "rpln/postprocess/base.hpp"

namespace rpln::detail {

class MultipleChoice {
 public:
  using Scores = float;  // the logit of a choice; every choice is a row of its own
  static constexpr std::string_view name = "multiple-choice";

  static inline const Names options{"truncation"};
  static inline const Names outputs{"logits"};
  static inline const Fields fields{{"prompt"}, {"choices", false, true}};

  MultipleChoice(const Context& context, const Options& given)
      : context_(context), truncation_(given.boolean("truncation", false)) {}

  [[nodiscard]] bool always_list() const { return false; }

  [[nodiscard]] std::vector<Encoding> encode(const Json& item) const {
    check_fields(item, fields);
    const Json& choices = item["choices"];
    if (!choices.is_array() || choices.empty()) {
      throw InputError("choices are " + shown(choices) + ", expected a list of at least one text.");
    }
    std::vector<Encoding> rows;
    for (const Json& choice : choices) {
      rows.push_back(encode_fitting(context_, text_from_json(item["prompt"]), text_from_json(choice), truncation_));
    }
    return rows;
  }

  [[nodiscard]] Scores score(const Row& row) const { return *row.outputs.front().data; }

  [[nodiscard]] Json answer(const Case<Scores>& one) const {
    const std::vector<float> probabilities = softmax_of(one.scores.data(), one.scores.size());
    const std::size_t best = index_of_highest(probabilities.data(), probabilities.size());
    return {{"answer", one.item["choices"][best]},
            {"index", best},
            {"score", probabilities[best]},
            {"scores", probabilities}};
  }

 private:
  Context context_;
  bool truncation_;
};

}  // namespace rpln::detail
