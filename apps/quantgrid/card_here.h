#pragma once
// The row of the card table that a CUDA device of this machine is.
#include "grid/cards.h"

namespace qg {

// device: as CUDA counts. null for a card without a row, and where the driver does not tell.
const Card* card_here(int device);

}  // namespace qg
