// A tokenizer.json, and text of its own after a NUL byte: what loads must encode and decode.
#include "fuzz_support.h"
#include "tokenizer/tokenizer.h"

namespace sluice {
namespace {

constexpr std::string_view kTexts[] = {
    "",
    "Hello, world! It's 12345  spaces\n\tand tabs  ",
    "na\xc3\xafve caf\xc3\xa9 \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80 e\xcc\x81 <|im_start|><s>",
    "\xff\xfe bad \xc3 bytes \xe2\x82",
};

void RoundTrip(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    const std::vector<TokenId> ids = tokenizer.WrapInSpecial(tokenizer.Encode(text, special));
    for (const TokenId id : ids) {
      fuzz::Require(id >= 0 && id < tokenizer.vocab_size(), "an id is in the vocabulary");
      tokenizer.TokenText(id);
    }
    tokenizer.Decode(ids, special);
  }
}

void Load(std::string_view input) {
  const std::vector<std::string_view> parts = fuzz::Cut(input, 2);
  const auto tokenizer = Tokenizer::FromJson(parts[0]);
  for (const std::string_view text : kTexts) RoundTrip(*tokenizer, text);
  RoundTrip(*tokenizer, parts[1]);
  const TokenId outside[] = {-1, tokenizer->vocab_size(), 0};
  tokenizer->Decode(outside, /*skip_special=*/true);
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::fuzz::Try([&] { sluice::Load(sluice::fuzz::AsText(data, size)); });
  return 0;
}
