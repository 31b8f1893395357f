#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"

// Plain values as bytes, for another process of the same binary on the same machine: numbers stand
// as in memory, and what can vary in length is preceded by how much there is.
//
// A struct crosses once its fields are listed, for writing and reading alike; the structured
// binding makes a forgotten field an error of the compiler:
//
//   inline auto Fields(StepPlan& plan) {
//     auto& [step, slices] = plan;
//     return std::tie(step, slices);
//   }
//
// An enum crosses whose values count up from 0 to that of `constexpr Enum LastOf(Enum)`.
namespace sluice {

template <class T>
concept WireNumber = std::is_arithmetic_v<T>;

// Writes values behind each other into memory of a fixed size.
class WireWriter {
 public:
  explicit WireWriter(std::span<std::byte> target) : target_(target) {}

  // Throws Error(kResourceExhausted) when the memory is full.
  template <class T>
  void Write(const T& value) {
    if constexpr (WireNumber<T>) {
      Put(&value, sizeof(value));
    } else if constexpr (std::is_enum_v<T>) {
      Write(static_cast<std::underlying_type_t<T>>(value));
    } else {
      // Nothing is changed: one list of fields serves both directions.
      std::apply([this](const auto&... field) { (this->Write(field), ...); },
                 Fields(const_cast<T&>(value)));
    }
  }
  template <class T>
  void Write(const std::vector<T>& values) {
    Write(uint64_t{values.size()});
    if constexpr (WireNumber<T>) {
      Put(values.data(), values.size() * sizeof(T));
    } else {
      for (const T& value : values) Write(value);
    }
  }
  void Write(const std::string& text) {
    Write(uint64_t{text.size()});
    Put(text.data(), text.size());
  }
  template <class T>
  void Write(const std::optional<T>& value) {
    Write(value.has_value());
    if (value.has_value()) Write(*value);
  }
  template <class T>
  void Write(const std::shared_ptr<T>& value) {
    Write(value != nullptr);
    if (value != nullptr) Write(*value);
  }
  template <class A, class B>
  void Write(const std::pair<A, B>& pair) {
    Write(pair.first);
    Write(pair.second);
  }

  size_t num_bytes() const { return used_; }

 private:
  void Put(const void* bytes, size_t count) {
    if (count > target_.size() - used_) {
      throw Error(ErrorCode::kResourceExhausted, "a message for another process passes the " +
                                                     std::to_string(target_.size()) +
                                                     " bytes that there are for it");
    }
    if (count > 0) std::memcpy(target_.data() + used_, bytes, count);
    used_ += count;
  }

  std::span<std::byte> target_;
  size_t used_ = 0;
};

// Reads what a WireWriter wrote, over values whose memory is used again. Throws Error(kDataLoss)
// for bytes that it cannot have written, and takes no more memory than they account for.
class WireReader {
 public:
  explicit WireReader(std::span<const std::byte> source) : source_(source) {}

  template <class T>
  void Read(T& value) {
    if constexpr (std::same_as<T, bool>) {
      const auto byte = Take<uint8_t>();
      if (byte > 1) throw Damaged("a flag is " + std::to_string(byte));
      value = byte == 1;
    } else if constexpr (WireNumber<T>) {
      value = Take<T>();
    } else if constexpr (std::is_enum_v<T>) {
      const auto number = Take<std::underlying_type_t<T>>();
      if (number < 0 || number > static_cast<std::underlying_type_t<T>>(LastOf(T{}))) {
        throw Damaged("a choice is " + std::to_string(number));
      }
      value = static_cast<T>(number);
    } else {
      std::apply([this](auto&... field) { (this->Read(field), ...); }, Fields(value));
    }
  }
  template <class T>
  void Read(std::vector<T>& values) {
    const size_t count = TakeCount(WireNumber<T> ? sizeof(T) : 1);
    if constexpr (WireNumber<T>) {
      values.resize(count);
      Get(values.data(), count * sizeof(T));
    } else {
      for (size_t i = 0; i < count; ++i)
        Read(i < values.size() ? values[i] : values.emplace_back());
      values.resize(count);
    }
  }
  void Read(std::string& text) {
    text.resize(TakeCount(1));
    Get(text.data(), text.size());
  }
  template <class T>
  void Read(std::optional<T>& value) {
    bool there = false;
    Read(there);
    value.reset();
    if (there) Read(value.emplace());
  }
  // A value of its own, whoever had it in common before.
  template <class T>
  void Read(std::shared_ptr<T>& value) {
    bool there = false;
    Read(there);
    if (!there) {
      value.reset();
    } else {
      if (value.use_count() != 1) value = std::make_shared<T>();
      Read(*value);
    }
  }
  template <class A, class B>
  void Read(std::pair<A, B>& pair) {
    Read(pair.first);
    Read(pair.second);
  }

  // To be called when all is read.
  void ExpectEnd() const {
    if (!source_.empty()) throw Damaged(std::to_string(source_.size()) + " bytes are left over");
  }

 private:
  static Error Damaged(const std::string& how) {
    return {ErrorCode::kDataLoss, "a message from another process is damaged: " + how};
  }
  void Get(void* target, size_t count) {
    if (count > source_.size()) {
      throw Damaged("it ends " + std::to_string(count - source_.size()) + " bytes early");
    }
    if (count > 0) std::memcpy(target, source_.data(), count);
    source_ = source_.subspan(count);
  }
  template <class T>
  T Take() {
    T value{};
    Get(&value, sizeof(value));
    return value;
  }
  // The count of what follows, each at least `bytes_each` long.
  size_t TakeCount(size_t bytes_each) {
    const auto count = Take<uint64_t>();
    if (count > source_.size() / bytes_each) {
      throw Damaged("it says that " + std::to_string(count) + " values follow");
    }
    return static_cast<size_t>(count);
  }

  std::span<const std::byte> source_;
};

// Reads the one value that the bytes hold.
template <class T>
void FromWire(std::span<const std::byte> bytes, T& value) {
  WireReader reader(bytes);
  reader.Read(value);
  reader.ExpectEnd();
}
template <class T>
T FromWire(std::span<const std::byte> bytes) {
  T value{};
  FromWire(bytes, value);
  return value;
}

}  // namespace sluice
