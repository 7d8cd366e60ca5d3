// Generates text with the bundle of a decoder: texts or tokens in, what follows them out.
//
// Greedy search gives the same tokens as the Python runtime. Samples have the same distribution, but not the same
// tokens, because other random numbers are drawn. With a seed they are the same on every machine.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "rpln/batching.hpp"
#include "rpln/errors.hpp"
#include "rpln/generation/logits.hpp"
#include "rpln/generation/options.hpp"
#include "rpln/generation/processor.hpp"
#include "rpln/generation/steps.hpp"
#include "rpln/generation/text_stream.hpp"
#include "rpln/manifest.hpp"
#include "rpln/session.hpp"
#include "rpln/tokenizer/tokenizer.hpp"

namespace rpln {

using Prompt = std::vector<std::int64_t>;

// Functions that are called with each token, or each piece of text, as soon as there is one. `prompt` is the place of
// the prompt in the call, `sequence` the place of the sequence among those of the prompt.
using OnToken = std::function<void(std::size_t prompt, std::size_t sequence, std::int64_t token)>;
using OnText = std::function<void(std::size_t prompt, std::size_t sequence, const std::string& piece)>;

// A decoder, or an encoder with its decoder, ready to generate. Several threads may use it at once.
class Generator {
 public:
  // Throws what Session throws, and InputError for a bundle that does not generate.
  Generator(const std::filesystem::path& folder, const std::shared_ptr<const Manifest>& manifest,
            const SessionOptions& options)
      : manifest_(manifest), generation_(generation_of(folder, *manifest)),
        tokenizer_(Tokenizer::from_bundle(folder, *manifest)) {
    const auto [prompt, step] = decoder_variants();
    std::vector<std::string> wanted{prompt, step};
    if (find_variant("encoder")) wanted.emplace_back("encoder");
    for (const std::string& variant : wanted) {
      SessionOptions own = options;
      own.variant = variant;
      if (!sessions_.count(variant)) sessions_.emplace(variant, std::make_unique<Session>(folder, manifest, own));
    }
    prompt_ = sessions_.at(prompt).get();
    step_ = sessions_.at(step).get();
    if (find_variant("encoder")) encoder_ = sessions_.at("encoder").get();
    check_inputs();
    check_defaults();
  }

  // Returns the options in `given`, by name, and for the others those that the bundle's checkpoint sets. Throws
  // InputError for options that a generation does not have, or that do not go together.
  [[nodiscard]] GenerationOptions options(const Json& given = Json::object()) const {
    return generation_options_from_json(given, generation_.defaults);
  }

  [[nodiscard]] const Tokenizer& tokenizer() const { return tokenizer_; }

  // Whether the new text continues the prompt. The text of an encoder-decoder does not: it is an answer.
  [[nodiscard]] bool continues_prompts() const { return !encoder_; }

  // Returns for each text its answers, as many as `options.num_return_sequences` says. `on_text` gets them piece by
  // piece.
  [[nodiscard]] std::vector<std::vector<std::string>> texts(const std::vector<std::string>& inputs,
                                                            const GenerationOptions& options, std::int64_t batch_size,
                                                            const OnText& on_text = nullptr) const {
    check(options);
    std::vector<Prompt> prompts;
    for (const std::string& text : inputs) prompts.push_back(prompt_from_text(text));
    std::map<std::pair<std::size_t, std::size_t>, TextStream> streams;
    OnToken on_token;
    if (on_text) {
      on_token = [&](std::size_t prompt, std::size_t sequence, std::int64_t token) {
        TextStream& stream = streams.try_emplace({prompt, sequence}, tokenizer_).first->second;
        if (const std::string piece = stream.push(token); !piece.empty()) on_text(prompt, sequence, piece);
      };
    }
    const auto found = tokens(prompts, options, batch_size, on_token);
    for (const auto& [place, stream] : streams) {
      if (const std::string rest = stream.close(); !rest.empty()) on_text(place.first, place.second, rest);
    }
    const bool with_prompt = continues_prompts() && options.return_full_text.value_or(true);
    std::vector<std::vector<std::string>> answers(inputs.size());
    for (std::size_t at = 0; at < inputs.size(); ++at) {
      for (const Prompt& sequence : found[at]) {
        answers[at].push_back((with_prompt ? inputs[at] : "") + tokenizer_.decode(sequence, true));
      }
    }
    return answers;
  }

  // Returns for each prompt its new tokens, including the one that ended the sequence. An empty prompt stands for the
  // token that texts begin with. Throws InputError for options and prompts that the bundle does not take.
  [[nodiscard]] std::vector<std::vector<Prompt>> tokens(const std::vector<Prompt>& prompts,
                                                        const GenerationOptions& options, std::int64_t batch_size,
                                                        const OnToken& on_token = nullptr) const {
    check(options);
    const std::vector<Prompt> contexts = contexts_from_prompts(prompts);
    const auto count = static_cast<std::size_t>(options.num_return_sequences);
    std::vector<std::vector<Prompt>> found(prompts.size(), std::vector<Prompt>(count));
    const std::uint64_t entropy = options.seed ? static_cast<std::uint64_t>(*options.seed) : std::random_device()();
    for (const Batch& batch : plan(prompts, contexts, options, batch_size)) {
      std::vector<Row> rows;
      for (const std::size_t place : batch.places) {
        for (std::size_t sequence = 0; sequence < count; ++sequence) {
          rows.push_back({place, sequence, &contexts[place], random_of_row(options, entropy, place, sequence),
                          &found[place][sequence]});
        }
      }
      grow(std::move(rows), batch, prompts, contexts, options, on_token);
    }
    return found;
  }

  // Throws InputError for options that this bundle does not have.
  void check(const GenerationOptions& options) const {
    check_vocabulary(options);
    if (options.num_beams > 1) {
      const bool own = generation_.defaults.count("num_beams") > 0;
      throw InputError("num_beams is " + std::to_string(options.num_beams) +
                       (own ? ", as the bundle's checkpoint sets it for calls that do not say" : "") +
                       ": only Python's rpln_runtime has beam search. Use that, or pass num_beams=1 for greedy search "
                       "or sampling.");
    }
    if (options.positions != "forward" && !step_->graph().input("position_ids")) {
      throw InputError("positions is " + detail::in_quotes(options.positions) + ", but " + step_->graph().path +
                       " takes no position_ids: expected \"forward\". Export the checkpoint with a cache, or with the "
                       "input position_ids.");
    }
    if (!continues_prompts() && options.return_full_text) {
      throw InputError("return_full_text is for decoders that continue a prompt: this one answers a text.");
    }
  }

 private:
  // Prompts that run together, by their places in the call, and how many new tokens each may get.
  struct Batch {
    std::vector<std::size_t> places;
    std::int64_t limit;
  };

  // A sequence that is growing.
  struct Row {
    std::size_t prompt;
    std::size_t sequence;
    const Prompt* context;
    std::mt19937_64 random;
    Prompt* tokens;
  };

  static const Generation& generation_of(const std::filesystem::path& folder, const Manifest& manifest) {
    if (manifest.generation) return *manifest.generation;
    throw InputError(folder.string() + " is a bundle for " + manifest.task +
                     ", expected a bundle of a decoder, whose manifest says how to generate.");
  }

  [[nodiscard]] bool find_variant(const std::string& variant) const {
    return std::any_of(manifest_->graphs.begin(), manifest_->graphs.end(),
                       [&](const Graph& graph) { return graph.variant == variant; });
  }

  // Returns the variants of the graphs that run the prompt and the steps after it. They are the fastest ones of the
  // bundle; "full", without a cache, computes all earlier tokens again in every step.
  [[nodiscard]] std::pair<std::string, std::string> decoder_variants() const {
    if (find_variant("with-past")) return {"with-past", "with-past"};
    if (find_variant("prefill") && find_variant("decode")) return {"prefill", "decode"};
    if (find_variant("full")) return {"full", "full"};
    std::vector<std::string> found;
    for (const Graph& graph : manifest_->graphs) found.push_back(graph.variant);
    throw InputError("the bundle holds " + detail::join(found) +
                     " and no graph of a decoder: expected with-past, or prefill and decode, or full. Export the "
                     "checkpoint again with one of them.");
  }

  // Throws ManifestError for options in the manifest that the decoder cannot have.
  void check_defaults() const {
    try {
      check_vocabulary(options());
    } catch (const InputError& error) {
      throw ManifestError(std::string(manifest_name) + " has other options in generation.defaults than a decoder can "
                          "have: " + error.what() + " Export the checkpoint again.");
    }
  }

  // Throws InputError for a token of the options that the decoder does not know.
  void check_vocabulary(const GenerationOptions& options) const {
    const TensorSpec* logits = prompt_->graph().output("logits");
    const std::int64_t most = logits ? std::get<std::int64_t>(logits->shape.back()) - 1 : 0;
    const auto check_all = [&](const char* name, const Prompt& tokens) {
      for (const std::int64_t token : tokens) {
        detail::check_integer("a token of " + std::string(name), token, 0, most);
      }
    };
    for (const Prompt& word : options.bad_words_ids) check_all("bad_words_ids", word);
    check_all("suppress_tokens", options.suppress_tokens);
    check_all("begin_suppress_tokens", options.begin_suppress_tokens);
    if (options.forced_bos_token_id) check_all("forced_bos_token_id", {*options.forced_bos_token_id});
    check_all("forced_eos_token_id", options.forced_eos_token_id);
  }

  void check_inputs() const {
    const std::vector<std::string> from_tokens{"input_ids", "attention_mask", "position_ids", "token_type_ids",
                                               "encoder_attention_mask"};
    bool reads_encoder = false;
    for (const Session* session : {prompt_, step_}) {
      for (const TensorSpec& spec : session->graph().inputs) {
        const bool of_encoder = detail::starts_with(spec.name, detail::cross_prefix);
        reads_encoder = reads_encoder || of_encoder;
        const bool follows = of_encoder || detail::starts_with(spec.name, detail::past_prefix) ||
                             std::find(from_tokens.begin(), from_tokens.end(), spec.name) != from_tokens.end();
        if (!follows && !detail::ones_of_fixed(spec)) {
          throw InputError(session->graph().path + " takes " + detail::in_quotes(spec.name) +
                           ", which cannot be made from tokens: use rpln::Session, or export without it.");
        }
      }
    }
    if (reads_encoder && !encoder_) {
      throw ManifestError("the decoder reads an encoder's output, and the bundle holds no encoder. Only Python's "
                          "rpln_runtime takes the output of another encoder.");
    }
    if (encoder_ && !generation_.start_token_id) {
      throw ManifestError("the manifest names no start_token_id for the decoder. Export the checkpoint again.");
    }
  }

  // Returns how many tokens the decoder takes, earlier tokens and padding included.
  [[nodiscard]] std::int64_t limit() const {
    const TensorSpec* mask = step_->graph().input("attention_mask");
    const auto* axis = mask && mask->shape.size() == 2 ? std::get_if<std::string>(&mask->shape[1]) : nullptr;
    if (axis && manifest_->axes.at(*axis).maximum) return *manifest_->axes.at(*axis).maximum;
    throw ManifestError("the manifest gives no maximum for the tokens of " + step_->graph().path +
                        ": expected the number of positions. Export the checkpoint again.");
  }

  // Returns the tokens of a text. A decoder gets the special tokens before the text, but not those after it, because
  // the text goes on; an encoder gets both.
  [[nodiscard]] Prompt prompt_from_text(const std::string& text) const {
    tokenizer_.check_bytes(text, encoder_ ? encoder_->manifest().usable_length : limit(), "shorten it.");
    const Encoding encoding = tokenizer_.encode(text);
    Prompt ids = ids_of(encoding);
    if (!continues_prompts()) return ids;
    const Span inside = detail::span_of(encoding, 0);
    ids.resize(inside.size() ? static_cast<std::size_t>(inside.end) : 0);
    return ids;
  }

  // Returns the tokens that the decoder starts with, for each prompt.
  [[nodiscard]] std::vector<Prompt> contexts_from_prompts(const std::vector<Prompt>& prompts) const {
    std::vector<Prompt> contexts;
    for (const Prompt& prompt : prompts) {
      for (const std::int64_t token : prompt) {
        detail::check_integer("a prompt's token", token, 0, manifest_->vocab_size - 1);
      }
      if (encoder_) {
        if (prompt.empty() || static_cast<std::int64_t>(prompt.size()) > manifest_->usable_length) {
          throw InputError("a text has " + std::to_string(prompt.size()) + " tokens, the encoder takes 1 to " +
                           std::to_string(manifest_->usable_length) + ".");
        }
        contexts.push_back({*generation_.start_token_id});
      } else if (!prompt.empty()) {
        contexts.push_back(prompt);
      } else if (generation_.bos_token_id) {
        contexts.push_back({*generation_.bos_token_id});
      } else {
        throw InputError("a prompt is empty, and the model has no token to begin with: give it a text.");
      }
    }
    return contexts;
  }

  // Returns how many tokens may follow `context`: as many as were asked for, or the default. The last of them is never
  // fed to the decoder, so it needs no room.
  [[nodiscard]] std::int64_t new_tokens(const Prompt& context, std::optional<std::int64_t> asked) const {
    const auto length = static_cast<std::int64_t>(context.size());
    const std::int64_t room = limit() - length + 1;
    const std::string prompt = "a prompt of " + std::to_string(length) + " tokens leaves room for ";
    if (room < 1) {
      throw InputError("a prompt has " + std::to_string(length) + " tokens, the limit of this model is " +
                       std::to_string(limit()) + ": it leaves no room for new ones. Shorten it.");
    }
    if (asked && *asked > room) {
      throw InputError("max_new_tokens is " + std::to_string(*asked) + ", but " + prompt + std::to_string(room) +
                       ", as this model takes " + std::to_string(limit()) + ". Lower it, or shorten the prompt.");
    }
    if (asked) return *asked;
    if (generation_.max_new_tokens) return std::min(*generation_.max_new_tokens, room);
    if (generation_.max_length) return std::min(std::max<std::int64_t>(*generation_.max_length - length, 1), room);
    return std::min<std::int64_t>(20, room);
  }

  // Splits the prompts into batches of about `batch_size` sequences. All sequences of a prompt are in one batch.
  [[nodiscard]] std::vector<Batch> plan(const std::vector<Prompt>& prompts, const std::vector<Prompt>& contexts,
                                        const GenerationOptions& options, std::int64_t batch_size) const {
    std::map<std::int64_t, std::vector<std::size_t>> by_limit;
    for (std::size_t place = 0; place < contexts.size(); ++place) {
      by_limit[new_tokens(contexts[place], options.max_new_tokens)].push_back(place);
    }
    const std::int64_t size = std::max<std::int64_t>(batch_size / options.num_return_sequences, 1);
    std::vector<TensorSpec> logits;
    if (const TensorSpec* spec = prompt_->graph().output("logits")) logits.push_back(*spec);
    std::vector<Batch> planned;
    for (const auto& [most, places] : by_limit) {
      std::vector<std::int64_t> lengths;
      for (const std::size_t place : places) {
        lengths.push_back(static_cast<std::int64_t>((encoder_ ? prompts : contexts)[place].size()));
      }
      for (const auto& batch : batches(lengths, size, detail::token_budget(logits, limit()))) {
        Batch& own = planned.emplace_back(Batch{{}, most});
        for (const std::size_t at : batch) own.places.push_back(places[at]);
      }
    }
    return planned;
  }

  // Returns the random numbers of one sequence. With a seed they depend on its place among the sequences of its prompt,
  // and not on the other prompts of the call.
  static std::mt19937_64 random_of_row(const GenerationOptions& options, std::uint64_t entropy, std::size_t place,
                                       std::size_t sequence) {
    std::seed_seq seeds{static_cast<std::uint32_t>(entropy), static_cast<std::uint32_t>(entropy >> 32U),
                        static_cast<std::uint32_t>(sequence),
                        options.seed ? 0U : static_cast<std::uint32_t>(place) + 1U};
    return std::mt19937_64(seeds);
  }

  static detail::Ids padded_ids(const std::vector<const Prompt*>& rows, std::int64_t padding, bool on_left,
                                detail::Ids& mask) {
    std::size_t width = 0;
    for (const Prompt* row : rows) width = std::max(width, row->size());
    detail::Ids ids(rows.size(), width, padding);
    mask = detail::Ids(rows.size(), width);
    for (std::size_t at = 0; at < rows.size(); ++at) {
      const std::size_t first = on_left ? width - rows[at]->size() : 0;
      std::copy(rows[at]->begin(), rows[at]->end(), ids.row(at) + first);
      std::fill_n(mask.row(at) + first, rows[at]->size(), 1);
    }
    return ids;
  }

  // Adds tokens to the rows of a batch until every one has ended.
  void grow(std::vector<Row> rows, const Batch& batch, const std::vector<Prompt>& prompts,
            const std::vector<Prompt>& contexts, const GenerationOptions& options, const OnToken& on_token) const {
    std::vector<const Prompt*> starts;
    std::vector<const Prompt*> texts;
    for (const std::size_t place : batch.places) {
      starts.push_back(&contexts[place]);
      texts.push_back(&prompts[place]);
    }
    detail::Ids mask;
    // The padding is pad_position and not pad_token_id, which a checkpoint may change: a graph that counts positions
    // itself takes this id for padding.
    const detail::Ids ids = padded_ids(starts, generation_.pad_position, true, mask);
    std::optional<detail::CrossAttention> cross;
    if (encoder_) {
      detail::Ids text_mask;
      detail::Ids text_ids = padded_ids(texts, manifest_->pad_token_id, false, text_mask);
      cross.emplace(*encoder_, std::move(text_ids), std::move(text_mask));
    }
    const detail::Positions positions(options.positions, generation_);
    detail::Steps steps(*prompt_, *step_, std::move(mask), positions, std::move(cross));
    detail::Logits logits = steps.start(ids);
    std::vector<std::size_t> growing;
    for (std::size_t row = 0; row < rows.size(); ++row) {
      growing.push_back(row / static_cast<std::size_t>(options.num_return_sequences));
    }
    steps.select(growing);
    logits = logits.select(growing);
    const detail::LogitsProcessor processor(options, stops_of(options), batch.limit);
    while (true) {
      std::vector<Row> left;
      std::vector<std::int64_t> chosen;
      growing.clear();
      for (std::size_t at = 0; at < rows.size(); ++at) {
        Row& row = rows[at];
        row.tokens->push_back(choose({logits.row(at), logits.row(at) + logits.columns}, row, options, processor));
        if (on_token) on_token(row.prompt, row.sequence, row.tokens->back());
        if (static_cast<std::int64_t>(row.tokens->size()) >= batch.limit || ends(*row.tokens, options)) continue;
        growing.push_back(at);
        chosen.push_back(row.tokens->back());
        left.push_back(std::move(row));
      }
      if (left.empty()) return;
      rows = std::move(left);
      steps.select(growing);
      logits = steps.step(chosen);
    }
  }

  // Returns the most likely token, or one that is drawn with its probability by the row's random numbers.
  static std::int64_t choose(detail::RowLogits logits, Row& row, const GenerationOptions& options,
                             const detail::LogitsProcessor& processor) {
    processor.change(logits, *row.context, *row.tokens);
    if (*std::max_element(logits.begin(), logits.end()) == detail::left_out) {
      throw InputError("the options of the generation exclude every token. Look at suppress_tokens, bad_words_ids and "
                       "no_repeat_ngram_size.");
    }
    if (!options.do_sample) return static_cast<std::int64_t>(detail::index_of_highest(logits.data(), logits.size()));
    detail::warp(logits, options);
    return detail::draw(logits, detail::next_number(row.random));
  }

  // Returns the tokens that end a text.
  [[nodiscard]] const Prompt& stops_of(const GenerationOptions& options) const {
    return options.stop_token_ids ? *options.stop_token_ids : generation_.eos_token_ids;
  }

  // Whether the last of the new tokens ends the sequence.
  [[nodiscard]] bool ends(const Prompt& tokens, const GenerationOptions& options) const {
    const Prompt& stops = stops_of(options);
    if (std::find(stops.begin(), stops.end(), tokens.back()) != stops.end()) return true;
    if (options.stop_strings.empty()) return false;
    // Every token is at least a byte, so a stop string that the last token completes is in as many tokens as it has
    // bytes.
    std::size_t window = 0;
    for (const std::string& text : options.stop_strings) window = std::max(window, text.size());
    const std::size_t first = tokens.size() - std::min(window, tokens.size());
    const std::string text = tokenizer_.decode({tokens.begin() + static_cast<std::ptrdiff_t>(first), tokens.end()});
    return std::any_of(options.stop_strings.begin(), options.stop_strings.end(),
                       [&](const std::string& stop) { return text.find(stop) != text.npos; });
  }

  std::shared_ptr<const Manifest> manifest_;
  const Generation& generation_;
  Tokenizer tokenizer_;
  std::map<std::string, std::unique_ptr<Session>> sessions_;
  const Session* prompt_ = nullptr;
  const Session* step_ = nullptr;
  const Session* encoder_ = nullptr;  // null: there is no encoder, and the decoder continues its prompts
};

}  // namespace rpln
