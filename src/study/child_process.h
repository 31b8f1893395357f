#pragma once

#include <string>
#include <vector>

namespace sluice {

// How a child process ended and what it said.
struct ChildResult {
  int exit_code = -1;  // -1 when a signal ended it
  int signal = 0;
  bool timed_out = false;   // it was killed after the time that it had
  bool too_long = false;    // it was killed for printing more than is kept
  double seconds = 0.0;     // of wall time
  std::string output;       // standard output
  std::string diagnostics;  // the end of standard error
};

// Runs `program` with `arguments` and an empty standard input, for at most `timeout_s`; keeps up to
// 64 MiB of its output. The child dies with this process. Throws Error(kInternal) when the system
// starts none.
ChildResult RunChild(const std::string& program, const std::vector<std::string>& arguments,
                     double timeout_s);

}  // namespace sluice
