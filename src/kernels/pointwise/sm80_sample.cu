// Sampling with temperature, top-k and top-p, as sample_token (runtime/sampling.h) defines it. One block a row.
// Probabilities are integers, exp(...) * 2^40, so that sums do not depend on the order of additions. What is k-th, or
// where a share of the mass ends, is found digit by digit of the logits' bits (radix selection), without sorting.
#include "kernels/pointwise/cuda.h"
#include "kernels/pointwise/tokens.cuh"

namespace qg {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32, kBins = 256;
constexpr float kUnit = 1099511627776.0f;  // 2^40
using Mass = unsigned long long;

// Larger logits have larger keys.
__device__ __forceinline__ uint32_t key_of(float logit) {
  const uint32_t bits = __float_as_uint(logit);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Row {
  const float* logits;
  int vocab;
  float largest, inverse_temperature;
  __device__ __forceinline__ Mass mass(float logit) const {
    return static_cast<Mass>(expf((logit - largest) * inverse_temperature) * kUnit);
  }
};

struct Shared {
  Mass bins[kWarps][kBins];
  Mass totals[kBins];
  Mass scan[kThreads / 32];
  Mass rest;
  uint32_t digit;
  int found;
};

// The element that a position falls on when elements lie in the order of falling logits: its key, and the position
// within the elements of that key. kByMass: every element is as long as its mass, else 1 long.
struct Place {
  uint32_t key;
  Mass rest;
};
template <bool kByMass>
__device__ Place place_of(const Row& row, Shared& s, Mass position) {
  uint32_t prefix = 0, mask = 0;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = static_cast<int>(threadIdx.x); i < kWarps * kBins; i += kThreads) s.bins[i / kBins][i % kBins] = 0;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < row.vocab; i += kThreads) {
      const float logit = row.logits[i];
      const uint32_t key = key_of(logit);
      if ((key & mask) != prefix) continue;
      const Mass length = kByMass ? row.mass(logit) : 1;
      if (length > 0) atomicAdd(&s.bins[warp][key >> shift & (kBins - 1)], length);
    }
    __syncthreads();
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
      Mass total = 0;
      for (int w = 0; w < kWarps; ++w) total += s.bins[w][bin];
      s.totals[bin] = total;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      Mass rest = position;
      int bin = kBins - 1, last = 0;
      for (; bin > 0 && rest >= s.totals[bin]; --bin) {
        rest -= s.totals[bin];
        if (s.totals[bin] > 0) last = bin;
      }
      if (rest >= s.totals[bin]) {  // behind the end: the last element
        bin = s.totals[bin] > 0 ? bin : last;
        rest = s.totals[bin] > 0 ? s.totals[bin] - 1 : 0;
      }
      s.digit = static_cast<uint32_t>(bin);
      s.rest = rest;
    }
    __syncthreads();
    prefix |= s.digit << shift;
    mask |= static_cast<uint32_t>(kBins - 1) << shift;
    position = s.rest;
    __syncthreads();
  }
  return {prefix, position};
}

__device__ Mass block_total(Mass value, Shared& s) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) s.scan[threadIdx.x / 32] = value;
  __syncthreads();
  value = s.scan[threadIdx.x % 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

// Mass of all elements whose key is above `key`; of all elements when `all`.
__device__ Mass mass_above(const Row& row, Shared& s, uint32_t key, bool all) {
  Mass sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < row.vocab; i += kThreads) {
    const float logit = row.logits[i];
    if (all || key_of(logit) > key) sum += row.mass(logit);
  }
  return block_total(sum, s);
}

// The element that a position falls on when elements lie in the order of their numbers, each as long as `length` says.
template <class Length>
__device__ int element_at(const Row& row, Shared& s, Mass position, Length length) {
  const int chunk = (row.vocab + kThreads - 1) / kThreads;
  const int begin = min(static_cast<int>(threadIdx.x) * chunk, row.vocab), end = min(begin + chunk, row.vocab);
  Mass mine = 0;
  for (int i = begin; i < end; ++i) mine += length(row.logits[i]);
  Mass up_to = mine;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const Mass other = __shfl_up_sync(~0u, up_to, offset);
    if (static_cast<int>(threadIdx.x) % 32 >= offset) up_to += other;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 31) s.scan[threadIdx.x / 32] = up_to;
  if (threadIdx.x == 0) s.found = -1;
  __syncthreads();
  for (int w = 0; w < static_cast<int>(threadIdx.x) / 32; ++w) up_to += s.scan[w];
  Mass before = up_to - mine;
  if (position >= before && position < up_to) {
    for (int i = begin; i < end; ++i) {
      const Mass l = length(row.logits[i]);
      if (position < before + l) {
        s.found = i;
        break;
      }
      before += l;
    }
  }
  __syncthreads();
  return s.found;
}

__device__ __forceinline__ float logit_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(int vocab, const float* logits, const SampleRow* rows, TokenTarget to) {
  extern __shared__ __align__(16) char shared[];
  Shared& s = *reinterpret_cast<Shared*>(shared);
  let_next_start();
  wait_for_previous();
  const SampleRow ask = rows[blockIdx.x];
  const int row_number = static_cast<int>(blockIdx.x), best = to.device[token_place(to, row_number)];
  if (ask.inverse_temperature <= 0 || best < 0) {  // greedy, or logits that are not finite
    if (threadIdx.x == 0) store_token(to, row_number, best);
    return;
  }
  const float* mine = logits + static_cast<int64_t>(blockIdx.x) * vocab;
  const Row row = {mine, vocab, mine[best], ask.inverse_temperature};

  const bool by_k = ask.top_k > 0 && ask.top_k < vocab, by_p = ask.top_p < 1;
  Mass total = 0;
  if (by_k) {
    const Place last = place_of<false>(row, s, static_cast<Mass>(ask.top_k - 1));
    total = mass_above(row, s, last.key, false) + (last.rest + 1) * row.mass(logit_of(last.key));
  } else {
    total = mass_above(row, s, 0, true);
  }
  if (by_p) {
    const Mass wanted = static_cast<Mass>(ceil(static_cast<double>(ask.top_p) * static_cast<double>(total)));
    const Place last = place_of<true>(row, s, wanted > 0 ? wanted - 1 : 0);
    const Mass each = row.mass(logit_of(last.key));
    total = mass_above(row, s, last.key, false) + (each > 0 ? last.rest / each + 1 : 0) * each;
  }
  Mass position = static_cast<Mass>(ask.draw * static_cast<double>(total));
  position = total > 0 ? min(position, total - 1) : 0;
  int token = -1;
  if (by_k || by_p) {
    const Place place = place_of<true>(row, s, position);
    const Mass each = row.mass(logit_of(place.key));
    token = element_at(row, s, each > 0 ? place.rest / each : 0,
                       [&](float logit) -> Mass { return key_of(logit) == place.key ? 1 : 0; });
  } else {
    token = element_at(row, s, position, [&](float logit) -> Mass { return row.mass(logit); });
  }
  if (threadIdx.x == 0) store_token(to, row_number, token < 0 ? best : token);
}

}  // namespace

void sample_rows(const CudaQueue& queue, int64_t rows, int64_t vocab, const float* logits, const SampleRow* asked,
                 const TokenTarget& to) {
  if (rows == 0) return;
  static_assert(sizeof(Shared) <= kLeastSharedBytes);
  static const bool raised = [] {
    QG_CUDA(cudaFuncSetAttribute(sample_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared)));
    return true;
  }();
  static_cast<void>(raised);
  launch(queue, sample_kernel, dim3(static_cast<unsigned>(rows)), dim3(kThreads), sizeof(Shared),
         static_cast<int>(vocab), logits, asked, to);
}

}  // namespace qg
