// Runs a bundle on texts and prints an answer a line, as JSON:
//
//   rpln-cli FOLDER [--option NAME=VALUE]... [--field NAME=TEXT]... [--] [TEXT]...
//
// Without texts and fields it reads items from standard input. Each line is a JSON text, a JSON object, or plain text.
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "rpln.hpp"

namespace {

constexpr const char* usage = "usage: rpln-cli FOLDER [--option NAME=VALUE]... [--field NAME=TEXT]... [--] [TEXT]...\n";

struct Arguments {
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
  if (equals == text.npos) throw rpln::InputError(text + " is not of the form NAME=VALUE.");
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
    } else if (options && (word == "--option" || word == "--field")) {
      if (++at == words.size()) throw rpln::InputError(word + " needs a NAME=VALUE after it.");
      const auto [name, value] = split_pair(words[at]);
      if (word == "--option") {
        arguments.options[name] = value_from_text(value);
      } else {
        add_field(arguments.fields, name, value);
      }
    } else if (options && word.compare(0, 2, "--") == 0) {
      throw rpln::InputError("unknown option " + word + ": expected --option or --field. Put a text that begins with " +
                             "-- after an argument that is -- alone.");
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
    if (arguments.folder.empty()) {
      std::cerr << usage;
      return 2;
    }
    answer_all(rpln::Pipeline(arguments.folder, rpln::pipeline_options_from_json(arguments.options)), arguments);
    return EXIT_SUCCESS;
  } catch (const rpln::Error& error) {
    std::cerr << "Error: " << error.what() << '\n';
    return error.exit_code();
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}
