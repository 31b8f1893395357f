#pragma once

#include <memory>
#include <string>

namespace boost::asio::ssl {
class context;
}

namespace sluice {

struct TlsFiles {
  std::string certificate;   // PEM: the server's own first, then those that vouch for it
  std::string key;           // PEM; empty = in `certificate` too
  std::string key_password;  // for a key that is encrypted
};

// A server's side of TLS 1.2 and 1.3. Throws Error that names the file and what is wrong with it:
// one that cannot be read, is not PEM, or a key that is not the certificate's.
std::shared_ptr<boost::asio::ssl::context> LoadTls(const TlsFiles& files);

}  // namespace sluice
