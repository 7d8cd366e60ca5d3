// The options of a generation. Names, defaults and limits are those of the Python runtime's GenerationOptions, with
// which tests/cpp/test_tasks.py compares them. docs/generation.md explains them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "rpln/errors.hpp"
#include "rpln/json.hpp"
#include "rpln/options.hpp"

namespace rpln {

struct GenerationOptions {
  std::optional<std::int64_t> max_new_tokens;  // none: the checkpoint's own number, or else 20, as far as there is room
  bool do_sample = false;
  double temperature = 1.0;
  std::int64_t top_k = 50;  // 0 stands for all tokens
  double top_p = 1.0;
  double min_p = 0.0;
  std::optional<std::int64_t> seed;  // makes samples repeatable, on every machine; none: they are different each time
  double repetition_penalty = 1.0;
  std::int64_t num_return_sequences = 1;
  std::optional<std::vector<std::int64_t>> stop_token_ids;  // none: the tokens that end a text in the checkpoint
  std::vector<std::string> stop_strings;
  std::string positions = "forward";
  std::optional<bool> return_full_text;  // whether answers begin with their prompts; none: unless there is an encoder
};

namespace detail {

inline const std::vector<std::string> generation_option_names{
    "max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p", "seed", "repetition_penalty", "num_beams",
    "length_penalty", "early_stopping", "num_return_sequences", "stop_token_ids", "stop_strings", "positions",
    "return_full_text"};

inline std::vector<std::int64_t> stop_tokens_from_json(const Json& value) {
  if (!value.is_array()) {
    throw InputError("stop_token_ids is " + shown(value) + ", expected a list of token ids.");
  }
  for (const Json& token : value) check_integer("a token of stop_token_ids", token, 0);
  return value.get<std::vector<std::int64_t>>();
}

inline std::vector<std::string> stop_strings_from_json(const Json& value) {
  const Json listed = value.is_string() ? Json::array({value}) : value;
  if (!listed.is_array()) {
    throw InputError("stop_strings is " + shown(value) + ", expected a text or a list of texts.");
  }
  for (const Json& text : listed) {
    if (!text.is_string() || text == "") {
      throw InputError("stop_strings holds " + shown(text) + ", expected texts of one character or more.");
    }
  }
  return listed.get<std::vector<std::string>>();
}

// Throws InputError for an option that has no effect because the option `needed` is not set.
inline void check_default(const Options& given, const char* name, const Json& otherwise, const char* needed) {
  if (given.has(name) && given.value(name) != otherwise) {
    throw InputError(std::string(name) + " is " + shown(given.value(name)) + ", which has no effect without " +
                     needed + ".");
  }
}

inline void check_combination(const GenerationOptions& options, const Options& given) {
  if (!options.do_sample) {
    check_default(given, "temperature", 1.0, "do_sample");
    check_default(given, "top_k", 50, "do_sample");
    check_default(given, "top_p", 1.0, "do_sample");
    check_default(given, "min_p", 0.0, "do_sample");
    check_default(given, "seed", nullptr, "do_sample");
  }
  check_default(given, "length_penalty", 1.0, "num_beams of 2 or more");
  check_default(given, "early_stopping", false, "num_beams of 2 or more");
  if (!options.do_sample && options.num_return_sequences > 1) {
    throw InputError("num_return_sequences is " + std::to_string(options.num_return_sequences) +
                     ", num_beams is 1: greedy search finds one sequence and beam search as many as it has beams. "
                     "Set do_sample to true, or use beam search in Python.");
  }
}

}  // namespace detail

// Reads options from JSON. Throws InputError for an unknown option, for a value out of range, and for an option that
// has no effect because of the others.
inline GenerationOptions generation_options_from_json(const Json& json) {
  const detail::Options given(json, detail::generation_option_names, "of a generation");
  GenerationOptions options;
  options.max_new_tokens = given.optional_integer("max_new_tokens", 1);
  options.seed = given.optional_integer("seed", 0);
  if (!given.value("return_full_text").is_null()) options.return_full_text = given.boolean("return_full_text", true);
  options.do_sample = given.boolean("do_sample", false);
  options.top_k = given.integer("top_k", 50, 0);
  if (given.integer("num_beams", 1, 1) > 1) {
    throw InputError("num_beams is " + std::to_string(given.integer("num_beams", 1, 1)) +
                     ": only Python's rpln_runtime has beam search. Use that, or greedy search or sampling.");
  }
  options.num_return_sequences = given.integer("num_return_sequences", 1, 1);
  // Within these limits, logits that are divided or multiplied by them stay within fp32.
  options.temperature = given.number("temperature", 1, 0.0001, 10000);
  options.repetition_penalty = given.number("repetition_penalty", 1, 0.0001, 10000);
  options.top_p = given.number("top_p", 1, 0, 1);
  options.min_p = given.number("min_p", 0, 0, 1);
  options.positions = given.choice("positions", "forward", {"forward", "transformers-generate"});
  if (!given.value("stop_token_ids").is_null()) {
    options.stop_token_ids = detail::stop_tokens_from_json(given.value("stop_token_ids"));
  }
  if (given.has("stop_strings")) options.stop_strings = detail::stop_strings_from_json(given.value("stop_strings"));
  detail::check_combination(options, given);
  return options;
}

}  // namespace rpln
