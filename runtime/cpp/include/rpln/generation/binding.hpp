// Tensors that stay in place from step to step. ONNX Runtime gets their memory ("IO binding"), so that one run writes
// what the next run reads, and nothing is copied in between.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rpln/batching.hpp"
#include "rpln/errors.hpp"
#include "rpln/generation/matrix.hpp"
#include "rpln/json.hpp"
#include "rpln/manifest.hpp"
#include "rpln/session.hpp"

namespace rpln::detail {

inline constexpr std::string_view past_prefix = "past_key_values.";
inline constexpr std::string_view present_prefix = "present.";
inline constexpr std::string_view cross_prefix = "cross_key_values.";

inline bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

inline Ort::MemoryInfo cpu_memory() { return Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault); }

// The keys or the values of one layer, an array (rows, heads, tokens, head size) of any floating-point type. They are
// only moved here, so their bytes are enough.
class CacheTensor {
 public:
  CacheTensor(const TensorSpec& spec, std::string_view prefix, const std::string& graph)
      : name_(spec.name.substr(prefix.size())) {
    const auto* heads = spec.shape.size() == 4 ? std::get_if<std::int64_t>(&spec.shape[1]) : nullptr;
    const auto* size = spec.shape.size() == 4 ? std::get_if<std::int64_t>(&spec.shape[3]) : nullptr;
    type_ = spec.dtype == "float32"    ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
            : spec.dtype == "float16"  ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
            : spec.dtype == "bfloat16" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16
                                       : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    if (!heads || !size || type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED) {
      throw ManifestError(spec.name + " of " + graph + " is " + spec.dtype +
                          ", expected one of float32, float16, bfloat16 of shape (batch, heads, tokens, head_size) "
                          "with fixed heads and head_size. Export the checkpoint again.");
    }
    heads_ = *heads;
    size_ = *size;
  }

  [[nodiscard]] const std::string& name() const { return name_; }

  // Sets the size. The values are undefined afterwards. Memory at least doubles when it grows, so that it seldom does.
  void reshape(std::size_t rows, std::size_t tokens) {
    rows_ = rows;
    tokens_ = tokens;
    const std::size_t bytes = std::max<std::size_t>(rows * bytes_per_row(), 1);
    if (bytes > memory_.size()) memory_.resize(std::max(bytes, 2 * memory_.size()));
  }

  // Returns a view that a graph can read or write.
  [[nodiscard]] Ort::Value value() {
    const std::array<std::int64_t, 4> shape{static_cast<std::int64_t>(rows_), heads_,
                                            static_cast<std::int64_t>(tokens_), size_};
    return Ort::Value::CreateTensor(cpu_memory(), memory_.data(), rows_ * bytes_per_row(), shape.data(), shape.size(),
                                    type_);
  }

  // Copies these rows of `source` to this tensor.
  void gather(const CacheTensor& source, const std::vector<std::size_t>& rows) {
    reshape(rows.size(), source.tokens_);
    const std::size_t bytes = bytes_per_row();
    for (std::size_t at = 0; at < rows.size(); ++at) {
      if (bytes) std::memcpy(memory_.data() + at * bytes, source.memory_.data() + rows[at] * bytes, bytes);
    }
  }

 private:
  [[nodiscard]] std::size_t bytes_per_row() const {
    const std::size_t element = type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4 : 2;
    return static_cast<std::size_t>(heads_ * size_) * tokens_ * element;
  }

  std::string name_;
  ONNXTensorElementDataType type_;
  std::int64_t heads_ = 0;
  std::int64_t size_ = 0;
  std::size_t rows_ = 0;
  std::size_t tokens_ = 0;
  std::vector<char> memory_;
};

// The keys and values of all layers.
class KeyValues {
 public:
  // Takes the tensors of `graph` whose names start with `prefix`.
  KeyValues(const Graph& graph, std::string_view prefix) {
    for (const auto* side : {&graph.inputs, &graph.outputs}) {
      for (const TensorSpec& spec : *side) {
        if (starts_with(spec.name, prefix)) tensors_.emplace_back(spec, prefix, graph.path);
      }
    }
  }

  void reshape(std::size_t rows, std::size_t tokens) {
    for (CacheTensor& tensor : tensors_) tensor.reshape(rows, tokens);
  }

  void bind_inputs(Ort::IoBinding& binding, std::string_view prefix) {
    for (CacheTensor& tensor : tensors_) {
      binding.BindInput((std::string(prefix) + tensor.name()).c_str(), tensor.value());
    }
  }

  void bind_outputs(Ort::IoBinding& binding, std::string_view prefix) {
    for (CacheTensor& tensor : tensors_) {
      binding.BindOutput((std::string(prefix) + tensor.name()).c_str(), tensor.value());
    }
  }

  void gather(const KeyValues& source, const std::vector<std::size_t>& rows) {
    for (std::size_t at = 0; at < tensors_.size(); ++at) tensors_[at].gather(source.tensors_[at], rows);
  }

 private:
  std::vector<CacheTensor> tensors_;
};

// The cache of keys and values. There are two sets of them: a step reads one and writes the other, then they change
// places.
class Cache {
 public:
  explicit Cache(const Graph& graph) : current_(graph, present_prefix), spare_(graph, present_prefix) {}

  // Binds what a graph writes: the cache, longer by `added` tokens. With `reads`, binds also what it reads: the cache
  // as it is.
  void bind(Ort::IoBinding& binding, std::size_t rows, std::size_t added, bool reads) {
    if (reads) {
      if (length_ == 0) current_.reshape(rows, 0);
      current_.bind_inputs(binding, past_prefix);
    }
    spare_.reshape(rows, length_ + added);
    spare_.bind_outputs(binding, present_prefix);
    next_length_ = length_ + added;
  }

  // Makes what the graph has written the current cache.
  void turn() {
    std::swap(current_, spare_);
    length_ = next_length_;
  }

  void select(const std::vector<std::size_t>& rows) {
    spare_.gather(current_, rows);
    std::swap(current_, spare_);
  }

 private:
  KeyValues current_;
  KeyValues spare_;
  std::size_t length_ = 0;
  std::size_t next_length_ = 0;
};

// The graph of a decoder for the time of one generation, with its inputs and its logits bound.
class BoundGraph {
 public:
  explicit BoundGraph(const Session& session) : session_(session), binding_(session.onnx_session()) {
    const TensorSpec* logits = session.graph().output("logits");
    const auto* steps = logits && logits->shape.size() == 3 ? std::get_if<std::int64_t>(&logits->shape[1]) : nullptr;
    const auto* size = logits && logits->shape.size() == 3 ? std::get_if<std::int64_t>(&logits->shape[2]) : nullptr;
    if (!size) throw ManifestError(session.graph().path + " gives no logits. Export the checkpoint again.");
    last_only_ = steps && *steps == 1;
    halves_ = logits->dtype == "float16";
    vocabulary_ = static_cast<std::size_t>(*size);
  }

  [[nodiscard]] Ort::IoBinding& binding() { return binding_; }

  [[nodiscard]] bool reads_cache() const {
    for (const TensorSpec& spec : session_.graph().inputs) {
      if (starts_with(spec.name, past_prefix)) return true;
    }
    return false;
  }

  // Binds `ids` to the input `name`, if the graph has one. They must stay in place until the graph has run.
  void feed(const char* name, Ids& ids) {
    if (!session_.graph().input(name)) return;
    const std::array<std::int64_t, 2> shape{static_cast<std::int64_t>(ids.rows),
                                            static_cast<std::int64_t>(ids.columns)};
    binding_.BindInput(name, Ort::Value::CreateTensor<std::int64_t>(cpu_memory(), ids.values.data(), ids.values.size(),
                                                                    shape.data(), shape.size()));
  }

  // Runs the graph and returns the logits of the last of the `added` tokens, an array (rows, vocabulary).
  [[nodiscard]] Logits run(std::size_t rows, std::size_t added) {
    feed_ones();
    const std::size_t steps = last_only_ ? 1 : added;
    const std::array<std::int64_t, 3> shape{static_cast<std::int64_t>(rows), static_cast<std::int64_t>(steps),
                                            static_cast<std::int64_t>(vocabulary_)};
    const std::size_t element = halves_ ? sizeof(Ort::Float16_t) : sizeof(float);
    memory_.resize(rows * steps * vocabulary_ * element);
    binding_.BindOutput("logits", Ort::Value::CreateTensor(cpu_memory(), memory_.data(), memory_.size(), shape.data(),
                                                           shape.size(),
                                                           halves_ ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
                                                                   : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
    session_.run_bound(binding_);
    Logits last(rows, vocabulary_);
    for (std::size_t row = 0; row < rows; ++row) read_row((row * steps + steps - 1) * vocabulary_, last.row(row));
    return last;
  }

 private:
  // Binds ones to inputs of fixed size, which are head_mask: every head takes part.
  void feed_ones() {
    if (fed_ones_) return;
    fed_ones_ = true;
    for (const TensorSpec& spec : session_.graph().inputs) {
      const std::optional<Tensor> ones = ones_of_fixed(spec);
      if (!ones) continue;
      if (spec.dtype != "float32") throw InputError(spec.name + " is " + spec.dtype + ", expected float32.");
      std::vector<float>& kept = ones_.emplace_back(std::get<std::vector<float>>(ones->values));
      binding_.BindInput(spec.name.c_str(), Ort::Value::CreateTensor<float>(cpu_memory(), kept.data(), kept.size(),
                                                                            ones->shape.data(), ones->shape.size()));
    }
  }

  void read_row(std::size_t at, float* row) const {
    if (!halves_) {
      std::memcpy(row, memory_.data() + at * sizeof(float), vocabulary_ * sizeof(float));
      return;
    }
    for (std::size_t column = 0; column < vocabulary_; ++column) {
      Ort::Float16_t half;
      std::memcpy(&half, memory_.data() + (at + column) * sizeof half, sizeof half);
      row[column] = half.ToFloat();
    }
  }

  const Session& session_;
  Ort::IoBinding binding_;
  bool last_only_ = false;
  bool halves_ = false;
  bool fed_ones_ = false;
  std::size_t vocabulary_ = 0;
  std::vector<char> memory_;
  std::vector<std::vector<float>> ones_;
};

}  // namespace rpln::detail
