// GPT-OSS's forward pass on a CPU with AVX-512 BF16: bfloat16 weights and cache, float32 in between.
//
// Stage 5 of a request: step. Owns: packed weights, the layout of keys and values inside a cache block, the arithmetic.
// Does not know: requests, sampling, which blocks belong to whom; block tables are read where Python keeps them.
//
// Every sum runs in an order that depends on the row alone, never on what shares its batch or on how a prompt was cut into
// chunks, so a request's logits are the same bits in any company.
//
// Weights are packed into panels of 16 outputs: [outputs / 16][inputs / 2][16][2]. One 64-byte load holds two inputs of
// 16 outputs, which is what one VDPBF16PS takes; a panel is read from its beginning to its end.
//
// A block of the cache holds 16 positions: keys as [head_dim / 2][16][2], the same shape as a panel; values as [16][head_dim].

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace {

using bf16 = std::uint16_t;
constexpr int kLanes = 16;
constexpr int kBlock = 16;  // positions in a cache block
constexpr int kPrefetchBytes = 1536;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// ---------------------------------------------------------------------------------------------------- memory and threads

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

template <typename T>
using Buffer = std::unique_ptr<T[], Free>;

template <typename T>
Buffer<T> allocate(std::size_t count) {
  const std::size_t bytes = (count * sizeof(T) + 4095) / 4096 * 4096;
  return Buffer<T>(static_cast<T*>(std::aligned_alloc(4096, bytes)));
}

// A workspace that only grows, so that a steady state allocates nothing.
template <typename T>
struct Scratch {
  Buffer<T> memory;
  std::size_t capacity = 0;
  T* get(std::size_t count) {
    if (count > capacity) {
      memory = allocate<T>(count);
      capacity = count;
    }
    return memory.get();
  }
};

// Tasks are taken one by one from a counter: a helper whose core is busy elsewhere takes fewer, and nobody spins for it.
class Pool {
 public:
  explicit Pool(int num_threads) {
    for (int i = 1; i < num_threads; ++i) helpers_.emplace_back([this] { help(); });
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closing_ = true;
    }
    wake_.notify_all();
    for (auto& helper : helpers_) helper.join();
  }

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  // Runs task(index) for every index below count and returns when all are done.
  void run(int count, const std::function<void(int)>& task) {
    if (helpers_.empty() || count == 1) {
      for (int i = 0; i < count; ++i) task(i);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      task_ = &task;
      count_ = count;
      next_ = 0;
      ++round_;
    }
    wake_.notify_all();
    work(task, count);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return active_ == 0; });
    task_ = nullptr;
  }

 private:
  void work(const std::function<void(int)>& task, int count) {
    for (int i = next_++; i < count; i = next_++) task(i);
  }

  void help() {
    std::uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return closing_ || (task_ != nullptr && round_ != seen); });
      if (closing_) return;
      seen = round_;
      const auto* task = task_;
      const int count = count_;
      ++active_;
      lock.unlock();
      work(*task, count);
      lock.lock();
      if (--active_ == 0) done_.notify_all();
    }
  }

  std::vector<std::thread> helpers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<int> next_{0};
  const std::function<void(int)>* task_ = nullptr;  // guarded by mutex_, as is all below
  int count_ = 0;
  int active_ = 0;
  std::uint64_t round_ = 0;
  bool closing_ = false;
};

// ----------------------------------------------------------------------------------------------------- numbers in vectors

inline __m512bh as_pairs(__m512i bits) { return reinterpret_cast<__m512bh&>(bits); }

inline __m512 load_bf16(const bf16* source) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline void store_bf16(bf16* target, __m512 values) {
  const __m256bh rounded = _mm512_cvtneps_pbh(values);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), reinterpret_cast<const __m256i&>(rounded));
}

inline bf16 round_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float widen(bf16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

inline std::int32_t load_pair(const bf16* source) {
  std::int32_t pair;
  std::memcpy(&pair, source, 4);
  return pair;
}

// e^x for x <= 0, to about 2 units in the last place: 2^n times a polynomial on [-ln2/2, ln2/2].
inline __m512 exp_of(__m512 x) {
  const __m512 low = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(low, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), low);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
  __m512 p = _mm512_set1_ps(1.98756915e-4f);
  for (float c : {1.39819995e-3f, 8.33345205e-3f, 4.16657962e-2f, 1.66666655e-1f, 5.0000001e-1f}) {
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  }
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  const __mmask16 is_zero = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_LT_OQ);
  return _mm512_mask_mov_ps(_mm512_scalef_ps(p, n), is_zero, _mm512_setzero_ps());
}

inline float exp_of(float x) { return _mm512_cvtss_f32(exp_of(_mm512_set1_ps(x))); }

// -------------------------------------------------------------------------------------------------- matrix multiplication

struct Matrix {
  Buffer<bf16> panels;
  Buffer<float> bias;
  int num_outputs = 0;  // a multiple of 16; rows added to reach it are zero
  int num_inputs = 0;

  const bf16* panel(int index) const { return panels.get() + std::size_t(index) * num_inputs * kLanes; }
};

// Packs rows [num_rows, num_inputs], row r coming from source row order(r); a negative one gives zeros.
template <typename Order>
Matrix pack(const bf16* source, const bf16* bias, int num_rows, int num_inputs, Order order) {
  Matrix matrix;
  matrix.num_outputs = (num_rows + kLanes - 1) / kLanes * kLanes;
  matrix.num_inputs = num_inputs;
  matrix.panels = allocate<bf16>(std::size_t(matrix.num_outputs) * num_inputs);
  matrix.bias = allocate<float>(matrix.num_outputs);
  for (int row = 0; row < matrix.num_outputs; ++row) {
    const int from = row < num_rows ? order(row) : -1;
    bf16* target = matrix.panels.get() + std::size_t(row / kLanes) * num_inputs * kLanes + row % kLanes * 2;
    matrix.bias[row] = from >= 0 && bias != nullptr ? widen(bias[from]) : 0.0f;
    for (int i = 0; i < num_inputs; ++i) {
      target[i / 2 * 2 * kLanes + i % 2] = from >= 0 ? source[std::size_t(from) * num_inputs + i] : 0;
    }
  }
  return matrix;
}

Matrix pack(const bf16* source, const bf16* bias, int num_rows, int num_inputs) {
  return pack(source, bias, num_rows, num_inputs, [](int row) { return row; });
}

// Where a product goes: written out as it is.
struct Store {
  float* output;
  int stride;
  void take(int row, int panel, __m512 sums) const {
    _mm512_storeu_ps(output + std::size_t(row) * stride + panel * kLanes, sums);
  }
};

// Multiplies kRows rows by kPanels panels. The inner loop keeps kRows * kPanels sums in registers.
template <int kRows, int kPanels, typename Sink>
inline void multiply_tile(
    const Matrix& matrix, int panel, const bf16* input, int row, std::size_t prefetch_bytes, Sink& sink) {
  const int num_inputs = matrix.num_inputs;
  input += std::size_t(row) * num_inputs;
  __m512 sums[kRows][kPanels];
  for (int p = 0; p < kPanels; ++p) {
    const __m512 bias = _mm512_loadu_ps(matrix.bias.get() + (panel + p) * kLanes);
    for (int m = 0; m < kRows; ++m) sums[m][p] = bias;
  }
  const bf16* weights = matrix.panel(panel);
  const std::size_t panel_size = std::size_t(num_inputs) * kLanes;
  for (int i = 0; i < num_inputs; i += 2) {
    __m512bh pairs[kPanels];
    for (int p = 0; p < kPanels; ++p) {
      const bf16* source = weights + p * panel_size + std::size_t(i) * kLanes;
      _mm_prefetch(reinterpret_cast<const char*>(source) + prefetch_bytes, _MM_HINT_T0);
      pairs[p] = as_pairs(_mm512_load_si512(source));
    }
    for (int m = 0; m < kRows; ++m) {
      const __m512bh x = as_pairs(_mm512_set1_epi32(load_pair(input + std::size_t(m) * num_inputs + i)));
      for (int p = 0; p < kPanels; ++p) sums[m][p] = _mm512_dpbf16_ps(sums[m][p], pairs[p], x);
    }
  }
  for (int m = 0; m < kRows; ++m) {
    for (int p = 0; p < kPanels; ++p) sink.take(row + m, panel + p, sums[m][p]);
  }
}

// Calls the tile of as many rows as `count` says; kRowsLessOne counts from 0.
template <int kPanels, typename Sink, int... kRowsLessOne>
inline void dispatch_tile(
    int count, std::integer_sequence<int, kRowsLessOne...>, const Matrix& matrix, int panel, const bf16* input, int row,
    std::size_t prefetch_bytes, Sink& sink) {
  ((count == kRowsLessOne + 1
        ? multiply_tile<kRowsLessOne + 1, kPanels>(matrix, panel, input, row, prefetch_bytes, sink)
        : void()),
   ...);
}

// As many rows at a time as leave registers for the operands, in tiles of about one size: a tile of one or two rows
// would wait for its own sums and take as long as one of six. The first tile reads the panels from memory; those after
// it find them in the cache, and fetch the panels that come next.
template <int kPanels, typename Sink>
void multiply_rows(const Matrix& matrix, int panel, const bf16* input, int num_rows, Sink& sink) {
  constexpr int kMost = kPanels == 4 ? 6 : 12;
  std::size_t prefetch_bytes = kPrefetchBytes;
  for (int row = 0, tiles = (num_rows + kMost - 1) / kMost; tiles > 0; --tiles) {
    const int count = (num_rows - row + tiles - 1) / tiles;
    dispatch_tile<kPanels>(
        count, std::make_integer_sequence<int, kMost>{}, matrix, panel, input, row, prefetch_bytes, sink);
    row += count;
    prefetch_bytes = kPanels * std::size_t(matrix.num_inputs) * kLanes * sizeof(bf16);
  }
}

// Multiplies input [num_rows, num_inputs] by the panels from first to last.
template <typename Sink>
void multiply_panels(const Matrix& matrix, int first, int last, const bf16* input, int num_rows, Sink& sink) {
  int panel = first;
  if (num_rows <= 6) {
    for (; panel + 4 <= last; panel += 4) multiply_rows<4>(matrix, panel, input, num_rows, sink);
  }
  for (; panel + 2 <= last; panel += 2) multiply_rows<2>(matrix, panel, input, num_rows, sink);
  for (; panel < last; ++panel) multiply_rows<1>(matrix, panel, input, num_rows, sink);
}

void multiply_all(const Matrix& matrix, const bf16* input, int num_rows, float* output) {
  Store store{output, matrix.num_outputs};
  multiply_panels(matrix, 0, matrix.num_outputs / kLanes, input, num_rows, store);
}

// Below this many multiplications a piece of work is over before a helper has woken up.
constexpr std::int64_t kWorthSharing = 20'000'000;
constexpr int kTasksPerThread = 4;  // so that a helper that is kept busy elsewhere takes fewer

bool is_worth_sharing(const Pool& pool, std::int64_t multiplications) {
  return pool.size() > 1 && multiplications >= kWorthSharing;
}

// Runs task(index) for every index below count, on several threads where that pays.
void share(Pool& pool, std::int64_t multiplications, int count, const std::function<void(int)>& task) {
  if (is_worth_sharing(pool, multiplications)) {
    pool.run(count, task);
  } else {
    for (int i = 0; i < count; ++i) task(i);
  }
}

// Runs work(task, first, last) over all panels of a matrix, in as many pieces as threads can take.
template <typename Work>
void share_panels(Pool& pool, const Matrix& matrix, int num_rows, const Work& work) {
  const int num_panels = matrix.num_outputs / kLanes;
  const std::int64_t multiplications = std::int64_t(num_rows) * matrix.num_outputs * matrix.num_inputs;
  if (!is_worth_sharing(pool, multiplications)) {
    work(0, 0, num_panels);
    return;
  }
  const int count = std::min(num_panels, pool.size() * kTasksPerThread);
  const auto bound = [&](int index) { return static_cast<int>(std::int64_t(num_panels) * index / count); };
  pool.run(count, [&](int task) { work(task, bound(task), bound(task + 1)); });
}

void multiply(Pool& pool, const Matrix& matrix, const bf16* input, int num_rows, float* output) {
  share_panels(pool, matrix, num_rows, [&](int, int first, int last) {
    Store store{output, matrix.num_outputs};
    multiply_panels(matrix, first, last, input, num_rows, store);
  });
}

// ------------------------------------------------------------------------------------------------------------- the model

}  // namespace

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
  const bf16* gate_up;
  const bf16* gate_up_bias;
  const bf16* down;
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

namespace {

struct Layer {
  std::vector<float> attention_norm, expert_norm, sinks;
  Matrix qkv, output, router;
  std::vector<Matrix> gate_up, down;
  bool is_sliding = false;
  bf16* keys = nullptr;
  bf16* values = nullptr;
};

class Model {
 public:
  Model(const Shape& shape, const float* inverse_frequencies, const bf16* embedding, const float* norm, int num_threads)
      : shape_(shape),
        inverse_frequencies_(inverse_frequencies, inverse_frequencies + shape.head_dim / 2),
        embedding_(embedding),
        norm_(norm, norm + shape.hidden_size),
        pool_(num_threads) {}

  void set_unembedding(const bf16* source) {
    unembedding_ = pack(source, nullptr, shape_.vocab_size, shape_.hidden_size);
  }

  void add_layer(const LayerSource& source, bf16* keys, bf16* values) {
    const int hidden = shape_.hidden_size, inner = shape_.intermediate_size;
    const int num_query = shape_.num_heads * shape_.head_dim, num_key = shape_.num_kv_heads * shape_.head_dim;
    Layer layer;
    layer.attention_norm.assign(source.attention_norm, source.attention_norm + hidden);
    layer.expert_norm.assign(source.expert_norm, source.expert_norm + hidden);
    layer.sinks.assign(source.sinks, source.sinks + shape_.num_heads);
    layer.qkv = pack(source.qkv, source.qkv_bias, num_query + 2 * num_key, hidden);
    layer.output = pack(source.output, source.output_bias, hidden, num_query);
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
      layer.gate_up.push_back(
          pack(gate_up, source.gate_up_bias + expert * 2 * inner, 2 * padded, hidden, by_panel));
      layer.down.push_back(pack(down, source.down_bias + expert * hidden, hidden, inner));
    }
    layer.is_sliding = source.is_sliding != 0;
    layer.keys = keys;
    layer.values = values;
    layers_.push_back(std::move(layer));
  }

  void forward(const Batch& batch, float* logits, std::int32_t* best) {
    const int count = batch.num_tokens, hidden = shape_.hidden_size;
    float* residual = residual_.get(std::size_t(count) * hidden);
    for (int t = 0; t < count; ++t) {
      const bf16* row = embedding_ + std::size_t(batch.token_ids[t]) * hidden;
      for (int i = 0; i < hidden; ++i) residual[std::size_t(t) * hidden + i] = widen(row[i]);
    }
    compute_angles(batch);
    for (const Layer& layer : layers_) {
      attend(layer, batch, residual);
      mix_experts(layer, count, residual);
    }
    unembed(batch, residual, logits, best);
  }

 private:
  // RMSNorm of one row, rounded to what the products take.
  void normalize(const float* input, const std::vector<float>& weight, bf16* output) const {
    const int size = shape_.hidden_size;
    __m512 sum = _mm512_setzero_ps();
    int i = 0;
    for (; i + kLanes <= size; i += kLanes) {
      const __m512 x = _mm512_loadu_ps(input + i);
      sum = _mm512_fmadd_ps(x, x, sum);
    }
    float total = _mm512_reduce_add_ps(sum);
    for (; i < size; ++i) total += input[i] * input[i];
    const float scale = 1.0f / std::sqrt(total / size + shape_.rms_norm_eps);
    for (i = 0; i + kLanes <= size; i += kLanes) {
      const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(input + i), _mm512_set1_ps(scale));
      store_bf16(output + i, _mm512_mul_ps(scaled, _mm512_loadu_ps(weight.data() + i)));
    }
    for (; i < size; ++i) output[i] = round_bf16(input[i] * scale * weight[i]);
  }

  bf16* normalized_rows(const float* residual, const std::vector<float>& weight, int count) {
    const int hidden = shape_.hidden_size;
    bf16* rows = normed_.get(std::size_t(count) * hidden);
    for (int t = 0; t < count; ++t) {
      normalize(residual + std::size_t(t) * hidden, weight, rows + std::size_t(t) * hidden);
    }
    return rows;
  }

  void add_rows(float* residual, const float* update, int count, int stride) const {
    const int hidden = shape_.hidden_size;
    for (int t = 0; t < count; ++t) {
      float* row = residual + std::size_t(t) * hidden;
      const float* more = update + std::size_t(t) * stride;
      for (int i = 0; i < hidden; ++i) row[i] += more[i];
    }
  }

  // --- attention

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

  void attend(const Layer& layer, const Batch& batch, float* residual) {
    const int count = batch.num_tokens, head_dim = shape_.head_dim;
    const int num_query = shape_.num_heads * head_dim;
    const bf16* normed = normalized_rows(residual, layer.attention_norm, count);
    const int width = layer.qkv.num_outputs;
    float* qkv = products_.get(std::size_t(count) * width);
    multiply(pool_, layer.qkv, normed, count, qkv);

    const std::int32_t* table = layer.is_sliding ? batch.sliding_table : batch.full_table;
    bf16* queries = queries_.get(std::size_t(count) * num_query);
    for (int t = 0; t < count; ++t) {
      float* heads = qkv + std::size_t(t) * width;
      for (int h = 0; h < shape_.num_heads; ++h) rotate(heads + h * head_dim, t);
      for (int i = 0; i < num_query; ++i) queries[std::size_t(t) * num_query + i] = round_bf16(heads[i]);
      remember(layer, heads + num_query, t, batch.positions[t], table + std::size_t(batch.rows[t]) * batch.table_width);
    }

    bf16* mixed = mixed_.get(std::size_t(count) * num_query);
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
    add_rows(residual, update, count, layer.output.num_outputs);
  }

  std::size_t block_offset(int block, int kv_head) const {
    return (std::size_t(block) * shape_.num_kv_heads + kv_head) * kBlock * shape_.head_dim;
  }

  // Writes a token's keys and values [2, num_kv_heads, head_dim] into its slot; rotates the keys on the way.
  void remember(const Layer& layer, float* heads, int token, int position, const std::int32_t* blocks) const {
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
      const Layer& layer, int kv_head, const bf16* queries, int position, const std::int32_t* blocks,
      bf16* output) const {
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
  void score_keys(const Span& span, const bf16* queries, float* scores) const {
    const int head_dim = shape_.head_dim;
    const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(static_cast<float>(head_dim)));
    for (int b = span.first_block(); b <= span.last_block(); ++b) {
      const bf16* keys = span.keys + block_offset(span.blocks[b], span.kv_head);
      __m512 sums[kHeads];
      for (auto& sum : sums) sum = _mm512_setzero_ps();
      for (int i = 0; i < head_dim; i += 2) {
        const __m512bh pairs = as_pairs(_mm512_load_si512(keys + i * kBlock));
        for (int h = 0; h < kHeads; ++h) {
          const __m512bh query = as_pairs(_mm512_set1_epi32(load_pair(queries + h * head_dim + i)));
          sums[h] = _mm512_dpbf16_ps(sums[h], pairs, query);
        }
      }
      const __mmask16 visible = static_cast<__mmask16>((0xffffu >> (kBlock - span.to(b))) & (0xffffu << span.from(b)));
      for (int h = 0; h < kHeads; ++h) {
        const __m512 hidden = _mm512_set1_ps(kMinusInfinity);
        const __m512 masked = _mm512_mask_mul_ps(hidden, visible, sums[h], scale);
        _mm512_storeu_ps(scores + std::size_t(h) * span.width + (b - span.first_block()) * kBlock, masked);
      }
    }
  }

  // output[kHeads, head_dim] = weights[kHeads, width] · values: each value is loaded once for all heads.
  template <int kHeads>
  void add_values(const Span& span, const float* weights, bf16* output) const {
    const int head_dim = shape_.head_dim;
    for (int i = 0; i < head_dim; i += kLanes) {
      __m512 sums[kHeads];
      for (auto& sum : sums) sum = _mm512_setzero_ps();
      for (int b = span.first_block(); b <= span.last_block(); ++b) {
        const bf16* values = span.values + block_offset(span.blocks[b], span.kv_head) + i;
        const float* block_weights = weights + (b - span.first_block()) * kBlock;
        for (int j = span.from(b); j < span.to(b); ++j) {
          const __m512 value = load_bf16(values + std::size_t(j) * head_dim);
          for (int h = 0; h < kHeads; ++h) {
            sums[h] = _mm512_fmadd_ps(_mm512_set1_ps(block_weights[std::size_t(h) * span.width + j]), value, sums[h]);
          }
        }
      }
      for (int h = 0; h < kHeads; ++h) store_bf16(output + h * head_dim + i, sums[h]);
    }
  }

  // Turns scores [width], a multiple of 16, into weights; the sink takes part in the sum and has no value.
  static void softmax_with_sink(float* scores, int width, float sink) {
    __m512 largest = _mm512_set1_ps(sink);
    for (int i = 0; i < width; i += kLanes) largest = _mm512_max_ps(largest, _mm512_loadu_ps(scores + i));
    const float peak = _mm512_reduce_max_ps(largest);
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < width; i += kLanes) {
      const __m512 weight = exp_of(_mm512_sub_ps(_mm512_loadu_ps(scores + i), _mm512_set1_ps(peak)));
      _mm512_storeu_ps(scores + i, weight);
      sum = _mm512_add_ps(sum, weight);
    }
    const __m512 share = _mm512_set1_ps(1.0f / (_mm512_reduce_add_ps(sum) + exp_of(sink - peak)));
    for (int i = 0; i < width; i += kLanes) {
      _mm512_storeu_ps(scores + i, _mm512_mul_ps(_mm512_loadu_ps(scores + i), share));
    }
  }

  // --- experts

  struct Assignment {
    int token;
    float share;
  };

  void mix_experts(const Layer& layer, int count, float* residual) {
    const bf16* normed = normalized_rows(residual, layer.expert_norm, count);
    float* scores = products_.get(std::size_t(count) * layer.router.num_outputs);
    multiply(pool_, layer.router, normed, count, scores);
    assign_experts(scores, layer.router.num_outputs, count);

    used_.clear();
    int total = 0;
    for (int expert = 0; expert < shape_.num_experts; ++expert) {
      if (!assignments_[expert].empty()) used_.push_back({expert, total});
      total += static_cast<int>(assignments_[expert].size());
    }
    const int stride = layer.down[0].num_outputs;
    float* outputs = updates_.get(std::size_t(total) * stride);
    const auto task = [&](int index) {
      const auto [expert, start] = used_[index];
      apply_expert(layer, expert, normed, outputs + std::size_t(start) * stride);
    };
    const std::int64_t work = std::int64_t(total) * 3 * shape_.hidden_size * shape_.intermediate_size;
    share(pool_, work, static_cast<int>(used_.size()), task);
    for (const auto& [expert, start] : used_) {  // in the experts' order, the same for a token in any company
      for (std::size_t i = 0; i < assignments_[expert].size(); ++i) {
        const auto& [token, share] = assignments_[expert][i];
        float* row = residual + std::size_t(token) * shape_.hidden_size;
        const float* more = outputs + (std::size_t(start) + i) * stride;
        for (int c = 0; c < shape_.hidden_size; ++c) row[c] += share * more[c];
      }
    }
  }

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

  void apply_expert(const Layer& layer, int expert, const bf16* normed, float* output) const {
    const auto& list = assignments_[expert];
    const Matrix &gate_up = layer.gate_up[expert], &down = layer.down[expert];
    const int rows = static_cast<int>(list.size()), hidden = shape_.hidden_size;
    thread_local Scratch<bf16> gathered_storage, inner_storage;
    thread_local Scratch<float> product_storage;
    const bf16* input = normed + std::size_t(list[0].token) * hidden;
    if (rows > 1) {
      bf16* gathered = gathered_storage.get(std::size_t(rows) * hidden);
      for (int r = 0; r < rows; ++r) {
        std::memcpy(gathered + std::size_t(r) * hidden, normed + std::size_t(list[r].token) * hidden, hidden * 2);
      }
      input = gathered;
    }
    float* product = product_storage.get(std::size_t(rows) * gate_up.num_outputs);
    multiply_all(gate_up, input, rows, product);
    bf16* inner = inner_storage.get(std::size_t(rows) * down.num_inputs + kLanes);
    for (int r = 0; r < rows; ++r) {
      swiglu(product + std::size_t(r) * gate_up.num_outputs, inner + std::size_t(r) * down.num_inputs);
    }
    multiply_all(down, inner, rows, output);
  }

  // Both sides clamped, the linear one shifted by one; 16 gates, then the 16 ups that belong to them, and so on.
  void swiglu(const float* gate_up, bf16* output) const {
    const __m512 limit = _mm512_set1_ps(shape_.swiglu_limit), one = _mm512_set1_ps(1.0f);
    for (int i = 0; i < shape_.intermediate_size; i += kLanes) {
      const __m512 gate = _mm512_min_ps(_mm512_loadu_ps(gate_up + 2 * i), limit);
      const __m512 up = _mm512_loadu_ps(gate_up + 2 * i + kLanes);
      const __m512 clamped = _mm512_max_ps(_mm512_min_ps(up, limit), _mm512_sub_ps(_mm512_setzero_ps(), limit));
      // sigmoid(z) by e^-|z|, which cannot overflow
      const __m512 z = _mm512_mul_ps(gate, _mm512_set1_ps(shape_.swiglu_alpha));
      const __m512 e = exp_of(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(z)));
      const __mmask16 negative = _mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_LT_OQ);
      const __m512 sigmoid = _mm512_div_ps(_mm512_mask_mov_ps(one, negative, e), _mm512_add_ps(one, e));
      store_bf16(output + i, _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid), _mm512_add_ps(clamped, one)));
    }
  }

  // --- the next token

  void unembed(const Batch& batch, const float* residual, float* logits, std::int32_t* best) {
    const int count = batch.num_samples, hidden = shape_.hidden_size;
    if (count == 0) return;
    bf16* rows = normed_.get(std::size_t(count) * hidden);
    for (int s = 0; s < count; ++s) {
      normalize(residual + std::size_t(batch.samples[s]) * hidden, norm_, rows + std::size_t(s) * hidden);
    }
    const int num_tasks = pool_.size() * kTasksPerThread;
    peaks_.assign(std::size_t(num_tasks) * count, {_mm512_set1_ps(kMinusInfinity), _mm512_setzero_si512()});
    share_panels(pool_, unembedding_, count, [&](int task, int first, int last) {
      Peaks sink{peaks_.data() + std::size_t(task) * count, logits, shape_.vocab_size};
      multiply_panels(unembedding_, first, last, rows, count, sink);
    });
    for (int s = 0; s < count; ++s) {
      float value = kMinusInfinity;
      best[s] = 0;
      for (int task = 0; task < num_tasks; ++task) peaks_[std::size_t(task) * count + s].merge_into(value, best[s]);
    }
  }

  // The largest logits so far of one row, lane by lane, and the tokens they belong to.
  struct Peak {
    __m512 values;
    __m512i tokens;

    void merge_into(float& value, std::int32_t& token) const {
      alignas(64) float lane_values[kLanes];
      alignas(64) std::int32_t lane_tokens[kLanes];
      _mm512_store_ps(lane_values, values);
      _mm512_store_si512(lane_tokens, tokens);
      for (int i = 0; i < kLanes; ++i) {
        const bool is_lower_id = lane_values[i] == value && lane_tokens[i] < token;
        if (lane_values[i] > value || is_lower_id) {
          value = lane_values[i];
          token = lane_tokens[i];
        }
      }
    }
  };

  // Where logits go: into the search for the largest, and out only where they are asked for.
  struct Peaks {
    Peak* peaks;
    float* logits;
    int vocab_size;

    void take(int row, int panel, __m512 sums) const {
      const int first = panel * kLanes, left = vocab_size - first;
      const __mmask16 real = left >= kLanes ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
      if (logits != nullptr) _mm512_mask_storeu_ps(logits + std::size_t(row) * vocab_size + first, real, sums);
      Peak& peak = peaks[row];
      const __mmask16 larger = _mm512_mask_cmp_ps_mask(real, sums, peak.values, _CMP_GT_OQ);
      const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      peak.values = _mm512_mask_mov_ps(peak.values, larger, sums);
      peak.tokens = _mm512_mask_add_epi32(peak.tokens, larger, _mm512_set1_epi32(first), lanes);
    }
  };

  Shape shape_;
  std::vector<float> inverse_frequencies_;
  const bf16* embedding_;  // Python's, which outlives this
  std::vector<float> norm_;
  Matrix unembedding_;
  std::vector<Layer> layers_;
  Pool pool_;

  Scratch<float> residual_, products_, updates_;
  Scratch<bf16> normed_, queries_, mixed_;
  std::vector<float> angles_cos_, angles_sin_;
  std::vector<std::vector<Assignment>> assignments_;
  std::vector<std::pair<int, int>> used_;
  std::vector<Peak> peaks_;
};

}  // namespace

extern "C" {

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
