#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

namespace sluice {

using PageId = int32_t;

// The pages of one text, in the order of its positions; no shares in them (PageList has those).
// Copies have their ids in common until one of them changes: each step's plan takes a copy of every
// sequence's table, of which most change after page_size steps only. Copies of one table are for
// one thread.
class BlockTable {
 public:
  using value_type = PageId;
  using const_iterator = const PageId*;

  BlockTable() = default;
  BlockTable(std::initializer_list<PageId> ids) : BlockTable(std::vector<PageId>(ids)) {}
  explicit BlockTable(std::vector<PageId> ids)
      : ids_(std::make_shared<std::vector<PageId>>(std::move(ids))) {}

  size_t size() const { return ids_ ? ids_->size() : 0; }
  bool empty() const { return size() == 0; }
  const PageId* begin() const { return ids_ ? ids_->data() : nullptr; }
  const PageId* end() const { return begin() + size(); }
  PageId operator[](size_t nth) const { return (*ids_)[nth]; }
  PageId at(size_t nth) const { return Ids().at(nth); }
  PageId back() const { return ids_->back(); }
  bool operator==(const BlockTable& other) const { return Ids() == other.Ids(); }

  void push_back(PageId id) { Own().push_back(id); }
  void pop_back() { Own().pop_back(); }
  void Replace(size_t nth, PageId id) { Own()[nth] = id; }

  // For another process (base/wire.h).
  friend auto Fields(BlockTable& table) { return std::tie(table.ids_); }

 private:
  const std::vector<PageId>& Ids() const {
    static const std::vector<PageId> kEmpty;
    return ids_ ? *ids_ : kEmpty;
  }

  // The ids, which no other table has.
  std::vector<PageId>& Own() {
    if (!ids_) {
      ids_ = std::make_shared<std::vector<PageId>>();
    } else if (ids_.use_count() > 1) {
      auto own = std::make_shared<std::vector<PageId>>();
      own->reserve(ids_->size() + 1);
      own->assign(ids_->begin(), ids_->end());
      ids_ = std::move(own);
    }
    return *ids_;
  }

  std::shared_ptr<std::vector<PageId>> ids_;  // null: none
};

}  // namespace sluice
