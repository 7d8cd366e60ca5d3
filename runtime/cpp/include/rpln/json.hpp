// JSON values, and how messages show them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rpln {

// Objects keep their keys in the order in which they were given.
using Json = nlohmann::ordered_json;

namespace detail {

inline std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ") {
  std::string joined;
  for (const std::string& part : parts) {
    if (&part != &parts.front()) joined += separator;
    joined += part;
  }
  return joined;
}

// Returns a value as JSON. Lists and objects inside another one are shortened, because documents may nest them deeply.
inline std::string shown(const Json& value, bool inside = false) {
  const bool is_object = value.is_object();
  if (!value.is_structured()) return value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (inside) return is_object ? "{...}" : "[...]";
  std::vector<std::string> parts;
  for (const auto& [key, item] : value.items()) {
    parts.push_back((is_object ? shown(key) + ": " : std::string()) + shown(item, true));
  }
  return is_object ? "{" + join(parts) + "}" : "[" + join(parts) + "]";
}

// Returns a name in double quotes. Bytes that are not UTF-8 are replaced.
inline std::string in_quotes(std::string_view name) { return shown(Json(name)); }

// Returns the kind of a value with its article, such as "a list".
inline std::string kind_of(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "a boolean";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a text";
  return value.is_array() ? "a list" : "an object";
}

}  // namespace detail
}  // namespace rpln
