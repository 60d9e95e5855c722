// Vectors in AVX-512 with BF16 and VNNI: 16 lanes, 32 registers.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <limits>

#include "bf16.h"

namespace gptoss {

constexpr int kLanes = 16;
using Floats = __m512;
using Integers = __m512i;  // of 32 bits, or groups of 4 bytes
using Mask = __mmask16;

// --- lanes ----------------------------------------------------------------------------------------------------------

inline Floats broadcast(float value) { return _mm512_set1_ps(value); }
inline Integers broadcast(std::int32_t value) { return _mm512_set1_epi32(value); }
inline Integers lane_numbers() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
inline float first_lane(Floats values) { return _mm512_cvtss_f32(values); }

inline Floats load(const float* source) { return _mm512_loadu_ps(source); }
inline Integers load(const std::int32_t* source) { return _mm512_loadu_si512(source); }
inline Integers load_aligned(const void* source) { return _mm512_load_si512(source); }
inline Integers load_bytes(const std::uint8_t* source) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}
inline Floats load_bf16(const bf16* source) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline void store(float* target, Floats values) { _mm512_storeu_ps(target, values); }
inline void store(std::int32_t* target, Integers values) { _mm512_storeu_si512(target, values); }
inline void store_aligned(void* target, Integers values) { _mm512_store_si512(target, values); }
inline void store_lanes(float* target, Mask lanes, Floats values) { _mm512_mask_storeu_ps(target, lanes, values); }

// --- arithmetic; Floats have + - * /, Integers and masks & | ~ -----------------------------------------------------

inline Floats multiply_add(Floats a, Floats b, Floats more) { return _mm512_fmadd_ps(a, b, more); }
inline Floats subtract_product(Floats from, Floats a, Floats b) { return _mm512_fnmadd_ps(a, b, from); }
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats abs(Floats values) { return _mm512_abs_ps(values); }
inline Floats round(Floats values) { return _mm512_roundscale_ps(values, _MM_FROUND_TO_NEAREST_INT); }
inline Floats to_floats(Integers values) { return _mm512_cvtepi32_ps(values); }
inline float sum_of(Floats values) { return _mm512_reduce_add_ps(values); }
inline float max_of(Floats values) { return _mm512_reduce_max_ps(values); }
// values * 2^exponents, where neither is out of range
inline Floats scale_by_powers(Floats values, Floats exponents) { return _mm512_scalef_ps(values, exponents); }

// of biased exponents
inline Floats powers_of_two(Integers exponents) { return _mm512_castsi512_ps(_mm512_slli_epi32(exponents, 23)); }

inline Integers add(Integers a, Integers b) { return _mm512_add_epi32(a, b); }
inline Integers shift_left(Integers values, int bits) { return _mm512_slli_epi32(values, bits); }
inline Integers shift_right(Integers values, int bits) { return _mm512_srli_epi32(values, bits); }

inline Mask lanes_below(int count) {
  return count >= kLanes ? 0xffff : count <= 0 ? 0 : static_cast<Mask>((1u << count) - 1);
}
inline Mask is_greater(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline Mask is_less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask is_not_less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline bool any(Mask lanes) { return lanes != 0; }
inline Floats select(Mask lanes, Floats chosen, Floats other) { return _mm512_mask_mov_ps(other, lanes, chosen); }
inline Integers select(Mask lanes, Integers chosen, Integers other) {
  return _mm512_mask_mov_epi32(other, lanes, chosen);
}

// --- products -------------------------------------------------------------------------------------------------------

// Rows as products take them.
using Activation = bf16;
inline Activation to_activation(float value) { return round_bf16(value); }
inline void store_activations(Activation* target, Floats values) {
  const __m256bh rounded = _mm512_cvtneps_pbh(values);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), reinterpret_cast<const __m256i&>(rounded));
}

// One instruction multiplies pairs and adds both products.
struct PairProducts {
  using Input = Activation;
  using Weights = Integers;
  static constexpr int kParts = 1;

  static Weights weights(Integers groups, int) { return groups; }
  static Integers broadcast_input(const Input* pair, int) { return broadcast(load_group(pair)); }
  static Floats add(Floats sums, Weights weights, Integers inputs) {
    return _mm512_dpbf16_ps(sums, as_pairs(weights), as_pairs(inputs));
  }

 private:
  static __m512bh as_pairs(Integers bits) { return reinterpret_cast<__m512bh&>(bits); }
};

// The instruction takes inputs unsigned, so `kShift` is added to them.
struct ByteProducts {
  using Input = std::uint8_t;
  using Weights = Integers;
  static constexpr int kParts = 1;
  static constexpr int kShift = 128;

  static Weights weights(Integers groups, int) { return groups; }
  static Integers broadcast_input(const Input* quad, int) { return broadcast(load_group(quad)); }
  static Integers add(Integers sums, Weights weights, Integers inputs) {
    // not by the intrinsic: GCC 12 then moves the sums between registers and the stack all the time, at half the speed
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(inputs), "v"(weights));
    return sums;
  }
};

// A tile is a number of rows by 1, 2, 4 … panels. So many sums leave registers for the operands.
constexpr int kMostSums = 24;
constexpr int kMostPanels = 4;
constexpr int kMostRowsOfMany = 6;  // by which more than two panels are multiplied side by side

// --- half bytes -----------------------------------------------------------------------------------------------------

// Eight half bytes to a lane stand for four pairs of bfloat16: the pairs' first halves are in the lane's low 16 bits, the
// second ones in its high 16 bits.
class HalfBytes {
 public:
  static constexpr int kMostSums = 24;
  static constexpr int kPanelsAtOnce = 4;
  static constexpr int kMostRowsOfMany = std::numeric_limits<int>::max();

  explicit HalfBytes(const bf16 (&values)[16]) {
    alignas(64) bf16 twice[32];
    for (int i = 0; i < 32; ++i) twice[i] = values[i % 16];
    values_ = load_aligned(twice);
  }

  // Puts lanes in this order, in which half byte i is the i-th.
  static Integers arrange(Integers lanes) {
    const auto gather = [](Integers spread) {  // 0a0b0c0d to 0000abcd
      const Integers bytes = (spread | shift_right(spread, 4)) & broadcast(0xff00ff);
      return (bytes | shift_right(bytes, 8)) & broadcast(0xffff);
    };
    const Integers low = broadcast(0x0f0f0f0f);
    return gather(lanes & low) | shift_left(gather(shift_right(lanes, 4) & low), 16);
  }

  Integers unpack(Integers lanes, int pair) const {
    const Integers first = pair == 0 ? lanes : _mm512_srli_epi16(lanes, 4 * pair);
    return _mm512_permutexvar_epi16(first, values_);  // looks at the lowest 5 bits
  }

 private:
  Integers values_;
};

}  // namespace gptoss
