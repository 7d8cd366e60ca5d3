// Any bytes to the reader of rpln.json, and of the options in it: it gives what it reads or throws one of the runtime's errors.
#include <string>

#include "json_mutator.hpp"
#include "rpln/generation/options.hpp"
#include "rpln/manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const auto document = rpln::detail::value_from_text<rpln::Json>(text, rpln::limits::manifest);
    const rpln::Manifest manifest = rpln::detail::manifest_from_json(document, "rpln.json");
    for (const rpln::Graph& graph : manifest.graphs) rpln::detail::check_graph("rpln.json", graph, manifest);
    for (const rpln::BundleFile& file : manifest.files) rpln::detail::check_file("/nonexistent", file, true);
    if (manifest.generation) (void)rpln::generation_options_from_json(rpln::Json::object(), manifest.generation->defaults);
  } catch (const rpln::detail::DocumentError&) {
    return 0;  // as it should: read_manifest turns it into a ManifestError
  } catch (const rpln::InputError&) {
    return 0;  // as it should: the generator turns it into a ManifestError
  } catch (const rpln::ManifestError&) {
    return 0;  // as it should
  }
  return 0;
}
