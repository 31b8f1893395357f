#include "base/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace sluice {

enum class Colour { kRed, kGreen };
constexpr Colour LastOf(Colour) {
  return Colour::kGreen;
}

struct Inner {
  int32_t number = 0;
  std::string text;
};
inline auto Fields(Inner& value) {
  auto& [number, text] = value;
  return std::tie(number, text);
}

struct Outer {
  bool flag = false;
  Colour colour = Colour::kRed;
  double real = 0;
  std::vector<float> reals;
  std::vector<Inner> inners;
  std::optional<uint64_t> maybe;
  std::pair<int, std::string> pair;
  std::shared_ptr<std::vector<int>> shared;
};
inline auto Fields(Outer& value) {
  auto& [flag, colour, real, reals, inners, maybe, pair, shared] = value;
  return std::tie(flag, colour, real, reals, inners, maybe, pair, shared);
}

namespace {

using testing::ElementsAre;
using testing::HasSubstr;

template <class T>
std::vector<std::byte> ToWire(const T& value) {
  std::vector<std::byte> bytes(4096);
  WireWriter writer(bytes);
  writer.Write(value);
  bytes.resize(writer.num_bytes());
  return bytes;
}

// What reading the bytes throws.
template <class T>
Error Refusal(const std::vector<std::byte>& bytes) {
  try {
    FromWire<T>(bytes);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "it was read";
  return {ErrorCode::kInternal, ""};
}

Outer Sample() {
  return {.flag = true,
          .colour = Colour::kGreen,
          .real = -0.5,
          .reals = {1, -INFINITY},
          .inners = {{.number = 1, .text = "a"}, {.number = -2, .text = std::string("\0b", 2)}},
          .maybe = ~uint64_t{0},
          .pair = {3, "c"},
          .shared = std::make_shared<std::vector<int>>(2, 4)};
}

TEST(Wire, EveryKindOfFieldComesBack) {
  const Outer got = FromWire<Outer>(ToWire(Sample()));
  EXPECT_TRUE(got.flag);
  EXPECT_EQ(got.colour, Colour::kGreen);
  EXPECT_EQ(got.real, -0.5);
  EXPECT_THAT(got.reals, ElementsAre(1, -INFINITY));
  ASSERT_EQ(got.inners.size(), 2u);
  EXPECT_EQ(got.inners[1].number, -2);
  EXPECT_EQ(got.inners[1].text, std::string("\0b", 2));
  EXPECT_EQ(got.maybe, ~uint64_t{0});
  EXPECT_EQ(got.pair, std::make_pair(3, std::string("c")));
  ASSERT_NE(got.shared, nullptr);
  EXPECT_THAT(*got.shared, ElementsAre(4, 4));
}

TEST(Wire, ReadingReplacesWhatWasThere) {
  Outer value = Sample();
  const std::vector<std::byte> bytes = ToWire(Outer());
  WireReader reader(bytes);
  reader.Read(value);
  EXPECT_FALSE(value.maybe.has_value());
  EXPECT_TRUE(value.inners.empty());
  EXPECT_EQ(value.pair.second, "");
  EXPECT_EQ(value.shared, nullptr);
}

TEST(Wire, ReadingLeavesWhatWasInCommonToOthers) {
  Outer value = Sample();
  const auto others = value.shared;
  Outer sent = Sample();
  *sent.shared = {5};
  const std::vector<std::byte> bytes = ToWire(sent);
  WireReader reader(bytes);
  reader.Read(value);
  EXPECT_THAT(*value.shared, ElementsAre(5));
  EXPECT_THAT(*others, ElementsAre(4, 4));
}

TEST(Wire, ACutMessageIsRefusedWhereverItIsCut) {
  const std::vector<std::byte> whole = ToWire(Sample());
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::vector<std::byte> cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(length));
    EXPECT_EQ(Refusal<Outer>(cut).code(), ErrorCode::kDataLoss) << length;
  }
  std::vector<std::byte> longer = whole;
  longer.push_back({});
  EXPECT_THAT(Refusal<Outer>(longer).what(), HasSubstr("1 bytes are left over"));
}

TEST(Wire, ValuesThatNobodyWroteAreRefused) {
  EXPECT_THAT(Refusal<bool>(ToWire(uint8_t{2})).what(), HasSubstr("a flag is 2"));
  EXPECT_THAT(Refusal<Colour>(ToWire(int{2})).what(), HasSubstr("a choice is 2"));
  EXPECT_THAT(Refusal<Colour>(ToWire(int{-1})).what(), HasSubstr("a choice is -1"));
}

TEST(Wire, ACountTakesNoMemoryThatItsBytesDoNotAccountFor) {
  for (const uint64_t count : {uint64_t{1}, uint64_t{1} << 40, ~uint64_t{0}}) {
    EXPECT_EQ(Refusal<std::vector<double>>(ToWire(count)).code(), ErrorCode::kDataLoss);
    EXPECT_EQ(Refusal<std::vector<Inner>>(ToWire(count)).code(), ErrorCode::kDataLoss);
    EXPECT_EQ(Refusal<std::string>(ToWire(count)).code(), ErrorCode::kDataLoss);
  }
}

TEST(Wire, AMessageThatDoesNotFitIsRefused) {
  std::array<std::byte, 16> memory{};
  WireWriter writer(memory);
  writer.Write(std::string("8 bytes."));
  EXPECT_EQ(writer.num_bytes(), 16u);
  try {
    writer.Write(true);
    FAIL() << "it was written";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    EXPECT_THAT(error.what(), HasSubstr("16 bytes"));
  }
}

}  // namespace
}  // namespace sluice
