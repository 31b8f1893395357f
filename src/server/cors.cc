#include "server/cors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/url.hpp>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "server/api_error.h"

namespace sluice {
namespace {

constexpr std::string_view kAny = "*";
// What pages may read beside the fields that they always may: what clients retry and report by.
constexpr std::string_view kExposed = "Retry-After, X-Request-Id";
constexpr std::string_view kMethods = "GET, HEAD, OPTIONS, POST";  // that any route here takes
constexpr std::string_view kRememberSeconds = "600";

bool Holds(const std::vector<std::string>& list, std::string_view value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// Browsers send an origin as scheme://host[:port], and "null" for pages without one.
void RequireOrigin(const std::string& origin) {
  if (origin == kAny || origin == "null") return;
  const auto url = boost::urls::parse_uri(origin);
  const bool whole = url && !url->host().empty() && !url->has_userinfo() && !url->has_query() &&
                     !url->has_fragment();
  if (whole && url->encoded_path().empty()) return;
  const std::string hint = whole && url->encoded_path() == "/"
                               ? fmt::format(": leave the last '/' out of '{}'", origin)
                               : fmt::format(", got '{}'", origin);
  throw Error(ErrorCode::kInvalidArgument,
              "--allowed-origins takes '*' or origins as browsers send them, "
              "https://chat.example or http://localhost:3000" +
                  hint);
}

}  // namespace

Cors::Cors(CorsOptions options)
    : options_(std::move(options)), any_origin_(Holds(options_.origins, kAny)) {
  for (const std::string& origin : options_.origins) RequireOrigin(origin);
  SLUICE_CHECK(!options_.origins.empty());
  if (options_.credentials && any_origin_) {
    throw Error(ErrorCode::kInvalidArgument,
                "--allow-credentials needs --allowed-origins with the origins by name: browsers "
                "take no credentials for '*'");
  }
}

bool Cors::Allows(std::string_view origin) const {
  return !origin.empty() && (any_origin_ || Holds(options_.origins, origin));
}

HttpFields Cors::Fields(std::string_view origin) const {
  HttpFields fields;
  // What a cache keeps for one origin is not for another.
  if (!any_origin_) fields.emplace_back("Vary", "Origin");
  if (!Allows(origin)) return fields;
  fields.emplace_back("Access-Control-Allow-Origin", any_origin_ ? kAny : origin);
  fields.emplace_back("Access-Control-Expose-Headers", kExposed);
  if (options_.credentials) fields.emplace_back("Access-Control-Allow-Credentials", "true");
  return fields;
}

HttpResponse Cors::Preflight(std::string_view origin, std::string_view headers) const {
  if (!Allows(origin)) {
    const ApiError refusal(403,
                           "pages of this origin may not use this server: its operator can allow "
                           "them with --allowed-origins");
    return {.status = refusal.status(), .body = refusal.Body()};
  }
  HttpResponse answer{.status = 204};
  const bool any_method = Holds(options_.methods, kAny);
  const bool any_header = Holds(options_.headers, kAny);
  answer.headers.emplace_back(
      "Access-Control-Allow-Methods",
      any_method ? std::string(kMethods) : fmt::format("{}", fmt::join(options_.methods, ", ")));
  // '*' does not stand for Authorization, so those that were asked for are named.
  const std::string allowed =
      any_header ? std::string(headers) : fmt::format("{}", fmt::join(options_.headers, ", "));
  if (!allowed.empty()) answer.headers.emplace_back("Access-Control-Allow-Headers", allowed);
  answer.headers.emplace_back("Access-Control-Max-Age", kRememberSeconds);
  return answer;
}

}  // namespace sluice
