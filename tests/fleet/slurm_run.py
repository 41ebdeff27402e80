#!/usr/bin/env python3
"""`quantgrid submit --slurm` on a real Slurm of one node: tasks run one at a time, a task that is killed and queued again
goes on from its journal, one that is asked to stop queues itself again, one that is cancelled is done by the next
submit, and the journals become one report.

    tests/fleet/slurm_run.py --binary build/cpu/quantgrid
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slurm_cluster import Cluster, missing_programs

# Two cards with two models each: four tasks, on the processor, whatever the card. Each records first that it has made a
# checkpoint, then is busy with the accuracy of its three cases.
MODELS = {"tiny-a": "a10", "tiny-b": "a10", "tiny-c": "l4", "tiny-d": "l4"}
GRID = """\
title = "fleet"
models_dir = "models"
""" + "".join(f"""
[models.{model}]
folder = "models/{model}"
[[product]]
section = "baseline"
models = ["{model}"]
gpus = ["{card}"]
weights = ["fp16"]
kv = ["fp16"]
[[product]]
section = "must"
models = ["{model}"]
gpus = ["{card}"]
weights = ["fp8"]
kv = ["fp16", "fp8"]
""" for model, card in MODELS.items()) + """
[accuracy]
text = "text.txt"
windows = {windows}
window_tokens = 64

[calibration]
text = "text.txt"
samples = 4
sample_tokens = 48
search_tokens = 64
"""


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def attempts(journal):
    """The lines that end a case, and how many runs wrote them."""
    text = journal.read_text() if journal.exists() else ""
    lines = [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]  # the last may be under way
    return [line for line in lines if line["kind"] == "case_done"], sum(line["kind"] == "environment" for line in lines)


class Fleet:
    def __init__(self, cluster, binary, folder, windows):
        self.cluster, self.binary, self.folder, self.out = cluster, binary, folder, folder / "out"
        (folder / "grid.toml").write_text(GRID.format(windows=windows))
        (folder / "text.txt").write_text("".join(f"line {i * 7919} of a text; " for i in range(windows * 4)))
        for seed, model in enumerate(MODELS, 1):
            self.quantgrid("synth", "llama-3.2-3b", f"models/{model}", "--layers", "2", "--hidden", "128", "--heads",
                           "4", "--kv-heads", "2", "--head-dim", "32", "--ffn", "256", "--vocab", "320", "--seed",
                           str(seed))

    def quantgrid(self, *words):
        done = subprocess.run([self.binary, *words], cwd=self.folder, text=True, capture_output=True, timeout=120)
        check(done.returncode == 0, f"quantgrid {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def submit(self):
        os.environ["SLURM_CONF"] = str(self.cluster.folder / "slurm.conf")
        self.jobs = json.loads(self.quantgrid("submit", "grid.toml", "--slurm", "--executor", "cpu", "--out", "out",
                                              "--json"))["jobs"]
        return self.jobs

    def journal(self, card, task):
        return self.out / "journals" / f"{card}-{task}.jsonl"

    def log(self, name):
        path = self.out / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, done, what, seconds=180):
        """Waits until done(states); never may two tasks run at once."""
        limit = time.monotonic() + seconds
        while True:
            states = self.cluster.states()
            running = [job for job, state in states.items() if state == "RUNNING"]
            check(len(running) <= 1, f"two tasks run at once: {running}")
            if done(states):
                return states
            check(time.monotonic() < limit, f"{what}: not in {seconds} s: {states}\n{self.log('a10-0')}\n"
                                            f"{self.cluster.logs()}")
            # A task that was queued again waits two minutes, which a test need not.
            for job, state in states.items():
                if state == "PENDING" and "_" in job:
                    self.cluster.run("scontrol", "update", f"jobid={job}", "StartTime=now", check=False)
            time.sleep(0.3)


def kill_and_stop(fleet):
    """One task is killed and queued again; one is asked to stop as before its time limit; one is cancelled. In which
    order they run is Slurm's."""
    jobs = fleet.submit()
    check(set(jobs) == {"a10", "l4", "merge"}, jobs)
    killed, stopped, cancelled = f"{jobs['a10']}_0", f"{jobs['a10']}_1", f"{jobs['l4']}_0"
    disturb = {  # job: its journal, the measurements after which, how
        killed: (fleet.journal("a10", 0), 1, ["scontrol", "requeue", killed]),
        stopped: (fleet.journal("a10", 1), 1, ["scancel", "--batch", "--signal=USR1", stopped]),
        cancelled: (fleet.journal("l4", 0), 1, ["scancel", cancelled]),
    }
    left = {}

    def done(states):
        for job, (journal, count, words) in disturb.items():
            now = len(attempts(journal)[0])
            if job not in left and states[job] == "RUNNING" and now >= count:
                fleet.cluster.run(*words)
                left[job] = now
        return all(state in ("COMPLETED", "CANCELLED") for state in states.values())

    states = fleet.wait(done, "all tasks to end", 400)
    check(set(left) == set(disturb), f"tasks were too quick to be disturbed: {left}; --windows makes them slower")
    check(states[killed] == states[stopped] == states[f"{jobs['l4']}_1"] == "COMPLETED", states)
    check(states[cancelled] == "CANCELLED" and states[jobs["merge"]] == "COMPLETED", f"{states}\n{fleet.log('merge')}")
    for job, task, what in ((killed, 0, "killed and queued again"), (stopped, 1, "asked to stop, queued itself again")):
        ends, runs = attempts(fleet.journal("a10", task))
        keys = [line["case_key"] for line in ends]
        check(runs == 2, f"{runs} runs wrote the journal of the task that was {what}")
        check(left[job] < len(keys) == len(set(keys)), f"{left[job]}, then {len(keys)} measurements, {len(set(keys))} keys")
        print(f"{what} after {left[job]} measurements: {len(keys)} in all, none twice")
    log = fleet.log("a10-1")
    check("ended with 75" in log and "goes back into the queue" in log, log)
    return left[cancelled]


def submit_again(fleet, left):
    """What was cancelled goes on; nothing else is measured again."""
    before = {path.name: path.read_text() for path in (fleet.out / "journals").iterdir()}
    fleet.submit()
    states = fleet.wait(lambda s: all(s[f"{fleet.jobs[card]}_{task}"] == "COMPLETED" for card in ("a10", "l4")
                                      for task in (0, 1)) and s[fleet.jobs["merge"]] == "COMPLETED", "the second submit")
    for name, text in before.items():
        now = (fleet.out / "journals" / name).read_text()
        check((now == text) == (name != "l4-0.jsonl"), f"{name} changed" if now != text else f"{name} did not go on")
    done, _ = attempts(fleet.journal("l4", 0))
    keys = [line["case_key"] for line in done]
    check(len(keys) > left and len(keys) == len(set(keys)), f"{left}, then {len(keys)}")
    print(f"cancelled after {left} measurements: the next submit did the other {len(keys) - left} and nothing else")

    merged = json.loads(fleet.quantgrid("merge", *[f"out/journals/{c}-{t}.jsonl" for c in ("a10", "l4") for t in (0, 1)],
                                        "-o", "again.db", "--json"))
    page = (fleet.out / "report.html").read_text()
    markdown = (fleet.out / "report.md").read_text()
    for number in range(1, 13):
        check(f"| {number} |" in markdown, f"case {number} is not in the report")
    check(all(model in page for model in MODELS), "the page lacks a model")
    print(f"merged: {merged['runs']} runs, {merged['cases']} cases of the journals, one report of 12 cases")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, type=Path)
    parser.add_argument("--windows", type=int, default=2000, help="of the accuracy: how long a measurement takes")
    args = parser.parse_args()
    missing = missing_programs()
    if missing:
        print(f"test-fleet: skipped: {', '.join(missing)} not installed (Debian, Ubuntu: apt-get install "
              "--no-install-recommends slurmctld slurmd slurm-client munge)")
        return
    folder = Path(tempfile.mkdtemp(prefix="qg-fleet-"))
    try:
        with Cluster() as cluster:
            print(cluster.run("sinfo", "--version") + ", one node")
            fleet = Fleet(cluster, args.binary.resolve(), folder, args.windows)
            left = kill_and_stop(fleet)
            submit_again(fleet, left)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("test-fleet: passed")


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        print(f"test-fleet: failed: {error}", file=sys.stderr)
        sys.exit(1)
