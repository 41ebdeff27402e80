#pragma once

namespace qg {

// Each prints its table. Throws Error where there is no card.
void bench_linear();
void bench_linear_int4();  // a part of it
void bench_linear_bf16();  // another
void bench_linear_gate();
void bench_linear_tiles();
void bench_decode();
void bench_prefill();
void bench_append();
void bench_append_and_decode();

}  // namespace qg
