#include "hub/hub_client.h"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <boost/url.hpp>
#include <charconv>
#include <utility>

#include "hub/model_places.h"
#include "hub/retry.h"

namespace sluice {
namespace {

constexpr int kMaxRedirects = 8;
constexpr size_t kMaxListBytes = 256 << 20;

bool IsHex(std::string_view text, size_t digits) {
  return text.size() == digits && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

// Keeps '/' between the parts of a path; `keep_slash` false encodes it too.
std::string Encode(const std::string& text, bool keep_slash) {
  if (!keep_slash) return boost::urls::encode(text, boost::urls::unreserved_chars);
  return boost::urls::encode(text, boost::urls::unreserved_chars + '/');
}

// The value of an ETag field without its quotes and weakness mark.
std::string BareEtag(std::string text) {
  if (text.starts_with("W/")) text.erase(0, 2);
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') {
    text = text.substr(1, text.size() - 2);
  }
  return text;
}

std::optional<uint64_t> ParseNumber(const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Scheme, host and port: what may see a token.
std::string OriginOf(const std::string& url) {
  const auto parsed = boost::urls::parse_uri(url);
  if (!parsed) return "";
  std::string port(parsed->port());
  if (port.empty()) port = parsed->scheme() == "https" ? "443" : "80";
  std::string host(parsed->encoded_host());
  std::transform(host.begin(), host.end(), host.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::string(parsed->scheme()) + "://" + host + ":" + port;
}

std::string ResolveLocation(const std::string& base, const std::string& location) {
  const auto from = boost::urls::parse_uri(base);
  const auto to = boost::urls::parse_uri_reference(location);
  boost::urls::url resolved;
  if (!from || !to || !boost::urls::resolve(*from, *to, resolved)) {
    throw Error(ErrorCode::kDataLoss,
                base + ": redirects to '" + location + "', which is not an address");
  }
  return std::string(resolved.buffer());
}

HubFile ReadSibling(const boost::json::object& sibling) {
  HubFile file{.path = std::string(sibling.at("rfilename").as_string())};
  const boost::json::value* size = sibling.if_contains("size");
  if (size == nullptr || !size->is_number()) return file;
  const boost::json::value* lfs = sibling.if_contains("lfs");
  const boost::json::value* hash = nullptr;
  if (lfs != nullptr && lfs->is_object()) {
    hash = lfs->get_object().if_contains("sha256");
  } else {
    hash = sibling.if_contains("blobId");
  }
  if (hash == nullptr || !hash->is_string()) return file;
  file.size = size->to_number<uint64_t>();
  file.etag = std::string(hash->get_string());
  if (!IsHex(file.etag, 40) && !IsHex(file.etag, 64)) {
    throw Error(ErrorCode::kDataLoss, "'" + file.path + "' has the hash '" + file.etag +
                                          "', expected 40 or 64 hex digits");
  }
  return file;
}

}  // namespace

HubClient::HubClient(Options options)
    : options_(std::move(options)), http_(options_.user_agent, options_.timeout) {
  while (options_.endpoint.ends_with('/')) options_.endpoint.pop_back();
  if (OriginOf(options_.endpoint).empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "--endpoint '" + options_.endpoint + "' is not an address: expected https://HOST");
  }
}

HttpHead HubClient::Follow(FetchRequest request, const OnHop& on_hop,
                           const HttpClient::OnHead& on_head,
                           const HttpClient::OnBody& on_body) const {
  const std::string home = OriginOf(options_.endpoint);
  const auto headers = request.headers;
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    request.headers = headers;
    if (options_.token && OriginOf(request.url) == home) {
      request.headers.emplace_back("Authorization", "Bearer " + *options_.token);
    }
    bool redirected = false;
    HttpHead head = http_.Send(
        request,
        [&](const HttpHead& found) {
          redirected = found.status >= 301 && found.status <= 308 && found.status != 304 &&
                       found.Find("location").has_value();
          return !redirected && on_head(found);
        },
        on_body);
    if (!redirected) return head;
    on_hop(head);
    const std::string next = ResolveLocation(request.url, *head.Find("location"));
    if (request.url.starts_with("https:") && !next.starts_with("https:")) {
      throw Error(ErrorCode::kUnsupported,
                  request.url + ": redirects to '" + next + "', which is not encrypted");
    }
    request.url = next;
  }
  throw Error(ErrorCode::kDataLoss, request.url + ": too many redirects");
}

void HubClient::FailStatus(const HttpHead& head, const std::string& name,
                           const std::string& revision, const std::string& what) const {
  const std::string code = head.Find("x-error-code").value_or("");
  const std::string said = head.Find("x-error-message").value_or("");
  const std::string page = options_.endpoint + "/" + name;
  const std::string status = "HTTP " + std::to_string(head.status);
  if (head.status == 429 || head.status == 408 || head.status >= 500) {
    std::optional<std::chrono::seconds> after;
    if (const auto field = head.Find("retry-after")) {
      if (const auto seconds = ParseNumber(*field)) {
        after = std::chrono::seconds(std::min<uint64_t>(*seconds, 1 << 30));
      }
    }
    throw TransientError(what + ": " + status + (said.empty() ? "" : ", " + said), after);
  }
  if (head.status == 403 || code == "GatedRepo") {
    throw Error(ErrorCode::kUnavailable, name + ": is not open to everyone (" + status +
                                             "): accept its licence at " + page +
                                             " and set HF_TOKEN to a token of that " + "account" +
                                             (said.empty() ? "" : ". The hub says: " + said));
  }
  if (head.status == 401) {
    throw Error(ErrorCode::kUnavailable,
                options_.token
                    ? name + ": the token was refused (HTTP 401): look at HF_TOKEN, and at " + page
                    : name + ": there is no such model, or it is private or gated (HTTP 401): if " +
                          page + " exists, accept its licence there and set HF_TOKEN");
  }
  if (head.status == 404 &&
      (code == "RevisionNotFound" || said.find("evision") != std::string::npos)) {
    throw Error(ErrorCode::kNotFound,
                name + ": has no revision '" + revision + "' at " + options_.endpoint);
  }
  if (head.status == 404) {
    throw Error(ErrorCode::kNotFound, what == name ? options_.endpoint + " has no model '" + name +
                                                         "' with a revision '" + revision + "'"
                                                   : what + ": is not there (HTTP 404)");
  }
  throw Error(ErrorCode::kUnavailable, what + ": " + status + (said.empty() ? "" : ", " + said));
}

std::string HubClient::FileUrl(const HubModel& model, const std::string& path) const {
  return options_.endpoint + "/" + model.name + "/resolve/" + model.commit + "/" +
         Encode(path, true);
}

HubModel HubClient::GetModel(const std::string& name, const std::string& revision,
                             const std::stop_token& stop) const {
  if (!IsModelName(name)) {
    throw Error(ErrorCode::kInvalidArgument,
                "'" + name + "' is not the name of a model: expected ORG/NAME");
  }
  const FetchRequest request{.url = options_.endpoint + "/api/models/" + name + "/revision/" +
                                    Encode(revision, false) + "?blobs=true"};
  std::string body;
  Backoff backoff(options_.max_retries);
  while (true) {
    try {
      body.clear();
      Follow(
          request, [](const HttpHead&) {},
          [&](const HttpHead& head) {
            if (head.status != 200) FailStatus(head, name, revision, name);
            return true;
          },
          [&](std::string_view bytes) {
            if (body.size() + bytes.size() > kMaxListBytes) {
              throw Error(ErrorCode::kDataLoss, name + ": the list of its files has no end");
            }
            body += bytes;
          });
      break;
    } catch (const TransientError& error) {
      backoff.Wait(error, stop);
    }
  }
  try {
    const boost::json::value root = boost::json::parse(body);
    HubModel model{
        .name = name, .revision = revision, .commit = std::string(root.at("sha").as_string())};
    if (!IsHex(model.commit, 40)) {
      throw Error(ErrorCode::kDataLoss, name + ": the hub names the commit '" + model.commit +
                                            "', expected 40 hex digits");
    }
    for (const boost::json::value& sibling : root.at("siblings").as_array()) {
      model.files.push_back(ReadSibling(sibling.as_object()));
    }
    return model;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {  // of Boost.JSON: not JSON, or not of this form
    throw Error(
        ErrorCode::kDataLoss,
        request.url + ": the answer is not a hub's description of a model (" + error.what() + ")");
  }
}

HubFile HubClient::Describe(const HubModel& model, const std::string& path,
                            const std::stop_token& stop) const {
  const FetchRequest request{.method = "HEAD", .url = FileUrl(model, path)};
  const std::string what = model.name + "/" + path;
  HubFile file{.path = path};
  const auto read = [&file](const HttpHead& head) {
    const auto etag = head.Find("x-linked-etag");
    const auto size = head.Find("x-linked-size");
    if (!etag || !size) return;
    file.etag = BareEtag(*etag);
    file.size = ParseNumber(*size).value_or(0);
  };
  Backoff backoff(options_.max_retries);
  while (true) {
    try {
      const HttpHead last = Follow(
          request, read, [](const HttpHead&) { return false; }, [](std::string_view) {});
      if (last.status != 200 && file.etag.empty()) {
        FailStatus(last, model.name, model.revision, what);
      }
      read(last);
      if (file.etag.empty()) {
        file.etag = BareEtag(last.Find("etag").value_or(""));
        file.size = ParseNumber(last.Find("content-length").value_or("")).value_or(0);
      }
      break;
    } catch (const TransientError& error) {
      backoff.Wait(error, stop);
    }
  }
  if (!IsHex(file.etag, 40) && !IsHex(file.etag, 64)) {
    throw Error(ErrorCode::kUnsupported, what + ": " + options_.endpoint +
                                             " gives no hash that its content could be checked "
                                             "against");
  }
  return file;
}

HttpHead HubClient::GetContent(const HubModel& model, const HubFile& file, uint64_t offset,
                               const std::optional<std::string>& if_range,
                               const HttpClient::OnHead& on_head,
                               const HttpClient::OnBody& on_body) const {
  FetchRequest request{.url = FileUrl(model, file.path)};
  const std::string what = model.name + "/" + file.path;
  if (offset > 0) {
    request.headers.emplace_back("Range", "bytes=" + std::to_string(offset) + "-");
    if (if_range) request.headers.emplace_back("If-Range", *if_range);
  }
  const auto check = [&](const HttpHead& head) {
    const auto etag = head.Find("x-linked-etag");
    if (etag && BareEtag(*etag) != file.etag) {
      throw Error(ErrorCode::kDataLoss, what + ": the hub serves content of hash " +
                                            BareEtag(*etag) + " where its list says " + file.etag);
    }
    const auto size = head.Find("x-linked-size");
    if (size && ParseNumber(*size) != file.size) {
      throw Error(ErrorCode::kDataLoss, what + ": the hub serves " + *size +
                                            " bytes where its list says " +
                                            std::to_string(file.size));
    }
  };
  return Follow(
      request, check,
      [&](const HttpHead& head) {
        if (head.status != 200 && head.status != 206 && head.status != 416) {
          FailStatus(head, model.name, model.revision, what);
        }
        check(head);
        return on_head(head);
      },
      on_body);
}

}  // namespace sluice
