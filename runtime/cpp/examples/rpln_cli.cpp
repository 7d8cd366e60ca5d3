// Runs a bundle on texts and prints an answer a line, as JSON. `help` below describes how.
#include <cstdlib>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "rpln.hpp"

namespace {

constexpr const char* usage =
    "usage: rpln-cli FOLDER [--option NAME=VALUE]... [--field NAME=TEXT]... [--] [TEXT]...\n"
    "       rpln-cli FOLDER [--option NAME=VALUE]... --json-lines [--on-error stop|record] [--window N]\n";
constexpr const char* help = R"(
Runs the bundle in FOLDER on each TEXT, or on one item that --field describes, and prints an answer a line, as JSON.
Without texts and fields, each line of standard input is an item: a JSON text, list or object, or else plain text.

  --option NAME=VALUE  an option of the task, such as top_k=3, or provider, threads, batch_size or
                       verify (false leaves the SHA-256 of the bundle's files unchecked)
  --field NAME=TEXT    a field of the item, for tasks that take several: question and context, prompt and choices.
                       A field that is given again becomes a list
  --json-lines         answer standard input as rpln batch answers a file: each line is an object with the fields of
                       the task; its other fields are printed beside its answer, in the same order
  --on-error stop|record   what happens to a line that cannot be answered: stop (default) ends the run, record prints
                       the error in the place of its answer
  --window N           how many lines are read, sorted by length and answered together. Default: 1024
  --                   what follows are texts, even those that begin with --
  --help               print this text

  rpln-cli tagger --option aggregation_strategy=simple "The dog barked."
  rpln-cli reader --field question="Who barked?" --field context="The dog barked."
  rpln-cli tagger < texts.txt
  rpln-cli tagger --json-lines --on-error record < in.jsonl > out.jsonl

Exit codes are those of the Python commands, 2 for a command line that cannot be read.
)";
constexpr int unusable = 2;  // the exit code

// A command line that cannot be read.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Arguments {
  bool help = false;
  std::string folder;
  rpln::Json options = rpln::Json::object();
  rpln::Json fields = rpln::Json::object();
  std::vector<std::string> texts;
  bool reads_json_lines = false;
  bool says_how = false;  // whether there are options that are for JSON lines only
  rpln::JsonLines json_lines;
};

// Returns the value of an option: JSON, such as 3, true or "simple", or else the text itself, such as simple.
rpln::Json value_from_text(const std::string& text) {
  try {
    return rpln::detail::value_from_text<rpln::Json>(text, rpln::limits::other);
  } catch (const rpln::detail::DocumentError&) {
    return text;
  }
}

std::pair<std::string, std::string> split_pair(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == text.npos) throw UsageError(text + " is not of the form NAME=VALUE.");
  return {text.substr(0, equals), text.substr(equals + 1)};
}

// Throws InputError for bytes that are not UTF-8. `name` says where they are.
void check_utf8(const std::string& name, const std::string& text) {
  if (const auto at = rpln::utf8::first_invalid(text)) {
    throw rpln::InputError(name + " is not UTF-8 (byte " + std::to_string(*at) +
                           ", counted from 0). Convert the input, for example with iconv -f latin1 -t utf-8.");
  }
}

// Adds a field. One that is given several times becomes a list, as choices are.
void add_field(rpln::Json& fields, const std::string& name, const std::string& text) {
  check_utf8("the field " + name, text);
  if (!fields.contains(name)) {
    fields[name] = text;
  } else if (fields[name].is_array()) {
    fields[name].push_back(text);
  } else {
    fields[name] = rpln::Json::array({fields[name], text});
  }
}

bool takes_value(const std::string& word) {
  return word == "--option" || word == "--field" || word == "--on-error" || word == "--window";
}

// Reads an option that has a value.
void read_option(Arguments& arguments, const std::string& word, const std::string& text) {
  arguments.says_how = arguments.says_how || word == "--on-error" || word == "--window";
  if (word == "--on-error") {
    if (text != "stop" && text != "record") throw UsageError("--on-error is " + text + ", expected stop or record.");
    arguments.json_lines.records_errors = text == "record";
  } else if (word == "--window") {
    const rpln::Json window = value_from_text(text);
    if (!window.is_number_unsigned() || window == 0U) {
      throw UsageError("--window is " + text + ", expected an integer of at least 1.");
    }
    arguments.json_lines.window = window.get<std::size_t>();
  } else {
    const auto [name, value] = split_pair(text);
    if (word == "--option") {
      arguments.options[name] = value_from_text(value);
    } else {
      add_field(arguments.fields, name, value);
    }
  }
}

Arguments read_arguments(const std::vector<std::string>& words) {
  Arguments arguments;
  bool options = true;
  for (std::size_t at = 0; at < words.size(); ++at) {
    const std::string& word = words[at];
    if (options && word == "--") {
      options = false;
    } else if (options && word == "--help") {
      arguments.help = true;
    } else if (options && word == "--json-lines") {
      arguments.reads_json_lines = true;
    } else if (options && takes_value(word)) {
      if (++at == words.size()) throw UsageError(word + " needs a value after it.");
      read_option(arguments, word, words[at]);
    } else if (options && word.compare(0, 2, "--") == 0) {
      throw UsageError("unknown option " + word + ": expected --option, --field, --json-lines, --on-error, --window " +
                       "or --help. Put a text that begins with -- after an argument that is -- alone.");
    } else if (arguments.folder.empty()) {
      arguments.folder = word;
    } else {
      check_utf8("text " + std::to_string(arguments.texts.size() + 1), word);
      arguments.texts.push_back(word);
    }
  }
  if (arguments.says_how && !arguments.reads_json_lines) {
    throw UsageError("--on-error and --window are for JSON lines. Add --json-lines, or leave them out.");
  }
  if (arguments.reads_json_lines && !(arguments.texts.empty() && arguments.fields.empty())) {
    throw UsageError("--json-lines answers standard input. Leave texts and --field out.");
  }
  return arguments;
}

void print(const rpln::Json& answer) {
  std::cout << answer.dump() << std::endl;
  if (!std::cout) throw rpln::OutputError("stdout cannot be written. Free space there, or send it elsewhere.");
}

// Answers a line: a JSON text, list or object, or else plain text.
void answer_line(const rpln::Pipeline& pipeline, const std::string& name, const std::string& line) {
  const rpln::Json item = value_from_text(line);
  try {
    print(pipeline(item.is_structured() || item.is_string() ? item : rpln::Json(line)));
  } catch (const rpln::InputError& error) {
    const char* hint = " A line that is a JSON list or object is read as such. For lines that are objects with a text "
                       "and other fields, add --json-lines.";
    throw rpln::InputError(name + ": " + error.what() + (item.is_structured() ? hint : ""));
  }
}

// Reads a line of standard input without its end. One that does not end, as in /dev/zero, is kept up to a byte too many.
bool read_line(std::string& line) {
  line.clear();
  std::streambuf& buffer = *std::cin.rdbuf();
  constexpr int end = std::char_traits<char>::eof();
  int byte = buffer.sbumpc();
  if (byte == end) return false;
  for (; byte != end && byte != '\n' && line.size() <= rpln::limits::other.size; byte = buffer.sbumpc()) {
    line.push_back(static_cast<char>(byte));
  }
  return true;
}

void answer_lines(const rpln::Pipeline& pipeline) {
  std::size_t number = 0;
  for (std::string line; read_line(line);) {
    const std::string name = "line " + std::to_string(++number);
    if (line.size() > rpln::limits::other.size) {
      throw rpln::InputError(name + " has more than " + std::to_string(rpln::limits::other.size) + " bytes. Split it.");
    }
    check_utf8(name, line);
    // Files of Windows may begin with a byte order mark, and their lines end in two characters.
    if (number == 1 && line.compare(0, 3, "\xEF\xBB\xBF") == 0) line.erase(0, 3);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    answer_line(pipeline, name, line);
  }
}

void answer_all(const rpln::Pipeline& pipeline, const Arguments& arguments) {
  if (!arguments.fields.empty()) print(pipeline(arguments.fields));
  for (const std::string& text : arguments.texts) print(pipeline(text));
  if (arguments.fields.empty() && arguments.texts.empty()) answer_lines(pipeline);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Arguments arguments = read_arguments({argv + 1, argv + argc});
    if (arguments.help) {
      std::cout << usage << help;
      return EXIT_SUCCESS;
    }
    if (arguments.folder.empty()) {
      std::cerr << usage;
      return unusable;
    }
    const rpln::Pipeline pipeline(arguments.folder, rpln::pipeline_options_from_json(arguments.options));
    if (arguments.reads_json_lines) {
      std::ios::sync_with_stdio(false);  // otherwise standard input is read byte by byte
      (void)rpln::answer_json_lines(pipeline, std::cin, std::cout, arguments.json_lines);
    } else {
      answer_all(pipeline, arguments);
    }
    return EXIT_SUCCESS;
  } catch (const UsageError& error) {
    std::cerr << "Error: " << error.what() << '\n' << usage;
    return unusable;
  } catch (const rpln::Error& error) {
    std::cerr << "Error: " << error.what() << '\n';
    return error.exit_code();
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}
