#include "server/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <boost/asio/ssl/context.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/error.h"

namespace sluice {

namespace ssl = boost::asio::ssl;

namespace {

// OpenSSL's reason for its last failure.
std::string TakeReason() {
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  std::string text = reason != nullptr ? reason : "unknown reason";
  ERR_clear_error();
  return text;
}

void RequireReadable(const std::string& flag, const std::string& file) {
  errno = 0;
  std::ifstream stream(file);
  stream.peek();
  if (stream.good()) return;
  const std::string reason = errno != 0 ? std::strerror(errno) : "the file is empty";
  throw Error(ErrorCode::kInvalidArgument, flag + " " + file + " cannot be read: " + reason);
}

// What OpenSSL asks for an encrypted key's password; without this it would ask at the terminal.
int GivePassword(char* into, int size, int /*writing*/, void* password) {
  const auto& text = *static_cast<const std::string*>(password);
  const int length = std::min(size, static_cast<int>(text.size()));
  std::memcpy(into, text.data(), static_cast<size_t>(length));
  return length;
}

void UseCertificate(SSL_CTX* context, const std::string& file) {
  RequireReadable("--ssl-certfile", file);
  if (SSL_CTX_use_certificate_chain_file(context, file.c_str()) == 1) return;
  throw Error(
      ErrorCode::kInvalidArgument,
      "--ssl-certfile " + file + " holds no certificate in PEM that can be used: " + TakeReason());
}

void UseKey(SSL_CTX* context, const TlsFiles& files) {
  const std::string& file = files.key.empty() ? files.certificate : files.key;
  RequireReadable("--ssl-keyfile", file);
  std::string password = files.key_password;
  SSL_CTX_set_default_passwd_cb(context, GivePassword);
  SSL_CTX_set_default_passwd_cb_userdata(context, &password);
  const bool used = SSL_CTX_use_PrivateKey_file(context, file.c_str(), SSL_FILETYPE_PEM) == 1;
  SSL_CTX_set_default_passwd_cb_userdata(context, nullptr);
  SSL_CTX_set_default_passwd_cb(context, nullptr);
  if (used) return;
  // The certificate is there already: this is how OpenSSL says that they are not a pair.
  const bool other = ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH ||
                     ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_TYPE_MISMATCH;
  const std::string reason = TakeReason();
  if (other) {
    throw Error(ErrorCode::kInvalidArgument, "--ssl-keyfile " + file +
                                                 " is not the key of the certificate in " +
                                                 files.certificate + ": " + reason);
  }
  throw Error(ErrorCode::kInvalidArgument,
              "--ssl-keyfile " + file + " holds no private key in PEM that can be used: " + reason +
                  "; an encrypted one needs --ssl-keyfile-password");
}

}  // namespace

std::shared_ptr<ssl::context> LoadTls(const TlsFiles& files) {
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  SSL_CTX* native = context->native_handle();
  SSL_CTX_set_min_proto_version(native, TLS1_2_VERSION);
  ERR_clear_error();
  UseCertificate(native, files.certificate);
  UseKey(native, files);
  return context;
}

}  // namespace sluice
