#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tokenizer/token_id.h"
#include "tokenizer/tokenizer.h"

// What a load test of a server asks for, and when. Everything here is a function of its arguments:
// a seed gives the same requests on every machine, and the same arrivals with one build.
namespace sluice {

struct LoadRequest {
  std::variant<std::string, std::vector<TokenId>> prompt;
  int prompt_tokens = 0;  // 0 = not known before the server counts them
  int output_tokens = 0;  // to ask for
};

// Prompts of random tokens. Lengths are uniform between those with less and with more of the range
// ratio, in [0, 1): 0 makes all alike.
struct RandomWorkload {
  int input_tokens = 1024;  // beyond the prefix
  int output_tokens = 128;
  double range_ratio = 0.0;
  // So many tokens come first that a prompt shares with every num_prefixes-th other one.
  int prefix_tokens = 0;
  int num_prefixes = 1;
};

// `vocabulary` has the tokens to draw from, at least one. A request does not depend on how many
// come after it.
std::vector<LoadRequest> RandomRequests(const RandomWorkload& workload,
                                        std::span<const TokenId> vocabulary, int count,
                                        uint64_t seed);

// The tokens of a tokenizer that text is made of: none that are special or unused.
std::vector<TokenId> PlainTokens(const Tokenizer& tokenizer);

// Turns prompts of tokens into text, for servers that take no tokens. What that text has as tokens
// differs a little in number, so that prompt_tokens becomes 0.
void DecodePrompts(const Tokenizer& tokenizer, std::vector<LoadRequest>& requests);

// The first prompts of `count` conversations drawn from a dataset in ShareGPT's form: an array of
// {"conversations": [{"value": PROMPT}, {"value": REPLY}, ...]}. A request asks for
// `output_tokens`, or else for as many as the reply has. With a tokenizer conversations are left
// out that vLLM's benchmark leaves out: prompts and replies under 4 tokens, prompts above 1,024,
// both together above 2,048. Throws Error(kDataLoss) for a text of another form, and
// Error(kInvalidArgument) for one with fewer usable conversations, or when neither a tokenizer nor
// `output_tokens` is there.
std::vector<LoadRequest> ShareGptRequests(std::string_view json, int count,
                                          const Tokenizer* tokenizer,
                                          std::optional<int> output_tokens, uint64_t seed);

struct ArrivalProcess {
  double rate = std::numeric_limits<double>::infinity();  // requests a second
  // Shape of the gamma distribution of the time between two: 1 is a Poisson process, less comes in
  // bursts, more is steadier.
  double burstiness = 1.0;
};

// Returns when each request is to be sent, in seconds after the beginning, ascending. With a finite
// rate the times are stretched so that the last comes at count / rate, whatever was drawn: the load
// that was asked for is offered.
std::vector<double> ArrivalTimes(int count, const ArrivalProcess& process, uint64_t seed);

}  // namespace sluice
