#pragma once

#include <driver_types.h>

#include <source_location>

namespace sluice {

// Throws Error(kInternal) when `status`, which `what` (a call's or a kernel's name) returned, is no
// success: names `what`, the device, the error, and the place of the call.
void CheckCuda(cudaError_t status, const char* what,
               std::source_location where = std::source_location::current());

}  // namespace sluice
