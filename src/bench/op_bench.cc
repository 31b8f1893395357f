#include "bench/op_bench.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "bench/timing.h"
#include "quant/float_formats.h"
#include "sampling/random.h"

namespace sluice {
namespace {

// Data that calls take in turn: more than caches hold.
constexpr int64_t kTurnBytes = int64_t{256} << 20;
constexpr int64_t kMostTurns = 200;
constexpr int64_t kPatternValues = int64_t{1} << 22;
constexpr int64_t kSeed = 1;

MemoryKind MemoryOf(const RunnerOptions& options) {
  return options.cuda.has_value() ? MemoryKind::kCuda : MemoryKind::kHost;
}

// [kPatternValues] of the dtype, on the host.
Tensor RandomPattern(DType dtype, ThreadPool& pool) {
  const Tensor floats(DType::kF32, {kPatternValues});
  pool.ParallelFor(kPatternValues, 1 << 14, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      floats.data<float>()[i] = static_cast<float>(UniformAt(kSeed, i, 0) - 0.5) / 4.0f;
    }
  });
  Tensor pattern(dtype, {kPatternValues});
  ConvertFloats(floats, pattern);
  return pattern;
}

}  // namespace

OpBench::OpBench(const RunnerOptions& options)
    : options_(options),
      pool_(options.num_threads),
      stream_(options.cuda ? std::make_unique<CudaStream>(*options.cuda) : nullptr),
      arena_(MemoryOf(options)),
      inbox_(stream_ == nullptr ? nullptr
                                : std::make_unique<ops::Inbox>(*stream_, ops::Inbox::Sends::kEach)),
      context_{.pool = pool_,
               .arena = arena_,
               .tier = options.tier,
               .cuda = stream_.get(),
               .inbox = inbox_.get()} {}

MemoryKind OpBench::memory() const {
  return MemoryOf(options_);
}

Tensor OpBench::Floats(DType dtype, const Shape& shape) {
  Tensor tensor(dtype, shape, memory());
  FillFloats(dtype, tensor.view().raw(), tensor.view().NumBytes());
  return tensor;
}

Tensor OpBench::Placed(ConstTensorView host) {
  Tensor placed(host.dtype(), host.shape(), memory());
  if (stream_ == nullptr) {
    std::memcpy(placed.view().raw(), host.raw(), host.NumBytes());
  } else {
    stream_->Copy(placed.view().raw(), host.raw(), host.NumBytes());
    stream_->Synchronize();
  }
  return placed;
}

void OpBench::FillFloats(DType dtype, void* target, int64_t bytes) {
  if (bytes == 0) return;
  if (pattern_.view().empty() || pattern_.view().dtype() != dtype) {
    pattern_ = RandomPattern(dtype, pool_);
  }
  auto* begin = static_cast<std::byte*>(target);
  const std::byte* pattern = static_cast<const std::byte*>(pattern_.view().raw());
  const int64_t piece = std::min(bytes, pattern_.view().NumBytes());
  if (stream_ == nullptr) {
    pool_.ParallelFor((bytes + piece - 1) / piece, 1, [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        std::memcpy(begin + i * piece, pattern, std::min(piece, bytes - i * piece));
      }
    });
    return;
  }
  stream_->Copy(begin, pattern, piece);
  // What is there is copied behind itself.
  for (int64_t done = piece; done < bytes; done *= 2) {
    stream_->Copy(begin + done, begin, std::min(done, bytes - done));
  }
  stream_->Synchronize();
}

bool OpBench::HasRoomFor(int64_t bytes) const {
  const uint64_t available = AvailableMemory(options_);
  return static_cast<uint64_t>(bytes) <= available - available / 8;
}

int64_t OpBench::Turns(int64_t bytes) {
  return std::clamp<int64_t>((kTurnBytes + bytes - 1) / std::max<int64_t>(1, bytes), 1, kMostTurns);
}

std::vector<double> OpBench::Sample(int64_t turns, const std::function<void(int64_t)>& call) {
  return SampleCalls(stream_.get(), turns, call);
}

ExpertSlab::ExpertSlab(const ExpertLayout& layout, int64_t slots, OpBench& bench)
    : layout_(layout), slab_(slots * layout.SlotBytes(), bench.memory()) {
  bench.FillFloats(layout.dtype, slab_.data(), static_cast<int64_t>(slab_.size()));
  const Tensor ids(DType::kI32, {slots});
  std::iota(ids.data<int32_t>(), ids.data<int32_t>() + slots, 0);
  slots_ = bench.Placed(ids);
}

BenchSequences::BenchSequences(int count, int queries, int context, const AttentionSpec& attention,
                               OpBench& bench)
    : queries_(queries),
      page_size_(bench.options().page_size),
      pages_each_((context + page_size_ - 1) / page_size_),
      page_ids_(static_cast<size_t>(count) * pages_each_),
      positions_(static_cast<size_t>(count) * queries) {
  std::iota(page_ids_.begin(), page_ids_.end(), 0);
  for (int s = 0; s < count; ++s) {
    const auto own = std::span(positions_).subspan(static_cast<size_t>(s) * queries, queries);
    std::iota(own.begin(), own.end(), context - queries);
    sequences_.push_back(
        {.query_begin = s * queries,
         .query_count = queries,
         .positions = own,
         .pages = std::span(page_ids_).subspan(static_cast<size_t>(s) * pages_each_, pages_each_),
         .kv_length = context,
         .mask = attention.mask,
         .slots_of_queries = own});
  }
  batch_ = ops::PlaceSequences(sequences_, bench.context());
}

std::vector<int64_t> BenchSequences::KvSlots() const {
  std::vector<int64_t> slots;
  for (size_t row = 0; row < positions_.size(); ++row) {
    const int64_t sequence = static_cast<int64_t>(row) / queries_;
    slots.push_back(sequence * pages_each_ * page_size_ + positions_[row]);
  }
  return slots;
}

PagePool RandomPages(const KvLayout& layout, int num_pages, OpBench& bench) {
  PagePool pages(layout, num_pages, bench.memory());
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    for (const TensorView& part : {pages.Keys(layer), pages.Values(layer), pages.Latents(layer)}) {
      if (!part.empty()) bench.FillFloats(part.dtype(), part.raw(), part.NumBytes());
    }
  }
  return pages;
}

}  // namespace sluice
