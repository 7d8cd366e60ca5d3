// JSON, and how Python would print it: messages quote values as those of the Python runtime do.
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rpln {

// Keys keep the order in which they were given, as Python's dicts do.
using Json = nlohmann::ordered_json;

namespace detail {

// Deeper values are cut short: a message is for people, and a document may be hostile.
inline constexpr int deepest_repr = 20;

inline std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ") {
  std::string joined;
  for (const std::string& part : parts) {
    if (&part != &parts.front()) joined += separator;
    joined += part;
  }
  return joined;
}

// Python's repr() of a text; of what is not ASCII, everything counts as printable.
inline std::string repr(std::string_view text) {
  const bool double_quotes = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string quoted(1, quote);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == quote || c == '\\') {
      quoted += {'\\', c};
    } else if (c == '\n' || c == '\r' || c == '\t') {
      quoted += {'\\', c == '\n' ? 'n' : c == '\r' ? 'r' : 't'};
    } else if (byte < 0x20 || byte == 0x7F) {
      constexpr std::string_view digits = "0123456789abcdef";
      quoted += {'\\', 'x', digits[byte >> 4U], digits[byte & 15U]};
    } else {
      quoted += c;
    }
  }
  return quoted + quote;
}

// That of a value.
inline std::string repr_value(const Json& value, int depth = 0) {
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_string()) return repr(value.get_ref<const std::string&>());
  if (!value.is_structured()) return value.dump();
  if (depth == deepest_repr) return "...";
  std::vector<std::string> parts;
  for (const auto& [key, item] : value.items()) {
    const std::string shown = repr_value(item, depth + 1);
    parts.push_back(value.is_object() ? repr(key) + ": " + shown : shown);
  }
  return value.is_object() ? "{" + join(parts) + "}" : "[" + join(parts) + "]";
}

inline std::string repr_list(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  for (std::string& name : names) name = repr(name);
  return "[" + join(names) + "]";
}

// 1234567 -> "1,234,567"
inline std::string with_thousands(std::intmax_t number) {
  std::string digits = std::to_string(number);
  const std::size_t sign = number < 0 ? 1 : 0;
  for (std::size_t at = digits.size(); at > 3 + sign; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

// What Python calls the type of a value.
inline std::string type_name(const Json& value) {
  if (value.is_null()) return "NoneType";
  if (value.is_boolean()) return "bool";
  if (value.is_number_integer()) return "int";
  if (value.is_number()) return "float";
  if (value.is_string()) return "str";
  return value.is_array() ? "list" : "dict";
}

}  // namespace detail
}  // namespace rpln
