#include "plan/hardware_profile.h"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "base/machine.h"

namespace sluice {
namespace {

namespace json = boost::json;

constexpr ProfileFigure kFigures[] = {
    {"gpu", "memory_bytes", &HardwareProfile::gpu_memory},
    {"gpu", "bandwidth_bytes_per_s", &HardwareProfile::gpu_bandwidth},
    {"gpu", "bf16_flops_per_s", &HardwareProfile::gpu_flops},
    {"host", "memory_bytes", &HardwareProfile::host_memory},
    {"host", "bandwidth_bytes_per_s", &HardwareProfile::host_bandwidth},
    {"host", "bf16_flops_per_s", &HardwareProfile::host_bf16_flops},
    {"host", "f32_flops_per_s", &HardwareProfile::host_f32_flops},
    {"link", "bandwidth_bytes_per_s", &HardwareProfile::link_bandwidth},
    {"link", "to_host_bytes_per_s", &HardwareProfile::link_back},
    {"disk", "bandwidth_bytes_per_s", &HardwareProfile::disk_bandwidth},
    {"peer", "bandwidth_bytes_per_s", &HardwareProfile::peer_bandwidth},
    {"network", "bandwidth_bytes_per_s", &HardwareProfile::network_bandwidth},
};

struct LayerText {
  const char* key;
  std::string LayerLatencies::*value;
};
constexpr LayerText kLayerTexts[] = {
    {"model", &LayerLatencies::model},
    {"dtype", &LayerLatencies::dtype},
    {"copied", &LayerLatencies::copied},
};
struct LayerCount {
  const char* key;
  int LayerLatencies::*value;
};
constexpr LayerCount kLayerCounts[] = {
    {"rows", &LayerLatencies::rows},
    {"context", &LayerLatencies::context},
    {"expert_rows", &LayerLatencies::expert_rows},
    {"experts", &LayerLatencies::num_experts},
    {"top_k", &LayerLatencies::top_k},
    {"layers", &LayerLatencies::num_layers},
};
struct LayerTime {
  const char* key;
  double LayerLatencies::*value;
};
constexpr LayerTime kLayerTimes[] = {
    {"attention_s", &LayerLatencies::attention_s},
    {"gate_s", &LayerLatencies::gate_s},
    {"expert_s", &LayerLatencies::expert_s},
    {"attention_load_s", &LayerLatencies::attention_load_s},
    {"gate_load_s", &LayerLatencies::gate_load_s},
    {"expert_load_s", &LayerLatencies::expert_load_s},
};

[[noreturn]] void Fail(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, where + ": " + what);
}

std::string KnownKeys() {
  std::string names = "name, origin, source, device, layer";
  for (const ProfileFigure& figure : kFigures) names += ", " + figure.Name();
  return names;
}

std::string ReadText(const json::value& value, const std::string& key, const std::string& where) {
  if (!value.is_string()) Fail(where, key + " is not a string but " + json::serialize(value));
  return std::string(value.as_string());
}

ProfileOrigin ReadOrigin(const json::value& value, const std::string& where) {
  const std::string text = ReadText(value, "origin", where);
  if (text == "published") return ProfileOrigin::kPublished;
  if (text == "measured") return ProfileOrigin::kMeasured;
  Fail(where, "origin is \"" + text + "\"; expected \"published\" or \"measured\"");
}

void ReadGroup(std::string_view group, const json::value& value, const std::string& where,
               HardwareProfile& profile) {
  const auto of_group = [&](const ProfileFigure& figure) { return group == figure.group; };
  if (std::none_of(std::begin(kFigures), std::end(kFigures), of_group)) {
    Fail(where, "key \"" + std::string(group) + "\" is not known; a profile has " + KnownKeys());
  }
  if (!value.is_object()) Fail(where, std::string(group) + " is not an object of figures");
  for (const auto& [key, number] : value.as_object()) {
    const auto* figure =
        std::find_if(std::begin(kFigures), std::end(kFigures),
                     [&, name = std::string_view(key)](const ProfileFigure& known) {
                       return of_group(known) && name == known.key;
                     });
    const std::string name = std::string(group) + "." + std::string(key);
    if (figure == std::end(kFigures)) {
      Fail(where, "figure " + name + " is not known; a profile has " + KnownKeys());
    }
    const double read = number.is_number() ? number.to_number<double>() : 0.0;
    if (!(read > 0.0) || !std::isfinite(read)) {
      Fail(where, name + " is " + json::serialize(number) + "; expected a number above 0");
    }
    profile.*figure->value = read;
  }
}

// A number above 0, and at most `most`.
double ReadAbove0(const json::value& value, const std::string& key, double most,
                  const std::string& where) {
  const double read = value.is_number() ? value.to_number<double>() : 0.0;
  if (!(read > 0.0) || !(read <= most)) {
    Fail(where, key + " is " + json::serialize(value) + "; expected a number above 0");
  }
  return read;
}

LayerLatencies ReadLayer(const json::value& value, const std::string& where) {
  if (!value.is_object()) Fail(where, "layer is not an object of latencies");
  const json::object& object = value.as_object();
  LayerLatencies layer;
  size_t known = 0;
  const auto at = [&](const char* key) -> const json::value& {
    const json::value* found = object.if_contains(key);
    if (found == nullptr) Fail(where, std::string("layer has no ") + key);
    ++known;
    return *found;
  };
  for (const LayerText& text : kLayerTexts) {
    layer.*text.value = ReadText(at(text.key), std::string("layer.") + text.key, where);
  }
  for (const LayerCount& count : kLayerCounts) {
    const std::string name = std::string("layer.") + count.key;
    layer.*count.value = static_cast<int>(ReadAbove0(at(count.key), name, 1 << 30, where));
  }
  for (const LayerTime& time : kLayerTimes) {
    const std::string name = std::string("layer.") + time.key;
    layer.*time.value = ReadAbove0(at(time.key), name, 1e9, where);
  }
  if (known != object.size()) Fail(where, "layer has keys that are not known");
  return layer;
}

json::object LayerToJson(const LayerLatencies& layer) {
  json::object object;
  for (const LayerText& text : kLayerTexts) object[text.key] = layer.*text.value;
  for (const LayerCount& count : kLayerCounts) object[count.key] = layer.*count.value;
  for (const LayerTime& time : kLayerTimes) object[time.key] = layer.*time.value;
  return object;
}

json::object ParseObject(std::string_view text, const std::string& where) {
  boost::system::error_code error;
  json::value root = json::parse({text.data(), text.size()}, error);
  if (error) Fail(where, "is not JSON (" + error.message() + ")");
  if (!root.is_object()) Fail(where, "is not a JSON object, which a hardware profile is");
  return std::move(root.as_object());
}

std::string Join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

std::span<const ProfileFigure> ProfileFigures() {
  return kFigures;
}

json::object ToJson(const HardwareProfile& profile) {
  json::object object;
  object["name"] = profile.name;
  object["origin"] = profile.origin == ProfileOrigin::kPublished ? "published" : "measured";
  object["source"] = profile.source;
  if (!profile.device.empty()) object["device"] = profile.device;
  for (const ProfileFigure& figure : kFigures) {
    if (!(profile.*figure.value)) continue;
    json::value& group = object[figure.group];
    if (!group.is_object()) group.emplace_object();
    group.as_object()[figure.key] = *(profile.*figure.value);
  }
  if (profile.layer) object["layer"] = LayerToJson(*profile.layer);
  return object;
}

HardwareProfile ProfileFromJson(std::string_view text, const std::string& where) {
  HardwareProfile profile;
  const json::object root = ParseObject(text, where);
  for (const char* required : {"name", "origin", "source"}) {
    if (!root.contains(required)) {
      Fail(where, "has no \"" + std::string(required) + "\"; a profile has " + KnownKeys());
    }
  }
  for (const auto& [key, value] : root) {
    if (key == "name") {
      profile.name = ReadText(value, "name", where);
    } else if (key == "origin") {
      profile.origin = ReadOrigin(value, where);
    } else if (key == "source") {
      profile.source = ReadText(value, "source", where);
    } else if (key == "device") {
      profile.device = ReadText(value, "device", where);
    } else if (key == "layer") {
      profile.layer = ReadLayer(value, where);
    } else {
      ReadGroup({key.data(), key.size()}, value, where, profile);
    }
  }
  return profile;
}

HardwareProfile ReadProfile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  if (!file.is_open() || file.bad()) {
    throw Error(ErrorCode::kNotFound, path.string() +
                                          ": cannot be read; expected a hardware profile, as "
                                          "those in configs/profiles");
  }
  return ProfileFromJson(text, path.string());
}

std::vector<std::string> ForeignFigures(const HardwareProfile& given,
                                        const HardwareProfile& measured) {
  constexpr double kMemoryShare = 0.1;
  constexpr double kBandwidthShare = 0.25;
  std::vector<std::string> foreign;
  if (!given.device.empty() && !measured.device.empty() && given.device != measured.device) {
    foreign.push_back("its device is " + given.device + ", this one is " + measured.device);
  }
  const auto compare = [&](HardwareFigure figure, double share, const char* name,
                           const char* unit) {
    if (!(given.*figure) || !(measured.*figure)) return;
    const double said = *(given.*figure);
    const double here = *(measured.*figure);
    if (std::abs(said - here) <= share * here) return;
    foreign.push_back(std::string(name) + " is " + FormatBytes(static_cast<uint64_t>(said)) + unit +
                      ", here " + FormatBytes(static_cast<uint64_t>(here)) + unit);
  };
  compare(&HardwareProfile::gpu_memory, kMemoryShare, "gpu.memory_bytes", "");
  compare(&HardwareProfile::host_memory, kMemoryShare, "host.memory_bytes", "");
  compare(&HardwareProfile::link_bandwidth, kBandwidthShare, "link.bandwidth_bytes_per_s", "/s");
  return foreign;
}

std::vector<std::string> MissingFigures(const HardwareProfile& profile) {
  std::vector<std::string> missing;
  for (const ProfileFigure& figure : kFigures) {
    if (!(profile.*figure.value)) missing.push_back(figure.Name());
  }
  return missing;
}

void RequireFigures(const HardwareProfile& profile, std::span<const HardwareFigure> needed,
                    std::string_view what) {
  std::vector<std::string> missing;
  for (const ProfileFigure& figure : kFigures) {
    const bool asked = std::find(needed.begin(), needed.end(), figure.value) != needed.end();
    if (asked && !(profile.*figure.value)) missing.push_back(figure.Name());
  }
  if (missing.empty()) return;
  Fail("hardware profile " + profile.name, "has no " + Join(missing) + ", which " +
                                               std::string(what) +
                                               " needs; add it to the profile's JSON");
}

}  // namespace sluice
