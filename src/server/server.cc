#include "server/server.h"

#include <atomic>
#include <utility>

#include "base/check.h"
#include "base/open_files.h"
#include "server/api_error.h"
#include "server/process_metrics.h"
#include "server/routes.h"

namespace sluice {

// Turns requests away until there are routes to answer them.
class Server::Door : public HttpHandler {
 public:
  void Open(Routes& routes) { routes_ = &routes; }

  std::shared_ptr<Exchange> Handle(HttpRequest request, ResponseWriter& writer) override {
    if (Routes* routes = routes_) return routes->Handle(std::move(request), writer);
    const ApiError error(503, "the server is starting: the model is being loaded", std::nullopt,
                         "starting");
    writer.Send({.status = error.status(),
                 .body = error.Body(),
                 .headers = {{"Retry-After", "5"}},
                 .close = true});
    return nullptr;
  }

 private:
  std::atomic<Routes*> routes_ = nullptr;
};

Server::Server(ServerOptions options)
    : options_(std::move(options)),
      log_(options_.log_prompts),
      door_(std::make_unique<Door>()),
      http_(std::make_unique<HttpServer>(options_.http, *door_)) {}

Server::~Server() = default;

void Server::Start() {
  RaiseOpenFileLimit();
  http_->Start();
}

void Server::Open(ServedModel model) {
  SLUICE_CHECK(routes_ == nullptr);
  const HttpServer* http = http_.get();
  model.metrics.Add(std::make_shared<ProcessMetrics>([http] { return http->connections(); },
                                                     [http] { return http->answering(); }));
  routes_ = std::make_unique<Routes>(std::move(model), options_.api_keys, options_.version, log_);
  door_->Open(*routes_);
}

void Server::Drain() {
  SLUICE_CHECK(routes_ != nullptr);
  routes_->Drain();
}

int Server::answering() const {
  return http_->answering();
}
int Server::port() const {
  return http_->port();
}
void Server::Stop() {
  http_->Stop();
}
void Server::Wait() {
  http_->Wait();
}

}  // namespace sluice
