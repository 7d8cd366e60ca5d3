// The tensors that the graphs of a task take and give: the table FACTS of rpln_runtime/facts.py, which
// tests/cpp/test_tasks.py compares with this one.
//
// What a manifest says is compared with these rows when it is read. A graph is compared with its manifest when it is
// opened, and its outputs whenever it runs (session.hpp). So neither a damaged manifest nor a graph that was exchanged
// gives wrong answers, or makes the runtime read beyond an output.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "rpln/json.hpp"
#include "rpln/manifest_rows.hpp"

namespace rpln::detail {

using Texts = std::vector<std::string>;

inline const Texts float_dtypes{"float32", "float16", "bfloat16"};
// The names of sizes that a bundle fixes. In a manifest an integer stands for each.
inline const Texts fixed_sizes{"num_labels", "vocab_size", "hidden_size", "embedding_size", "encoder_hidden_size",
                               "head_size", "num_attention_heads", "num_hidden_layers"};
// The sides from which a text that is too long may be cut.
inline const Texts truncation_sides{"right", "left"};
// What `problem_type` may say of the labels of a text. It decides how scores are made of logits.
inline const Texts problem_types{"regression", "single_label_classification", "multi_label_classification"};
// The task whose manifest describes the vocabulary of the encoder, which need not be that of the logits.
inline constexpr std::string_view encoder_decoder = "text2text-generation";
// The variants that run before a decoder, and do not give the outputs of the task.
inline const Texts standalone_variants{"encoder", "cross"};

// What holds for a tensor in every bundle. `shapes` are the shapes that it may have: names of dynamic axes, sizes, and
// names in `fixed_sizes`. `tasks` are those whose graphs give this output, or the one named by `instead`.
struct Fact {
  std::string name;
  std::vector<Texts> shapes;
  bool integers = false;
  Texts tasks;
  std::string instead = {};
};

inline const std::vector<Texts> id_shapes{
    {"batch", "sequence"}, {"batch", "choices", "sequence"}, {"batch", "encoder_sequence"}};

inline const std::vector<Fact> facts{
    {"input_ids", id_shapes, true, {}},
    {"attention_mask",
     {id_shapes[0], id_shapes[1], id_shapes[2], {"batch", "past_sequence + sequence"}},
     true,
     {}},
    {"token_type_ids", {id_shapes[0], id_shapes[1]}, true, {}},
    {"position_ids", {id_shapes[0], id_shapes[1]}, true, {}},
    {"masked_positions", {{"batch", "masks"}}, true, {}},
    {"encoder_attention_mask", {{"batch", "encoder_sequence"}}, true, {}},
    {"inputs_embeds",
     {{"batch", "sequence", "hidden_size"}, {"batch", "choices", "sequence", "hidden_size"}},
     false,
     {}},
    {"encoder_hidden_states", {{"batch", "encoder_sequence", "encoder_hidden_size"}}, false, {}},
    {"head_mask", {{"num_hidden_layers", "num_attention_heads"}}, false, {}},
    {"past_key_values", {{"batch", "num_attention_heads", "past_sequence", "head_size"}}, false, {}},
    {"present",
     {{"batch", "num_attention_heads", "past_sequence + sequence", "head_size"},
      {"batch", "num_attention_heads", "sequence", "head_size"}},
     false,
     {}},
    {"cross_key_values", {{"batch", "num_attention_heads", "encoder_sequence", "head_size"}}, false, {}},
    {"pooler_output", {{"batch", "hidden_size"}}, false, {}},
    {"hidden_states",
     {{"batch", "sequence", "hidden_size"}, {"batch*choices", "sequence", "hidden_size"}},
     false,
     {}},
    {"attentions",
     {{"batch", "num_attention_heads", "sequence", "sequence"},
      {"batch*choices", "num_attention_heads", "sequence", "sequence"},
      {"batch", "num_attention_heads", "sequence", "past_sequence + sequence"}},
     false,
     {}},
    {"cross_attentions", {{"batch", "num_attention_heads", "sequence", "encoder_sequence"}}, false, {}},
    {"last_hidden_state",
     {{"batch", "sequence", "hidden_size"}, {"batch", "encoder_sequence", "encoder_hidden_size"}},
     false,
     {"feature-extraction"},
     "sentence_embedding"},
    {"sentence_embedding", {{"batch", "embedding_size"}}, false, {}},
    {"logits",
     {{"batch", "sequence", "vocab_size"}, {"masked_tokens", "vocab_size"}, {"batch", "masks", "vocab_size"}},
     false,
     {"fill-mask"}},
    {"logits", {{"batch", "num_labels"}}, false, {"text-classification"}},
    {"logits", {{"batch", "sequence", "num_labels"}}, false, {"token-classification"}},
    {"start_logits", {{"batch", "sequence"}}, false, {"question-answering"}},
    {"end_logits", {{"batch", "sequence"}}, false, {"question-answering"}},
    {"logits", {{"batch", "choices"}}, false, {"multiple-choice"}},
    {"logits",
     {{"batch", "1", "vocab_size"}, {"batch", "sequence", "vocab_size"}},
     false,
     {"text-generation", "text2text-generation"}},
};

inline bool holds(const Texts& texts, std::string_view wanted) {
  return std::find(texts.begin(), texts.end(), wanted) != texts.end();
}

// Returns the row about the tensor `name` of a bundle for `task`, or none. A row of the task comes before others: a
// decoder's encoder gives a last_hidden_state, too.
inline const Fact* fact_from_name(const std::string& name, const std::string& task) {
  const Fact* found = nullptr;
  std::size_t count = 0;
  for (const Fact& fact : facts) {
    if (name != fact.name && name.substr(0, fact.name.size() + 1) != fact.name + ".") continue;
    if (holds(fact.tasks, task)) return &fact;
    if (++count == 1) found = &fact;
  }
  return count == 1 ? found : nullptr;
}

inline std::string text_from_dimension(const Dimension& dimension) {
  const auto* size = std::get_if<std::int64_t>(&dimension);
  return size ? std::to_string(*size) : std::get<std::string>(dimension);
}

inline std::string names_of_axes(const std::vector<Dimension>& shape) {
  Texts names;
  for (const Dimension& dimension : shape) names.push_back(text_from_dimension(dimension));
  return join(names);
}

// Finds the first field of a manifest that does not fit the others or the table.
class Contradiction {
 public:
  explicit Contradiction(const Manifest& manifest) : manifest_(manifest) {}

  // Returns what does not fit and what was expected there; empty if everything fits.
  [[nodiscard]] std::string find() const {
    if (!holds(truncation_sides, manifest_.truncation_side)) {
      return "the manifest.truncation_side is " + in_quotes(manifest_.truncation_side) + ", expected " +
             join(truncation_sides, " or ");
    }
    if (manifest_.problem_type && !holds(problem_types, *manifest_.problem_type)) {
      return "the manifest.problem_type is " + in_quotes(*manifest_.problem_type) + ", expected null or " +
             join(problem_types, " or ");
    }
    for (const auto& [name, axis] : manifest_.axes) {
      if (axis.maximum && axis.minimum > *axis.maximum) {
        return "the manifest.axes." + name + ".minimum is " + std::to_string(axis.minimum) +
               ", expected no more than the maximum, " + std::to_string(*axis.maximum);
      }
    }
    std::string repeated = repeats("the manifest.files", "path", manifest_.files, &BundleFile::path);
    if (repeated.empty()) repeated = repeats("the manifest.graphs", "variant", manifest_.graphs, &Graph::variant);
    if (!repeated.empty()) return repeated;
    for (std::size_t index = 0; index < manifest_.graphs.size(); ++index) {
      const std::string where = "the manifest.graphs[" + std::to_string(index) + "]";
      if (const std::string reason = of_graph(where, manifest_.graphs[index]); !reason.empty()) return reason;
    }
    return of_sentences();
  }

 private:
  // Returns the first row of a list whose `name`, the field that tells rows apart, is that of an earlier row.
  template <typename Row>
  [[nodiscard]] static std::string repeats(const std::string& where, const std::string& field,
                                           const std::vector<Row>& rows, std::string Row::* name) {
    std::map<std::string_view, std::size_t> first;
    for (std::size_t place = 0; place < rows.size(); ++place) {
      const auto [earlier, is_new] = first.emplace(rows[place].*name, place);
      if (is_new) continue;
      return where + "[" + std::to_string(place) + "]." + field + " is " + in_quotes(rows[place].*name) +
             ", expected another one than in " + where + "[" + std::to_string(earlier->second) + "]";
    }
    return {};
  }

  [[nodiscard]] std::string of_sentences() const {
    const Sentences sentences = manifest_.sentences.value_or(Sentences{});
    const bool vectors = std::any_of(manifest_.graphs.begin(), manifest_.graphs.end(),
                                     [](const Graph& graph) { return graph.output("sentence_embedding") != nullptr; });
    if (vectors == sentences.poolings.empty()) {
      return "the manifest.sentences.poolings holds " + std::to_string(sentences.poolings.size()) +
             " names, expected some if a graph gives \"sentence_embedding\", and none otherwise";
    }
    if (sentences.default_prompt && sentences.prompts.count(*sentences.default_prompt) == 0) {
      return "the manifest.sentences.default_prompt is " + in_quotes(*sentences.default_prompt) +
             ", expected one of prompts or null";
    }
    return {};
  }

  [[nodiscard]] std::string of_graph(const std::string& where, const Graph& graph) const {
    for (const auto* side : {&graph.inputs, &graph.outputs}) {
      const std::string list = where + (side == &graph.inputs ? ".inputs" : ".outputs");
      const std::string repeated = repeats(list, "name", *side, &TensorSpec::name);
      if (!repeated.empty()) return repeated;
      for (std::size_t place = 0; place < side->size(); ++place) {
        const std::string reason = of_tensor(list + "[" + std::to_string(place) + "]", (*side)[place], graph);
        if (!reason.empty()) return reason;
      }
    }
    for (const Fact& fact : facts) {
      const bool needed = holds(fact.tasks, manifest_.task) && !holds(standalone_variants, graph.variant);
      if (needed && !graph.output(fact.name) && !graph.output(fact.instead)) {
        return where + ".outputs has no tensor of the name " + in_quotes(fact.name) +
               ", expected one in each graph for the task " + manifest_.task;
      }
    }
    return {};
  }

  [[nodiscard]] std::string of_tensor(const std::string& where, const TensorSpec& spec, const Graph& graph) const {
    const Fact* fact = fact_from_name(spec.name, manifest_.task);
    Texts dtypes = fact && fact->integers ? Texts() : float_dtypes;
    if (!fact || fact->integers) dtypes.insert(dtypes.begin(), "int64");
    if (!holds(dtypes, spec.dtype)) {
      return where + ".dtype is " + in_quotes(spec.dtype) + ", expected " + join(dtypes, " or ") + ": " +
             in_quotes(spec.name);
    }
    if (fact && !fits_any(spec, *fact, graph)) {
      Texts expected;
      for (const Texts& shape : fact->shapes) expected.push_back(shown_shape(shape, graph));
      return where + ".shape is [" + names_of_axes(spec.shape) + "], expected " + join(expected, " or ") + ": " +
             in_quotes(spec.name) + ", where labels holds " + std::to_string(manifest_.labels.size()) +
             " names and vocab_size is " + std::to_string(manifest_.vocab_size);
    }
    if (spec.name == "input_ids" && known_size("vocab_size", graph) && spec.values &&
        *spec.values != manifest_.vocab_size) {
      return where + ".values is " + std::to_string(*spec.values) + ", expected vocab_size, " +
             std::to_string(manifest_.vocab_size);
    }
    return {};
  }

  // Returns a size in `fixed_sizes` that the manifest has another field for.
  [[nodiscard]] std::optional<std::int64_t> known_size(const std::string& axis, const Graph& graph) const {
    if (axis == "num_labels") return static_cast<std::int64_t>(manifest_.labels.size());
    const bool own = manifest_.task != encoder_decoder || holds(standalone_variants, graph.variant);
    if (axis == "vocab_size" && own) return manifest_.vocab_size;
    return std::nullopt;
  }

  [[nodiscard]] bool fits_any(const TensorSpec& spec, const Fact& fact, const Graph& graph) const {
    return std::any_of(fact.shapes.begin(), fact.shapes.end(),
                       [&](const Texts& shape) { return fits(spec.shape, shape, graph); });
  }

  [[nodiscard]] bool fits(const std::vector<Dimension>& found, const Texts& expected, const Graph& graph) const {
    if (found.size() != expected.size()) return false;
    for (std::size_t axis = 0; axis < found.size(); ++axis) {
      const auto* size = std::get_if<std::int64_t>(&found[axis]);
      const bool fixed = holds(fixed_sizes, expected[axis]);
      if (fixed && (!size || *size != known_size(expected[axis], graph).value_or(*size))) return false;
      if (!fixed && (text_from_dimension(found[axis]) != expected[axis] || (size != nullptr) != (expected[axis] == "1"))) {
        return false;
      }
    }
    return true;
  }

  [[nodiscard]] std::string shown_shape(const Texts& shape, const Graph& graph) const {
    Texts shown;
    for (const std::string& axis : shape) {
      const std::optional<std::int64_t> size = known_size(axis, graph);
      shown.push_back(size ? std::to_string(*size) : axis);
    }
    return "[" + join(shown) + "]";
  }

  const Manifest& manifest_;
};

inline std::string contradiction(const Manifest& manifest) { return Contradiction(manifest).find(); }

}  // namespace rpln::detail
