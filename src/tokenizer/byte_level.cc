#include "tokenizer/byte_level.h"

#include <array>
#include <cstdint>

#include "tokenizer/utf8.h"

namespace sluice {
namespace {

// The last symbol is U+0143: 256 + 68 - 1.
constexpr char32_t kSymbolEnd = 0x144;

struct SymbolTable {
  std::array<char32_t, 256> symbol_of_byte;
  std::array<int16_t, kSymbolEnd> byte_of_symbol;
};

constexpr SymbolTable MakeSymbolTable() {
  SymbolTable table{};
  table.byte_of_symbol.fill(-1);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                           (byte >= 0xAE && byte <= 0xFF);
    const char32_t symbol = printable ? static_cast<char32_t>(byte) : next++;
    table.symbol_of_byte[byte] = symbol;
    table.byte_of_symbol[symbol] = static_cast<int16_t>(byte);
  }
  return table;
}

constexpr SymbolTable kSymbols = MakeSymbolTable();

}  // namespace

std::string ByteLevelSymbol(unsigned char byte) {
  std::string symbol;
  AppendUtf8(kSymbols.symbol_of_byte[byte], &symbol);
  return symbol;
}

std::optional<std::string> BytesOfSymbols(std::string_view content) {
  std::string bytes;
  for (size_t i = 0; i < content.size();) {
    const char32_t symbol = NextCodePoint(content, &i);
    if (symbol >= kSymbolEnd || kSymbols.byte_of_symbol[symbol] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kSymbols.byte_of_symbol[symbol]));
  }
  return bytes;
}

std::string ByteLevelTokenText(std::string_view content) {
  if (auto bytes = BytesOfSymbols(content)) return *std::move(bytes);
  return std::string(content);
}

}  // namespace sluice
