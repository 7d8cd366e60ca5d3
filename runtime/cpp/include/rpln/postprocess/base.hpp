// What the post-processing of every task has in common: tokens in, rows of the batch back, an answer out.
//
// A task is a class of this shape:
//
//   struct Task {
//     using Scores = ...;                                       // what an answer needs of a row's outputs
//     static constexpr std::string_view name = "...";           // as in the manifest
//     static const std::vector<std::string>& options();         // that a caller may give, by name
//     static const std::vector<std::string>& outputs();         // of the graph that are read
//     static const std::vector<std::string>& fields();          // of an item that is no single text
//     Task(const Context&, const detail::Options&);             // throws InputError for a value out of range
//     std::vector<Encoding> encode(const Json& item) const;     // the rows to run for an item
//     Scores score(const Row&) const;
//     Json answer(const Case<Scores>&) const;                   // from the scores of the item's rows
//     bool always_list() const;                                 // whether a single item gets a list, too
//   };
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "rpln/tokenizer/encoding.hpp"
#include "rpln/errors.hpp"
#include "rpln/json.hpp"
#include "rpln/manifest.hpp"
#include "rpln/options.hpp"
#include "rpln/tensors.hpp"
#include "rpln/tokenizer/tokenizer.hpp"

namespace rpln::detail {

// What tasks know of the bundle.
struct Context {
  const Manifest& manifest;
  const Tokenizer& tokenizer;
};

// A row of a batch that has run: its tokens, and the task's outputs of the graph for them, without padding.
struct Row {
  const Encoding& encoding;
  const std::vector<Rows>& outputs;
};

// An item that has run: what was asked, the rows it became, and the scores of each.
template <class Scores>
struct Case {
  const Json& item;
  const std::vector<Encoding>& encodings;
  std::vector<Scores> scores;
};

inline std::string_view text_from_json(const Json& item) {
  if (!item.is_string()) throw InputError("a text is a " + type_name(item) + ", expected str.");
  return item.get_ref<const std::string&>();
}

// Checks that `item` is an object with exactly `fields`, of which those behind the first `required` may be left out.
inline void check_fields(const Json& item, const std::vector<std::string>& fields, std::size_t required) {
  std::vector<std::string> shown;
  for (const std::string& field : fields) shown.push_back(repr(field));
  const std::string expected = "expected a mapping with " + join(shown) + ".";
  if (!item.is_object()) throw InputError("an item is a " + type_name(item) + ", " + expected);
  bool fits = true;
  std::vector<std::string> keys;
  for (std::size_t at = 0; at < required; ++at) fits = fits && item.contains(fields[at]);
  for (const auto& [key, _] : item.items()) {
    keys.push_back(repr(key));
    fits = fits && std::find(fields.begin(), fields.end(), key) != fields.end();
  }
  if (!fits) throw InputError("an item has the keys " + join(keys) + ", " + expected);
}

// Cuts `encoding` to the usable length when `truncation` allows it. Throws InputError when it does not.
inline Encoding fit(const Encoding& encoding, const Manifest& manifest, bool truncation) {
  if (static_cast<std::int64_t>(encoding.size()) > manifest.usable_length && !truncation) {
    throw InputError("a text has " + std::to_string(encoding.size()) + " tokens, the limit of this model is " +
                     std::to_string(manifest.usable_length) +
                     ": shorten it, or pass truncation=True to leave out what lies beyond.");
  }
  return truncate(encoding, manifest.usable_length);
}

inline void softmax(float* values, std::size_t count) {
  const float highest = *std::max_element(values, values + count);
  float sum = 0;
  for (std::size_t at = 0; at < count; ++at) {
    values[at] = std::exp(values[at] - highest);
    sum += values[at];
  }
  for (std::size_t at = 0; at < count; ++at) values[at] /= sum;
}

inline std::vector<float> softmax_of(const float* logits, std::size_t count) {
  std::vector<float> values(logits, logits + count);
  softmax(values.data(), count);
  return values;
}

inline std::size_t index_of_highest(const float* values, std::size_t count) {
  return static_cast<std::size_t>(std::max_element(values, values + count) - values);
}

// Indices from the highest value to the lowest; of equals, the first one first.
inline std::vector<std::size_t> descending_order(const std::vector<float>& values) {
  std::vector<std::size_t> order(values.size());
  for (std::size_t at = 0; at < order.size(); ++at) order[at] = at;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
  return order;
}

}  // namespace rpln::detail
