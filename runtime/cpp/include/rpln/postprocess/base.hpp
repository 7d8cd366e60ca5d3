// What the post-processing of all tasks has in common: items become rows of tokens, and outputs become answers.
//
// The post-processing of a task is a class of this shape:
//
//   struct Task {
//     using Scores = ...;                                    // what the answer needs of a row's outputs
//     static constexpr std::string_view name = "...";        // the name of the task, as in the manifest
//     static inline const Names options{...};                // the options that a caller may give
//     static inline const Names outputs{...};                // the outputs of the graph that are read
//     static inline const Fields fields{...};                // the parts of an item; "text" alone: an item is a text
//     Task(const Context&, const Options&);                  // throws InputError for an option out of range
//     std::vector<Encoding> encode(const Json& item) const;  // makes the rows to run for an item
//     Scores score(const Row&) const;                        // reduces the outputs of a row
//     Json answer(const Case<Scores>&) const;                // makes the answer from the scores of an item's rows
//     bool always_list() const;                              // whether a single item gets a list of one answer, too
//   };
//
// tests/cpp/test_tasks.py compares these names with those of the Python runtime.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rpln/errors.hpp"
#include "rpln/json.hpp"
#include "rpln/manifest.hpp"
#include "rpln/options.hpp"
#include "rpln/tensors.hpp"
#include "rpln/tokenizer/encoding.hpp"
#include "rpln/tokenizer/tokenizer.hpp"

namespace rpln {

// A named part of an item: a text, or a list of texts where `several`. An `optional` one may be left out.
struct ItemField {
  std::string name;
  bool optional = false;
  bool several = false;
};

namespace detail {

using Names = std::vector<std::string>;
using Fields = std::vector<ItemField>;

// The parts of the bundle that a task works with.
struct Context {
  const Manifest& manifest;
  const Tokenizer& tokenizer;
};

// A row of a batch that has run: its tokens, and for them the graph's outputs that the task reads, without padding.
struct Row {
  const Encoding& encoding;
  const std::vector<Rows>& outputs;
};

// An item that has run: the item itself, the rows that it became, and the scores of each row.
template <class Scores>
struct Case {
  const Json& item;
  const std::vector<Encoding>& encodings;
  std::vector<Scores> scores;
};

inline std::string_view text_from_json(const Json& item) {
  if (!item.is_string()) throw InputError("found " + kind_of(item) + " where a text was expected.");
  return item.get_ref<const std::string&>();
}

// Throws InputError unless `item` is an object with `fields`, of which optional ones may be missing, and nothing else.
inline void check_fields(const Json& item, const Fields& fields) {
  bool fits = true;
  Names names;
  for (const ItemField& field : fields) {
    names.push_back(field.name);
    fits = fits && (field.optional || !item.is_object() || item.contains(field.name));
  }
  const std::string expected = ", expected an object with the fields " + join(names) + ".";
  if (!item.is_object()) throw InputError("an item is " + kind_of(item) + expected);
  Names keys;
  for (const auto& [key, _] : item.items()) {
    keys.push_back(in_quotes(key));
    fits = fits && std::find(names.begin(), names.end(), key) != names.end();
  }
  if (!fits) throw InputError("an item has the fields " + join(keys) + expected);
}

// Encodes a text or a pair, and cuts it to `max_length`, or else to the usable length of the model, where `truncation`
// allows it. Otherwise throws InputError for a text that is longer than that, before it is encoded if its bytes show it.
inline Encoding encode_fitting(const Context& context, std::string_view text, std::optional<std::string_view> pair,
                               bool truncation, std::optional<std::int64_t> max_length = std::nullopt) {
  const auto& [manifest, tokenizer] = context;
  if (!truncation) {
    const std::string advice = "shorten it, or set the option truncation to true to leave out the rest.";
    tokenizer.check_bytes(text, manifest.usable_length, advice);
    if (pair) tokenizer.check_bytes(*pair, manifest.usable_length, advice);
  }
  const Encoding encoding = pair ? tokenizer.encode(text, *pair) : tokenizer.encode(text);
  if (static_cast<std::int64_t>(encoding.size()) > manifest.usable_length && !truncation) {
    throw InputError("a text has " + std::to_string(encoding.size()) + " tokens, the limit of this model is " +
                     std::to_string(manifest.usable_length) +
                     ": shorten it, or set the option truncation to true to leave out the rest.");
  }
  const std::int64_t most = std::min(manifest.usable_length, max_length.value_or(manifest.usable_length));
  return truncate(encoding, most, manifest.truncation_side);
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

// Returns the index of the highest value; of equal values, the first one.
inline std::size_t index_of_highest(const float* values, std::size_t count) {
  return static_cast<std::size_t>(std::max_element(values, values + count) - values);
}

// Returns the indices of `values` in descending order of the values. Equal values keep their order.
inline std::vector<std::size_t> descending_order(const std::vector<float>& values) {
  std::vector<std::size_t> order(values.size());
  for (std::size_t at = 0; at < order.size(); ++at) order[at] = at;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
  return order;
}

}  // namespace detail
}  // namespace rpln
