// JSON read as a type, strictly: every key there, none besides, every value of its type.
//
// Schema<T> reads a T, and knows what Python calls that type: messages are those of the Python runtime. A struct names
// itself in `type_name` and its fields, in order, in a static `visit(row, field)`.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "rpln/json.hpp"

namespace rpln::detail {

// A value is not of its type. The message names the place in the document.
class SchemaError final : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void refuse(const Json& value, const std::string& where, const std::string& expected) {
  throw SchemaError(where + " is " + repr_value(value) + ", expected " + expected);
}

template <class Row>
struct Schema {
  static std::string name() { return "rpln_runtime.manifest." + std::string(Row::type_name); }

  static Row read(const Json& value, const std::string& where) {
    Row row;
    check_keys(row, value, where);
    Row::visit(row, [&](const char* key, auto& field) {
      using Field = std::remove_reference_t<decltype(field)>;
      field = Schema<Field>::read(value[key], where + "." + key);
    });
    return row;
  }

 private:
  static void check_keys(Row& row, const Json& value, const std::string& where) {
    std::vector<std::string> expected;
    Row::visit(row, [&](const char* key, auto&) { expected.emplace_back(key); });
    if (!value.is_object()) throw SchemaError(where + " holds " + repr_value(value) + ", expected " + repr_list(expected));
    bool complete = value.size() == expected.size();
    for (const std::string& key : expected) complete = complete && value.contains(key);
    if (complete) return;
    std::vector<std::string> found;
    for (const auto& [key, _] : value.items()) found.push_back(key);
    throw SchemaError(where + " holds " + repr_list(found) + ", expected " + repr_list(expected));
  }
};

template <>
struct Schema<std::string> {
  static std::string name() { return "str"; }
  static bool fits(const Json& value) { return value.is_string(); }
  static std::string read(const Json& value, const std::string& where) {
    if (!fits(value)) refuse(value, where, name());
    return value.get<std::string>();
  }
};

template <>
struct Schema<std::int64_t> {
  static std::string name() { return "int"; }
  static bool fits(const Json& value) { return value.is_number_integer(); }
  static std::int64_t read(const Json& value, const std::string& where) {
    if (!fits(value)) refuse(value, where, name());
    return value.get<std::int64_t>();
  }
};

template <>
struct Schema<double> {
  static std::string name() { return "float"; }
  static bool fits(const Json& value) { return value.is_number_float(); }
  static double read(const Json& value, const std::string& where) {
    if (!fits(value)) refuse(value, where, name());
    return value.get<double>();
  }
};

template <>
struct Schema<bool> {
  static std::string name() { return "bool"; }
  static bool fits(const Json& value) { return value.is_boolean(); }
  static bool read(const Json& value, const std::string& where) {
    if (!fits(value)) refuse(value, where, name());
    return value.get<bool>();
  }
};

template <>
struct Schema<Json> {
  static std::string name() { return "typing.Any"; }
  static Json read(const Json& value, const std::string&) { return value; }
};

template <>
struct Schema<std::variant<std::string, std::int64_t>> {
  static std::string name() { return "str | int"; }
  static std::variant<std::string, std::int64_t> read(const Json& value, const std::string& where) {
    if (value.is_string()) return value.get<std::string>();
    if (!Schema<std::int64_t>::fits(value)) refuse(value, where, name());
    return value.get<std::int64_t>();
  }
};

template <class Value>
struct Schema<std::optional<Value>> {
  static std::string name() { return Schema<Value>::name() + " | None"; }
  static std::optional<Value> read(const Json& value, const std::string& where) {
    if (value.is_null()) return std::nullopt;
    if constexpr (std::is_arithmetic_v<Value> || std::is_same_v<Value, std::string>) {
      if (!Schema<Value>::fits(value)) refuse(value, where, name());
    }
    return Schema<Value>::read(value, where);
  }
};

template <class Value>
struct Schema<std::vector<Value>> {
  static std::string name() { return "tuple[" + Schema<Value>::name() + ", ...]"; }
  static std::vector<Value> read(const Json& value, const std::string& where) {
    if (!value.is_array()) refuse(value, where, name());
    std::vector<Value> items;
    for (const Json& item : value) {
      items.push_back(Schema<Value>::read(item, where + "[" + std::to_string(items.size()) + "]"));
    }
    return items;
  }
};

template <class Value>
struct Schema<std::map<std::string, Value>> {
  static std::string name() { return "dict[str, " + Schema<Value>::name() + "]"; }
  static std::map<std::string, Value> read(const Json& value, const std::string& where) {
    if (!value.is_object()) refuse(value, where, name());
    std::map<std::string, Value> items;
    for (const auto& [key, item] : value.items()) items.emplace(key, Schema<Value>::read(item, where + "." + key));
    return items;
  }
};

}  // namespace rpln::detail
