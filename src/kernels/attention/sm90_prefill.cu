// Prefill on Hopper through FlashInfer's FA3 templates (flashinfer-python, pinned in scripts/requirements-wheels.txt):
// f16 queries against an f16 paged cache, or against an f16 copy of the pages of an 8-bit one.
#include "kernels/attention/cuda_kernels.h"

#ifdef QG_FLASHINFER
#include <flashinfer/attention/hopper/default_params.cuh>
#include <flashinfer/attention/hopper/prefill_sm90.cuh>
#include <flashinfer/attention/hopper/variants.cuh>
#include <flashinfer/attention/mask.cuh>
#include <flashinfer/cutlass_utils.cuh>

#ifndef QG_FLASHINFER_MENDED
#error "FlashInfer's headers were unpacked without scripts/mend_flashinfer.py: run scripts/setup.sh --data"
#endif

#include "core/error.h"
#include "kernels/attention/cuda_tile.h"

namespace qg::attention {
namespace {

// The library's parameters, with a scale of V that it multiplies the result by.
struct Parameters : flashinfer::BatchPrefillPagedParams<cutlass::half_t, cutlass::half_t, cutlass::half_t, int32_t> {
  struct AdditionalParams {
    float logits_soft_cap, sm_scale;
    float* maybe_scale_v;
    float scale_v_scalar;
  } additional_params;
};

template <int kHeadDim>
void run(const CudaQueue& queue, Parameters& p) {
  const cudaError_t status =
      flashinfer::BatchPrefillWithPagedKVCacheDispatched<kHeadDim, kHeadDim, flashinfer::MaskMode::kCausal, false,
                                                         false, flashinfer::StandardAttention>(p, false, queue.stream);
  check_cuda(status, "prefill attention (FA3)");
}

// Codes of 16 elements a thread to f16; the scale is applied elsewhere.
template <KvFormat kFormat>
__global__ void __launch_bounds__(256)
    expand_kernel(const Inputs in, int head_dim, const PrefillPage* pages, __half* to) {
  using Codec = Element<kFormat, true>;
  let_next_start();
  wait_for_previous();
  const PrefillPage page = pages[blockIdx.x];
  const int64_t number = in.batch.page_table[static_cast<int64_t>(page.piece) * in.batch.max_pages + page.index];
  const int64_t elements = (static_cast<int64_t>(2 * in.kv_heads) * head_dim) << in.page_shift;
  const auto* from = reinterpret_cast<const uint4*>(in.pool + number * elements);
  auto* out = reinterpret_cast<uint4*>(to + static_cast<int64_t>(blockIdx.x) * elements);
  const auto expand = [](uint32_t w, uint32_t& low, uint32_t& high) {
    const uint32_t even = Codec::even_pair(w), odd = Codec::odd_pair(w);
    low = __byte_perm(even, odd, 0x5410);
    high = __byte_perm(even, odd, 0x7632);
  };
  for (int i = blockIdx.y * blockDim.x + threadIdx.x; i < elements / 16; i += gridDim.y * blockDim.x) {
    const uint4 codes = from[i];
    uint4 a, b;
    expand(codes.x, a.x, a.y);
    expand(codes.y, a.z, a.w);
    expand(codes.z, b.x, b.y);
    expand(codes.w, b.z, b.w);
    out[2 * i] = a;
    out[2 * i + 1] = b;
  }
}

}  // namespace

bool has_sm90_prefill() {
  return true;
}

void launch_prefill_sm90(const CudaQueue& queue, const Variant& variant, const Sm90PrefillArguments& args) {
  const Inputs& in = args.in;
  const int64_t head_elements = static_cast<int64_t>(variant.head_dim) << in.page_shift;
  const bool expanded = variant.format != KvFormat::fp16;
  if (expanded) {
    const dim3 grid(static_cast<unsigned>(args.expanded_pages), 8);
    if (variant.format == KvFormat::fp8)
      launch(queue, expand_kernel<KvFormat::fp8>, grid, dim3(256), 0, in, variant.head_dim, args.pages, args.expanded);
    else
      launch(queue, expand_kernel<KvFormat::int8>, grid, dim3(256), 0, in, variant.head_dim, args.pages, args.expanded);
  }
  auto* k = reinterpret_cast<cutlass::half_t*>(expanded ? reinterpret_cast<std::byte*>(args.expanded)
                                                        : const_cast<std::byte*>(in.pool));
  Parameters p = {};
  p.q_ptr = reinterpret_cast<cutlass::half_t*>(const_cast<__half*>(in.q));
  p.k_ptr = k;
  p.v_ptr = k + in.kv_heads * head_elements;
  p.o_ptr = static_cast<cutlass::half_t*>(args.out);
  p.q_stride_n = p.o_stride_n = static_cast<int64_t>(in.heads) * variant.head_dim;
  p.q_stride_h = p.o_stride_h = variant.head_dim;
  p.k_stride_n = p.v_stride_n = variant.head_dim;
  p.k_stride_h = p.v_stride_h = head_elements;
  p.k_page_stride = p.v_page_stride = 2 * in.kv_heads * head_elements;
  p.nnz_qo = args.end_row;
  p.num_qo_heads = in.heads;
  p.num_kv_heads = in.kv_heads;
  p.group_size = in.group;
  p.page_size = 1 << in.page_shift;
  p.window_left = -1;
  p.causal = true;
  p.kv_indices = const_cast<int32_t*>(expanded ? args.identity : in.batch.page_table);
  p.work_indptr = const_cast<int32_t*>(args.work_begin);
  p.qo_tile_indices = const_cast<int32_t*>(args.works[0]);
  p.qo_indptr = const_cast<int32_t*>(args.works[1]);
  p.kv_indptr = const_cast<int32_t*>(args.works[2]);
  p.qo_lens = const_cast<int32_t*>(args.works[3]);
  p.kv_lens = const_cast<int32_t*>(args.works[4]);
  p.head_indices = const_cast<int32_t*>(args.works[5]);
  p.batch_indices = const_cast<int32_t*>(args.works[6]);
  p.additional_params.sm_scale = in.score_scale / kLog2E;
  p.additional_params.scale_v_scalar = in.value_scale;
  if (variant.head_dim == 128) return run<128>(queue, p);
  throw Error("The Hopper prefill kernel is built for head size 128 only");
}

}  // namespace qg::attention

#else

#include "core/error.h"

namespace qg::attention {

bool has_sm90_prefill() {
  return false;
}

void launch_prefill_sm90(const CudaQueue&, const Variant&, const Sm90PrefillArguments&) {
  throw Error("This program was built without the Hopper prefill kernel", "", "run scripts/setup.sh, then build again");
}

}  // namespace qg::attention

#endif
