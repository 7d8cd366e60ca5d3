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

constexpr const char* usage = "usage: rpln-cli FOLDER [--option NAME=VALUE]... [--field NAME=TEXT]... [--] [TEXT]...\n";
constexpr const char* help = R"(
Runs the bundle in FOLDER on each TEXT, or on one item that --field describes, and prints an answer a line, as JSON.
Without texts and fields, each line of standard input is an item: a JSON object or text, or else plain text.

  --option NAME=VALUE  an option of the task, such as top_k=3, or provider, threads or batch_size
  --field NAME=TEXT    a field of the item, for tasks that take several: question and context, prompt and choices.
                       A field that is given again becomes a list
  --                   what follows are texts, even those that begin with --
  --help               print this text

  rpln-cli tagger --option aggregation_strategy=simple "The dog barked."
  rpln-cli reader --field question="Who barked?" --field context="The dog barked."
  rpln-cli tagger < texts.jsonl

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

// Adds a field. One that is given several times becomes a list, as choices are.
void add_field(rpln::Json& fields, const std::string& name, const std::string& text) {
  if (!fields.contains(name)) {
    fields[name] = text;
  } else if (fields[name].is_array()) {
    fields[name].push_back(text);
  } else {
    fields[name] = rpln::Json::array({fields[name], text});
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
    } else if (options && (word == "--option" || word == "--field")) {
      if (++at == words.size()) throw UsageError(word + " needs a NAME=VALUE after it.");
      const auto [name, value] = split_pair(words[at]);
      if (word == "--option") {
        arguments.options[name] = value_from_text(value);
      } else {
        add_field(arguments.fields, name, value);
      }
    } else if (options && word.compare(0, 2, "--") == 0) {
      throw UsageError("unknown option " + word + ": expected --option, --field or --help. Put a text that begins " +
                       "with -- after an argument that is -- alone.");
    } else if (arguments.folder.empty()) {
      arguments.folder = word;
    } else {
      arguments.texts.push_back(word);
    }
  }
  return arguments;
}

void print(const rpln::Json& answer) { std::cout << answer.dump() << std::endl; }

void answer_all(const rpln::Pipeline& pipeline, const Arguments& arguments) {
  if (!arguments.fields.empty()) print(pipeline(arguments.fields));
  for (const std::string& text : arguments.texts) print(pipeline(text));
  if (!arguments.fields.empty() || !arguments.texts.empty()) return;
  bool first = true;
  for (std::string line; std::getline(std::cin, line); first = false) {
    // Files of Windows may begin with a byte order mark, and their lines end in two characters.
    if (first && line.compare(0, 3, "\xEF\xBB\xBF") == 0) line.erase(0, 3);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const rpln::Json item = value_from_text(line);
    print(pipeline(item.is_structured() || item.is_string() ? item : rpln::Json(line)));
  }
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
    answer_all(rpln::Pipeline(arguments.folder, rpln::pipeline_options_from_json(arguments.options)), arguments);
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
