#!/usr/bin/env python3
"""Takes a redundant arrival at a barrier out of FlashInfer's Hopper prefill, in the headers that setup.sh has unpacked.

    scripts/mend_flashinfer.py third_party/extracted/flashinfer

In include/flashinfer/attention/hopper/epilogue.cuh all 256 consumer threads arrive at a barrier of 256 and later wait at it:
their arrivals count twice, so the four fastest of eight warps pass as soon as they themselves have arrived, and may copy
results out of shared memory that the others have not stored yet. The FP8 kernel beside it (hopper/quantization) waits
only, which is right. docs/kernels.md says how it was found. Fails where the text is another one: then look whether that
version needs it."""
import pathlib
import sys

ARRIVAL = """    cutlass::arch::NamedBarrier::arrive(NUM_MMA_THREADS,
                                        cutlass::arch::ReservedNamedBarriers::EpilogueBarrier);
"""
WAIT = """    cutlass::arch::NamedBarrier::sync(NUM_MMA_THREADS,
                                      cutlass::arch::ReservedNamedBarriers::EpilogueBarrier);
"""
# What sm90_prefill.cu asks for, so that it is not built with headers that were unpacked before.
MARK = "#define QG_FLASHINFER_MENDED 1\n"


def main():
    path = pathlib.Path(sys.argv[1], "include/flashinfer/attention/hopper/epilogue.cuh")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        sys.exit(f"mend_flashinfer: {path}: {error.strerror}; run scripts/setup.sh --data")
    if text.count(ARRIVAL) != 1 or text.count(WAIT) != 1 or text.find(WAIT) < text.find(ARRIVAL):
        sys.exit(f"mend_flashinfer: {path} is not the text that is known to need mending; read it, and this script")
    path.write_text(MARK + text.replace(ARRIVAL, ""), encoding="utf-8")


if __name__ == "__main__":
    main()
