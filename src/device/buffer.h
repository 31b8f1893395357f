#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "device/tensor.h"

namespace sluice {

// Whose memory a buffer is, and who can read it.
enum class MemoryKind : uint8_t {
  kHost,    // this process's; large buffers ask for huge pages
  kPinned,  // this process's, locked: the current CUDA device reads it too, and copies run beside
            // kernels
  kCuda,    // of the current CUDA device (cuda_stream.h); the host must not touch it
};

// Owned memory, aligned for any vector load (64 bytes; 256 on a device). Contents are undefined
// until written. Throws Error(kResourceExhausted) when there is no memory.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes, MemoryKind kind = MemoryKind::kHost);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  MemoryKind kind() const { return kind_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  MemoryKind kind_ = MemoryKind::kHost;
};

// A buffer with a dtype and shape: for code that owns one tensor.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, const Shape& shape, MemoryKind kind = MemoryKind::kHost)
      : buffer_(static_cast<size_t>(shape.NumElements()) * SizeOf(dtype), kind),
        view_(buffer_.data(), dtype, shape) {}

  const TensorView& view() const { return view_; }
  operator TensorView() const { return view_; }       // NOLINT(google-explicit-constructor)
  operator ConstTensorView() const { return view_; }  // NOLINT(google-explicit-constructor)
  template <class T>
  T* data() const {
    return view_.data<T>();
  }
  const Shape& shape() const { return view_.shape(); }

 private:
  Buffer buffer_;
  TensorView view_;
};

// A bump allocator for the scratch tensors of a step. Memory comes in blocks that are kept and used
// again; an Arena::Scope gives back what was taken inside it. Not thread-safe: one thread
// allocates.
class Arena {
 public:
  explicit Arena(MemoryKind kind = MemoryKind::kHost) : kind_(kind) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // An uninitialised tensor, aligned to 256 bytes, that lives until the enclosing Scope ends.
  TensorView Allocate(DType dtype, const Shape& shape);

  // Takes a first block of so many bytes, of an arena that holds none yet.
  void Reserve(size_t bytes);

  // Bytes held in blocks, used or not, and the most that were ever used of them.
  size_t CapacityBytes() const;
  size_t PeakBytes() const { return peak_; }

  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), block_(arena.block_), used_(arena.used_) {}
    ~Scope() {
      arena_.block_ = block_;
      arena_.used_ = used_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    size_t block_;
    size_t used_;
  };

 private:
  MemoryKind kind_;
  std::vector<Buffer> blocks_;
  size_t block_ = 0;  // index of the block being filled
  size_t used_ = 0;   // bytes used of it
  size_t peak_ = 0;   // of the blocks before it and of it
};

}  // namespace sluice
