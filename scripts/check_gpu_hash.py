#!/usr/bin/env python3
"""Says whether the kernels were tested on a GPU as they are now: compares the newest entry of results/gpu-test.jsonl with
the tree. Exit 0 either way: a machine without a GPU cannot do more than say it."""
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    now = subprocess.run([ROOT / "scripts/gpu_hash.sh"], capture_output=True, text=True, check=True).stdout.strip()
    journal = ROOT / "results/gpu-test.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    entries = [json.loads(line) for line in lines]
    if not entries:
        print("gpu-hash: the kernels were never tested on a GPU")
        return
    last = max(entries, key=lambda e: e["date"])
    where = f"{last['machine']}, {last['date']}, commit {last['commit']}"
    if last["hash"] == now:
        print(f"gpu-hash: kernels {now} were tested on a GPU: {where}")
    else:
        print(f"gpu-hash: THE KERNELS HAVE CHANGED since they were last tested on a GPU ({where}): "
              f"{last['hash']} then, {now} now; run make gpu-test", file=sys.stderr)


if __name__ == "__main__":
    main()
