#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "base/wire.h"

namespace sluice {

// An open file descriptor's owner. Move-only.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept;

  int number() const { return number_; }

 private:
  int number_;
};

// What a child process needs of a channel: inherited, and named to it by number.
struct ChannelEnd {
  Descriptor socket;
  Descriptor memory;
};

// One end of the way between a server and its worker's process. A message is written to memory that
// both have mapped, two areas for each direction in turns, and its size goes over a socket. The
// socket wakes the other side, orders the accesses to the memory, and ends with its process, so
// there is no lock that a dead process could hold. At most two messages each way may be on their
// way, which is the users' to see to. One thread.
class WorkerChannel {
 public:
  // A server's end; `worker` gets what the child is to inherit, closed on exec unless asked for.
  explicit WorkerChannel(ChannelEnd& worker);
  // The worker's end.
  WorkerChannel(int socket, int memory);

  // Throws Error(kResourceExhausted) for a message too long to be sent, kUnavailable when the other
  // side is gone.
  template <class T>
  void Send(const T& value) {
    WireWriter writer(AreaOf(outbox_, sent_));
    writer.Write(value);
    Ring(writer.num_bytes());
    ++sent_;
  }

  // Waits for the other side's message, and reads it over `value`. Throws Error(kUnavailable) when
  // that side is gone, kDataLoss for bytes that are no T.
  template <class T>
  void Receive(T& value) {
    FromWire(AwaitMessage(), value);
  }
  template <class T>
  T Receive() {
    return FromWire<T>(AwaitMessage());
  }

  // Waits for a message or the end of the other side; false when neither came in time. With no time
  // it tells whether Receive would not wait.
  bool Await(std::chrono::milliseconds time) const;
  // Whether the other side is gone, as far as can be told while it owes nothing.
  bool HungUp() const;

 private:
  struct Unmap {
    void operator()(std::byte* memory) const;
  };
  void Map(const Descriptor& memory);
  void Ring(size_t bytes) const;
  size_t AwaitRing() const;
  std::span<const std::byte> AwaitMessage();
  // Where the nth message in a direction is written.
  static std::span<std::byte> AreaOf(std::span<std::byte> direction, uint64_t nth);

  Descriptor socket_;
  std::unique_ptr<std::byte, Unmap> mapped_;
  std::span<std::byte> outbox_;
  std::span<std::byte> inbox_;
  uint64_t sent_ = 0;  // messages
  uint64_t received_ = 0;
};

}  // namespace sluice
