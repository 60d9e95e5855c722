// The mixture of experts: routing, and each chosen expert's clamped SwiGLU.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <variant>
#include <vector>

#include "abi.h"
#include "matrix.h"
#include "memory.h"
#include "mxfp4.h"
#include "rows.h"
#include "threads.h"
#include "vectors.h"

namespace gptoss {

template <typename Packed>
struct ExpertMatrices {
  std::vector<Packed> gate_up, down;  // by expert
};

struct ExpertLayer {
  RmsNorm norm;
  Matrix router;
  std::variant<ExpertMatrices<Matrix>, ExpertMatrices<Fp4Matrix>> matrices;
};

class Experts {
 public:
  Experts(const Shape& shape, Pool& pool) : shape_(shape), pool_(pool) {}

  // Adds what each row's best experts make of it to the residual rows [count, hidden_size].
  void add_to(float* residual, const ExpertLayer& layer, int count) {
    Activation* normed = normed_.get(std::size_t(count) * shape_.hidden_size);
    layer.norm.apply(residual, count, normed);
    float* scores = products_.get(std::size_t(count) * layer.router.num_outputs);
    multiply(pool_, layer.router, normed, count, scores);
    assign_experts(scores, layer.router.num_outputs, count);

    used_.clear();
    int total = 0;
    for (int expert = 0; expert < shape_.num_experts; ++expert) {
      if (!assignments_[expert].empty()) used_.push_back({expert, total});
      total += static_cast<int>(assignments_[expert].size());
    }
    const int stride = pad_to_lanes(shape_.hidden_size);
    float* outputs = updates_.get(std::size_t(total) * stride);
    Activation* inner = inner_.get(std::size_t(total) * shape_.intermediate_size);
    std::visit([&](const auto& matrices) { apply_all(matrices, total, normed, inner, outputs); }, layer.matrices);
    for (const auto& [expert, start] : used_) {  // in the experts' order, the same for a token in any company
      for (std::size_t i = 0; i < assignments_[expert].size(); ++i) {
        const auto& [token, share] = assignments_[expert][i];
        float* row = residual + std::size_t(token) * shape_.hidden_size;
        const float* more = outputs + (std::size_t(start) + i) * stride;
        for (int c = 0; c < shape_.hidden_size; ++c) row[c] += share * more[c];
      }
    }
  }

 private:
  struct Assignment {
    int token;
    float share;
  };

  // Each token's best experts, with the softmax of their scores as shares.
  void assign_experts(const float* scores, int stride, int count) {
    const int num_chosen = shape_.num_experts_per_token;
    assignments_.resize(shape_.num_experts);
    for (auto& list : assignments_) list.clear();
    std::vector<int> chosen(num_chosen);
    for (int t = 0; t < count; ++t) {
      const float* row = scores + std::size_t(t) * stride;
      for (int k = 0; k < num_chosen; ++k) {
        int top = -1;
        for (int e = 0; e < shape_.num_experts; ++e) {
          const bool taken = std::find(chosen.begin(), chosen.begin() + k, e) != chosen.begin() + k;
          if (!taken && (top < 0 || row[e] > row[top])) top = e;
        }
        chosen[k] = top;
      }
      float total = 0.0f;
      for (int k = 0; k < num_chosen; ++k) total += std::exp(row[chosen[k]] - row[chosen[0]]);
      for (int k = 0; k < num_chosen; ++k) {
        assignments_[chosen[k]].push_back({t, std::exp(row[chosen[k]] - row[chosen[0]]) / total});
      }
    }
  }

  // The index-th of `count` parts of a matrix.
  struct Piece {
    int index, count;
    int begin(int size) const { return size * index / count; }
    int end(int size) const { return size * (index + 1) / count; }
  };

  // All threads meet amid a layer: of few experts, each is cut up, so that any number of threads, slow ones among them, has
  // a fair part. inner: [total, intermediate_size], outputs: [total, down's num_outputs], both as used_ has the experts.
  template <typename Packed>
  void apply_all(
      const ExpertMatrices<Packed>& matrices, int total, const Activation* normed, Activation* inner, float* outputs) const {
    const int num_used = static_cast<int>(used_.size()), num_inner = shape_.intermediate_size;
    const int num_pieces = std::max(1, kTasksPerThread * pool_.size() / std::max(1, num_used));
    const std::int64_t work = std::int64_t(total) * shape_.hidden_size * num_inner;
    share(pool_, 2 * work, num_used * num_pieces, [&](int task) {
      const auto [expert, start] = used_[task / num_pieces];
      const Piece piece{task % num_pieces, num_pieces};
      activate(matrices.gate_up[expert], assignments_[expert], piece, normed, inner + std::size_t(start) * num_inner);
    });
    share(pool_, work, num_used * num_pieces, [&](int task) {
      const auto [expert, start] = used_[task / num_pieces];
      const Piece piece{task % num_pieces, num_pieces};
      const Packed& down = matrices.down[expert];
      Store store{outputs + std::size_t(start) * down.num_outputs, down.num_outputs, 0};
      const int first = piece.begin(down.num_panels()), last = piece.end(down.num_panels());
      const int count = static_cast<int>(assignments_[expert].size());
      multiply_panels(down, first, last, inner + std::size_t(start) * num_inner, count, store);
    });
  }

  // Writes a piece of the channels of rows [list.size(), intermediate_size].
  template <typename Packed>
  void activate(
      const Packed& gate_up, const std::vector<Assignment>& list, Piece piece, const Activation* normed,
      Activation* output) const {
    const int rows = static_cast<int>(list.size()), hidden = shape_.hidden_size;
    thread_local Scratch<Activation> gathered_storage;
    thread_local Scratch<float> product_storage;
    const Activation* input = normed + std::size_t(list[0].token) * hidden;
    if (rows > 1) {
      Activation* gathered = gathered_storage.get(std::size_t(rows) * hidden);
      for (int r = 0; r < rows; ++r) {
        const Activation* row = normed + std::size_t(list[r].token) * hidden;
        std::memcpy(gathered + std::size_t(r) * hidden, row, hidden * sizeof(Activation));
      }
      input = gathered;
    }
    const int first = piece.begin(gate_up.num_panels() / 2), last = piece.end(gate_up.num_panels() / 2);
    const int width = (last - first) * 2 * kLanes;
    float* product = product_storage.get(std::size_t(rows) * width);
    Store store{product, width, 2 * first};
    multiply_panels(gate_up, 2 * first, 2 * last, input, rows, store);
    const int channel = first * kLanes, end = std::min(last * kLanes, shape_.intermediate_size);
    for (int r = 0; r < rows; ++r) {
      swiglu(product + std::size_t(r) * width, end - channel, output + std::size_t(r) * shape_.intermediate_size + channel);
    }
  }

  // Both sides clamped, the linear one shifted by one; a vector of gates, then the ups that belong to them, and so on.
  void swiglu(const float* gate_up, int count, Activation* output) const {
    const Floats limit = broadcast(shape_.swiglu_limit), one = broadcast(1.0f), zero = broadcast(0.0f);
    for (int i = 0; i < count; i += kLanes) {
      const Floats gate = min(load(gate_up + 2 * i), limit);
      const Floats up = max(min(load(gate_up + 2 * i + kLanes), limit), zero - limit);
      // sigmoid(z) by e^-|z|, which cannot overflow
      const Floats z = gate * broadcast(shape_.swiglu_alpha);
      const Floats e = exp_of(zero - abs(z));
      const Floats sigmoid = select(is_less(z, zero), e, one) / (one + e);
      Activation values[kLanes];
      Activation* target = count - i >= kLanes ? output + i : values;
      store_activations(target, gate * sigmoid * (up + one));
      if (target == values) std::copy_n(values, count - i, output + i);
    }
  }

  const Shape& shape_;
  Pool& pool_;
  std::vector<std::vector<Assignment>> assignments_;  // by expert
  std::vector<std::pair<int, int>> used_;             // experts with work, and where their outputs begin
  Scratch<Activation> normed_, inner_;
  Scratch<float> products_, updates_;
};

}  // namespace gptoss
