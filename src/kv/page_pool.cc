#include "kv/page_pool.h"

#include <cstring>

#include "base/check.h"
#include "device/cuda_stream.h"

namespace sluice {

namespace {

constexpr int64_t kAlignment = 64;  // a cache line, and any vector load

int64_t RoundUp(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Tensors of one layer.
int TensorCount(const KvGroup& group) {
  return group.kind == KvGroup::Kind::kLatent ? 1 : 2;
}

Shape TensorShape(const KvLayout& layout, const KvGroup& group, int64_t num_pages) {
  if (group.kind == KvGroup::Kind::kLatent) {
    SLUICE_CHECK_EQ(group.num_kv_heads, 1);
    return {num_pages, layout.page_size, group.head_dim};
  }
  return {num_pages, group.num_kv_heads, layout.page_size, group.head_dim};
}

int64_t TensorBytes(const KvLayout& layout, const KvGroup& group, int64_t num_pages) {
  return TensorShape(layout, group, num_pages).NumElements() *
         static_cast<int64_t>(SizeOf(group.dtype));
}

void CopyPageOf(TensorView from, int from_page, TensorView to, int to_page, CudaStream* stream) {
  if (from.raw() == nullptr) return;  // the layer is of another kind
  const TensorView source = from.Slice(from_page, from_page + 1);
  const TensorView target = to.Slice(to_page, to_page + 1);
  SLUICE_CHECK_EQ(source.NumBytes(), target.NumBytes());
  const auto bytes = static_cast<size_t>(source.NumBytes());
  if (stream == nullptr) {
    std::memcpy(target.raw(), source.raw(), bytes);
  } else {
    stream->Copy(target.raw(), source.raw(), bytes);
  }
}

}  // namespace

int KvLayout::num_layers() const {
  int layers = 0;
  for (const KvGroup& group : groups) layers += group.num_layers;
  return layers;
}

int64_t KvLayout::BytesPerPage() const {
  int64_t bytes = 0;
  for (const KvGroup& group : groups) {
    bytes += TensorCount(group) * group.num_layers * TensorBytes(*this, group, 1);
  }
  return bytes;
}

PagePool::PagePool(const KvLayout& layout, int num_pages, MemoryKind memory)
    : layout_(layout), num_pages_(num_pages) {
  SLUICE_CHECK_GT(layout.page_size, 0);
  SLUICE_CHECK_GT(num_pages, 0);
  int64_t total = 0;
  for (const KvGroup& group : layout.groups) {
    total += TensorCount(group) * group.num_layers * RoundUp(TensorBytes(layout, group, num_pages));
  }
  memory_ = Buffer(static_cast<size_t>(total), memory);
  std::byte* next = memory_.data();
  for (const KvGroup& group : layout.groups) {
    const Shape shape = TensorShape(layout, group, num_pages);
    const int64_t bytes = RoundUp(TensorBytes(layout, group, num_pages));
    for (int layer = 0; layer < group.num_layers; ++layer) {
      if (group.kind == KvGroup::Kind::kLatent) {
        layers_.push_back({.keys = {}, .values = {}, .latents = {next, group.dtype, shape}});
      } else {
        layers_.push_back({.keys = {next, group.dtype, shape},
                           .values = {next + bytes, group.dtype, shape},
                           .latents = {}});
      }
      next += TensorCount(group) * bytes;
    }
  }
}

void PagePool::TakeMemory(ThreadPool& pool) {
  constexpr int64_t kPiece = 2 << 20;  // a huge page
  if (memory_.kind() != MemoryKind::kHost) return;
  const auto bytes = static_cast<int64_t>(memory_.size());
  pool.ParallelFor(bytes, kPiece, [&](int64_t begin, int64_t end, int) {
    std::memset(memory_.data() + begin, 0, static_cast<size_t>(end - begin));
  });
}

void CopyPage(const PagePool& from, int from_page, const PagePool& to, int to_page,
              CudaStream* stream) {
  SLUICE_CHECK_EQ(from.layout().num_layers(), to.layout().num_layers());
  SLUICE_CHECK(from_page >= 0 && from_page < from.num_pages());
  SLUICE_CHECK(to_page >= 0 && to_page < to.num_pages());
  for (int layer = 0; layer < from.layout().num_layers(); ++layer) {
    CopyPageOf(from.Keys(layer), from_page, to.Keys(layer), to_page, stream);
    CopyPageOf(from.Values(layer), from_page, to.Values(layer), to_page, stream);
    CopyPageOf(from.Latents(layer), from_page, to.Latents(layer), to_page, stream);
  }
}

}  // namespace sluice
