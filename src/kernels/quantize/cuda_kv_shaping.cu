#include "kernels/pointwise/block.cuh"
#include "kernels/quantize/batched_product.cuh"
#include "kernels/quantize/cuda_kv_statistics.h"

namespace qg {
namespace {

constexpr int kThreads = 128;

// Element (i, p) of a batch of matrices in float: batch * size + i * row + p * 1, or with i and p exchanged.
template <bool kAlong>
struct Matrix {
  static constexpr bool along_p = kAlong;
  const float* data;
  int64_t size, row;
  __device__ float operator()(int64_t batch, int64_t i, int64_t p) const {
    return data[batch * size + (kAlong ? i * row + p : p * row + i)];
  }
};
// The right operand: (p, j).
template <bool kAlong>
struct RightMatrix {
  static constexpr bool along_p = kAlong;
  const float* data;
  int64_t size, row;
  __device__ float operator()(int64_t batch, int64_t p, int64_t j) const {
    return data[batch * size + (kAlong ? j * row + p : p * row + j)];
  }
};
struct Store {
  float* data;
  int64_t size, row;
  __device__ void operator()(int64_t batch, int64_t i, int64_t j, float value) const {
    data[batch * size + i * row + j] = value;
  }
};
struct AddDouble {
  double* data;
  int64_t size, row;
  __device__ void operator()(int64_t batch, int64_t i, int64_t j, float value) const {
    data[batch * size + i * row + j] += static_cast<double>(value);
  }
};

struct SampledQueries {
  static constexpr bool along_p = true;
  KvSequence s;
  __device__ float operator()(int64_t head, int64_t i, int64_t p) const {
    return __half2float(s.q[(s.rows - 1 - i * s.step) * s.q_stride + head * s.head_dim + p]);
  }
};
struct KeysOfHead {  // right operand (p, j): key j
  static constexpr bool along_p = true;
  KvSequence s;
  __device__ float operator()(int64_t head, int64_t p, int64_t j) const {
    return __half2float(s.k[j * s.k_stride + head / (s.heads / s.kv_heads) * s.head_dim + p]);
  }
};
struct ValuesOfHead {
  static constexpr bool along_p = true;
  KvSequence s;
  __device__ float operator()(int64_t head, int64_t i, int64_t p) const {
    return __half2float(s.v[i * s.v_stride + head / (s.heads / s.kv_heads) * s.head_dim + p]);
  }
};
// sqrt(weight) * key, summed over rows p.
struct WeightedKeys {
  static constexpr bool along_p = false;
  KvSequence s;
  const float* weights;
  bool right;
  __device__ float operator()(int64_t kv_head, int64_t a, int64_t b) const {
    const int64_t row = right ? a : b, d = right ? b : a;
    return sqrtf(weights[kv_head * s.rows + row]) * __half2float(s.k[row * s.k_stride + kv_head * s.head_dim + d]);
  }
};

// Scores to softmax probabilities; those that the query does not see become zero.
__global__ void __launch_bounds__(kThreads) softmax_rows(KvSequence s, float scale, float* scores) {
  const int64_t i = blockIdx.x, head = blockIdx.y, end = s.rows - i * s.step;
  const int64_t begin = s.window > 0 && end > s.window ? end - s.window : 0;
  float* row = scores + (head * s.queries + i) * s.rows;
  float largest = -INFINITY;
  for (int64_t j = begin + threadIdx.x; j < end; j += kThreads) largest = fmaxf(largest, row[j]);
  largest = reduce_block<kThreads>(
      largest, [](float a, float b) { return fmaxf(a, b); }, -INFINITY);
  float sum = 0;
  for (int64_t j = begin + threadIdx.x; j < end; j += kThreads) sum += expf((row[j] - largest) * scale);
  sum = block_sum<kThreads>(sum);
  for (int64_t j = threadIdx.x; j < s.rows; j += kThreads)
    row[j] = j >= begin && j < end ? expf((row[j] - largest) * scale) / sum : 0.0f;
}

__device__ float square_of(const float* x, int64_t count) {
  float sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += x[i] * x[i];
  return block_sum<kThreads>(sum);
}

__global__ void __launch_bounds__(kThreads) square_rows(const float* x, int64_t width, float* squares) {
  const float sum = square_of(x + blockIdx.x * width, width);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

// A row of probabilities becomes what each key's error would cost; the query is weighted by their sum.
__global__ void __launch_bounds__(kThreads) cost_rows(KvSequence s, KvScratch t) {
  const int64_t i = blockIdx.x, head = blockIdx.y, at = head * s.queries + i;
  float* row = t.scores + at * s.rows;
  const float output_square = square_of(t.outputs + at * s.head_dim, s.head_dim);
  const __half* q = s.q + (s.rows - 1 - i * s.step) * s.q_stride + head * s.head_dim;
  float square = 0;
  for (int64_t d = threadIdx.x; d < s.head_dim; d += kThreads) {
    const float v = __half2float(q[d]);
    square += v * v;
  }
  __syncthreads();  // the sum before has been read by all warps, here and below
  square = block_sum<kThreads>(square);
  float sum = 0;
  for (int64_t j = threadIdx.x; j < s.rows; j += kThreads) {
    const float distance = t.squares[head * s.rows + j] + output_square - 2 * t.cross[at * s.rows + j];
    const float cost = row[j] * row[j] * fmaxf(distance, 0.0f);
    row[j] = cost * square;
    sum += cost;
  }
  __syncthreads();
  const float root = sqrtf(block_sum<kThreads>(sum));
  for (int64_t d = threadIdx.x; d < s.head_dim; d += kThreads)
    t.queries[at * s.head_dim + d] = __half2float(q[d]) * root;
}

// weights[g][j] = sqrt of the sum over the group's queries.
__global__ void __launch_bounds__(kThreads) key_weights(KvSequence s, KvScratch t) {
  const int64_t j = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x, kv_head = blockIdx.y;
  if (j >= s.rows) return;
  const int64_t queries = s.heads / s.kv_heads * s.queries;
  float sum = 0;
  for (int64_t i = 0; i < queries; ++i) sum += t.scores[(kv_head * queries + i) * s.rows + j];
  t.weights[kv_head * s.rows + j] = sqrtf(sum);
}

__global__ void __launch_bounds__(kThreads) key_sums(KvSequence s, const float* weights, KvSums sums) {
  const int64_t kv_head = blockIdx.x;
  for (int64_t d = threadIdx.x; d < s.head_dim; d += kThreads) {
    double plain = 0, weighted = 0, weight = 0;
    for (int64_t r = 0; r < s.rows; ++r) {
      const double k = static_cast<double>(__half2float(s.k[r * s.k_stride + kv_head * s.head_dim + d]));
      const double w = static_cast<double>(weights[kv_head * s.rows + r]);
      plain += k;
      weighted += w * k;
      weight += w;
    }
    sums.plain_sum[kv_head * s.head_dim + d] += plain;
    sums.key_sum[kv_head * s.head_dim + d] += weighted;
    if (d == 0) sums.key_weight[kv_head] += weight;
  }
}

struct HeadColumns {  // of w, summed over rows p
  static constexpr bool along_p = false;
  const __half* w;
  int64_t stride, head_dim;
  bool right;
  __device__ float operator()(int64_t head, int64_t a, int64_t b) const {
    const int64_t row = right ? a : b, d = right ? b : a;
    return __half2float(w[row * stride + head * head_dim + d]);
  }
};

struct CentredKeys {
  static constexpr bool along_p = true;
  const __half* keys;
  const float* center;
  int64_t stride, head_dim;
  __device__ float operator()(int64_t kv_head, int64_t i, int64_t p) const {
    return __half2float(keys[i * stride + kv_head * head_dim + p]) - center[kv_head * head_dim + p];
  }
};
struct KeepLargest {
  unsigned* largest;
  __device__ void operator()(int64_t, int64_t, int64_t, float value) const {
    const unsigned bits = __float_as_uint(fabsf(value));
    if (bits > *largest) atomicMax(largest, bits);
  }
};

}  // namespace

void add_kv_sequence(const CudaQueue& queue, const KvSequence& s, const KvScratch& t, const KvSums& sums) {
  const int64_t d = s.head_dim, score_size = s.queries * s.rows, value_size = s.rows * d, query_size = s.queries * d;
  const dim3 queries(static_cast<unsigned>(s.queries), static_cast<unsigned>(s.heads));
  batched_product(queue, s.heads, s.queries, s.rows, d, SampledQueries{s}, KeysOfHead{s},
                  Store{t.scores, score_size, s.rows});
  const float scale = static_cast<float>(1.0 / sqrt(static_cast<double>(d)));
  launch(queue, softmax_rows, queries, dim3(kThreads), 0, s, scale, t.scores);
  batched_product(queue, s.heads, s.rows, d, d, ValuesOfHead{s}, RightMatrix<false>{s.output_factor, d * d, d},
                  Store{t.values, value_size, d});
  launch(queue, square_rows, dim3(static_cast<unsigned>(s.heads * s.rows)), dim3(kThreads), 0,
         static_cast<const float*>(t.values), d, t.squares);
  batched_product(queue, s.heads, s.queries, d, s.rows, Matrix<true>{t.scores, score_size, s.rows},
                  RightMatrix<false>{t.values, value_size, d}, Store{t.outputs, query_size, d});
  batched_product(queue, s.heads, s.queries, s.rows, d, Matrix<true>{t.outputs, query_size, d},
                  RightMatrix<true>{t.values, value_size, d}, Store{t.cross, score_size, s.rows});
  launch(queue, cost_rows, queries, dim3(kThreads), 0, s, t);
  launch(queue, key_weights,
         dim3(static_cast<unsigned>((s.rows + kThreads - 1) / kThreads), static_cast<unsigned>(s.kv_heads)),
         dim3(kThreads), 0, s, t);
  const int64_t group = s.heads / s.kv_heads;
  batched_product(queue, s.kv_heads, d, d, group * s.queries, Matrix<false>{t.queries, group * query_size, d},
                  RightMatrix<false>{t.queries, group * query_size, d}, AddDouble{sums.query_gram, d * d, d});
  batched_product(queue, s.kv_heads, d, d, s.rows, WeightedKeys{s, t.weights, false}, WeightedKeys{s, t.weights, true},
                  AddDouble{sums.key_moment, d * d, d});
  launch(queue, key_sums, dim3(static_cast<unsigned>(s.kv_heads)), dim3(kThreads), 0, s,
         static_cast<const float*>(t.weights), sums);
}

void head_grams(const CudaQueue& queue, const __half* w, int64_t rows, int64_t heads, int64_t head_dim, double* grams) {
  QG_CUDA(cudaMemsetAsync(grams, 0, static_cast<size_t>(heads * head_dim * head_dim) * sizeof(double), queue.stream));
  batched_product(queue, heads, head_dim, head_dim, rows, HeadColumns{w, heads * head_dim, head_dim, false},
                  HeadColumns{w, heads * head_dim, head_dim, true}, AddDouble{grams, head_dim * head_dim, head_dim});
}

void largest_shaped(const CudaQueue& queue, const __half* keys, int64_t rows, int64_t kv_heads, int64_t head_dim,
                    const float* center, const float* transform, float* largest) {
  batched_product(queue, kv_heads, rows, head_dim, head_dim, CentredKeys{keys, center, kv_heads * head_dim, head_dim},
                  RightMatrix<false>{transform, head_dim * head_dim, head_dim},
                  KeepLargest{reinterpret_cast<unsigned*>(largest)});
}

}  // namespace qg
