#pragma once

namespace sluice {

// Lets this process hold as many files open as the system allows it: every connection is one, and
// the usual soft limit of 1024 is for programs that use select(), which nothing here does.
void RaiseOpenFileLimit();

}  // namespace sluice
