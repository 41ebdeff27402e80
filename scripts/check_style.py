#!/usr/bin/env python3
"""Checks the few rules of style that clang-format knows nothing of: length of files, names, leftovers, tests that cannot fail."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["src", "apps", "tests", "bench", "scripts", "cmake"]
SUFFIXES = {".cc", ".h", ".cu", ".cuh", ".py", ".sh", ".cmake"}
LONGEST_FILE_LINES = 600

LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
EMPTY_TEST = re.compile(r"\bGTEST_SKIP\b|\b(EXPECT|ASSERT)_TRUE\(true\)|\bDISABLED_")
VAGUE_NAME = re.compile(r"\b(?:class|struct|enum class)\s+(\w*(?:Manager|Helper|Util|Utils|Impl|_v2))\b")
# Where other programs' files lie is told by their variables; nothing else is.
# run_card.cc: CUDA itself obeys CUDA_VISIBLE_DEVICES; the record says which card it was.
MAY_READ_ENVIRONMENT = {"src/model/hf_cache.cc", "src/engines/process.cc", "src/engines/run_card.cc"}
THIS_FILE = Path(__file__).resolve()


def problems_in(path: Path):
    name = path.relative_to(ROOT)
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) > LONGEST_FILE_LINES:
        yield f"{name}: {len(lines)} lines; at most {LONGEST_FILE_LINES}"
    for number, line in enumerate(lines, 1):
        where = f"{name}:{number}"
        if "\t" in line and '"' not in line:
            yield f"{where}: a tab"
        if LEFTOVER.search(line):
            yield f"{where}: a leftover: {line.strip()}"
        if EMPTY_TEST.search(line):
            yield f"{where}: a test that cannot fail: {line.strip()}"
        if match := VAGUE_NAME.search(line):
            yield f"{where}: {match.group(1)} does not say what it is"
        if "getenv(" in line and name.parts[0] in {"src", "apps"} and str(name) not in MAY_READ_ENVIRONMENT:
            yield f"{where}: an environment variable decides something that no record shows"


def main():
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))
             if path.suffix in SUFFIXES and path != THIS_FILE]
    problems = [problem for path in files for problem in problems_in(path)]
    for problem in problems:
        print(f"check_style: {problem}")
    if problems:
        sys.exit(1)
    print(f"check_style: {len(files)} files are in order")


if __name__ == "__main__":
    main()
