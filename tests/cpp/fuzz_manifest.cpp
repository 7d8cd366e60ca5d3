// Gives any bytes to the readers of rpln.json and tokenizer.json, which must return a value or throw a ManifestError.
#include <string>

#include "rpln/manifest.hpp"
#include "rpln/tokenizer/tokenizer.hpp"

namespace {

void read_as_manifest(const std::string& text) {
  try {
    const auto document = rpln::detail::value_from_text<rpln::Json>(text, rpln::limits::manifest);
    const rpln::Manifest manifest = rpln::detail::manifest_from_json(document, "rpln.json");
    for (const rpln::BundleFile& file : manifest.files) rpln::detail::check_file("/nonexistent", file, true);
    for (const rpln::Graph& graph : manifest.graphs) rpln::detail::check_graph("rpln.json", graph, manifest);
  } catch (const rpln::detail::DocumentError&) {
    return;  // as it should: read_manifest turns it into a ManifestError
  } catch (const rpln::ManifestError&) {
    return;  // as it should
  }
}

void read_as_tokenizer(const std::string& text) {
  try {
    const rpln::Tokenizer tokenizer(rpln::detail::tokenizer_file_from_text(text, "tokenizer.json"));
    (void)tokenizer.decode(rpln::ids_of(tokenizer.encode("The <mask> d\xC3\xB6g's  bark.")));
  } catch (const rpln::ManifestError&) {
    return;  // as it should
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  read_as_manifest(text);
  read_as_tokenizer(text);
  return 0;
}
