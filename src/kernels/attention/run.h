#pragma once
#include <string>

#include "kernels/attention/desc.h"
#include "kernels/attention/params.h"

namespace qg {

// The definition of attention, in float: softmax(score_scale * q K^T) V over the stored K and V. A query's result does
// not depend on how its sequence was cut into pieces, nor on the other pieces, to the bit.
void run_attention_reference(const AttentionDesc& desc, const AttentionParams& params);
std::string attention_reference_name(const AttentionDesc& desc);  // "cpu_reference_attention_kv_fp8"

// The same over K and V that lie in float; desc.kv names heads only.
void run_dense_attention(const AttentionDesc& desc, const DenseAttentionParams& params);

}  // namespace qg
