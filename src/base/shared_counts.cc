#include "base/shared_counts.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "base/error.h"

namespace sluice {

SharedCounts::SharedCounts(size_t size) : SharedCounts(size, memfd_create("sluice-counts", 0)) {}

SharedCounts::SharedCounts(size_t size, int memory) : size_(size), descriptor_(memory) {
  const size_t bytes = size_ * sizeof(Count);
  void* mapped = MAP_FAILED;
  if (descriptor_ >= 0 && ftruncate(descriptor_, static_cast<off_t>(bytes)) == 0) {
    mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
  }
  if (mapped == MAP_FAILED) {
    throw Error(ErrorCode::kResourceExhausted, "cannot make memory for the counts of experts: " +
                                                   std::system_category().message(errno));
  }
  counts_ = static_cast<Count*>(mapped);
}

SharedCounts::~SharedCounts() {
  munmap(counts_, size_ * sizeof(Count));
  close(descriptor_);
}

}  // namespace sluice
