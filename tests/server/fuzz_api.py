#!/usr/bin/env python3
"""schemathesis on the served OpenAPI description: tests/server/fuzz_api.py --binary quantgrid [--examples N]

Requests are made from the description, sound and unsound ones; every answer must be one that the description names, and
the server must be as it was afterwards. So that sound ones reach the model, its name and sizes are put in.
"""

import argparse
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from serve_process import NAME, ServeProcess


def metric(server, name):
    with urllib.request.urlopen(server.url + "/metrics") as reply:
        for line in reply.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
    raise AssertionError(f"no {name}")


def description(server):
    with urllib.request.urlopen(server.url + "/openapi.json") as reply:
        spec = json.load(reply)
    for name in ("CompletionRequest", "ChatRequest"):
        fields = spec["components"]["schemas"][name]["properties"]
        fields["model"] = {"const": NAME}
        for key in ("max_tokens", "max_completion_tokens"):
            fields.get(key, {})["maximum"] = 8
        fields["n"]["maximum"] = 4
        limit_ids(fields)
    path = server.folder / "openapi.json"
    path.write_text(json.dumps(spec))
    return path


# The golden models have 331 tokens and 256 positions.
def limit_ids(schema):
    if isinstance(schema, dict):
        if schema.get("maximum") == 2147483647 and schema.get("minimum") == 0:
            schema["maximum"] = 330
        if "items" in schema:
            schema["maxItems"] = min(schema.get("maxItems", 20), 20)
        for value in schema.values():
            limit_ids(value)
    elif isinstance(schema, list):
        for value in schema:
            limit_ids(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--examples", default="200", help="for each operation")
    arguments = parser.parse_args()
    # A stream of random length would be cut off by the client's own time limit, so replies are short.
    with ServeProcess(arguments.binary, "--request-timeout", "20") as server:
        environment = dict(os.environ, NO_PROXY="*", no_proxy="*")
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method"
        run = subprocess.run(
            [Path(sys.executable).parent / "schemathesis", "run", description(server), "--url", server.url, "--phases",
             "examples,coverage,fuzzing", "--checks", checks, "--max-examples", arguments.examples, "--seed", "1",
             "--request-timeout", "60", "--generation-database", "none", "--no-color"],
            check=False, env=environment, cwd=server.folder)
        if run.returncode:
            raise AssertionError(f"schemathesis: exit code {run.returncode}")
        with urllib.request.urlopen(server.url + "/health") as reply:
            assert reply.status == 200
        assert metric(server, "quantgrid_kv_pages_used") == 0
        generated = metric(server, "quantgrid_generation_tokens_total")
        print(f"{generated:.0f} tokens were generated")
        assert generated > 1000, "hardly a request reached the model"


if __name__ == "__main__":
    main()
