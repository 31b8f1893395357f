#include "trace/router_trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "base/error.h"
#include "trace/router_observer.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

constexpr int kTopK = 3;
const RouterTraceHeader kHeader{.model = "m\"x",
                                .num_layers = 4,
                                .num_experts = 300,
                                .top_k = kTopK,
                                .seed = ~uint64_t{0},
                                .source = "uniform:1"};

RouterRecord MakeRecord(uint64_t sequence, int position) {
  return {.step = sequence + 100,
          .sequence = sequence,
          .position = position,
          .layer = position % 4,
          .experts = {299, 0, static_cast<uint16_t>(position)},
          .weights = {0.5f, 0.25f, static_cast<float>(position)}};
}

class RouterTrace : public ::testing::Test {
 protected:
  RouterTrace()
      : folder_(fs::temp_directory_path() / ("sluice_trace_" + std::to_string(getpid()))),
        path_(folder_ / "t.trace") {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~RouterTrace() override { fs::remove_all(folder_); }

  void WriteSound(int records) const {
    RouterTraceWriter writer(path_, kHeader);
    for (int i = 0; i < records; ++i) writer.Append(std::vector{MakeRecord(7, i)});
    writer.Close();
  }
  void Overwrite(uint64_t at, const std::string& bytes) const {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    file << bytes;
  }
  void ExpectDamaged(ErrorCode code = ErrorCode::kDataLoss) const {
    try {
      RouterTraceReader reader(path_);
      RouterRecord record;
      while (reader.Next(record)) {
      }
      FAIL() << "read a damaged trace";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
    }
  }

  fs::path folder_;
  fs::path path_;
};

TEST_F(RouterTrace, ReadsBackWhatWasWritten) {
  WriteSound(20);
  RouterTraceReader reader(path_);
  EXPECT_EQ(reader.header().model, kHeader.model);
  EXPECT_EQ(reader.header().seed, kHeader.seed);
  EXPECT_EQ(reader.header().source, kHeader.source);
  EXPECT_EQ(reader.num_records(), 20u);
  RouterRecord record;
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(reader.Next(record));
    const RouterRecord expected = MakeRecord(7, i);
    EXPECT_EQ(record.step, expected.step);
    EXPECT_EQ(record.sequence, expected.sequence);
    EXPECT_EQ(record.position, expected.position);
    EXPECT_EQ(record.layer, expected.layer);
    EXPECT_EQ(record.experts, expected.experts);
    EXPECT_EQ(record.weights, expected.weights);
  }
  EXPECT_FALSE(reader.Next(record));
}

TEST_F(RouterTrace, BatchesShareStepAndLayer) {
  constexpr int kRecords = 200000;  // several blocks, and one run longer than a batch may be
  const auto step_of = [](int i) {
    return i < 100000 ? uint64_t{1} : 2 + static_cast<uint64_t>(i) / 7;
  };
  {
    RouterTraceWriter writer(path_, kHeader);
    std::vector<RouterRecord> records;
    for (int i = 0; i < kRecords; ++i) {
      records.push_back({.step = step_of(i),
                         .sequence = static_cast<uint64_t>(i),
                         .position = i,
                         .layer = 1,
                         .experts = {1, 2, static_cast<uint16_t>(i % 300)},
                         .weights = {0.0f, 1.0f, static_cast<float>(i)}});
    }
    writer.Append(records);
    writer.Close();
  }
  RouterTraceReader reader(path_);
  RouterBatch batch;
  int seen = 0;
  while (reader.NextBatch(batch)) {
    ASSERT_EQ(batch.layer, 1);
    ASSERT_EQ(batch.experts.size(), batch.size() * kTopK);
    const bool is_full = batch.size() == RouterTraceReader::kMaxBatchTokens;
    for (size_t t = 0; t < batch.size(); ++t, ++seen) {
      ASSERT_EQ(batch.step, step_of(seen));
      ASSERT_EQ(batch.sequences[t], static_cast<uint64_t>(seen));
      ASSERT_EQ(batch.positions[t], seen);
      ASSERT_EQ(batch.experts[t * kTopK + 2], seen % 300);
      ASSERT_EQ(batch.weights[t * kTopK + 2], static_cast<float>(seen));
    }
    if (seen < kRecords && !is_full) {
      ASSERT_NE(step_of(seen), batch.step);
    }
  }
  EXPECT_EQ(seen, kRecords);
}

TEST_F(RouterTrace, AppearsWholeOrNotAtAll) {
  {
    RouterTraceWriter writer(path_, kHeader);
    writer.Append(std::vector{MakeRecord(1, 1)});
    EXPECT_FALSE(fs::exists(path_));
  }
  EXPECT_TRUE(fs::is_empty(folder_));
  WriteSound(1);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
  EXPECT_THROW(RouterTraceWriter(folder_ / "absent" / "t", kHeader), Error);
}

TEST_F(RouterTrace, ThreadsAppend) {
  constexpr int kThreads = 4;
  constexpr int kEach = 500;
  RouterTraceWriter writer(path_, kHeader);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&writer, t] {
      for (int i = 0; i < kEach; ++i) {
        writer.Append(std::vector{MakeRecord(static_cast<uint64_t>(t), i % 300)});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  writer.Close();
  RouterTraceReader reader(path_);
  std::vector<int> seen(kThreads);
  RouterRecord record;
  while (reader.Next(record)) {
    ASSERT_EQ(record.experts[2], record.position);
    ++seen[record.sequence];
  }
  EXPECT_THAT(seen, ::testing::Each(kEach));
}

TEST_F(RouterTrace, RefusesForeignAndDamagedFiles) {
  try {
    RouterTraceReader reader(path_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  }
  std::ofstream(path_) << "{}";
  ExpectDamaged();
  WriteSound(2);
  const uint64_t size = fs::file_size(path_);
  const uint64_t record_bytes = 24 + 6 * kTopK;
  fs::resize_file(path_, size - 1);
  ExpectDamaged();
  fs::resize_file(path_, 30);
  ExpectDamaged();
  WriteSound(2);
  Overwrite(8, std::string("\2\0\0\0", 4));
  ExpectDamaged(ErrorCode::kUnsupported);
  WriteSound(2);
  Overwrite(12, "\xff\xff\xff\x7f");
  ExpectDamaged();
  WriteSound(2);
  Overwrite(16, "[");
  ExpectDamaged();
  WriteSound(2);
  Overwrite(size - record_bytes + 20, std::string("\4\0\0\0", 4));  // layer 4 of 4
  ExpectDamaged();
  WriteSound(2);
  Overwrite(size - record_bytes + 24, std::string("\x2c\1", 2));  // expert 300 of 300
  ExpectDamaged();
}

TEST_F(RouterTrace, RefusesHeadersOutOfRange) {
  RouterTraceHeader header = kHeader;
  header.top_k = 0;
  EXPECT_THROW(RouterTraceWriter(path_, header), Error);
  header.top_k = 65;
  EXPECT_THROW(InMemoryTrace{header}, Error);
  header = kHeader;
  header.num_experts = 2;  // below top_k
  EXPECT_THROW(InMemoryTrace{header}, Error);
}

TEST_F(RouterTrace, RecordersAgree) {
  const std::vector<RoutingKey> tokens = {{5, 0}, {6, 9}};
  std::vector<float> weights = {0.5f, 0.3f, 0.2f, 0.6f, 0.3f, 0.1f};
  std::vector<int32_t> ids = {1, 2, 3, 299, 5, 4};
  const ConstTensorView weight_view(weights.data(), DType::kF32, {2, 3});
  const ConstTensorView id_view(ids.data(), DType::kI32, {2, 3});
  InMemoryTrace memory(kHeader);
  MemoryRecorder(memory).Observe(3, 2, tokens, weight_view, id_view);
  {
    RouterTraceWriter writer(path_, kHeader);
    FileRecorder(writer).Observe(3, 2, tokens, weight_view, id_view);
    writer.Close();
  }
  const InMemoryTrace file = InMemoryTrace::FromFile(path_);
  for (const InMemoryTrace* trace : {static_cast<const InMemoryTrace*>(&memory), &file}) {
    EXPECT_EQ(trace->size(), 2u);
    const auto entry = trace->Find(2, {6, 9});
    ASSERT_TRUE(entry.has_value());
    EXPECT_EQ(entry->step, 3u);
    EXPECT_THAT(entry->experts, ::testing::ElementsAre(299, 5, 4));
    EXPECT_THAT(entry->weights, ::testing::ElementsAre(0.6f, 0.3f, 0.1f));
    EXPECT_FALSE(trace->Find(1, {6, 9}).has_value());
    EXPECT_FALSE(trace->Find(2, {6, 8}).has_value());
  }
  ids = {10, 11, 12, 13, 14, 15};
  MemoryRecorder(memory).Observe(4, 2, tokens, weight_view, id_view);
  EXPECT_EQ(memory.size(), 2u);
  EXPECT_THAT(memory.Find(2, {5, 0})->experts, ::testing::ElementsAre(10, 11, 12));
}

}  // namespace
}  // namespace sluice
