#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "hub/digest.h"
#include "hub/http_client.h"

namespace sluice {

// A file of a model as the hub lists it.
struct HubFile {
  std::string path;  // with '/' between folders
  uint64_t size = 0;
  // What the content hashes to, in lower-case hex: 64 digits of SHA-256 or 40 of git's SHA-1. The
  // hub sends it as the file's ETag. Empty while only the name is known.
  std::string etag;

  DigestKind digest_kind() const {
    return etag.size() == 64 ? DigestKind::kSha256 : DigestKind::kGitBlob;
  }
};

// A model at one commit.
struct HubModel {
  std::string name;      // "ORG/NAME"
  std::string revision;  // as asked for: a branch, tag or commit
  std::string commit;    // 40 hex digits
  std::vector<HubFile> files;
};

// A model hub's HTTP interface (https://huggingface.co/docs/hub/api). Any number of threads may
// use it at once.
class HubClient {
 public:
  struct Options {
    std::string endpoint = "https://huggingface.co";
    std::optional<std::string> token;  // sent to the endpoint's own host and to no other
    std::string user_agent;
    std::chrono::milliseconds timeout{30'000};
    int max_retries = 5;  // failures in a row that are waited out
  };
  explicit HubClient(Options options);

  // Lists the files of a model. Throws Error: kNotFound for a model or revision that the hub does
  // not have, kUnavailable for one that needs a token or a licence accepted, saying which, and
  // when the hub cannot be reached; kDataLoss for an answer that is none.
  HubModel GetModel(const std::string& name, const std::string& revision,
                    const std::stop_token& stop) const;

  // Asks for size and etag of a file that the hub's list gave without them.
  HubFile Describe(const HubModel& model, const std::string& path,
                   const std::stop_token& stop) const;

  // Requests a file's content from `offset` on, following redirects; one attempt. `if_range` is an
  // ETag that the rest must still belong to. `on_head` sees the final head, of status 200, 206 or
  // 416; other statuses throw as GetModel does, TransientError for those that may pass.
  HttpHead GetContent(const HubModel& model, const HubFile& file, uint64_t offset,
                      const std::optional<std::string>& if_range, const HttpClient::OnHead& on_head,
                      const HttpClient::OnBody& on_body) const;

  const Options& options() const { return options_; }

 private:
  using OnHop = std::function<void(const HttpHead&)>;
  HttpHead Follow(FetchRequest request, const OnHop& on_hop, const HttpClient::OnHead& on_head,
                  const HttpClient::OnBody& on_body) const;
  std::string FileUrl(const HubModel& model, const std::string& path) const;
  [[noreturn]] void FailStatus(const HttpHead& head, const std::string& name,
                               const std::string& revision, const std::string& what) const;

  Options options_;
  HttpClient http_;
};

}  // namespace sluice
