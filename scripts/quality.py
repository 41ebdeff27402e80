"""What check_quality.py and quality_table.py share: the forms and their variants, folders made once, scores kept."""
import datetime
import hashlib
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys

BASE, ROTATED = "models/smollm2-135m-instruct", "models/smollm2-135m-rotated"
CALIBRATION, EVALUATION = "models/texts/calibration.txt", "models/texts/evaluation.txt"
AT_ONCE = 8  # folders scored in one pass: each takes its weights in memory, about 0.3 GB
GROUP = 64  # 128 does not divide SmolLM2's width

INT4 = ["--weights", "int4_awq", "--group-size", str(GROUP)]
FORMS = {  # name: (what it is, base, flags of quantize)
    "fp8": ("FP8 static", BASE, ["--weights", "fp8"]),
    "fp8_dynamic": ("FP8 per token", BASE, ["--weights", "fp8", "--activations", "dynamic"]),
    "int8": ("INT8 SmoothQuant per token", BASE, ["--weights", "int8_sq"]),
    "int8_static": ("INT8 SmoothQuant static", BASE, ["--weights", "int8_sq", "--activations", "static"]),
    "int4": (f"INT4 AWQ g{GROUP}", BASE, INT4),
    "int4_zeros": (f"INT4 AWQ g{GROUP}, zero points", BASE, [*INT4, "--zero-points", "--layout", "compressed-tensors"]),
    "int4_rotated": (f"INT4 AWQ g{GROUP}, rotated base", ROTATED, INT4),
}
VARIANTS = {  # name: (what it is, flags of quantize)
    "": ("ours", []),
    "no-feedback": ("ours, without error feedback", ["--no-error-feedback"]),
    "amax": ("scales from maxima, error feedback", ["--no-search"]),
    "plain": ("round to nearest", ["--no-search", "--no-clip", "--no-error-feedback", "--alpha", "0"]),
}


def add_bench_options(parser):
    parser.add_argument("--program", default="bin/quantgrid")
    parser.add_argument("--work", help="folders and scores are kept here and used again (default: nothing is kept)")
    parser.add_argument("--executor", choices=("cpu", "cuda"), default="cpu", help="what makes the folders and scores them")


class Bench:
    """Makes folders under work and scores them; what is there already, from the same program and executor, is used again."""

    def __init__(self, program, work, executor="cpu"):
        self.program, self.work, self.executor = program, pathlib.Path(work), executor
        self.work.mkdir(parents=True, exist_ok=True)
        self.version = self.run("--version").strip()
        made_by, maker = self.work / "program.txt", f"{self.version}, {executor} executor"
        if made_by.exists() and made_by.read_text().strip() != maker:
            sys.exit(f"quality: {self.work} holds folders that {made_by.read_text().strip()} made, and this is "
                     f"{maker}; give another --work or remove it")
        if not made_by.exists():  # written once: others may be reading it
            made_by.write_text(maker + "\n")

    def run(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"quality: {self.program} {' '.join(map(str, arguments))} failed with exit code {done.returncode}")
        return done.stdout

    def folder(self, form, variant=""):
        out = self.work / (form + (f"-{variant}" if variant else ""))
        if not (out / "config.json").exists():
            _, base, flags = FORMS[form]
            self.run("quantize", "--model", base, "--calib", CALIBRATION, "--calib-sequences", 32, "--calib-tokens", 512,
                     "--executor", self.executor, "--out", out, *flags, *VARIANTS[variant][1])
        return out

    def score(self, folder, text, base=BASE, windows=8, window=1024):
        """What eval --json says of a folder on the first windows of a text."""
        return self.score_all([folder], text, base, windows, window)[0]

    def score_all(self, folders, text, base=BASE, windows=8, window=1024):
        """The same of several folders, with one pass over the base for all that have no score yet."""
        named = hashlib.sha256(pathlib.Path(text).read_bytes()).hexdigest()[:12]
        kept = [self.work / "scores" / f"{pathlib.Path(folder).name}.{named}.{windows}x{window}.json" for folder in folders]
        (self.work / "scores").mkdir(exist_ok=True)
        missing = [(folder, path) for folder, path in zip(folders, kept) if not path.exists()]
        # Kernels that a file of measured times chooses would sum in orders of their own on each machine. Scores, unlike
        # times, do not depend on who else uses the card.
        how = ["--executor", self.executor, *(["--tuning", "none", "--shared"] if self.executor == "cuda" else [])]
        for begin in range(0, len(missing), AT_ONCE):
            part = missing[begin:begin + AT_ONCE]
            more = [word for folder, _ in part[1:] for word in ("--also", folder)]
            said = json.loads(self.run("eval", "--model", part[0][0], *more, "--base", base, "--text", text, "--windows",
                                       windows, "--window", window, *how, "--json"))
            for (_, path), one in zip(part, said if more else [said]):
                path.write_text(json.dumps(one, indent=1) + "\n")
        return [json.loads(path.read_text()) for path in kept]

    def forget(self, folder):
        """Scores of a folder that was made anew."""
        for kept in (self.work / "scores").glob(f"{pathlib.Path(folder).name}.*"):
            kept.unlink()

    def circumstances(self):
        """When, where, by what: what a figure is worth nothing without."""
        cpu = platform.machine()
        try:
            lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
            cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        except (OSError, StopIteration):
            pass  # another system: its architecture has to do
        machine = f"{cpu}, {os.cpu_count()} cores"
        if self.executor == "cuda":
            devices = json.loads(self.run("devices", "--json"))
            machine = f"{devices['gpus'][0]['name']}, driver {devices['driver']}; {machine}"
        return {"date": datetime.date.today().isoformat(), "machine": machine, "executor": self.executor,
                "program": self.version, "command": shlex.join(sys.argv)}

    def said_of_it(self):
        return [f"{name}: {value}  " for name, value in self.circumstances().items()]

    def write_json(self, path, rows, **more):
        unfinished = pathlib.Path(str(path) + ".tmp")
        unfinished.write_text(json.dumps({**self.circumstances(), **more, "rows": rows}, indent=1) + "\n")
        unfinished.replace(path)


def cell(result, key, digits):
    """A markdown cell: the value with its 95 % interval, if it has one."""
    if key not in result:
        return "-"
    low_high = result.get(key + "_ci")
    interval = f" [{low_high[0]:.{digits}f}, {low_high[1]:.{digits}f}]" if low_high else ""
    return f"{result[key]:.{digits}f}{interval}"
