#include "hub/digest.h"

#include <openssl/evp.h>

#include <array>

#include "base/check.h"

namespace sluice {

void Digest::Free::operator()(evp_md_ctx_st* context) const {
  EVP_MD_CTX_free(context);
}

Digest::Digest(DigestKind kind, uint64_t size) : context_(EVP_MD_CTX_new()) {
  SLUICE_CHECK(context_ != nullptr);
  const EVP_MD* algorithm = kind == DigestKind::kSha256 ? EVP_sha256() : EVP_sha1();
  SLUICE_CHECK_EQ(EVP_DigestInit_ex(context_.get(), algorithm, nullptr), 1);
  if (kind == DigestKind::kGitBlob) {
    const std::string header = "blob " + std::to_string(size);
    Update({header.c_str(), header.size() + 1});  // with the closing NUL
  }
}

Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;

void Digest::Update(std::string_view bytes) {
  SLUICE_CHECK_EQ(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()), 1);
}

std::string Digest::Finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
  unsigned int count = 0;
  SLUICE_CHECK_EQ(EVP_DigestFinal_ex(context_.get(), bytes.data(), &count), 1);
  std::string hex;
  for (unsigned int i = 0; i < count; ++i) {
    constexpr char kDigits[] = "0123456789abcdef";
    hex += kDigits[bytes[i] >> 4];
    hex += kDigits[bytes[i] & 15];
  }
  return hex;
}

}  // namespace sluice
