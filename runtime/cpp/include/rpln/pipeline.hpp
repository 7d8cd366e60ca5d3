// Text in, answers out: the tokenizer, batches, graph and post-processing of a bundle behind one call.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "rpln/batching.hpp"
#include "rpln/errors.hpp"
#include "rpln/generation/generator.hpp"
#include "rpln/json.hpp"
#include "rpln/limits.hpp"
#include "rpln/manifest.hpp"
#include "rpln/options.hpp"
#include "rpln/postprocess/base.hpp"
#include "rpln/postprocess/feature_extraction.hpp"
#include "rpln/postprocess/fill_mask.hpp"
#include "rpln/postprocess/multiple_choice.hpp"
#include "rpln/postprocess/question_answering.hpp"
#include "rpln/postprocess/text_classification.hpp"
#include "rpln/postprocess/token_classification.hpp"
#include "rpln/session.hpp"
#include "rpln/tokenizer/tokenizer.hpp"

namespace rpln {

namespace detail {

// Answers the items of one task, whichever it is.
class Runner {
 public:
  Runner() = default;
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;
  virtual ~Runner() = default;

  // Answers a list of items. `single` says that the caller gave one item, and not a list of one.
  [[nodiscard]] virtual Json run(const Json& items, bool single, const Json& options,
                                 std::int64_t batch_size) const = 0;

  // The parts of an item of the task.
  [[nodiscard]] virtual const Fields& fields() const = 0;
};

// A task that is answered by a single run of the graph.
template <class Task>
class TaskRunner final : public Runner {
 public:
  TaskRunner(const std::filesystem::path& folder, const std::shared_ptr<const Manifest>& manifest,
             const SessionOptions& options)
      : session_(folder, manifest, options), tokenizer_(Tokenizer::from_bundle(folder, *manifest)) {
    for (const std::string& output : Task::outputs) {
      const TensorSpec* spec = session_.graph().output(output);
      const Fact* fact = fact_from_name(output, manifest->task);
      if (!spec && fact) spec = session_.graph().output(fact->instead);
      if (!spec) throw ManifestError(session_.graph().path + " gives no " + output + ". Export the checkpoint again.");
      specs_.push_back(*spec);
      outputs_.push_back(spec->name);
    }
  }

  [[nodiscard]] Json run(const Json& items, bool single, const Json& options, std::int64_t batch_size) const override {
    const Task task({session_.manifest(), tokenizer_},
                    Options(options, Task::options, "for " + std::string(Task::name)));
    std::vector<std::vector<Encoding>> encodings;
    for (const Json& item : items) encodings.push_back(task.encode(item));
    BatchRows rows;
    for (const std::vector<Encoding>& of_item : encodings) {
      for (const Encoding& row : of_item) rows.push_back(&row);
    }
    std::vector<Scores> scores = run_rows(task, rows, batch_size);
    Json answers = Json::array();
    auto next = std::make_move_iterator(scores.begin());
    for (std::size_t at = 0; at < items.size(); ++at) {
      const auto end = next + static_cast<std::ptrdiff_t>(encodings[at].size());
      answers.push_back(task.answer({items[at], encodings[at], {next, end}}));
      next = end;
    }
    return single && !task.always_list() ? answers[0] : answers;
  }

  [[nodiscard]] const Fields& fields() const override { return Task::fields; }

 private:
  using Scores = typename Task::Scores;

  [[nodiscard]] std::vector<Scores> run_rows(const Task& task, const BatchRows& rows, std::int64_t batch_size) const {
    const Manifest& manifest = session_.manifest();
    const std::int64_t budget = token_budget(specs_, manifest.usable_length);
    std::vector<Scores> scores(rows.size());
    for (const auto& batch : batches(costs_from_rows(rows, specs_, manifest), batch_size, budget)) {
      BatchRows own;
      for (const std::size_t row : batch) own.push_back(rows[row]);
      const Feeds feeds = feeds_from_rows(own, session_.graph(), manifest);
      const std::vector<Output> outputs = session_.run(feeds, outputs_);
      std::size_t masks_before = 0;
      for (std::size_t at = 0; at < batch.size(); ++at) {
        const std::size_t masks = masks_of(*own[at], manifest).size();
        std::vector<Rows> found;
        for (std::size_t output = 0; output < outputs.size(); ++output) {
          found.push_back(
              rows_from_output(outputs[output], specs_[output], at, own[at]->size(), masks, masks_before));
        }
        scores[batch[at]] = task.score({*own[at], found});
        masks_before += masks;
      }
    }
    return scores;
  }

  Session session_;
  Tokenizer tokenizer_;
  std::vector<TensorSpec> specs_;
  Names outputs_;
};

// A task that generates text token by token.
class GenerationRunner final : public Runner {
 public:
  GenerationRunner(const std::filesystem::path& folder, const std::shared_ptr<const Manifest>& manifest,
                   const SessionOptions& options)
      : generator_(folder, manifest, options) {}

  // Every item gets a list of answers, as in the pipelines of transformers.
  [[nodiscard]] Json run(const Json& items, bool single, const Json& options, std::int64_t batch_size) const override {
    std::vector<std::string> texts;
    for (const Json& item : items) texts.emplace_back(text_from_json(item));
    Json answers = Json::array();
    for (const auto& found : generator_.texts(texts, generator_.options(options), batch_size)) {
      Json& of_text = answers.emplace_back(Json::array());
      for (const std::string& text : found) of_text.push_back({{"generated_text", text}});
    }
    return single ? answers[0] : answers;
  }

  [[nodiscard]] const Fields& fields() const override {
    static const Fields text{{"text"}};
    return text;
  }

 private:
  Generator generator_;
};

using RunnerFactory = std::unique_ptr<Runner> (*)(const std::filesystem::path&, const std::shared_ptr<const Manifest>&,
                                                  const SessionOptions&);

template <class SomeRunner>
std::unique_ptr<Runner> make_runner(const std::filesystem::path& folder,
                                    const std::shared_ptr<const Manifest>& manifest, const SessionOptions& options) {
  return std::make_unique<SomeRunner>(folder, manifest, options);
}

// A task, how its runner is made, and how many rows a batch has by default.
struct RunnerRow {
  std::string_view task;
  RunnerFactory make;
  std::int64_t batch_size;
};

inline constexpr std::array<RunnerRow, 8> runners{{
    {FeatureExtraction::name, make_runner<TaskRunner<FeatureExtraction>>, 32},
    {FillMask::name, make_runner<TaskRunner<FillMask>>, 32},
    {MultipleChoice::name, make_runner<TaskRunner<MultipleChoice>>, 32},
    {QuestionAnswering::name, make_runner<TaskRunner<QuestionAnswering>>, 32},
    {TextClassification::name, make_runner<TaskRunner<TextClassification>>, 32},
    {TokenClassification::name, make_runner<TaskRunner<TokenClassification>>, 32},
    {"text-generation", make_runner<GenerationRunner>, 8},
    {"text2text-generation", make_runner<GenerationRunner>, 8},
}};

inline const RunnerRow& runner_of_task(const std::string& task) {
  std::vector<std::string> known;
  for (const RunnerRow& row : runners) {
    if (row.task == task) return row;
    known.emplace_back(row.task);
  }
  throw ManifestError("the bundle's task is " + in_quotes(task) + ", but this rpln-runtime knows only " + join(known) +
                      ". Use a newer one.");
}

}  // namespace detail

// How a pipeline is opened.
struct PipelineOptions {
  SessionOptions session;
  std::int64_t batch_size = 0;    // the most rows in a batch; 0 stands for 32, or for 8 where text is generated
  Json options = Json::object();  // the options of the bundle's task, by name, which a call may override
};

// Reads "provider", "threads", "batch_size" and "verify" of `given`, all of which may be left out. All other names are
// options of the task. Throws InputError for a value of the wrong type or out of range.
inline PipelineOptions pipeline_options_from_json(Json given) {
  PipelineOptions options;
  const std::vector<std::string> general{"provider", "threads", "batch_size", "verify"};
  Json taken = Json::object();
  for (const std::string& name : general) {
    if (given.contains(name)) taken[name] = given[name];
    given.erase(name);
  }
  const detail::Options read(taken, general, "of a pipeline");
  if (!read.value("provider").is_null()) options.session.provider = read.text("provider");
  options.session.threads = read.optional_integer("threads", 1, limits::most_threads);
  options.batch_size = read.optional_integer("batch_size", 1).value_or(0);
  options.session.verify = read.boolean("verify", true);
  options.options = std::move(given);
  return options;
}

// The task of a bundle, ready to be called. Several threads may use it at once.
//
//   rpln::Pipeline tag("pos-tagger-brown-token-classification-fp32");
//   rpln::Json answer = tag("The dog barked.", {{"aggregation_strategy", "simple"}});
class Pipeline {
 public:
  // Opens the bundle in `folder`. Throws what Session throws, and InputError for an option that the task does not have
  // or a value out of range.
  explicit Pipeline(const std::filesystem::path& folder, PipelineOptions options = {})
      : manifest_(std::make_shared<const Manifest>(read_manifest(folder, options.session.verify))),
        options_(std::move(options.options)) {
    const detail::RunnerRow& row = detail::runner_of_task(manifest_->task);
    batch_size_ = options.batch_size ? options.batch_size : row.batch_size;
    detail::check_integer("batch_size", batch_size_, 1);
    runner_ = row.make(folder, manifest_, options.session);
    (void)runner_->run(Json::array(), false, options_, batch_size_);  // throws for options that are wrong
  }

  [[nodiscard]] const Manifest& manifest() const { return *manifest_; }

  // Returns the parts of an item. Where texts come split into words, as the options say, the text is a list of words.
  [[nodiscard]] std::vector<ItemField> item_fields() const {
    std::vector<ItemField> fields = runner_->fields();
    fields.front().several = options_.value("is_split_into_words", Json()) == true;
    return fields;
  }

  // Answers one item, or each item of a list. An item is a text, or an object with the fields of the task, such as
  // question and context; with the option is_split_into_words, it is a list of words. `options` are for this call
  // alone.
  //
  // Throws InputError for an item that this task does not take and for an unknown option.
  Json operator()(const Json& inputs, const Json& options = Json::object()) const {
    Json merged = options_;
    merged.update(options);
    const bool single = inputs.is_string() || inputs.is_object() || is_in_words(inputs, merged);
    if (!single && !inputs.is_array()) {
      throw InputError("the inputs are " + detail::kind_of(inputs) +
                       ", expected a text, an object, or a list of these.");
    }
    return runner_->run(single ? Json::array({inputs}) : inputs, single, merged, batch_size_);
  }

 private:
  // Whether the inputs are one item that is split into words, as the options say.
  static bool is_in_words(const Json& inputs, const Json& options) {
    const auto is_text = [](const Json& word) { return word.is_string(); };
    return options.value("is_split_into_words", Json()) == true && inputs.is_array() &&
           std::all_of(inputs.begin(), inputs.end(), is_text);
  }

  std::shared_ptr<const Manifest> manifest_;
  Json options_;
  std::int64_t batch_size_ = 0;
  std::unique_ptr<detail::Runner> runner_;
};

}  // namespace rpln
