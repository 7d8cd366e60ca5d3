// Byte-pair encoding (Sennrich et al., 2016) of single words. Pairs are merged in the order of the tokenizers library.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace rpln::detail {

// A token of a word, and how many bytes of the word it stands for.
struct Piece {
  std::int32_t id;
  std::uint32_t length;
};

// The pairs of tokens that merge. It is a hash table with open addressing, because every word looks up a dozen pairs.
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

  // A pair that is in the table already gets the new merge, as in the tokenizers library.
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

  // Returns the place of `key`, or the free place where it belongs. The table is at most half full, so there is one.
  [[nodiscard]] std::size_t place(std::uint64_t key) const {
    std::size_t at = key * 0x9E3779B97F4A7C15U >> (64U - bits_);
    while (slots_[at].key != empty && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  unsigned bits_ = 4;
  std::vector<Slot> slots_;
};

// Merges the pieces of one word. The memory is kept for the next word.
class Merger {
 public:
  // Merges neighbours in `pieces` until `merges` has no pair of them. The pair of the lowest rank goes first, and of
  // equal ranks the leftmost.
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

  // Returns how many bytes of memory are kept.
  [[nodiscard]] std::size_t memory() const {
    return symbols_.capacity() * sizeof(Symbol) + candidates_.capacity() * sizeof(Candidate);
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

  // Whether a candidate can still be merged: earlier merges may have changed either side. Like the tokenizers library,
  // this compares the token that results, and not the pair.
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

// Remembers the pieces of words, because most words of a text occur again. It is emptied when it is full.
class WordCache {
 public:
  WordCache() : slots_(slot_count) {}

  // The pieces of a word. Where they are not known, `found` is false, and the caller gives them to `remember`.
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

  // Keeps the pieces of the word that the last `find` looked for.
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
