// Grouped-query attention with sinks over a paged cache.
//
// A block of the cache holds 16 positions: keys as [head_dim / 2][16][2], panels side by side; values as [16][head_dim].

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "abi.h"
#include "matrix.h"
#include "memory.h"
#include "rows.h"
#include "threads.h"
#include "vectors.h"

namespace gptoss {

constexpr int kBlock = 16;  // positions in a cache block

struct AttentionLayer {
  RmsNorm norm;
  Matrix qkv, output;
  std::vector<float> sinks;
  bool is_sliding = false;
  bf16* keys = nullptr;  // the layer's part of the cache; Python's
  bf16* values = nullptr;
};

class Attention {
 public:
  Attention(const Shape& shape, const float* inverse_frequencies, Pool& pool)
      : shape_(shape), inverse_frequencies_(inverse_frequencies, inverse_frequencies + shape.head_dim / 2), pool_(pool) {}

  // Called once a step, before the layers.
  void compute_angles(const Batch& batch) {
    const int half = shape_.head_dim / 2;
    angles_cos_.resize(std::size_t(batch.num_tokens) * half);
    angles_sin_.resize(std::size_t(batch.num_tokens) * half);
    for (int t = 0; t < batch.num_tokens; ++t) {
      for (int i = 0; i < half; ++i) {
        const float angle = static_cast<float>(batch.positions[t]) * inverse_frequencies_[i];
        angles_cos_[std::size_t(t) * half + i] = std::cos(angle) * shape_.rope_amplitude;
        angles_sin_[std::size_t(t) * half + i] = std::sin(angle) * shape_.rope_amplitude;
      }
    }
  }

  // Adds a layer's attention to the residual rows [num_tokens, hidden_size], and its keys and values to the cache.
  void add_to(float* residual, const AttentionLayer& layer, const Batch& batch) {
    const int count = batch.num_tokens, head_dim = shape_.head_dim;
    const int num_query = shape_.num_heads * head_dim;
    Activation* normed = normed_.get(std::size_t(count) * shape_.hidden_size);
    layer.norm.apply(residual, count, normed);
    const int width = layer.qkv.num_outputs;
    float* qkv = products_.get(std::size_t(count) * width);
    multiply(pool_, layer.qkv, normed, count, qkv);

    const std::int32_t* table = layer.is_sliding ? batch.sliding_table : batch.full_table;
    Activation* queries = queries_.get(std::size_t(count) * num_query);
    for (int t = 0; t < count; ++t) {
      float* heads = qkv + std::size_t(t) * width;
      for (int h = 0; h < shape_.num_heads; ++h) rotate(heads + h * head_dim, t);
      for (int i = 0; i < num_query; ++i) queries[std::size_t(t) * num_query + i] = to_activation(heads[i]);
      remember(layer, heads + num_query, t, batch.positions[t], table + std::size_t(batch.rows[t]) * batch.table_width);
    }

    Activation* mixed = mixed_.get(std::size_t(count) * num_query);
    const int num_tasks = count * shape_.num_kv_heads;
    std::int64_t num_keys = 0;
    for (int t = 0; t < count; ++t) {
      num_keys += layer.is_sliding ? std::min(batch.positions[t] + 1, shape_.sliding_window) : batch.positions[t] + 1;
    }
    const auto task = [&](int index) {
      const int t = index / shape_.num_kv_heads, kv_head = index % shape_.num_kv_heads;
      const std::int32_t* blocks = table + std::size_t(batch.rows[t]) * batch.table_width;
      const std::size_t at = std::size_t(t) * num_query + kv_head * (num_query / shape_.num_kv_heads);
      attend_one(layer, kv_head, queries + at, batch.positions[t], blocks, mixed + at);
    };
    share(pool_, num_keys * 2 * num_query, num_tasks, task);

    float* update = updates_.get(std::size_t(count) * layer.output.num_outputs);
    multiply(pool_, layer.output, mixed, count, update);
    add_rows(residual, update, count, shape_.hidden_size, layer.output.num_outputs);
  }

 private:
  // Rotates one head [head_dim] by its token's position, in place; dimension i pairs with i + head_dim / 2.
  void rotate(float* head, int token) const {
    const int half = shape_.head_dim / 2;
    const float* cosine = angles_cos_.data() + std::size_t(token) * half;
    const float* sine = angles_sin_.data() + std::size_t(token) * half;
    for (int i = 0; i < half; ++i) {
      const float first = head[i], second = head[i + half];
      head[i] = first * cosine[i] - second * sine[i];
      head[i + half] = second * cosine[i] + first * sine[i];
    }
  }

  std::size_t block_offset(int block, int kv_head) const {
    return (std::size_t(block) * shape_.num_kv_heads + kv_head) * kBlock * shape_.head_dim;
  }

  // Writes a token's keys and values [2, num_kv_heads, head_dim] into its slot; rotates the keys on the way.
  void remember(const AttentionLayer& layer, float* heads, int token, int position, const std::int32_t* blocks) const {
    const int head_dim = shape_.head_dim, slot = position % kBlock;
    for (int h = 0; h < shape_.num_kv_heads; ++h) {
      float* key = heads + h * head_dim;
      const float* value = heads + (shape_.num_kv_heads + h) * head_dim;
      rotate(key, token);
      const std::size_t offset = block_offset(blocks[position / kBlock], h);
      bf16* keys = layer.keys + offset + slot * 2;
      bf16* values = layer.values + offset + std::size_t(slot) * head_dim;
      for (int i = 0; i < head_dim; ++i) keys[i / 2 * 2 * kBlock + i % 2] = round_bf16(key[i]);
      for (int i = 0; i < head_dim; ++i) values[i] = round_bf16(value[i]);
    }
  }

  // One token's query heads that share a key head: queries and output are [group, head_dim].
  void attend_one(
      const AttentionLayer& layer, int kv_head, const Activation* queries, int position, const std::int32_t* blocks,
      Activation* output) const {
    const int head_dim = shape_.head_dim, group = shape_.num_heads / shape_.num_kv_heads;
    const int first = layer.is_sliding ? std::max(0, position - shape_.sliding_window + 1) : 0;
    const int width = (position / kBlock - first / kBlock + 1) * kBlock;
    thread_local Scratch<float> scores_storage;
    float* scores = scores_storage.get(std::size_t(group) * width);

    const Span span{layer.keys, layer.values, blocks, first, position, kv_head, width};
    int g = 0;
    const auto take = [&](auto heads) {
      for (; group - g >= heads; g += heads) {
        score_keys<heads>(span, queries + g * head_dim, scores + std::size_t(g) * width);
        for (int h = g; h < g + heads; ++h) {
          softmax_with_sink(scores + std::size_t(h) * width, width, layer.sinks[kv_head * group + h]);
        }
        add_values<heads>(span, scores + std::size_t(g) * width, output + g * head_dim);
      }
    };
    take(std::integral_constant<int, 8>{});
    take(std::integral_constant<int, 4>{});
    take(std::integral_constant<int, 1>{});
  }

  // The positions from first to last of one sequence, as one of its key heads sees them.
  struct Span {
    const bf16* keys;
    const bf16* values;
    const std::int32_t* blocks;
    int first, last, kv_head;
    int width;  // of a row of scores: whole blocks

    int first_block() const { return first / kBlock; }
    int last_block() const { return last / kBlock; }
    int from(int block) const { return std::max(first - block * kBlock, 0); }
    int to(int block) const { return std::min(last - block * kBlock + 1, kBlock); }
  };

  // scores[kHeads, width] of queries [kHeads, head_dim] that share a key head: each key is loaded once for all of them.
  template <int kHeads>
  void score_keys(const Span& span, const Activation* queries, float* scores) const {
    const int head_dim = shape_.head_dim;
    const Floats scale = broadcast(1.0f / std::sqrt(static_cast<float>(head_dim)));
    for (int b = span.first_block(); b <= span.last_block(); ++b) {
      for (int slot = 0; slot < kBlock; slot += kLanes) {
        const bf16* keys = span.keys + block_offset(span.blocks[b], span.kv_head) + slot * 2;
        Floats sums[kHeads][1];
        for (auto& sum : sums) sum[0] = broadcast(0.0f);
        for (int i = 0; i < head_dim; i += 2) {
          const Integers pairs[1] = {load_aligned(keys + i * kBlock)};
          add_products<PairProducts>(sums, 0, pairs, queries + i, head_dim);
        }
        const Mask visible = lanes_below(span.to(b) - slot) & ~lanes_below(span.from(b) - slot);
        float* target = scores + (b - span.first_block()) * kBlock + slot;
        for (int h = 0; h < kHeads; ++h) {
          store(target + std::size_t(h) * span.width, select(visible, sums[h][0] * scale, broadcast(kMinusInfinity)));
        }
      }
    }
  }

  // output[kHeads, head_dim] = weights[kHeads, width] · values: each value is loaded once for all heads.
  template <int kHeads>
  void add_values(const Span& span, const float* weights, Activation* output) const {
    const int head_dim = shape_.head_dim;
    for (int i = 0; i < head_dim; i += kLanes) {
      Floats sums[kHeads];
      for (auto& sum : sums) sum = broadcast(0.0f);
      for (int b = span.first_block(); b <= span.last_block(); ++b) {
        const bf16* values = span.values + block_offset(span.blocks[b], span.kv_head) + i;
        const float* block_weights = weights + (b - span.first_block()) * kBlock;
        for (int j = span.from(b); j < span.to(b); ++j) {
          const Floats value = load_bf16(values + std::size_t(j) * head_dim);
          for (int h = 0; h < kHeads; ++h) {
            sums[h] = multiply_add(broadcast(block_weights[std::size_t(h) * span.width + j]), value, sums[h]);
          }
        }
      }
      for (int h = 0; h < kHeads; ++h) store_activations(output + h * head_dim + i, sums[h]);
    }
  }

  // Turns scores [width], whole vectors, into weights; the sink takes part in the sum and has no value.
  static void softmax_with_sink(float* scores, int width, float sink) {
    Floats largest = broadcast(sink);
    for (int i = 0; i < width; i += kLanes) largest = max(largest, load(scores + i));
    const float peak = max_of(largest);
    Floats sum = broadcast(0.0f);
    for (int i = 0; i < width; i += kLanes) {
      const Floats weight = exp_of(load(scores + i) - broadcast(peak));
      store(scores + i, weight);
      sum = sum + weight;
    }
    const Floats share = broadcast(1.0f / (sum_of(sum) + exp_of(sink - peak)));
    for (int i = 0; i < width; i += kLanes) store(scores + i, load(scores + i) * share);
  }

  const Shape& shape_;
  std::vector<float> inverse_frequencies_;
  Pool& pool_;
  std::vector<float> angles_cos_, angles_sin_;
  Scratch<Activation> normed_, queries_, mixed_;
  Scratch<float> products_, updates_;
};

}  // namespace gptoss
