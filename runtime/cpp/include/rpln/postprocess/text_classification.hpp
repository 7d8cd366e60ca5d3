// Text classification: labels with scores for a text or a pair of texts.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "rpln/postprocess/base.hpp"

namespace rpln::detail {

class TextClassification {
 public:
  using Scores = std::vector<float>;
  static constexpr std::string_view name = "text-classification";
  static constexpr std::size_t all_labels = 0;

  static inline const Names options{"top_k", "function_to_apply", "truncation"};
  static inline const Names outputs{"logits"};
  static inline const Fields fields{{"text"}, {"text_pair", true}};

  TextClassification(const Context& context, const Options& given)
      : context_(context), truncation_(given.boolean("truncation", false)) {
    const Json top_k = given.value("top_k");
    if (top_k.is_number_integer()) {
      top_k_ = static_cast<std::size_t>(given.integer("top_k", 1, 1));
    } else if (given.has("top_k") && top_k.is_null()) {
      top_k_ = all_labels;
    } else if (!given.has("top_k") || top_k == "best") {
      best_alone_ = true;
    } else {
      throw InputError("top_k is " + shown(top_k) + ", expected an integer, 1 or more, 'best' or None.");
    }
    if (given.value("function_to_apply").is_null()) {
      function_ = function_of_problem(context.manifest);
    } else {
      function_ = given.choice("function_to_apply", "", {"softmax", "sigmoid", "none"});
    }
  }

  // The best label alone comes in a flat list, even for a single text, as in transformers.
  [[nodiscard]] bool always_list() const { return best_alone_; }

  [[nodiscard]] std::vector<Encoding> encode(const Json& item) const {
    if (!item.is_string()) check_fields(item, fields);
    const std::string_view text = text_from_json(item.is_string() ? item : item["text"]);
    const bool has_pair = item.is_object() && item.contains("text_pair") && !item["text_pair"].is_null();
    std::optional<std::string_view> pair;
    if (has_pair) pair = text_from_json(item["text_pair"]);
    return {encode_fitting(context_, text, pair, truncation_)};
  }

  [[nodiscard]] Scores score(const Row& row) const {
    const Rows& logits = row.outputs.front();
    Scores scores(logits.data, logits.data + logits.columns);
    if (function_ == "softmax") softmax(scores.data(), scores.size());
    if (function_ == "sigmoid") {
      // The sigmoid function, in a form in which no logit overflows.
      for (float& score : scores) score = (1 + std::tanh(score / 2)) / 2;
    }
    return scores;
  }

  [[nodiscard]] Json answer(const Case<Scores>& one) const {
    const Scores& scores = one.scores.front();
    Json ranked = Json::array();
    for (const std::size_t label : descending_order(scores)) {
      ranked.push_back({{"label", context_.manifest.labels.at(label)}, {"score", scores[label]}});
      if (best_alone_) return ranked[0];
      if (ranked.size() == top_k_) break;
    }
    return ranked;
  }

 private:
  static std::string function_of_problem(const Manifest& manifest) {
    const std::string by_count = manifest.labels.size() == 1 ? "sigmoid" : "softmax";
    // A model with one label gets sigmoid even for "single_label_classification", as in transformers.
    if (manifest.problem_type == "regression") return "none";
    return manifest.problem_type == "multi_label_classification" ? "sigmoid" : by_count;
  }

  Context context_;
  std::string function_;
  bool truncation_;
  bool best_alone_ = false;
  std::size_t top_k_ = 1;
};

}  // namespace rpln::detail
