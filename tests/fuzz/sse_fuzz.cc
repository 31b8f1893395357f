// Server-sent events: a stream cut anywhere, as the load client reads it, and a text, as the server
// writes it. The first byte says how long the pieces are that the stream comes in.
#include <algorithm>
#include <boost/json.hpp>

#include "bench/stream_answer.h"
#include "fuzz_support.h"
#include "server/sse.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

RequestOutcome Read(std::string_view stream, size_t piece) {
  RequestOutcome outcome;
  StreamAnswer answer(outcome);
  for (size_t begin = 0; begin < stream.size(); begin += piece) {
    answer.Feed(stream.substr(begin, piece), 1.0);
  }
  answer.Finish();
  return outcome;
}

void ReadInPieces(std::string_view stream, size_t piece) {
  const RequestOutcome whole = Read(stream, std::max<size_t>(stream.size(), 1));
  const RequestOutcome pieces = Read(stream, piece);
  fuzz::Require(whole.error == pieces.error && whole.chunks_s == pieces.chunks_s &&
                    whole.prompt_tokens == pieces.prompt_tokens &&
                    whole.output_tokens == pieces.output_tokens && whole.ended_s == pieces.ended_s,
                "how a stream is cut changes nothing");
}

// The data of the only event in `event`, by the standard's own words.
std::string DataOf(std::string_view event) {
  static constexpr std::string_view kField = "data: ";
  std::string data;
  while (event != "\n") {
    fuzz::Require(event.starts_with(kField), "every line of an event is data");
    const size_t end = event.find('\n');
    fuzz::Require(end != std::string_view::npos, "every line ends");
    data += event.substr(kField.size(), end - kField.size());
    data += '\n';
    event.remove_prefix(end + 1);
  }
  data.pop_back();
  return data;
}

void WriteAndRead(std::string_view bytes) {
  const std::string text = RepairUtf8(bytes);
  fuzz::Require(DataOf(SseEvent(text)) == text, "an event carries its text");

  const boost::json::value chunk = {{"choices", {{{"text", text}, {"finish_reason", nullptr}}}}};
  const std::string event = SseEvent(boost::json::serialize(chunk));
  fuzz::Require(event.find_first_of("\r\n") == event.size() - 2, "JSON stands on one line");
  const RequestOutcome outcome = Read(event + std::string(kSseDone), event.size());
  fuzz::Require(outcome.chunks_s.size() == (text.empty() ? 0 : 1), "what was written is read");
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view stream = sluice::fuzz::AsText(data + 1, size - 1);
  sluice::ReadInPieces(stream, size_t{data[0]} + 1);
  sluice::WriteAndRead(stream);
  return 0;
}
