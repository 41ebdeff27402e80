#!/usr/bin/env python3
"""curl against `quantgrid serve`: tests/server/curl_client.py --binary quantgrid"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from serve_process import NAME, ServeProcess


def curl(*arguments, stdin=None):
    run = subprocess.run(["curl", "--silent", "--show-error", "--max-time", "120", "--noproxy", "*", *arguments],
                         input=stdin, capture_output=True, check=False)
    return run.returncode, run.stdout.decode()


def post(server, path, body, *more):
    data = body if isinstance(body, str) else json.dumps(body)
    return curl("--write-out", "\n%{http_code}", "--header", "Content-Type: application/json", "--data-binary", "@-",
                *more, server.url + path, stdin=data.encode())


def expect(condition, *what):
    if not condition:
        raise AssertionError(what)


def replies(server):
    want = server.generated("hello world", 20)
    request = {"model": NAME, "prompt": "hello world", "max_tokens": 20, "temperature": 0}
    _, out = post(server, "/v1/completions", request)
    body, status = out.rsplit("\n", 1)
    expect(status == "200" and json.loads(body)["choices"][0]["text"] == want["text"], out)

    _, out = post(server, "/v1/completions", request | {"stream": True}, "--no-buffer")
    lines = [line for line in out.splitlines() if line.startswith("data: ")]
    expect(lines[-1] == "data: [DONE]", out)
    text = "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines[:-1])
    expect(text == want["text"], text, want)

    _, out = post(server, "/v1/completions", request | {"stream": True}, "--http1.0")
    expect("data: [DONE]" in out, out)
    _, out = post(server, "/v1/chat/completions", {"model": NAME, "messages": [{"role": "user", "content": "hi"}],
                                                   "max_tokens": 5})
    expect(json.loads(out.rsplit("\n", 1)[0])["choices"][0]["message"]["role"] == "assistant", out)


def refusals(server):
    for body, status in [("{", "400"), ("", "400"), ("[" * 100000, "400"), ('{"model": "x", "prompt": "y"}', "404"),
                         (json.dumps({"model": NAME, "prompt": "x", "n": 0}), "400"),
                         (json.dumps({"model": NAME, "prompt": "x" * 200000}), "413")]:
        _, out = post(server, "/v1/completions", body)
        answer, got = out.rsplit("\n", 1)
        expect(got == status, body[:60], out[:300])
        expect(set(json.loads(answer)["error"]) == {"message", "type", "param", "code"}, answer)
    # curl asks before it sends a long body, and is told to go on.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "body"
        path.write_text(json.dumps({"model": NAME, "prompt": "x", "max_tokens": 1}) + " " * 90000)
        code, out = curl("--header", "Expect: 100-continue", "--expect100-timeout", "60", "--header",
                         "Content-Type: application/json", "--data-binary", f"@{path}", server.url + "/v1/completions")
        expect(code == 0 and json.loads(out)["usage"]["completion_tokens"] == 1, code, out)
    for path, status in [("/health", "200"), ("/metrics", "200"), ("/version", "200"), ("/openapi.json", "200"),
                         ("/", "200"), ("/nowhere", "404"), ("/v1/completions", "405"), ("/../etc/passwd", "404")]:
        _, out = curl("--path-as-is", "--output", "/dev/null", "--write-out", "%{http_code}", server.url + path)
        expect(out == status, path, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    binary = parser.parse_args().binary
    with ServeProcess(binary, "--max-body-bytes", "100000") as server:
        replies(server)
        refusals(server)
    print("curl is served as it should be")


if __name__ == "__main__":
    main()
