// rpln.json, the contract between exporter and runtime: what a bundle holds and how to feed it.
//
// Reading a manifest checks its schema, that no path leaves the folder, and size and SHA-256 of every file it names.
// The structs have the fields of the dataclasses in rpln_runtime/manifest.py, where their meaning is explained. The
// tests leave out and alter each field, and see that both runtimes refuse the same documents at the same place.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "rpln/errors.hpp"
#include "rpln/schema.hpp"
#include "rpln/sha256.hpp"

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

  RPLN_FIELDS(variant, form, provider, speedup, outcome)
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

  RPLN_FIELDS(pad_token_id, bos_token_id, eos_token_ids, start_token_id, first_position, pad_position, max_new_tokens,
              max_length)
};

struct Source {
  std::string name;
  std::string sha256;

  RPLN_FIELDS(name, sha256)
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
  std::vector<BundleFile> files;
  std::int64_t schema_version = rpln::schema_version;

  RPLN_FIELDS(task, graphs, axes, usable_length, vocab_size, type_vocab_size, pad_token_id, mask_token_id,
              problem_type, labels, precision, recipe, passes, target, source, versions, validation, generation,
              optimization, files, schema_version)

  [[nodiscard]] bool lists_file(std::string_view path) const {
    for (const BundleFile& file : files) {
      if (file.path == path) return true;
    }
    return false;
  }
};

namespace detail {

namespace fs = std::filesystem;

// Whether a path, relative to a folder, may lead out of it on some system.
inline bool leaves_folder(const std::string& path) {
  const bool drive = path.size() > 1 && path[1] == ':';
  if (drive || path.front() == '/' || path.find('\\') != path.npos || path.find('\0') != path.npos) return true;
  for (const fs::path& part : fs::path(path)) {
    if (part == "..") return true;
  }
  return false;
}

// Whether `path` lies in `folder` once links are followed. Where that fails, as in a circle of links, it does not.
inline bool lies_in(const fs::path& path, const fs::path& folder) {
  std::error_code failed;
  const fs::path inner = fs::weakly_canonical(path, failed);
  if (failed) return false;
  const fs::path outer = fs::weakly_canonical(folder, failed);
  return !failed && std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

inline void check_file(const fs::path& folder, const BundleFile& file, bool verify) {
  if (!file.path.empty() && leaves_folder(file.path)) {
    throw ManifestError(std::string(manifest_name) + " names " + in_quotes(file.path) + ", which leaves the folder " +
                        folder.string() + ". Do not use it.");
  }
  const fs::path path = folder / file.path;
  if (!lies_in(path, folder)) {
    throw ManifestError(path.string() + " is a link that leaves the folder " + folder.string() + ". Do not use it.");
  }
  std::error_code failed;
  if (!fs::is_regular_file(path, failed)) {
    throw ManifestError(path.string() + " is missing. Copy the whole bundle, or export the checkpoint again.");
  }
  const auto size = static_cast<std::intmax_t>(fs::file_size(path));
  if (size != file.size) {
    throw ManifestError(path.string() + " has " + std::to_string(size) + " bytes, the manifest says " +
                        std::to_string(file.size) + ": a truncated or altered copy. Copy the bundle again.");
  }
  if (verify && sha256_of_file(path) != file.sha256) {
    throw ManifestError(path.string() + " differs from what was exported (SHA-256). Copy the bundle again.");
  }
}

inline void check_graph(const fs::path& path, const Graph& graph, const Manifest& manifest) {
  std::vector<std::string> files{graph.path};
  for (const Rewritten& row : graph.rewritten) files.push_back(row.path);
  for (const std::string& file : files) {
    if (!manifest.lists_file(file)) {
      throw ManifestError(path.string() + " lists no file " + in_quotes(file) +
                          " for its graph. Export the checkpoint again.");
    }
  }
  std::set<std::string> unknown;
  for (const TensorSpec& spec : graph.inputs) {
    for (const Dimension& dimension : spec.shape) {
      const auto* axis = std::get_if<std::string>(&dimension);
      if (axis && manifest.axes.find(*axis) == manifest.axes.end()) unknown.insert(*axis);
    }
  }
  if (!unknown.empty()) {
    throw ManifestError(path.string() + " gives no limits for the axes " + join({unknown.begin(), unknown.end()}) +
                        " of " + in_quotes(graph.path) + ". Export the checkpoint again.");
  }
}

inline std::string read_text(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline Json json_from_file(const fs::path& path) {
  try {
    return Json::parse(read_text(path));
  } catch (const Json::exception& error) {
    throw ManifestError(path.string() + " is not valid JSON (" + error.what() + "). Export the checkpoint again.");
  }
}

// Reads `document`, which was found at `path`. The files that it names are not looked at.
inline Manifest manifest_from_json(const Json& document, const fs::path& path) {
  const Json found = document.is_object() && document.contains("schema_version") ? document["schema_version"] : Json();
  if (!found.is_number() || found != schema_version) {
    throw ManifestError(path.string() + " has schema version " + shown(found) + ", this rpln-runtime reads " +
                        std::to_string(schema_version) +
                        ". Export the checkpoint again, or install the rpln-runtime that matches the bundle.");
  }
  try {
    return Schema<Manifest>::read(document, "the manifest");
  } catch (const SchemaError& error) {
    throw ManifestError(path.string() + " breaks schema " + std::to_string(schema_version) + ": " + error.what() +
                        ". Export the checkpoint again.");
  }
}

}  // namespace detail

// Reads and checks `folder`/rpln.json, and with `verify` the SHA-256 of every file that it names. Throws ManifestError
// for a bundle that is missing, altered, or of another version.
inline Manifest read_manifest(const std::filesystem::path& folder, bool verify = true) {
  const std::filesystem::path path = folder / manifest_name;
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed)) {
    throw ManifestError(folder.string() + " holds no " + manifest_name +
                        ": expected a bundle. Make one with rpln-export.");
  }
  Manifest manifest = detail::manifest_from_json(detail::json_from_file(path), path);
  if (manifest.graphs.empty()) {
    throw ManifestError(path.string() + " lists no graph. Export the checkpoint again.");
  }
  for (const BundleFile& file : manifest.files) detail::check_file(folder, file, verify);
  for (const Graph& graph : manifest.graphs) detail::check_graph(path, graph, manifest);
  return manifest;
}

}  // namespace rpln
