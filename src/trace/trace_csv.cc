#include "trace/trace_csv.h"

#include <unistd.h>

#include <charconv>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "trace/router_trace.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

constexpr size_t kFlushBytes = 1 << 20;

template <class T>
void AppendNumber(std::string& text, T value) {
  char digits[32];
  const auto [end, error] = std::to_chars(digits, digits + sizeof(digits), value);
  SLUICE_CHECK(error == std::errc());
  text.append(digits, end);
}

std::string ColumnNames(int top_k) {
  std::string names = "step,sequence,position,layer";
  for (const char* column : {",expert_", ",weight_"}) {
    for (int k = 0; k < top_k; ++k) names.append(column).append(std::to_string(k));
  }
  return names;
}

void AppendLine(std::string& text, const RouterRecord& record) {
  AppendNumber(text, record.step);
  AppendNumber(text += ',', record.sequence);
  AppendNumber(text += ',', record.position);
  AppendNumber(text += ',', record.layer);
  for (const uint16_t expert : record.experts) AppendNumber(text += ',', expert);
  for (const float weight : record.weights) AppendNumber(text += ',', weight);
  text += '\n';
}

// Takes the lines of a file one by one and says which one is wrong.
class CsvReader {
 public:
  explicit CsvReader(const fs::path& path) : name_(path.string()), file_(path, std::ios::binary) {
    std::error_code ignored;
    if (!file_ || fs::is_directory(path, ignored)) {
      throw Error(
          ErrorCode::kNotFound,
          name_ + ": cannot be read; expected a trace as CSV, as 'trace convert' writes it");
    }
  }

  bool NextLine() {
    if (!std::getline(file_, line_)) return false;
    if (line_.ends_with('\r')) line_.pop_back();
    rest_ = line_;
    ++number_;
    return true;
  }
  const std::string& line() const { return line_; }

  // Reads the next field of the line.
  template <class T>
  T Take(const char* what) {
    const size_t comma = rest_.find(',');
    const std::string_view field = rest_.substr(0, comma);
    rest_ = comma == std::string_view::npos ? std::string_view() : rest_.substr(comma + 1);
    T value{};
    const char* end = field.data() + field.size();
    const auto [stop, error] = std::from_chars(field.data(), end, value);
    if (error != std::errc() || stop != end) {
      Fail("has \"" + std::string(field) + "\" where " + what + " is expected");
    }
    return value;
  }
  bool AtEnd() const { return rest_.empty(); }

  [[noreturn]] void Fail(const std::string& what) const {
    throw Error(ErrorCode::kDataLoss, name_ + ": line " + std::to_string(number_) + " " + what);
  }

 private:
  std::string name_;
  std::ifstream file_;
  std::string line_;
  std::string_view rest_;
  uint64_t number_ = 0;
};

RouterTraceHeader ReadHeader(CsvReader& csv) {
  if (!csv.NextLine() || !csv.line().starts_with("# ")) {
    csv.Fail("is not the header '# {\"model\": ..., \"layers\": ...}'");
  }
  RouterTraceHeader header;
  try {
    header = ParseTraceHeader(std::string_view(csv.line()).substr(2));
  } catch (const Error& error) {
    csv.Fail(std::string("has no usable header: ") + error.what());
  }
  if (!csv.NextLine() || csv.line() != ColumnNames(header.top_k)) {
    csv.Fail("is not the names of the columns: " + ColumnNames(header.top_k));
  }
  return header;
}

void ReadRecord(CsvReader& csv, const RouterTraceHeader& header, RouterRecord& record) {
  record.step = csv.Take<uint64_t>("a step");
  record.sequence = csv.Take<uint64_t>("a sequence");
  record.position = csv.Take<int32_t>("a position");
  record.layer = csv.Take<int32_t>("a layer");
  if (record.position < 0 || record.layer < 0 || record.layer >= header.num_layers) {
    csv.Fail("names layer " + std::to_string(record.layer) + " and position " +
             std::to_string(record.position) + " of " + std::to_string(header.num_layers) +
             " layers");
  }
  for (uint16_t& expert : record.experts) {
    expert = csv.Take<uint16_t>("an expert");
    if (expert >= header.num_experts) {
      csv.Fail("names expert " + std::to_string(expert) + " of " +
               std::to_string(header.num_experts));
    }
  }
  for (float& weight : record.weights) weight = csv.Take<float>("a weight");
  if (!csv.AtEnd()) csv.Fail("has more fields than its columns");
}

}  // namespace

void TraceToCsv(const fs::path& trace, const fs::path& csv) {
  RouterTraceReader reader(trace);
  fs::path temporary = csv;
  temporary += ".partial." + std::to_string(getpid());
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  if (!file) {
    throw Error(ErrorCode::kInvalidArgument,
                csv.string() + ": cannot be written; is its folder there and writable?");
  }
  std::string text = "# " + TraceHeaderJson(reader.header()) + "\n";
  text += ColumnNames(reader.header().top_k) + "\n";
  RouterRecord record;
  std::error_code error;
  try {
    while (reader.Next(record)) {
      AppendLine(text, record);
      if (text.size() < kFlushBytes) continue;
      file.write(text.data(), static_cast<std::streamsize>(text.size()));
      text.clear();
    }
  } catch (const Error&) {
    fs::remove(temporary, error);
    throw;
  }
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  if (file) fs::rename(temporary, csv, error);
  if (file && !error) return;
  fs::remove(temporary, error);
  throw Error(ErrorCode::kResourceExhausted,
              csv.string() + ": could not be written whole; is the disk full?");
}

void CsvToTrace(const fs::path& csv, const fs::path& trace) {
  CsvReader reader(csv);
  const RouterTraceHeader header = ReadHeader(reader);
  RouterTraceWriter writer(trace, header);
  constexpr size_t kRecordsAtOnce = 4096;
  std::vector<RouterRecord> records(kRecordsAtOnce);
  for (RouterRecord& record : records) {
    record.experts.resize(static_cast<size_t>(header.top_k));
    record.weights.resize(static_cast<size_t>(header.top_k));
  }
  size_t count = 0;
  while (reader.NextLine()) {
    ReadRecord(reader, header, records[count]);
    if (++count < kRecordsAtOnce) continue;
    writer.Append(records);
    count = 0;
  }
  writer.Append(std::span(records).first(count));
  writer.Close();
}

}  // namespace sluice
