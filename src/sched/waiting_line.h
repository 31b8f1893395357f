#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "request/sequence.h"

namespace sluice {

// Sequences that wait for a place in the batch, in the order in which they are to get one:
//
// 1. by priority, the lower number first;
// 2. of one priority, first those that had a place and gave it up, by their turns;
// 3. then those of the client with the fewest sequences in the batch, and among such clients of the
//    one that has gone without a turn for longest;
// 4. of one client, first come, first served.
//
// So a contended batch is shared out evenly among the clients that want it. While a client has
// nothing in the batch, no other gets more than one new place of that priority before it, however
// much each has queued.
//
// Whoever takes a sequence tells the line when its place is free again. Used by one thread.
class WaitingLine {
 public:
  void Add(std::unique_ptr<Sequence> sequence);
  // One that was taken gives its place up, to have another later.
  void PutBack(std::unique_ptr<Sequence> sequence);
  // One that was taken is at its end.
  void Leave(const Sequence& sequence);

  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }

  // The next to get a place. The line must not be empty.
  Sequence& First() const;
  // Takes it out. Its turn, if it is its first, is later than that of any sequence before.
  std::unique_ptr<Sequence> TakeFirst();

  using Predicate = std::function<bool(const Sequence&)>;
  std::vector<std::unique_ptr<Sequence>> TakeWhere(const Predicate& matches);

  // First those that were put back, then the others, client by client.
  void ForEach(const std::function<void(Sequence&)>& function) const;

 private:
  struct Client {
    int in_batch = 0;
    uint64_t turn = 0;  // its last, or when it came
    // By priority and arrival.
    std::map<std::pair<int, SequenceId>, std::unique_ptr<Sequence>> waiting;
  };
  using Clients =
      std::unordered_map<std::string, Client>;  // with something waiting or in the batch
  // Priority of the first that waits, sequences in the batch, turn: the clients' order.
  using Place = std::tuple<int, int, uint64_t, Client*>;

  Client& ClientOf(const Sequence& sequence);
  static Place PlaceOf(Client& client);
  // Around every change of a client.
  void Unlink(Client& client);
  void Link(const Sequence& sequence, Client& client);
  bool PutBackIsFirst() const;

  Clients clients_;
  std::set<Place> order_;  // of the clients with something waiting
  std::map<std::pair<int, uint64_t>, std::unique_ptr<Sequence>> put_back_;  // by priority and turn
  uint64_t turns_ = 0;
  size_t size_ = 0;
};

}  // namespace sluice
