// A matrix of values, stored row by row.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rpln::detail {

template <class Value>
struct Matrix {
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::vector<Value> values;

  Matrix() = default;
  Matrix(std::size_t row_count, std::size_t column_count, Value fill = {})
      : rows(row_count), columns(column_count), values(row_count * column_count, fill) {}

  [[nodiscard]] Value* row(std::size_t at) { return values.data() + at * columns; }
  [[nodiscard]] const Value* row(std::size_t at) const { return values.data() + at * columns; }

  // Returns the matrix of the `chosen` rows, which may be in any order and occur several times.
  [[nodiscard]] Matrix select(const std::vector<std::size_t>& chosen) const {
    Matrix found(0, columns);
    found.rows = chosen.size();
    found.values.reserve(chosen.size() * columns);
    for (const std::size_t at : chosen) found.values.insert(found.values.end(), row(at), row(at) + columns);
    return found;
  }

  // Returns the matrix with one more value at the end of each row.
  [[nodiscard]] Matrix with_column(const std::vector<Value>& added) const {
    Matrix found(rows, columns + 1);
    for (std::size_t at = 0; at < rows; ++at) {
      std::copy(row(at), row(at) + columns, found.row(at));
      found.row(at)[columns] = added[at];
    }
    return found;
  }
};

using Ids = Matrix<std::int64_t>;
using Logits = Matrix<float>;

}  // namespace rpln::detail
