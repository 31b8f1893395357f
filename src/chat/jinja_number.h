#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace sluice::jinja {

// Python's int(text, base) and float(text); nothing for what they refuse. Throws
// Error(kUnsupported) for integers over 64 bits.
std::optional<int64_t> IntegerOf(std::string_view text, int base);
std::optional<double> FloatOf(std::string_view text);

// int(number). Throws Error(kInvalidArgument) for what is not finite and Error(kUnsupported) for
// over 64 bits.
int64_t TruncateFloat(double number);

}  // namespace sluice::jinja
