// Reads JSON as a C++ type, strictly: a struct has all of its fields, except that those in limits::optional_fields may be
// missing, and no others, and every value is of its type.
//
// Schema<T>::read(value, where) returns a T. `where` is the place of the value in the document, which messages name.
// A struct lists its fields with RPLN_FIELDS.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "rpln/json.hpp"
#include "rpln/limits.hpp"

// Defines `visit(row, field)`, which calls `field` with the name of each field and the field of `row`.
#define RPLN_FIELD(name) field(#name, row.name);
#define RPLN_FIELDS(...)                                               \
  template <class Row, class Visit>                                    \
  static void visit(Row& row, Visit&& field) {                         \
    NLOHMANN_JSON_EXPAND(NLOHMANN_JSON_PASTE(RPLN_FIELD, __VA_ARGS__)) \
  }

namespace rpln::detail {

// Thrown for a value that is not of its type, and for a field that is missing or unknown.
class SchemaError final : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void refuse(const Json& value, const std::string& where, const std::string& expected) {
  throw SchemaError(where + " is " + shown(value) + ", expected " + expected);
}

// Whether a value is an integer of 64 bits with a sign. JSON's may be larger, and would become another when converted.
inline bool is_int64(const Json& value) {
  if (!value.is_number_unsigned()) return value.is_number_integer();
  return value.get<std::uint64_t>() <= static_cast<std::uint64_t>(limits::most);
}

// Throws SchemaError where the field `name`, or a list or object in it, holds an integer that is out of range.
inline void check_range(const Json& value, const char* name, const std::string& where) {
  const limits::Range range = limits::range_of_field(name);
  const auto fits = [&](const Json& item) {
    if (!item.is_number_integer()) return true;
    return is_int64(item) && item.get<std::int64_t>() >= range.minimum && item.get<std::int64_t>() <= range.maximum;
  };
  bool all = fits(value);
  if (value.is_structured()) {
    for (const Json& item : value) all = all && fits(item);
  }
  if (all) return;
  refuse(value, where, "integers from " + std::to_string(range.minimum) + " to " + std::to_string(range.maximum));
}

// A struct: an object with its fields.
template <class Row>
struct Schema {
  static Row read(const Json& value, const std::string& where) {
    if (!value.is_object()) refuse(value, where, "an object");
    Row row;
    std::size_t known = 0;
    Row::visit(row, [&](const char* key, auto& field) {
      if (!value.contains(key) && limits::is_optional(key)) return;
      if (!value.contains(key)) throw SchemaError(where + " has no field " + in_quotes(key));
      using Field = std::remove_reference_t<decltype(field)>;
      field = Schema<Field>::read(value[key], where + "." + key);
      check_range(value[key], key, where + "." + key);
      ++known;
    });
    if (known == value.size()) return row;
    throw SchemaError(where + " has the unknown field " + in_quotes(unknown_field(row, value)));
  }

 private:
  static std::string unknown_field(Row& row, const Json& value) {
    for (const auto& [name, _] : value.items()) {
      bool known = false;
      Row::visit(row, [&, &name = name](const char* key, auto&) { known = known || name == key; });
      if (!known) return name;
    }
    return {};
  }
};

// A value that is no list and no object. Schema<Value>::expected is its name in messages, and Schema<Value>::fits says
// whether a JSON value is one.
template <class Value>
struct PlainSchema {
  static Value read(const Json& value, const std::string& where) {
    if (!Schema<Value>::fits(value)) refuse(value, where, Schema<Value>::expected);
    return value.get<Value>();
  }
};

template <>
struct Schema<std::string> : PlainSchema<std::string> {
  static constexpr const char* expected = "a text";
  static bool fits(const Json& value) { return value.is_string(); }
};

template <>
struct Schema<std::int64_t> : PlainSchema<std::int64_t> {
  static constexpr const char* expected = "an integer";
  static bool fits(const Json& value) { return is_int64(value); }
};

template <>
struct Schema<double> : PlainSchema<double> {
  static constexpr const char* expected = "a number with a decimal point";
  static bool fits(const Json& value) { return value.is_number_float(); }
};

template <>
struct Schema<bool> : PlainSchema<bool> {
  static constexpr const char* expected = "true or false";
  static bool fits(const Json& value) { return value.is_boolean(); }
};

template <>
struct Schema<Json> {
  static Json read(const Json& value, const std::string&) { return value; }
};

template <>
struct Schema<std::variant<std::string, std::int64_t>> {
  static std::variant<std::string, std::int64_t> read(const Json& value, const std::string& where) {
    if (value.is_string()) return value.get<std::string>();
    if (!is_int64(value)) refuse(value, where, "a text or an integer");
    return value.get<std::int64_t>();
  }
};

template <class Value>
struct Schema<std::optional<Value>> {
  static std::optional<Value> read(const Json& value, const std::string& where) {
    return value.is_null() ? std::nullopt : std::optional<Value>(Schema<Value>::read(value, where));
  }
};

template <class Value>
struct Schema<std::vector<Value>> {
  static std::vector<Value> read(const Json& value, const std::string& where) {
    if (!value.is_array()) refuse(value, where, "a list");
    std::vector<Value> items;
    for (const Json& item : value) {
      items.push_back(Schema<Value>::read(item, where + "[" + std::to_string(items.size()) + "]"));
    }
    return items;
  }
};

template <class Value>
struct Schema<std::map<std::string, Value>> {
  static std::map<std::string, Value> read(const Json& value, const std::string& where) {
    if (!value.is_object()) refuse(value, where, "an object");
    std::map<std::string, Value> items;
    for (const auto& [key, item] : value.items()) items.emplace(key, Schema<Value>::read(item, where + "." + key));
    return items;
  }
};

}  // namespace rpln::detail
