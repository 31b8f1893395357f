#include "bench/stream_answer.h"

#include <array>
#include <boost/json.hpp>
#include <utility>

namespace sluice {
namespace {

namespace json = boost::json;

constexpr size_t kMostErrorBytes = 300;  // of a message that a server gives
constexpr size_t kParseBytes = 8 << 10;  // an event's, mostly, without the heap

const json::object* ObjectAt(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains({key.data(), key.size()});
  return value == nullptr ? nullptr : value->if_object();
}

bool HasText(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains({key.data(), key.size()});
  return value != nullptr && value->is_string() && !value->get_string().empty();
}

// The first choice of a chunk; null where it has none.
const json::object* FirstChoice(const json::object& chunk) {
  const json::value* choices = chunk.if_contains("choices");
  if (choices == nullptr || !choices->is_array() || choices->get_array().empty()) return nullptr;
  return choices->get_array()[0].if_object();
}

bool CarriesText(const json::object& choice) {
  if (HasText(choice, "text")) return true;
  const json::object* delta = ObjectAt(choice, "delta");
  if (delta == nullptr) return false;
  return HasText(*delta, "content") || HasText(*delta, "reasoning_content") ||
         HasText(*delta, "reasoning");
}

// {"error": {"message": ...}} or {"error": ...}; empty where it is neither.
std::string ErrorMessage(const json::object& body) {
  const json::value* error = body.if_contains("error");
  if (error == nullptr || error->is_null()) return "";
  const json::object* object = error->if_object();
  const json::value* message = object == nullptr ? error : object->if_contains("message");
  if (message == nullptr || !message->is_string()) return json::serialize(*error);
  return std::string(message->get_string());
}

// One line of at most kMostErrorBytes.
std::string Shortened(std::string_view text) {
  std::string line(text.substr(0, kMostErrorBytes));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  }
  if (text.size() > kMostErrorBytes) line += "...";
  return line;
}

void ReadCount(const json::object& usage, std::string_view key, int64_t* count) {
  const json::value* value = usage.if_contains({key.data(), key.size()});
  if (value == nullptr || !value->is_number()) return;
  boost::system::error_code error;
  const auto number = value->to_number<int64_t>(error);
  if (!error) *count = number;
}

}  // namespace

void StreamAnswer::Feed(std::string_view bytes, double now_s) {
  while (true) {
    const size_t end = bytes.find('\n');
    if (end == std::string_view::npos) break;
    line_ += bytes.substr(0, end);
    bytes.remove_prefix(end + 1);
    if (line_.ends_with('\r')) line_.pop_back();
    OnLine(line_, now_s);
    line_.clear();
  }
  line_ += bytes;
}

void StreamAnswer::OnLine(std::string_view line, double now_s) {
  if (line.empty()) {
    if (!data_.empty()) OnEvent(data_, now_s);
    data_.clear();
    return;
  }
  static constexpr std::string_view kField = "data:";
  if (!line.starts_with(kField)) return;  // a comment, or a field that nothing here needs
  line.remove_prefix(kField.size());
  if (line.starts_with(' ')) line.remove_prefix(1);
  if (!data_.empty()) data_ += '\n';
  data_ += line;
}

void StreamAnswer::OnEvent(std::string_view data, double now_s) {
  if (data == "[DONE]") {
    whole_ = true;
    return;
  }
  std::array<unsigned char, kParseBytes> memory;
  json::monotonic_resource resource(memory.data(), memory.size());
  boost::system::error_code error;
  const json::value parsed = json::parse({data.data(), data.size()}, error, &resource);
  const json::object* chunk = error ? nullptr : parsed.if_object();
  if (chunk == nullptr) return Fail("an event of the stream is no JSON object: " + Shortened(data));
  const std::string message = ErrorMessage(*chunk);
  if (!message.empty()) return Fail("the stream ended with an error: " + Shortened(message));

  if (const json::object* usage = ObjectAt(*chunk, "usage")) {
    counted_ = counted_ || usage->contains("completion_tokens");
    ReadCount(*usage, "prompt_tokens", &outcome_.prompt_tokens);
    ReadCount(*usage, "completion_tokens", &outcome_.output_tokens);
  }
  const json::object* choice = FirstChoice(*chunk);
  if (choice == nullptr) return;
  const bool finishes = HasText(*choice, "finish_reason");
  const bool goes_on = !whole_ && !finishes;
  whole_ = whole_ || finishes;
  // An answer that has no text begins when it ends. Once it has begun, an event without text is of
  // tokens whose text is held back: for a character or a stop string to become whole.
  const bool is_piece = outcome_.chunks_s.empty() ? finishes : goes_on;
  if (CarriesText(*choice) || is_piece) outcome_.chunks_s.push_back(now_s);
  outcome_.ended_s = now_s;
}

void StreamAnswer::Fail(std::string error) {
  if (outcome_.error.empty()) outcome_.error = std::move(error);
}

void StreamAnswer::Finish() {
  if (!whole_) Fail("the stream ended before its answer was whole");
  if (outcome_.chunks_s.empty()) Fail("the stream held no answer");
  if (!counted_) outcome_.output_tokens = static_cast<int64_t>(outcome_.chunks_s.size());
}

std::string RefusalText(int status, std::string_view body) {
  std::string message;
  boost::system::error_code error;
  const json::value parsed = json::parse({body.data(), body.size()}, error);
  if (!error && parsed.is_object()) message = ErrorMessage(parsed.get_object());
  if (message.empty()) message = body;
  std::string text = "HTTP " + std::to_string(status);
  if (!message.empty()) text += ": " + Shortened(message);
  return text;
}

}  // namespace sluice
