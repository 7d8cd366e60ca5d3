// Batches of rows of similar length, so that there is little padding, and memory has a limit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "rpln/errors.hpp"
#include "rpln/json.hpp"
#include "rpln/manifest.hpp"
#include "rpln/session.hpp"
#include "rpln/tasks.hpp"
#include "rpln/tensors.hpp"
#include "rpln/tokenizer/encoding.hpp"

namespace rpln {

// Splits the indices of `lengths` into batches of at most `batch_size` rows and `batch_tokens` tokens with padding.
// The longest rows come first, so that the first batch needs the most memory. A row that is longer than `batch_tokens`
// is a batch of its own.
inline std::vector<std::vector<std::size_t>> batches(const std::vector<std::int64_t>& lengths, std::int64_t batch_size,
                                                     std::int64_t batch_tokens) {
  std::vector<std::size_t> order(lengths.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return lengths[a] > lengths[b]; });
  std::vector<std::vector<std::size_t>> found;
  for (auto start = order.begin(); start != order.end();) {
    const std::int64_t longest = std::max<std::int64_t>(lengths[*start], 1);
    const std::int64_t rows = std::max<std::int64_t>(std::min(batch_size, batch_tokens / longest), 1);
    const auto end = start + std::min<std::int64_t>(rows, order.end() - start);
    found.emplace_back(start, end);
    start = end;
  }
  return found;
}

namespace detail {

// A batch that is larger than this is no quicker.
inline constexpr std::int64_t most_tokens = 4096;
inline constexpr std::int64_t most_output_bytes = std::int64_t{1} << 28U;

inline std::int64_t bytes_of_dtype(const std::string& dtype) {
  return dtype == "int64" ? 8 : dtype == "float32" ? 4 : 2;
}

// Returns how many tokens, padding included, a batch may hold so that the outputs `specs` need at most 256 MiB.
inline std::int64_t token_budget(const std::vector<TensorSpec>& specs, std::int64_t usable_length) {
  std::int64_t per_token = 0;
  for (const TensorSpec& spec : specs) {
    if (!spec.has_axis(names::sequence)) continue;
    std::int64_t bytes = bytes_of_dtype(spec.dtype);
    for (std::size_t axis = 2; axis < spec.shape.size(); ++axis) {
      const auto* size = std::get_if<std::int64_t>(&spec.shape[axis]);
      bytes *= size ? *size : usable_length;
    }
    per_token += bytes;
  }
  return std::min(most_tokens, most_output_bytes / std::max<std::int64_t>(per_token, 1));
}

// Returns the places of the mask tokens in a row.
inline std::vector<std::int64_t> masks_of(const Encoding& encoding, const Manifest& manifest) {
  std::vector<std::int64_t> places;
  for (std::size_t at = 0; at < encoding.size(); ++at) {
    if (manifest.mask_token_id && encoding[at].id == *manifest.mask_token_id) {
      places.push_back(static_cast<std::int64_t>(at));
    }
  }
  return places;
}

// Rows that run together, or wait to.
using BatchRows = std::vector<const Encoding*>;

// Returns as how many tokens each row counts in a batch. It is the number of its tokens, or more where the logits of
// its masks need more memory.
inline std::vector<std::int64_t> costs_from_rows(const BatchRows& rows, const std::vector<TensorSpec>& specs,
                                                 const Manifest& manifest) {
  std::int64_t per_mask = 0;
  for (const TensorSpec& spec : specs) {
    if (!spec.has_axis(names::masks) && !spec.has_axis(names::masked_tokens)) continue;
    std::int64_t bytes = bytes_of_dtype(spec.dtype);
    for (const Dimension& dimension : spec.shape) {
      if (const auto* size = std::get_if<std::int64_t>(&dimension)) bytes *= *size;
    }
    per_mask += bytes;
  }
  const double tokens_per_mask = static_cast<double>(per_mask * most_tokens) / static_cast<double>(most_output_bytes);
  std::vector<std::int64_t> costs;
  for (const Encoding* row : rows) {
    const auto masks = per_mask ? static_cast<double>(masks_of(*row, manifest).size()) : 0;
    costs.push_back(std::max(static_cast<std::int64_t>(row->size()),
                             static_cast<std::int64_t>(std::ceil(masks * tokens_per_mask))));
  }
  return costs;
}

// Returns a tensor (rows, longest row) with a value for every token, padded with `fill` on the right.
template <class ValueOf>
Tensor padded(const BatchRows& rows, std::int64_t fill, ValueOf&& value_of) {
  std::size_t width = 0;
  for (const Encoding* row : rows) width = std::max(width, row->size());
  std::vector<std::int64_t> values(rows.size() * width, fill);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    for (std::size_t at = 0; at < rows[row]->size(); ++at) values[row * width + at] = value_of((*rows[row])[at]);
  }
  return {{static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(width)}, std::move(values)};
}

// Returns position ids. RoBERTa numbers real tokens from pad_token_id + 1, and gives padding pad_token_id.
inline Tensor positions_from_rows(const BatchRows& rows, std::int64_t pad) {
  Tensor ids = padded(rows, pad, [](const Token& token) { return token.id; });
  auto& values = std::get<std::vector<std::int64_t>>(ids.values);
  const auto width = static_cast<std::size_t>(ids.shape[1]);
  std::int64_t counted = 0;
  for (std::size_t at = 0; at < values.size(); ++at) {
    if (at % width == 0) counted = 0;
    const bool real = values[at] != pad;
    counted += real ? 1 : 0;
    values[at] = real ? counted + pad : pad;
  }
  return ids;
}

inline Tensor masked_positions_from_rows(const BatchRows& rows, const Manifest& manifest) {
  std::vector<std::vector<std::int64_t>> places;
  std::size_t width = 0;
  for (const Encoding* row : rows) {
    places.push_back(masks_of(*row, manifest));
    width = std::max(width, places.back().size());
  }
  std::vector<std::int64_t> values(rows.size() * width);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    std::copy(places[row].begin(), places[row].end(), values.begin() + static_cast<std::ptrdiff_t>(row * width));
  }
  return {{static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(width)}, std::move(values)};
}

// Returns a tensor of ones for an input whose sizes are all fixed, or none for any other input. Such an input is
// head_mask, in which a one lets a head take part.
inline std::optional<Tensor> ones_of_fixed(const TensorSpec& spec) {
  Tensor tensor;
  for (const Dimension& dimension : spec.shape) {
    const auto* size = std::get_if<std::int64_t>(&dimension);
    if (!size) return std::nullopt;
    tensor.shape.push_back(*size);
  }
  if (spec.dtype == "int64") {
    tensor.values = std::vector<std::int64_t>(elements(tensor.shape), 1);
  } else {
    tensor.values = std::vector<float>(elements(tensor.shape), 1);
  }
  return tensor;
}

inline Tensor tensor_from_rows(const BatchRows& rows, const TensorSpec& spec, const Manifest& manifest) {
  const std::int64_t pad = manifest.pad_token_id;
  if (std::optional<Tensor> ones = ones_of_fixed(spec)) return *std::move(ones);
  if (spec.name == "input_ids") return padded(rows, pad, [](const Token& token) { return token.id; });
  if (spec.name == "attention_mask") return padded(rows, 0, [](const Token&) { return std::int64_t{1}; });
  if (spec.name == "token_type_ids") {
    return padded(rows, 0, [&](const Token& token) { return manifest.token_types ? token.type : std::int64_t{0}; });
  }
  if (spec.name == "position_ids") return positions_from_rows(rows, pad);
  if (spec.name == names::masked_positions) return masked_positions_from_rows(rows, manifest);
  throw InputError("the graph takes " + in_quotes(spec.name) +
                   ", which cannot be made from text: use rpln::Session, or export without it.");
}

// Returns a tensor for every input of `graph`. The tensors of multiple choice, (batch, choices, sequence), have one
// choice in each row, because the graph scores every choice alone. Throws InputError for an input that cannot be made
// from text.
inline Feeds feeds_from_rows(const BatchRows& rows, const Graph& graph, const Manifest& manifest) {
  Feeds feeds;
  for (const TensorSpec& spec : graph.inputs) {
    Tensor tensor = tensor_from_rows(rows, spec, manifest);
    if (spec.has_axis(names::choices)) tensor.shape.insert(tensor.shape.begin() + 1, 1);
    feeds.emplace(spec.name, std::move(tensor));
  }
  return feeds;
}

// Returns the rows of an output that belong to row `index` of a batch, without padding. `masks` and `masks_before`
// count the mask tokens of this row and of the rows before it.
inline Rows rows_from_output(const Output& output, const TensorSpec& spec, std::size_t index, std::size_t tokens,
                             std::size_t masks, std::size_t masks_before) {
  const std::vector<std::int64_t>& shape = output.shape();
  if (spec.has_axis(names::masked_tokens)) {
    const std::size_t columns = elements(shape, 1);
    return {output.data() + masks_before * columns, masks, columns};
  }
  const float* data = output.data() + index * elements(shape, 1);
  if (spec.has_axis(names::sequence)) return {data, tokens, elements(shape, 2)};
  if (spec.has_axis(names::masks)) return {data, masks, elements(shape, 2)};
  return {data, 1, elements(shape, 1)};
}

}  // namespace detail
}  // namespace rpln
