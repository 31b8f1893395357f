#include "engine/worker_channel.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <system_error>

#include "base/error.h"

namespace sluice {
namespace {

// Of one message. Memory that no message has reached yet is not taken.
constexpr size_t kAreaBytes = size_t{1} << 30;
// Two areas.
constexpr size_t kDirectionBytes = 2 * kAreaBytes;
// How long a side looks for a message before it sleeps, from which it takes tens of microseconds to
// wake. Between steps that is what a worker waits.
constexpr std::chrono::microseconds kSpin{200};

Error SystemError(const std::string& what) {
  return {ErrorCode::kInternal, what + ": " + std::system_category().message(errno)};
}

Error Gone() {
  return {ErrorCode::kUnavailable, "the other process is gone"};
}

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) close(number_);
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(number_, other.number_);
  return *this;
}

WorkerChannel::WorkerChannel(ChannelEnd& worker) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
    throw SystemError("cannot make a socket for the worker process");
  }
  socket_ = Descriptor(sockets[0]);
  worker.socket = Descriptor(sockets[1]);
  worker.memory = Descriptor(memfd_create("sluice-plans", MFD_CLOEXEC));
  if (worker.memory.number() < 0 || ftruncate(worker.memory.number(), 2 * kDirectionBytes) != 0) {
    throw SystemError("cannot make memory to share with the worker process");
  }
  Map(worker.memory);
  const std::span<std::byte> all(mapped_.get(), 2 * kDirectionBytes);
  outbox_ = all.first(kDirectionBytes);
  inbox_ = all.last(kDirectionBytes);
}

WorkerChannel::WorkerChannel(int socket, int memory) : socket_(socket) {
  Map(Descriptor(memory));
  const std::span<std::byte> all(mapped_.get(), 2 * kDirectionBytes);
  inbox_ = all.first(kDirectionBytes);
  outbox_ = all.last(kDirectionBytes);
}

void WorkerChannel::Unmap::operator()(std::byte* memory) const {
  munmap(memory, 2 * kDirectionBytes);
}

void WorkerChannel::Map(const Descriptor& memory) {
  void* mapped = mmap(nullptr, 2 * kDirectionBytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_NORESERVE, memory.number(), 0);
  if (mapped == MAP_FAILED) throw SystemError("cannot map memory shared with the other process");
  mapped_.reset(static_cast<std::byte*>(mapped));
}

void WorkerChannel::Ring(size_t bytes) const {
  const uint64_t size = bytes;
  ssize_t sent = 0;
  do {
    sent = send(socket_.number(), &size, sizeof(size), MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent != sizeof(size)) throw Gone();
}

size_t WorkerChannel::AwaitRing() const {
  uint64_t size = 0;
  ssize_t received = 0;
  const auto sleep = std::chrono::steady_clock::now() + kSpin;
  do {
    const bool spin = std::chrono::steady_clock::now() < sleep;
    received = recv(socket_.number(), &size, sizeof(size), spin ? MSG_DONTWAIT : 0);
  } while (received < 0 && (errno == EINTR || errno == EAGAIN));
  if (received != sizeof(size)) throw Gone();
  if (size > kAreaBytes) {
    throw Error(ErrorCode::kDataLoss,
                "a message from another process is damaged: it is said to "
                "have " +
                    std::to_string(size) + " bytes");
  }
  return size;
}

std::span<const std::byte> WorkerChannel::AwaitMessage() {
  const size_t size = AwaitRing();
  return AreaOf(inbox_, received_++).first(size);
}

std::span<std::byte> WorkerChannel::AreaOf(std::span<std::byte> direction, uint64_t nth) {
  return direction.subspan(nth % 2 * kAreaBytes, kAreaBytes);
}

bool WorkerChannel::Await(std::chrono::milliseconds time) const {
  pollfd watched{.fd = socket_.number(), .events = POLLIN, .revents = 0};
  return poll(&watched, 1, static_cast<int>(time.count())) > 0;
}

bool WorkerChannel::HungUp() const {
  pollfd watched{.fd = socket_.number(), .events = POLLIN, .revents = 0};
  return poll(&watched, 1, 0) > 0 && (watched.revents & (POLLHUP | POLLERR)) != 0;
}

}  // namespace sluice
