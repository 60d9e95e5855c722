// Vectors of 16 floats: bfloat16 in and out, the exponential.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <limits>

namespace gptoss {

using bf16 = std::uint16_t;
constexpr int kLanes = 16;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

inline __m512bh as_pairs(__m512i bits) { return reinterpret_cast<__m512bh&>(bits); }

inline __m512 load_bf16(const bf16* source) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline void store_bf16(bf16* target, __m512 values) {
  const __m256bh rounded = _mm512_cvtneps_pbh(values);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), reinterpret_cast<const __m256i&>(rounded));
}

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

// Four bytes that go into every lane: two bfloat16 or four integers.
inline std::int32_t load_group(const void* source) {
  std::int32_t group;
  std::memcpy(&group, source, 4);
  return group;
}

// e^x for x <= 0, to about 2 units in the last place: 2^n times a polynomial on [-ln2/2, ln2/2].
inline __m512 exp_of(__m512 x) {
  const __m512 low = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(low, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), low);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
  __m512 p = _mm512_set1_ps(1.98756915e-4f);
  for (float c : {1.39819995e-3f, 8.33345205e-3f, 4.16657962e-2f, 1.66666655e-1f, 5.0000001e-1f}) {
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  }
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  const __mmask16 is_zero = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_LT_OQ);
  return _mm512_mask_mov_ps(_mm512_scalef_ps(p, n), is_zero, _mm512_setzero_ps());
}

inline float exp_of(float x) { return _mm512_cvtss_f32(exp_of(_mm512_set1_ps(x))); }

}  // namespace gptoss
