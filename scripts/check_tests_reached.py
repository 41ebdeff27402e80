#!/usr/bin/env python3
"""Checks that no test and no golden file lies about unused.

Every source in tests/ must be a *_test.cc (ctest runs it), a *_fuzz.cc (scripts/fuzz.sh runs it) or a header that one of
them includes; every seed folder must have its fuzzer; every golden file or folder must be named in a test, or lie in a
folder that a test names as a whole.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
SOURCES = {".cc", ".h", ".cu", ".cuh"}


def main():
    sources = [path for path in sorted(TESTS.rglob("*")) if path.suffix in SOURCES]
    texts = {path: path.read_text(encoding="utf-8") for path in sources}
    all_text = "\n".join(texts.values())
    problems = []

    for path in sources:
        name = path.relative_to(ROOT)
        if path.name.endswith("_test.cc"):
            if path.parent.parent != TESTS:
                problems.append(f"{name}: ctest finds *_test.cc only right under tests/<folder>/")
            if not re.search(r"^\s*(TYPED_)?TEST(_[FP])?\(", texts[path], re.MULTILINE):
                problems.append(f"{name}: holds no test")
        elif path.name.endswith("_fuzz.cc"):
            if path.parent != TESTS / "fuzz":
                problems.append(f"{name}: a fuzzer belongs into tests/fuzz/")
        elif path.suffix in {".h", ".cuh"}:
            if f'"{name}"' not in all_text:
                problems.append(f"{name}: no test includes it (as \"{name}\")")
        elif path.suffix == ".cc":
            problems.append(f"{name}: is neither *_test.cc nor *_fuzz.cc, so nothing builds it")

    corpus = TESTS / "fuzz" / "corpus"
    for folder in sorted(corpus.iterdir()) if corpus.is_dir() else []:
        if not (TESTS / "fuzz" / f"{folder.name}.cc").is_file():
            problems.append(f"{folder.relative_to(ROOT)}: there is no tests/fuzz/{folder.name}.cc")

    golden = TESTS / "golden"
    for path in sorted(golden.rglob("*")) if golden.is_dir() else []:
        if path.is_dir() or path.name == "README.md":
            continue
        parts = path.relative_to(golden).parts
        # Reached when the file, or a folder above it, is named: "golden/models" reads every model in it.
        if not any(f"golden/{'/'.join(parts[:depth])}" in all_text for depth in range(1, len(parts) + 1)):
            problems.append(f"{path.relative_to(ROOT)}: no test names it")

    for problem in problems:
        print(f"check_tests_reached: {problem}")
    if problems:
        sys.exit(1)
    print(f"check_tests_reached: {len(sources)} sources and every golden file are reached")


if __name__ == "__main__":
    main()
