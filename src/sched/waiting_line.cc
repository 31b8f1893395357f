#include "sched/waiting_line.h"

#include "base/check.h"

namespace sluice {

void WaitingLine::Add(std::unique_ptr<Sequence> sequence) {
  Client& client = ClientOf(*sequence);
  const Sequence& added = *sequence;
  Unlink(client);
  client.waiting.emplace(std::pair(added.priority, added.id), std::move(sequence));
  ++size_;
  Link(added, client);
}

void WaitingLine::PutBack(std::unique_ptr<Sequence> sequence) {
  Leave(*sequence);
  const std::pair key(sequence->priority, sequence->turn);
  put_back_.emplace(key, std::move(sequence));
  ++size_;
}

void WaitingLine::Leave(const Sequence& sequence) {
  Client& client = ClientOf(sequence);
  Unlink(client);
  SLUICE_CHECK_GE(--client.in_batch, 0);
  Link(sequence, client);
}

bool WaitingLine::PutBackIsFirst() const {
  if (put_back_.empty() || order_.empty()) return order_.empty();
  const int priority_of_others = std::get<0>(*order_.begin());
  return put_back_.begin()->first.first <= priority_of_others;
}

Sequence& WaitingLine::First() const {
  SLUICE_CHECK(!empty());
  if (PutBackIsFirst()) return *put_back_.begin()->second;
  return *std::get<Client*>(*order_.begin())->waiting.begin()->second;
}

std::unique_ptr<Sequence> WaitingLine::TakeFirst() {
  SLUICE_CHECK(!empty());
  --size_;
  if (PutBackIsFirst()) {
    std::unique_ptr<Sequence> sequence = std::move(put_back_.extract(put_back_.begin()).mapped());
    Client& client = ClientOf(*sequence);
    Unlink(client);
    ++client.in_batch;
    Link(*sequence, client);
    return sequence;
  }
  Client& client = *std::get<Client*>(*order_.begin());
  Unlink(client);
  std::unique_ptr<Sequence> sequence =
      std::move(client.waiting.extract(client.waiting.begin()).mapped());
  ++client.in_batch;
  client.turn = sequence->turn = ++turns_;
  Link(*sequence, client);
  return sequence;
}

std::vector<std::unique_ptr<Sequence>> WaitingLine::TakeWhere(const Predicate& matches) {
  std::vector<std::unique_ptr<Sequence>> taken;
  const auto take = [&](auto& sequences) {
    for (auto it = sequences.begin(); it != sequences.end();) {
      const auto entry = it++;
      if (matches(*entry->second)) taken.push_back(std::move(sequences.extract(entry).mapped()));
    }
  };
  take(put_back_);
  order_.clear();
  for (auto& [name, client] : clients_) {
    take(client.waiting);
    if (!client.waiting.empty()) order_.insert(PlaceOf(client));
  }
  std::erase_if(clients_, [](const auto& entry) {
    return entry.second.waiting.empty() && entry.second.in_batch == 0;
  });
  size_ -= taken.size();
  return taken;
}

void WaitingLine::ForEach(const std::function<void(Sequence&)>& function) const {
  for (const auto& [key, sequence] : put_back_) function(*sequence);
  for (const Place& place : order_) {
    for (const auto& [key, sequence] : std::get<Client*>(place)->waiting) function(*sequence);
  }
}

WaitingLine::Client& WaitingLine::ClientOf(const Sequence& sequence) {
  const auto [it, is_new] = clients_.try_emplace(sequence.client);
  if (is_new) it->second.turn = ++turns_;
  return it->second;
}

WaitingLine::Place WaitingLine::PlaceOf(Client& client) {
  return {client.waiting.begin()->first.first, client.in_batch, client.turn, &client};
}

void WaitingLine::Unlink(Client& client) {
  if (!client.waiting.empty()) order_.erase(PlaceOf(client));
}

void WaitingLine::Link(const Sequence& sequence, Client& client) {
  if (!client.waiting.empty()) {
    order_.insert(PlaceOf(client));
  } else if (client.in_batch == 0) {
    clients_.erase(sequence.client);
  }
}

}  // namespace sluice
