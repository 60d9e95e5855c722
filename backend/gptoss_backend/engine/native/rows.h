// What happens to a token's row of hidden values between the products.

#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "vectors.h"

namespace gptoss {

class RmsNorm {
 public:
  RmsNorm() = default;
  RmsNorm(const float* weight, int size, float epsilon) : weight_(weight, weight + size), epsilon_(epsilon) {}

  // RMSNorm of one row, rounded to what the products take.
  void apply(const float* input, Activation* output) const {
    const int size = static_cast<int>(weight_.size());
    Floats sum = broadcast(0.0f);
    int i = 0;
    for (; i + kLanes <= size; i += kLanes) {
      const Floats x = load(input + i);
      sum = multiply_add(x, x, sum);
    }
    float total = sum_of(sum);
    for (; i < size; ++i) total += input[i] * input[i];
    const float scale = 1.0f / std::sqrt(total / size + epsilon_);
    for (i = 0; i + kLanes <= size; i += kLanes) {
      store_activations(output + i, load(input + i) * broadcast(scale) * load(weight_.data() + i));
    }
    for (; i < size; ++i) output[i] = to_activation(input[i] * scale * weight_[i]);
  }

  void apply(const float* rows, int count, Activation* output) const {
    for (std::size_t t = 0; t < std::size_t(count); ++t) apply(rows + t * weight_.size(), output + t * weight_.size());
  }

 private:
  std::vector<float> weight_;
  float epsilon_ = 0.0f;
};

// Adds an update, whose rows may be padded to `stride`, to rows of `size`.
inline void add_rows(float* rows, const float* update, int count, int size, int stride) {
  for (int t = 0; t < count; ++t) {
    float* row = rows + std::size_t(t) * size;
    const float* more = update + std::size_t(t) * stride;
    for (int i = 0; i < size; ++i) row[i] += more[i];
  }
}

}  // namespace gptoss
