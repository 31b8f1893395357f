#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// The keys that open the API. Kept and compared as digests, so that the time of a check tells
// neither a key's bytes nor its length. Thread-safe.
class ApiKeys {
 public:
  // Without any key every request is let in.
  explicit ApiKeys(const std::vector<std::string>& keys);

  bool empty() const { return digests_.empty(); }

  // `authorization` is the request's field of that name: "Bearer KEY".
  bool Allow(std::string_view authorization) const;

 private:
  using Digest = std::array<unsigned char, 32>;  // SHA-256
  static Digest DigestOf(std::string_view text);

  std::vector<Digest> digests_;
};

// Why no request can carry this key; empty where one can.
std::string ApiKeyProblem(std::string_view key);

}  // namespace sluice
