#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "device/buffer.h"
#include "device/tensor.h"

namespace sluice {

class CudaStream;

// How the keys and values of one group of layers lie in memory. Layers of a group are alike; a
// model with draft layers or mixed attention has several groups.
struct KvGroup {
  enum class Kind {
    kHeads,   // keys and values, two tensors a layer
    kLatent,  // one row a position that all heads read, one tensor a layer
  };
  Kind kind = Kind::kHeads;
  int num_layers = 0;
  int num_kv_heads = 0;  // 1 for kLatent
  int head_dim = 0;      // elements of a head's row, or of the latent row
  DType dtype = DType::kF32;
};

struct KvLayout {
  int page_size = 16;           // positions a page
  std::vector<KvGroup> groups;  // layers are numbered through the groups in order

  int num_layers() const;
  // Bytes that one page takes over all layers and tensors.
  int64_t BytesPerPage() const;
};

// The memory of the KV pages of one device: for each layer, keys and values as
// [pages, kv_heads, page_size, head_dim], or latent rows as [pages, page_size, head_dim].
class PagePool {
 public:
  PagePool(const KvLayout& layout, int num_pages, MemoryKind memory = MemoryKind::kHost);

  const KvLayout& layout() const { return layout_; }
  int num_pages() const { return num_pages_; }
  uint64_t NumBytes() const { return memory_.size(); }
  // Of a layer of the kind; the others' are empty.
  TensorView Keys(int layer) const { return layers_[layer].keys; }
  TensorView Values(int layer) const { return layers_[layer].values; }
  TensorView Latents(int layer) const { return layers_[layer].latents; }

  // Takes all of the memory from the system, which gives a host's out as it is first written.
  void TakeMemory(ThreadPool& pool);

 private:
  struct Layer {
    TensorView keys;
    TensorView values;
    TensorView latents;
  };

  KvLayout layout_;
  int num_pages_;
  Buffer memory_;
  std::vector<Layer> layers_;
};

// Copies a page's keys and values, or latent rows, of all layers to a page of a pool with the same
// layout. With a stream, which may be null where both are the host's, the copy is queued there.
void CopyPage(const PagePool& from, int from_page, const PagePool& to, int to_page,
              CudaStream* stream);

}  // namespace sluice
