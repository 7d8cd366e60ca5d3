// Finds the files that an ONNX file keeps its weights in ("external data"), as rpln_runtime/external_data.py does.
//
// Only those parts of the protobuf message are read that can hold a tensor; the weights are skipped. Numbers of fields
// are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "rpln/errors.hpp"

namespace rpln::detail {

class OnnxScanner {
 public:
  // Throws ManifestError for a file that cannot be read.
  explicit OnnxScanner(const std::filesystem::path& path) : path_(path), stream_(path, std::ios::binary) {
    std::error_code failed;
    size_ = std::filesystem::file_size(path, failed);
    if (failed || !stream_) refuse("it cannot be read");
  }

  // Returns the paths, relative to the folder of the file, of the files that hold tensors. Throws ManifestError for a
  // file that is no message of protobuf. It keeps a list of messages to read: graphs may lie deep inside each other.
  std::set<std::string> locations() {
    std::set<std::string> found;
    std::vector<Message> messages{{Kind::model, 0, size_}};
    while (!messages.empty()) {
      const Message message = messages.back();
      messages.pop_back();
      if (message.kind == Kind::entry) {
        read_entry(message, found);
        continue;
      }
      for (const Field& field : fields(message)) {
        for (const Part& part : parts) {
          if (part.of != message.kind || part.number != field.number) continue;
          messages.push_back({part.kind, field.begin, field.end});
        }
      }
    }
    return found;
  }

 private:
  enum class Kind { model, graph, function, node, attribute, sparse, tensor, entry };

  struct Message {
    Kind kind;
    std::uint64_t begin;
    std::uint64_t end;
  };

  // A field that holds bytes, and where these begin and end.
  struct Field {
    std::uint64_t number;
    std::uint64_t begin;
    std::uint64_t end;
  };

  // The field `number` of a message `of` is a message `kind`, which may hold a tensor.
  struct Part {
    Kind of;
    std::uint64_t number;
    Kind kind;
  };

  static constexpr std::array<Part, 16> parts{{{Kind::model, 7, Kind::graph},
                                               {Kind::model, 25, Kind::function},
                                               {Kind::graph, 1, Kind::node},
                                               {Kind::graph, 5, Kind::tensor},
                                               {Kind::graph, 15, Kind::sparse},
                                               {Kind::function, 7, Kind::node},
                                               {Kind::node, 5, Kind::attribute},
                                               {Kind::attribute, 5, Kind::tensor},
                                               {Kind::attribute, 6, Kind::graph},
                                               {Kind::attribute, 10, Kind::tensor},
                                               {Kind::attribute, 11, Kind::graph},
                                               {Kind::attribute, 22, Kind::sparse},
                                               {Kind::attribute, 23, Kind::sparse},
                                               {Kind::sparse, 1, Kind::tensor},
                                               {Kind::sparse, 2, Kind::tensor},
                                               {Kind::tensor, 13, Kind::entry}}};

  void read_entry(const Message& message, std::set<std::string>& found) {
    std::string key;
    std::string value;
    for (const Field& field : fields(message)) {
      if (field.number == 1) key = text(field);
      if (field.number == 2) value = text(field);
    }
    if (key == "location") found.insert(value);
  }

  std::string text(const Field& field) {
    std::string bytes(static_cast<std::size_t>(field.end - field.begin), '\0');
    seek(field.begin);
    if (!stream_.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) refuse("it cannot be read");
    return bytes;
  }

  std::vector<Field> fields(const Message& message) {
    std::vector<Field> found;
    seek(message.begin);
    while (at_ < message.end) {
      const std::uint64_t tag = number(message.end);
      if (tag >= std::uint64_t{1} << 32U) refuse_at("the number of a field is too large");
      switch (tag & 7U) {
        case 0: (void)number(message.end); break;
        case 1: skip(8, message.end); break;
        case 5: skip(4, message.end); break;
        case 2: {
          const std::uint64_t size = number(message.end);
          found.push_back({tag >> 3U, at_, at_ + size});
          skip(size, message.end);
          break;
        }
        default: refuse_at("no field of protobuf begins");
      }
    }
    return found;
  }

  void seek(std::uint64_t at) {
    stream_.clear();
    stream_.seekg(static_cast<std::streamoff>(at));
    at_ = at;
  }

  void skip(std::uint64_t size, std::uint64_t end) {
    if (size > end - at_) refuse_at("a field ends behind the end of its message");
    if (size > 0) seek(at_ + size);
  }

  std::uint64_t number(std::uint64_t end) {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
      const int byte = at_ < end ? stream_.get() : std::char_traits<char>::eof();
      if (byte == std::char_traits<char>::eof()) refuse_at("a number does not end");
      ++at_;
      value |= (static_cast<std::uint64_t>(byte) & 0x7FU) << shift;
      if (byte < 0x80) return value;
    }
    refuse_at("a number has more than 64 bits");
  }

  [[noreturn]] void refuse_at(const std::string& reason) const { refuse(reason + " at byte " + std::to_string(at_)); }

  [[noreturn]] void refuse(const std::string& reason) const {
    throw ManifestError(path_.string() + " is no ONNX file (" + reason + "). Export the checkpoint again.");
  }

  std::filesystem::path path_;
  std::ifstream stream_;
  std::uint64_t size_ = 0;
  std::uint64_t at_ = 0;
};

// Returns the paths of the files that hold tensors of the ONNX file `path`, relative to its folder.
inline std::set<std::string> external_files(const std::filesystem::path& path) {
  return OnnxScanner(path).locations();
}

}  // namespace rpln::detail
