// GPT-OSS's forward pass on a CPU with AVX2 or AVX-512 BF16 (vectors.h): bfloat16 weights and cache, float32 in between;
// experts in bfloat16 or MXFP4.
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
#include "mxfp4.h"
#include "rows.h"
#include "threads.h"
#include "unembedding.h"
#include "vectors.h"

namespace gptoss {

class Model {
 public:
  Model(const Shape& shape, const float* inverse_frequencies, int num_threads)
      : shape_(shape),
        pool_(num_threads),
        attention_(shape_, inverse_frequencies, pool_),
        experts_(shape_, pool_) {}

  void set_embedding(const bf16* embedding) { embedding_ = embedding; }

  void add_layer(const LayerSource& source) { layers_.push_back({attention_layer(source), expert_layer(source)}); }

  void set_unembedding(const float* norm, const bf16* source) {
    norm_ = RmsNorm(norm, shape_.hidden_size, shape_.rms_norm_eps);
    unembedding_.set(pool_, source, shape_.vocab_size, shape_.hidden_size);
  }

  void set_cache(int layer, bf16* keys, bf16* values) {
    layers_[layer].attention.keys = keys;
    layers_[layer].attention.values = values;
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

  AttentionLayer attention_layer(const LayerSource& source) const {
    const int hidden = shape_.hidden_size;
    const int num_query = shape_.num_heads * shape_.head_dim, num_key = shape_.num_kv_heads * shape_.head_dim;
    AttentionLayer layer;
    layer.norm = RmsNorm(source.attention_norm, hidden, shape_.rms_norm_eps);
    layer.qkv = pack(source.qkv, source.qkv_bias, num_query + 2 * num_key, hidden);
    layer.output = pack(source.output, source.output_bias, hidden, num_query);
    layer.sinks.assign(source.sinks, source.sinks + shape_.num_heads);
    layer.is_sliding = source.is_sliding != 0;
    return layer;
  }

  ExpertLayer expert_layer(const LayerSource& source) {
    ExpertLayer layer;
    layer.norm = RmsNorm(source.expert_norm, shape_.hidden_size, shape_.rms_norm_eps);
    layer.router = pack(source.router, source.router_bias, shape_.num_experts, shape_.hidden_size);
    if (source.gate_up_scales == nullptr) {
      const auto rows = [](const void* values) { return Bf16Rows{static_cast<const bf16*>(values)}; };
      layer.matrices = expert_matrices(source, rows(source.gate_up), rows(source.down));
    } else {
      const auto rows = [](const void* codes, const std::uint8_t* scales) {
        return Mxfp4Rows{static_cast<const std::uint8_t*>(codes), scales};
      };
      layer.matrices = expert_matrices(
          source, rows(source.gate_up, source.gate_up_scales), rows(source.down, source.down_scales));
    }
    return layer;
  }

  template <typename Rows>
  ExpertMatrices<typename Rows::Packed> expert_matrices(const LayerSource& source, Rows gate_up, Rows down) {
    const int hidden = shape_.hidden_size, inner = shape_.intermediate_size;
    // Gate and up rows alternate on disk; panels of gates and of the ups that belong to them alternate here.
    const int padded = pad_to_lanes(inner);
    const auto by_panel = [inner](int row) {
      const int channel = row / (2 * kLanes) * kLanes + row % kLanes;
      return channel < inner ? 2 * channel + row / kLanes % 2 : -1;
    };
    const auto in_order = [](int row) { return row; };
    ExpertMatrices<typename Rows::Packed> matrices;
    gate_up.fetch(std::size_t(shape_.num_experts) * 2 * inner * hidden);
    down.fetch(std::size_t(shape_.num_experts) * hidden * inner);
    matrices.gate_up.resize(shape_.num_experts);
    matrices.down.resize(shape_.num_experts);
    pool_.run(shape_.num_experts, [&](int expert) {
      const bf16* gate_up_bias = source.gate_up_bias + std::size_t(expert) * 2 * inner;
      const bf16* down_bias = source.down_bias + std::size_t(expert) * hidden;
      matrices.gate_up[expert] =
          pack(gate_up.matrix(expert, 2 * inner, hidden), gate_up_bias, 2 * padded, hidden, by_panel);
      matrices.down[expert] = pack(down.matrix(expert, hidden, inner), down_bias, hidden, inner, in_order);
    });
    return matrices;
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
    Activation* rows = normed_.get(batch.num_samples * hidden);
    for (int s = 0; s < batch.num_samples; ++s) {
      norm_.apply(residual + batch.samples[s] * hidden, rows + s * hidden);
    }
    unembedding_.find_best(pool_, rows, batch.num_samples, logits, best);
  }

  Shape shape_;
  const bf16* embedding_ = nullptr;  // Python's, which outlives this
  RmsNorm norm_;
  std::vector<Layer> layers_;
  Unembedding unembedding_;
  Pool pool_;
  Attention attention_;
  Experts experts_;
  Scratch<float> residual_;
  Scratch<Activation> normed_;
};

}  // namespace gptoss

// All else is hidden: libraries for two instruction sets can be in one process.
#pragma GCC visibility push(default)
extern "C" {

using gptoss::Batch;
using gptoss::LayerSource;
using gptoss::Model;
using gptoss::Shape;
using gptoss::bf16;

void* gptoss_create(const Shape* shape, const float* inverse_frequencies, std::int32_t num_threads) {
  return new Model(*shape, inverse_frequencies, num_threads);
}

void gptoss_set_embedding(void* model, const bf16* source) { static_cast<Model*>(model)->set_embedding(source); }

void gptoss_add_layer(void* model, const LayerSource* source) { static_cast<Model*>(model)->add_layer(*source); }

void gptoss_set_unembedding(void* model, const float* norm, const bf16* source) {
  static_cast<Model*>(model)->set_unembedding(norm, source);
}

// keys, values: the layer's part of the cache, [num_blocks, num_kv_heads, 16 * head_dim], aligned to 64 bytes.
void gptoss_set_cache(void* model, std::int32_t layer, bf16* keys, bf16* values) {
  static_cast<Model*>(model)->set_cache(layer, keys, values);
}

// logits: [num_samples, vocab_size], or null where only the best tokens [num_samples] are wanted.
void gptoss_forward(void* model, const Batch* batch, float* logits, std::int32_t* best) {
  static_cast<Model*>(model)->forward(*batch, logits, best);
}

void gptoss_destroy(void* model) { delete static_cast<Model*>(model); }

}  // extern "C"
#pragma GCC visibility pop
