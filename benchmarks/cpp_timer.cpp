// Times the C++ runtime for benchmarks/cpp.py, and prints JSON:
//
//   cpp_timer tokens TOKENIZER.JSON TEXT ROUNDS   a line of the file TEXT at a time: seconds of each round, tokens
//   cpp_timer answers FOLDER TEXT ROUNDS THREADS  seconds of Session::run alone, and of Pipeline from text to answer
#include <chrono>
#include <cstddef>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "rpln.hpp"

namespace {

template <class Call>
double seconds_of(Call&& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

rpln::Json time_tokens(const std::string& tokenizer_file, const std::string& path, int rounds) {
  const rpln::Tokenizer tokenizer(rpln::detail::read_tokenizer_file(tokenizer_file));
  std::vector<std::string> lines;
  std::ifstream stream(path);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  rpln::Json seconds = rpln::Json::array();
  std::size_t tokens = 0;
  for (int round = 0; round < rounds; ++round) {
    tokens = 0;
    seconds.push_back(seconds_of([&] {
      for (const std::string& line : lines) tokens += tokenizer.encode(line).size();
    }));
  }
  return {{"seconds", seconds}, {"tokens", tokens}};
}

// Both run in turn, so that what slows the machine down slows both down.
rpln::Json time_answers(const std::string& folder, const std::string& text, int rounds, std::int64_t threads) {
  rpln::PipelineOptions options;
  options.session.provider = "cpu";
  options.session.threads = threads;
  options.session.verify = false;
  const rpln::Pipeline pipeline(folder, options);
  const rpln::Session session(folder, options.session);
  const rpln::Encoding encoding = rpln::Tokenizer::from_bundle(folder, session.manifest()).encode(text);
  const rpln::Feeds feeds = rpln::detail::feeds_from_rows({&encoding}, session.graph(), session.manifest());
  rpln::Json run = rpln::Json::array();
  rpln::Json answer = rpln::Json::array();
  for (int round = 0; round < rounds; ++round) {
    run.push_back(seconds_of([&] { (void)session.run(feeds, {"logits"}); }));
    answer.push_back(seconds_of([&] { (void)pipeline(text, {{"ignore_labels", rpln::Json::array()}}); }));
  }
  return {{"tokens", encoding.size()}, {"run", run}, {"answer", answer}};
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const int rounds = std::stoi(arguments.at(3));
  const rpln::Json times = arguments[0] == "tokens"
                               ? time_tokens(arguments[1], arguments[2], rounds)
                               : time_answers(arguments[1], arguments[2], rounds, std::stoll(arguments.at(4)));
  std::cout << times.dump() << '\n';
}
