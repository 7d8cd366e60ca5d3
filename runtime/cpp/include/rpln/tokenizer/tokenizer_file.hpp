// Reads the parts of tokenizer.json that RoBERTa's byte-level BPE needs, and refuses anything else that would change
// tokens.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "rpln/errors.hpp"
#include "rpln/manifest.hpp"
#include "rpln/tokenizer/added_tokens.hpp"
#include "rpln/tokenizer/byte_level.hpp"
#include "rpln/tokenizer/byte_pairs.hpp"

namespace rpln::detail {

// A part of an encoding: the text where `sequence` is 0, its pair where it is 1, and otherwise a special token. `type` is
// the token type of its tokens.
struct TemplatePart {
  std::int64_t special;
  std::int32_t sequence;
  std::int64_t type = 0;
};

using Template = std::vector<TemplatePart>;

struct TokenizerFile {
  static constexpr std::int32_t no_id = -1;

  std::unordered_map<std::string, std::int32_t> model_ids;  // the ids of the model's vocabulary
  std::unordered_map<std::string, std::int64_t> ids;        // the same, and the ids of added tokens
  std::unordered_map<std::int64_t, std::string> names;
  std::array<std::int32_t, 256> byte_ids{};
  MergeTable merges{0};
  std::vector<AddedToken> added_tokens;
  std::string unknown;  // the token for bytes that the vocabulary lacks; empty where there is none
  std::int32_t unknown_id = no_id;
  bool fuses_unknown = false;
  bool ignore_merges = false;
  bool add_prefix_space = false;
  bool splits_words = true;
  bool decodes_bytes = true;
  Template single;
  Template pair;
  bool trim_offsets = false;  // whether the offsets of a token leave out spaces at its ends
  bool keeps_first_space = false;
};

// JSON whose objects do not keep the order of their keys: looking up a key is faster, and a vocabulary has 50,000.
using TokenizerJson = nlohmann::json;

class TokenizerReader {
 public:
  explicit TokenizerReader(const TokenizerJson& document) : document_(document) {}

  // Throws nlohmann's exceptions for values of the wrong type, and Error for settings that are not supported.
  TokenizerFile read() {
    if (!document_.is_object()) throw Error("expected an object");
    if (!absent(document_, "normalizer")) throw Error("it has a normalizer, expected none");
    read_model(document_.at("model"));
    read_added_tokens();
    read_pre_tokenizer(document_.at("pre_tokenizer"));
    read_post_processor(document_.at("post_processor"));
    read_decoder();
    return std::move(file_);
  }

 private:
  static bool absent(const TokenizerJson& object, const char* key) {
    return !object.contains(key) || object[key].is_null();
  }

  static bool flag(const TokenizerJson& object, const char* key, bool otherwise) {
    return absent(object, key) ? otherwise : object[key].get<bool>();
  }

  static void check_type(const TokenizerJson& object, const char* part, const char* expected) {
    const std::string found = object.is_object() ? object.value("type", "nothing") : "nothing";
    if (found != expected) throw Error(std::string("its ") + part + " is " + found + ", expected " + expected);
  }

  static std::int32_t id_from(const TokenizerJson& value) {
    // Its sign decides how an integer is kept: one that is not negative has no sign, and up to 64 bits.
    const auto most = static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max());
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > most) {
      throw Error("a token has the id or type " + value.dump() + ", expected an integer from 0 to " + std::to_string(most));
    }
    return static_cast<std::int32_t>(value.get<std::uint64_t>());
  }

  void read_model(const TokenizerJson& model) {
    // Older versions of the tokenizers library do not write the type.
    if (!model.is_object() || model.value("type", "BPE") != "BPE") throw Error("its model is not BPE");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!absent(model, key) && model[key] != "") throw Error(std::string("it has a ") + key + ", expected none");
    }
    if (!absent(model, "dropout") && model["dropout"] != 0) throw Error("it has a dropout, expected none");
    if (flag(model, "byte_fallback", false)) throw Error("it has a byte_fallback, expected none");
    file_.ignore_merges = flag(model, "ignore_merges", false);
    file_.fuses_unknown = flag(model, "fuse_unk", false);
    read_vocabulary(model.at("vocab"));
    if (!absent(model, "unk_token")) file_.unknown = model["unk_token"].get<std::string>();
    read_bytes();
    read_merges(model.at("merges"));
  }

  void read_vocabulary(const TokenizerJson& vocabulary) {
    for (const auto& [name, id] : vocabulary.items()) {
      file_.model_ids[name] = id_from(id);
      file_.ids[name] = id_from(id);
      file_.names[id_from(id)] = name;
    }
  }

  void read_bytes() {
    if (const auto found = file_.model_ids.find(file_.unknown); found != file_.model_ids.end()) {
      file_.unknown_id = found->second;
    }
    for (std::size_t byte = 0; byte < file_.byte_ids.size(); ++byte) {
      const std::string& letter = ByteAlphabet::instance().letter(static_cast<unsigned char>(byte));
      const auto found = file_.model_ids.find(letter);
      file_.byte_ids[byte] = found == file_.model_ids.end() ? TokenizerFile::no_id : found->second;
      if (file_.byte_ids[byte] == TokenizerFile::no_id && file_.unknown_id == TokenizerFile::no_id) {
        throw Error("its vocabulary lacks " + letter + " for the byte " + std::to_string(byte) +
                    ", and there is no token for unknown bytes");
      }
    }
  }

  void read_merges(const TokenizerJson& merges) {
    file_.merges = MergeTable(merges.size());
    std::int32_t rank = 0;
    for (const TokenizerJson& merge : merges) {
      const auto [left, right] = sides_from(merge);
      file_.merges.put(known_id(left), known_id(right), {rank++, known_id(left + right)});
    }
  }

  static std::pair<std::string, std::string> sides_from(const TokenizerJson& merge) {
    if (merge.is_array() && merge.size() == 2) return {merge[0].get<std::string>(), merge[1].get<std::string>()};
    const auto text = merge.get<std::string>();  // as older versions of the library write it
    const std::size_t space = text.find(' ');
    if (space == text.npos) throw Error("a merge is " + in_quotes(text) + ", expected two tokens");
    return {text.substr(0, space), text.substr(space + 1)};
  }

  [[nodiscard]] std::int32_t known_id(const std::string& name) const {
    const auto found = file_.model_ids.find(name);
    if (found != file_.model_ids.end()) return found->second;
    throw Error("a merge names " + in_quotes(name) + ", which its vocabulary lacks");
  }

  void read_added_tokens() {
    if (absent(document_, "added_tokens")) return;
    for (const TokenizerJson& row : document_["added_tokens"]) {
      AddedToken token;
      token.id = id_from(row.at("id"));
      token.content = row.at("content").get<std::string>();
      token.lstrip = flag(row, "lstrip", false);
      token.rstrip = flag(row, "rstrip", false);
      token.special = flag(row, "special", false);
      token.normalized = flag(row, "normalized", !token.special);
      if (flag(row, "single_word", false)) throw Error("its token " + in_quotes(token.content) + " is a single_word");
      file_.ids[token.content] = token.id;
      file_.names[token.id] = token.content;
      file_.added_tokens.push_back(std::move(token));
    }
  }

  void read_pre_tokenizer(const TokenizerJson& row) {
    check_type(row, "pre-tokenizer", "ByteLevel");
    file_.add_prefix_space = flag(row, "add_prefix_space", true);
    file_.splits_words = flag(row, "use_regex", true);
  }

  void read_post_processor(const TokenizerJson& row) {
    if (row.is_object() && row.value("type", "") == "TemplateProcessing") {
      file_.single = template_from_json(row.at("single"), row.at("special_tokens"));
      file_.pair = template_from_json(row.at("pair"), row.at("special_tokens"));
      return;
    }
    check_type(row, "post-processor", "RobertaProcessing");
    const TemplatePart first{id_from(row.at("cls").at(1)), -1};
    const TemplatePart separator{id_from(row.at("sep").at(1)), -1};
    file_.single = {first, {0, 0}, separator};
    file_.pair = {first, {0, 0}, separator, separator, {0, 1}, separator};
    file_.trim_offsets = flag(row, "trim_offsets", true);
    file_.keeps_first_space = flag(row, "add_prefix_space", true);
  }

  static Template template_from_json(const TokenizerJson& rows, const TokenizerJson& special_tokens) {
    Template parts;
    for (const TokenizerJson& row : rows) {
      const bool is_text = row.contains("Sequence");
      const TokenizerJson& part = row.at(is_text ? "Sequence" : "SpecialToken");
      const std::int64_t type = absent(part, "type_id") ? 0 : id_from(part["type_id"]);
      const auto name = part.at("id").get<std::string>();
      if (is_text) {
        parts.push_back({0, name == "A" ? 0 : 1, type});
        continue;
      }
      for (const TokenizerJson& id : special_tokens.at(name).at("ids")) parts.push_back({id_from(id), -1, type});
    }
    return parts;
  }

  void read_decoder() {
    file_.decodes_bytes = !absent(document_, "decoder");
    if (file_.decodes_bytes) check_type(document_["decoder"], "decoder", "ByteLevel");
  }

  const TokenizerJson& document_;
  TokenizerFile file_;
};

inline TokenizerFile tokenizer_file_from_text(const std::string& text, const std::string& where) {
  std::string reason;
  try {
    return TokenizerReader(value_from_text<TokenizerJson>(text, limits::tokenizer)).read();
  } catch (const TokenizerJson::exception& error) {
    reason = error.what();
  } catch (const DocumentError& error) {
    reason = error.what();
  } catch (const Error& error) {
    reason = error.what();
  }
  throw ManifestError("rpln cannot read " + where + " (" + reason +
                      "): expected a byte-level BPE as RoBERTa has it. Run the bundle in Python, or export the "
                      "checkpoint again.");
}

inline TokenizerFile read_tokenizer_file(const std::filesystem::path& path) {
  try {
    return tokenizer_file_from_text(read_text(path, limits::tokenizer.size), path.string());
  } catch (const DocumentError& error) {
    throw ManifestError("rpln cannot read " + path.string() + " (" + error.what() + "). Copy the bundle again.");
  }
}

}  // namespace rpln::detail
