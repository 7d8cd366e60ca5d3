// The C interface. An exception becomes a status, and a message that rpln_last_error returns.
#include "rpln.h"

#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "rpln.hpp"

struct rpln_pipeline {
  rpln::Pipeline pipeline;
};

namespace {

std::string& last_error() {
  thread_local std::string message;
  return message;
}

// Keeps the message of an error. It may quote bytes of the caller that are not UTF-8.
rpln_status failed(rpln_status status, const std::exception& error) {
  last_error() = rpln::utf8::repaired(error.what());
  return status;
}

// Calls `call` and turns its exceptions into a status, because none may reach a caller in C.
template <class Call>
rpln_status guarded(Call&& call) noexcept {
  try {
    last_error().clear();
    call();
    return RPLN_OK;
  } catch (const rpln::Error& error) {
    return failed(static_cast<rpln_status>(error.exit_code()), error);
  } catch (const std::exception& error) {
    return failed(RPLN_ERROR, error);
  }
}

// Throws InputError for an argument that is NULL. `advice` says what to pass instead.
void check_given(const char* name, const void* argument, const char* advice) {
  if (!argument) throw rpln::InputError(std::string(name) + " is NULL. " + advice);
}

rpln::Json json_from_text(const char* name, const char* text) {
  try {
    return rpln::detail::value_from_text<rpln::Json>(text, rpln::limits::other);
  } catch (const rpln::detail::DocumentError& error) {
    throw rpln::InputError(std::string(name) + " are not valid JSON (" + error.what() + ").");
  }
}

rpln::Json options_from_text(const char* text) {
  rpln::Json options = text ? json_from_text("options", text) : rpln::Json::object();
  if (!options.is_object()) throw rpln::InputError("options are not a JSON object.");
  return options;
}

}  // namespace

rpln_status rpln_open(const char* folder, const char* options, rpln_pipeline** pipeline) {
  return guarded([&] {
    check_given("pipeline", pipeline, "Pass the address of a rpln_pipeline*.");
    *pipeline = nullptr;
    check_given("folder", folder, "Pass the path of a bundle.");
    auto opened = std::make_unique<rpln_pipeline>(
        rpln_pipeline{rpln::Pipeline(folder, rpln::pipeline_options_from_json(options_from_text(options)))});
    *pipeline = opened.release();
  });
}

rpln_status rpln_run(const rpln_pipeline* pipeline, const char* inputs, const char* options, char** answer) {
  return guarded([&] {
    check_given("answer", answer, "Pass the address of a char*.");
    *answer = nullptr;
    check_given("pipeline", pipeline, "Open one with rpln_open, and go on only where it returns RPLN_OK.");
    check_given("inputs", inputs, "Pass a text, an object or a list, as JSON.");
    const std::string text =
        pipeline->pipeline(json_from_text("inputs", inputs), options_from_text(options)).dump();
    auto copy = std::make_unique<char[]>(text.size() + 1);
    std::memcpy(copy.get(), text.c_str(), text.size() + 1);
    *answer = copy.release();
  });
}

const char* rpln_last_error(void) { return last_error().c_str(); }

void rpln_free(char* answer) { const std::unique_ptr<char[]> owned(answer); }

void rpln_close(rpln_pipeline* pipeline) { const std::unique_ptr<rpln_pipeline> owned(pipeline); }
