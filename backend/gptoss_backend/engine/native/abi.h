// The structs that Python fills in; library.py mirrors each.

#pragma once

#include <cstdint>

#include "vectors.h"

namespace gptoss {

extern "C" {

// Mirrored by `ShapeStruct` in library.py.
struct Shape {
  std::int32_t vocab_size, hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim;
  std::int32_t num_experts, num_experts_per_token, sliding_window;
  float rms_norm_eps, swiglu_alpha, swiglu_limit, rope_amplitude;
};

// One layer's weights as Python has them, [out, in] row by row. Mirrored by `LayerSourceStruct` in library.py.
struct LayerSource {
  const float* attention_norm;
  const bf16* qkv;
  const bf16* qkv_bias;
  const bf16* output;
  const bf16* output_bias;
  const float* sinks;
  const float* expert_norm;
  const bf16* router;
  const bf16* router_bias;
  const void* gate_up;  // bf16, or blocks of MXFP4 where there are scales
  const std::uint8_t* gate_up_scales;
  const bf16* gate_up_bias;
  const void* down;
  const std::uint8_t* down_scales;
  const bf16* down_bias;
  std::int32_t is_sliding;
};

// A step. Mirrored by `BatchStruct` in library.py.
struct Batch {
  const std::int32_t* token_ids;  // [num_tokens]
  const std::int32_t* positions;  // [num_tokens]
  const std::int32_t* rows;       // [num_tokens], of the block tables
  const std::int32_t* samples;    // [num_samples], tokens after which the next one is wanted
  const std::int32_t* full_table;
  const std::int32_t* sliding_table;
  std::int32_t num_tokens, num_samples, table_width;
};

}  // extern "C"

}  // namespace gptoss
