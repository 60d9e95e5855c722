// GPT-OSS's forward pass on a CPU with AVX-512 BF16: bfloat16 weights and cache, float32 in between.
//
// Stage 5 of a request: step. Owns: packed weights, the layout of keys and values inside a cache block, the arithmetic.
// Does not know: requests, sampling, which blocks belong to whom; block tables are read where Python keeps them.
//
// Every sum runs in an order that depends on the row alone, never on what shares its batch or on how a prompt was cut into
// chunks, so a request's logits are the same bits in any company.

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "abi.h"
#include "attention.h"
#include "experts.h"
#include "matrix.h"
#include "memory.h"
#include "rows.h"
#include "threads.h"
#include "unembedding.h"
#include "vectors.h"

namespace gptoss {

class Model {
 public:
  Model(const Shape& shape, const float* inverse_frequencies, const bf16* embedding, const float* norm, int num_threads)
      : shape_(shape),
        embedding_(embedding),
        norm_(norm, shape.hidden_size, shape.rms_norm_eps),
        pool_(num_threads),
        attention_(shape_, inverse_frequencies, pool_),
        experts_(shape_, pool_) {}

  void set_unembedding(const bf16* source) { unembedding_.set(source, shape_.vocab_size, shape_.hidden_size); }

  void add_layer(const LayerSource& source, bf16* keys, bf16* values) {
    layers_.push_back({attention_layer(source, keys, values), expert_layer(source)});
  }

  void forward(const Batch& batch, float* logits, std::int32_t* best) {
    float* residual = residual_.get(std::size_t(batch.num_tokens) * shape_.hidden_size);
    embed(batch, residual);
    attention_.compute_angles(batch);
    for (const Layer& layer : layers_) {
      attention_.add_to(residual, layer.attention, batch);
      experts_.add_to(residual, layer.experts, batch.num_tokens);
    }
    unembed(batch, residual, logits, best);
  }

 private:
  struct Layer {
    AttentionLayer attention;
    ExpertLayer experts;
  };

  AttentionLayer attention_layer(const LayerSource& source, bf16* keys, bf16* values) const {
    const int hidden = shape_.hidden_size;
    const int num_query = shape_.num_heads * shape_.head_dim, num_key = shape_.num_kv_heads * shape_.head_dim;
    AttentionLayer layer;
    layer.norm = RmsNorm(source.attention_norm, hidden, shape_.rms_norm_eps);
    layer.qkv = pack(source.qkv, source.qkv_bias, num_query + 2 * num_key, hidden);
    layer.output = pack(source.output, source.output_bias, hidden, num_query);
    layer.sinks.assign(source.sinks, source.sinks + shape_.num_heads);
    layer.is_sliding = source.is_sliding != 0;
    layer.keys = keys;
    layer.values = values;
    return layer;
  }

  ExpertLayer expert_layer(const LayerSource& source) const {
    const int hidden = shape_.hidden_size, inner = shape_.intermediate_size;
    ExpertLayer layer;
    layer.norm = RmsNorm(source.expert_norm, hidden, shape_.rms_norm_eps);
    layer.router = pack(source.router, source.router_bias, shape_.num_experts, hidden);
    // Gate and up rows alternate on disk; panels of 16 gates and of the 16 ups that belong to them alternate here.
    const int padded = (inner + kLanes - 1) / kLanes * kLanes;
    const auto by_panel = [inner](int row) {
      const int channel = row / (2 * kLanes) * kLanes + row % kLanes;
      return channel < inner ? 2 * channel + row / kLanes % 2 : -1;
    };
    for (int expert = 0; expert < shape_.num_experts; ++expert) {
      const bf16* gate_up = source.gate_up + std::size_t(expert) * 2 * inner * hidden;
      const bf16* down = source.down + std::size_t(expert) * hidden * inner;
      layer.gate_up.push_back(pack(gate_up, source.gate_up_bias + expert * 2 * inner, 2 * padded, hidden, by_panel));
      layer.down.push_back(pack(down, source.down_bias + expert * hidden, hidden, inner));
    }
    return layer;
  }

  void embed(const Batch& batch, float* residual) const {
    const std::size_t hidden = shape_.hidden_size;
    for (int t = 0; t < batch.num_tokens; ++t) {
      const bf16* row = embedding_ + batch.token_ids[t] * hidden;
      for (std::size_t i = 0; i < hidden; ++i) residual[t * hidden + i] = widen(row[i]);
    }
  }

  void unembed(const Batch& batch, const float* residual, float* logits, std::int32_t* best) {
    const std::size_t hidden = shape_.hidden_size;
    if (batch.num_samples == 0) return;
    bf16* rows = normed_.get(batch.num_samples * hidden);
    for (int s = 0; s < batch.num_samples; ++s) {
      norm_.apply(residual + batch.samples[s] * hidden, rows + s * hidden);
    }
    unembedding_.find_best(pool_, rows, batch.num_samples, logits, best);
  }

  Shape shape_;
  const bf16* embedding_;  // Python's, which outlives this
  RmsNorm norm_;
  std::vector<Layer> layers_;
  Unembedding unembedding_;
  Pool pool_;
  Attention attention_;
  Experts experts_;
  Scratch<float> residual_;
  Scratch<bf16> normed_;
};

}  // namespace gptoss

extern "C" {

using gptoss::Batch;
using gptoss::LayerSource;
using gptoss::Model;
using gptoss::Shape;
using gptoss::bf16;

void* gptoss_create(
    const Shape* shape, const float* inverse_frequencies, const bf16* embedding, const float* norm,
    std::int32_t num_threads) {
  return new Model(*shape, inverse_frequencies, embedding, norm, num_threads);
}

void gptoss_set_unembedding(void* model, const bf16* source) { static_cast<Model*>(model)->set_unembedding(source); }

// keys, values: the layer's part of the cache, [num_blocks, num_kv_heads, 16 * head_dim], aligned to 64 bytes.
void gptoss_add_layer(void* model, const LayerSource* source, bf16* keys, bf16* values) {
  static_cast<Model*>(model)->add_layer(*source, keys, values);
}

// logits: [num_samples, vocab_size], or null where only the best tokens [num_samples] are wanted.
void gptoss_forward(void* model, const Batch* batch, float* logits, std::int32_t* best) {
  static_cast<Model*>(model)->forward(*batch, logits, best);
}

void gptoss_destroy(void* model) { delete static_cast<Model*>(model); }

}  // extern "C"
