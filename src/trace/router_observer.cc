#include "trace/router_observer.h"

#include <algorithm>

#include "base/check.h"

namespace sluice {
namespace {

// Calls visit(record) for each token; the record is reused.
template <class Visit>
void ForEachRecord(uint64_t step, int layer, int top_k, std::span<const RoutingKey> tokens,
                   ConstTensorView weights, ConstTensorView ids, const Visit& visit) {
  const Shape shape = {static_cast<int64_t>(tokens.size()), top_k};
  SLUICE_CHECK_EQ(weights.shape(), shape);
  SLUICE_CHECK_EQ(ids.shape(), shape);
  SLUICE_CHECK(weights.IsContiguous() && ids.IsContiguous());
  const float* weight = weights.data<float>();
  const int32_t* id = ids.data<int32_t>();
  RouterRecord record{.step = step, .layer = layer};
  for (const RoutingKey& token : tokens) {
    record.sequence = token.sequence;
    record.position = token.position;
    record.experts.assign(id, id + top_k);
    record.weights.assign(weight, weight + top_k);
    visit(record);
    id += top_k;
    weight += top_k;
  }
}

}  // namespace

size_t InMemoryTrace::KeyHash::operator()(const Key& key) const {
  uint64_t x = key.sequence * 0x9e3779b97f4a7c15ull;
  x ^= static_cast<uint64_t>(static_cast<uint32_t>(key.position)) << 32 |
       static_cast<uint32_t>(key.layer);
  x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9ull;
  return static_cast<size_t>(x ^ (x >> 29));
}

InMemoryTrace::InMemoryTrace(const RouterTraceHeader& header) : header_(header) {
  CheckTraceHeader(header);
}

InMemoryTrace InMemoryTrace::FromFile(const std::filesystem::path& path) {
  RouterTraceReader reader(path);
  InMemoryTrace trace(reader.header());
  RouterRecord record;
  while (reader.Next(record)) trace.Add(record);
  return trace;
}

void InMemoryTrace::Add(const RouterRecord& record) {
  const size_t top_k = static_cast<size_t>(header_.top_k);
  SLUICE_CHECK_EQ(record.experts.size(), top_k);
  SLUICE_CHECK_EQ(record.weights.size(), top_k);
  const Key key{record.sequence, record.position, record.layer};
  const auto [found, added] = index_.try_emplace(key, steps_.size());
  if (added) {
    steps_.push_back(record.step);
    experts_.insert(experts_.end(), record.experts.begin(), record.experts.end());
    weights_.insert(weights_.end(), record.weights.begin(), record.weights.end());
    return;
  }
  const size_t row = found->second;
  steps_[row] = record.step;
  std::copy(record.experts.begin(), record.experts.end(), experts_.begin() + row * top_k);
  std::copy(record.weights.begin(), record.weights.end(), weights_.begin() + row * top_k);
}

std::optional<InMemoryTrace::Entry> InMemoryTrace::Find(int layer, const RoutingKey& key) const {
  const auto found = index_.find(Key{key.sequence, key.position, layer});
  if (found == index_.end()) return std::nullopt;
  const size_t top_k = static_cast<size_t>(header_.top_k);
  const size_t row = found->second;
  return Entry{.step = steps_[row],
               .experts = {experts_.data() + row * top_k, top_k},
               .weights = {weights_.data() + row * top_k, top_k}};
}

void FileRecorder::Observe(uint64_t step, int layer, std::span<const RoutingKey> tokens,
                           ConstTensorView weights, ConstTensorView ids) {
  std::vector<RouterRecord> records;
  records.reserve(tokens.size());
  ForEachRecord(step, layer, writer_.header().top_k, tokens, weights, ids,
                [&](const RouterRecord& record) { records.push_back(record); });
  writer_.Append(records);
}

void MemoryRecorder::Observe(uint64_t step, int layer, std::span<const RoutingKey> tokens,
                             ConstTensorView weights, ConstTensorView ids) {
  const std::lock_guard lock(mutex_);
  ForEachRecord(step, layer, trace_.header().top_k, tokens, weights, ids,
                [&](const RouterRecord& record) { trace_.Add(record); });
}

}  // namespace sluice
