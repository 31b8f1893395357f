#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice {

struct FetchRequest {
  std::string method = "GET";
  std::string url;  // absolute, http or https
  std::vector<std::pair<std::string, std::string>> headers;
};

struct HttpHead {
  int status = 0;
  std::map<std::string, std::string> fields;  // names in lower case

  std::optional<std::string> Find(const std::string& lower_case_name) const;
};

// An HTTP/1.1 client: one request a connection, no redirects followed. Certificates are checked
// against the system's store (SSL_CERT_FILE and SSL_CERT_DIR replace it). Any number of threads may
// send at once; each call blocks its own.
class HttpClient {
 public:
  // `timeout` is how long to wait for a connection, and then for each next byte.
  HttpClient(std::string user_agent, std::chrono::milliseconds timeout);
  ~HttpClient();

  // Called with the head; false when the body is not wanted.
  using OnHead = std::function<bool(const HttpHead&)>;
  // Called with each piece of the body, decoded from chunks.
  using OnBody = std::function<void(std::string_view)>;
  // Returns once the body is complete or refused. Throws TransientError when the connection fails,
  // stalls or ends early, Error(kInvalidArgument) for a URL that is none, Error(kUnsupported) for a
  // certificate that cannot be trusted, and whatever the callbacks throw.
  HttpHead Send(const FetchRequest& request, const OnHead& on_head, const OnBody& on_body) const;

 private:
  struct Tls;

  std::string user_agent_;
  std::chrono::milliseconds timeout_;
  std::unique_ptr<Tls> tls_;
};

}  // namespace sluice
