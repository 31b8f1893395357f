// A safetensors file. The first byte chooses: even, the rest is the file as it stands; odd, the
// rest is the header's JSON, in front of as many bytes of data as the next two bytes say.
#include <cstring>

#include "checkpoint/safetensors.h"
#include "checkpoint/testing.h"
#include "fuzz_support.h"

namespace sluice {
namespace {

void Parse(std::span<const std::byte> bytes) {
  const SafetensorsFile file = SafetensorsFile::Parse(bytes, "input.safetensors");
  const std::byte* end = bytes.data() + bytes.size();
  uint64_t sum = 0;
  for (const SafetensorsEntry& entry : file.entries()) {
    const ConstTensorView view = file.View(entry);
    const auto* first = static_cast<const std::byte*>(view.raw());
    const auto size = static_cast<uint64_t>(view.NumBytes());
    fuzz::Require(
        first >= bytes.data() && first <= end && size <= static_cast<uint64_t>(end - first),
        "a tensor lies inside the file");
    for (uint64_t i = 0; i < size; ++i) sum += std::to_integer<uint64_t>(first[i]);
  }
  volatile uint64_t read = sum;
  static_cast<void>(read);
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  std::vector<std::byte> bytes;
  if (data[0] % 2 == 0) {
    bytes.resize(size - 1);
    std::memcpy(bytes.data(), data + 1, size - 1);
  } else {
    const size_t data_bytes = data[1] + 256u * data[2];
    bytes = sluice::testing::SafetensorsBytes(sluice::fuzz::AsText(data + 3, size - 3), data_bytes);
  }
  sluice::fuzz::Try([&] { sluice::Parse(bytes); });
  return 0;
}
