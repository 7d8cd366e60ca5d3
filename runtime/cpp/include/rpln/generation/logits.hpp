// What is done to the logits of a row before a token is chosen, and how it is chosen; -inf is a token left out.
// The counterparts in Python are rpln_runtime/generation/{logits,sampling}.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "rpln/generation/options.hpp"
#include "rpln/postprocess/base.hpp"

namespace rpln::detail {

using RowLogits = std::vector<float>;

inline constexpr float left_out = -std::numeric_limits<float>::infinity();

// Makes earlier tokens less likely (Keskar et al., 2019): once, however often they occur.
inline void penalize(RowLogits& logits, std::vector<std::int64_t> earlier, float penalty) {
  std::sort(earlier.begin(), earlier.end());
  earlier.erase(std::unique(earlier.begin(), earlier.end()), earlier.end());
  for (const std::int64_t token : earlier) {
    float& score = logits.at(static_cast<std::size_t>(token));
    score = score < 0 ? score * penalty : score / penalty;
  }
}

inline void keep_from(RowLogits& logits, float least) {
  for (float& logit : logits) logit = logit >= least ? logit : left_out;
}

// Keeps the `count` likeliest tokens, and those as likely as the last of them.
inline void keep_top_k(RowLogits& logits, std::size_t count) {
  if (count >= logits.size()) return;
  RowLogits sorted = logits;
  const auto last = sorted.begin() + static_cast<std::ptrdiff_t>(count - 1);
  std::nth_element(sorted.begin(), last, sorted.end(), std::greater<>());
  keep_from(logits, *last);
}

// Keeps the fewest likeliest tokens whose probabilities add up to `mass` (Holtzman et al., 2019).
inline void keep_top_p(RowLogits& logits, double mass) {
  RowLogits ascending = logits;
  std::sort(ascending.begin(), ascending.end());
  const RowLogits probabilities = softmax_of(ascending.data(), ascending.size());
  float sum = 0;
  std::size_t dropped = 0;
  for (const float probability : probabilities) {
    sum += probability;
    if (static_cast<double>(sum) > 1 - mass) break;
    ++dropped;
  }
  keep_from(logits, ascending[std::min(dropped, logits.size() - 1)]);
}

// Keeps the tokens of at least `share` times the probability of the likeliest (Nguyen et al., 2024).
inline void keep_min_p(RowLogits& logits, float share) {
  const RowLogits probabilities = softmax_of(logits.data(), logits.size());
  const float least = share * *std::max_element(probabilities.begin(), probabilities.end());
  for (std::size_t at = 0; at < logits.size(); ++at) {
    if (probabilities[at] < least) logits[at] = left_out;
  }
}

// Shapes the distribution to sample from, in the order of transformers.
inline void warp(RowLogits& logits, const GenerationOptions& options) {
  for (float& logit : logits) logit /= static_cast<float>(options.temperature);
  if (options.top_k) keep_top_k(logits, static_cast<std::size_t>(options.top_k));
  if (options.top_p < 1) keep_top_p(logits, options.top_p);
  if (options.min_p > 0) keep_min_p(logits, static_cast<float>(options.min_p));
}

// The token whose probability, laid out from 0 to 1 beside those of the others, covers `number`.
inline std::int64_t draw(const RowLogits& logits, double number) {
  const double highest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  std::vector<double> edges;
  double sum = 0;
  for (const float logit : logits) edges.push_back(sum += std::exp(static_cast<double>(logit) - highest));
  const auto covering = std::upper_bound(edges.begin(), edges.end(), number * sum);
  return std::min(covering - edges.begin(), static_cast<std::ptrdiff_t>(logits.size()) - 1);
}

// Numbers from 0 up to 1 that the standard fixes to the last bit, unlike its distributions.
inline double next_number(std::mt19937_64& random) { return static_cast<double>(random() >> 11U) * 0x1.0p-53; }

}  // namespace rpln::detail
