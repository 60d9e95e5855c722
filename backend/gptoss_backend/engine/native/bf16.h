// bfloat16, one by one, and groups of 4 bytes.

#pragma once

#include <cstdint>
#include <cstring>

namespace gptoss {

using bf16 = std::uint16_t;

inline bf16 round_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float widen(bf16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

inline float widen(float value) { return value; }

// Four bytes that go into every lane: two bfloat16 or four integers.
inline std::int32_t load_group(const void* source) {
  std::int32_t group;
  std::memcpy(&group, source, 4);
  return group;
}

}  // namespace gptoss
