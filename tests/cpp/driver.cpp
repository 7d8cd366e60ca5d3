// The program by which tests call the runtime. It takes a command and a path as arguments, and reads requests in JSON,
// one a line. It answers each with a line.
//
//   driver tokenize TOKENIZER.JSON   "text" or ["text", "pair"]           -> [[id, start, end, byte start, ..., type], ...]
//   driver decode   TOKENIZER.JSON   {"ids": [...], "skip": true}         -> "text"
//   driver words    (none)           "text"                               -> the bytes of each word, before it is encoded
//   driver open     (none)           "folder"                             -> the manifest's task
//   driver run      FOLDER           {"feeds": {...}, "outputs": [...]}   -> {"name": {"shape": [...], "values": [...]}}
//   driver answer   FOLDER           {"inputs": ..., "options": {...}}    -> the answer
//   driver stream   FOLDER           {"inputs": [...], "options": {...}}  -> [texts, pieces of each]
//   driver facts    (none)           null                                 -> what the runtime knows of tasks and names
//
// An error is {"error": message, "code": exit code}. Options of the bundle may follow the path, as JSON.
#include <functional>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "rpln.hpp"

namespace {

using rpln::Json;
using Answer = std::function<Json(const Json&)>;

Json json_from_encoding(const rpln::Encoding& encoding) {
  Json rows = Json::array();
  for (const rpln::Token& token : encoding) {
    rows.push_back({token.id, token.characters.begin, token.characters.end, token.bytes.begin, token.bytes.end,
                    token.word, token.sequence, token.position, token.type});
  }
  return rows;
}

Answer tokenize(const std::string& path, const Json&) {
  auto tokenizer = std::make_shared<rpln::Tokenizer>(rpln::detail::read_tokenizer_file(path));
  return [tokenizer](const Json& text) {
    if (text.is_string()) return json_from_encoding(tokenizer->encode(text.get<std::string>()));
    return json_from_encoding(tokenizer->encode(text[0].get<std::string>(), text[1].get<std::string>()));
  };
}

Answer decode(const std::string& path, const Json&) {
  auto tokenizer = std::make_shared<rpln::Tokenizer>(rpln::detail::read_tokenizer_file(path));
  return [tokenizer](const Json& request) -> Json {
    return tokenizer->decode(request["ids"].get<std::vector<std::int64_t>>(), request["skip"].get<bool>());
  };
}

Answer words(const std::string&, const Json&) {
  return [](const Json& text) {
    Json lengths = Json::array();
    for (rpln::detail::Words rest(text.get_ref<const std::string&>()); !rest.done();) {
      lengths.push_back(rest.next().size());
    }
    return lengths;
  };
}

Answer open(const std::string&, const Json&) {
  return [](const Json& folder) -> Json { return rpln::read_manifest(folder.get<std::string>()).task; };
}

rpln::Tensor tensor_from_json(const Json& json) {
  rpln::Tensor tensor{json["shape"].get<std::vector<std::int64_t>>(), {}};
  if (json["dtype"] == "int64") {
    tensor.values = json["values"].get<std::vector<std::int64_t>>();
  } else {
    tensor.values = json["values"].get<std::vector<float>>();
  }
  return tensor;
}

Answer run(const std::string& folder, const Json& options) {
  rpln::SessionOptions opened = rpln::pipeline_options_from_json(options).session;
  auto session = std::make_shared<rpln::Session>(folder, opened);
  return [session](const Json& request) {
    rpln::Feeds feeds;
    for (const auto& [name, tensor] : request["feeds"].items()) feeds.emplace(name, tensor_from_json(tensor));
    const auto names = request["outputs"].get<std::vector<std::string>>();
    const std::vector<rpln::Output> outputs = session->run(feeds, names);
    Json answer = Json::object();
    for (std::size_t at = 0; at < names.size(); ++at) {
      const auto count = static_cast<std::ptrdiff_t>(rpln::detail::elements(outputs[at].shape()));
      const float* data = outputs[at].data();
      answer[names[at]] = {{"shape", outputs[at].shape()}, {"values", std::vector<float>(data, data + count)}};
    }
    return answer;
  };
}

Answer answer(const std::string& folder, const Json& options) {
  auto pipeline = std::make_shared<rpln::Pipeline>(folder, rpln::pipeline_options_from_json(options));
  return [pipeline](const Json& request) { return (*pipeline)(request["inputs"], request["options"]); };
}

Answer stream(const std::string& folder, const Json& options) {
  const auto manifest = std::make_shared<const rpln::Manifest>(rpln::read_manifest(folder));
  auto generator = std::make_shared<rpln::Generator>(folder, manifest, rpln::pipeline_options_from_json(options).session);
  return [generator](const Json& request) -> Json {
    const auto inputs = request["inputs"].get<std::vector<std::string>>();
    std::vector<std::vector<std::string>> pieces(inputs.size());
    const auto keep = [&](std::size_t prompt, std::size_t, const std::string& piece) { pieces[prompt].push_back(piece); };
    const auto texts = generator->texts(inputs, generator->options(request["options"]), 8, keep);
    return Json::array({texts, pieces});
  };
}

template <class... Tasks>
Json facts_of_tasks() {
  Json facts = Json::object();
  const auto rows = [](const rpln::detail::Fields& fields) {
    Json found = Json::array();
    for (const rpln::ItemField& row : fields) {
      found.push_back({{"name", row.name}, {"optional", row.optional}, {"several", row.several}});
    }
    return found;
  };
  ((facts[std::string(Tasks::name)] =
        Json{{"options", Tasks::options}, {"outputs", Tasks::outputs}, {"fields", rows(Tasks::fields)}}),
   ...);
  return facts;
}

Json facts_of_tensors() {
  Json rows = Json::array();
  for (const auto& fact : rpln::detail::facts) {
    rows.push_back({{"name", fact.name}, {"shapes", fact.shapes}, {"integers", fact.integers}, {"tasks", fact.tasks},
                    {"instead", fact.instead}});
  }
  return Json{{"rows", rows},
              {"floats", rpln::detail::float_dtypes},
              {"fixed_sizes", rpln::detail::fixed_sizes},
              {"standalone", rpln::detail::standalone_variants},
              {"encoder_decoder", rpln::detail::encoder_decoder},
              {"problem_types", rpln::detail::problem_types},
              {"truncation_sides", rpln::detail::truncation_sides}};
}

Json facts_of_limits() {
  Json documents = Json::object();
  for (const auto& row : rpln::limits::documents) documents[std::string(row.kind)] = Json::array({row.size, row.depth});
  Json ranges = Json::object();
  for (const auto& row : rpln::limits::ranges) ranges[std::string(row.field)] = Json::array({row.minimum, row.maximum});
  const rpln::limits::Range other = rpln::limits::range_of_field("another");
  return Json{{"documents", documents},
              {"ranges", ranges},
              {"optional_fields", rpln::limits::optional_fields},
              {"others", Json::array({other.minimum, other.maximum})},
              {"path", rpln::limits::most_path_bytes},
              {"name", rpln::limits::most_name_bytes},
              {"line", rpln::limits::most_line_bytes},
              {"window", Json::array({rpln::JsonLines().window, rpln::detail::most_window_bytes})}};
}

Answer facts(const std::string&, const Json&) {
  namespace names = rpln::names;
  return [](const Json&) {
    Json batch_sizes = Json::object();
    for (const auto& row : rpln::detail::runners) batch_sizes[std::string(row.task)] = row.batch_size;
    Json providers = Json::object();
    for (const auto& row : rpln::detail::providers) providers[std::string(row.name)] = row.onnxruntime_name;
    const rpln::GenerationOptions chosen;
    return Json{
        {"tasks", facts_of_tasks<rpln::detail::FeatureExtraction, rpln::detail::FillMask, rpln::detail::MultipleChoice,
                                 rpln::detail::QuestionAnswering, rpln::detail::TextClassification,
                                 rpln::detail::TokenClassification>()},
        {"batch_sizes", batch_sizes},
        {"providers", providers},
        {"python_providers", rpln::detail::python_providers},
        {"schema_version", rpln::schema_version},
        {"facts", facts_of_tensors()},
        {"limits", facts_of_limits()},
        {"names", {{"batch", names::batch}, {"sequence", names::sequence}, {"choices", names::choices},
                   {"batch_choices", names::batch_choices}, {"masks", names::masks}, {"masked_tokens", names::masked_tokens},
                   {"masked_positions", names::masked_positions}}},
        {"generation", {{"names", rpln::detail::generation_option_names},
                        {"temperature", chosen.temperature}, {"top_k", chosen.top_k}, {"top_p", chosen.top_p},
                        {"min_p", chosen.min_p}, {"do_sample", chosen.do_sample}, {"positions", chosen.positions},
                        {"repetition_penalty", chosen.repetition_penalty}, {"min_length", chosen.min_length},
                        {"no_repeat_ngram_size", chosen.no_repeat_ngram_size}, {"num_beams", chosen.num_beams},
                        {"num_return_sequences", chosen.num_return_sequences}}},
        {"prefixes", {rpln::detail::past_prefix, rpln::detail::present_prefix, rpln::detail::cross_prefix}}};
  };
}

const std::map<std::string, Answer (*)(const std::string&, const Json&)> commands{
    {"tokenize", tokenize}, {"decode", decode}, {"words", words}, {"open", open},
    {"run", run},           {"answer", answer}, {"stream", stream}, {"facts", facts}};

}  // namespace

int main(int argc, char** argv) {
  const std::string path = argv[2];
  const Json options = argc > 3 ? Json::parse(argv[3]) : Json::object();
  std::optional<Answer> command;
  for (std::string line; std::getline(std::cin, line);) {
    try {
      if (!command) command = commands.at(argv[1])(path, options);
      std::cout << (*command)(Json::parse(line)).dump() << std::endl;
    } catch (const rpln::Error& error) {
      std::cout << Json{{"error", error.what()}, {"code", error.exit_code()}}.dump() << std::endl;
    }
  }
}
