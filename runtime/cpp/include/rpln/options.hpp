// Options by name, as JSON: every refusal names the option, its value and what was expected.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rpln/errors.hpp"
#include "rpln/json.hpp"

namespace rpln::detail {

inline void check_integer(const std::string& name, const Json& value, std::int64_t minimum,
                          std::optional<std::int64_t> maximum = std::nullopt) {
  const bool fits = value.is_number_integer() && value.get<std::int64_t>() >= minimum &&
                    (!maximum || value.get<std::int64_t>() <= *maximum);
  if (fits) return;
  const std::string upper = maximum ? "to " + std::to_string(*maximum) : "or more";
  throw InputError(name + " is " + repr_value(value) + ", expected an integer, " + std::to_string(minimum) + " " +
                   upper + ".");
}

// The options of one call. Each has its default, where it is not given.
class Options {
 public:
  // Throws InputError for an option that is not `known`; `owner` says whose options they are.
  Options(const Json& given, const std::vector<std::string>& known, const std::string& owner) : given_(given) {
    for (const auto& [name, _] : given.items()) {
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        throw InputError("unknown option " + repr(name) + " " + owner + ": expected one of " + join(known) + ".");
      }
    }
  }

  // The value as it was given, null where it was not.
  [[nodiscard]] Json value(const std::string& name) const { return given_.contains(name) ? given_[name] : Json(); }
  [[nodiscard]] bool has(const std::string& name) const { return given_.contains(name); }

  [[nodiscard]] std::int64_t integer(const std::string& name, std::int64_t otherwise, std::int64_t minimum,
                                     std::optional<std::int64_t> maximum = std::nullopt) const {
    if (!has(name)) return otherwise;
    check_integer(name, given_[name], minimum, maximum);
    return given_[name].get<std::int64_t>();
  }

  // An option that may be null, too.
  [[nodiscard]] std::optional<std::int64_t> optional_integer(const std::string& name, std::int64_t minimum,
                                                             std::optional<std::int64_t> maximum = std::nullopt) const {
    return value(name).is_null() ? std::nullopt : std::optional(integer(name, 0, minimum, maximum));
  }

  [[nodiscard]] bool boolean(const std::string& name, bool otherwise) const {
    if (!has(name)) return otherwise;
    if (!given_[name].is_boolean()) {
      throw InputError(name + " is " + repr_value(given_[name]) + ", expected True or False.");
    }
    return given_[name].get<bool>();
  }

  [[nodiscard]] double number(const std::string& name, double otherwise, const Json& minimum,
                              const Json& maximum) const {
    if (!has(name)) return otherwise;
    const Json& found = given_[name];
    if (found.is_number() && found >= minimum && found <= maximum) return found.get<double>();
    throw InputError(name + " is " + repr_value(found) + ", expected a number from " + minimum.dump() + " to " +
                     maximum.dump() + ".");
  }

  [[nodiscard]] std::string text(const std::string& name) const {
    if (!value(name).is_string()) throw InputError(name + " is " + repr_value(value(name)) + ", expected a text.");
    return value(name).get<std::string>();
  }

  [[nodiscard]] std::string choice(const std::string& name, const std::string& otherwise,
                                   const std::vector<std::string>& choices) const {
    if (!has(name)) return otherwise;
    const Json& found = given_[name];
    for (const std::string& one : choices) {
      if (found == one) return one;
    }
    std::vector<std::string> shown;
    for (const std::string& one : choices) shown.push_back(repr(one));
    throw InputError(name + " is " + repr_value(found) + ", expected one of " + join(shown) + ".");
  }

 private:
  const Json& given_;
};

}  // namespace rpln::detail
