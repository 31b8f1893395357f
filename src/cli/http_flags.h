#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <string>
#include <vector>

#include "server/server.h"

namespace sluice {

// The flags that say who may connect to a server, how, and how much one client may ask of it.
struct HttpFlags {
  std::string host = "127.0.0.1";
  int port = 8000;

  std::vector<std::string> api_keys;
  std::string api_key_file;

  std::string ssl_certfile;
  std::string ssl_keyfile;
  std::string ssl_keyfile_password;

  std::vector<std::string> allowed_origins;
  std::vector<std::string> allowed_methods;
  std::vector<std::string> allowed_headers;
  bool allow_credentials = false;

  double header_timeout = 10;
  double body_timeout = 60;
  double write_timeout = 30;
  double keep_alive_timeout = 75;
  std::string max_header_size = "32KiB";
  std::string max_body_size = "8MiB";
  int max_connections = 16384;
};

void AddHttpFlags(CLI::App& app, HttpFlags& flags);

// Reads keys (from the flags, the file and SLUICE_API_KEY, all of which count) and certificates.
// Throws Error that names the flag or the file at fault, and never a key.
ServerOptions ServerOptionsFrom(const HttpFlags& flags);

// Cores that a server leaves to its connections: two of eight or more, none of fewer. Where
// computing has all of many, whoever is to read or write a connection waits for its turn on one.
int CoresForConnections();

// What a flag that takes seconds says.
std::chrono::milliseconds Milliseconds(double seconds);

// Overwrites secrets among a program's arguments, which every user of the machine can list.
void HideSecrets(int argc, char** argv);

}  // namespace sluice
