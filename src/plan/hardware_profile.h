#pragma once

#include <boost/json/object.hpp>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Where a profile's figures come from.
enum class ProfileOrigin {
  kPublished,  // vendors' data sheets: what the parts may reach at best
  kMeasured,   // on the machine
};

// What one layer of a model takes on a machine, as an expert-aware pipeline of batches needs to
// know it (Klotski, arXiv:2502.06888): computing its three parts, and bringing their weights to
// where they are computed with. All in seconds.
struct LayerLatencies {
  std::string model;
  std::string dtype;    // of weights
  std::string copied;   // from where to where weights are brought
  int rows = 1;         // decoded tokens, each of its own sequence
  int context = 1;      // positions that each of them sees
  int expert_rows = 1;  // of them, those that one expert gets
  int num_experts = 1;
  int top_k = 1;
  int num_layers = 1;  // with experts
  double attention_s = 0.0;
  double gate_s = 0.0;    // norm, router and choice
  double expert_s = 0.0;  // one expert
  double attention_load_s = 0.0;
  double gate_load_s = 0.0;
  double expert_load_s = 0.0;
};

// What one GPU of a machine, the host beside it and the paths between them can do. Figures that
// nobody gave are empty: arithmetic that needs one says which (RequireFigures).
struct HardwareProfile {
  std::string name;
  ProfileOrigin origin = ProfileOrigin::kMeasured;
  std::string source;                       // documents, or how and when it was measured
  std::string device;                       // the GPU's name, or the CPU's; empty = not said
  std::optional<double> gpu_memory;         // bytes
  std::optional<double> gpu_bandwidth;      // bytes/s, reading the GPU's own memory
  std::optional<double> gpu_flops;          // bf16 with f32 sums, dense, FLOP/s
  std::optional<double> host_memory;        // bytes
  std::optional<double> host_bandwidth;     // bytes/s, reading host memory with all cores
  std::optional<double> host_bf16_flops;    // products of bf16 weights with all cores, FLOP/s
  std::optional<double> host_f32_flops;     // the same of f32 weights
  std::optional<double> link_bandwidth;     // bytes/s, pinned host memory to one GPU
  std::optional<double> link_back;          // bytes/s, one GPU to pinned host memory
  std::optional<double> disk_bandwidth;     // bytes/s, reading large blocks
  std::optional<double> peer_bandwidth;     // bytes/s, one GPU of a host sending to the others
  std::optional<double> network_bandwidth;  // bytes/s, one GPU's share of its host's, sending
  std::optional<LayerLatencies> layer;      // of one model, measured
};

// Which figure of a profile.
using HardwareFigure = std::optional<double> HardwareProfile::*;

// One figure of a profile: its key in JSON, as in {"gpu": {"memory_bytes": ...}}, and its place.
struct ProfileFigure {
  const char* group;  // "gpu"
  const char* key;    // "memory_bytes"
  HardwareFigure value;

  std::string Name() const { return std::string(group) + "." + key; }
};
std::span<const ProfileFigure> ProfileFigures();

// The profile as JSON: name, origin ("published" or "measured"), source, the figures in groups, and
// "layer" with the fields of LayerLatencies.
boost::json::object ToJson(const HardwareProfile& profile);

// Reads that JSON. `where` names the source in errors. Figures may be absent; everything else that
// is not as ToJson writes it throws Error(kInvalidArgument): not an object, a key that is not
// known, a figure that is not a number above 0, a layer that is not whole.
HardwareProfile ProfileFromJson(std::string_view text, const std::string& where);
// Throws Error(kNotFound) for a file that cannot be read, else as ProfileFromJson.
HardwareProfile ReadProfile(const std::filesystem::path& path);

// What of `given` is not so on the machine that `measured` is of, one part for each: the device's
// name, memory that differs by more than a tenth, link bandwidth that differs by more than a
// quarter. Empty where all that both say agrees.
std::vector<std::string> ForeignFigures(const HardwareProfile& given,
                                        const HardwareProfile& measured);

// Names of the figures that the profile does not have, "host.memory_bytes", in the table's order.
std::vector<std::string> MissingFigures(const HardwareProfile& profile);

// Throws Error(kInvalidArgument) naming every one of `needed` that the profile does not have, and
// `what` needs them.
void RequireFigures(const HardwareProfile& profile, std::span<const HardwareFigure> needed,
                    std::string_view what);

}  // namespace sluice
