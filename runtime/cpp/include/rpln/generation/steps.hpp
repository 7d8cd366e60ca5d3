// The steps of one generation: tokens in, logits out. Earlier tokens are kept in a cache, or computed again in every
// step where the graph has none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "rpln/generation/binding.hpp"
#include "rpln/generation/matrix.hpp"
#include "rpln/generation/positions.hpp"
#include "rpln/session.hpp"

namespace rpln::detail {

// What a decoder reads from its encoder: keys and values for every layer, which are computed once, with a row for each
// row of the decoder.
class CrossAttention {
 public:
  // Runs the graph `encoder` on `ids`, which are padded on the right; `mask` is 1 for real tokens.
  CrossAttention(const Session& encoder, Ids ids, Ids mask)
      : mask_(std::move(mask)),
        tensors_(std::make_unique<KeyValues>(encoder.graph(), cross_prefix)),
        spare_(std::make_unique<KeyValues>(encoder.graph(), cross_prefix)) {
    Feeds feeds;
    const std::vector<std::int64_t> shape{static_cast<std::int64_t>(ids.rows), static_cast<std::int64_t>(ids.columns)};
    for (const TensorSpec& spec : encoder.graph().inputs) {
      if (spec.name == "input_ids") feeds[spec.name] = {shape, ids.values};
      if (spec.name == "attention_mask") feeds[spec.name] = {shape, mask_.values};
      if (spec.name == "token_type_ids") feeds[spec.name] = {shape, std::vector<std::int64_t>(ids.values.size())};
    }
    FeedsCheck(feeds, encoder.graph(), encoder.manifest()).run();
    Ort::IoBinding binding(encoder.onnx_session());
    for (auto& [name, tensor] : feeds) {
      auto& values = std::get<std::vector<std::int64_t>>(tensor.values);
      binding.BindInput(name.c_str(), Ort::Value::CreateTensor<std::int64_t>(cpu_memory(), values.data(), values.size(),
                                                                             shape.data(), shape.size()));
    }
    tensors_->reshape(ids.rows, ids.columns);
    tensors_->bind_outputs(binding, cross_prefix);
    encoder.run_bound(binding);
  }

  void bind(BoundGraph& graph) {
    graph.feed("encoder_attention_mask", mask_);
    tensors_->bind_inputs(graph.binding(), cross_prefix);
  }

  void select(const std::vector<std::size_t>& rows) {
    mask_ = mask_.select(rows);
    spare_->gather(*tensors_, rows);
    std::swap(tensors_, spare_);
  }

 private:
  Ids mask_;
  std::unique_ptr<KeyValues> tensors_;
  std::unique_ptr<KeyValues> spare_;
};

// Rows that grow token by token.
class Steps {
 public:
  // `prompt` runs the prompts and `step` what follows; they may be the same session.
  Steps(const Session& prompt, const Session& step, Ids mask, const Positions& positions,
        std::optional<CrossAttention> cross)
      : mask_(std::move(mask)), positions_(positions), cross_(std::move(cross)), step_graph_(step) {
    if (step.graph().variant != "full") cache_.emplace(step.graph());
    if (&prompt != &step) prompt_graph_.emplace(prompt);
  }

  // Runs the prompts, which are padded on the left, and returns the logits of their next tokens, (rows, vocabulary).
  [[nodiscard]] Logits start(const Ids& ids) {
    counted_ = mask_;
    for (std::size_t at = 0; at < ids.values.size(); ++at) counted_.values[at] *= positions_.counts(ids.values[at]);
    ids_ = ids;
    return run(prompt_graph_ ? *prompt_graph_ : step_graph_);
  }

  // Adds a token to each row and returns the logits of the next ones.
  [[nodiscard]] Logits step(const std::vector<std::int64_t>& tokens) {
    mask_ = mask_.with_column(std::vector<std::int64_t>(tokens.size(), 1));
    std::vector<std::int64_t> counted;
    for (const std::int64_t token : tokens) counted.push_back(positions_.counts(token));
    counted_ = counted_.with_column(counted);
    ids_ = (cache_ ? Ids(tokens.size(), 0) : std::move(ids_)).with_column(tokens);
    return run(step_graph_);
  }

  // Continues with these rows only, which may be in any order and occur several times.
  void select(const std::vector<std::size_t>& rows) {
    bool all = rows.size() == mask_.rows;
    for (std::size_t at = 0; all && at < rows.size(); ++at) all = rows[at] == at;
    if (all) return;
    mask_ = mask_.select(rows);
    counted_ = counted_.select(rows);
    ids_ = ids_.select(rows);
    if (cross_) cross_->select(rows);
    if (cache_) cache_->select(rows);
  }

 private:
  Logits run(BoundGraph& graph) {
    const std::size_t rows = ids_.rows;
    const std::size_t added = ids_.columns;
    if (cache_) cache_->bind(graph.binding(), rows, added, graph.reads_cache());
    Ids positions = positions_.of_last(counted_, added);
    Ids types(rows, added);
    graph.feed("input_ids", ids_);
    graph.feed("attention_mask", mask_);
    graph.feed("position_ids", positions);
    graph.feed("token_type_ids", types);
    if (cross_) cross_->bind(graph);
    Logits logits = graph.run(rows, added);
    if (cache_) cache_->turn();
    return logits;
  }

  Ids mask_;
  Ids counted_;
  Ids ids_;  // what runs next: with a cache the new tokens alone, otherwise all tokens
  Positions positions_;
  std::optional<CrossAttention> cross_;
  BoundGraph step_graph_;
  std::optional<BoundGraph> prompt_graph_;
  std::optional<Cache> cache_;
};

}  // namespace rpln::detail
