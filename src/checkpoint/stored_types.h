#pragma once
// Folders whose tensors are not all of one type.
#include <string>

#include "checkpoint/checkpoint.h"

namespace qg {

// A sentence on the matrices that are stored in F32 and computed in a type of 16 bits, `computed`, as on a GPU; empty
// where there are none. Checkpoint::dtype() does not tell: it is the embedding's.
std::string f32_matrices_note(const Checkpoint& checkpoint, DType computed);

}  // namespace qg
