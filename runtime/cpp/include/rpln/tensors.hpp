// Arrays that go into a graph, and rows that come out of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rpln {

// An input, its values in C order. Graphs that take fp16 get it from floats.
struct Tensor {
  std::vector<std::int64_t> shape;
  std::variant<std::vector<std::int64_t>, std::vector<float>> values;
};

// An array for every input, by name.
using Feeds = std::map<std::string, Tensor>;

// Some rows of an output, in fp32: a view, which lives as long as the output does.
struct Rows {
  const float* data = nullptr;
  std::size_t count = 0;
  std::size_t columns = 0;

  [[nodiscard]] const float* operator[](std::size_t row) const { return data + row * columns; }
};

namespace detail {

inline std::size_t elements(const std::vector<std::int64_t>& shape, std::size_t from = 0) {
  std::size_t count = 1;
  for (std::size_t axis = from; axis < shape.size(); ++axis) count *= static_cast<std::size_t>(shape[axis]);
  return count;
}

// (2, 3), and (2,) with the comma that Python's tuples of one have.
inline std::string repr_shape(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) text += (axis ? ", " : "") + std::to_string(shape[axis]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace detail
}  // namespace rpln
