#include "fuzz_support.h"

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "base/error.h"
#include "checkpoint/testing.h"

namespace sluice::fuzz {

void Try(const std::function<void()>& parse) {
  try {
    parse();
  } catch (const Error& error) {
    Require(error.code() != ErrorCode::kInternal, error.what());
    Require(*error.what() != '\0', "an error says something");
  }
}

void Require(bool holds, const char* claim) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", claim);
  std::abort();
}

std::vector<std::string_view> Cut(std::string_view input, size_t count) {
  std::vector<std::string_view> parts(count);
  for (size_t i = 0; i + 1 < count; ++i) {
    const size_t end = input.find('\0');
    parts[i] = input.substr(0, end);
    if (end == std::string_view::npos) return parts;
    input.remove_prefix(end + 1);
  }
  parts.back() = input;
  return parts;
}

const std::filesystem::path& ScratchFolder() {
  static const auto folder = [] {
    if (std::filesystem::is_directory("/dev/shm") && std::getenv("TMPDIR") == nullptr) {
      setenv("TMPDIR", "/dev/shm", /*overwrite=*/0);
    }
    return std::make_unique<testing::TemporaryFolder>("fuzz");
  }();
  return folder->path();
}

}  // namespace sluice::fuzz
