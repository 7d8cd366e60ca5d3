// Byte-pair encoding (Sennrich et al., 2016) of single words, the order of merges that of the tokenizers library.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace rpln::detail {

// A token of a word, and how many of its bytes it stands for.
struct Piece {
  std::int32_t id;
  std::uint32_t length;
};

// Which pairs of tokens merge: a hash table with open addressing, as a word asks it a dozen times.
class MergeTable {
 public:
  struct Merge {
    std::int32_t rank;
    std::int32_t id;
  };

  explicit MergeTable(std::size_t count) {
    while (std::size_t{1} << bits_ < 2 * count) ++bits_;
    slots_.resize(std::size_t{1} << bits_);
  }

  // A pair that is there already gets the later merge, as in a dictionary.
  void put(std::int32_t left, std::int32_t right, Merge merge) {
    Slot& slot = slots_[place(key(left, right))];
    slot = {key(left, right), merge};
  }

  [[nodiscard]] const Merge* find(std::int32_t left, std::int32_t right) const {
    const Slot& slot = slots_[place(key(left, right))];
    return slot.key == empty ? nullptr : &slot.merge;
  }

 private:
  static constexpr std::uint64_t empty = ~std::uint64_t{0};

  struct Slot {
    std::uint64_t key = empty;
    Merge merge{};
  };

  static std::uint64_t key(std::int32_t left, std::int32_t right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32U | static_cast<std::uint32_t>(right);
  }

  // Where `key` is, or is to be put. There is an empty slot, as the table is at most half full.
  [[nodiscard]] std::size_t place(std::uint64_t key) const {
    std::size_t at = key * 0x9E3779B97F4A7C15U >> (64U - bits_);
    while (slots_[at].key != empty && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  unsigned bits_ = 4;
  std::vector<Slot> slots_;
};

// Merges the pieces of one word. Its memory serves the next word again.
class Merger {
 public:
  // Merges neighbours in `pieces` as long as `merges` has any of them: the lowest rank first, the leftmost of equals.
  void merge(std::vector<Piece>& pieces, const MergeTable& merges) {
    if (pieces.size() < 2) return;
    symbols_.clear();
    candidates_.clear();
    const auto count = static_cast<std::int32_t>(pieces.size());
    for (std::int32_t at = 0; at < count; ++at) {
      symbols_.push_back({pieces[static_cast<std::size_t>(at)], at - 1, at + 1 < count ? at + 1 : none});
    }
    for (std::int32_t at = 0; at + 1 < count; ++at) add_candidate(at, merges);
    while (!candidates_.empty()) {
      std::pop_heap(candidates_.begin(), candidates_.end(), std::greater<>());
      const Candidate candidate = candidates_.back();
      candidates_.pop_back();
      if (still_stands(candidate, merges)) apply(candidate, merges);
    }
    pieces.clear();
    for (std::int32_t at = 0; at != none; at = symbol(at).next) pieces.push_back(symbol(at).piece);
  }

 private:
  static constexpr std::int32_t none = -1;

  struct Symbol {
    Piece piece;
    std::int32_t previous;
    std::int32_t next;
  };

  struct Candidate {
    std::int32_t rank;
    std::int32_t at;
    std::int32_t id;
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };

  [[nodiscard]] Symbol& symbol(std::int32_t at) { return symbols_[static_cast<std::size_t>(at)]; }

  void add_candidate(std::int32_t at, const MergeTable& merges) {
    const auto* merge = merges.find(symbol(at).piece.id, symbol(symbol(at).next).piece.id);
    if (!merge) return;
    candidates_.push_back({merge->rank, at, merge->id});
    std::push_heap(candidates_.begin(), candidates_.end(), std::greater<>());
  }

  // Merges before it may have taken either side away. The library compares the outcome, not the pair: so does this.
  [[nodiscard]] bool still_stands(const Candidate& candidate, const MergeTable& merges) {
    const Symbol& left = symbol(candidate.at);
    if (left.piece.length == 0 || left.next == none) return false;
    const auto* merge = merges.find(left.piece.id, symbol(left.next).piece.id);
    return merge && merge->id == candidate.id;
  }

  void apply(const Candidate& candidate, const MergeTable& merges) {
    Symbol& left = symbol(candidate.at);
    Symbol& right = symbol(left.next);
    left.piece = {candidate.id, left.piece.length + right.piece.length};
    right.piece.length = 0;
    left.next = right.next;
    if (left.next != none) symbol(left.next).previous = candidate.at;
    if (left.previous != none) add_candidate(left.previous, merges);
    if (left.next != none) add_candidate(candidate.at, merges);
  }

  std::vector<Symbol> symbols_;
  std::vector<Candidate> candidates_;
};

// The pieces of words that came before: most words of a text do. It is emptied when it is full.
class WordCache {
 public:
  WordCache() : slots_(slot_count) {}

  // The pieces of `word`; `found` says whether they are known. Where they are not, `remember` is to follow.
  struct Known {
    const Piece* first;
    std::size_t count;
    bool found;
  };

  [[nodiscard]] Known find(std::string_view word) {
    hash_ = std::hash<std::string_view>()(word);
    at_ = hash_ & (slot_count - 1);
    for (; slots_[at_].count != 0; at_ = (at_ + 1) & (slot_count - 1)) {
      const Slot& slot = slots_[at_];
      if (slot.hash == hash_ && word == std::string_view(letters_).substr(slot.letters, slot.length)) {
        return {pieces_.data() + slot.pieces, slot.count, true};
      }
    }
    return {nullptr, 0, false};
  }

  // Keeps what the word of the last `find` turned out to be.
  void remember(std::string_view word, const std::vector<Piece>& pieces) {
    if (word.size() > longest_word || pieces.empty()) return;
    if (count_ == slot_count / 2) {
      clear();
      at_ = hash_ & (slot_count - 1);
    }
    slots_[at_] = {hash_, to_32(letters_.size()), to_32(word.size()), to_32(pieces_.size()), to_32(pieces.size())};
    letters_ += word;
    pieces_.insert(pieces_.end(), pieces.begin(), pieces.end());
    ++count_;
  }

 private:
  static constexpr std::size_t slot_count = std::size_t{1} << 15U;
  static constexpr std::size_t longest_word = 64;

  struct Slot {
    std::size_t hash = 0;
    std::uint32_t letters = 0;
    std::uint32_t length = 0;
    std::uint32_t pieces = 0;
    std::uint32_t count = 0;
  };

  static std::uint32_t to_32(std::size_t size) { return static_cast<std::uint32_t>(size); }

  void clear() {
    std::fill(slots_.begin(), slots_.end(), Slot{});
    letters_.clear();
    pieces_.clear();
    count_ = 0;
  }

  std::vector<Slot> slots_;
  std::string letters_;
  std::vector<Piece> pieces_;
  std::size_t count_ = 0;
  std::size_t hash_ = 0;
  std::size_t at_ = 0;
};

}  // namespace rpln::detail
