#pragma once
// Whether a model's weights fit on a card, before minutes are spent on loading them. No CUDA here.
#include <cstdint>
#include <string>

#include "core/model_shape.h"
#include "core/quant_spec.h"

namespace qg {

// Of the weights as the GPU engine holds them: linear layers in their format with its scales, embedding and lm_head in
// 16 bits each, also where they are one tensor.
int64_t device_weight_bytes(const ModelTable& table, const QuantSpec& quant);

struct WeightBudget {
  int64_t card_bytes = 0, free_bytes = 0;
  int64_t limit_bytes = 0;     // use no more of the card than this; 0: all of it
  int64_t reserved_bytes = 0;  // kept free
  int64_t weight_bytes = 0;
};
// Throws Error (exit code 4) with the whole budget when the weights alone do not fit. where: the model.
void check_weights_fit(const WeightBudget& budget, const std::string& where);

}  // namespace qg
