#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "device/tensor.h"
#include "trace/router_trace.h"

namespace sluice {

// Names a token whatever batch it is in.
struct RoutingKey {
  uint64_t sequence = 0;
  int32_t position = 0;
};

// Sees the experts that each MoE layer used, after any RoutingSource.
class RouterObserver {
 public:
  virtual ~RouterObserver() = default;
  virtual void Observe(uint64_t step, int layer, std::span<const RoutingKey> tokens,
                       ConstTensorView weights,   // [T, top_k] f32, contiguous
                       ConstTensorView ids) = 0;  // [T, top_k] i32, contiguous
};

// A trace in memory, looked up by (layer, sequence, position). Adding a token again replaces it.
class InMemoryTrace {
 public:
  // Throws Error(kInvalidArgument) for a header out of range.
  explicit InMemoryTrace(const RouterTraceHeader& header);
  static InMemoryTrace FromFile(const std::filesystem::path& path);

  void Add(const RouterRecord& record);

  struct Entry {
    uint64_t step;
    std::span<const uint16_t> experts;  // [top_k]
    std::span<const float> weights;     // [top_k]
  };
  // Spans are valid until the next Add.
  std::optional<Entry> Find(int layer, const RoutingKey& key) const;

  const RouterTraceHeader& header() const { return header_; }
  size_t size() const { return steps_.size(); }

 private:
  struct Key {
    uint64_t sequence;
    int32_t position;
    int32_t layer;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };

  RouterTraceHeader header_;
  std::unordered_map<Key, size_t, KeyHash> index_;  // row of the arrays below
  std::vector<uint64_t> steps_;
  std::vector<uint16_t> experts_;  // [size, top_k]
  std::vector<float> weights_;     // [size, top_k]
};

// Records what it sees to a file, which the caller owns and closes. Any thread may observe.
class FileRecorder : public RouterObserver {
 public:
  explicit FileRecorder(RouterTraceWriter& writer) : writer_(writer) {}
  void Observe(uint64_t step, int layer, std::span<const RoutingKey> tokens,
               ConstTensorView weights, ConstTensorView ids) override;

 private:
  RouterTraceWriter& writer_;
};

// Records what it sees to a trace, which the caller owns and reads when no thread observes.
class MemoryRecorder : public RouterObserver {
 public:
  explicit MemoryRecorder(InMemoryTrace& trace) : trace_(trace) {}
  void Observe(uint64_t step, int layer, std::span<const RoutingKey> tokens,
               ConstTensorView weights, ConstTensorView ids) override;

 private:
  std::mutex mutex_;
  InMemoryTrace& trace_;
};

}  // namespace sluice
