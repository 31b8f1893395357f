// The bytes that a client sends on one connection before it ends its side: read, parsed, routed and
// answered as the server does, in one thread and without a network.
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio.hpp>
#include <deque>
#include <memory>

#include "fuzz_support.h"
#include "sched/outbox.h"
#include "server/http_connection.h"
#include "server/routes.h"

namespace sluice {
namespace {

namespace asio = boost::asio;

// A byte-level vocabulary of the 256 bytes, which every text can be written in.
std::string ByteTokenizerJson() {
  std::string vocab;
  int other = 256;  // bytes without a printable character of their own take code points from here
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    char entry[32];
    std::snprintf(entry, sizeof entry, "%s\"\\u%04x\":%d", byte == 0 ? "" : ",",
                  printable ? byte : other++, byte);
    vocab += entry;
  }
  return R"({"model":{"type":"BPE","vocab":{)" + vocab +
         R"(},"merges":[]},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},)"
         R"("decoder":{"type":"ByteLevel"}})";
}

// Gives each sequence one token whenever it is asked to.
class SteppedGenerator : public Generator {
 public:
  RequestId Submit(Request request, OutputCallback callback,
                   std::shared_ptr<Executor> executor) override {
    const RequestId id = next_++;
    for (int index = 0; index < request.sampling.n; ++index) {
      live_.push_back({id,
                       index,
                       std::min(request.sampling.max_tokens, 4),
                       {std::make_shared<const OutputCallback>(callback), executor}});
    }
    return id;
  }
  void Abort(RequestId request) override {
    std::erase_if(live_, [&](const Live& live) { return live.request == request; });
  }
  void AbortSequence(RequestId request, int index) override {
    std::erase_if(live_,
                  [&](const Live& live) { return live.request == request && live.index == index; });
  }
  std::optional<Error> Refusal() const override { return std::nullopt; }
  EngineStats Stats() const override { return {}; }
  std::vector<StepTiming> RecentSteps() const override { return {}; }

  // Reports one token of the sequence that has waited longest. False when there is none.
  bool Step() {
    if (live_.empty()) return false;
    Live live = std::move(live_.front());
    live_.pop_front();
    const OutputReceiver receiver = live.receiver;
    Output output{.index = live.index};
    output.tokens.push_back({.token = 'a' + live.left, .logprob = -1.0f, .rank = 1});
    if (--live.left <= 0) {
      output.finish = FinishReason::kLength;
    } else {
      live_.push_back(std::move(live));
    }
    outbox_.Put(receiver, std::move(output));
    outbox_.Flush();
    return true;
  }

 private:
  struct Live {
    RequestId request;
    int index;
    int left;
    OutputReceiver receiver;
  };
  std::deque<Live> live_;
  Outbox outbox_;
  RequestId next_ = 1;
};

struct Door {
  std::unique_ptr<Tokenizer> tokenizer = Tokenizer::FromJson(ByteTokenizerJson());
  ChatTemplate chat = ChatTemplate::Parse(kChatMlTemplate);
  SteppedGenerator generator;
  Metrics metrics;
  RequestLog log{/*prompts=*/true};
  Routes routes{ServedModel{.names = {"model"},
                            .tokenizer = *tokenizer,
                            .chat_template = &chat,
                            .generator = generator,
                            .metrics = metrics,
                            .max_model_len = 512,
                            .resident_bytes = [] { return uint64_t{1}; }},
                {"secret"},
                "0",
                log};
  std::atomic<int> answering{0};
  HttpServerOptions options{
      .cors = std::make_shared<const Cors>(CorsOptions{.origins = {"http://a.b"}}),
      .max_header_bytes = 1024,
      .max_body_bytes = 8192};
};

// Takes what the server has sent, so that it never waits for a reader.
void Drain(int client, std::string& answer) {
  char bytes[1 << 14];
  ssize_t got = 0;
  while ((got = recv(client, bytes, sizeof bytes, MSG_DONTWAIT)) > 0) {
    answer.append(bytes, static_cast<size_t>(got));
  }
}

void Serve(Door& door, std::string_view input) {
  int ends[2];
  fuzz::Require(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "a socket pair can be had");
  const ssize_t sent = send(ends[1], input.data(), input.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  fuzz::Require(sent == static_cast<ssize_t>(input.size()), "the input fits the socket's buffer");

  asio::io_context context(1);
  IoThreadState thread{
      context, std::make_shared<IoGate>(context), door.options, door.routes, door.answering, {}};
  asio::ip::tcp::socket socket(context);
  socket.assign(asio::ip::tcp::v4(), ends[0]);
  asio::co_spawn(context, ServeConnection(std::move(socket), thread), asio::detached);
  std::string answer;
  bool busy = true;
  while (busy) {
    busy = context.poll() > 0;
    Drain(ends[1], answer);
    busy |= door.generator.Step();
  }
  // Everything that was asked for is answered; now the client ends its side.
  shutdown(ends[1], SHUT_WR);
  // In pieces: a process that is stopped for a while loses one of them, not all of its time.
  constexpr int kPieces = 50;
  for (int piece = 0; piece < kPieces && !context.stopped(); ++piece) {
    context.run_for(std::chrono::milliseconds(100));
    Drain(ends[1], answer);
  }
  fuzz::Require(context.stopped(), "a connection ends when its client does");
  Drain(ends[1], answer);
  thread.gate->Close();
  close(ends[1]);
  fuzz::Require(thread.connections.empty(), "the connection has ended");
  fuzz::Require(door.answering == 0, "nothing is being answered");
  fuzz::Require(answer.empty() || answer.starts_with("HTTP/1.1 "), "an answer is HTTP");
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static sluice::Door door;
  // More than a socket's buffer holds cannot be sent from the thread that reads it.
  if (size > 65536) return 0;
  sluice::Serve(door, sluice::fuzz::AsText(data, size));
  return 0;
}
