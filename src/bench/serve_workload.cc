#include "bench/serve_workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "sampling/random.h"

namespace sluice {
namespace {

namespace json = boost::json;

// What is drawn from a seed, so that no two draws share a stream.
enum DrawStream : uint64_t { kPrefixes, kInputLengths, kOutputLengths, kInputs, kConversations };

// Bounds of vLLM's benchmark on a conversation, in tokens.
constexpr int kLeastTokens = 4;
constexpr int kMostPromptTokens = 1024;
constexpr int kMostTokens = 2048;

// Uniform in [low, high].
int DrawLength(int mean, double range_ratio, uint64_t seed, uint64_t nth) {
  const int low = static_cast<int>(std::floor(mean * (1.0 - range_ratio)));
  const int high = static_cast<int>(std::ceil(mean * (1.0 + range_ratio)));
  return low + static_cast<int>(MixSeed(seed, nth) % static_cast<uint64_t>(high - low + 1));
}

void AppendRandom(std::span<const TokenId> vocabulary, int count, uint64_t seed,
                  std::vector<TokenId>& tokens) {
  for (int i = 0; i < count; ++i)
    tokens.push_back(vocabulary[MixSeed(seed, i) % vocabulary.size()]);
}

struct Conversation {
  std::string_view prompt;
  std::string_view reply;
};

std::string_view TurnText(const json::value& turn) {
  const json::object* object = turn.if_object();
  const json::value* value = object == nullptr ? nullptr : object->if_contains("value");
  if (value == nullptr || !value->is_string()) return {};
  return {value->get_string().data(), value->get_string().size()};
}

// Its first two turns, views of `entry`. None where it has fewer that hold text.
std::optional<Conversation> FirstTurns(const json::value& entry) {
  const json::object* object = entry.if_object();
  const json::value* turns = object == nullptr ? nullptr : object->if_contains("conversations");
  if (turns == nullptr || !turns->is_array()) {
    throw Error(ErrorCode::kDataLoss,
                "the dataset is not in ShareGPT's form: expected an array of objects with "
                "'conversations', an array of turns");
  }
  const json::array& list = turns->get_array();
  if (list.size() < 2) return std::nullopt;
  const Conversation first{.prompt = TurnText(list[0]), .reply = TurnText(list[1])};
  if (first.prompt.empty() || first.reply.empty()) return std::nullopt;
  return first;
}

std::optional<LoadRequest> RequestOf(const Conversation& conversation, const Tokenizer* tokenizer,
                                     std::optional<int> output_tokens) {
  LoadRequest request{.prompt = std::string(conversation.prompt),
                      .output_tokens = output_tokens.value_or(0)};
  if (tokenizer == nullptr) return request;
  const auto count = [&](std::string_view text) {
    return static_cast<int>(tokenizer->Encode(text, /*parse_special=*/false).size());
  };
  request.prompt_tokens = count(conversation.prompt);
  if (!output_tokens) request.output_tokens = count(conversation.reply);
  const bool fits = request.prompt_tokens >= kLeastTokens &&
                    (output_tokens || request.output_tokens >= kLeastTokens) &&
                    request.prompt_tokens <= kMostPromptTokens &&
                    request.prompt_tokens + request.output_tokens <= kMostTokens;
  if (!fits) return std::nullopt;
  return request;
}

json::array ParseDataset(std::string_view text) {
  boost::system::error_code error;
  json::value dataset = json::parse({text.data(), text.size()}, error);
  if (error || !dataset.is_array()) {
    throw Error(ErrorCode::kDataLoss, "the dataset is not in ShareGPT's form: " +
                                          (error ? error.message() : "expected a JSON array"));
  }
  return std::move(dataset.get_array());
}

// The indices 0..count-1 in an order that the seed gives.
std::vector<size_t> Shuffled(size_t count, uint64_t seed) {
  std::vector<std::pair<uint64_t, size_t>> drawn;
  for (size_t i = 0; i < count; ++i) drawn.emplace_back(MixSeed(seed, i), i);
  std::sort(drawn.begin(), drawn.end());
  std::vector<size_t> order;
  for (const auto& [key, index] : drawn) order.push_back(index);
  return order;
}

}  // namespace

std::vector<LoadRequest> RandomRequests(const RandomWorkload& workload,
                                        std::span<const TokenId> vocabulary, int count,
                                        uint64_t seed) {
  SLUICE_CHECK(!vocabulary.empty());
  SLUICE_CHECK_GE(workload.num_prefixes, 1);
  SLUICE_CHECK(workload.range_ratio >= 0.0 && workload.range_ratio < 1.0);
  std::vector<LoadRequest> requests;
  for (int i = 0; i < count; ++i) {
    std::vector<TokenId> tokens;
    AppendRandom(vocabulary, workload.prefix_tokens,
                 MixSeed(MixSeed(seed, kPrefixes), i % workload.num_prefixes), tokens);
    const int length =
        DrawLength(workload.input_tokens, workload.range_ratio, MixSeed(seed, kInputLengths), i);
    AppendRandom(vocabulary, length, MixSeed(MixSeed(seed, kInputs), i), tokens);
    // An empty prompt or an output of nothing is no request.
    if (tokens.empty()) AppendRandom(vocabulary, 1, MixSeed(MixSeed(seed, kInputs), i), tokens);
    const int output = std::max(1, DrawLength(workload.output_tokens, workload.range_ratio,
                                              MixSeed(seed, kOutputLengths), i));
    const int prompt_tokens = static_cast<int>(tokens.size());
    requests.push_back(
        {.prompt = std::move(tokens), .prompt_tokens = prompt_tokens, .output_tokens = output});
  }
  return requests;
}

std::vector<TokenId> PlainTokens(const Tokenizer& tokenizer) {
  std::vector<TokenId> plain;
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.IsSpecial(id) && !tokenizer.TokenText(id).empty()) plain.push_back(id);
  }
  return plain;
}

void DecodePrompts(const Tokenizer& tokenizer, std::vector<LoadRequest>& requests) {
  for (LoadRequest& request : requests) {
    const auto* tokens = std::get_if<std::vector<TokenId>>(&request.prompt);
    if (tokens == nullptr) continue;
    request.prompt = tokenizer.Decode(*tokens, /*skip_special=*/true);
    request.prompt_tokens = 0;
  }
}

std::vector<LoadRequest> ShareGptRequests(std::string_view text, int count,
                                          const Tokenizer* tokenizer,
                                          std::optional<int> output_tokens, uint64_t seed) {
  if (tokenizer == nullptr && !output_tokens) {
    throw Error(ErrorCode::kInvalidArgument,
                "how long answers are to be is not known: count those of the dataset with "
                "--tokenizer, or say it with --sharegpt-output-len");
  }
  const json::array dataset = ParseDataset(text);
  std::vector<LoadRequest> requests;
  for (const size_t index : Shuffled(dataset.size(), MixSeed(seed, kConversations))) {
    if (static_cast<int>(requests.size()) == count) break;
    const std::optional<Conversation> conversation = FirstTurns(dataset[index]);
    if (!conversation) continue;
    std::optional<LoadRequest> request = RequestOf(*conversation, tokenizer, output_tokens);
    if (request) requests.push_back(std::move(*request));
  }
  if (static_cast<int>(requests.size()) < count) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("the dataset has {} usable conversations out of {}, but {} requests "
                            "are asked for: ask for fewer",
                            requests.size(), dataset.size(), count));
  }
  return requests;
}

std::vector<double> ArrivalTimes(int count, const ArrivalProcess& process, uint64_t seed) {
  SLUICE_CHECK(process.rate > 0.0);
  SLUICE_CHECK(process.burstiness > 0.0);
  std::vector<double> times(count, 0.0);
  if (times.empty() || std::isinf(process.rate)) return times;
  std::mt19937_64 random(seed);
  std::gamma_distribution<double> gap(process.burstiness,
                                      1.0 / (process.rate * process.burstiness));
  for (double& time : times) time = gap(random);
  std::partial_sum(times.begin(), times.end(), times.begin());
  // Gaps of extreme bursts may all round to nothing.
  const double drawn = times.back();
  const double wanted = static_cast<double>(count) / process.rate;
  if (drawn <= 0.0) return std::vector<double>(count, wanted);
  for (double& time : times) time *= wanted / drawn;
  return times;
}

}  // namespace sluice
