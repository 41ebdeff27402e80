#!/usr/bin/env python3
"""Checks which folder of src includes which, against the table that docs/architecture.md explains.

    scripts/check_includes.py [--headers]

--headers also compiles every header alone (slow).
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What a folder of src may include besides itself and core.
MAY_INCLUDE = {
    "core": set(),
    "grid": set(),
    "checkpoint": set(),
    "tokenizer": set(),
    "model": {"checkpoint"},
    "kernels": set(),
    "runtime": {"model", "kernels", "checkpoint", "tokenizer"},
    "quantize": {"runtime", "kernels", "model", "checkpoint", "tokenizer"},
    "record": {"grid"},
    "bench": {"runtime", "grid", "record", "tokenizer"},
    "eval": {"runtime", "grid", "record", "tokenizer"},
    "report": {"record", "grid"},
    "engines": {"grid", "record", "runtime", "bench"},
    "server": {"runtime", "tokenizer", "grid"},
    "fleet": {"grid", "record"},
}
# CUDA belongs to the kernels and to what runs them; all else must compile where there is no toolkit.
MAY_USE_CUDA = {"kernels", "runtime", "bench"}
CUDA_HEADER = re.compile(r"^(cuda|cublas|cuda_runtime|nccl|nvml|cooperative_groups|cute/|cutlass/|flashinfer/)")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SOURCES = {".cc", ".h", ".cu", ".cuh", ".inc"}


def problems_in(path: Path, folder: str):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        bracket, header = match.groups()
        where = f"{path.relative_to(ROOT)}:{number}"
        if CUDA_HEADER.match(header) and folder not in MAY_USE_CUDA:
            yield f"{where}: {folder} never touches CUDA, but includes {header}"
        if bracket == "<":
            continue
        target = header.split("/")[0]
        if target in ("apps", "tests") or ".." in header:
            yield f"{where}: nothing in src includes {header}"
        elif "/" not in header:
            yield f'{where}: "{header}" needs its path relative to src ("{folder}/…/{header}")'
        elif target not in MAY_INCLUDE:
            yield f'{where}: "{header}" is no folder of src; a library is included with <>'
        elif not (ROOT / "src" / header).is_file():
            yield f'{where}: "{header}" does not exist'
        elif target not in MAY_INCLUDE[folder] | {folder, "core"}:
            allowed = ", ".join(sorted(MAY_INCLUDE[folder] | {"core"}))
            yield f"{where}: {folder} may include {allowed}, not {header}"


def headers_alone(headers):
    """Compiles each header by itself, with the flags of the project that matter for it."""
    for header in headers:
        name = header.relative_to(ROOT / "src")
        result = subprocess.run(
            ["g++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-DSPDLOG_FMT_EXTERNAL", "-DFMT_HEADER_ONLY",
             f"-I{ROOT / 'src'}", "-I/usr/include/x86_64-linux-gnu/openblas-pthread", "-x", "c++", "-"],
            input=f'#include "{name}"\n', text=True, capture_output=True)
        if result.returncode:
            yield f"src/{name} does not compile alone:\n{result.stderr}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--headers", action="store_true", help="compile every header alone, too")
    args = parser.parse_args()

    problems, files = [], []
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix not in SOURCES:
            continue
        folder = path.relative_to(ROOT / "src").parts[0]
        if folder not in MAY_INCLUDE:
            problems.append(f"{path.relative_to(ROOT)}: {folder} has no row in scripts/check_includes.py")
            continue
        files.append(path)
        problems += problems_in(path, folder)
    if args.headers:
        problems += headers_alone(path for path in files if path.suffix == ".h")
    for problem in problems:
        print(f"check_includes: {problem}")
    if problems:
        sys.exit(1)
    print(f"check_includes: {len(files)} files keep the include rules")


if __name__ == "__main__":
    main()
