// Reads options from JSON. Every message names the option, its value and what was expected.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rpln/errors.hpp"
#include "rpln/json.hpp"

namespace rpln::detail {

// Whether a number is larger than the integers of 64 bits. The parser makes a fraction of one beyond 2^64.
inline bool is_too_large(const Json& value) {
  if (value.is_number_unsigned()) return value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max();
  return value.is_number_float() && value.get<double>() >= 0x1p63;
}

// Throws InputError unless `value` is an integer from `minimum` to `maximum`, or else to the largest of 64 bits.
inline void check_integer(const std::string& name, const Json& value, std::int64_t minimum,
                          std::optional<std::int64_t> maximum = std::nullopt) {
  const std::int64_t most = maximum.value_or(std::numeric_limits<std::int64_t>::max());
  const bool fits = value.is_number_integer() && !is_too_large(value) && value.get<std::int64_t>() >= minimum &&
                    value.get<std::int64_t>() <= most;
  if (fits) return;
  const std::string upper = maximum || is_too_large(value) ? "to " + std::to_string(most) : "or more";
  throw InputError(name + " is " + shown(value) + ", expected an integer, " + std::to_string(minimum) + " " +
                   upper + ".");
}

// The options of one call. An option that was not given has its default.
class Options {
 public:
  // Throws InputError for an option that is not `known`. `owner` ends the message: "unknown option NAME OWNER".
  Options(const Json& given, const std::vector<std::string>& known, const std::string& owner) : given_(given) {
    for (const auto& [name, _] : given.items()) {
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        throw InputError("unknown option " + in_quotes(name) + " " + owner + ": expected one of " + join(known) + ".");
      }
    }
  }

  // Returns the value that was given, or null where none was.
  [[nodiscard]] Json value(const std::string& name) const { return given_.contains(name) ? given_[name] : Json(); }
  [[nodiscard]] bool has(const std::string& name) const { return given_.contains(name); }

  [[nodiscard]] std::int64_t integer(const std::string& name, std::int64_t otherwise, std::int64_t minimum,
                                     std::optional<std::int64_t> maximum = std::nullopt) const {
    if (!has(name)) return otherwise;
    check_integer(name, given_[name], minimum, maximum);
    return given_[name].get<std::int64_t>();
  }

  // The same for an option that may be null.
  [[nodiscard]] std::optional<std::int64_t> optional_integer(const std::string& name, std::int64_t minimum,
                                                             std::optional<std::int64_t> maximum = std::nullopt) const {
    return value(name).is_null() ? std::nullopt : std::optional(integer(name, 0, minimum, maximum));
  }

  [[nodiscard]] bool boolean(const std::string& name, bool otherwise) const {
    if (!has(name)) return otherwise;
    if (!given_[name].is_boolean()) {
      throw InputError(name + " is " + shown(given_[name]) + ", expected true or false.");
    }
    return given_[name].get<bool>();
  }

  [[nodiscard]] double number(const std::string& name, double otherwise, const Json& minimum,
                              const Json& maximum) const {
    if (!has(name)) return otherwise;
    const Json& found = given_[name];
    if (found.is_number() && found >= minimum && found <= maximum) return found.get<double>();
    throw InputError(name + " is " + shown(found) + ", expected a number from " + minimum.dump() + " to " +
                     maximum.dump() + ".");
  }

  [[nodiscard]] std::string text(const std::string& name) const {
    if (!value(name).is_string()) throw InputError(name + " is " + shown(value(name)) + ", expected a text.");
    return value(name).get<std::string>();
  }

  [[nodiscard]] std::string choice(const std::string& name, const std::string& otherwise,
                                   const std::vector<std::string>& choices) const {
    if (!has(name)) return otherwise;
    const Json& found = given_[name];
    for (const std::string& one : choices) {
      if (found == one) return one;
    }
    throw InputError(name + " is " + shown(found) + ", expected one of " + join(choices) + ".");
  }

 private:
  const Json& given_;
};

}  // namespace rpln::detail
