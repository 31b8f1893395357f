// The body of a request, read as each endpoint of the OpenAI API reads it.
#include "fuzz_support.h"
#include "server/api_error.h"
#include "server/openai_schema.h"

namespace sluice {
namespace {

constexpr SchemaContext kContext = {.vocab_size = 1000};

template <class Parse>
void TryBody(Parse parse, std::string_view body) {
  try {
    parse(body, kContext);
  } catch (const ApiError& error) {
    fuzz::Require(error.status() == 400, "a body is refused with 400");
    fuzz::Require(error.Body().starts_with('{'), "the refusal is JSON");
  }
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body = sluice::fuzz::AsText(data, size);
  sluice::TryBody(sluice::ParseCompletionRequest, body);
  sluice::TryBody(sluice::ParseChatRequest, body);
  sluice::TryBody(sluice::ParseGenerateRequest, body);
  sluice::TryBody(sluice::ParseTokenizeRequest, body);
  sluice::TryBody(sluice::ParseDetokenizeRequest, body);
  return 0;
}
