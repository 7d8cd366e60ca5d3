// Feature extraction: the last hidden state of each token of a text, or one vector that is pooled from them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
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

  static inline const Names options{"pooling", "normalize", "truncation"};
  static inline const Names outputs{"last_hidden_state"};
  static inline const Names fields{"text"};

  FeatureExtraction(const Context& context, const Options& given)
      : context_(context),
        pooling_(given.choice("pooling", "none", {"none", "first", "mean", "max"})),
        normalize_(given.boolean("normalize", false)),
        truncation_(given.boolean("truncation", false)) {}

  [[nodiscard]] bool always_list() const { return false; }

  [[nodiscard]] std::vector<Encoding> encode(const Json& item) const {
    return {fit(context_.tokenizer.encode(text_from_json(item)), context_.manifest, truncation_)};
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

  // Returns an array (1, tokens, hidden size) without pooling, otherwise an array (hidden size).
  [[nodiscard]] Json answer(const Case<Scores>& one) const {
    const auto& [values, size] = one.scores.front();
    if (pooling_ != "none") return values;
    Json tokens = Json::array();
    for (auto first = values.begin(); first != values.end(); first += static_cast<std::ptrdiff_t>(size)) {
      tokens.push_back(std::vector<float>(first, first + static_cast<std::ptrdiff_t>(size)));
    }
    return Json::array({tokens});
  }

 private:
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
  std::string pooling_;
  bool normalize_;
  bool truncation_;
};

}  // namespace rpln::detail
