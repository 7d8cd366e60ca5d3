// The exception tree of user errors; each class carries the exit code that the command line returns for it.
#pragma once

#include <stdexcept>
#include <string>

namespace rpln {

// Something the user can put right. The message says what happened, what was expected and what to do next.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
  [[nodiscard]] virtual int exit_code() const noexcept { return 1; }
};

// An input tensor or text that the exported model cannot take.
class InputError final : public Error {
 public:
  using Error::Error;
  [[nodiscard]] int exit_code() const noexcept override { return 3; }
};

// A bundle that is incomplete, altered, or written by an incompatible version.
class ManifestError final : public Error {
 public:
  using Error::Error;
  [[nodiscard]] int exit_code() const noexcept override { return 4; }
};

// An execution provider was asked for and is not what would run.
class ProviderError final : public Error {
 public:
  using Error::Error;
  [[nodiscard]] int exit_code() const noexcept override { return 5; }
};

}  // namespace rpln
