// Decode where rope_and_append has left q and stored the newest tokens.
#include "kernels/attention/cuda_decode.h"

namespace qg::attention {

int decode_step_tokens(KvFormat format, int head_dim) {
  return kWarps * kHalfStageBytes / (head_dim * (format == KvFormat::fp16 ? 2 : 1));
}

void launch_decode(const CudaQueue& queue, const Variant& variant, int pieces, int splits,
                   const DecodeArguments& args) {
  launch_decode_kernel<Newest::stored>(queue, variant, pieces, splits, args);
}

}  // namespace qg::attention
