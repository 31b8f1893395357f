// tokenizer_pipe compare|time TOKENIZER_JSON [REPEATS]
//
// Runs a tokenizer over what comes on standard input, for comparisons with other implementations.
// Numbers are 32-bit little-endian; a list is a count and its elements; a text is a list of bytes.
//
// compare: reads a list of texts and a list of lists of ids. Writes for each text: ids, ids with
// the special tokens' text as text, ids wrapped in special tokens, and the wrapped ids decoded with
// and without special tokens; for each list of ids: the two decodings. Fails when what comes of
// decoding token by token is not the same text. time: reads a list of texts and writes, as text,
// the seconds that encoding them one after another takes, a line for each of REPEATS rounds.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "tokenizer/incremental_detokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

class Reader {
 public:
  explicit Reader(std::string data) : data_(std::move(data)) {}

  uint32_t Number() {
    uint32_t number = 0;
    for (int i = 0; i < 4; ++i) {
      number |= static_cast<uint32_t>(static_cast<uint8_t>(data_.at(position_++))) << (8 * i);
    }
    return number;
  }
  std::string Text() {
    const uint32_t size = Number();
    std::string text = data_.substr(position_, size);
    position_ += size;
    return text;
  }
  std::vector<std::string> Texts() {
    std::vector<std::string> texts(Number());
    for (std::string& text : texts) text = Text();
    return texts;
  }
  std::vector<TokenId> Ids() {
    std::vector<TokenId> ids(Number());
    for (TokenId& id : ids) id = static_cast<TokenId>(Number());
    return ids;
  }

 private:
  std::string data_;
  size_t position_ = 0;
};

void WriteNumber(uint32_t number, std::string* out) {
  for (int i = 0; i < 4; ++i) out->push_back(static_cast<char>(number >> (8 * i)));
}

void WriteIds(std::span<const TokenId> ids, std::string* out) {
  WriteNumber(static_cast<uint32_t>(ids.size()), out);
  for (const TokenId id : ids) WriteNumber(static_cast<uint32_t>(id), out);
}

void WriteText(std::string_view text, std::string* out) {
  WriteNumber(static_cast<uint32_t>(text.size()), out);
  *out += text;
}

std::string DecodeTokenByToken(const Tokenizer& tokenizer, std::span<const TokenId> ids,
                               bool skip_special) {
  IncrementalDetokenizer detokenizer(tokenizer, skip_special);
  std::string joined;
  const auto append = [&joined](const std::string& piece) {
    if (RepairUtf8(piece) != piece) {
      throw Error(ErrorCode::kInternal, "a piece is not well-formed UTF-8");
    }
    joined += piece;
  };
  for (const TokenId id : ids) append(detokenizer.Push(id));
  append(detokenizer.Finish());
  return joined;
}

void WriteDecoded(const Tokenizer& tokenizer, std::span<const TokenId> ids, std::string* out) {
  for (const bool skip_special : {false, true}) {
    const std::string text = tokenizer.Decode(ids, skip_special);
    if (DecodeTokenByToken(tokenizer, ids, skip_special) != text) {
      throw Error(ErrorCode::kInternal, "decoding token by token differs for " + text);
    }
    WriteText(text, out);
  }
}

void Compare(const Tokenizer& tokenizer, Reader* reader) {
  std::string out;
  for (const std::string& text : reader->Texts()) {
    const std::vector<TokenId> ids = tokenizer.Encode(text);
    const std::vector<TokenId> wrapped = tokenizer.WrapInSpecial(ids);
    WriteIds(ids, &out);
    WriteIds(tokenizer.Encode(text, /*parse_special=*/false), &out);
    WriteIds(wrapped, &out);
    WriteDecoded(tokenizer, wrapped, &out);
  }
  const uint32_t count = reader->Number();
  for (uint32_t i = 0; i < count; ++i) WriteDecoded(tokenizer, reader->Ids(), &out);
  std::cout << out;
}

void Time(const Tokenizer& tokenizer, int repeats, Reader* reader) {
  const std::vector<std::string> texts = reader->Texts();
  for (int i = 0; i < repeats; ++i) {
    size_t tokens = 0;
    const auto start = std::chrono::steady_clock::now();
    for (const std::string& text : texts) tokens += tokenizer.Encode(text).size();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%.9f %zu\n", seconds.count(), tokens);
  }
}

int Run(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.size() < 2 || (args[0] != "compare" && args[0] != "time")) {
    std::cerr << "usage: tokenizer_pipe compare|time TOKENIZER_JSON [REPEATS]\n";
    return 2;
  }
  try {
    const auto tokenizer = Tokenizer::Load(args[1]);
    Reader reader(std::string(std::istreambuf_iterator<char>(std::cin), {}));
    if (args[0] == "compare") {
      Compare(*tokenizer, &reader);
    } else {
      Time(*tokenizer, args.size() > 2 ? std::stoi(args[2]) : 1, &reader);
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  return sluice::Run(argc, argv);
}
