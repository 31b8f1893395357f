#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/http_types.h"

namespace sluice {

// Which pages of other origins a browser may let talk to this server. Lists may hold "*", for any.
struct CorsOptions {
  std::vector<std::string> origins;  // at least one, as https://chat.example:8443
  std::vector<std::string> methods{"*"};
  std::vector<std::string> headers{"*"};
  bool credentials = false;  // cookies and the browser's own log-ins; not with any origin
};

// Cross-origin resource sharing (https://fetch.spec.whatwg.org/#http-cors-protocol). Only browsers
// mind it: it does not keep anybody else out. Thread-safe.
class Cors {
 public:
  // Throws Error(kInvalidArgument) for what no browser would take.
  explicit Cors(CorsOptions options);

  // The fields that every answer to a page of this origin carries; `origin` is the request's field
  // of that name, empty = none.
  HttpFields Fields(std::string_view origin) const;

  // The answer to a browser's question before a request, which is an OPTIONS with
  // Access-Control-Request-Method; `headers` is its Access-Control-Request-Headers. Fields are
  // not in it.
  HttpResponse Preflight(std::string_view origin, std::string_view headers) const;

 private:
  bool Allows(std::string_view origin) const;

  const CorsOptions options_;
  const bool any_origin_;
};

}  // namespace sluice
