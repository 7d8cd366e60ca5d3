// Which row of the position table each token of a batch gets. rpln_runtime/generation/positions.py explains why there
// are two schemes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "rpln/generation/matrix.hpp"
#include "rpln/manifest.hpp"

namespace rpln::detail {

class Positions {
 public:
  Positions(const std::string& scheme, const Generation& generation)
      : first_(generation.first_position), padding_(generation.pad_position), skipped_(generation.pad_position) {
    // With an encoder, transformers' generate counts as forward does, too.
    if (scheme == "transformers-generate" && !generation.start_token_id) {
      first_ = 0;
      padding_ = 0;
      skipped_.reset();
    }
  }

  // Returns 1 for a token that counts, and 0 for one whose id means padding.
  [[nodiscard]] std::int64_t counts(std::int64_t id) const { return id == skipped_ ? 0 : 1; }

  // Returns the positions of the last `count` tokens of each row. Tokens that count are numbered one after the other.
  [[nodiscard]] Ids of_last(const Ids& counted, std::size_t count) const {
    Ids positions(counted.rows, count);
    const std::size_t before = counted.columns - count;
    for (std::size_t row = 0; row < counted.rows; ++row) {
      std::int64_t sum = 0;
      for (std::size_t at = 0; at < counted.columns; ++at) {
        sum += counted.row(row)[at];
        if (at >= before) positions.row(row)[at - before] = counted.row(row)[at] ? sum + first_ - 1 : padding_;
      }
    }
    return positions;
  }

 private:
  std::int64_t first_;
  std::int64_t padding_;
  std::optional<std::int64_t> skipped_;
};

}  // namespace rpln::detail
