// Matrices packed for vectors, and their products with rows.
//
// Weights are packed into panels of as many outputs as a vector has lanes: [outputs / lanes][inputs / n][lanes][n], where n
// values make a group of 4 bytes. One load holds a group of each of the panel's outputs, which is what is multiplied by a
// group of the row; a panel is read from its beginning to its end.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "memory.h"
#include "threads.h"
#include "vectors.h"

namespace gptoss {

constexpr int kPrefetchBytes = 1536;
constexpr int kMostRows = 12;  // of a tile

// Two bfloat16 inputs to a group, summed in float32.
struct Bf16Pairs : PairProducts {
  using Value = bf16;
  using Start = float;
  using Sums = Floats;
};

// Four bytes to a group, summed in int32.
struct ByteQuads : ByteProducts {
  using Value = std::int8_t;
  using Start = std::int32_t;
  using Sums = Integers;
};

template <typename Format>
struct PanelMatrix {
  using Value = typename Format::Value;
  using Input = typename Format::Input;
  static constexpr int kGroup = 4 / sizeof(Value);
  static constexpr int kMostSums = gptoss::kMostSums;
  static constexpr int kMostRowsOfMany = gptoss::kMostRowsOfMany;

  Buffer<Value> panels;
  Buffer<typename Format::Start> starts;  // what each output's sum begins with
  int num_outputs = 0;  // a multiple of kLanes; rows added to reach it are zero
  int num_inputs = 0;   // a multiple of kGroup

  PanelMatrix() = default;
  PanelMatrix(int num_rows, int inputs) : num_outputs(pad_to_lanes(num_rows)), num_inputs(inputs) {
    panels = allocate<Value>(std::size_t(num_outputs) * num_inputs);
    starts = allocate<typename Format::Start>(num_outputs);
  }

  int num_panels() const { return num_outputs / kLanes; }
  std::size_t panel_bytes() const { return std::size_t(num_inputs) * kLanes * sizeof(Value); }
  const char* panel(int index) const { return reinterpret_cast<const char*>(panels.get()) + index * panel_bytes(); }
  Value& at(int row, int input) {
    const std::size_t place = std::size_t(row / kLanes) * num_inputs + input / kGroup * kGroup;
    return panels[place * kLanes + row % kLanes * kGroup + input % kGroup];
  }
};

using Matrix = PanelMatrix<Bf16Pairs>;
using ByteMatrix = PanelMatrix<ByteQuads>;

// Rows as a checkpoint has them, one after the other.
struct Bf16Rows {
  using Packed = Matrix;

  const bf16* values;

  Bf16Rows matrix(int index, int num_rows, int num_inputs) const {
    return {values + std::size_t(index) * num_rows * num_inputs};
  }
  void fetch(std::size_t count) const { gptoss::fetch(values, count * sizeof(bf16)); }
};

// Packs rows [num_rows, num_inputs], row r coming from source row order(r); a negative one gives zeros.
template <typename Order>
Matrix pack(const Bf16Rows& source, const bf16* bias, int num_rows, int num_inputs, Order order) {
  Matrix matrix(num_rows, num_inputs);
  for (int row = 0; row < matrix.num_outputs; ++row) {
    const int from = row < num_rows ? order(row) : -1;
    matrix.starts[row] = from >= 0 && bias != nullptr ? widen(bias[from]) : 0.0f;
    for (int i = 0; i < num_inputs; ++i) {
      matrix.at(row, i) = from >= 0 ? source.values[std::size_t(from) * num_inputs + i] : 0;
    }
  }
  return matrix;
}

inline Matrix pack(const bf16* source, const bf16* bias, int num_rows, int num_inputs) {
  return pack(Bf16Rows{source}, bias, num_rows, num_inputs, [](int row) { return row; });
}

// Where a product goes: written out as it is, from a panel on.
struct Store {
  float* output;
  int stride, first_panel;
  void take(int row, int panel, Floats sums) const {
    store(output + std::size_t(row) * stride + (panel - first_panel) * kLanes, sums);
  }
};

// --- a tile: some rows by some panels, whose sums stay in registers -----------------------------------------------------
//
// The loops over both are unrolled by force: left to itself, GCC 12 writes all sums to memory at each step.

template <int kRows, int kPanels, typename Packed, typename Sums>
inline void begin_sums(const Packed& matrix, int panel, Sums (&sums)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int p = 0; p < kPanels; ++p) {
    const Sums start = load(matrix.starts.get() + (panel + p) * kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) sums[m][p] = start;
  }
}

template <int kRows, int kPanels, typename Sums, typename Sink>
inline void hand_over(const Sums (&sums)[kRows][kPanels], int row, int panel, Sink& sink) {
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 16
    for (int p = 0; p < kPanels; ++p) sink.take(row + m, panel + p, sums[m][p]);
  }
}

// Adds the products of one group of each row's inputs, which are `stride` apart, with the groups of kCount panels from
// `first` on.
template <typename Products, int kRows, int kPanels, int kCount, typename Sums>
inline void add_products(
    Sums (&sums)[kRows][kPanels], int first, const Integers (&groups)[kCount], const typename Products::Input* input,
    std::size_t stride) {
#pragma GCC unroll 16
  for (int part = 0; part < Products::kParts; ++part) {
    typename Products::Weights weights[kCount];
#pragma GCC unroll 16
    for (int p = 0; p < kCount; ++p) weights[p] = Products::weights(groups[p], part);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const auto x = Products::broadcast_input(input + m * stride, part);
#pragma GCC unroll 16
      for (int p = 0; p < kCount; ++p) sums[m][first + p] = Products::add(sums[m][first + p], weights[p], x);
    }
  }
}

// Multiplies kRows rows by kPanels panels.
template <int kRows, int kPanels, typename Format, typename Sink>
inline void multiply_tile(
    const PanelMatrix<Format>& matrix, int panel, const typename Format::Input* input, int row,
    std::size_t prefetch_bytes, Sink& sink) {
  const std::size_t num_inputs = matrix.num_inputs;
  input += row * num_inputs;
  typename Format::Sums sums[kRows][kPanels];
  begin_sums(matrix, panel, sums);
  const char* weights = matrix.panel(panel);
  for (std::size_t i = 0; i < num_inputs; i += PanelMatrix<Format>::kGroup) {
    Integers groups[kPanels];
#pragma GCC unroll 16
    for (int p = 0; p < kPanels; ++p) {
      const char* source = weights + p * matrix.panel_bytes() + i * sizeof(typename Format::Value) * kLanes;
      prefetch(source + prefetch_bytes);
      groups[p] = load_aligned(source);
    }
    add_products<Format>(sums, 0, groups, input + i, num_inputs);
  }
  hand_over(sums, row, panel, sink);
}

// Calls the tile of as many rows as `count` says; kRowsLessOne counts from 0.
template <int kPanels, typename Packed, typename Sink, int... kRowsLessOne>
inline void dispatch_tile(
    int count, std::integer_sequence<int, kRowsLessOne...>, const Packed& matrix, int panel,
    const typename Packed::Input* input, int row, std::size_t prefetch_bytes, Sink& sink) {
  ((count == kRowsLessOne + 1
        ? multiply_tile<kRowsLessOne + 1, kPanels>(matrix, panel, input, row, prefetch_bytes, sink)
        : void()),
   ...);
}

// As many rows at a time as a tile holds, in tiles of about one size: a tile of one or two rows would wait for its own sums
// and take as long as one of six. The first tile reads the panels from memory; those after it find them in the cache, and
// fetch the ones that come next.
template <int kPanels, typename Packed, typename Sink>
void multiply_in_tiles(
    const Packed& matrix, int panel, const typename Packed::Input* input, int num_rows, Sink& sink) {
  constexpr int kMost = std::min(kMostRows, Packed::kMostSums / kPanels);
  std::size_t prefetch_bytes = kPrefetchBytes;
  for (int row = 0, tiles = (num_rows + kMost - 1) / kMost; tiles > 0; --tiles) {
    const int count = (num_rows - row + tiles - 1) / tiles;
    dispatch_tile<kPanels>(
        count, std::make_integer_sequence<int, kMost>{}, matrix, panel, input, row, prefetch_bytes, sink);
    row += count;
    prefetch_bytes = kPanels * matrix.panel_bytes();
  }
}

// Multiplies input [num_rows, num_inputs] by the panels from first to last, of which many lie side by side in a tile, or two
// where rows are many.
template <int kPanels = kMostPanels, typename Packed, typename Sink>
void multiply_panels(
    const Packed& matrix, int first, int last, const typename Packed::Input* input, int num_rows, Sink& sink) {
  int panel = first;
  if (kPanels <= 2 || num_rows <= Packed::kMostRowsOfMany) {
    for (; panel + kPanels <= last; panel += kPanels) multiply_in_tiles<kPanels>(matrix, panel, input, num_rows, sink);
  }
  if constexpr (kPanels > 1) multiply_panels<kPanels / 2>(matrix, panel, last, input, num_rows, sink);
}

// Runs work(task, first, last) over all panels of a matrix, in as many pieces as threads can take; returns their number.
template <typename Format, typename Work>
int share_panels(Pool& pool, const PanelMatrix<Format>& matrix, int num_rows, const Work& work) {
  const int num_panels = matrix.num_panels();
  const std::int64_t multiplications = std::int64_t(num_rows) * matrix.num_outputs * matrix.num_inputs;
  if (!is_worth_sharing(pool, multiplications)) {
    work(0, 0, num_panels);
    return 1;
  }
  const int count = std::min(num_panels, pool.size() * kTasksPerThread);
  const auto bound = [&](int index) { return static_cast<int>(std::int64_t(num_panels) * index / count); };
  pool.run(count, [&](int task) { work(task, bound(task), bound(task + 1)); });
  return count;
}

inline void multiply(Pool& pool, const Matrix& matrix, const Activation* input, int num_rows, float* output) {
  share_panels(pool, matrix, num_rows, [&](int, int first, int last) {
    Store store{output, matrix.num_outputs, 0};
    multiply_panels(matrix, first, last, input, num_rows, store);
  });
}

}  // namespace gptoss
