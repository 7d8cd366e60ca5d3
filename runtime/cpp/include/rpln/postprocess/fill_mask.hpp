// Fill-mask: the most likely tokens for every mask token of a text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "rpln/batching.hpp"
#include "rpln/postprocess/base.hpp"
#include "rpln/tasks.hpp"

namespace rpln::detail {

class FillMask {
 public:
  struct Candidate {
    std::int64_t id;
    float probability;
  };
  using Scores = std::vector<std::vector<Candidate>>;  // for every mask, its best tokens in descending order
  static constexpr std::string_view name = "fill-mask";

  static inline const Names options{"top_k", "targets", "truncation"};
  static inline const Names outputs{"logits"};
  static inline const Fields fields{{"text"}};

  FillMask(const Context& context, const Options& given)
      : context_(context),
        top_k_(static_cast<std::size_t>(given.integer("top_k", 5, 1))),
        truncation_(given.boolean("truncation", false)),
        of_every_token_(context.manifest.graphs.front().output("logits") &&
                        context.manifest.graphs.front().output("logits")->has_axis(names::sequence)) {
    if (!context.manifest.mask_token_id) {
      throw ManifestError("the bundle's tokenizer has no mask token: export a checkpoint that has one.");
    }
    if (const Json targets = given.value("targets"); !targets.is_null()) {
      targets_ = ids_from_targets(targets.is_string() ? Json::array({targets}) : targets);
      if (targets_->empty()) {
        throw InputError("targets is " + shown(targets) + ", expected at least one token.");
      }
    }
  }

  [[nodiscard]] bool always_list() const { return false; }

  [[nodiscard]] std::vector<Encoding> encode(const Json& item) const {
    Encoding encoding = encode_fitting(context_, text_from_json(item), std::nullopt, truncation_);
    if (masks_of(encoding, context_.manifest).empty()) {
      throw InputError("a text has no " + context_.tokenizer.token(*context_.manifest.mask_token_id) + " among its " +
                       std::to_string(encoding.size()) + " tokens: put it where a token is to be filled in.");
    }
    return {std::move(encoding)};
  }

  [[nodiscard]] Scores score(const Row& row) const {
    const Rows& logits = row.outputs.front();
    Scores scores;
    for (const std::int64_t mask : masks_of(row.encoding, context_.manifest)) {
      const float* own = logits[of_every_token_ ? static_cast<std::size_t>(mask) : scores.size()];
      scores.push_back(best_tokens(softmax_of(own, logits.columns)));
    }
    return scores;
  }

  [[nodiscard]] Json answer(const Case<Scores>& one) const {
    const Encoding& encoding = one.encodings.front();
    const std::vector<std::int64_t> masks = masks_of(encoding, context_.manifest);
    Json fillings = Json::array();
    for (std::size_t at = 0; at < masks.size(); ++at) {
      Json& of_mask = fillings.emplace_back(Json::array());
      for (const Candidate& candidate : one.scores.front()[at]) {
        of_mask.push_back(filling(encoding, static_cast<std::size_t>(masks[at]), candidate, masks.size() == 1));
      }
    }
    return masks.size() == 1 ? fillings[0] : fillings;
  }

 private:
  [[nodiscard]] std::vector<Candidate> best_tokens(const std::vector<float>& probabilities) const {
    std::vector<std::int64_t> ids(probabilities.size());
    std::iota(ids.begin(), ids.end(), std::int64_t{0});
    if (targets_) ids = *targets_;
    const auto probability = [&](std::int64_t id) { return probabilities.at(static_cast<std::size_t>(id)); };
    const std::size_t count = std::min(top_k_, ids.size());
    const auto better = [&](std::int64_t a, std::int64_t b) {
      return probability(a) != probability(b) ? probability(a) > probability(b) : a < b;
    };
    std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(count), ids.end(), better);
    std::vector<Candidate> best;
    for (std::size_t at = 0; at < count; ++at) best.push_back({ids[at], probability(ids[at])});
    return best;
  }

  [[nodiscard]] Json filling(const Encoding& encoding, std::size_t mask, const Candidate& candidate, bool alone) const {
    std::vector<std::int64_t> ids = ids_of(encoding);
    ids[mask] = candidate.id;
    ids.erase(std::remove(ids.begin(), ids.end(), context_.manifest.pad_token_id), ids.end());
    return {{"score", candidate.probability},
            {"token", candidate.id},
            {"token_str", context_.tokenizer.decode({candidate.id})},
            // Where there are several masks, special tokens are shown, so that the other masks stay visible.
            {"sequence", context_.tokenizer.decode(ids, alone)}};
  }

  // Returns the ids of `targets`. A target that is not a token stands for the first token of its text.
  [[nodiscard]] std::vector<std::int64_t> ids_from_targets(const Json& targets) const {
    if (!targets.is_array()) throw InputError("targets is " + shown(targets) + ", expected a list of tokens.");
    std::set<std::int64_t> ids;
    for (const Json& target : targets) {
      const std::string text(text_from_json(target));
      if (const std::optional<std::int64_t> id = context_.tokenizer.token_id(text)) {
        ids.insert(*id);
        continue;
      }
      const Encoding encoding = context_.tokenizer.encode(text);
      if (const Span inside = span_of(encoding, 0); inside.size() > 0) {
        ids.insert(encoding[static_cast<std::size_t>(inside.begin)].id);
      }
    }
    return {ids.begin(), ids.end()};
  }

  Context context_;
  std::size_t top_k_;
  bool truncation_;
  bool of_every_token_;  // whether the graph gives the logits of all tokens; otherwise those of the mask tokens alone
  std::optional<std::vector<std::int64_t>> targets_;
};

}  // namespace rpln::detail
