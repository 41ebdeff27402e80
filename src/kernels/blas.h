#pragma once
namespace qg {

// Compares a few small cblas products with plain loops, once a process (a few milliseconds); throws Error when they are
// wrong. A library that is older than the processor may choose code that does not work on it: this is known of
// OpenBLAS 0.3.21 (Debian 12). Call before the first use of cblas.
void require_sound_blas();

}  // namespace qg
