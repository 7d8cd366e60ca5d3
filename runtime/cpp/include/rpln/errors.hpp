// The exceptions for errors that users can correct. Each class has the exit code that the command line returns for it.
//
//   Error
//   - InputError
//   - ManifestError
//   - ProviderError
//   - OutputError
#pragma once

#include <stdexcept>
#include <string>

namespace rpln {

// Base class of all exceptions that a call may throw for a reason that the user can correct. The message says what
// happened, what was expected and what to do next.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
  [[nodiscard]] virtual int exit_code() const noexcept { return 1; }
};

// A text, a tensor or an option that the exported model cannot take.
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

// The execution provider that was asked for is not there, or would not run the graph.
class ProviderError final : public Error {
 public:
  using Error::Error;
  [[nodiscard]] int exit_code() const noexcept override { return 5; }
};

// Answers that cannot be written, as on a full disk.
class OutputError final : public Error {
 public:
  using Error::Error;
  [[nodiscard]] int exit_code() const noexcept override { return 9; }
};

}  // namespace rpln
