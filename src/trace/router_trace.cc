#include "trace/router_trace.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cstring>
#include <limits>
#include <string_view>

#include "base/check.h"
#include "base/error.h"

namespace sluice {
namespace {

namespace json = boost::json;

// Records are written and read as they lie in memory.
static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[8] = {'S', 'L', 'U', 'I', 'C', 'E', 'R', 'T'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kMaxHeaderBytes = 1 << 20;
constexpr size_t kBlockBytes = 1 << 20;  // read at once: a page-cache copy, few system calls
constexpr size_t kPrefixBytes = sizeof(kMagic) + 2 * sizeof(uint32_t);

size_t RecordBytes(int top_k) {
  return 24 + 6 * static_cast<size_t>(top_k);
}

template <class T>
void Put(std::string& out, const T* values, size_t count) {
  out.append(reinterpret_cast<const char*>(values), count * sizeof(T));
}

template <class T>
void Get(const char*& in, T* values, size_t count) {
  std::memcpy(values, in, count * sizeof(T));
  in += count * sizeof(T);
}

[[noreturn]] void FailDamaged(const std::string& name, const std::string& what) {
  throw Error(ErrorCode::kDataLoss,
              name + ": " + what + "; expected a router trace as --router-trace writes it");
}

}  // namespace

void CheckTraceHeader(const RouterTraceHeader& header) {
  const bool fits = header.num_layers >= 1 && header.num_layers <= 4096 &&
                    header.num_experts >= 1 && header.num_experts <= 65536 && header.top_k >= 1 &&
                    header.top_k <= 64 && header.top_k <= header.num_experts;
  if (fits) return;
  throw Error(ErrorCode::kInvalidArgument,
              "a router trace has 1 to 4096 layers, 1 to 65536 experts and 1 to min(64, experts) "
              "experts a token; got layers " +
                  std::to_string(header.num_layers) + ", experts " +
                  std::to_string(header.num_experts) + ", top_k " + std::to_string(header.top_k));
}

std::string TraceHeaderJson(const RouterTraceHeader& header) {
  return json::serialize(json::object{{"model", header.model},
                                      {"layers", header.num_layers},
                                      {"experts", header.num_experts},
                                      {"top_k", header.top_k},
                                      {"seed", header.seed},
                                      {"source", header.source}});
}

RouterTraceHeader ParseTraceHeader(std::string_view text) {
  RouterTraceHeader header;
  try {
    const json::value root = json::parse({text.data(), text.size()});
    const json::object& object = root.as_object();
    header.model = object.at("model").as_string().c_str();
    header.num_layers = object.at("layers").to_number<int>();
    header.num_experts = object.at("experts").to_number<int>();
    header.top_k = object.at("top_k").to_number<int>();
    header.seed = object.at("seed").to_number<uint64_t>();
    header.source = object.at("source").as_string().c_str();
  } catch (const std::exception& error) {  // of Boost.JSON: a missing key or another type
    throw Error(ErrorCode::kInvalidArgument, std::string("not a trace's header: ") + error.what());
  }
  CheckTraceHeader(header);
  return header;
}

RouterTraceWriter::RouterTraceWriter(const std::filesystem::path& path,
                                     const RouterTraceHeader& header)
    : path_(path), temporary_(path), header_(header) {
  CheckTraceHeader(header);
  temporary_ += ".partial." + std::to_string(getpid());
  file_.open(temporary_, std::ios::binary | std::ios::trunc);
  if (!file_) {
    throw Error(ErrorCode::kInvalidArgument,
                path.string() + ": cannot be written; is its folder there and writable?");
  }
  const std::string text = TraceHeaderJson(header);
  const uint32_t sizes[2] = {kVersion, static_cast<uint32_t>(text.size())};
  std::string prefix(kMagic, sizeof(kMagic));
  Put(prefix, sizes, 2);
  prefix += text;
  file_.write(prefix.data(), static_cast<std::streamsize>(prefix.size()));
}

RouterTraceWriter::~RouterTraceWriter() {
  if (closed_) return;
  file_.close();
  std::error_code ignored;
  std::filesystem::remove(temporary_, ignored);
}

void RouterTraceWriter::Append(std::span<const RouterRecord> records) {
  const size_t top_k = static_cast<size_t>(header_.top_k);
  std::string bytes;
  bytes.reserve(records.size() * RecordBytes(header_.top_k));
  for (const RouterRecord& record : records) {
    SLUICE_CHECK_EQ(record.experts.size(), top_k);
    SLUICE_CHECK_EQ(record.weights.size(), top_k);
    Put(bytes, &record.step, 1);
    Put(bytes, &record.sequence, 1);
    Put(bytes, &record.position, 1);
    Put(bytes, &record.layer, 1);
    Put(bytes, record.experts.data(), top_k);
    Put(bytes, record.weights.data(), top_k);
  }
  Write(bytes);
}

void RouterTraceWriter::Append(const RouterBatch& batch) {
  const size_t top_k = static_cast<size_t>(header_.top_k);
  SLUICE_CHECK_EQ(batch.positions.size(), batch.size());
  SLUICE_CHECK_EQ(batch.experts.size(), batch.size() * top_k);
  SLUICE_CHECK_EQ(batch.weights.size(), batch.size() * top_k);
  std::string bytes;
  bytes.reserve(batch.size() * RecordBytes(header_.top_k));
  const int32_t layer = batch.layer;
  for (size_t t = 0; t < batch.size(); ++t) {
    Put(bytes, &batch.step, 1);
    Put(bytes, &batch.sequences[t], 1);
    Put(bytes, &batch.positions[t], 1);
    Put(bytes, &layer, 1);
    Put(bytes, batch.experts.data() + t * top_k, top_k);
    Put(bytes, batch.weights.data() + t * top_k, top_k);
  }
  Write(bytes);
}

void RouterTraceWriter::Write(const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  SLUICE_CHECK(!closed_);
  file_.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

void RouterTraceWriter::Close() {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  file_.close();
  std::error_code error;
  if (file_) std::filesystem::rename(temporary_, path_, error);
  if (!file_ || error) {
    throw Error(ErrorCode::kResourceExhausted,
                path_.string() + ": could not be written whole; is the disk full?");
  }
  closed_ = true;
}

RouterTraceReader::RouterTraceReader(const std::filesystem::path& path) : name_(path.string()) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) {
    throw Error(ErrorCode::kNotFound, name_ + ": no such file; expected a router trace");
  }
  file_.open(path, std::ios::binary);
  if (!file_) throw Error(ErrorCode::kNotFound, name_ + ": cannot be opened");
  ReadHeader();
  const uint64_t begin = static_cast<uint64_t>(file_.tellg());
  file_.seekg(0, std::ios::end);
  const uint64_t bytes = static_cast<uint64_t>(file_.tellg()) - begin;
  file_.seekg(static_cast<std::streamoff>(begin));
  record_bytes_ = RecordBytes(header_.top_k);
  if (bytes % record_bytes_ != 0) {
    FailDamaged(name_, "ends within a record of " + std::to_string(record_bytes_) + " bytes");
  }
  num_records_ = bytes / record_bytes_;
  block_.resize(std::min<uint64_t>(kBlockBytes / record_bytes_, num_records_) * record_bytes_);
}

void RouterTraceReader::ReadHeader() {
  char prefix[kPrefixBytes];
  file_.read(prefix, kPrefixBytes);
  if (!file_ || std::memcmp(prefix, kMagic, sizeof(kMagic)) != 0) {
    FailDamaged(name_, "does not begin as a router trace does");
  }
  uint32_t sizes[2];
  std::memcpy(sizes, prefix + sizeof(kMagic), sizeof(sizes));
  if (sizes[0] != kVersion) {
    throw Error(ErrorCode::kUnsupported, name_ + ": is a router trace of version " +
                                             std::to_string(sizes[0]) + "; this build reads " +
                                             std::to_string(kVersion));
  }
  if (sizes[1] > kMaxHeaderBytes) FailDamaged(name_, "says its header is larger than 1 MiB");
  std::string text(sizes[1], '\0');
  file_.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file_) FailDamaged(name_, "ends within its header");
  try {
    header_ = ParseTraceHeader(text);
  } catch (const Error& error) {
    FailDamaged(name_, std::string("has a header that cannot be read (") + error.what() + ")");
  }
}

bool RouterTraceReader::Fill() {
  if (at_ < end_) return true;
  if (next_ == num_records_) return false;
  const uint64_t records = std::min<uint64_t>(block_.size() / record_bytes_, num_records_ - next_);
  at_ = 0;
  end_ = static_cast<size_t>(records) * record_bytes_;
  file_.read(block_.data(), static_cast<std::streamsize>(end_));
  if (!file_) FailDamaged(name_, "became shorter while it was read");
  return true;
}

RouterTraceReader::Fields RouterTraceReader::Take(uint16_t* experts, float* weights) const {
  const size_t top_k = static_cast<size_t>(header_.top_k);
  const char* in = block_.data() + at_;
  Fields fields;
  Get(in, &fields.step, 1);
  Get(in, &fields.sequence, 1);
  Get(in, &fields.position, 1);
  Get(in, &fields.layer, 1);
  Get(in, experts, top_k);
  Get(in, weights, top_k);
  if (fields.layer < 0 || fields.layer >= header_.num_layers || fields.position < 0) {
    FailDamaged(name_, "record " + std::to_string(next_) + " names layer " +
                           std::to_string(fields.layer) + " and position " +
                           std::to_string(fields.position) + " of " +
                           std::to_string(header_.num_layers) + " layers");
  }
  const uint16_t highest = *std::max_element(experts, experts + top_k);
  if (highest >= header_.num_experts) {
    FailDamaged(name_, "record " + std::to_string(next_) + " names expert " +
                           std::to_string(highest) + " of " + std::to_string(header_.num_experts));
  }
  return fields;
}

bool RouterTraceReader::Next(RouterRecord& record) {
  if (!Fill()) return false;
  record.experts.resize(static_cast<size_t>(header_.top_k));
  record.weights.resize(static_cast<size_t>(header_.top_k));
  const Fields fields = Take(record.experts.data(), record.weights.data());
  record.step = fields.step;
  record.sequence = fields.sequence;
  record.position = fields.position;
  record.layer = fields.layer;
  at_ += record_bytes_;
  ++next_;
  return true;
}

bool RouterTraceReader::NextBatch(RouterBatch& batch) {
  const size_t top_k = static_cast<size_t>(header_.top_k);
  batch.sequences.clear();
  batch.positions.clear();
  batch.experts.clear();
  batch.weights.clear();
  while (batch.size() < kMaxBatchTokens && Fill()) {
    const size_t begin = batch.experts.size();
    batch.experts.resize(begin + top_k);
    batch.weights.resize(begin + top_k);
    const Fields fields = Take(batch.experts.data() + begin, batch.weights.data() + begin);
    if (batch.size() == 0) {
      batch.step = fields.step;
      batch.layer = fields.layer;
    } else if (fields.step != batch.step || fields.layer != batch.layer) {
      batch.experts.resize(begin);
      batch.weights.resize(begin);
      break;
    }
    batch.sequences.push_back(fields.sequence);
    batch.positions.push_back(fields.position);
    at_ += record_bytes_;
    ++next_;
  }
  return batch.size() > 0;
}

}  // namespace sluice
