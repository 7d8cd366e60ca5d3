// rpln.json, the contract between exporter and runtime: what a bundle holds and how to feed it.
//
// Reading a manifest checks its schema, that it agrees with itself and with what is known of its task (facts.hpp), that
// no path leaves the folder, and size and SHA-256 of every file it names, the files of weights among them. Links out of
// the folder are followed only where the Hugging Face hub's cache has them, from a snapshot into its blobs.
// The tests leave out and alter each field, and see that both runtimes refuse the same documents at the same place.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "rpln/errors.hpp"
#include "rpln/external_data.hpp"
#include "rpln/facts.hpp"
#include "rpln/limits.hpp"
#include "rpln/manifest_rows.hpp"
#include "rpln/sha256.hpp"

namespace rpln {

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

// Whether `path` leads from `folder`, a snapshot in the Hugging Face hub's cache, into the blobs there: the folder
// snapshots/REVISION has links to the files in `blobs`, beside `snapshots`. Throws ManifestError for a path that leads to
// any other place outside the folder.
inline bool leads_into_cache(const fs::path& path, const fs::path& folder) {
  if (lies_in(path, folder)) return false;
  std::error_code failed;
  const fs::path real = fs::weakly_canonical(path, failed);
  const fs::path snapshots = failed ? fs::path() : fs::weakly_canonical(folder, failed).parent_path();
  if (!failed && snapshots.filename() == "snapshots" && real.parent_path() == snapshots.parent_path() / "blobs") {
    return true;
  }
  throw ManifestError(path.string() + " is a link that leaves the folder " + folder.string() + ". Do not use it.");
}

// Whether a path, or a part of it, has more bytes than a file system takes.
inline bool too_long(const std::string& path) {
  if (path.size() > limits::most_path_bytes) return true;
  for (const fs::path& part : fs::path(path)) {
    if (part.string().size() > limits::most_name_bytes) return true;
  }
  return false;
}

inline void check_file(const fs::path& folder, const BundleFile& file, bool verify) {
  if (!file.path.empty() && leaves_folder(file.path)) {
    throw ManifestError(std::string(manifest_name) + " names " + in_quotes(file.path) + ", which leaves the folder " +
                        folder.string() + ". Do not use it.");
  }
  if (too_long(file.path)) {
    throw ManifestError(std::string(manifest_name) + " names " + in_quotes(file.path.substr(0, 40)) +
                        "..., a path of " + std::to_string(file.path.size()) + " bytes: expected at most " +
                        std::to_string(limits::most_path_bytes) + ", and at most " +
                        std::to_string(limits::most_name_bytes) + " in each part. Do not use it.");
  }
  const fs::path path = folder / file.path;
  const bool linked = leads_into_cache(path, folder);
  std::error_code failed;
  if (!fs::is_regular_file(path, failed)) {
    throw ManifestError(path.string() + " is missing. Copy the whole bundle, or export the checkpoint again.");
  }
  const auto size = static_cast<std::intmax_t>(fs::file_size(path, failed));
  if (failed) throw ManifestError(path.string() + " cannot be read (" + failed.message() + ").");
  if (size != file.size) {
    throw ManifestError(path.string() + " has " + std::to_string(size) + " bytes, the manifest says " +
                        std::to_string(file.size) + ": a truncated or altered copy. Copy the bundle again.");
  }
  if ((verify || linked) && sha256_of_file(path) != file.sha256) {
    throw ManifestError(path.string() + " differs from what was exported (SHA-256). Copy the bundle again.");
  }
}

// Checks that the files of the weights of every ONNX file are listed, so that they were hashed, too.
inline void check_external_data(const fs::path& folder, const Manifest& manifest) {
  std::set<std::string> graphs;
  for (const Graph& graph : manifest.graphs) {
    graphs.insert(graph.path);
    for (const Rewritten& row : graph.rewritten) graphs.insert(row.path);
  }
  for (const BundleFile& file : manifest.files) {
    if (fs::path(file.path).extension() == ".onnx") graphs.insert(file.path);
  }
  for (const std::string& graph : graphs) {
    for (const std::string& location : external_files(folder / graph)) {
      const std::string weights = (fs::path(graph).parent_path() / location).lexically_normal().generic_string();
      if (manifest.lists_file(weights)) continue;
      throw ManifestError((folder / graph).string() + " keeps weights in " + in_quotes(location) + ", but " +
                          manifest_name + " lists no file " + in_quotes(weights) +
                          ", so nothing tells whether they were altered. Do not use it.");
    }
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

inline Json json_from_file(const fs::path& path) {
  try {
    return value_from_text<Json>(read_text(path, limits::manifest.size), limits::manifest);
  } catch (const DocumentError& error) {
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
    Manifest manifest = Schema<Manifest>::read(document, "the manifest");
    if (manifest.graphs.empty()) throw ManifestError(path.string() + " lists no graph. Export the checkpoint again.");
    if (const std::string reason = contradiction(manifest); !reason.empty()) {
      throw ManifestError(path.string() + " contradicts itself: " + reason + ". Export the checkpoint again.");
    }
    return manifest;
  } catch (const SchemaError& error) {
    throw ManifestError(path.string() + " breaks schema " + std::to_string(schema_version) + ": " + error.what() +
                        ". Export the checkpoint again.");
  }
}

}  // namespace detail

// Reads and checks `folder`/rpln.json, and with `verify` the SHA-256 of every file that it names; without it, that of
// links into the hub's cache alone. Throws ManifestError for a bundle that is missing, altered, or of another version.
inline Manifest read_manifest(const std::filesystem::path& folder, bool verify = true) {
  const std::filesystem::path path = folder / manifest_name;
  std::error_code failed;
  if (std::filesystem::is_regular_file(folder, failed)) {
    const std::filesystem::path parent = folder.has_parent_path() ? folder.parent_path() : std::filesystem::path(".");
    const bool inside = std::filesystem::is_regular_file(parent / manifest_name, failed);
    throw ManifestError(folder.string() + " is a file: expected a bundle, which is a folder. " +
                        (inside ? "Name the folder that it is in: " + parent.string() : "Make one with rpln-export."));
  }
  if (!std::filesystem::is_regular_file(path, failed)) {
    throw ManifestError(folder.string() + " holds no " + manifest_name +
                        ": expected a bundle. Make one with rpln-export.");
  }
  (void)detail::leads_into_cache(path, folder);
  Manifest manifest = detail::manifest_from_json(detail::json_from_file(path), path);
  for (const BundleFile& file : manifest.files) detail::check_file(folder, file, verify);
  for (const Graph& graph : manifest.graphs) detail::check_graph(path, graph, manifest);
  if (verify) detail::check_external_data(folder, manifest);
  return manifest;
}

}  // namespace rpln
