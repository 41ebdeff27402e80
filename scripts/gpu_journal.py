#!/usr/bin/env python3
"""Appends what a run of test_gpu found to a journal.

    scripts/gpu_journal.py RESULT.json HASH JOURNAL.jsonl            its tests, one line a run
    scripts/gpu_journal.py --lines CASES.jsonl HASH JOURNAL.jsonl    lines that a test wrote itself, each with where and
                                                                     of what it was measured

One JSON object a line: date, machine, driver, commit, the hash over src/kernels and src/runtime, and per test suite how
many tests passed and which failed. QG_COMMIT names the commit where the sources came without their history."""
import datetime
import json
import os
import subprocess
import sys


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def stamp(kernels_hash):
    card = output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").splitlines()
    name, _, driver = (card[0] if card else "unknown").partition(", ")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": name, "driver": driver,
        "commit": os.environ.get("QG_COMMIT") or output_of("git", "describe", "--always", "--dirty", "--abbrev=12") or "unknown",
        "hash": kernels_hash,
    }


def append(journal, entries):
    with open(journal, "a", encoding="utf-8") as f:
        for entry in entries:
            f.write(json.dumps(entry) + "\n")


def append_lines(lines_file, kernels_hash, journal):
    with open(lines_file, encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    common = stamp(kernels_hash)
    append(journal, [{**common, **line} for line in lines])
    passed = sum(bool(line["passed"]) for line in lines)
    print(f"{passed} of {len(lines)} passed, kernels {kernels_hash}: {journal}")


def append_suites(result_file, kernels_hash, journal):
    with open(result_file, encoding="utf-8") as f:
        result = json.load(f)
    suites = {}
    for suite in result["testsuites"]:
        tests = [t for t in suite["testsuite"] if t["status"] == "RUN"]
        failed = [t["name"] for t in tests if t.get("failures")]
        if tests:
            suites[suite["name"]] = {"passed": len(tests) - len(failed), "failed": failed}
    append(journal, [{**stamp(kernels_hash), "seconds": float(result["time"].rstrip("s")), "suites": suites}])
    passed = sum(s["passed"] for s in suites.values())
    failed = sum(len(s["failed"]) for s in suites.values())
    print(f"gpu-test: {passed} passed, {failed} failed, kernels {kernels_hash}: {journal}")


def main():
    if sys.argv[1] == "--lines":
        append_lines(*sys.argv[2:5])
    else:
        append_suites(*sys.argv[1:4])


if __name__ == "__main__":
    main()
