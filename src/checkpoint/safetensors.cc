#include "checkpoint/safetensors.h"

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <unordered_set>

#include "base/error.h"

namespace sluice {
namespace {

// The reference implementation's bound on the header.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
// {"name": {"shape": [..]}} is three deep; one more lets the handler say what is wrong.
constexpr size_t kMaxDepth = 4;

struct DTypeEntry {
  std::string_view name;
  std::optional<DType> dtype;  // nullopt: the format has it, no code here reads it
};
constexpr DTypeEntry kDTypes[] = {
    {"F32", DType::kF32},        {"F16", DType::kF16},      {"BF16", DType::kBF16},
    {"F8_E4M3", DType::kF8E4M3}, {"I64", DType::kI64},      {"I32", DType::kI32},
    {"I16", DType::kI16},        {"I8", DType::kI8},        {"U8", DType::kU8},
    {"BOOL", DType::kBool},      {"F64", std::nullopt},     {"F8_E5M2", std::nullopt},
    {"U16", std::nullopt},       {"U32", std::nullopt},     {"U64", std::nullopt},
    {"F8_E8M0", std::nullopt},   {"C64", std::nullopt},     {"F4", std::nullopt},
    {"F6_E2M3", std::nullopt},   {"F6_E3M2", std::nullopt},
};

// Receives the header's JSON event by event, so that hostile bytes cannot make it hold more than
// the entries themselves, and a repeated key is seen. Throws through the parser.
class HeaderHandler {
 public:
  // The parser's limits, as Boost.JSON asks for them.
  static constexpr size_t max_object_size = std::numeric_limits<size_t>::max();
  static constexpr size_t max_array_size = std::numeric_limits<size_t>::max();
  static constexpr size_t max_key_size = std::numeric_limits<size_t>::max();
  static constexpr size_t max_string_size = std::numeric_limits<size_t>::max();
  using Code = boost::json::error_code;
  using Text = boost::json::string_view;

  explicit HeaderHandler(const std::string& file) : file_(file) {}

  std::vector<SafetensorsEntry> TakeEntries() { return std::move(entries_); }

  bool on_document_begin(Code&) { return true; }
  bool on_document_end(Code&) { return true; }

  bool on_object_begin(Code&) {
    if (depth_ == 1 && !in_metadata_) {
      entry_ = SafetensorsEntry{};
      entry_.name = name_;
      dims_.clear();
      offsets_.clear();
      seen_ = {};
    } else if (depth_ != 0 && !(depth_ == 1 && in_metadata_)) {
      Fail("holds an object where none belongs");
    }
    ++depth_;
    return true;
  }

  bool on_object_end(size_t, Code&) {
    --depth_;
    if (depth_ == 1) {
      if (!in_metadata_) FinishEntry();
      in_metadata_ = false;
    }
    return true;
  }

  bool on_array_begin(Code&) {
    if (depth_ != 2 || in_metadata_ || (field_ != Field::kShape && field_ != Field::kOffsets)) {
      Fail("holds an array where none belongs");
    }
    ++depth_;
    return true;
  }
  bool on_array_end(size_t, Code&) {
    --depth_;
    return true;
  }

  bool on_key_part(Text text, size_t, Code&) {
    key_.append(text.data(), text.size());
    return true;
  }
  bool on_key(Text text, size_t, Code&) {
    key_.append(text.data(), text.size());
    if (depth_ == 1) {
      if (!names_.insert(key_).second) {
        throw Error(ErrorCode::kDataLoss,
                    file_ + ": tensor \"" + key_ + "\" is listed twice; the file is corrupt");
      }
      in_metadata_ = key_ == "__metadata__";
      name_ = key_;
    } else if (!in_metadata_) {
      BeginField();
    }
    key_.clear();
    return true;
  }

  bool on_string_part(Text text, size_t, Code&) {
    string_.append(text.data(), text.size());
    return true;
  }
  bool on_string(Text text, size_t, Code&) {
    string_.append(text.data(), text.size());
    if (!(depth_ == 2 && in_metadata_)) {
      if (depth_ != 2 || field_ != Field::kDType) Fail("holds a string where none belongs");
      entry_.dtype = ReadDType(string_);
    }
    string_.clear();
    return true;
  }

  bool on_number_part(Text, Code&) { return true; }
  bool on_int64(int64_t value, Text, Code&) {
    if (value < 0) Fail("has a negative size or offset");
    return OnNumber(static_cast<uint64_t>(value));
  }
  bool on_uint64(uint64_t value, Text, Code&) { return OnNumber(value); }
  bool on_double(double, Text, Code&) { Fail("has a size or offset that is not a 64-bit integer"); }
  bool on_bool(bool, Code&) { Fail("holds a boolean where none belongs"); }
  bool on_null(Code&) { Fail("holds null where none belongs"); }
  bool on_comment_part(Text, Code&) { return true; }
  bool on_comment(Text, Code&) { return true; }

 private:
  enum class Field { kDType, kShape, kOffsets };

  [[noreturn]] void Fail(const std::string& what) const {
    const std::string subject = name_.empty() ? "the header" : "tensor \"" + name_ + "\"";
    throw Error(ErrorCode::kDataLoss, file_ + ": " + subject + " " + what +
                                          "; the file is corrupt, or not a safetensors file");
  }

  void BeginField() {
    if (key_ == "dtype") {
      field_ = Field::kDType;
    } else if (key_ == "shape") {
      field_ = Field::kShape;
    } else if (key_ == "data_offsets") {
      field_ = Field::kOffsets;
    } else {
      Fail("has an unknown field \"" + key_ + "\"");
    }
    bool& seen = seen_[static_cast<size_t>(field_)];
    if (seen) Fail("has \"" + key_ + "\" twice");
    seen = true;
  }

  bool OnNumber(uint64_t value) {
    if (depth_ != 3) Fail("holds a number where none belongs");
    if (field_ == Field::kOffsets) {
      if (offsets_.size() == 2) Fail("has more than two data_offsets");
      offsets_.push_back(value);
      return true;
    }
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      Fail("has a dimension past 2^63");
    }
    if (dims_.size() == kMaxRank) {
      throw Error(ErrorCode::kUnsupported, file_ + ": tensor \"" + name_ + "\" has more than " +
                                               std::to_string(kMaxRank) + " dimensions");
    }
    dims_.push_back(static_cast<int64_t>(value));
    return true;
  }

  DType ReadDType(const std::string& text) const {
    for (const DTypeEntry& known : kDTypes) {
      if (known.name != text) continue;
      if (known.dtype) return *known.dtype;
      throw Error(ErrorCode::kUnsupported,
                  file_ + ": tensor \"" + name_ + "\" has element type " + text +
                      "; F32, F16, BF16, F8_E4M3, I64, I32, I16, I8, U8 and BOOL can be read");
    }
    Fail("has the unknown element type \"" + text.substr(0, 40) + "\"");
  }

  void FinishEntry() {
    if (!seen_[0] || !seen_[1] || !seen_[2]) Fail("lacks one of dtype, shape, data_offsets");
    if (offsets_.size() != 2) Fail("has fewer than two data_offsets");
    entry_.shape = Shape(dims_);
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    uint64_t bytes = SizeOf(entry_.dtype);
    int64_t extent = static_cast<int64_t>(bytes);  // with 0 taken as 1: strides are made of it
    for (const int64_t dim : dims_) {
      if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dim), &bytes) ||
          __builtin_mul_overflow(extent, std::max<int64_t>(dim, 1), &extent)) {
        Fail("has the shape " + entry_.shape.ToString() + ", which no memory holds");
      }
    }
    if (entry_.begin > entry_.end) Fail("ends before it begins");
    if (entry_.end - entry_.begin != bytes) {
      Fail("has " + std::to_string(entry_.end - entry_.begin) + " bytes, but " +
           entry_.shape.ToString() + " of " + std::string(DTypeName(entry_.dtype)) + " takes " +
           std::to_string(bytes));
    }
    entries_.push_back(std::move(entry_));
  }

  const std::string& file_;
  size_t depth_ = 0;
  bool in_metadata_ = false;
  std::string name_;  // the tensor being read
  std::string key_;
  std::string string_;
  Field field_ = Field::kDType;
  std::array<bool, 3> seen_{};  // indexed by Field
  std::vector<int64_t> dims_;
  std::vector<uint64_t> offsets_;
  SafetensorsEntry entry_;
  std::vector<SafetensorsEntry> entries_;
  std::unordered_set<std::string> names_;
};

// Returns the JSON part of the header.
std::string_view HeaderText(std::span<const std::byte> bytes, const std::string& file) {
  if (bytes.size() < 8) {
    throw Error(ErrorCode::kDataLoss,
                file + ": " + std::to_string(bytes.size()) +
                    " bytes are too few for a safetensors file; it is truncated or another format");
  }
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | std::to_integer<uint64_t>(bytes[i]);
  if (length > kMaxHeaderBytes) {
    throw Error(ErrorCode::kDataLoss, file + ": says its header has " + std::to_string(length) +
                                          " bytes, past the format's limit of " +
                                          std::to_string(kMaxHeaderBytes) +
                                          "; it is not a safetensors file");
  }
  if (length > bytes.size() - 8) {
    throw Error(ErrorCode::kDataLoss, file + ": says its header has " + std::to_string(length) +
                                          " bytes, but only " + std::to_string(bytes.size() - 8) +
                                          " follow; the file is truncated, fetch it again");
  }
  return {reinterpret_cast<const char*>(bytes.data()) + 8, length};
}

std::vector<SafetensorsEntry> ParseHeader(std::string_view text, const std::string& file) {
  if (text.empty() || text.front() != '{') {
    throw Error(ErrorCode::kDataLoss,
                file + ": its header is not a JSON object; it is not a safetensors file");
  }
  boost::json::parse_options options;
  options.max_depth = kMaxDepth;
  boost::json::basic_parser<HeaderHandler> parser(options, file);
  boost::json::error_code error;
  const size_t used = parser.write_some(false, text.data(), text.size(), error);
  if (!error && !parser.done()) error = boost::json::error::incomplete;
  if (!error && text.find_first_not_of(" \t\r\n", used) != std::string_view::npos) {
    error = boost::json::error::extra_data;
  }
  if (error) {
    throw Error(ErrorCode::kDataLoss, file + ": its header is not valid JSON (" + error.message() +
                                          " at byte " + std::to_string(8 + used) +
                                          "); the file is corrupt");
  }
  return parser.handler().TakeEntries();
}

// Entries are in the order of their bytes: each begins where the one before ended, the first at 0,
// the last ends with the file.
void CheckLayout(const std::vector<SafetensorsEntry>& entries, uint64_t data_bytes,
                 const std::string& file) {
  uint64_t expected = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.end > data_bytes) {
      throw Error(ErrorCode::kDataLoss, file + ": tensor \"" + entry.name + "\" ends at byte " +
                                            std::to_string(entry.end) + " of the data, but only " +
                                            std::to_string(data_bytes) +
                                            " are there; the file is truncated, fetch it again");
    }
    if (entry.begin != expected) {
      throw Error(ErrorCode::kDataLoss, file + ": tensor \"" + entry.name + "\" begins at byte " +
                                            std::to_string(entry.begin) + " where " +
                                            std::to_string(expected) + " was expected: tensors " +
                                            (entry.begin < expected ? "overlap" : "leave a hole") +
                                            "; the file is corrupt");
    }
    expected = entry.end;
  }
  if (expected != data_bytes) {
    throw Error(ErrorCode::kDataLoss, file + ": " + std::to_string(data_bytes - expected) +
                                          " bytes after the last tensor belong to none; the file "
                                          "is corrupt");
  }
}

}  // namespace

SafetensorsFile SafetensorsFile::Parse(std::span<const std::byte> bytes, const std::string& file) {
  const std::string_view text = HeaderText(bytes, file);
  SafetensorsFile result;
  result.data_ = bytes.subspan(8 + text.size());
  result.entries_ = ParseHeader(text, file);
  std::sort(result.entries_.begin(), result.entries_.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  CheckLayout(result.entries_, result.data_.size(), file);
  return result;
}

ConstTensorView SafetensorsFile::View(const SafetensorsEntry& entry) const {
  return ConstTensorView(data_.data() + entry.begin, entry.dtype, entry.shape);
}

}  // namespace sluice
