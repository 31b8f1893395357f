#include "hub/http_target.h"

#include <boost/url.hpp>

#include "base/error.h"

namespace sluice {

HttpTarget ParseHttpTarget(const std::string& url) {
  const auto parsed = boost::urls::parse_uri(url);
  const bool tls = parsed && parsed->scheme() == "https";
  if (!parsed || (!tls && parsed->scheme() != "http") || parsed->host().empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "'" + url + "' is not an address: expected http://HOST or https://HOST");
  }
  HttpTarget target{.tls = tls, .host = parsed->host_address(), .port = tls ? "443" : "80"};
  target.authority = std::string(parsed->encoded_host());
  if (parsed->has_port() && !parsed->port().empty()) {
    target.port = std::string(parsed->port());
    target.authority += ":" + target.port;
  }
  target.path = std::string(parsed->encoded_path());
  if (target.path.empty()) target.path = "/";
  if (parsed->has_query()) target.path += "?" + std::string(parsed->encoded_query());
  return target;
}

}  // namespace sluice
