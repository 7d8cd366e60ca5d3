// The rows of a manifest: the structs have the fields of the dataclasses in rpln_runtime/manifest.py, where their meaning
// is explained.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "rpln/schema.hpp"

namespace rpln {

inline constexpr std::int64_t schema_version = 3;
inline constexpr const char* manifest_name = "rpln.json";

struct BundleFile {
  std::string path;
  std::int64_t size = 0;
  std::string sha256;

  RPLN_FIELDS(path, size, sha256)
};

// A size, or the name of a dynamic axis.
using Dimension = std::variant<std::string, std::int64_t>;

struct TensorSpec {
  std::string name;
  std::string dtype;
  std::vector<Dimension> shape;
  std::optional<std::int64_t> values;

  RPLN_FIELDS(name, dtype, shape, values)

  [[nodiscard]] bool has_axis(std::string_view axis) const {
    for (const Dimension& dimension : shape) {
      if (const auto* named = std::get_if<std::string>(&dimension); named && *named == axis) return true;
    }
    return false;
  }
};

struct Axis {
  std::int64_t minimum = 0;
  std::optional<std::int64_t> maximum;

  RPLN_FIELDS(minimum, maximum)
};

struct Rewritten {
  std::string path;
  std::string form;
  std::vector<std::string> providers;

  RPLN_FIELDS(path, form, providers)
};

struct Graph {
  std::string variant;
  std::string path;
  std::int64_t opset = 0;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::string form;
  std::vector<Rewritten> rewritten;

  RPLN_FIELDS(variant, path, opset, inputs, outputs, form, rewritten)

  // Returns the path of the file that `provider` runs.
  [[nodiscard]] const std::string& path_for(std::string_view provider) const {
    for (const Rewritten& row : rewritten) {
      for (const std::string& other : row.providers) {
        if (other == provider) return row.path;
      }
    }
    return path;
  }

  [[nodiscard]] const TensorSpec* input(std::string_view input_name) const { return find(inputs, input_name); }
  [[nodiscard]] const TensorSpec* output(std::string_view output_name) const { return find(outputs, output_name); }

 private:
  static const TensorSpec* find(const std::vector<TensorSpec>& specs, std::string_view wanted) {
    for (const TensorSpec& spec : specs) {
      if (spec.name == wanted) return &spec;
    }
    return nullptr;
  }
};

struct Candidate {
  std::string variant;
  std::string form;
  std::string provider;
  std::optional<double> speedup;
  std::string outcome;
  std::optional<double> speedup_low;
  std::optional<double> speedup_high;

  RPLN_FIELDS(variant, form, provider, speedup, outcome, speedup_low, speedup_high)
};

struct Optimization {
  std::string target;
  std::string workload;
  std::string provider;
  std::optional<std::int64_t> threads;
  std::optional<bool> spinning;
  std::vector<Candidate> candidates;
  std::string note;

  RPLN_FIELDS(target, workload, provider, threads, spinning, candidates, note)
};

struct Generation {
  std::int64_t pad_token_id = 0;
  std::optional<std::int64_t> bos_token_id;
  std::vector<std::int64_t> eos_token_ids;
  std::optional<std::int64_t> start_token_id;
  std::int64_t first_position = 0;
  std::int64_t pad_position = 0;
  std::optional<std::int64_t> max_new_tokens;
  std::optional<std::int64_t> max_length;
  std::map<std::string, Json> defaults;

  RPLN_FIELDS(pad_token_id, bos_token_id, eos_token_ids, start_token_id, first_position, pad_position, max_new_tokens,
              max_length, defaults)
};

struct Sentences {
  std::vector<std::string> poolings;
  std::optional<std::int64_t> max_length;
  std::map<std::string, std::string> prompts;
  std::optional<std::string> default_prompt;
  bool include_prompt = true;

  RPLN_FIELDS(poolings, max_length, prompts, default_prompt, include_prompt)
};

struct Source {
  std::string name;
  std::string sha256;
  std::optional<std::string> adapter;

  RPLN_FIELDS(name, sha256, adapter)
};

struct Manifest {
  std::string task;
  std::vector<Graph> graphs;
  std::map<std::string, Axis> axes;
  std::int64_t usable_length = 0;
  std::int64_t vocab_size = 0;
  std::int64_t type_vocab_size = 0;
  std::int64_t pad_token_id = 0;
  std::optional<std::int64_t> mask_token_id;
  std::optional<std::string> problem_type;
  std::vector<std::string> labels;
  std::string precision;
  std::string recipe;
  std::map<std::string, std::int64_t> passes;
  std::string target;
  Source source;
  std::map<std::string, std::string> versions;
  std::map<std::string, Json> validation;
  std::optional<Generation> generation;
  std::optional<Optimization> optimization;
  std::optional<Sentences> sentences;
  std::string truncation_side = "right";
  bool token_types = true;
  std::vector<BundleFile> files;
  std::int64_t schema_version = rpln::schema_version;

  RPLN_FIELDS(task, graphs, axes, usable_length, vocab_size, type_vocab_size, pad_token_id, mask_token_id,
              problem_type, labels, precision, recipe, passes, target, source, versions, validation, generation,
              optimization, sentences, truncation_side, token_types, files, schema_version)

  [[nodiscard]] bool lists_file(std::string_view path) const {
    for (const BundleFile& file : files) {
      if (file.path == path) return true;
    }
    return false;
  }
};

}  // namespace rpln
