#include "engine/verify.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numeric>
#include <string>

#include "base/check.h"
#include "checkpoint/checkpoint.h"

namespace sluice {
namespace {

// Rows of a text window that run in one step: bounds the scratch memory of long windows.
constexpr int kScoreChunk = 512;

std::vector<std::byte> ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || !std::filesystem::is_regular_file(path)) {
    throw Error(ErrorCode::kNotFound,
                "cannot open the golden file '" + path.string() + "': name one with --golden");
  }
  std::vector<std::byte> bytes(std::filesystem::file_size(path));
  file.read(reinterpret_cast<char*>(bytes.data()), std::ssize(bytes));
  return bytes;
}

ConstTensorView GoldenTensor(const Checkpoint& file, const std::string& name, DType dtype,
                             int rank) {
  const ConstTensorView view = file.Get(name);
  if (view.dtype() != dtype || view.rank() != rank) {
    throw Error(ErrorCode::kDataLoss, "golden tensor '" + name + "' should be " +
                                          std::string(DTypeName(dtype)) + " of rank " +
                                          std::to_string(rank) + ", not " + view.ToString());
  }
  return view;
}

template <class T>
std::vector<T> Copy(ConstTensorView view) {
  std::vector<T> values(view.NumElements());
  std::memcpy(values.data(), view.raw(), view.NumBytes());
  return values;
}

void WantAllRows(SequenceSlice& slice) {
  slice.sample_rows.resize(slice.tokens.size());
  std::iota(slice.sample_rows.begin(), slice.sample_rows.end(), 0);
}

double LogSumExp(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum);
}

double RowKl(std::span<const float> reference, std::span<const float> logits) {
  const double reference_norm = LogSumExp(reference);
  const double norm = LogSumExp(logits);
  double kl = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double log_p = reference[i] - reference_norm;
    kl += std::exp(log_p) * (log_p - (logits[i] - norm));
  }
  return kl;
}

}  // namespace

Golden LoadGolden(const std::filesystem::path& file) {
  const std::vector<std::byte> bytes = ReadFile(file);
  const std::unique_ptr<Checkpoint> opened = Checkpoint::FromMemory(bytes, file.string());
  const ConstTensorView ids = GoldenTensor(*opened, "input_ids", DType::kI32, 2);
  const ConstTensorView logits = GoldenTensor(*opened, "logits", DType::kF32, 3);
  if (ids.NumElements() == 0 || logits.dim(0) != ids.dim(0) || logits.dim(1) != ids.dim(1)) {
    throw Error(ErrorCode::kDataLoss, "golden logits " + logits.ToString() +
                                          " do not belong to input_ids " + ids.ToString());
  }
  Golden golden{.batch = static_cast<int>(ids.dim(0)),
                .length = static_cast<int>(ids.dim(1)),
                .input_ids = Copy<TokenId>(ids),
                .logits = Copy<float>(logits),
                .vocab_size = static_cast<int>(logits.dim(2))};
  if (opened->Find("greedy_ids").has_value()) {
    golden.greedy_ids = Copy<TokenId>(GoldenTensor(*opened, "greedy_ids", DType::kI32, 1));
  }
  return golden;
}

Tensor ForwardSequences(ModelRunner& runner, std::span<const std::span<const TokenId>> sequences,
                        const ForwardOptions& options) {
  SLUICE_CHECK(!sequences.empty());
  const auto batch = static_cast<int>(sequences.size());
  const auto length = static_cast<int>(sequences[0].size());
  const int vocab = runner.spec().vocab_size;
  const int page_size = runner.options().page_size;
  const int pages_each = (length + page_size - 1) / page_size;
  SLUICE_CHECK_LE(batch * pages_each, runner.options().num_pages);
  const int chunk = options.chunk == 0 ? length : options.chunk;
  Tensor logits(DType::kF32, {batch, length, vocab});

  const auto run = [&](int first, int last) {
    for (int begin = 0; begin < length; begin += chunk) {
      StepPlan plan;
      for (int b = first; b < last; ++b) {
        plan.slices.push_back(ContiguousSlice(
            b, sequences[b], begin, std::min(begin + chunk, length), b * pages_each, page_size));
        WantAllRows(plan.slices.back());
      }
      runner.Run(plan, [&](const ModelRunner::LogitsRow& row) {
        std::memcpy(logits.view()[first + row.slice][begin + row.row].raw(), row.logits.data(),
                    row.logits.size_bytes());
      });
    }
  };
  if (options.together) {
    run(0, batch);
  } else {
    for (int b = 0; b < batch; ++b) run(b, b + 1);
  }
  return logits;
}

std::vector<TokenId> GreedyContinuation(ModelRunner& runner, std::span<const TokenId> prompt,
                                        int count) {
  std::vector<TokenId> tokens(prompt.begin(), prompt.end());
  int done = 0;
  for (int i = 0; i < count; ++i) {
    StepPlan plan;
    plan.slices.push_back(ContiguousSlice(0, tokens, done, static_cast<int>(tokens.size()), 0,
                                          runner.options().page_size));
    plan.slices[0].sample_rows = {static_cast<int32_t>(tokens.size()) - 1 - done};
    done = static_cast<int>(tokens.size());
    TokenId best = 0;
    runner.Run(plan, [&](const ModelRunner::LogitsRow& row) {
      best = static_cast<TokenId>(std::max_element(row.logits.begin(), row.logits.end()) -
                                  row.logits.begin());
    });
    tokens.push_back(best);
  }
  return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt.size()), tokens.end()};
}

LogitsDistance CompareLogits(std::span<const float> logits, std::span<const float> reference,
                             int vocab_size) {
  SLUICE_CHECK_EQ(logits.size(), reference.size());
  SLUICE_CHECK_EQ(logits.size() % vocab_size, size_t{0});
  LogitsDistance distance;
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double d = static_cast<double>(logits[i]) - reference[i];
    difference += d * d;
    norm += static_cast<double>(reference[i]) * reference[i];
    // Once NaN, it stays: no comparison with NaN holds.
    if (!std::isnan(distance.max_abs) && !(std::abs(d) <= distance.max_abs)) {
      distance.max_abs = std::abs(d);
    }
  }
  distance.relative_l2 = std::sqrt(difference / norm);
  const size_t rows = logits.size() / vocab_size;
  for (size_t r = 0; r < rows; ++r) {
    distance.mean_kl += RowKl(reference.subspan(r * vocab_size, vocab_size),
                              logits.subspan(r * vocab_size, vocab_size)) /
                        static_cast<double>(rows);
  }
  return distance;
}

double ToleranceOf(DType dtype) {
  return dtype == DType::kF32 ? 1e-5 : 3e-2;
}

TextLoss ScoreText(ModelRunner& runner, std::span<const TokenId> tokens, int window) {
  SLUICE_CHECK_GE(window, 2);
  const int page_size = runner.options().page_size;
  TextLoss loss{.tokens = std::ssize(tokens)};
  double sum = 0;
  for (size_t start = 0; start + 1 < tokens.size(); start += window) {
    const auto piece = tokens.subspan(start, std::min<size_t>(window, tokens.size() - start));
    const auto length = static_cast<int>(piece.size());
    std::vector<double> nll(length - 1);
    for (int begin = 0; begin < length - 1; begin += kScoreChunk) {
      StepPlan plan;
      plan.slices.push_back(ContiguousSlice(
          0, piece, begin, std::min(begin + kScoreChunk, length - 1), 0, page_size));
      WantAllRows(plan.slices[0]);
      runner.Run(plan, [&](const ModelRunner::LogitsRow& row) {
        const TokenId target = piece[begin + row.row + 1];
        nll[begin + row.row] = LogSumExp(row.logits) - row.logits[target];
      });
    }
    sum = std::accumulate(nll.begin(), nll.end(), sum);
    loss.predicted_tokens += length - 1;
  }
  if (loss.predicted_tokens > 0) loss.mean_nll = sum / static_cast<double>(loss.predicted_tokens);
  return loss;
}

}  // namespace sluice
