// Any bytes to the scanner of ONNX files: it gives the files of their weights or throws a ManifestError.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "rpln/external_data.hpp"

namespace {

// A file that this process writes each input to.
const std::string& file_name() {
  static const std::string name = "/tmp/rpln-fuzz-onnx-" + std::to_string(getpid());
  static const int registered = std::atexit([] { (void)std::remove(name.c_str()); });
  (void)registered;
  return name;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  std::FILE* file = std::fopen(file_name().c_str(), "wb");
  if (!file) std::abort();
  (void)std::fwrite(data, 1, size, file);
  (void)std::fclose(file);
  try {
    (void)rpln::detail::external_files(file_name());
  } catch (const rpln::ManifestError&) {
    return 0;  // as it should
  }
  return 0;
}
