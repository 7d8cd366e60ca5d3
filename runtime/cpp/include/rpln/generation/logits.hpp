// Changes the logits of a row before a token is drawn, and draws the token. A logit of -inf leaves its token out.
// rpln_runtime/generation/logits.py and sampling.py do the same in Python.
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

// Leaves out the tokens whose logits are below `least`.
inline void keep_from(RowLogits& logits, float least) {
  for (float& logit : logits) logit = logit >= least ? logit : left_out;
}

// Keeps the `count` most likely tokens, and any others that are as likely as the last of them.
inline void keep_top_k(RowLogits& logits, std::size_t count) {
  if (count >= logits.size()) return;
  RowLogits sorted = logits;
  const auto last = sorted.begin() + static_cast<std::ptrdiff_t>(count - 1);
  std::nth_element(sorted.begin(), last, sorted.end(), std::greater<>());
  keep_from(logits, *last);
}

// Keeps the smallest number of most likely tokens whose probabilities add up to `mass` (Holtzman et al., 2019).
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

// Keeps the tokens that have at least `share` times the probability of the most likely one (Nguyen et al., 2024).
inline void keep_min_p(RowLogits& logits, float share) {
  const RowLogits probabilities = softmax_of(logits.data(), logits.size());
  const float least = share * *std::max_element(probabilities.begin(), probabilities.end());
  for (std::size_t at = 0; at < logits.size(); ++at) {
    if (probabilities[at] < least) logits[at] = left_out;
  }
}

// Changes the distribution that is sampled from, in the same order as transformers.
inline void warp(RowLogits& logits, const GenerationOptions& options) {
  for (float& logit : logits) logit /= static_cast<float>(options.temperature);
  if (options.top_k) keep_top_k(logits, static_cast<std::size_t>(options.top_k));
  if (options.top_p < 1) keep_top_p(logits, options.top_p);
  if (options.min_p > 0) keep_min_p(logits, static_cast<float>(options.min_p));
}

// Draws a token. The probabilities of all tokens, laid out one behind the other, fill the interval from 0 to 1; the
// token is the one whose part of it holds `number`.
inline std::int64_t draw(const RowLogits& logits, double number) {
  const double highest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  std::vector<double> edges;
  double sum = 0;
  for (const float logit : logits) edges.push_back(sum += std::exp(static_cast<double>(logit) - highest));
  const auto covering = std::upper_bound(edges.begin(), edges.end(), number * sum);
  return std::min(covering - edges.begin(), static_cast<std::ptrdiff_t>(logits.size()) - 1);
}

// Returns a number from 0 up to, but not including, 1. The C++ standard defines every bit of it, which it does not do
// for its own distributions.
inline double next_number(std::mt19937_64& random) { return static_cast<double>(random() >> 11U) * 0x1.0p-53; }

}  // namespace rpln::detail
