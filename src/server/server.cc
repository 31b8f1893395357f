#include "server/server.h"

#include <utility>

#include "base/open_files.h"
#include "server/routes.h"

namespace sluice {

Server::Server(ServerOptions options, ServedModel model)
    : routes_(std::make_unique<Routes>(std::move(model), options.api_keys,
                                       std::move(options.version))),
      http_(std::make_unique<HttpServer>(std::move(options.http), *routes_)) {}

Server::~Server() = default;

void Server::Start() {
  RaiseOpenFileLimit();
  http_->Start();
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
