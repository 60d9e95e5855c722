// The last product: from a token's row to the likeliest next token, or to all logits.
//
// Where only the likeliest token is wanted, most of the vocabulary is ruled out in bytes, a quarter of the arithmetic and
// half of the memory traffic: weights and rows are rounded to 8 bits, and by the Cauchy-Schwarz inequality a logit lies
// within |row| |weights - rounded weights| + |row - rounded row| |rounded weights| of its estimate. What may still be the
// largest, a few panels in twelve thousand, is computed as it is without the estimate. So the token is the same, always.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "matrix.h"
#include "memory.h"
#include "threads.h"
#include "vectors.h"

namespace gptoss {

// The largest logits so far of one row, lane by lane, and the tokens they belong to.
struct Peak {
  Floats values = broadcast(kMinusInfinity);
  Integers tokens = broadcast(0);

  void take(int panel, Floats logits, Mask real) {
    const Mask larger = is_greater(logits, values) & real;
    values = select(larger, logits, values);
    tokens = select(larger, add(broadcast(panel * kLanes), lane_numbers()), tokens);
  }

  // Among equals the lowest token wins.
  void merge_into(float& value, std::int32_t& token) const {
    float lane_values[kLanes];
    std::int32_t lane_tokens[kLanes];
    store(lane_values, values);
    store(lane_tokens, tokens);
    for (int i = 0; i < kLanes; ++i) {
      const bool is_lower_id = lane_values[i] == value && lane_tokens[i] < token;
      if (lane_values[i] > value || is_lower_id) {
        value = lane_values[i];
        token = lane_tokens[i];
      }
    }
  }
};

// Where exact logits go: into the search for the largest, and out where they are asked for.
struct Peaks {
  Peak* peaks;
  float* logits;
  int vocab_size;

  void take(int row, int panel, Floats sums) const {
    const Mask real = lanes_below(vocab_size - panel * kLanes);
    if (logits != nullptr) store_lanes(logits + std::size_t(row) * vocab_size + panel * kLanes, real, sums);
    peaks[row].take(panel, sums, real);
  }
};

// One row rounded to bytes, and what its estimates may be off by.
struct ByteRow {
  float scale;           // a logit's estimate is scale * its output's scale * the sum
  float weight_error;    // times |weights - rounded weights|, and
  float rounded_weight;  // times |rounded weights|: how far the logit may be from its estimate
};

class Estimate {
 public:
  Estimate() = default;

  // source: [num_rows, num_inputs]; num_inputs a multiple of 4.
  Estimate(Pool& pool, const bf16* source, int num_rows, int num_inputs) : matrix_(num_rows, num_inputs) {
    const int padded = matrix_.num_outputs;
    scales_ = allocate<float>(padded);
    errors_ = allocate<float>(padded);
    norms_ = allocate<float>(padded);
    pool.run(matrix_.num_panels(), [&](int panel) {
      for (int row = panel * kLanes; row < (panel + 1) * kLanes; ++row) {
        if (row < num_rows) {
          add(source + std::size_t(row) * num_inputs, row);
        } else {
          add_zeros(row);
        }
      }
    });
  }

  const ByteMatrix& matrix() const { return matrix_; }

  // Rounds a row [num_inputs] to bytes. Gives a scale that is not finite where the row is not.
  ByteRow round_row(const Activation* row, ByteQuads::Input* bytes) const {
    const int size = matrix_.num_inputs;
    float largest = 0.0f;
    bool is_finite = true;
    for (int i = 0; i < size; ++i) {
      largest = std::max(largest, std::fabs(widen(row[i])));
      is_finite = is_finite && std::isfinite(widen(row[i]));
    }
    if (!is_finite) return {std::numeric_limits<float>::quiet_NaN(), 0.0f, 0.0f};
    const float scale = largest / kMost, inverse = largest > 0.0f ? kMost / largest : 0.0f;
    double squares = 0.0, error_squares = 0.0;
    for (int i = 0; i < size; ++i) {
      const float value = widen(row[i]), rounded = std::nearbyint(value * inverse);
      const double error = double(value) - double(scale) * rounded;
      bytes[i] = static_cast<ByteQuads::Input>(static_cast<int>(rounded) + ByteQuads::kShift);
      squares += double(value) * value;
      error_squares += error * error;
    }
    // the float32 sums round, too: by at most a unit in the last place for each addition, of both kinds of product
    const double rounding = (size + 16) * 0x1p-23 * std::sqrt(squares);
    return {scale, float((std::sqrt(squares) + rounding) * kSlack), float((std::sqrt(error_squares) + rounding) * kSlack)};
  }

  Floats scales(int panel) const { return load(scales_.get() + panel * kLanes); }

  // How far from their estimates the logits of a panel may be.
  Floats bounds(int panel, const ByteRow& row) const {
    const Floats errors = load(errors_.get() + panel * kLanes), norms = load(norms_.get() + panel * kLanes);
    return multiply_add(errors, broadcast(row.weight_error), norms * broadcast(row.rounded_weight));
  }

 private:
  static constexpr float kMost = 127.0f;
  static constexpr double kSlack = 1.0 + 1e-5;  // for the rounding of the bounds themselves

  void add(const bf16* source, int row) {
    const int size = matrix_.num_inputs;
    float largest = 0.0f;
    for (int i = 0; i < size; ++i) largest = std::max(largest, std::fabs(widen(source[i])));
    const float scale = largest / kMost, inverse = largest > 0.0f ? kMost / largest : 0.0f;
    double squares = 0.0, error_squares = 0.0;
    std::int32_t sum = 0;
    for (int i = 0; i < size; ++i) {
      const float value = widen(source[i]), rounded = std::nearbyint(value * inverse);
      const double error = double(value) - double(scale) * rounded;
      matrix_.at(row, i) = static_cast<std::int8_t>(rounded);
      sum += static_cast<std::int32_t>(rounded);
      squares += double(scale) * rounded * scale * rounded;
      error_squares += error * error;
    }
    scales_[row] = scale;
    errors_[row] = float(std::sqrt(error_squares) * kSlack);
    norms_[row] = float(std::sqrt(squares) * kSlack);
    matrix_.starts[row] = -ByteQuads::kShift * sum;  // what the shift of the rows adds
  }

  void add_zeros(int row) {
    scales_[row] = errors_[row] = norms_[row] = 0.0f;
    matrix_.starts[row] = 0;
    for (int i = 0; i < matrix_.num_inputs; ++i) matrix_.at(row, i) = 0;
  }

  ByteMatrix matrix_;
  Buffer<float> scales_, errors_, norms_;  // by output
};

// Panels of which a row's largest logit may be one, and what it is at the least.
struct Candidates {
  struct Panel {
    int index;
    float most;  // what its logits can be
  };
  float least = kMinusInfinity;
  std::vector<Panel> panels;
};

// Where estimates go: of most panels nothing is kept.
struct CandidateSearch {
  const Estimate& estimate;
  const ByteRow* rows;
  Candidates* candidates;
  int vocab_size;

  void take(int row, int panel, Integers sums) const {
    const Floats estimates = to_floats(sums) * (estimate.scales(panel) * broadcast(rows[row].scale));
    const Floats bounds = estimate.bounds(panel, rows[row]);
    const Floats most = estimates + bounds;
    Candidates& found = candidates[row];
    if (any(is_not_less(most, broadcast(found.least)))) note(found, panel, most, estimates - bounds);
  }

  void note(Candidates& found, int panel, Floats most, Floats least) const {
    const Mask real = lanes_below(vocab_size - panel * kLanes);
    const Floats nothing = broadcast(kMinusInfinity);
    const float largest = max_of(select(real, most, nothing));
    if (largest < found.least) return;
    found.least = std::max(found.least, max_of(select(real, least, nothing)));
    found.panels.push_back({panel, largest});
  }
};

class Unembedding {
 public:
  // source: [vocab_size, hidden_size].
  void set(Pool& pool, const bf16* source, int vocab_size, int hidden_size) {
    vocab_size_ = vocab_size;
    fetch(source, std::size_t(vocab_size) * hidden_size * sizeof(bf16));
    matrix_ = pack(source, nullptr, vocab_size, hidden_size);
    has_estimate_ = hidden_size % ByteMatrix::kGroup == 0;
    if (has_estimate_) estimate_ = Estimate(pool, source, vocab_size, hidden_size);
  }

  // The likeliest token after each row [count, hidden_size], the lowest among equals; logits [count, vocab_size] or null.
  void find_best(Pool& pool, const Activation* rows, int count, float* logits, std::int32_t* best) {
    if (logits == nullptr && has_estimate_) {
      find_candidates(pool, rows, count);
      choose_among_candidates(pool, rows, count, best);
    } else {
      compute_all(pool, rows, count, logits, best);
    }
  }

 private:
  void compute_all(Pool& pool, const Activation* rows, int count, float* logits, std::int32_t* best) {
    peaks_.assign(std::size_t(pool.size()) * kTasksPerThread * count, Peak{});
    const int num_tasks = share_panels(pool, matrix_, count, [&](int task, int first, int last) {
      Peaks sink{peaks_.data() + std::size_t(task) * count, logits, vocab_size_};
      multiply_panels(matrix_, first, last, rows, count, sink);
    });
    for (int row = 0; row < count; ++row) {
      float value = kMinusInfinity;
      best[row] = 0;
      for (int task = 0; task < num_tasks; ++task) peaks_[std::size_t(task) * count + row].merge_into(value, best[row]);
    }
  }

  void find_candidates(Pool& pool, const Activation* rows, int count) {
    const int hidden = matrix_.num_inputs;
    ByteQuads::Input* bytes = bytes_.get(std::size_t(count) * hidden);
    byte_rows_.resize(count);
    for (int row = 0; row < count; ++row) {
      byte_rows_[row] = estimate_.round_row(rows + std::size_t(row) * hidden, bytes + std::size_t(row) * hidden);
    }
    candidates_.resize(std::size_t(pool.size()) * kTasksPerThread * count);
    for (Candidates& found : candidates_) {
      found.least = kMinusInfinity;
      found.panels.clear();
    }
    num_tasks_ = share_panels(pool, estimate_.matrix(), count, [&](int task, int first, int last) {
      Candidates* candidates = candidates_.data() + std::size_t(task) * count;
      CandidateSearch sink{estimate_, byte_rows_.data(), candidates, vocab_size_};
      multiply_panels(estimate_.matrix(), first, last, bytes, count, sink);
    });
  }

  void choose_among_candidates(Pool& pool, const Activation* rows, int count, std::int32_t* best) {
    const auto choose = [&](int row) { best[row] = choose_token(rows + std::size_t(row) * matrix_.num_inputs, row, count); };
    share(pool, std::int64_t(count) * kTypicalCandidates * kLanes * matrix_.num_inputs, count, choose);
  }

  std::int32_t choose_token(const Activation* input, int row, int count) const {
    Peak peak;
    Peaks sink{&peak, nullptr, vocab_size_};
    if (!std::isfinite(byte_rows_[row].scale)) {
      multiply_panels(matrix_, 0, matrix_.num_panels(), input, 1, sink);
    } else {
      float least = kMinusInfinity;
      for (int task = 0; task < num_tasks_; ++task) {
        least = std::max(least, candidates_[std::size_t(task) * count + row].least);
      }
      for (int task = 0; task < num_tasks_; ++task) {
        for (const auto& panel : candidates_[std::size_t(task) * count + row].panels) {
          if (panel.most >= least) multiply_panels(matrix_, panel.index, panel.index + 1, input, 1, sink);
        }
      }
    }
    float value = kMinusInfinity;
    std::int32_t token = 0;
    peak.merge_into(value, token);
    return token;
  }

  static constexpr int kTypicalCandidates = 16;

  int vocab_size_ = 0;
  Matrix matrix_;
  bool has_estimate_ = false;
  Estimate estimate_;
  std::vector<Peak> peaks_;  // by task, then row; as candidates_
  std::vector<Candidates> candidates_;
  std::vector<ByteRow> byte_rows_;
  Scratch<ByteQuads::Input> bytes_;
  int num_tasks_ = 0;
};

}  // namespace gptoss
