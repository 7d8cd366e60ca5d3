// Changes JSON as JSON: a fuzzer that changes bytes seldom gets beyond the parser.
//
// Every other input is changed by its bytes all the same, so that the parser is tried, too.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace json_mutator {

using Json = nlohmann::ordered_json;
using Random = std::minstd_rand;

// The most levels that a change adds. This mutator copies and prints, and would itself overflow the stack with more.
inline constexpr std::size_t most_depth = 150;

inline std::size_t draw(Random& random, std::size_t count) { return static_cast<std::size_t>(random()) % count; }

// A value that readers may not expect.
inline Json strange_value(Random& random) {
  static const std::vector<Json> values{
      nullptr, true, false, 0, 1, -1, 2.5, 1e300, 2147483647, 2147483648, 9223372036854775807, 9223372036854775808U,
      18446744073709551615U, "", "a", "../a", "/", "\u0000", std::string(300, 'a'), "logits", "sequence", "float16",
      Json::array(), Json::object(), Json::array({nullptr}), Json::array({"batch", 1}), Json::object({{"a", 1}})};
  return values[draw(random, values.size())];
}

// Returns a place in the document: each level is left for one of its parts three times out of four.
inline Json* place(Json& document, Random& random) {
  Json* at = &document;
  while (at->is_structured() && !at->empty() && draw(random, 8) != 0) {
    auto next = at->begin();
    std::advance(next, static_cast<std::ptrdiff_t>(draw(random, at->size())));
    at = &*next;
  }
  return at;
}

inline void change(Json& document, Random& random) {
  Json& at = *place(document, random);
  const Json other = *place(document, random);
  switch (draw(random, 6)) {
    case 0: at = other; return;
    case 1:
      if (at.is_array() && !at.empty()) at.erase(draw(random, at.size()));
      return;
    case 2:
      if (at.is_object() && !at.empty()) at.erase(std::next(at.begin(), static_cast<std::ptrdiff_t>(draw(random, at.size()))));
      return;
    case 3:
      if (at.is_array()) at.push_back(at.empty() ? strange_value(random) : at[draw(random, at.size())]);
      return;
    case 4: {
      Json deep = at;
      for (std::size_t level = draw(random, most_depth); level > 0; --level) deep = Json::array({std::move(deep)});
      at = std::move(deep);
      return;
    }
    default: at = strange_value(random); return;
  }
}

inline std::size_t depth_of(const std::uint8_t* data, std::size_t size) {
  std::size_t depth = 0;
  std::size_t deepest = 0;
  for (const std::uint8_t* byte = data; byte != data + size; ++byte) {
    if (*byte == '[' || *byte == '{') deepest = std::max(deepest, ++depth);
    if ((*byte == ']' || *byte == '}') && depth > 0) --depth;
  }
  return deepest;
}

inline std::size_t mutate(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  Random random(seed);
  if (depth_of(data, size) > most_depth) return LLVMFuzzerMutate(data, size, most);
  Json document = Json::parse(data, data + size, nullptr, false);
  if (document.is_discarded() || draw(random, 8) == 0) return LLVMFuzzerMutate(data, size, most);
  for (std::size_t count = draw(random, 3) + 1; count > 0; --count) change(document, random);
  const std::string text = document.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > most) return LLVMFuzzerMutate(data, size, most);
  std::memcpy(data, text.data(), text.size());
  return text.size();
}

}  // namespace json_mutator

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  return json_mutator::mutate(data, size, most, seed);
}
