#pragma once

#include <source_location>
#include <sstream>
#include <string>

#include "base/error.h"

namespace sluice {

// Throws InternalError("FILE:LINE: check failed: EXPRESSION DETAIL").
[[noreturn]] void FailCheck(const char* expression, const std::string& detail,
                            std::source_location where);

template <class A, class B>
[[noreturn]] void FailCheckPair(const char* expression, const A& a, const B& b,
                                std::source_location where) {
  std::ostringstream detail;
  detail << "(" << a << " against " << b << ")";
  FailCheck(expression, detail.str(), where);
}

}  // namespace sluice

// Checks for programmers' errors, on in every build. The cost of a comparison is below what any
// caller can measure; do not put one in a kernel's inner loop.
#define SLUICE_CHECK(condition)                                                        \
  do {                                                                                 \
    if (!(condition)) [[unlikely]]                                                     \
      ::sluice::FailCheck(#condition, std::string(), std::source_location::current()); \
  } while (false)

#define SLUICE_CHECK_OP_(a, op, b)                                               \
  do {                                                                           \
    const auto& sluice_check_a = (a);                                            \
    const auto& sluice_check_b = (b);                                            \
    if (!(sluice_check_a op sluice_check_b)) [[unlikely]]                        \
      ::sluice::FailCheckPair(#a " " #op " " #b, sluice_check_a, sluice_check_b, \
                              std::source_location::current());                  \
  } while (false)

#define SLUICE_CHECK_EQ(a, b) SLUICE_CHECK_OP_(a, ==, b)
#define SLUICE_CHECK_NE(a, b) SLUICE_CHECK_OP_(a, !=, b)
#define SLUICE_CHECK_LT(a, b) SLUICE_CHECK_OP_(a, <, b)
#define SLUICE_CHECK_LE(a, b) SLUICE_CHECK_OP_(a, <=, b)
#define SLUICE_CHECK_GT(a, b) SLUICE_CHECK_OP_(a, >, b)
#define SLUICE_CHECK_GE(a, b) SLUICE_CHECK_OP_(a, >=, b)
