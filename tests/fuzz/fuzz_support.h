#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice::fuzz {

// Runs `parse`, letting pass the Error that says what is wrong with the input. Any other exception,
// and an Error that reports a defect of ours, ends the process.
void Try(const std::function<void()>& parse);

// Ends the process, naming the claim, when a parser's result is not what its header promises.
void Require(bool holds, const char* claim);

inline std::string_view AsText(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// The input cut at each NUL byte into exactly `count` parts; the last keeps what is left, and those
// that the input does not reach are empty.
std::vector<std::string_view> Cut(std::string_view input, size_t count);

// A folder in memory where the system has one, removed when the process ends.
const std::filesystem::path& ScratchFolder();

}  // namespace sluice::fuzz
