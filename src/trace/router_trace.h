#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// What a router trace says about the run that it was recorded from.
struct RouterTraceHeader {
  std::string model;
  int num_layers = 0;  // decoder layers; records name those that route
  int num_experts = 0;
  int top_k = 0;       // 1 to 64
  uint64_t seed = 0;   // of the run's sampling or synthetic routing
  std::string source;  // RoutingSource::Name()
};

// Throws Error(kInvalidArgument) for counts that a trace cannot hold: 1 to 4096 layers, 1 to 65536
// experts, top_k at most 64 and at most the experts.
void CheckTraceHeader(const RouterTraceHeader& header);

// The header as the files carry it, one line of JSON; ParseTraceHeader reads it back and throws
// Error(kInvalidArgument) for a text that is not one and for counts that a trace cannot hold.
std::string TraceHeaderJson(const RouterTraceHeader& header);
RouterTraceHeader ParseTraceHeader(std::string_view text);

// The experts of one token in one layer.
struct RouterRecord {
  uint64_t step = 0;
  uint64_t sequence = 0;  // key that the run gave the sequence
  int32_t position = 0;
  int32_t layer = 0;
  std::vector<uint16_t> experts;  // [top_k], highest weight first
  std::vector<float> weights;     // [top_k]
};

// The experts of tokens that went through one layer in one step.
struct RouterBatch {
  uint64_t step = 0;
  int layer = 0;
  std::vector<uint64_t> sequences;  // [tokens]
  std::vector<int32_t> positions;   // [tokens]
  std::vector<uint16_t> experts;    // [tokens, top_k]
  std::vector<float> weights;       // [tokens, top_k]

  size_t size() const { return sequences.size(); }
};

// A router trace on disk, little-endian:
//   8 bytes "SLUICERT", u32 version (1), u32 header bytes, JSON header
//   {"model", "layers", "experts", "top_k", "seed", "source"}, then records of 24 + 6 * top_k
//   bytes: u64 step, u64 sequence, i32 position, i32 layer, u16 experts[top_k], f32 weights[top_k].
//
// Writes to a temporary name beside `path`, which becomes `path` at Close: a reader never sees half
// a trace. Any thread may append.
class RouterTraceWriter {
 public:
  // Throws Error when the file cannot be made or the header is out of range.
  RouterTraceWriter(const std::filesystem::path& path, const RouterTraceHeader& header);
  // Without Close, what was written is removed.
  ~RouterTraceWriter();
  RouterTraceWriter(const RouterTraceWriter&) = delete;
  RouterTraceWriter& operator=(const RouterTraceWriter&) = delete;

  // Appends records in order, all in one piece. Each has top_k experts and weights.
  void Append(std::span<const RouterRecord> records);
  void Append(const RouterBatch& batch);

  // Flushes and puts the file under its name. Throws Error(kResourceExhausted) when the disk is
  // full.
  void Close();

  const RouterTraceHeader& header() const { return header_; }

 private:
  void Write(const std::string& bytes);

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  RouterTraceHeader header_;
  std::mutex mutex_;
  std::ofstream file_;  // guarded by mutex_
  bool closed_ = false;
};

// Where studies read routing from: batches one after another, from the first step to the last.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  virtual const RouterTraceHeader& header() const = 0;
  // The next tokens that share step and layer; false at the end. A step and layer with very many
  // tokens comes as several batches.
  virtual bool NextBatch(RouterBatch& batch) = 0;
};

// Reads a trace from its beginning to its end in bounded memory. Throws Error: kNotFound, or
// kDataLoss for a file that is foreign, truncated or holds ids out of range.
class RouterTraceReader : public BatchSource {
 public:
  explicit RouterTraceReader(const std::filesystem::path& path);

  const RouterTraceHeader& header() const override { return header_; }
  uint64_t num_records() const { return num_records_; }

  // Reads the next record into `record`; false at the end.
  bool Next(RouterRecord& record);

  // Reads the run of records from here on that share step and layer, at most kMaxBatchTokens of
  // them: a longer run comes as several batches. False at the end.
  bool NextBatch(RouterBatch& batch) override;
  static constexpr size_t kMaxBatchTokens = 65536;

 private:
  // A record's fields; experts and weights lie behind them, unaligned.
  struct Fields {
    uint64_t step;
    uint64_t sequence;
    int32_t position;
    int32_t layer;
  };
  void ReadHeader();
  // Makes the next record the one at `at_`; false at the end.
  bool Fill();
  // The fields of the record at `at_`, checked; its experts are copied to `experts`.
  Fields Take(uint16_t* experts, float* weights) const;

  std::string name_;
  std::ifstream file_;
  RouterTraceHeader header_;
  uint64_t num_records_ = 0;
  uint64_t next_ = 0;
  size_t record_bytes_ = 0;
  std::vector<char> block_;  // whole records
  size_t at_ = 0;            // of the next record in block_
  size_t end_ = 0;           // bytes of block_ that were read
};

}  // namespace sluice
