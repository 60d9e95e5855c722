// Matrices that stay in MXFP4: four-bit floats (E2M1), 32 inputs of an output sharing a power of two.
//
// Panels of 16 outputs as in matrix.h: [outputs / 16][inputs / 8][16][2][4], the two inputs of a bfloat16 pair side by side
// in 16-bit words, and in each word what four successive pairs have at that side. So a 64-byte load, shifted three times,
// indexes a table of bfloat16 four times. Scales, exponent + 127: [outputs / 16][inputs / 32][16].
//
// Every value times its scale is exact in bfloat16, and both go into the sums as ever: the products' bits are those of the
// same matrix in bfloat16.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "matrix.h"
#include "memory.h"
#include "vectors.h"

namespace gptoss {

constexpr int kFp4Block = 32;  // inputs that share a scale

struct Fp4Matrix {
  static constexpr int kInputBytes = sizeof(bf16);
  static constexpr int kMostRowsOfFour = 15;
  static constexpr std::size_t kBlockBytes = std::size_t(kFp4Block) * kLanes / 2;  // of 16 outputs

  Buffer<std::uint8_t> codes, scales;
  Buffer<float> starts;  // what each output's sum begins with
  int num_outputs = 0;   // a multiple of 16; rows added to reach it are zero
  int num_inputs = 0;    // a multiple of kFp4Block

  Fp4Matrix() = default;
  Fp4Matrix(int num_rows, int inputs)
      : num_outputs((num_rows + kLanes - 1) / kLanes * kLanes), num_inputs(inputs) {
    codes = allocate<std::uint8_t>(num_panels() * panel_bytes());
    scales = allocate<std::uint8_t>(std::size_t(num_outputs) * num_blocks());
    starts = allocate<float>(num_outputs);
  }

  int num_panels() const { return num_outputs / kLanes; }
  int num_blocks() const { return num_inputs / kFp4Block; }
  std::size_t panel_bytes() const { return num_blocks() * kBlockBytes; }
  std::uint8_t* block(int panel, int index) const { return codes.get() + panel * panel_bytes() + index * kBlockBytes; }
  std::uint8_t* block_scales(int panel, int index) const {
    return scales.get() + (std::size_t(panel) * num_blocks() + index) * kLanes;
  }
};

// Rows as a checkpoint has them, one after the other: blocks of 16 bytes, the first of two inputs in a byte's low half.
struct Mxfp4Rows {
  using Packed = Fp4Matrix;
  static constexpr int kBlockBytes = kFp4Block / 2;

  const std::uint8_t* codes;
  const std::uint8_t* scales;

  Mxfp4Rows matrix(int index, int num_rows, int num_inputs) const {
    const std::size_t blocks = std::size_t(index) * num_rows * (num_inputs / kFp4Block);
    return {codes + blocks * kBlockBytes, scales + blocks};
  }
  void fetch(std::size_t count) const { gptoss::fetch(codes, count / 2); }
};

// The even half bytes of each 32-bit lane, in its low half; the odd ones in its high half.
inline __m512i part_half_bytes(__m512i lanes) {
  const auto gather = [](__m512i spread) {  // 0a0b0c0d to 0000abcd
    const __m512i bytes = _mm512_and_si512(_mm512_or_si512(spread, _mm512_srli_epi32(spread, 4)), _mm512_set1_epi32(0xff00ff));
    return _mm512_and_si512(_mm512_or_si512(bytes, _mm512_srli_epi32(bytes, 8)), _mm512_set1_epi32(0xffff));
  };
  const __m512i low = _mm512_set1_epi32(0x0f0f0f0f);
  const __m512i even = gather(_mm512_and_si512(lanes, low));
  const __m512i odd = gather(_mm512_and_si512(_mm512_srli_epi32(lanes, 4), low));
  return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

// Packs the 16 rows of a panel; a negative row gives zeros.
inline void pack_panel(const Mxfp4Rows& source, const int (&rows)[kLanes], int panel, Fp4Matrix& matrix) {
  // below, values are no normal bfloat16, which the processor takes for zero, or not above 2^-123: blocks of zeros have such
  constexpr int kLeastScale = 2;
  const int num_blocks = matrix.num_blocks();
  for (int b = 0; b < num_blocks; ++b) {
    alignas(64) std::uint32_t words[kFp4Block / 8][kLanes] = {};
    std::uint8_t* scales = matrix.block_scales(panel, b);
    for (int lane = 0; lane < kLanes; ++lane) {
      const std::size_t from = std::size_t(std::max(rows[lane], 0)) * num_blocks + b;
      const bool is_zero = rows[lane] < 0 || source.scales[from] < kLeastScale;
      scales[lane] = is_zero ? kLeastScale : source.scales[from];
      for (int word = 0; word < kFp4Block / 8 && !is_zero; ++word) {
        std::memcpy(&words[word][lane], source.codes + from * Mxfp4Rows::kBlockBytes + word * 4, 4);
      }
    }
    for (int word = 0; word < kFp4Block / 8; ++word) {
      _mm512_store_si512(matrix.block(panel, b) + word * 64, part_half_bytes(_mm512_load_si512(words[word])));
    }
  }
}

// Packs rows [num_rows, num_inputs], row r coming from source row order(r); a negative one gives zeros.
template <typename Order>
Fp4Matrix pack(const Mxfp4Rows& source, const bf16* bias, int num_rows, int num_inputs, Order order) {
  Fp4Matrix matrix(num_rows, num_inputs);
  for (int panel = 0; panel < matrix.num_panels(); ++panel) {
    int rows[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = panel * kLanes + lane;
      rows[lane] = row < num_rows ? order(row) : -1;
      matrix.starts[row] = rows[lane] >= 0 ? widen(bias[rows[lane]]) : 0.0f;
    }
    pack_panel(source, rows, panel, matrix);
  }
  return matrix;
}

// Unpacks pairs of 16 outputs. The table's exponents are too large by 126 and a block says by how much less it is larger:
// a subtraction that stops at zero scales the other values and leaves a zero, which has no exponent, as it is.
class Fp4Table {
 public:
  // scales: of a block, as block_scales has them. Gives what `unpack` subtracts.
  static __m512i load_excess(const std::uint8_t* scales) {
    const __m512i lanes = _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(scales)));
    const __m512i excess = _mm512_sub_epi32(_mm512_set1_epi32(127 + kExcess), lanes);
    const __m512i bits = _mm512_slli_epi32(excess, kFractionBits);
    return _mm512_or_si512(bits, _mm512_slli_epi32(bits, 16));
  }

  // The bfloat16 pairs that the words' lowest half bytes stand for.
  __m512i unpack(__m512i words, __m512i excess) const {
    return _mm512_subs_epu16(_mm512_permutexvar_epi16(words, values_), excess);  // looks at the lowest 5 bits
  }

 private:
  static constexpr int kFractionBits = 7;
  static constexpr int kExcess = 126;  // as much as leaves 6 with a sign within 16 bits

  // 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives, twice; minus zero is zero
  static __m512i values() {
    alignas(64) bf16 values[32] = {};
    constexpr bf16 kMagnitudes[8] = {0, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0};
    for (int i = 0; i < 32; ++i) {
      const int sign = i % 16 < 8 ? 0 : 0x8000;
      if (i % 8 != 0) values[i] = static_cast<bf16>(sign + kMagnitudes[i % 8] + (kExcess << kFractionBits));
    }
    return _mm512_load_si512(values);
  }

  __m512i values_ = values();
};

// As for other matrices; each load is unpacked once for all rows.
template <int kRows, int kPanels, typename Sink>
inline void multiply_tile(
    const Fp4Matrix& matrix, int panel, const char* input, int row, std::size_t prefetch_bytes, Sink& sink) {
  const Fp4Table table;
  const std::size_t row_bytes = std::size_t(matrix.num_inputs) * 2;
  input += row * row_bytes;
  __m512 sums[kRows][kPanels];
  for (int p = 0; p < kPanels; ++p) {
    const __m512 start = _mm512_loadu_ps(matrix.starts.get() + (panel + p) * kLanes);
    for (int m = 0; m < kRows; ++m) sums[m][p] = start;
  }
  for (int b = 0; b < matrix.num_blocks(); ++b) {
    __m512i excess[kPanels];
    for (int p = 0; p < kPanels; ++p) excess[p] = Fp4Table::load_excess(matrix.block_scales(panel + p, b));
    for (std::size_t place = 0; place < Fp4Matrix::kBlockBytes; place += 64) {
      __m512i words[kPanels];
      for (int p = 0; p < kPanels; ++p) {
        const std::uint8_t* source = matrix.block(panel + p, b) + place;
        _mm_prefetch(source + prefetch_bytes, _MM_HINT_T0);
        words[p] = _mm512_load_si512(source);
      }
#pragma GCC unroll 4
      for (int pair = 0; pair < 4; ++pair) {
        __m512i weights[kPanels];
        for (int p = 0; p < kPanels; ++p) {
          weights[p] = table.unpack(pair == 0 ? words[p] : _mm512_srli_epi16(words[p], 4 * pair), excess[p]);
        }
        const char* at = input + b * kFp4Block * 2 + place / 4 + pair * 4;
        for (int m = 0; m < kRows; ++m) {
          const __m512i x = _mm512_set1_epi32(load_group(at + m * row_bytes));
          for (int p = 0; p < kPanels; ++p) sums[m][p] = Bf16Pairs::add_products(sums[m][p], weights[p], x);
        }
      }
    }
  }
  for (int m = 0; m < kRows; ++m) {
    for (int p = 0; p < kPanels; ++p) sink.take(row + m, panel + p, sums[m][p]);
  }
}

// Unpacks panels of `matrix`, from `panel` on, to all those of `target`.
inline void unpack_panels(const Fp4Matrix& matrix, int panel, Matrix& target) {
  const Fp4Table table;
  std::memcpy(target.starts.get(), matrix.starts.get() + panel * kLanes, target.num_outputs * sizeof(float));
  bf16* pairs = target.panels.get();
  for (int p = panel; p < panel + target.num_panels(); ++p) {
    for (int b = 0; b < matrix.num_blocks(); ++b) {
      const __m512i excess = Fp4Table::load_excess(matrix.block_scales(p, b));
      for (std::size_t place = 0; place < Fp4Matrix::kBlockBytes; place += 64) {
        const std::uint8_t* source = matrix.block(p, b) + place;
        _mm_prefetch(source + kPrefetchBytes, _MM_HINT_T0);
        const __m512i words = _mm512_load_si512(source);
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; ++pair, pairs += 2 * kLanes) {
          _mm512_store_si512(pairs, table.unpack(_mm512_srli_epi16(words, 4 * pair), excess));
        }
      }
    }
  }
}

// Takes what is said of a copy of some panels as said of those panels.
template <typename Sink>
struct Shifted {
  Sink& sink;
  int first;
  void take(int row, int panel, __m512 sums) const { sink.take(row, first + panel, sums); }
};

// Few rows are multiplied by what is unpacked in registers, anew for every six of them. More are worth unpacking the panels
// to the cache once.
template <int kPanels, typename Sink>
void multiply_rows(const Fp4Matrix& matrix, int panel, const char* input, int num_rows, Sink& sink) {
  if (num_rows <= Fp4Matrix::kMostRowsOfFour) {
    multiply_in_tiles<kPanels, 6>(matrix, panel, input, num_rows, kPanels * matrix.panel_bytes(), sink);
    return;
  }
  thread_local Matrix unpacked;
  thread_local int capacity = 0;
  if (matrix.num_inputs > capacity) unpacked = Matrix(kPanels * kLanes, capacity = matrix.num_inputs);
  unpacked.num_inputs = matrix.num_inputs;
  unpack_panels(matrix, panel, unpacked);
  Shifted<Sink> shifted{sink, panel};
  multiply_in_tiles<kPanels, 12>(unpacked, 0, input, num_rows, kPrefetchBytes, shifted);
}

}  // namespace gptoss
