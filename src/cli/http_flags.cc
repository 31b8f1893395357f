#include "cli/http_flags.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/error.h"
#include "base/machine.h"
#include "cli/model_flags.h"
#include "server/api_keys.h"
#include "server/tls.h"

namespace sluice {
namespace {

constexpr char kKeyVariable[] = "SLUICE_API_KEY";
constexpr std::array<std::string_view, 2> kSecretFlags = {"--api-key", "--ssl-keyfile-password"};

std::string Trimmed(const std::string& text) {
  static constexpr char kBlank[] = " \t\r";
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(kBlank) + 1 - begin);
}

std::vector<std::string> KeysOfFile(const std::string& path) {
  errno = 0;
  std::ifstream file(path);
  std::vector<std::string> keys;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    std::string key = Trimmed(line);
    if (key.empty() || key.front() == '#') continue;
    const std::string problem = ApiKeyProblem(key);
    if (!problem.empty()) {
      throw Error(ErrorCode::kInvalidArgument,
                  "--api-key-file " + path + ", line " + std::to_string(number) + ": " + problem);
    }
    keys.push_back(std::move(key));
  }
  if (file.bad() || !file.eof()) {
    throw Error(ErrorCode::kInvalidArgument,
                "--api-key-file " + path + " cannot be read: " + std::strerror(errno));
  }
  // Without a key the server would be open, which is not what was asked for.
  if (keys.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "--api-key-file " + path + " holds no key: expected one a line");
  }
  return keys;
}

std::vector<std::string> AllKeys(const HttpFlags& flags) {
  std::vector<std::string> keys = flags.api_keys;
  if (!flags.api_key_file.empty()) {
    const std::vector<std::string> more = KeysOfFile(flags.api_key_file);
    keys.insert(keys.end(), more.begin(), more.end());
  }
  if (const char* key = std::getenv(kKeyVariable)) {
    const std::string problem = ApiKeyProblem(key);
    if (!problem.empty()) {
      throw Error(ErrorCode::kInvalidArgument,
                  std::string(kKeyVariable) + " of the environment: " + problem);
    }
    keys.emplace_back(key);
  }
  return keys;
}

// The items of a list's flag: given several times, with commas, or as vLLM takes it, '["a", "b"]'.
std::vector<std::string> Items(const std::vector<std::string>& values) {
  std::vector<std::string> items;
  for (std::string value : values) {
    const bool in_brackets = value.size() >= 2 && value.front() == '[' && value.back() == ']';
    if (in_brackets) value = value.substr(1, value.size() - 2);
    for (size_t begin = 0; begin <= value.size();) {
      const size_t end = std::min(value.find(',', begin), value.size());
      std::string item = Trimmed(value.substr(begin, end - begin));
      if (item.size() >= 2 && item.front() == '"' && item.back() == '"') {
        item = item.substr(1, item.size() - 2);
      }
      if (!item.empty()) items.push_back(std::move(item));
      begin = end + 1;
    }
  }
  return items;
}

std::shared_ptr<const Cors> CorsFrom(const HttpFlags& flags) {
  CorsOptions options{.origins = Items(flags.allowed_origins),
                      .credentials = flags.allow_credentials};
  if (options.origins.empty()) {
    if (flags.allow_credentials || !flags.allowed_methods.empty() ||
        !flags.allowed_headers.empty()) {
      throw Error(ErrorCode::kInvalidArgument,
                  "--allow-credentials, --allowed-methods and --allowed-headers say what pages of "
                  "--allowed-origins may do: name those too");
    }
    return nullptr;
  }
  if (!flags.allowed_methods.empty()) {
    options.methods = Items(flags.allowed_methods);
  }
  if (!flags.allowed_headers.empty()) {
    options.headers = Items(flags.allowed_headers);
  }
  return std::make_shared<const Cors>(std::move(options));
}

std::shared_ptr<boost::asio::ssl::context> TlsFrom(const HttpFlags& flags) {
  if (flags.ssl_certfile.empty()) {
    if (flags.ssl_keyfile.empty()) return nullptr;
    throw Error(ErrorCode::kInvalidArgument,
                "--ssl-keyfile needs --ssl-certfile: the certificate that it belongs to");
  }
  return LoadTls({.certificate = flags.ssl_certfile,
                  .key = flags.ssl_keyfile,
                  .key_password = flags.ssl_keyfile_password});
}

size_t BytesUpTo(const char* flag, const std::string& text, uint64_t least, uint64_t most) {
  const uint64_t bytes = ParseBytes(text);
  if (bytes < least || bytes > most) {
    throw Error(ErrorCode::kInvalidArgument, std::string(flag) + " must be from " +
                                                 std::to_string(least) + " to " +
                                                 std::to_string(most) + " bytes, got " + text);
  }
  return static_cast<size_t>(bytes);
}

void AddAccessFlags(CLI::App& app, HttpFlags& flags) {
  const char* group = "Access";
  const auto several = [&](const char* name, std::vector<std::string>& values,
                           const char* description) {
    return app.add_option(name, values, description)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->allow_extra_args(false)  // what follows a value is the model
        ->default_str("")
        ->group(group);
  };
  several("--api-key", flags.api_keys,
          "Require this key, or another that is given, as 'Authorization: Bearer KEY' on "
          "/v1/; may be given several times. The environment's SLUICE_API_KEY is one more")
      ->check(CLI::Validator([](const std::string& key) { return ApiKeyProblem(key); }, ""));
  app.add_option("--api-key-file", flags.api_key_file,
                 "File of keys, one a line, beside those of --api-key; # begins a comment")
      ->group(group);
  app.add_option("--ssl-certfile", flags.ssl_certfile,
                 "Serve HTTPS, TLS 1.2 and 1.3, with this certificate (PEM, with its chain)")
      ->group(group);
  app.add_option("--ssl-keyfile", flags.ssl_keyfile,
                 "The certificate's private key (PEM); default: it stands in --ssl-certfile")
      ->group(group);
  app.add_option("--ssl-keyfile-password", flags.ssl_keyfile_password,
                 "Password of an encrypted --ssl-keyfile")
      ->group(group);
  several("--allowed-origins", flags.allowed_origins,
          "Origins whose pages browsers may let use this server (CORS), as "
          "https://chat.example, several with commas; '*' = any; default: none");
  several("--allowed-methods", flags.allowed_methods,
          "Methods that those pages may use; default: all that are served");
  several("--allowed-headers", flags.allowed_headers,
          "Fields that those pages may send; default: any");
  app.add_flag("--allow-credentials", flags.allow_credentials,
               "Let browsers send cookies and log-ins with those pages' requests")
      ->group(group);
}

void AddLimitFlags(CLI::App& app, HttpFlags& flags) {
  const char* group = "Limits";
  const auto seconds = [&](const char* name, double& value, const char* description) {
    app.add_option(name, value, description)->check(Quiet(CLI::Range(0.001, 1e6)))->group(group);
  };
  seconds("--header-timeout", flags.header_timeout,
          "Seconds that a request's head may take to come, and TLS to open; then 408");
  seconds("--body-timeout", flags.body_timeout, "Seconds that a request's body may take; then 408");
  seconds("--write-timeout", flags.write_timeout,
          "Seconds in which a client takes nothing of its answer before it is cut off");
  seconds("--keep-alive-timeout", flags.keep_alive_timeout,
          "Seconds that a connection may stay open between requests");
  app.add_option("--max-header-size", flags.max_header_size, "Bytes of a request's head; then 431")
      ->group(group);
  app.add_option("--max-body-size", flags.max_body_size, "Bytes of a request's body; then 413")
      ->group(group);
  app.add_option("--max-connections", flags.max_connections,
                 "Connections open at once; others get 503")
      ->check(Quiet(CLI::Range(1, 1 << 20)))
      ->group(group);
}

}  // namespace

void AddHttpFlags(CLI::App& app, HttpFlags& flags) {
  const char* group = "Server";
  app.add_option("--host", flags.host, "Address to listen on")->group(group);
  app.add_option("--port", flags.port, "Port to listen on; 0 = any that is free")
      ->check(Quiet(CLI::Range(0, 65535)))
      ->group(group);
  AddAccessFlags(app, flags);
  AddLimitFlags(app, flags);
}

int CoresForConnections() {
  constexpr int kManyCores = 8;
  return AvailableCores() < kManyCores ? 0 : 2;
}

std::chrono::milliseconds Milliseconds(double seconds) {
  return std::chrono::milliseconds(std::llround(seconds * 1000));
}

ServerOptions ServerOptionsFrom(const HttpFlags& flags) {
  ServerOptions options{.api_keys = AllKeys(flags), .version = SLUICE_VERSION};
  HttpServerOptions& http = options.http;
  http.host = flags.host;
  http.port = flags.port;
  http.io_threads = std::max(CoresForConnections(), 1);
  http.takes_turns = CoresForConnections() == 0;
  http.tls = TlsFrom(flags);
  http.cors = CorsFrom(flags);
  http.max_connections = flags.max_connections;
  http.max_header_bytes = BytesUpTo("--max-header-size", flags.max_header_size, 1 << 10, 1 << 20);
  http.max_body_bytes = BytesUpTo("--max-body-size", flags.max_body_size, 1 << 10, 1 << 30);
  http.header_timeout = Milliseconds(flags.header_timeout);
  http.body_timeout = Milliseconds(flags.body_timeout);
  http.write_timeout = Milliseconds(flags.write_timeout);
  http.idle_timeout = Milliseconds(flags.keep_alive_timeout);
  return options;
}

void HideSecrets(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    for (const std::string_view flag : kSecretFlags) {
      char* secret = nullptr;
      if (argument == flag && i + 1 < argc) secret = argv[i + 1];
      if (argument.starts_with(flag) && argument.substr(flag.size()).starts_with('=')) {
        secret = argv[i] + flag.size() + 1;
      }
      if (secret != nullptr) std::memset(secret, '*', std::strlen(secret));
    }
  }
}

}  // namespace sluice
