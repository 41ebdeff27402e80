#!/usr/bin/env python3
"""Appends what a run of test_gpu found to a journal: scripts/gpu_journal.py RESULT.json HASH JOURNAL.jsonl

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


def main():
    result_file, kernels_hash, journal = sys.argv[1:4]
    with open(result_file, encoding="utf-8") as f:
        result = json.load(f)
    suites = {}
    for suite in result["testsuites"]:
        tests = [t for t in suite["testsuite"] if t["status"] == "RUN"]
        failed = [t["name"] for t in tests if t.get("failures")]
        if tests:
            suites[suite["name"]] = {"passed": len(tests) - len(failed), "failed": failed}
    card = output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").splitlines()
    name, _, driver = (card[0] if card else "unknown").partition(", ")
    entry = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": name, "driver": driver,
        "commit": os.environ.get("QG_COMMIT") or output_of("git", "describe", "--always", "--dirty", "--abbrev=12") or "unknown",
        "hash": kernels_hash, "seconds": float(result["time"].rstrip("s")), "suites": suites,
    }
    with open(journal, "a", encoding="utf-8") as f:
        f.write(json.dumps(entry) + "\n")
    passed = sum(s["passed"] for s in suites.values())
    failed = sum(len(s["failed"]) for s in suites.values())
    print(f"gpu-test: {passed} passed, {failed} failed, kernels {kernels_hash}: {journal}")


if __name__ == "__main__":
    main()
