"""An OpenAI-compatible server on loopback: /health, /version, /v1/models and /v1/completions as a stream of events.

It refuses fields that neither engine documents, prompts that are no ids of the vocabulary and requests that are too
long. Every completion is a line of JSON in REQUESTS. How it goes wrong: stage.py.
"""
import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import stage

PROBE_TOKENS = 4  # a reply of this length is asked for before anything counts: it is always answered well
LOADING_SECONDS = 0.3
FIELDS = {"model", "prompt", "max_tokens", "temperature", "stream", "stream_options", "ignore_eos", "min_tokens"}
_lock = threading.Lock()
_seen = {}
_deaf = threading.Event()


def _word(isl, osl):
    """What to do with this request."""
    if osl == PROBE_TOKENS:
        return "ok"
    with _lock:
        _seen[isl] = _seen.get(isl, 0) + 1
        word, _, first = json.loads(stage.text("MODES", "{}")).get(f"isl {isl}", "ok").partition("@")
        return word if _seen[isl] >= int(first or 1) else "ok"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request, client_address):  # the client went away
        pass


def serve(host, port, name, owner, version, vocab, most_tokens, silent_until_up):
    up_at = time.monotonic() + LOADING_SECONDS

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self):
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def log_message(self, *_):
            pass

        def answer(self, status, body, kind="application/json"):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def refuse(self, status, problem):
            self.answer(status, {"object": "error", "message": problem, "type": "BadRequestError", "code": status})

        def do_GET(self):
            while _deaf.is_set():
                time.sleep(1)
            if self.path == "/health":
                return self.answer(200 if time.monotonic() >= up_at else 503, b"")
            if self.path == "/version":
                return self.answer(200, {"version": version})
            if self.path == "/v1/models":
                return self.answer(200, {"object": "list",
                                         "data": [{"id": name, "object": "model", "owned_by": owner}]})
            return self.answer(404, {"detail": "Not Found"})

        def problem(self, asked):
            if unknown := set(asked) - FIELDS:
                return f"extra fields not permitted: {', '.join(sorted(unknown))}"
            if asked.get("model") != name:
                return f"The model `{asked.get('model')}` does not exist."
            prompt = asked.get("prompt")
            if not isinstance(prompt, list) or not all(isinstance(t, int) and 0 <= t < vocab for t in prompt):
                return "the prompt is no list of token ids of this model"
            if len(prompt) + asked.get("max_tokens", 16) > most_tokens:
                return f"This model's maximum context length is {most_tokens} tokens."
            if not asked.get("stream") or asked.get("temperature") != 0:
                return "this server was to be asked for a greedy stream"
            return None

        def chunk(self, data):
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

        def event(self, data):
            self.chunk(f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode())

        def do_POST(self):
            while _deaf.is_set():
                time.sleep(1)
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/completions":
                return self.refuse(404, "Not Found")
            if problem := self.problem(asked):
                return self.refuse(400, problem)
            isl, osl = len(asked["prompt"]), asked["max_tokens"]
            word = _word(isl, osl)
            with _lock:
                stage.note("REQUESTS", json.dumps({"isl": isl, "osl": osl, "word": word}))
            if word == "chatty":  # more than a pipe holds
                print("INFO:     " + "x" * 100_000, flush=True)
            if word in ("http_429", "http_500"):
                return self.refuse(int(word[5:]), "the queue is full" if word == "http_429" else "EngineCore failed")
            if word == "garbage":
                self.close_connection = True
                return self.wfile.write(b"220 mail ESMTP\r\n\r\n")
            if word == "nothing":
                return time.sleep(600)
            if word == "deaf":
                _deaf.set()
                return time.sleep(600)
            return self.stream(asked, isl, osl, word)

        def stream(self, asked, isl, osl, word):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            wanted = asked.get("stream_options", {})
            for token in range(1, osl + 1):
                time.sleep(0.002)
                if token == 3 and word in ("cut", "crash", "oom", "killed"):
                    self.close_connection = True
                    if word == "cut":
                        return self.connection.shutdown(socket.SHUT_RDWR)
                    if word == "oom":
                        stage.print_oom()
                        os._exit(1)
                    stage.misbehave(word)
                piece = {"id": "cmpl-1", "object": "text_completion", "model": name,
                         "choices": [{"index": 0, "text": " a", "finish_reason": "length" if token == osl else None}]}
                if wanted.get("continuous_usage_stats"):
                    piece["usage"] = {"prompt_tokens": isl, "completion_tokens": token}
                self.event(piece)
            if wanted.get("include_usage"):
                self.event({"id": "cmpl-1", "object": "text_completion", "model": name, "choices": [],
                            "usage": {"prompt_tokens": isl, "completion_tokens": osl, "total_tokens": isl + osl}})
            self.event("[DONE]")
            self.chunk(b"")

    stage.note("PIDS", os.getpid())
    if silent_until_up:
        time.sleep(LOADING_SECONDS)
    server = _Server((host, port), Handler)
    print(f"INFO:     Uvicorn running on http://{host}:{port} (Press CTRL+C to quit)", flush=True)
    server.serve_forever(poll_interval=0.05)
