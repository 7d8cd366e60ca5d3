// Any bytes to the reader of tokenizer.json: it gives a tokenizer that encodes and decodes, or throws a ManifestError.
#include <string>

#include "json_mutator.hpp"
#include "rpln/tokenizer/tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const rpln::Tokenizer tokenizer(rpln::detail::tokenizer_file_from_text(text, "tokenizer.json"));
    (void)tokenizer.decode(rpln::ids_of(tokenizer.encode("The <mask> d\xC3\xB6g's  bark.", "And a <s>pair")));
  } catch (const rpln::ManifestError&) {
    return 0;  // as it should
  }
  return 0;
}
