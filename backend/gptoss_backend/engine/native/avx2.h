// Vectors in AVX2 with FMA: 8 lanes, 16 registers.

#pragma once

#include <immintrin.h>

#include <cstdint>

#include "bf16.h"

namespace gptoss {

constexpr int kLanes = 8;
using Floats = __m256;
using Integers = __m256i;  // of 32 bits, or groups of 4 bytes
using Mask = __m256i;      // lanes of ones or zeros

// --- lanes ----------------------------------------------------------------------------------------------------------

inline Floats broadcast(float value) { return _mm256_set1_ps(value); }
inline Integers broadcast(std::int32_t value) { return _mm256_set1_epi32(value); }
inline Integers lane_numbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
inline float first_lane(Floats values) { return _mm256_cvtss_f32(values); }

inline Floats load(const float* source) { return _mm256_loadu_ps(source); }
inline Integers load(const std::int32_t* source) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
}
inline Integers load_aligned(const void* source) { return _mm256_load_si256(static_cast<const __m256i*>(source)); }
inline Integers load_bytes(const std::uint8_t* source) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source)));
}
inline Floats load_bf16(const bf16* source) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

inline void store(float* target, Floats values) { _mm256_storeu_ps(target, values); }
inline void store(std::int32_t* target, Integers values) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), values);
}
inline void store_aligned(void* target, Integers values) { _mm256_store_si256(static_cast<__m256i*>(target), values); }
inline void store_lanes(float* target, Mask lanes, Floats values) { _mm256_maskstore_ps(target, lanes, values); }

// --- arithmetic; Floats have + - * /, Integers and masks & | ~ -----------------------------------------------------

inline Floats multiply_add(Floats a, Floats b, Floats more) { return _mm256_fmadd_ps(a, b, more); }
inline Floats subtract_product(Floats from, Floats a, Floats b) { return _mm256_fnmadd_ps(a, b, from); }
inline Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats abs(Floats values) { return _mm256_andnot_ps(broadcast(-0.0f), values); }
inline Floats round(Floats values) { return _mm256_round_ps(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Floats to_floats(Integers values) { return _mm256_cvtepi32_ps(values); }
inline float sum_of(Floats values) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_of(Floats values) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
// of biased exponents
inline Floats powers_of_two(Integers exponents) { return _mm256_castsi256_ps(_mm256_slli_epi32(exponents, 23)); }
// values * 2^exponents, where neither is out of range
inline Floats scale_by_powers(Floats values, Floats exponents) {
  return values * powers_of_two(_mm256_add_epi32(_mm256_cvtps_epi32(exponents), broadcast(127)));
}

inline Integers add(Integers a, Integers b) { return _mm256_add_epi32(a, b); }
inline Integers shift_left(Integers values, int bits) { return _mm256_slli_epi32(values, bits); }
inline Integers shift_right(Integers values, int bits) { return _mm256_srli_epi32(values, bits); }

inline Mask lanes_below(int count) { return _mm256_cmpgt_epi32(broadcast(count), lane_numbers()); }
inline Mask is_greater(Floats a, Floats b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
inline Mask is_less(Floats a, Floats b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
inline Mask is_not_less(Floats a, Floats b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GE_OQ)); }
inline bool any(Mask lanes) { return !_mm256_testz_si256(lanes, lanes); }
inline Floats select(Mask lanes, Floats chosen, Floats other) {
  return _mm256_blendv_ps(other, chosen, _mm256_castsi256_ps(lanes));
}
inline Integers select(Mask lanes, Integers chosen, Integers other) {
  return _mm256_blendv_epi8(other, chosen, lanes);
}

// --- products -------------------------------------------------------------------------------------------------------

// Rows as products take them: they would have to be widened for every product, so they are not rounded to begin with.
using Activation = float;
inline Activation to_activation(float value) { return value; }
inline void store_activations(Activation* target, Floats values) { store(target, values); }

// The first ones of all pairs, then the second ones: a bfloat16 is the upper half of a float32.
struct PairProducts {
  using Input = Activation;
  using Weights = Floats;
  static constexpr int kParts = 2;

  static Weights weights(Integers groups, int part) {
    const Integers upper = part == 0 ? shift_left(groups, 16) : groups & broadcast(static_cast<std::int32_t>(0xffff0000));
    return _mm256_castsi256_ps(upper);
  }
  static Floats broadcast_input(const Input* pair, int part) { return _mm256_broadcast_ss(pair + part); }
  static Floats add(Floats sums, Weights weights, Floats inputs) { return multiply_add(weights, inputs, sums); }
};

// The instruction takes one side unsigned and adds two products in 16 bits, saturated: so the weights' signs go to the
// inputs. Both are 127 at most, and two products 32,258: the sums are exact.
struct ByteProducts {
  using Input = std::int8_t;
  using Weights = Integers;
  static constexpr int kParts = 1;
  static constexpr int kShift = 0;

  static Weights weights(Integers groups, int) { return groups; }
  static Integers broadcast_input(const Input* quad, int) { return broadcast(load_group(quad)); }
  static Integers add(Integers sums, Weights weights, Integers inputs) {
    const Integers pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(inputs, weights));
    return gptoss::add(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

// A tile is a number of rows by 1, 2, 4 … panels. So many sums leave registers for the operands.
constexpr int kMostSums = 10;
constexpr int kMostPanels = 8;
constexpr int kMostRowsOfMany = 1;  // by which more than two panels are multiplied side by side

// --- half bytes -----------------------------------------------------------------------------------------------------

// Eight half bytes to a lane stand for four pairs of bfloat16, whose bytes are looked up one by one and interleaved. Of
// four lanes the first eight bytes have pairs 0 in their low halves and 2 in the high ones, the others pairs 1 and 3.
class HalfBytes {
 public:
  static constexpr int kMostSums = 8;
  static constexpr int kPanelsAtOnce = 2;
  static constexpr int kMostRowsOfMany = 1;

  explicit HalfBytes(const bf16 (&values)[16]) {
    alignas(32) std::uint8_t low[32], high[32];
    for (int i = 0; i < 32; ++i) {
      low[i] = static_cast<std::uint8_t>(values[i % 16]);
      high[i] = static_cast<std::uint8_t>(values[i % 16] >> 8);
    }
    low_ = load_aligned(low);
    high_ = load_aligned(high);
  }

  // Puts lanes in this order, in which half byte i is the i-th.
  static Integers arrange(Integers lanes) {
    const Integers low = broadcast(0x0f0f0f0f);
    const auto gather = [](Integers spread) {  // 0a0b0c0d to 0000acbd
      return (spread | shift_right(spread, 12)) & broadcast(0xffff);
    };
    const Integers bytes = gather(lanes & low) | shift_left(gather(shift_right(lanes, 4) & low), 16);
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    return _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(order));
  }

  Integers unpack(Integers lanes, int pair) const {
    const Integers indices = (pair < 2 ? lanes : shift_right(lanes, 4)) & broadcast(0x0f0f0f0f);
    const Integers low = _mm256_shuffle_epi8(low_, indices), high = _mm256_shuffle_epi8(high_, indices);
    return pair % 2 == 0 ? _mm256_unpacklo_epi8(low, high) : _mm256_unpackhi_epi8(low, high);
  }

 private:
  Integers low_, high_;
};

}  // namespace gptoss
