#include "server/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <boost/beast/core/string.hpp>

#include "base/check.h"

namespace sluice {

ApiKeys::ApiKeys(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) digests_.push_back(DigestOf(key));
}

ApiKeys::Digest ApiKeys::DigestOf(std::string_view text) {
  Digest digest;
  SLUICE_CHECK(
      EVP_Digest(text.data(), text.size(), digest.data(), nullptr, EVP_sha256(), nullptr) == 1);
  return digest;
}

bool ApiKeys::Allow(std::string_view authorization) const {
  if (digests_.empty()) return true;
  static constexpr std::string_view kScheme = "Bearer ";  // in any case: RFC 9110, 11.1
  if (!boost::beast::iequals(authorization.substr(0, kScheme.size()), kScheme)) return false;
  const Digest given = DigestOf(authorization.substr(kScheme.size()));
  bool known = false;
  for (const Digest& digest : digests_) {
    known |= CRYPTO_memcmp(digest.data(), given.data(), given.size()) == 0;
  }
  return known;
}

std::string ApiKeyProblem(std::string_view key) {
  if (key.empty()) return "a key must not be empty";
  const bool printable =
      std::all_of(key.begin(), key.end(), [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
  if (!printable || key.front() == ' ' || key.back() == ' ') {
    return "a key must not hold control characters, nor begin or end with a space: no request "
           "could carry it";
  }
  return "";
}

}  // namespace sluice
