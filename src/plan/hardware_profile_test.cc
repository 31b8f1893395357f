#include "plan/hardware_profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>

#include "base/error.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string MessageOf(const std::string& text) {
  try {
    ProfileFromJson(text, "p.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(HardwareProfile, GoesThroughJson) {
  HardwareProfile profile{.name = "a \"b\"", .origin = ProfileOrigin::kPublished, .source = "s"};
  double value = 1.5e9;
  for (const ProfileFigure& figure : ProfileFigures()) profile.*figure.value = value += 1e9 / 3;
  const HardwareProfile back = ProfileFromJson(boost::json::serialize(ToJson(profile)), "x");
  EXPECT_EQ(back.name, profile.name);
  EXPECT_EQ(back.origin, profile.origin);
  EXPECT_EQ(back.source, profile.source);
  for (const ProfileFigure& figure : ProfileFigures()) {
    ASSERT_TRUE(back.*figure.value) << figure.Name();
    EXPECT_DOUBLE_EQ(*(back.*figure.value), *(profile.*figure.value)) << figure.Name();
  }
  EXPECT_TRUE(MissingFigures(back).empty());
}

TEST(HardwareProfile, ALayersLatenciesGoThroughJson) {
  HardwareProfile profile{.name = "n", .source = "s"};
  profile.layer = LayerLatencies{.model = "m",
                                 .dtype = "bf16",
                                 .copied = "a to b",
                                 .rows = 4,
                                 .context = 512,
                                 .expert_rows = 2,
                                 .num_experts = 8,
                                 .top_k = 3,
                                 .num_layers = 5,
                                 .attention_s = 1e-4,
                                 .gate_s = 2e-6,
                                 .expert_s = 3e-5,
                                 .attention_load_s = 4e-4,
                                 .gate_load_s = 5e-6,
                                 .expert_load_s = 6e-4};
  const boost::json::object json = ToJson(profile);
  const HardwareProfile back = ProfileFromJson(boost::json::serialize(json), "x");
  ASSERT_TRUE(back.layer);
  EXPECT_EQ(ToJson(back), json);
  EXPECT_EQ(back.layer->top_k, 3);
  EXPECT_EQ(back.layer->expert_load_s, 6e-4);

  for (const auto& entry : json.at("layer").as_object()) {
    boost::json::object damaged = json;
    damaged["layer"].as_object().erase(entry.key());
    EXPECT_THAT(MessageOf(boost::json::serialize(damaged)), HasSubstr(std::string(entry.key())));
    damaged["layer"].as_object()[entry.key()] = -1;
    EXPECT_THAT(MessageOf(boost::json::serialize(damaged)), HasSubstr(std::string(entry.key())));
  }
  boost::json::object more = json;
  more["layer"].as_object()["other_s"] = 1;
  EXPECT_THAT(MessageOf(boost::json::serialize(more)), HasSubstr("not known"));
  EXPECT_THAT(MessageOf(R"({"name": "n", "origin": "measured", "source": "", "layer": 1})"),
              HasSubstr("layer is not an object"));
}

TEST(HardwareProfile, NamesWhatIsMissing) {
  const HardwareProfile profile = ProfileFromJson(
      R"({"name": "n", "origin": "measured", "source": "", "gpu": {"memory_bytes": 8e9},
          "link": {"bandwidth_bytes_per_s": 1}, "disk": {"bandwidth_bytes_per_s": 1}})",
      "x");
  EXPECT_THAT(MissingFigures(profile),
              ElementsAre("gpu.bandwidth_bytes_per_s", "gpu.bf16_flops_per_s", "host.memory_bytes",
                          "host.bandwidth_bytes_per_s", "host.bf16_flops_per_s",
                          "host.f32_flops_per_s", "link.to_host_bytes_per_s",
                          "peer.bandwidth_bytes_per_s", "network.bandwidth_bytes_per_s"));
  const HardwareFigure has[] = {&HardwareProfile::gpu_memory, &HardwareProfile::link_bandwidth};
  EXPECT_NO_THROW(RequireFigures(profile, has, "arithmetic"));
  const HardwareFigure lacks[] = {&HardwareProfile::host_memory, &HardwareProfile::gpu_flops,
                                  &HardwareProfile::gpu_memory};
  try {
    RequireFigures(profile, lacks, "arithmetic");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("gpu.bf16_flops_per_s, host.memory_bytes, which arith"));
  }
}

TEST(HardwareProfile, RefusesWhatIsNotOne) {
  const std::string head = R"({"name": "n", "origin": "measured", "source": "")";
  EXPECT_THAT(MessageOf("{"), HasSubstr("p.json: is not JSON"));
  EXPECT_THAT(MessageOf("[]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(MessageOf(R"({"name": "n", "origin": "measured"})"), HasSubstr("no \"source\""));
  EXPECT_THAT(MessageOf(R"({"name": 1, "origin": "measured", "source": ""})"),
              HasSubstr("name is not a string but 1"));
  EXPECT_THAT(MessageOf(R"({"name": "n", "origin": "guessed", "source": ""})"),
              HasSubstr("\"guessed\""));
  EXPECT_THAT(MessageOf(head + R"(, "cpu": {}})"), HasSubstr("\"cpu\" is not known"));
  EXPECT_THAT(MessageOf(head + R"(, "gpu": 3})"), HasSubstr("gpu is not an object"));
  EXPECT_THAT(MessageOf(head + R"(, "gpu": {"memory": 3}})"), HasSubstr("gpu.memory is not known"));
  for (const char* bad : {"0", "-1", "\"8GB\"", "null", "1e999"}) {
    const std::string text = head + R"(, "gpu": {"memory_bytes": )" + bad + "}}";
    EXPECT_NE(MessageOf(text), "") << bad;
  }
  EXPECT_THROW(ReadProfile("/absent/p.json"), Error);
}

TEST(HardwareProfile, EveryCommittedProfileIsRead) {
  int read = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(SLUICE_SOURCE_DIR "/configs/profiles")) {
    const HardwareProfile profile = ReadProfile(entry.path());
    EXPECT_EQ(profile.name, entry.path().stem());
    EXPECT_FALSE(profile.source.empty());
    EXPECT_TRUE(profile.gpu_memory && profile.gpu_bandwidth && profile.link_bandwidth);
    ++read;
  }
  EXPECT_GE(read, 6);
}

TEST(HardwareProfile, ADeviceGoesThroughJson) {
  const HardwareProfile profile{.name = "n", .source = "s", .device = "A GPU"};
  EXPECT_EQ(ProfileFromJson(boost::json::serialize(ToJson(profile)), "x").device, "A GPU");
}

TEST(HardwareProfile, OfAnotherMachineSaysWhatDiffers) {
  const HardwareProfile here{.name = "h",
                             .source = "s",
                             .device = "A GPU",
                             .gpu_memory = 80e9,
                             .host_memory = 128e9,
                             .link_bandwidth = 50e9};
  EXPECT_THAT(ForeignFigures(here, here), ElementsAre());
  HardwareProfile given = here;
  given.gpu_memory = 80e9 * 1.09;
  given.link_bandwidth = 50e9 * 0.76;
  EXPECT_THAT(ForeignFigures(given, here), ElementsAre());
  given.device = "";
  given.host_memory.reset();
  EXPECT_THAT(ForeignFigures(given, here), ElementsAre());
  given.device = "B GPU";
  given.gpu_memory = 24e9;
  given.link_bandwidth = 25e9;
  EXPECT_THAT(ForeignFigures(given, here),
              ElementsAre(HasSubstr("B GPU"), HasSubstr("24.0 GB, here 80.0 GB"),
                          HasSubstr("25.0 GB/s, here 50.0 GB/s")));
}

}  // namespace
}  // namespace sluice
