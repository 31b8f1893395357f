#include <barrier>
#include <cstring>

#include "base/check.h"
#include "dist/process_group.h"

namespace sluice {
namespace {

// What each rank shows the others during a collective; read between two barriers.
struct Board {
  explicit Board(int size) : barrier(size), posts(size) {}

  struct Post {
    const std::byte* data = nullptr;
    std::vector<int64_t> numbers;  // counts, or offsets into data
  };
  std::barrier<> barrier;
  std::vector<Post> posts;
};

class InProcessGroup : public ProcessGroup {
 public:
  InProcessGroup(std::shared_ptr<Board> board, int rank) : board_(std::move(board)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(board_->posts.size()); }

  std::vector<int64_t> ExchangeCounts(std::span<const int64_t> counts) override {
    SLUICE_CHECK_EQ(static_cast<int>(counts.size()), size());
    Publish({.numbers = {counts.begin(), counts.end()}});
    std::vector<int64_t> received(size());
    for (int r = 0; r < size(); ++r) received[r] = board_->posts[r].numbers[rank_];
    board_->barrier.arrive_and_wait();
    return received;
  }

  void AllToAll(std::span<const std::byte> send, std::span<const int64_t> send_offsets,
                std::span<std::byte> recv, std::span<const int64_t> recv_offsets) override {
    SLUICE_CHECK_EQ(static_cast<int>(send_offsets.size()), size() + 1);
    SLUICE_CHECK_EQ(static_cast<int>(recv_offsets.size()), size() + 1);
    SLUICE_CHECK_LE(send_offsets.back(), static_cast<int64_t>(send.size()));
    SLUICE_CHECK_LE(recv_offsets.back(), static_cast<int64_t>(recv.size()));
    Publish({.data = send.data(), .numbers = {send_offsets.begin(), send_offsets.end()}});
    for (int r = 0; r < size(); ++r) {
      const Board::Post& post = board_->posts[r];
      const int64_t bytes = post.numbers[rank_ + 1] - post.numbers[rank_];
      SLUICE_CHECK_EQ(bytes, recv_offsets[r + 1] - recv_offsets[r]);
      if (bytes > 0) {
        std::memcpy(recv.data() + recv_offsets[r], post.data + post.numbers[rank_], bytes);
      }
    }
    board_->barrier.arrive_and_wait();  // nobody's send buffer is read past this point
  }

 private:
  void Publish(Board::Post post) {
    board_->posts[rank_] = std::move(post);
    board_->barrier.arrive_and_wait();
  }

  std::shared_ptr<Board> board_;
  int rank_;
};

}  // namespace

std::vector<std::unique_ptr<ProcessGroup>> MakeInProcessGroup(int size) {
  SLUICE_CHECK_GE(size, 1);
  auto board = std::make_shared<Board>(size);
  std::vector<std::unique_ptr<ProcessGroup>> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(std::make_unique<InProcessGroup>(board, r));
  return ranks;
}

}  // namespace sluice
