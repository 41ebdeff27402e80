"""Starts `quantgrid serve` on a free port, over a small golden model with a chat template, for tests in Python."""

import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "models" / "llama-gqa1-tied-fp32"
NAME = "tiny"


class ServeProcess:
    def __init__(self, binary, *arguments, model=None):
        self.folder = Path(tempfile.mkdtemp(prefix="quantgrid-serve-"))
        self.binary = binary
        self.model = Path(model) if model else self._chatting_model()
        self.log_path = self.folder / "log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [binary, "serve", "--model", self.model, "--port", "0", "--name", NAME, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.port = self._wait_for_port()
        self.url = f"http://127.0.0.1:{self.port}"

    # The golden models have no chat template; Llama 2's needs no tokens of its own.
    def _chatting_model(self):
        folder = self.folder / "model"
        shutil.copytree(GOLDEN, folder)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] = "{{ bos_token }}[INST] <<SYS>> {{ content }} [/INST]"
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    def _wait_for_port(self):
        for _ in range(6000):
            if match := re.search(r"listening on http://[^:]+:(\d+) .*\n", self.log()):
                return int(match.group(1))
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"the server did not start:\n{self.log()}")

    def log(self):
        return self.log_path.read_text(errors="replace")

    # What the model says to a plain prompt, by the other verb.
    def generated(self, prompt, max_tokens):
        out = subprocess.run([self.binary, "generate", "--model", self.model, "--prompt", prompt, "--max-tokens",
                              str(max_tokens), "--json"], check=True, capture_output=True).stdout
        return json.loads(out)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = "none within a minute"
        log = self.log()
        shutil.rmtree(self.folder, ignore_errors=True)
        if kind is None and code != 0:
            raise AssertionError(f"exit code {code}:\n{log}")
        if kind is not None:
            print(log)
