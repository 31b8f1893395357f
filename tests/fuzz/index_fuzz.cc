// A folder with an index and two shards: the first shard holds "a" and "b", the second is what
// follows the first NUL byte of the input, or holds "c" where nothing does.
#include "checkpoint/checkpoint.h"
#include "checkpoint/testing.h"
#include "fuzz_support.h"

namespace sluice {
namespace {

void WriteFile(const char* name, std::string_view bytes) {
  std::ofstream(fuzz::ScratchFolder() / name, std::ios::binary) << bytes;
}

void WriteShard(const char* name, std::string_view header, size_t data_bytes) {
  const std::vector<std::byte> bytes = testing::SafetensorsBytes(header, data_bytes);
  WriteFile(name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

constexpr char kFirst[] = "model-00001-of-00002.safetensors";
constexpr char kSecond[] = "model-00002-of-00002.safetensors";

void CheckAll(const Checkpoint& checkpoint) {
  uint64_t bytes = 0;
  for (const std::string& name : checkpoint.names()) {
    bytes += static_cast<uint64_t>(checkpoint.Get(name).NumBytes());
  }
  fuzz::Require(bytes == checkpoint.TotalBytes(), "the tensors make the total");
  fuzz::Try([&] { checkpoint.Get("no tensor has this name"); });
}

void Open(std::string_view input) {
  static const bool written = [] {
    WriteShard(kFirst,
               R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
               R"("b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}})",
               12);
    return true;
  }();
  static_cast<void>(written);
  const std::vector<std::string_view> parts = fuzz::Cut(input, 2);
  WriteFile("model.safetensors.index.json", parts[0]);
  if (parts[1].empty()) {
    WriteShard(kSecond, R"({"c":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", 3);
  } else {
    WriteFile(kSecond, parts[1]);
  }
  CheckAll(*Checkpoint::Open(fuzz::ScratchFolder()));
}

// What follows the NUL byte, as a folder's only weights; and a folder with no weights at all.
void OpenSingle(std::string_view input) {
  const std::filesystem::path dir = fuzz::ScratchFolder() / "single";
  std::filesystem::create_directories(dir);
  std::filesystem::remove(dir / "model.safetensors");
  const std::string_view bytes = fuzz::Cut(input, 2)[1];
  if (bytes.empty()) {
    WriteFile("single/pytorch_model.bin", "");
  } else {
    WriteFile("single/model.safetensors", bytes);
  }
  CheckAll(*Checkpoint::Open(dir));
  CheckAll(*Checkpoint::FromMemory(std::as_bytes(std::span(bytes)), "input"));
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::fuzz::Try([&] { sluice::Open(sluice::fuzz::AsText(data, size)); });
  sluice::fuzz::Try([&] { sluice::OpenSingle(sluice::fuzz::AsText(data, size)); });
  return 0;
}
