"""Stands in for trtllm-serve."""
import os
import sys

import completions
import options
import stage
import trtllm

words = sys.argv[1:]
stage.log_call("trtllm-serve", words)
given, (model,) = options.parse(words, options.TRTLLM_SERVE, "click", "trtllm-serve", arguments=1,
                                missing=stage.lacks())
if given.get("--backend", "pytorch") == "tensorrt":
    stage.check("--extra_llm_api_options" not in given, "kv_cache_config.dtype is of the PyTorch back end")
    cache = trtllm.engine_cache(model)
else:
    cache = trtllm.pytorch_cache(model, given.get("--extra_llm_api_options"))
config = stage.read_json(os.path.join(given.get("--tokenizer", model), "config.json"), "the tokenizer has no model")
word = stage.mode(cache == "FP8")
stage.take_card()
trtllm.print_start(cache, word)
stage.misbehave(word)
# A folder is served under its own name. (tensorrt_llm/serve/openai_server.py)
completions.serve(given["--host"], given["--port"], name=os.path.basename(model.rstrip("/")), owner="tensorrt_llm",
                  version=stage.version("TRTLLM", "1.1.0"), vocab=config["vocab_size"],
                  most_tokens=given["--max_seq_len"], silent_until_up=True)
