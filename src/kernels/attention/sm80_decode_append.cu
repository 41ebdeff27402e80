// Decode that does rope_and_append's work too.
#include "kernels/attention/cuda_decode.h"

namespace qg::attention {

void launch_decode_append(const CudaQueue& queue, const Variant& variant, bool shaped, int pieces, int splits,
                          const DecodeArguments& args) {
  if (shaped) return launch_decode_kernel<Newest::shaped>(queue, variant, pieces, splits, args);
  launch_decode_kernel<Newest::plain>(queue, variant, pieces, splits, args);
}

}  // namespace qg::attention
