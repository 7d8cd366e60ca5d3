// What a bundle's documents hold at most. tests/cpp/test_tasks.py compares these tables with rpln_runtime/limits.py.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

namespace rpln::limits {

// The most bytes of a JSON file, and the most lists and objects inside each other.
struct Document {
  std::string_view kind;
  std::size_t size;
  std::size_t depth;
};

inline constexpr Document manifest{"manifest", std::size_t{1} << 26U, 64};
// The depth at which the tokenizers library stops, too.
inline constexpr Document tokenizer{"tokenizer", std::size_t{1} << 28U, 127};
// Any other JSON, such as what a caller gives.
inline constexpr Document other{"other", std::size_t{1} << 26U, 64};
inline constexpr std::array<Document, 3> documents{{manifest, tokenizer, other}};

// The most bytes of a path in a bundle, and of one part of it.
inline constexpr std::size_t most_path_bytes = 1024;
inline constexpr std::size_t most_name_bytes = 255;

// The most bytes of a line of JSON that is an item, without its end.
inline constexpr std::size_t most_line_bytes = std::size_t{1} << 20U;

// The most threads of a session. Each is made when it opens: millions of them would take hours.
inline constexpr std::int64_t most_threads = 1024;

// The integers that a field of the manifest may hold, both included. A field's name means the same in every object.
struct Range {
  std::string_view field;
  std::int64_t minimum;
  std::int64_t maximum;
};

inline constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
inline constexpr std::int64_t most_of_size = std::numeric_limits<std::int32_t>::max();

inline constexpr std::array<Range, 21> ranges{{
    {"size", 0, most},
    {"shape", 1, most_of_size},
    {"values", 1, most_of_size},
    {"minimum", 0, most_of_size},
    {"maximum", 0, most_of_size},
    {"opset", 1, most_of_size},
    {"threads", 1, most_threads},
    {"pad_token_id", 0, most_of_size},
    {"bos_token_id", 0, most_of_size},
    {"eos_token_ids", 0, most_of_size},
    {"start_token_id", 0, most_of_size},
    {"mask_token_id", 0, most_of_size},
    {"first_position", 0, most_of_size},
    {"pad_position", 0, most_of_size},
    {"max_new_tokens", 1, most_of_size},
    {"max_length", 1, most_of_size},
    {"defaults", -most_of_size - 1, most_of_size},
    {"usable_length", 1, most_of_size},
    {"vocab_size", 1, most_of_size},
    {"type_vocab_size", 0, most_of_size},
    {"passes", 0, most},
}};

// Returns the integers that the field `name` may hold: those of 64 bits where the table says nothing.
inline Range range_of_field(std::string_view name) {
  for (const Range& range : ranges) {
    if (range.field == name) return range;
  }
  return {name, std::numeric_limits<std::int64_t>::min(), most};
}

// The fields of a manifest that older bundles lack. Where they are missing, they have the defaults of their structs.
inline constexpr std::array<std::string_view, 8> optional_fields{
    {"adapter", "defaults", "include_prompt", "sentences", "speedup_high", "speedup_low", "token_types",
     "truncation_side"}};

inline bool is_optional(std::string_view name) {
  return std::find(optional_fields.begin(), optional_fields.end(), name) != optional_fields.end();
}

}  // namespace rpln::limits
