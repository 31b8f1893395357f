#pragma once

#include <cstdint>
#include <vector>

#include "device/buffer.h"
#include "device/tensor.h"

namespace sluice {

// How the keys and values of one group of layers lie in memory. Layers of a group are alike; a
// model with draft layers or mixed attention has several groups.
struct KvGroup {
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  DType dtype = DType::kF32;
};

struct KvLayout {
  int page_size = 16;           // positions a page
  std::vector<KvGroup> groups;  // layers are numbered through the groups in order

  int num_layers() const;
  // Bytes that one page takes over all layers, keys and values.
  int64_t BytesPerPage() const;
};

// The memory of the KV pages of one device: for each layer, keys and values as
// [pages, kv_heads, page_size, head_dim].
class PagePool {
 public:
  PagePool(const KvLayout& layout, int num_pages);

  const KvLayout& layout() const { return layout_; }
  int num_pages() const { return num_pages_; }
  TensorView Keys(int layer) const { return keys_[layer]; }
  TensorView Values(int layer) const { return values_[layer]; }

 private:
  KvLayout layout_;
  int num_pages_;
  Buffer memory_;
  std::vector<TensorView> keys_;
  std::vector<TensorView> values_;
};

}  // namespace sluice
