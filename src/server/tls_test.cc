#include "server/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <boost/asio/ssl/context.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "base/error.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
struct FreeCertificate {
  void operator()(X509* certificate) const { X509_free(certificate); }
};
using PrivateKey = std::unique_ptr<EVP_PKEY, FreeKey>;

class TlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(folder_);
    const PrivateKey key(EVP_EC_gen("P-256"));
    WriteKey("key.pem", key.get());
    WriteKey("locked.pem", key.get(), "open sesame");
    WriteCertificate("cert.pem", key.get());
    WriteKey("other.pem", PrivateKey(EVP_EC_gen("P-256")).get());
    const std::ofstream empty(Path("empty.pem"));
    std::ofstream(Path("text.pem")) << "not PEM at all\n";
    std::ofstream(Path("both.pem"))
        << std::ifstream(Path("cert.pem")).rdbuf() << std::ifstream(Path("key.pem")).rdbuf();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ / name; }

  // What LoadTls says of these files.
  std::string Problem(const std::string& certificate, const std::string& key,
                      const std::string& password = "") const {
    try {
      LoadTls({Path(certificate), key.empty() ? "" : Path(key), password});
      return "none";
    } catch (const Error& error) {
      return error.what();
    }
  }

 private:
  using File = std::unique_ptr<FILE, int (*)(FILE*)>;
  File Open(const std::string& name) const { return {std::fopen(Path(name).c_str(), "w"), fclose}; }

  void WriteKey(const std::string& name, EVP_PKEY* key, std::string password = "") const {
    const EVP_CIPHER* cipher = password.empty() ? nullptr : EVP_aes_128_cbc();
    ASSERT_EQ(PEM_write_PrivateKey(Open(name).get(), key, cipher, nullptr, 0, nullptr,
                                   password.empty() ? nullptr : password.data()),
              1);
  }
  void WriteCertificate(const std::string& name, EVP_PKEY* key) const {
    const std::unique_ptr<X509, FreeCertificate> certificate(X509_new());
    X509_gmtime_adj(X509_getm_notBefore(certificate.get()), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 3600);
    X509_set_pubkey(certificate.get(), key);
    ASSERT_GT(X509_sign(certificate.get(), key, EVP_sha256()), 0);
    ASSERT_EQ(PEM_write_X509(Open(name).get(), certificate.get()), 1);
  }

  const std::filesystem::path folder_ =
      std::filesystem::path(::testing::TempDir()) / ("tls_" + std::to_string(getpid()));
};

TEST_F(TlsTest, TakesAPairAndOneFileOfBoth) {
  EXPECT_EQ(Problem("cert.pem", "key.pem"), "none");
  EXPECT_EQ(Problem("both.pem", ""), "none");
  EXPECT_EQ(Problem("cert.pem", "locked.pem", "open sesame"), "none");
}

TEST_F(TlsTest, SpeaksNothingOlderThanTls12) {
  const auto context = LoadTls({Path("cert.pem"), Path("key.pem"), ""});
  EXPECT_EQ(SSL_CTX_get_min_proto_version(context->native_handle()), TLS1_2_VERSION);
}

TEST_F(TlsTest, NamesTheFileAtFault) {
  EXPECT_THAT(Problem("none.pem", "key.pem"), HasSubstr("none.pem cannot be read: No such file"));
  EXPECT_THAT(Problem("cert.pem", "none.pem"), HasSubstr("none.pem cannot be read: No such file"));
  EXPECT_THAT(Problem("empty.pem", "key.pem"), HasSubstr("empty.pem cannot be read: the file is"));
  EXPECT_THAT(Problem("text.pem", "key.pem"), HasSubstr("text.pem holds no certificate"));
  EXPECT_THAT(Problem("key.pem", "key.pem"), HasSubstr("key.pem holds no certificate"));
  EXPECT_THAT(Problem("cert.pem", "text.pem"), HasSubstr("text.pem holds no private key"));
  EXPECT_THAT(Problem("cert.pem", ""), HasSubstr("cert.pem holds no private key"));
}

TEST_F(TlsTest, AKeyOfAnotherCertificateIsSaidSo) {
  const std::string problem = Problem("cert.pem", "other.pem");
  EXPECT_THAT(problem, HasSubstr("other.pem is not the key of the certificate in"));
  EXPECT_THAT(problem, HasSubstr("cert.pem"));
}

TEST_F(TlsTest, AnEncryptedKeyNeedsItsPassword) {
  EXPECT_THAT(Problem("cert.pem", "locked.pem"), HasSubstr("--ssl-keyfile-password"));
  EXPECT_THAT(Problem("cert.pem", "locked.pem", "wrong"), HasSubstr("--ssl-keyfile-password"));
}

}  // namespace
}  // namespace sluice
