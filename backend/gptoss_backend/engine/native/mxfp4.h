// Matrices that stay in MXFP4: four-bit floats (E2M1), 32 inputs of an output sharing a power of two.
//
// Panels as in matrix.h: [outputs / lanes][inputs / 8][lanes * 4 bytes], where one load has eight inputs of each output, in
// the order that HalfBytes unpacks to four groups of a bfloat16 pair.
//
// A block's values are summed without their scale: the sums before them are divided by it, which is exact for a power of two
// as are the products, so the bits are those of the same matrix in bfloat16. From block to block, sums are multiplied by the
// quotient of two scales, and by the last scale in the end. Quotients, exponent + 127: [outputs / lanes][inputs / 32 + 1][lanes].

#pragma once

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
  using Input = Activation;
  static constexpr int kMostSums = HalfBytes::kMostSums;
  static constexpr int kMostRowsOfMany = HalfBytes::kMostRowsOfMany;
  static constexpr std::size_t kBlockBytes = std::size_t(kFp4Block) * kLanes / 2;  // of a panel
  static constexpr std::size_t kVectorBytes = 4 * kLanes;

  Buffer<std::uint8_t> codes, quotients;
  Buffer<float> starts;  // what each output's sum begins with
  int num_outputs = 0;   // a multiple of kLanes; rows added to reach it are zero
  int num_inputs = 0;    // a multiple of kFp4Block

  Fp4Matrix() = default;
  Fp4Matrix(int num_rows, int inputs) : num_outputs(pad_to_lanes(num_rows)), num_inputs(inputs) {
    codes = allocate<std::uint8_t>(num_panels() * panel_bytes());
    quotients = allocate<std::uint8_t>(std::size_t(num_outputs) * (num_blocks() + 1));
    starts = allocate<float>(num_outputs);
  }

  int num_panels() const { return num_outputs / kLanes; }
  int num_blocks() const { return num_inputs / kFp4Block; }
  std::size_t panel_bytes() const { return num_blocks() * kBlockBytes; }
  std::uint8_t* block(int panel, int index) const { return codes.get() + panel * panel_bytes() + index * kBlockBytes; }
  // What sums are multiplied by before a block, or after the last one.
  std::uint8_t* block_quotients(int panel, int index) const {
    return quotients.get() + (std::size_t(panel) * (num_blocks() + 1) + index) * kLanes;
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

// Packs the rows of a panel; a negative row gives zeros.
inline void pack_panel(const Mxfp4Rows& source, const int (&rows)[kLanes], int panel, Fp4Matrix& matrix) {
  // below, values are lost in any sum, and count as zero; blocks of zeros have such scales
  constexpr int kOne = 127, kLeastScale = kOne - 63;
  const int num_blocks = matrix.num_blocks();
  int last_scales[kLanes];
  std::fill_n(last_scales, kLanes, kOne);
  for (int b = 0; b < num_blocks; ++b) {
    alignas(64) std::uint32_t words[kFp4Block / 8][kLanes] = {};
    std::uint8_t* quotients = matrix.block_quotients(panel, b);
    for (int lane = 0; lane < kLanes; ++lane) {
      const std::size_t from = std::size_t(std::max(rows[lane], 0)) * num_blocks + b;
      const bool is_zero = rows[lane] < 0 || source.scales[from] < kLeastScale;
      const int scale = is_zero ? last_scales[lane] : source.scales[from];
      quotients[lane] = static_cast<std::uint8_t>(kOne + last_scales[lane] - scale);
      last_scales[lane] = scale;
      for (int word = 0; word < kFp4Block / 8 && !is_zero; ++word) {
        std::memcpy(&words[word][lane], source.codes + from * Mxfp4Rows::kBlockBytes + word * 4, 4);
      }
    }
    for (int word = 0; word < kFp4Block / 8; ++word) {
      std::uint8_t* target = matrix.block(panel, b) + word * Fp4Matrix::kVectorBytes;
      store_aligned(target, HalfBytes::arrange(load_aligned(words[word])));
    }
  }
  std::copy_n(last_scales, kLanes, matrix.block_quotients(panel, num_blocks));
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

// What half bytes stand for: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; minus zero is zero.
constexpr bf16 kE2m1Values[16] = {
    0, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, 0, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};

// Brings sums from the scale of the block before to that of `block`.
template <int kRows, int kPanels>
inline void rescale(const Fp4Matrix& matrix, int panel, int block, Floats (&sums)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int p = 0; p < kPanels; ++p) {
    const Floats quotients = powers_of_two(load_bytes(matrix.block_quotients(panel + p, block)));
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) sums[m][p] = sums[m][p] * quotients;
  }
}

// As for other matrices; each load is unpacked once for all rows.
template <int kRows, int kPanels, typename Sink>
inline void multiply_tile(
    const Fp4Matrix& matrix, int panel, const Activation* input, int row, std::size_t prefetch_bytes, Sink& sink) {
  constexpr int kAtOnce = std::min(kPanels, HalfBytes::kPanelsAtOnce);
  const HalfBytes values(kE2m1Values);
  const std::size_t num_inputs = matrix.num_inputs;
  input += row * num_inputs;
  Floats sums[kRows][kPanels];
  begin_sums(matrix, panel, sums);
  const std::uint8_t* codes = matrix.block(panel, 0);
  const std::size_t panel_bytes = matrix.panel_bytes();
  for (int b = 0; b < matrix.num_blocks(); ++b) {
    rescale(matrix, panel, b, sums);
    for (std::size_t place = 0; place < Fp4Matrix::kBlockBytes; place += Fp4Matrix::kVectorBytes) {
      const Activation* at = input + b * kFp4Block + place * 2 / kLanes;
#pragma GCC unroll 16
      for (int first = 0; first < kPanels; first += kAtOnce) {
        Integers half_bytes[kAtOnce];
#pragma GCC unroll 16
        for (int p = 0; p < kAtOnce; ++p) {
          const std::uint8_t* source = codes + (first + p) * panel_bytes + b * Fp4Matrix::kBlockBytes + place;
          prefetch(source + prefetch_bytes);
          half_bytes[p] = load_aligned(source);
        }
#pragma GCC unroll 16
        for (int pair = 0; pair < 4; ++pair) {
          Integers weights[kAtOnce];
#pragma GCC unroll 16
          for (int p = 0; p < kAtOnce; ++p) weights[p] = values.unpack(half_bytes[p], pair);
          add_products<PairProducts>(sums, first, weights, at + pair * 2, num_inputs);
        }
      }
    }
  }
  rescale(matrix, panel, matrix.num_blocks(), sums);
  hand_over(sums, row, panel, sink);
}

}  // namespace gptoss
