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
    const std::int64_t work = std::int64_t(total) * 3 * shape_.hidden_size * shape_.intermediate_size;
    const auto apply_all = [&](const auto& matrices) {
      share(pool_, work, static_cast<int>(used_.size()), [&](int index) {
        const auto [expert, start] = used_[index];
        apply_expert(matrices, expert, normed, outputs + std::size_t(start) * stride);
      });
    };
    std::visit(apply_all, layer.matrices);
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

  template <typename Packed>
  void apply_expert(const ExpertMatrices<Packed>& matrices, int expert, const Activation* normed, float* output) const {
    const auto& list = assignments_[expert];
    const Packed &gate_up = matrices.gate_up[expert], &down = matrices.down[expert];
    const int rows = static_cast<int>(list.size()), hidden = shape_.hidden_size;
    thread_local Scratch<Activation> gathered_storage, inner_storage;
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
    float* product = product_storage.get(std::size_t(rows) * gate_up.num_outputs);
    multiply_all(gate_up, input, rows, product);
    Activation* inner = inner_storage.get(std::size_t(rows) * down.num_inputs + kLanes);
    for (int r = 0; r < rows; ++r) {
      swiglu(product + std::size_t(r) * gate_up.num_outputs, inner + std::size_t(r) * down.num_inputs);
    }
    multiply_all(down, inner, rows, output);
  }

  // Both sides clamped, the linear one shifted by one; a vector of gates, then the ups that belong to them, and so on.
  void swiglu(const float* gate_up, Activation* output) const {
    const Floats limit = broadcast(shape_.swiglu_limit), one = broadcast(1.0f), zero = broadcast(0.0f);
    for (int i = 0; i < shape_.intermediate_size; i += kLanes) {
      const Floats gate = min(load(gate_up + 2 * i), limit);
      const Floats up = max(min(load(gate_up + 2 * i + kLanes), limit), zero - limit);
      // sigmoid(z) by e^-|z|, which cannot overflow
      const Floats z = gate * broadcast(shape_.swiglu_alpha);
      const Floats e = exp_of(zero - abs(z));
      const Floats sigmoid = select(is_less(z, zero), e, one) / (one + e);
      store_activations(output + i, gate * sigmoid * (up + one));
    }
  }

  const Shape& shape_;
  Pool& pool_;
  std::vector<std::vector<Assignment>> assignments_;  // by expert
  std::vector<std::pair<int, int>> used_;             // experts with work, and where their outputs begin
  Scratch<Activation> normed_;
  Scratch<float> products_, updates_;
};

}  // namespace gptoss
