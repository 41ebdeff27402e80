#pragma once

namespace qg {

// How y is written where rows of W alternate between 8 of a gate and 8 of its up: silu(gate) * up in the form that the
// next layer wants, n / 2 columns.
enum class GateForm { none, f16, fp8, int8 };  // f16: bf16 where the products are

}  // namespace qg
