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

// An input of a graph. Its values are in C order; floats are converted for graphs that take fp16.
struct Tensor {
  std::vector<std::int64_t> shape;
  std::variant<std::vector<std::int64_t>, std::vector<float>> values;
};

// The tensor for every input of a graph, by name.
using Feeds = std::map<std::string, Tensor>;

// Some rows of an output, in fp32. They are a view, and must not be used after the output is gone.
struct Rows {
  const float* data = nullptr;
  std::size_t count = 0;
  std::size_t columns = 0;

  [[nodiscard]] const float* operator[](std::size_t row) const { return data + row * columns; }
};

namespace detail {

// How many elements a tensor of this shape has, counting the axes from `from` on.
inline std::size_t elements(const std::vector<std::int64_t>& shape, std::size_t from = 0) {
  std::size_t count = 1;
  for (std::size_t axis = from; axis < shape.size(); ++axis) count *= static_cast<std::size_t>(shape[axis]);
  return count;
}

}  // namespace detail
}  // namespace rpln
