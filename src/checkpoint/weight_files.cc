#include "checkpoint/weight_files.h"

#include <boost/json/parse.hpp>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "base/error.h"
#include "checkpoint/checkpoint.h"

namespace sluice {

namespace fs = std::filesystem;

namespace {

// File names in an index, as far as it can be read: what is wrong with it, Checkpoint::Open says.
std::set<std::string> ListedShards(const fs::path& index) {
  std::ifstream file(index, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  boost::json::error_code error;
  const boost::json::value root = boost::json::parse(text.str(), error);
  const boost::json::object* object = error ? nullptr : root.if_object();
  const boost::json::value* map = object ? object->if_contains("weight_map") : nullptr;
  std::set<std::string> shards;
  if (map == nullptr || !map->is_object()) return shards;
  for (const auto& [name, shard] : map->get_object()) {
    if (!shard.is_string()) continue;
    const std::string file_name(shard.get_string());
    if (file_name.find('/') == std::string::npos) shards.insert(file_name);
  }
  return shards;
}

}  // namespace

WeightFiles InspectWeightFiles(const fs::path& dir) {
  WeightFiles result;
  std::error_code ignored;
  std::set<std::string> names = {"model.safetensors"};
  if (!fs::exists(dir / "model.safetensors", ignored)) {
    names = ListedShards(dir / "model.safetensors.index.json");
  }
  for (const std::string& name : names) {
    const fs::path path = dir / name;
    if (!fs::exists(path, ignored)) {
      result.problems.push_back(name +
                                ": is listed in the index and not there: the download is "
                                "incomplete");
      continue;
    }
    try {
      const std::unique_ptr<Checkpoint> file = Checkpoint::OpenFile(path);
      const std::vector<std::string> tensors = file->names();
      for (const std::string& tensor : tensors) {
        const ConstTensorView view = file->Get(tensor);
        result.stored_bytes[std::string(DTypeName(view.dtype()))] +=
            static_cast<uint64_t>(view.NumBytes());
      }
      result.files.push_back(
          {.name = name, .bytes = fs::file_size(path), .tensors = tensors.size()});
    } catch (const Error& error) {
      result.problems.emplace_back(error.what());
    }
  }
  return result;
}

}  // namespace sluice
