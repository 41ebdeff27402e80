#!/usr/bin/env python3
"""The real OpenAI client against `quantgrid serve`: tests/server/openai_client.py --binary quantgrid"""

import argparse
import concurrent.futures

import openai

from serve_process import NAME, ServeProcess


def expect(condition, *what):
    if not condition:
        raise AssertionError(what)


def expect_error(kind, call, **expected):
    try:
        call()
    except kind as error:
        for key, value in expected.items():
            expect(getattr(error, key) == value, key, getattr(error, key), value)
        return error
    raise AssertionError(f"no {kind.__name__}")


def completions(client, server):
    for prompt in ["hello world", "Grüße aus 北京"]:
        want = server.generated(prompt, 30)
        got = client.completions.create(model=NAME, prompt=prompt, max_tokens=30, temperature=0)
        expect(got.choices[0].text == want["text"], got.choices[0].text, want["text"])
        expect(got.choices[0].finish_reason == want["finish"], got)
        expect(got.usage.completion_tokens == want["output_tokens"], got.usage)
        expect(got.usage.prompt_tokens == want["prompt_tokens"], got.usage)
        chunks = list(client.completions.create(model=NAME, prompt=prompt, max_tokens=30, temperature=0, stream=True,
                                                stream_options={"include_usage": True}))
        expect("".join(c.choices[0].text for c in chunks[:-1]) == want["text"], chunks)
        expect(chunks[-1].usage.completion_tokens == want["output_tokens"], chunks[-1])
        expect(chunks[-2].choices[0].finish_reason == want["finish"], chunks[-2])

    several = client.completions.create(model=NAME, prompt=["a", "b"], n=2, max_tokens=5, seed=3,
                                        extra_body={"ignore_eos": True, "top_k": 50})
    expect([c.index for c in several.choices] == [0, 1, 2, 3], several)
    expect(several.usage.completion_tokens == 20, several.usage)
    ids = client.completions.create(model=NAME, prompt=[5, 6, 7], max_tokens=0, echo=True, logprobs=2)
    expect(len(ids.choices[0].logprobs.tokens) == 3, ids)
    expect(ids.choices[0].logprobs.token_logprobs[0] is None and ids.choices[0].logprobs.token_logprobs[1] < 0, ids)


def chat(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    whole = client.chat.completions.create(model=NAME, messages=messages, max_tokens=20, temperature=0, logprobs=True,
                                           top_logprobs=2)
    choice = whole.choices[0]
    expect(choice.message.role == "assistant" and choice.finish_reason in ("stop", "length"), whole)
    expect(len(choice.logprobs.content[0].top_logprobs) == 2, choice.logprobs)
    text = ""
    for chunk in client.chat.completions.create(model=NAME, messages=messages, max_completion_tokens=20, temperature=0,
                                                stream=True):
        text += chunk.choices[0].delta.content or ""
    expect(text == choice.message.content, text, choice.message.content)


def errors(client, server):
    expect_error(openai.NotFoundError, lambda: client.completions.create(model="gpt-4", prompt="x"), status_code=404,
                 code="model_not_found", param="model", type="not_found_error")
    expect_error(openai.BadRequestError, lambda: client.completions.create(model=NAME, prompt="x", max_tokens=9999),
                 code="context_length_exceeded", param="max_tokens", type="invalid_request_error")
    expect_error(openai.BadRequestError, lambda: client.completions.create(model=NAME, prompt="x", temperature=-1),
                 param="temperature")
    expect_error(openai.BadRequestError, lambda: client.chat.completions.create(model=NAME, messages=[]),
                 param="messages")
    wrong_key = openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0)
    expect_error(openai.AuthenticationError, wrong_key.models.list, status_code=401)


# Streams that are given up in the middle leave the server as it was; those beside them get what they should.
def many(client, server):
    want = server.generated("some words", 40)["text"]

    def one(i):
        stream = client.completions.create(model=NAME, prompt="some words", max_tokens=40, temperature=0, stream=True)
        if i % 3 == 0:
            next(iter(stream))
            stream.close()
            return
        text = "".join(chunk.choices[0].text for chunk in stream)
        expect(text == want, i, text, want)

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        list(threads.map(one, range(60)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    binary = parser.parse_args().binary
    with ServeProcess(binary, "--api-key", "secret") as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="secret", max_retries=0, timeout=120)
        expect([m.id for m in client.models.list()] == [NAME])
        expect(client.models.retrieve(NAME).id == NAME)
        completions(client, server)
        chat(client)
        errors(client, server)
        many(client, server)
    print("the OpenAI client is served as it should be")


if __name__ == "__main__":
    main()
