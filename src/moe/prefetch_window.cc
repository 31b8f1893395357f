#include "moe/prefetch_window.h"

#include <algorithm>
#include <cmath>

namespace sluice {
namespace {

// Share of the newest measurement in the mean.
constexpr double kNewest = 0.125;
// What remains of guesses a layer later: half of it is forgotten in some seven hundred, so that
// what was not worth it is tried again.
constexpr double kRemembered = 0.999;
// Guesses that came true as often as they were expected to, before any were made.
constexpr double kGoodFaith = 1.0;

}  // namespace

void PrefetchWindow::NoteTransfers(double seconds, size_t transfers) {
  if (transfers == 0 || seconds <= 0.0) return;
  const double each = seconds / static_cast<double>(transfers);
  transfer_s_ = transfer_s_ == 0.0 ? each : transfer_s_ + kNewest * (each - transfer_s_);
}

void PrefetchWindow::NoteWindow(int layer, double seconds) {
  Window& window = windows_[static_cast<size_t>(layer)];
  window.before_s = window.last_s;
  window.last_s = std::max(seconds, 0.0);
}

void PrefetchWindow::NoteGuesses(double expected, size_t needed) {
  expected_ = kRemembered * expected_ + expected;
  needed_ = kRemembered * needed_ + static_cast<double>(needed);
}

double PrefetchWindow::Trust() const {
  return std::min(1.0, (needed_ + kGoodFaith) / (expected_ + kGoodFaith));
}

double PrefetchWindow::Transfers(int layer) const {
  const Window& window = windows_[static_cast<size_t>(layer)];
  if (window.before_s < 0.0 || transfer_s_ == 0.0) return 1.0;
  // The shorter one: where a server had nothing to do, a window was long for once.
  return std::min(window.last_s, window.before_s) / transfer_s_;
}

bool PrefetchWindow::Worth(int layer, size_t k, double p) const {
  const double within = std::clamp(Transfers(layer) - static_cast<double>(k), 0.0, 1.0);
  return p * Trust() + within > 1.0;
}

double PrefetchWindow::ChanceOfUse(double expected_tokens) {
  return -std::expm1(-expected_tokens);
}

}  // namespace sluice
