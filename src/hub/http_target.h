#pragma once

#include <string>

namespace sluice {

// Where an http or https URL leads.
struct HttpTarget {
  bool tls = false;
  std::string host;
  std::string port;
  std::string authority;  // as the Host field has it
  std::string path;       // with the query
};

// Throws Error(kInvalidArgument) for a text that is no such URL.
HttpTarget ParseHttpTarget(const std::string& url);

}  // namespace sluice
