#include "offload/expert_link.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "device/buffer.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

TEST(ThreadLink, CopiesInTheOrderQueued) {
  constexpr size_t kBytes = 4096;
  const auto link = MakeThreadLink({.bytes_per_s = 1e9, .latency_s = 0});
  // Each copy takes what the one before it brought.
  std::vector<std::vector<std::byte>> stages(20, std::vector<std::byte>(kBytes));
  stages[0].assign(kBytes, std::byte{42});
  ExpertLink::Ticket last = 0;
  for (size_t i = 1; i < stages.size(); ++i) {
    const auto ticket = link->Copy(stages[i].data(), stages[i - 1].data(), kBytes, 0, {});
    EXPECT_GT(ticket, last);
    last = ticket;
  }
  link->Await(last);
  EXPECT_EQ(stages.back(), stages.front());
  EXPECT_TRUE(link->Arrived(last));
  EXPECT_EQ(link->Use().copies, 19u);
  EXPECT_EQ(link->Use().bytes, 19 * kBytes);
}

TEST(ThreadLink, IsBusyAsLongAsItsBandwidthAndLatencySay) {
  constexpr size_t kBytes = 200'000;
  constexpr int kCopies = 25;
  const std::vector<std::byte> source(kBytes);
  std::vector<std::byte> target(kBytes);
  const auto link = MakeThreadLink({.bytes_per_s = 2e8, .latency_s = 1e-3});
  const auto begin = Clock::now();
  ExpertLink::Ticket last = 0;
  for (int i = 0; i < kCopies; ++i) last = link->Copy(target.data(), source.data(), kBytes, 0, {});
  EXPECT_LT(SecondsSince(begin), 0.02);  // queueing does not wait
  EXPECT_FALSE(link->Arrived(last));
  link->Wait(last);
  const double expected = kCopies * (1e-3 + kBytes / 2e8);  // 50 ms
  EXPECT_GE(SecondsSince(begin), expected * 0.999);
  EXPECT_GE(link->Use().busy_s, expected * 0.999);
  EXPECT_LE(link->Use().busy_s, expected * 1.2);
}

// Late wake-ups of one copy are made up for by the next.
TEST(ThreadLink, KeepsItsRateOverManySmallCopies) {
  const std::vector<std::byte> source(1000);
  std::vector<std::byte> target(1000);
  const auto link = MakeThreadLink({.bytes_per_s = 1e7, .latency_s = 0});  // 100 us each
  ExpertLink::Ticket last = 0;
  for (int i = 0; i < 400; ++i)
    last = link->Copy(target.data(), source.data(), source.size(), 0, {});
  link->Wait(last);
  EXPECT_GE(link->Use().busy_s, 0.04 * 0.999);
  EXPECT_LE(link->Use().busy_s, 0.04 * 1.5);
}

TEST(ThreadLink, RestsWhenNothingIsQueued) {
  const std::vector<std::byte> source(1000);
  std::vector<std::byte> target(1000);
  const auto link = MakeThreadLink({.bytes_per_s = 0, .latency_s = 2e-3});
  link->Wait(link->Copy(target.data(), source.data(), source.size(), 0, {}));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  link->Wait(link->Copy(target.data(), source.data(), source.size(), 0, {}));
  EXPECT_LT(link->Use().busy_s, 0.03);
}

TEST(ThreadLink, PoisonsInItsTurnAndCountsNoCopy) {
  const std::vector<std::byte> source(64, std::byte{7});
  std::vector<std::byte> target(128);
  const auto link = MakeThreadLink();
  link->Copy(target.data(), source.data(), 64, 0, {});
  link->Copy(target.data() + 64, source.data(), 64, 0, {});
  link->Wait(link->Poison(target.data(), 64, 0));
  EXPECT_EQ(std::vector(target.begin(), target.begin() + 64), std::vector(64, std::byte{0xff}));
  EXPECT_EQ(std::vector(target.begin() + 64, target.end()), source);
  EXPECT_EQ(link->Use().copies, 2u);
}

// The spans of a timeline's one track, which must be "link", in their order. The file goes.
boost::json::array LinkSpans(const std::filesystem::path& file) {
  std::ifstream in(file);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  std::filesystem::remove(file);
  boost::json::array spans;
  const boost::json::value parsed = boost::json::parse(text);
  for (const boost::json::value& event : parsed.at("traceEvents").as_array()) {
    if (event.at("ph").as_string() == "X") {
      spans.push_back(event);
    } else {
      EXPECT_EQ(event.at("args").at("name").as_string(), "link");
    }
  }
  return spans;
}

double Milliseconds(const boost::json::value& span, const char* key) {
  return 1e-3 * span.at(key).to_number<double>();
}

// Three copies, one behind the other, with something else between them, and after a rest one more.
void QueueForTimeline(ExpertLink& link, std::byte* target, const std::byte* source, size_t bytes) {
  const auto label = [](int64_t expert) -> ExpertLink::Label {
    return {.name = "demand", .facts = {.layer = 3, .expert = expert}};
  };
  link.Copy(target, source, bytes, 0, label(7));
  link.Poison(target, bytes, 0);
  link.Copy(target, source, bytes, 0, label(8));
  link.Wait(link.Copy(target, source, bytes, 0, {.name = "prefetch", .facts = {.expert = 9}}));
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  link.Wait(link.Copy(target, source, bytes, 0, label(10)));
}

void ExpectOnTimeline(const boost::json::array& spans, double least_ms) {
  ASSERT_EQ(spans.size(), 4u);
  EXPECT_EQ(spans[0].at("name").as_string(), "demand");
  EXPECT_EQ(serialize(spans[0].at("args")), R"({"layer":3,"expert":7})");
  EXPECT_EQ(spans[2].at("name").as_string(), "prefetch");
  EXPECT_EQ(serialize(spans[3].at("args")), R"({"layer":3,"expert":10})");
  for (size_t i = 0; i < spans.size(); ++i) {
    EXPECT_GE(Milliseconds(spans[i], "dur"), least_ms) << i;
    if (i == 0) continue;
    const double end_before = Milliseconds(spans[i - 1], "ts") + Milliseconds(spans[i - 1], "dur");
    const double gap = Milliseconds(spans[i], "ts") - end_before;
    EXPECT_GE(gap, i < 3 ? -1e-5 : 25.0) << i;
  }
}

TEST(ThreadLink, PutsEachCopyOnTheTimeline) {
  const std::filesystem::path file = testing::TempDir() + "/thread_link_test.json";
  const std::vector<std::byte> source(1000);
  std::vector<std::byte> target(1000);
  {
    Timeline timeline(file);
    const auto link = MakeThreadLink({.bytes_per_s = 1e6, .latency_s = 1e-3}, &timeline);
    QueueForTimeline(*link, target.data(), source.data(), source.size());
  }
  ExpectOnTimeline(LinkSpans(file), 2 * 0.999);
}

TEST(ThreadLink, EndsWithCopiesQueued) {
  const std::vector<std::byte> source(1000);
  std::vector<std::byte> target(1000);
  const auto begin = Clock::now();
  {
    const auto link = MakeThreadLink({.bytes_per_s = 0, .latency_s = 0.02});
    for (int i = 0; i < 1000; ++i) link->Copy(target.data(), source.data(), 1000, 0, {});
  }
  EXPECT_LT(SecondsSince(begin), 5);
}

class CudaLinkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
    stream_.emplace();
    link_ = MakeCudaLink(*stream_);
  }
  // Keeps the compute stream busy for some milliseconds.
  void QueueWork() {
    if (work_.size() == 0) work_ = Buffer(size_t{1} << 30, MemoryKind::kCuda);
    for (int i = 0; i < 20; ++i) stream_->Fill(work_.data(), static_cast<uint8_t>(i), work_.size());
  }
  static Buffer Pinned(size_t bytes, int value) {
    Buffer buffer(bytes, MemoryKind::kPinned);
    std::memset(buffer.data(), value, bytes);
    return buffer;
  }
  std::vector<std::byte> Fetch(const std::byte* device, size_t bytes) {
    std::vector<std::byte> host(bytes);
    stream_->Copy(host.data(), device, bytes);
    stream_->Synchronize();
    return host;
  }

  std::optional<CudaStream> stream_;
  std::unique_ptr<ExpertLink> link_;
  Buffer work_;
};

constexpr size_t kMiB = 1 << 20;

TEST_F(CudaLinkTest, CopiesAndPoisonsInTheOrderQueued) {
  const Buffer slot(32 * kMiB, MemoryKind::kCuda);
  std::vector<Buffer> sources;
  for (int i = 0; i < 5; ++i) sources.push_back(Pinned(slot.size(), i));
  for (int i = 0; i < 25; ++i) {
    link_->Copy(slot.data(), sources[i % 5].data(), slot.size(), 0, {});
    if (i % 3 == 0) link_->Poison(slot.data(), slot.size(), 0);
  }
  const auto last = link_->Copy(slot.data(), sources[3].data(), slot.size(), 0, {});
  EXPECT_FALSE(link_->Arrived(last));
  link_->Await(last);
  EXPECT_EQ(Fetch(slot.data(), slot.size()), std::vector(slot.size(), std::byte{3}));
  EXPECT_TRUE(link_->Arrived(last));
  const LinkUse use = link_->Use();
  EXPECT_EQ(use.copies, 26u);
  EXPECT_EQ(use.bytes, 26 * slot.size());
  EXPECT_GT(use.busy_s, static_cast<double>(use.bytes) / 200e9);
  EXPECT_LT(use.busy_s, static_cast<double>(use.bytes) / 1e9);
}

TEST_F(CudaLinkTest, DoesNotOverwriteWhatQueuedWorkStillReads) {
  const Buffer slot(8 * kMiB, MemoryKind::kCuda);
  const Buffer out(slot.size(), MemoryKind::kCuda);
  const Buffer before = Pinned(slot.size(), 1);
  const Buffer after = Pinned(slot.size(), 2);
  for (int round = 0; round < 4; ++round) {  // events are used again
    link_->Await(link_->Copy(slot.data(), before.data(), slot.size(), 0, {}));
    QueueWork();
    stream_->Copy(out.data(), slot.data(), slot.size());
    const auto written =
        link_->Copy(slot.data(), after.data(), slot.size(), link_->MarkReaders(), {});
    EXPECT_FALSE(link_->Arrived(written));
    link_->Await(written);
    EXPECT_EQ(Fetch(out.data(), out.size()), std::vector(out.size(), std::byte{1}));
    EXPECT_EQ(Fetch(slot.data(), slot.size()), std::vector(slot.size(), std::byte{2}));
  }
}

TEST_F(CudaLinkTest, RunsBesideTheCompute) {
  const Buffer slot(kMiB, MemoryKind::kCuda);
  const Buffer source = Pinned(slot.size(), 1);
  QueueWork();
  CudaEvent computed;
  computed.Record(*stream_);
  link_->Wait(link_->Copy(slot.data(), source.data(), slot.size(), 0, {}));
  EXPECT_FALSE(computed.Reached());
  stream_->Synchronize();
}

TEST_F(CudaLinkTest, PutsEachCopyOnTheTimeline) {
  const std::filesystem::path file = testing::TempDir() + "/cuda_link_test.json";
  const Buffer slot(32 * kMiB, MemoryKind::kCuda);
  const Buffer source = Pinned(slot.size(), 1);
  const auto begin = Clock::now();
  {
    Timeline timeline(file);
    const auto link = MakeCudaLink(*stream_, &timeline);
    QueueForTimeline(*link, slot.data(), source.data(), slot.size());
    // One that waits for what is computed lies behind that.
    QueueWork();
    link->Wait(link->Copy(slot.data(), source.data(), slot.size(), link->MarkReaders(), {}));
  }
  const double all_ms = 1e3 * SecondsSince(begin);
  boost::json::array spans = LinkSpans(file);
  ASSERT_EQ(spans.size(), 5u);
  const double end = Milliseconds(spans[4], "ts") + Milliseconds(spans[4], "dur");
  EXPECT_LT(end, all_ms);
  EXPECT_GT(Milliseconds(spans[4], "ts"),
            Milliseconds(spans[3], "ts") + Milliseconds(spans[3], "dur") + 1.0);
  spans.pop_back();
  ExpectOnTimeline(spans, 1e3 * static_cast<double>(slot.size()) / 200e9);
}

TEST_F(CudaLinkTest, CopiesFromALargePinnedBuffer) {
  const size_t bytes = 300 * kMiB + 64;
  const Buffer source = Pinned(bytes, 5);
  const Buffer slot(kMiB, MemoryKind::kCuda);
  link_->Await(link_->Copy(slot.data(), source.data() + bytes - slot.size(), slot.size(), 0, {}));
  EXPECT_EQ(Fetch(slot.data(), slot.size()), std::vector(slot.size(), std::byte{5}));
}

}  // namespace
}  // namespace sluice
