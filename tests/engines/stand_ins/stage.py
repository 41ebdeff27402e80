"""Where a stand-in finds what a test wants of it: the folder STAND_IN_HOME.

CALLS      every call, a line of JSON each
PIDS       process ids of servers and of what was left behind
MODE       a word for all runs; MODE.fp8 and MODE.fp16 for one cache type only
MODES      JSON: words for single workloads, by name ("decode/b2") in benchmarks, by prompt length ("isl 9") in servers;
           "WORD@N": from the Nth request of that length on
LACKS      options that this version does not have, a line each
TRTLLM, VLLM   versions, when they are not those that the commands were written for

Words: "ok", "oom", "hang", "crash", "killed", "refuse", "exit3", "family" (leaves processes behind), "fp8" (an FP8 cache
whatever was asked for), "lie" (the same, but reported as asked), "old" (a report of another version), "garbage",
"silent" (no report). Of servers also: "http_429", "http_500", "nothing", "cut", "deaf" (answers nobody any more), "chatty" (logs much).
"""
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

HOME = os.environ["STAND_IN_HOME"]


def path(name):
    return os.path.join(HOME, name)


def text(name, otherwise=""):
    try:
        with open(path(name), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return otherwise


def note(name, line):
    with open(path(name), "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def log_call(program, words):
    note("CALLS", json.dumps([program] + words))


def version(name, otherwise):
    return text(name, otherwise).strip()


def lacks():
    return text("LACKS").split()


def mode(is_fp8, workload=""):
    modes = json.loads(text("MODES", "{}"))
    if workload in modes:
        return modes[workload]
    common = text("MODE", "ok").strip()
    return text("MODE." + ("fp8" if is_fp8 else "fp16"), common).strip()


def workload_of(report):
    """"decode/b2" of OUT/MODEL/CARD/WEIGHTS/kv_KV/decode/b2/total.json"""
    folders = os.path.dirname(report).split(os.sep)
    at = next((i for i, name in enumerate(folders) if name.startswith("kv_")), len(folders))
    return "/".join(folders[at + 1:])


def print_oom():
    print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 256.00 MiB. GPU 0 has a total capacity of "
          "23.58 GiB of which 128.00 MiB is free.", file=sys.stderr, flush=True)


def take_card():
    """One card, one program: a second one finds no memory. Given back when this process is gone, however it goes."""
    global _card
    _card = open(path("CARD"), "w", encoding="utf-8")
    try:
        fcntl.flock(_card, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print_oom()
        sys.exit(1)


def misbehave(word):
    sys.stdout.flush()
    if word == "oom":
        print_oom()
        sys.exit(1)
    if word == "refuse":
        print("[TensorRT-LLM][ERROR] Assertion failed: FP8 FMHA cannot be enabled except on Ada or Hopper or Blackwell "
              "Arch.", flush=True)
        os.abort()
    if word == "exit3":
        print("Error: this engine is out of sorts", file=sys.stderr, flush=True)
        sys.exit(3)
    if word == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hang":
        note("PIDS", os.getpid())
        time.sleep(600)
    if word == "family":
        for words in (["sleep", "600"], ["setsid", "sleep", "600"]):
            note("PIDS", subprocess.Popen(words, stdin=subprocess.DEVNULL).pid)
        note("PIDS", os.getpid())
        with open(path("READY"), "w", encoding="utf-8") as file:
            file.write("ready")
        time.sleep(600)


def check(fine, problem):
    """What the engine would not run with ends it, and the test sees it."""
    if not fine:
        print(f"Error: {problem}", file=sys.stderr, flush=True)
        sys.exit(1)


def read_json(file, problem):
    check(os.path.isfile(file), problem)
    with open(file, encoding="utf-8") as stream:
        return json.load(stream)


def write_report(file, report, word):
    """word: garbage and silent"""
    if word == "silent":
        return
    with open(file, "w", encoding="utf-8") as stream:
        stream.write("{garbage" if word == "garbage" else json.dumps(report, indent=4))
