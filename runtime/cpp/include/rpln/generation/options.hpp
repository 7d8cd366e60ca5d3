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

// The options of generating text, with their defaults. Generator::options puts what the bundle's checkpoint sets in the
// place of the defaults.
struct GenerationOptions {
  std::optional<std::int64_t> max_new_tokens;  // none: the checkpoint's own number, or else 20, as far as there is room
  bool do_sample = false;
  double temperature = 1.0;
  std::int64_t top_k = 50;  // 0 stands for all tokens
  double top_p = 1.0;
  double min_p = 0.0;
  std::optional<std::int64_t> seed;  // makes samples repeatable, on every machine; none: they are different each time
  double repetition_penalty = 1.0;
  std::int64_t no_repeat_ngram_size = 0;
  std::vector<std::vector<std::int64_t>> bad_words_ids;
  std::int64_t min_length = 0;
  std::optional<std::int64_t> min_new_tokens;  // none: min_length counts
  std::optional<std::int64_t> forced_bos_token_id;
  std::vector<std::int64_t> forced_eos_token_id;  // one or several; empty: no token is forced
  std::vector<std::int64_t> suppress_tokens;
  std::vector<std::int64_t> begin_suppress_tokens;
  std::int64_t num_beams = 1;  // more are refused: only Python has beam search
  std::int64_t num_return_sequences = 1;
  std::optional<std::vector<std::int64_t>> stop_token_ids;  // none: the tokens that end a text in the checkpoint
  std::vector<std::string> stop_strings;
  std::string positions = "forward";
  std::optional<bool> return_full_text;  // whether answers begin with their prompts; none: unless there is an encoder
};

namespace detail {

inline const std::vector<std::string> generation_option_names{
    "max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p", "seed", "repetition_penalty",
    "no_repeat_ngram_size", "bad_words_ids", "min_length", "min_new_tokens", "forced_bos_token_id",
    "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "num_beams", "length_penalty", "early_stopping",
    "num_return_sequences", "stop_token_ids", "stop_strings", "positions", "return_full_text"};

inline std::vector<std::int64_t> tokens_from_json(const std::string& name, const Json& value) {
  if (!value.is_array()) throw InputError(name + " is " + shown(value) + ", expected a list of token ids.");
  for (const Json& token : value) check_integer("a token of " + name, token, 0);
  return value.get<std::vector<std::int64_t>>();
}

// Returns the tokens of an option that may be null, which stands for none.
inline std::vector<std::int64_t> tokens_of_option(const Options& given, const std::string& name) {
  const Json value = given.value(name);
  return value.is_null() ? std::vector<std::int64_t>() : tokens_from_json(name, value);
}

inline std::vector<std::int64_t> token_or_tokens_of_option(const Options& given, const std::string& name) {
  if (given.value(name).is_array()) return tokens_of_option(given, name);
  const std::optional<std::int64_t> token = given.optional_integer(name, 0);
  return token ? std::vector<std::int64_t>{*token} : std::vector<std::int64_t>();
}

inline std::vector<std::vector<std::int64_t>> words_of_option(const Options& given, const std::string& name) {
  const Json value = given.value(name);
  if (!value.is_null() && !value.is_array()) {
    throw InputError(name + " is " + shown(value) + ", expected a list of lists of token ids.");
  }
  std::vector<std::vector<std::int64_t>> words;
  for (const Json& word : value) {
    words.push_back(tokens_from_json(name, word));
    if (word.empty()) throw InputError(name + " holds an empty list, expected lists of one token id or more.");
  }
  return words;
}

inline void check_early_stopping(const Json& value) {
  if (value.is_boolean() || value == "never") return;
  throw InputError("early_stopping is " + shown(value) + ", expected true, false or \"never\".");
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

// Throws InputError for an option that has no effect with the others. `because` ends the message.
inline void check_default(const Json& given, const char* name, const Json& otherwise, const char* because) {
  if (given.contains(name) && given[name] != otherwise) {
    throw InputError(std::string(name) + " is " + shown(given[name]) + ", which has no effect " + because + ".");
  }
}

// Throws InputError for options that do not go together. Of those that have no effect, only `given` ones are refused,
// and none that the bundle sets.
inline void check_combination(const GenerationOptions& options, const Json& given) {
  if (options.do_sample && options.num_beams > 1) {
    throw InputError("do_sample is true and num_beams is " + std::to_string(options.num_beams) +
                     ", but beam search does not sample: pass do_sample=false or num_beams=1.");
  }
  if (!options.do_sample) {
    check_default(given, "temperature", 1.0, "without do_sample");
    check_default(given, "top_k", 50, "without do_sample");
    check_default(given, "top_p", 1.0, "without do_sample");
    check_default(given, "min_p", 0.0, "without do_sample");
    check_default(given, "seed", nullptr, "without do_sample");
  }
  if (options.num_beams == 1) {
    check_default(given, "length_penalty", 1.0, "without num_beams of 2 or more");
    check_default(given, "early_stopping", false, "without num_beams of 2 or more");
  }
  if (options.min_new_tokens) check_default(given, "min_length", 0, "with min_new_tokens");
  if (!options.do_sample && options.num_return_sequences > options.num_beams) {
    throw InputError("num_return_sequences is " + std::to_string(options.num_return_sequences) + ", num_beams is " +
                     std::to_string(options.num_beams) +
                     ": greedy search finds one sequence and beam search as many as it has beams. "
                     "Set do_sample to true, or use beam search in Python.");
  }
}

}  // namespace detail

// Reads options from JSON, and those that it does not have from `defaults`. As in transformers, a default that has no
// effect with the other options is left out. Throws InputError for an unknown option, for a value out of range, and for
// options in `json` that have no effect or do not go together with the others.
inline GenerationOptions generation_options_from_json(const Json& json, const Json& defaults = Json::object()) {
  Json merged = defaults;
  merged.update(json);
  const detail::Options given(merged, detail::generation_option_names, "of a generation");
  GenerationOptions options;
  options.max_new_tokens = given.optional_integer("max_new_tokens", 1);
  options.seed = given.optional_integer("seed", 0);
  if (!given.value("return_full_text").is_null()) options.return_full_text = given.boolean("return_full_text", true);
  options.do_sample = given.boolean("do_sample", false);
  options.top_k = given.integer("top_k", 50, 0);
  options.num_beams = given.integer("num_beams", 1, 1);
  options.num_return_sequences = given.integer("num_return_sequences", 1, 1);
  // Within these limits, logits that are divided or multiplied by them stay within fp32.
  options.temperature = given.number("temperature", 1, 0.0001, 10000);
  options.repetition_penalty = given.number("repetition_penalty", 1, 0.0001, 10000);
  options.top_p = given.number("top_p", 1, 0, 1);
  options.min_p = given.number("min_p", 0, 0, 1);
  (void)given.number("length_penalty", 1, -10, 10);
  if (given.has("early_stopping")) detail::check_early_stopping(given.value("early_stopping"));
  options.no_repeat_ngram_size = given.integer("no_repeat_ngram_size", 0, 0);
  options.bad_words_ids = detail::words_of_option(given, "bad_words_ids");
  options.min_length = given.integer("min_length", 0, 0);
  options.min_new_tokens = given.optional_integer("min_new_tokens", 0);
  options.forced_bos_token_id = given.optional_integer("forced_bos_token_id", 0);
  options.forced_eos_token_id = detail::token_or_tokens_of_option(given, "forced_eos_token_id");
  options.suppress_tokens = detail::tokens_of_option(given, "suppress_tokens");
  options.begin_suppress_tokens = detail::tokens_of_option(given, "begin_suppress_tokens");
  options.positions = given.choice("positions", "forward", {"forward", "transformers-generate"});
  if (!given.value("stop_token_ids").is_null()) {
    options.stop_token_ids = detail::tokens_from_json("stop_token_ids", given.value("stop_token_ids"));
  }
  if (given.has("stop_strings")) options.stop_strings = detail::stop_strings_from_json(given.value("stop_strings"));
  detail::check_combination(options, json);
  return options;
}

}  // namespace rpln
