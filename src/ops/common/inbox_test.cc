#include "ops/common/inbox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "device/cuda_memory.h"
#include "ops/common/copy_few_bytes.h"

namespace sluice::ops {
namespace {

class InboxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
    stream_.emplace();
  }
  void CopyFew(void* target, const void* source, size_t bytes) {
    if constexpr (kCudaBuilt) cuda::CopyFewBytes(target, source, bytes, *stream_);
  }
  std::vector<uint8_t> Fetch(const std::byte* device, size_t bytes) {
    std::vector<uint8_t> host(bytes);
    stream_->Copy(host.data(), device, bytes);
    stream_->Synchronize();
    return host;
  }

  std::optional<CudaStream> stream_;
};

void FillWith(Buffer& buffer, size_t seed) {
  auto* bytes = reinterpret_cast<uint8_t*>(buffer.data());
  for (size_t i = 0; i < buffer.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 7 + seed);
}

// By the kernel and by the engine: sizes around what the kernel takes, and places and sizes that
// are no whole words.
TEST_F(InboxTest, FewBytesAreCopiedBothWaysAndNoOthers) {
  constexpr size_t kMost = 32 << 10;
  Buffer source(kMost, MemoryKind::kPinned);
  const Buffer device(kMost, MemoryKind::kCuda);
  Buffer target(kMost, MemoryKind::kPinned);
  FillWith(source, 3);
  for (const size_t bytes : {0, 1, 4, 7, 1020, 1024, 1028, 16384, 16388}) {
    for (const size_t offset : {0, 2, 4, 12}) {
      SCOPED_TRACE(::testing::Message() << bytes << " bytes at " << offset);
      stream_->Fill(device.data(), 0xee, kMost);
      std::memset(target.data(), 0xdd, kMost);
      CopyFew(device.data() + offset, source.data() + offset, bytes);
      CopyFew(target.data() + offset, device.data() + offset, bytes);
      const std::vector<uint8_t> there = Fetch(device.data(), kMost);
      for (size_t i = 0; i < kMost; ++i) {
        const bool copied = offset <= i && i < offset + bytes;
        ASSERT_EQ(there[i], copied ? static_cast<uint8_t>(source.data()[i]) : 0xee) << i;
        ASSERT_EQ(static_cast<uint8_t>(target.data()[i]),
                  copied ? static_cast<uint8_t>(source.data()[i]) : 0xdd)
            << i;
      }
    }
  }
}

TEST_F(InboxTest, RowsGoWhereTheyBelong) {
  constexpr int64_t kRows = 5;
  const std::vector<int32_t> target_rows = {6, 0, 3, 7, 2};
  Buffer places(kRows * sizeof(int32_t), MemoryKind::kPinned);
  std::memcpy(places.data(), target_rows.data(), places.size());
  for (const size_t row_bytes : {4, 1020, 8192, 8196, 20480}) {
    SCOPED_TRACE(row_bytes);
    Buffer source(kRows * row_bytes, MemoryKind::kPinned);
    const Buffer device(8 * row_bytes, MemoryKind::kCuda);
    FillWith(source, row_bytes);
    stream_->Fill(device.data(), 0xee, device.size());
    if constexpr (kCudaBuilt) {
      cuda::ScatterRows(device.data(), source.data(),
                        reinterpret_cast<const int32_t*>(places.data()), kRows, row_bytes,
                        *stream_);
    }
    std::vector<uint8_t> expected(device.size(), 0xee);
    for (int64_t i = 0; i < kRows; ++i) {
      std::memcpy(expected.data() + target_rows[i] * row_bytes, source.data() + i * row_bytes,
                  row_bytes);
    }
    ASSERT_EQ(
        std::memcmp(Fetch(device.data(), device.size()).data(), expected.data(), expected.size()),
        0);
  }
}

// The host writes the same memory anew once it has waited: no cache may hold what was there.
TEST_F(InboxTest, WhatTheHostWroteLastIsCopied) {
  Buffer source(4096, MemoryKind::kPinned);
  const Buffer device(source.size(), MemoryKind::kCuda);
  for (size_t round = 0; round < 50; ++round) {
    FillWith(source, round);
    CopyFew(device.data(), source.data(), source.size());
    const std::vector<uint8_t> there = Fetch(device.data(), source.size());
    ASSERT_EQ(std::memcmp(there.data(), source.data(), there.size()), 0) << round;
  }
}

// Pieces have the same addresses each time, and the kernel behind them does not start early.
TEST_F(InboxTest, PiecesArriveTogether) {
  Inbox inbox(*stream_, Inbox::Sends::kTogether, 1024);
  std::vector<std::byte*> places;
  for (int round = 0; round < 3; ++round) {
    inbox.Clear();
    std::vector<Inbox::Piece> pieces;
    for (const size_t bytes : {100, 700, 5000}) {  // the last one takes more room than there was
      pieces.push_back(inbox.Take(bytes));
      std::memset(pieces.back().host, 10 * round + static_cast<int>(pieces.size()), bytes);
      inbox.Filled(pieces.back());
    }
    EXPECT_FALSE(stream_->TakeHold());
    inbox.Send();
    EXPECT_TRUE(stream_->TakeHold());
    inbox.Send();  // of nothing new
    EXPECT_FALSE(stream_->TakeHold());
    for (size_t i = 0; i < pieces.size(); ++i) {
      const std::vector<uint8_t> want(pieces[i].bytes, static_cast<uint8_t>(10 * round + i + 1));
      EXPECT_EQ(Fetch(pieces[i].device, pieces[i].bytes), want);
      if (round == 0) places.push_back(pieces[i].device);
      EXPECT_EQ(pieces[i].device, places[i]);
    }
  }
}

}  // namespace
}  // namespace sluice::ops
