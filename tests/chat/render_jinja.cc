// render_jinja: reads one JSON object {"template", "variables", "now"} a line from standard input
// and writes {"text"} or {"error", "message"} for each, with "at_load" when it did not parse. `now`
// is in seconds since 1970.

#include <boost/json.hpp>
#include <chrono>
#include <iostream>
#include <string>

#include "base/error.h"
#include "chat/jinja_evaluator.h"
#include "chat/jinja_json.h"
#include "chat/jinja_parser.h"

namespace {

boost::json::object Run(const boost::json::object& given) {
  bool at_load = true;
  try {
    const sluice::jinja::Body body = sluice::jinja::Parse(given.at("template").as_string());
    at_load = false;
    const sluice::jinja::Value variables = sluice::jinja::FromJson(given.at("variables"));
    const auto* now = given.if_contains("now");
    const std::chrono::system_clock::time_point time(
        std::chrono::seconds(now == nullptr ? 0 : now->to_number<int64_t>()));
    return {{"text", sluice::jinja::Render(body, *variables.IfDict(), time)}};
  } catch (const sluice::Error& error) {
    return {{"error", sluice::ErrorCodeName(error.code())},
            {"message", error.what()},
            {"at_load", at_load}};
  }
}

}  // namespace

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::cout << boost::json::serialize(Run(boost::json::parse(line).as_object())) << "\n";
  }
}
