#include "server/http_server.h"

#include <fcntl.h>
#include <sched.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <boost/asio.hpp>
#include <chrono>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "server/http_connection.h"

namespace sluice {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

// The kernel caps it at net.core.somaxconn.
constexpr int kBacklog = 4096;
// Pause after the process ran out of file descriptors, before it accepts again.
constexpr std::chrono::milliseconds kAcceptPause{100};

// Connections past the most that are open that are told so: each takes a moment to end.
constexpr int kTurnedAwayAtOnce = 256;

// A thread that wakes where another runs waits for the next tick. Where a core is free nothing
// changes, and what the kernel denies is done without.
void InterruptNobody() {
  const sched_param none{};
  sched_setscheduler(0, SCHED_BATCH, &none);
}

struct IoThread {
  IoThread(const HttpServerOptions& options, HttpHandler& handler, std::atomic<int>& answering)
      : context(std::make_unique<asio::io_context>(1)),
        work(asio::make_work_guard(*context)),
        state{.context = *context,
              .gate = std::make_shared<IoGate>(*context),
              .options = options,
              .handler = handler,
              .answering = answering} {}
  ~IoThread() {
    state.gate->Close();
    work.reset();
    context.reset();  // what it still holds refers to `state`
  }
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  std::unique_ptr<asio::io_context> context;
  asio::executor_work_guard<asio::io_context::executor_type> work;
  IoThreadState state;
  std::thread thread;
};

// A worker's process that is started meanwhile must not hold clients' connections open.
void CloseOnExec(int socket) {
  fcntl(socket, F_SETFD, FD_CLOEXEC);
}

void LogFailure(const std::exception_ptr& failure) {
  if (!failure) return;
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    spdlog::error("a connection ended by an internal error: {}", error.what());
  }
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(HttpServerOptions options, HttpHandler& handler) : options_(std::move(options)) {
    SLUICE_CHECK_GT(options_.io_threads, 0);
    for (int i = 0; i < options_.io_threads; ++i) {
      threads_.push_back(std::make_unique<IoThread>(options_, handler, answering_));
    }
    acceptor_.emplace(*threads_[0]->context);
  }
  ~Impl() {
    Stop();
    Wait();
    acceptor_.reset();
  }

  void Start();
  void Stop();
  void Wait();
  int port() const { return port_; }
  int connections() const { return open_connections_; }
  int answering() const { return answering_; }

 private:
  void Listen(const tcp::endpoint& endpoint);
  std::string Address() const { return options_.host + ":" + std::to_string(options_.port); }
  asio::awaitable<void> Accept();

  const HttpServerOptions options_;
  std::atomic<int> open_connections_{0};
  std::atomic<int> answering_{0};
  std::vector<std::unique_ptr<IoThread>> threads_;
  std::optional<tcp::acceptor> acceptor_;  // touched by thread 0 once it runs
  int port_ = 0;
  std::atomic<bool> stopped_{false};
  std::mutex join_mutex_;
};

void HttpServer::Impl::Listen(const tcp::endpoint& endpoint) {
  error_code error;
  acceptor_->open(endpoint.protocol(), error);
  if (!error) CloseOnExec(acceptor_->native_handle());
  if (!error) acceptor_->set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_->bind(endpoint, error);
  if (!error) acceptor_->listen(kBacklog, error);
  if (error == asio::error::address_in_use) {
    throw Error(ErrorCode::kUnavailable,
                "address " + Address() + " is in use: choose another with --port");
  }
  if (error) {
    throw Error(ErrorCode::kInvalidArgument, "cannot listen on " + Address() + ": " +
                                                 error.message() +
                                                 ": choose another with --host and --port");
  }
  port_ = acceptor_->local_endpoint().port();
}

void HttpServer::Impl::Start() {
  if (options_.port < 0 || options_.port > 65535) {
    throw Error(ErrorCode::kInvalidArgument,
                "--port must be between 0 and 65535, got " + std::to_string(options_.port));
  }
  error_code error;
  tcp::resolver resolver(*threads_[0]->context);
  const auto found =
      resolver.resolve(options_.host, std::to_string(options_.port), tcp::resolver::passive, error);
  if (error || found.empty()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "--host " + options_.host + " is not an address of this machine: " + error.message());
  }
  Listen(*found.begin());
  asio::co_spawn(*threads_[0]->context, Accept(), LogFailure);
  for (const auto& thread : threads_) {
    thread->thread = std::thread([context = thread->context.get(), &options = options_] {
      if (options.takes_turns) InterruptNobody();
      context->run();
    });
  }
}

asio::awaitable<void> HttpServer::Impl::Accept() {
  asio::steady_timer pause(*threads_[0]->context);
  for (size_t next = 0; !stopped_; next = (next + 1) % threads_.size()) {
    IoThread& thread = *threads_[next];
    error_code error;
    tcp::socket socket = co_await acceptor_->async_accept(
        *thread.context, asio::redirect_error(asio::use_awaitable, error));
    if (error == asio::error::operation_aborted || !acceptor_->is_open()) co_return;
    if (!error) CloseOnExec(socket.native_handle());
    if (error) {
      spdlog::warn("cannot accept a connection: {}", error.message());
      pause.expires_after(kAcceptPause);
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
      continue;
    }
    const int open = open_connections_++;
    const auto ended = [this](const std::exception_ptr& failure) {
      --open_connections_;
      LogFailure(failure);
    };
    if (open < options_.max_connections) {
      asio::co_spawn(*thread.context, ServeConnection(std::move(socket), thread.state), ended);
    } else if (open < options_.max_connections + kTurnedAwayAtOnce) {
      asio::co_spawn(*thread.context, TurnAway(std::move(socket), thread.state), ended);
    } else {
      --open_connections_;  // and `socket` is closed
    }
  }
}

void HttpServer::Impl::Stop() {
  if (stopped_.exchange(true)) return;
  asio::post(*threads_[0]->context, [this] {
    error_code ignored;
    acceptor_->close(ignored);
  });
  for (const auto& thread : threads_) {
    asio::post(*thread->context, [state = &thread->state] {
      state->stopping = true;
      const auto connections = state->connections;  // closing one may end it
      for (HttpConnection* connection : connections) {
        if (state->connections.contains(connection)) CloseConnection(*connection);
      }
    });
    thread->work.reset();
  }
}

void HttpServer::Impl::Wait() {
  const std::lock_guard lock(join_mutex_);
  for (const auto& thread : threads_) {
    if (thread->thread.joinable()) thread->thread.join();
  }
}

HttpServer::HttpServer(HttpServerOptions options, HttpHandler& handler)
    : impl_(std::make_unique<Impl>(std::move(options), handler)) {}
HttpServer::~HttpServer() = default;
void HttpServer::Start() {
  impl_->Start();
}
int HttpServer::port() const {
  return impl_->port();
}
int HttpServer::connections() const {
  return impl_->connections();
}
int HttpServer::answering() const {
  return impl_->answering();
}
void HttpServer::Stop() {
  impl_->Stop();
}
void HttpServer::Wait() {
  impl_->Wait();
}

}  // namespace sluice
