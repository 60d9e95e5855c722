// Vectors of floats and integers in the processor's widest instructions, and what is made of them.
//
// An instruction set is a header: how many lanes there are, Floats, Integers and masks, the products of 4-byte groups, the
// unpacking of half bytes, and the sizes that suit its registers. Nothing else knows which one it is.

#pragma once

#include <limits>

#include "bf16.h"
#ifdef __AVX512BF16__
#include "avx512.h"
#else
#include "avx2.h"
#endif

namespace gptoss {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

inline int pad_to_lanes(int count) { return (count + kLanes - 1) / kLanes * kLanes; }

// e^x for x <= 0, to about 2 units in the last place: 2^n times a polynomial on [-ln2/2, ln2/2].
inline Floats exp_of(Floats x) {
  const Floats least = broadcast(-87.0f);
  const Floats low = max(x, least);
  const Floats n = round(low * broadcast(1.44269504f));
  Floats r = subtract_product(low, n, broadcast(0.693145752f));
  r = subtract_product(r, n, broadcast(1.42860677e-6f));
  Floats p = broadcast(1.98756915e-4f);
  for (float c : {1.39819995e-3f, 8.33345205e-3f, 4.16657962e-2f, 1.66666655e-1f, 5.0000001e-1f}) {
    p = multiply_add(p, r, broadcast(c));
  }
  p = multiply_add(p, r * r, r + broadcast(1.0f));
  return select(is_less(x, least), broadcast(0.0f), scale_by_powers(p, n));
}

inline float exp_of(float x) { return first_lane(exp_of(broadcast(x))); }

}  // namespace gptoss
