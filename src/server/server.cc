#include "server/server.h"

#include <sys/resource.h>

#include <utility>

#include "server/routes.h"

namespace sluice {
namespace {

// Every open stream is a file descriptor, and the usual soft limit of 1024 is for programs that
// use select(), which nothing here does.
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

Server::Server(ServerOptions options, ServedModel model)
    : routes_(std::make_unique<Routes>(std::move(model), std::move(options.api_keys),
                                       std::move(options.version))),
      http_(std::make_unique<HttpServer>(std::move(options.http), *routes_)) {}

Server::~Server() = default;

void Server::Start() {
  RaiseFileLimit();
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
