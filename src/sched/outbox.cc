#include "sched/outbox.h"

#include <algorithm>

namespace sluice {

void Outbox::Put(const OutputReceiver& receiver, Output output) {
  if (receiver.executor == nullptr) return (*receiver.callback)(std::move(output));
  auto it = std::find_if(batches_.begin(), batches_.end(),
                         [&](const auto& entry) { return entry.first == receiver.executor; });
  if (it == batches_.end()) it = batches_.insert(it, {receiver.executor, {}});
  it->second.emplace_back(receiver.callback, std::move(output));
}

void Outbox::Flush() {
  for (auto& [executor, batch] : std::exchange(batches_, {})) {
    executor->Post([batch = std::make_shared<Batch>(std::move(batch))] {
      for (auto& [callback, output] : *batch) (*callback)(std::move(output));
    });
  }
}

}  // namespace sluice
