// The shapes of known attacks on model loaders, in the formats read here. Each is refused by the
// name of its file and field, at once and before memory is taken for what it claims.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <ctime>
#include <functional>
#include <string>

#include "allocation_watch.h"
#include "arch/registry.h"
#include "base/error.h"
#include "chat/chat_template.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/testing.h"
#include "checkpoint/weight_source.h"
#include "tokenizer/tokenizer.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

constexpr size_t kMaxAllocated = 16 << 20;

// A second is the promise of a release build; a sanitizer takes ten times as long.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::clock_t kMaxClocks = 10 * CLOCKS_PER_SEC;
#else
constexpr std::clock_t kMaxClocks = CLOCKS_PER_SEC;
#endif

// Runs `load`, which must throw an Error that holds `file` and `field`.
void ExpectRefused(const std::function<void()>& load, const std::string& file,
                   const std::string& field) {
  const std::clock_t begin = std::clock();
  const testing::AllocationWatch watch;
  std::string message;
  try {
    load();
  } catch (const Error& error) {
    EXPECT_NE(error.code(), ErrorCode::kInternal) << error.what();
    message = error.what();
  }
  EXPECT_LT(watch.peak(), kMaxAllocated);
  EXPECT_LT(watch.largest(), kMaxAllocated);
  EXPECT_LT(std::clock() - begin, kMaxClocks);
  EXPECT_FALSE(message.empty()) << "was taken";
  EXPECT_THAT(message, HasSubstr(file));
  EXPECT_THAT(message, HasSubstr(field));
}

// --- safetensors ---

void ExpectHeaderRefused(const std::string& header, const std::string& field) {
  SCOPED_TRACE(header.substr(0, 100));
  const std::vector<std::byte> bytes = testing::SafetensorsBytes(header, 16);
  ExpectRefused([&] { SafetensorsFile::Parse(bytes, "model.safetensors"); }, "model.safetensors",
                field);
}

TEST(HostileSafetensors, DimensionsWhoseProductWraps) {
  // 2^42 * 2^22 elements: 2^64, which is 0.
  ExpectHeaderRefused(
      R"({"w":{"dtype":"U8","shape":[4398046511104,4194304],"data_offsets":[0,0]}})", "\"w\"");
  // 2^62 elements of 4 bytes: 2^64 bytes.
  ExpectHeaderRefused(R"({"w":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})",
                      "\"w\"");
  // The product is 16 after it has wrapped.
  ExpectHeaderRefused(
      R"({"w":{"dtype":"U8","shape":[9223372036854775807,2,18],"data_offsets":[0,16]}})", "\"w\"");
  // Nothing to hold, but strides that wrap.
  ExpectHeaderRefused(
      R"({"w":{"dtype":"U8","shape":[0,9223372036854775807,4],"data_offsets":[0,0]}})", "\"w\"");
}

TEST(HostileSafetensors, OffsetsThatWrapOrLieOutside) {
  for (const char* offsets : {"[18446744073709551608,8]", "[0,18446744073709551615]", "[8,0]",
                              "[16,32]", "[-16,0]", "[0,1e19]", "[0,99999999999999999999]"}) {
    ExpectHeaderRefused(
        R"({"w":{"dtype":"U8","shape":[16],"data_offsets":)" + std::string(offsets) + "}}",
        "\"w\"");
  }
}

TEST(HostileSafetensors, NegativeAndFractionalSizes) {
  for (const char* shape : {"[-1]", "[-9223372036854775808]", "[4,-4]", "[1.5]", "[1e30]", "[NaN]",
                            "[true]", "[\"4\"]", "[null]", "[[4]]"}) {
    ExpectHeaderRefused(
        R"({"w":{"dtype":"F32","shape":)" + std::string(shape) + R"(,"data_offsets":[0,16]}})",
        "model.safetensors");
  }
}

TEST(HostileSafetensors, LengthsThatTheFileDoesNotHave) {
  for (const uint64_t length : {uint64_t{17}, uint64_t{99'999'999}, uint64_t{100'000'001},
                                uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::vector<std::byte> bytes = testing::SafetensorsBytes("{}", 14);
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<std::byte>(length >> (8 * i));
    ExpectRefused([&] { SafetensorsFile::Parse(bytes, "model.safetensors"); }, "model.safetensors",
                  "header has " + std::to_string(length) + " bytes");
  }
}

TEST(HostileSafetensors, DeepNesting) {
  for (const char* open : {"{\"w\":", "[", "{\"w\":["}) {
    std::string header = "{\"w\":";
    while (header.size() < 500'000) header += open;
    ExpectHeaderRefused(header, "model.safetensors");
  }
}

// No format here states an alignment, so none can be wrong: bytes are read wherever they lie.
TEST(HostileSafetensors, UnalignedDataIsReadAllTheSame) {
  for (size_t padding = 0; padding < 8; ++padding) {
    const std::vector<std::byte> bytes = testing::SafetensorsBytes(
        R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})" + std::string(padding, ' '), 8);
    const CheckpointSource source(
        std::shared_ptr<const Checkpoint>(Checkpoint::FromMemory(bytes, "model.safetensors")));
    float values[2] = {};
    source.Read("w", {2}, TensorView(values, DType::kF32, {2}));
    float expected[2] = {};
    std::memcpy(expected, bytes.data() + bytes.size() - 8, 8);
    EXPECT_EQ(values[0], expected[0]);
    EXPECT_EQ(values[1], expected[1]);
  }
}

// --- the index ---

void ExpectIndexRefused(const std::string& index, const std::string& field) {
  SCOPED_TRACE(index.substr(0, 100));
  const testing::TemporaryFolder folder("hostile_index");
  folder.Write("model.safetensors.index.json", index);
  ExpectRefused([&] { Checkpoint::Open(folder.path()); }, "model.safetensors.index.json", field);
}

TEST(HostileIndex, ShardsOfTheWrongTypeOrPlace) {
  for (const char* shard : {"7", "null", "[\"a.safetensors\"]", "{}", "-1", "true"}) {
    ExpectIndexRefused(R"({"weight_map":{"w":)" + std::string(shard) + "}}", "\"w\"");
  }
  for (const char* shard : {"../a.safetensors", "/etc/passwd", "a/b.safetensors", "..", "",
                            "a\\\\b", "a\\u0000.safetensors"}) {
    ExpectIndexRefused(R"({"weight_map":{"w":")" + std::string(shard) + "\"}}", "shard");
  }
  ExpectIndexRefused(R"({"weight_map":[]})", "weight_map");
  ExpectIndexRefused(R"({"weight_map":-1})", "weight_map");
}

TEST(HostileIndex, DeepNesting) {
  ExpectIndexRefused(std::string(1'000'000, '['), "not valid JSON");
  std::string objects;
  while (objects.size() < 1'000'000) objects += "{\"weight_map\":";
  ExpectIndexRefused(objects, "not valid JSON");
}

// --- config.json ---

constexpr char kConfig[] = R"({
  "model_type": "qwen3_moe", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2,
  "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48,
  "moe_intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2,
  "max_position_embeddings": 64, "norm_topk_prob": true, "rms_norm_eps": 1e-6})";

void ExpectConfigRefused(const std::string& overrides, const std::string& field) {
  SCOPED_TRACE(overrides.substr(0, 100));
  ExpectRefused(
      [&] {
        HfConfig config = HfConfig::FromJson(kConfig, "config.json");
        config.ApplyOverrides(overrides);
        SpecFromConfig(config);
      },
      "config.json", field);
}

TEST(HostileConfig, TheSoundOneIsTaken) {
  EXPECT_NO_THROW(SpecFromConfig(HfConfig::FromJson(kConfig, "config.json")));
}

TEST(HostileConfig, SizesThatAreAbsurdNegativeOrNoIntegers) {
  const std::pair<const char*, const char*> fields[] = {
      {"vocab_size", "vocab_size"},
      {"hidden_size", "hidden_size"},
      {"num_hidden_layers", "num_"},
      {"num_attention_heads", "num_"},
      {"num_key_value_heads", "num_k"},
      {"head_dim", "head_dim"},
      {"moe_intermediate_size", "moe"},
      {"num_experts", "num_experts"},
      {"num_experts_per_tok", "num_experts_per_tok"},
      {"max_position_embeddings", "max_position"}};
  for (const auto& [key, named] : fields) {
    for (const char* value : {"-1", "-2147483648", "2147483648", "9223372036854775807", "1e300",
                              "18446744073709551615", "1.5", "\"8\"", "[8]", "{}", "true"}) {
      ExpectConfigRefused("{\"" + std::string(key) + "\":" + value + "}", named);
    }
  }
}

TEST(HostileConfig, CountsThatMultiplyPastMemory) {
  ExpectConfigRefused(R"({"num_hidden_layers":1024,"num_experts":1024})", "tensors");
  ExpectConfigRefused(
      R"({"vocab_size":16777216,"hidden_size":16777216,"moe_intermediate_size":16777216})",
      "parameters");
  ExpectConfigRefused(R"({"hidden_size":16777216,"moe_intermediate_size":16777216,
                          "num_hidden_layers":256,"num_experts":512})",
                      "parameters");
  ExpectConfigRefused(R"({"num_attention_heads":4096,"num_key_value_heads":4096,"head_dim":256,
                          "num_hidden_layers":1024})",
                      "keys");
}

TEST(HostileConfig, NegativeIndices) {
  ExpectConfigRefused(R"({"eos_token_id":-1})", "eos_token_id");
  ExpectConfigRefused(R"({"eos_token_id":[1,-2147483649]})", "eos_token_id");
  ExpectConfigRefused(R"({"num_experts_per_tok":9})", "top_k");
}

TEST(HostileConfig, ListsOfTheWrongType) {
  ExpectConfigRefused(R"({"eos_token_id":["1"]})", "eos_token_id");
  ExpectConfigRefused(R"({"eos_token_id":{"a":1}})", "eos_token_id");
  ExpectConfigRefused(R"({"mlp_only_layers":["0"]})", "mlp_only_layers");
  ExpectConfigRefused(R"({"mlp_only_layers":7})", "mlp_only_layers");
  ExpectConfigRefused(R"({"layer_types":[7]})", "layer_types");
  ExpectConfigRefused(R"({"layer_types":"full_attention"})", "layer_types");
  ExpectConfigRefused(R"({"rope_parameters":[1]})", "rope_parameters");
  ExpectConfigRefused(R"({"quantization_config":"fp8"})", "quantization_config");
}

TEST(HostileConfig, AlignmentsThatNoKernelHas) {
  ExpectConfigRefused(R"({"head_dim":17})", "head_dim");
  ExpectConfigRefused(R"({"head_dim":0})", "head_dim");
  ExpectConfigRefused(R"({"num_attention_heads":3,"num_key_value_heads":2})", "num_kv_heads");
}

TEST(HostileConfig, DeepNesting) {
  for (const char* open : {"{\"a\":", "[", "[{\"a\":"}) {
    std::string text = "{\"model_type\":";
    while (text.size() < 1'000'000) text += open;
    ExpectRefused([&] { HfConfig::FromJson(text, "config.json"); }, "config.json",
                  "not valid JSON");
  }
}

// --- tokenizer.json ---

// A tokenizer.json with these texts in the places of its parts.
struct TokenizerParts {
  std::string vocab = R"("a":0,"b":1,"ab":2)";
  std::string merges = R"("a b")";
  std::string added;
  std::string normalizer = "null";
  std::string post_processor = "null";

  std::string Json() const {
    return R"({"added_tokens":[)" + added + R"(],"normalizer":)" + normalizer +
           R"(,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"post_processor":)" +
           post_processor + R"(,"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{)" +
           vocab + R"(},"merges":[)" + merges + "]}}";
  }
};

void ExpectTokenizerRefused(const TokenizerParts& parts, const std::string& field) {
  SCOPED_TRACE(parts.Json().substr(0, 300));
  ExpectRefused([&] { Tokenizer::FromJson(parts.Json()); }, "tokenizer.json", field);
}

TEST(HostileTokenizer, TheSoundOneIsTaken) {
  EXPECT_EQ(Tokenizer::FromJson(TokenizerParts{}.Json())->vocab_size(), 3);
}

TEST(HostileTokenizer, IdsThatAreAbsurdNegativeOrNoIntegers) {
  for (const std::string id : {"-1", "2147483647", "4294967296", "9223372036854775807", "1e300",
                               "0.5", "\"3\"", "null", "[3]"}) {
    ExpectTokenizerRefused({.vocab = R"("a":0,"b":1,"ab":2,"z":)" + id}, "model.vocab");
    ExpectTokenizerRefused({.added = R"({"id":)" + id + R"(,"content":"<s>","special":true})"},
                           "added_tokens");
  }
}

TEST(HostileTokenizer, IdsOfNoToken) {
  for (const std::string id : {"-7", "3", "2147483647", "\"0\""}) {
    ExpectTokenizerRefused({.post_processor = R"({"type":"TemplateProcessing","single":[
      {"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],
      "special_tokens":{"<s>":{"id":"<s>","ids":[)" +
                                              id + R"(],"tokens":["<s>"]}}})"},
                           "post_processor");
  }
}

TEST(HostileTokenizer, MergesOfTheWrongTypeOrOfNoToken) {
  for (const char* merge : {"7", "[1,2]", "[\"a\"]", "[\"a\",\"b\",\"ab\"]", "\"a\"", "\"a b c\"",
                            "\"a q\"", "null", "{}", "[[],[]]", "\"b a\""}) {
    ExpectTokenizerRefused({.merges = merge}, "merge");
  }
}

TEST(HostileTokenizer, DeepNesting) {
  std::string deep;
  while (deep.size() < 1'000'000) deep += R"({"type":"Sequence","normalizers":[)";
  ExpectTokenizerRefused({.normalizer = deep}, "not valid JSON");
}

// --- chat templates ---

TEST(HostileTemplate, DeepNesting) {
  for (const std::string open :
       {"(", "[", "{'a':", "not ", "-", "f(", "a[", "a.b|", "1 if ", "x ~ ", "1 + ", "2 ** "}) {
    std::string jinja = "{{ ";
    while (jinja.size() < 100'000) jinja += open;
    SCOPED_TRACE(open);
    ExpectRefused([&] { ChatTemplate::Parse(jinja); }, "chat template", "line 1");
  }
  for (const std::string open :
       {"{% if 1 %}", "{% for x in y %}", "{% set a %}", "{% macro m() %}"}) {
    std::string jinja;
    while (jinja.size() < 100'000) jinja += open;
    SCOPED_TRACE(open);
    ExpectRefused([&] { ChatTemplate::Parse(jinja); }, "chat template", "line 1");
  }
  ExpectRefused([&] { ChatTemplate::FromTokenizerConfig(std::string(1'000'000, '[')); },
                "tokenizer_config.json", "JSON");
}

TEST(HostileTemplate, TextsAndNumbersPastMemory) {
  for (const char* expression :
       {"'x' * 1000000000000", "[1] * 1000000000000", "range(10 ** 15) | list",
        "'a\\nb' | indent(1000000000000)", "[1] | tojson(indent=1000000000000)"}) {
    SCOPED_TRACE(expression);
    const ChatTemplate chat = ChatTemplate::Parse("{{ " + std::string(expression) + " }}");
    ExpectRefused([&] { chat.Render({{.role = "user", .content = "Hi"}}); }, "chat template",
                  "line 1");
  }
}

}  // namespace
}  // namespace sluice
