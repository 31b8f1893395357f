#include "study/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "base/error.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMostOutput = size_t{64} << 20;
constexpr size_t kMostDiagnostics = 16 << 10;

[[noreturn]] void Fail(const char* what) {
  throw Error(ErrorCode::kInternal, std::string("cannot ") + what + ": " + std::strerror(errno));
}

struct Pipe {
  Pipe() {
    if (pipe2(ends.data(), O_CLOEXEC) != 0) Fail("make a pipe");
  }
  ~Pipe() {
    CloseEnd(0);
    CloseEnd(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void CloseEnd(int end) {
    if (ends[end] >= 0) close(ends[end]);
    ends[end] = -1;
  }
  std::array<int, 2> ends{-1, -1};
};

// The child's side of fork: only calls that are safe there.
[[noreturn]] void Become(const std::string& program, char* const* arguments, pid_t parent,
                         const Pipe& out, const Pipe& err) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int none = open("/dev/null", O_RDONLY);
  const bool ready = getppid() == parent && none >= 0 && dup2(none, STDIN_FILENO) >= 0 &&
                     dup2(out.ends[1], STDOUT_FILENO) >= 0 && dup2(err.ends[1], STDERR_FILENO) >= 0;
  if (ready) execv(program.c_str(), arguments);
  _exit(127);
}

// Moves what can be read to the end of `text`; whether more may come.
bool Drain(int fd, std::string& text) {
  std::array<char, 64 << 10> buffer;
  const ssize_t got = read(fd, buffer.data(), buffer.size());
  if (got > 0) text.append(buffer.data(), got);
  return got > 0 || (got < 0 && errno == EINTR);
}

// Reads both pipes until both end, killing the child past its time or its bound.
void Collect(pid_t child, const Pipe& out, const Pipe& err, Clock::time_point deadline,
             ChildResult& result) {
  std::array<pollfd, 2> polled{pollfd{.fd = out.ends[0], .events = POLLIN, .revents = 0},
                               pollfd{.fd = err.ends[0], .events = POLLIN, .revents = 0}};
  while (polled[0].fd >= 0 || polled[1].fd >= 0) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) result.timed_out = true;
    if (result.output.size() > kMostOutput) result.too_long = true;
    if (result.timed_out || result.too_long) {
      kill(child, SIGKILL);
      return;
    }
    const int wait = static_cast<int>(std::min<int64_t>(left.count(), 60'000));
    if (poll(polled.data(), polled.size(), wait) < 0 && errno != EINTR) Fail("wait for a run");
    if (polled[0].revents != 0 && !Drain(polled[0].fd, result.output)) polled[0].fd = -1;
    if (polled[1].revents != 0 && !Drain(polled[1].fd, result.diagnostics)) polled[1].fd = -1;
    if (result.diagnostics.size() > 2 * kMostDiagnostics) {
      result.diagnostics.erase(0, result.diagnostics.size() - kMostDiagnostics);
    }
  }
}

}  // namespace

ChildResult RunChild(const std::string& program, const std::vector<std::string>& arguments,
                     double timeout_s) {
  Pipe out;
  Pipe err;
  std::vector<std::string> owned = {program};
  owned.insert(owned.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& argument : owned) pointers.push_back(argument.data());
  pointers.push_back(nullptr);

  const Clock::time_point start = Clock::now();
  const auto timeout =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(timeout_s));
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) Fail("start a process");
  if (child == 0) Become(program, pointers.data(), parent, out, err);
  out.CloseEnd(1);
  err.CloseEnd(1);
  ChildResult result;
  Collect(child, out, err, start + timeout, result);
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) Fail("wait for a run");
  }
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  return result;
}

}  // namespace sluice
