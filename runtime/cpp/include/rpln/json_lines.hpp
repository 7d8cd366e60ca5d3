// Answers lines of JSON with lines of JSON, as `rpln batch` does.
//
// A line is an object with the fields of the task, for most tasks {"text": ...}. Its other fields are copied to the
// output, beside "answer", or beside "error" where there is no answer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <istream>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rpln/errors.hpp"
#include "rpln/json.hpp"
#include "rpln/limits.hpp"
#include "rpln/pipeline.hpp"

namespace rpln {

// How lines are answered.
struct JsonLines {
  std::size_t window = 1024;   // how many lines are read, and sorted by length into batches, together
  bool records_errors = false;  // whether a line that cannot be answered gets its error, or else ends the run
};

// The lines that were answered, and how many of them got an error instead of an answer.
struct LineCounts {
  std::size_t lines = 0;
  std::size_t errors = 0;
};

namespace detail {

// A window ends with the line that reaches this size, which limits memory where lines are long.
inline constexpr std::size_t most_window_bytes = std::size_t{1} << 18U;

// What a line asks, and its other fields, which are kept; then its answer, or why it has none.
struct LineRequest {
  Json item;
  Json kept = Json::object();
  Json answer;
  std::optional<std::string> error;
};

// Reads a line without its end. Of a line that is longer than the limit, one byte more than that is kept.
inline bool read_line(std::istream& stream, std::string& line) {
  line.clear();
  std::streambuf& buffer = *stream.rdbuf();
  int byte = buffer.sbumpc();
  if (byte == std::char_traits<char>::eof()) return false;
  for (; byte != std::char_traits<char>::eof() && byte != '\n'; byte = buffer.sbumpc()) {
    if (line.size() <= limits::most_line_bytes) line.push_back(static_cast<char>(byte));
  }
  return true;
}

inline std::vector<std::string> read_window(std::istream& stream, std::size_t most_lines) {
  std::vector<std::string> lines;
  std::size_t bytes = 0;
  for (std::string line; lines.size() < most_lines && bytes < most_window_bytes && read_line(stream, line);) {
    bytes += line.size() + 1;
    lines.push_back(std::move(line));
  }
  return lines;
}

inline Json object_from_line(const std::string& line) {
  if (line.size() > limits::most_line_bytes) {
    throw InputError("it has more than " + std::to_string(limits::most_line_bytes) + " bytes");
  }
  Json record;
  try {
    record = value_from_text<Json>(line, limits::other);
  } catch (const DocumentError& error) {
    throw InputError(std::string("it is not JSON (") + error.what() + ")");
  }
  if (!record.is_object()) throw InputError("it is not a JSON object");
  return record;
}

// Throws InputError unless a part is a text, or a list of texts. Whether it may be empty is the task's matter.
inline void check_text(const std::string& name, const Json& part) {
  for (const Json& text : part.is_array() ? part : Json::array({part})) {
    if (!text.is_string()) throw InputError("its '" + name + "' is " + kind_of(text) + ", expected a text");
  }
}

// Takes the item of a task out of a record: the text itself where there is no other part.
inline Json item_from_record(const Json& record, const Fields& fields) {
  Json parts = Json::object();
  for (const ItemField& field : fields) {
    if (record.contains(field.name)) {
      parts[field.name] = record[field.name];
    } else if (!field.optional) {
      throw InputError("it has no field '" + field.name + "'");
    }
  }
  for (const ItemField& field : fields) {
    if (field.several && parts.contains(field.name) && !parts[field.name].is_array()) {
      throw InputError("its '" + field.name + "' is " + kind_of(parts[field.name]) + ", expected a list of texts");
    }
  }
  for (const auto& [name, part] : parts.items()) check_text(name, part);
  return parts.size() == 1 && parts.contains("text") ? parts["text"] : parts;
}

inline LineRequest request_from_line(const std::string& line, const Fields& fields) {
  LineRequest request;
  try {
    const Json record = object_from_line(line);
    for (const char* name : {"answer", "error"}) {
      if (record.contains(name)) {
        throw InputError(std::string("it has a field '") + name + "', which the output needs for itself: rename it");
      }
    }
    for (const auto& [name, value] : record.items()) {
      const auto is_it = [&name = name](const ItemField& field) { return field.name == name; };
      if (std::none_of(fields.begin(), fields.end(), is_it)) request.kept[name] = value;
    }
    request.item = item_from_record(record, fields);
  } catch (const InputError& error) {
    request.error = error.what();
  }
  return request;
}

// Whether all numbers in a value are finite. JSON has no others.
inline bool is_finite(const Json& value) {
  if (value.is_number_float()) return std::isfinite(value.get<double>());
  return !value.is_structured() || std::all_of(value.begin(), value.end(), is_finite);
}

// Gives each request its answer or its error. Where a call fails, each half of the requests is tried alone.
inline void answer_each(const Pipeline& pipeline, const std::vector<LineRequest*>& requests) {
  if (requests.empty()) return;
  Json items = Json::array();
  for (const LineRequest* request : requests) items.push_back(request->item);
  try {
    Json answers = pipeline(items);
    for (std::size_t at = 0; at < requests.size(); ++at) {
      if (!is_finite(answers[at])) requests[at]->error = "its answer cannot be written as JSON, which has no infinities";
      requests[at]->answer = std::move(answers[at]);
    }
  } catch (const InputError& error) {
    if (requests.size() == 1) {
      requests.front()->error = error.what();
      return;
    }
    const auto half = requests.begin() + static_cast<std::ptrdiff_t>(requests.size() / 2);
    answer_each(pipeline, {requests.begin(), half});
    answer_each(pipeline, {half, requests.end()});
  }
}

// Returns a request for each of the lines, with its answer or its error.
inline std::vector<LineRequest> answered(const std::vector<std::string>& lines, const Pipeline& pipeline,
                                         const Fields& fields) {
  std::vector<LineRequest> requests;
  for (const std::string& line : lines) requests.push_back(request_from_line(line, fields));
  std::vector<LineRequest*> asking;
  for (LineRequest& request : requests) {
    if (!request.error) asking.push_back(&request);
  }
  answer_each(pipeline, asking);
  return requests;
}

// Writes a record on one line. Characters that some readers take for the end of a line are escaped.
inline void write_line(std::ostream& stream, const Json& record) {
  static constexpr std::pair<std::string_view, std::string_view> escapes[]{
      {"\xC2\x85", "\\u0085"}, {"\xE2\x80\xA8", "\\u2028"}, {"\xE2\x80\xA9", "\\u2029"}};
  // The message about a damaged line may hold bytes of it that are no UTF-8.
  std::string text = record.dump(-1, ' ', false, Json::error_handler_t::replace);
  for (const auto& [character, escape] : escapes) {
    for (std::size_t at = 0; (at = text.find(character, at)) != text.npos;) {
      text.replace(at, character.size(), escape);
    }
  }
  stream << text << '\n';
}

// Returns the message where an error ends the run.
inline std::string stopped_at(std::size_t line, std::string error) {
  if (!error.empty() && error.back() == '.') error.pop_back();
  return "line " + std::to_string(line) + ": " + error +
         ". Correct the line; or have such errors written into the output, with --on-error record (records_errors).";
}

}  // namespace detail

// Answers each line of `in` with a line of `out`, window by window; memory holds one window.
//
// Where an error ends the run, the lines before it are written, and InputError has the number of the line. Throws
// OutputError where `out` fails.
inline LineCounts answer_json_lines(const Pipeline& pipeline, std::istream& in, std::ostream& out,
                                    const JsonLines& options = {}) {
  const detail::Fields fields = pipeline.item_fields();
  LineCounts counts;
  for (auto lines = detail::read_window(in, options.window); !lines.empty();
       lines = detail::read_window(in, options.window)) {
    for (detail::LineRequest& request : detail::answered(lines, pipeline, fields)) {
      ++counts.lines;
      Json record = std::move(request.kept);
      if (!request.error) {
        record["answer"] = std::move(request.answer);
      } else if (options.records_errors) {
        ++counts.errors;
        record["error"] = *request.error;
      } else {
        throw InputError(detail::stopped_at(counts.lines, *request.error));
      }
      detail::write_line(out, record);
    }
    if (!out.flush()) {
      throw OutputError("the answers cannot be written, up to those of line " + std::to_string(counts.lines) +
                        ". Free space there, or send them elsewhere.");
    }
  }
  return counts;
}

}  // namespace rpln
