// JSON values: how they are read within limits, and how messages show them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "rpln/limits.hpp"

namespace rpln {

// Objects keep their keys in the order in which they were given.
using Json = nlohmann::ordered_json;

namespace detail {

// Thrown for bytes that are no JSON within the limits. The message says what is wrong, and not in which file.
class DocumentError final : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws DocumentError for lists and objects too deep inside each other: copying or printing them calls itself for each,
// and would overflow the stack. Texts are skipped, and what is no JSON is left to the parser.
inline void check_depth(std::string_view text, std::size_t most) {
  std::size_t depth = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char byte = text[at];
    if (byte == '"') {
      for (++at; at < text.size() && text[at] != '"'; ++at) at += text[at] == '\\' ? 1U : 0U;
    } else if (byte == '[' || byte == '{') {
      if (++depth > most) {
        throw DocumentError("it has more than " + std::to_string(most) + " lists and objects inside each other");
      }
    } else if ((byte == ']' || byte == '}') && depth > 0) {
      --depth;
    }
  }
}

// Reads JSON within the limits of its kind. Throws DocumentError for anything else.
template <class Value>
Value value_from_text(std::string_view text, const limits::Document& kind) {
  if (text.size() > kind.size) throw DocumentError("it has more than " + std::to_string(kind.size) + " bytes");
  for (const std::string_view mark : {"\xEF\xBB\xBF", "\xFF\xFE", "\xFE\xFF"}) {
    if (text.substr(0, mark.size()) == mark) {
      throw DocumentError("it begins with a byte order mark, expected UTF-8 without one");
    }
  }
  check_depth(text, kind.depth);
  try {
    return Value::parse(text);
  } catch (const typename Value::exception& error) {
    throw DocumentError(error.what());
  }
}

// Reads a file. Throws DocumentError for one that cannot be read or has more than `most` bytes.
inline std::string read_text(const std::filesystem::path& path, std::size_t most) {
  std::ifstream stream(path, std::ios::binary);
  std::string text;
  std::string block(std::size_t{1} << 16U, '\0');
  while (stream.read(block.data(), static_cast<std::streamsize>(block.size())) || stream.gcount() > 0) {
    text.append(block, 0, static_cast<std::size_t>(stream.gcount()));
    if (text.size() > most) throw DocumentError("it has more than " + std::to_string(most) + " bytes");
  }
  if (!stream.eof()) throw DocumentError("it cannot be read");
  return text;
}

inline std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ") {
  std::string joined;
  for (const std::string& part : parts) {
    if (&part != &parts.front()) joined += separator;
    joined += part;
  }
  return joined;
}

// Returns a value as JSON for a message. What is long or lies inside other values is shortened.
inline std::string shown(const Json& value, bool inside = false) {
  constexpr std::size_t most_items = 40;
  constexpr std::size_t most_bytes = 200;
  const bool is_object = value.is_object();
  if (!value.is_structured()) {
    const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text.size() <= most_bytes) return text;
    std::size_t end = most_bytes;
    while ((static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;  // not within a character
    return text.substr(0, end) + "...";
  }
  if (inside) return is_object ? "{...}" : "[...]";
  std::vector<std::string> parts;
  for (const auto& [key, item] : value.items()) {
    if (parts.size() == most_items) {
      parts.emplace_back("...");
      break;
    }
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
