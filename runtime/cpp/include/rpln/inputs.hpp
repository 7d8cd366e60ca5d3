// Checks the tensors that are fed to a graph. Every message names the input, the value it has and the limit.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "rpln/errors.hpp"
#include "rpln/json.hpp"
#include "rpln/manifest.hpp"
#include "rpln/tasks.hpp"
#include "rpln/tensors.hpp"

namespace rpln::detail {

class FeedsCheck {
 public:
  FeedsCheck(const Feeds& feeds, const Graph& graph, const Manifest& manifest)
      : feeds_(feeds), graph_(graph), manifest_(manifest) {}

  // Throws InputError for a name that is unknown or missing, for a wrong dtype or rank, for sizes that differ between
  // inputs or are out of range, and for ids that are out of range.
  void run() {
    check_names();
    for (const TensorSpec& spec : graph_.inputs) {
      check_type(feeds_.at(spec.name), spec);
      check_shape(feeds_.at(spec.name), spec);
    }
    for (const TensorSpec& spec : graph_.inputs) {
      if (spec.name == names::masked_positions) {
        check_values(spec, sizes_.at(std::string(names::sequence)).second);
      } else if (spec.values) {
        check_values(spec, *spec.values);
      }
    }
  }

 private:
  [[nodiscard]] std::string taken() const {
    std::vector<std::string> known;
    for (const TensorSpec& spec : graph_.inputs) known.push_back(spec.name);
    return join(known);
  }

  void check_names() const {
    for (const auto& [name, _] : feeds_) {
      if (graph_.input(name)) continue;
      throw InputError("unknown input " + in_quotes(name) + ": the graph takes " + taken() + ".");
    }
    for (const TensorSpec& spec : graph_.inputs) {
      if (feeds_.find(spec.name) == feeds_.end()) {
        throw InputError("input " + in_quotes(spec.name) + " is missing: the graph takes " + taken() + ".");
      }
    }
  }

  static void check_type(const Tensor& tensor, const TensorSpec& spec) {
    const bool integers = std::holds_alternative<std::vector<std::int64_t>>(tensor.values);
    if (integers != (spec.dtype == "int64")) {
      throw InputError(spec.name + " has dtype " + (integers ? "int64" : "float32") + ", expected " + spec.dtype + ".");
    }
    if (tensor.shape.size() != spec.shape.size()) {
      throw InputError(spec.name + " has rank " + std::to_string(tensor.shape.size()) + " (shape " +
                       shown(tensor.shape) + "), expected rank " + std::to_string(spec.shape.size()) + ": [" +
                       names_of_axes(spec.shape) + "].");
    }
    const std::size_t count = std::visit([](const auto& values) { return values.size(); }, tensor.values);
    if (std::any_of(tensor.shape.begin(), tensor.shape.end(), [](std::int64_t size) { return size < 0; }) ||
        count != elements(tensor.shape)) {
      throw InputError(spec.name + " has " + std::to_string(count) + " values, which do not fill its shape " +
                       shown(tensor.shape) + ".");
    }
  }

  // Checks that each size is that of the graph, within the limits of its axis, and that of other inputs with the axis.
  void check_shape(const Tensor& tensor, const TensorSpec& spec) {
    for (std::size_t position = 0; position < spec.shape.size(); ++position) {
      const std::int64_t size = tensor.shape[position];
      const auto* fixed = std::get_if<std::int64_t>(&spec.shape[position]);
      if (!fixed) {
        check_axis(spec.name, std::get<std::string>(spec.shape[position]), size);
      } else if (size != *fixed) {
        throw InputError(spec.name + " has size " + std::to_string(size) + " in axis " + std::to_string(position) +
                         ", expected " + std::to_string(*fixed) + ".");
      }
    }
  }

  void check_axis(const std::string& name, const std::string& axis, std::int64_t size) {
    const Axis& limits = manifest_.axes.at(axis);
    const std::string found = name + " has size " + std::to_string(size) + " in axis " + in_quotes(axis);
    if (size < limits.minimum || (limits.maximum && size > *limits.maximum)) {
      const std::string upper = limits.maximum ? std::to_string(*limits.maximum) : "unbounded";
      const bool too_long = axis == names::sequence && size > limits.minimum;
      throw InputError(found + ", expected " + std::to_string(limits.minimum) + " to " + upper + "." +
                       (too_long ? " Cut the text, or split it into windows." : ""));
    }
    const auto& [other, expected] = sizes_.emplace(axis, std::pair(name, size)).first->second;
    if (size != expected) {
      throw InputError(found + ", " + other + " has " + std::to_string(expected) + ": make them equal.");
    }
  }

  void check_values(const TensorSpec& spec, std::int64_t limit) const {
    const Tensor& tensor = feeds_.at(spec.name);
    const auto& values = std::get<std::vector<std::int64_t>>(tensor.values);
    const auto outside = std::find_if(values.begin(), values.end(),
                                      [&](std::int64_t value) { return value < 0 || value >= limit; });
    if (outside == values.end()) return;
    auto rest = static_cast<std::size_t>(outside - values.begin());
    std::vector<std::int64_t> where(tensor.shape.size());
    for (std::size_t axis = where.size(); axis-- > 0;) {
      const auto size = static_cast<std::size_t>(tensor.shape[axis]);
      where[axis] = static_cast<std::int64_t>(rest % size);
      rest /= size;
    }
    throw InputError(spec.name + " holds " + std::to_string(*outside) + " at " + shown(where) +
                     ", expected 0 to " + std::to_string(limit - 1) + ".");
  }

  const Feeds& feeds_;
  const Graph& graph_;
  const Manifest& manifest_;
  // By axis: the first input that has it, and the size it has there.
  std::map<std::string, std::pair<std::string, std::int64_t>> sizes_;
};

}  // namespace rpln::detail
