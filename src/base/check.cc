#include "base/check.h"

namespace sluice {

void FailCheck(const char* expression, const std::string& detail, std::source_location where) {
  std::ostringstream message;
  message << where.file_name() << ":" << where.line() << ": check failed: " << expression;
  if (!detail.empty()) message << " " << detail;
  throw InternalError(message.str());
}

}  // namespace sluice
