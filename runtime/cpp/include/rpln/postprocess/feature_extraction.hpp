// Feature extraction: the last hidden state of each token of a text, or one vector that is pooled from them, by the graph
// or here.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "rpln/postprocess/base.hpp"

namespace rpln::detail {

class FeatureExtraction {
 public:
  // Vectors of `size` values each: one for every token without pooling, otherwise a single one.
  struct Scores {
    std::vector<float> values;
    std::size_t size = 0;
  };
  static constexpr std::string_view name = "feature-extraction";

  static inline const Names options{"pooling", "normalize", "truncation", "prompt", "prompt_name"};
  static inline const Names outputs{"last_hidden_state"};
  static inline const Fields fields{{"text"}};

  FeatureExtraction(const Context& context, const Options& given)
      : context_(context),
        sentences_(context.manifest.sentences.value_or(Sentences{})),
        pooling_(pooling(given)),
        normalize_(given.boolean("normalize", false)),
        truncation_(given.value("truncation").is_null() ? sentences_.max_length.has_value()
                                                        : given.boolean("truncation", false)),
        prompt_(prompt(given)) {}

  [[nodiscard]] bool always_list() const { return false; }

  [[nodiscard]] std::vector<Encoding> encode(const Json& item) const {
    const std::string text = prompt_ + std::string(text_from_json(item));
    return {encode_fitting(context_, text, std::nullopt, truncation_, sentences_.max_length)};
  }

  [[nodiscard]] Scores score(const Row& row) const {
    Scores features = pooled(row.outputs.front());
    if (normalize_) {
      for (std::size_t at = 0; at < features.values.size(); at += features.size) {
        divide_by_length(features.values.data() + at, features.size);
      }
    }
    return features;
  }

  // Returns an array (1, tokens, hidden size) without pooling, otherwise an array (hidden size), or (embedding size) if
  // the graph pools.
  [[nodiscard]] Json answer(const Case<Scores>& one) const {
    const auto& [values, size] = one.scores.front();
    if (pooling_ != "none" || !sentences_.poolings.empty()) return values;
    Json tokens = Json::array();
    for (auto first = values.begin(); first != values.end(); first += static_cast<std::ptrdiff_t>(size)) {
      tokens.push_back(std::vector<float>(first, first + static_cast<std::ptrdiff_t>(size)));
    }
    return Json::array({tokens});
  }

 private:
  [[nodiscard]] std::string pooling(const Options& given) const {
    if (given.value("pooling").is_null()) return "none";
    std::string chosen = given.choice("pooling", "none", {"none", "first", "mean", "max"});
    if (sentences_.poolings.empty()) return chosen;
    throw InputError("pooling is " + in_quotes(chosen) + ", but the graph of this bundle pools by itself (" +
                     join(sentences_.poolings) + "). Leave it out, or export the checkpoint with --pooling none.");
  }

  // Returns the text that is put before each text.
  [[nodiscard]] std::string prompt(const Options& given) const {
    std::string text = chosen_prompt(given);
    if (!text.empty() && !sentences_.include_prompt) {
      throw InputError(
          "the checkpoint of this bundle leaves the tokens of a prompt out of its vectors, which the graph cannot. "
          "Give no prompt.");
    }
    return text;
  }

  [[nodiscard]] std::string chosen_prompt(const Options& given) const {
    const bool own = !given.value("prompt").is_null();
    const bool named = !given.value("prompt_name").is_null();
    if (own && named) {
      throw InputError("prompt and prompt_name both choose what is put before a text. Leave out one of them.");
    }
    if (own) return given.text("prompt");
    std::vector<std::string> names;
    for (const auto& [name, text] : sentences_.prompts) names.push_back(name);
    const std::string chosen =
        named ? given.choice("prompt_name", "", names) : sentences_.default_prompt.value_or("");
    const auto found = sentences_.prompts.find(chosen);
    return found == sentences_.prompts.end() ? "" : found->second;
  }

  [[nodiscard]] Scores pooled(const Rows& hidden) const {
    if (pooling_ == "none") return {{hidden.data, hidden.data + hidden.count * hidden.columns}, hidden.columns};
    Scores features{{hidden.data, hidden.data + hidden.columns}, hidden.columns};
    if (pooling_ == "first") return features;
    for (std::size_t token = 1; token < hidden.count; ++token) {
      for (std::size_t at = 0; at < hidden.columns; ++at) {
        float& value = features.values[at];
        value = pooling_ == "max" ? std::max(value, hidden[token][at]) : value + hidden[token][at];
      }
    }
    if (pooling_ == "mean") {
      for (float& value : features.values) value /= static_cast<float>(hidden.count);
    }
    return features;
  }

  static void divide_by_length(float* values, std::size_t size) {
    constexpr float smallest_norm = 1e-12F;  // the default of torch.nn.functional.normalize
    float squares = 0;
    for (std::size_t at = 0; at < size; ++at) squares += values[at] * values[at];
    const float length = std::max(std::sqrt(squares), smallest_norm);
    for (std::size_t at = 0; at < size; ++at) values[at] /= length;
  }

  Context context_;
  Sentences sentences_;
  std::string pooling_;
  bool normalize_;
  bool truncation_;
  std::string prompt_;
};

}  // namespace rpln::detail
