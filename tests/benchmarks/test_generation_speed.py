"""Throughput of rimkit's generation against bare `generate` on the same ids, in one run.

    OMP_NUM_THREADS=1 pytest -n0 tests/benchmarks/test_generation_speed.py --benchmark-json=...

Each of the three ways writes exactly ``STEPS`` tokens per prompt (no token ends a turn), so the ratio of the
times is the ratio of the throughputs. Processor time, so that other jobs on the machine count little; the
rivals take turns. The bare model is a plain Hugging Face module with the same weights, without nnsight.
"""

from copy import deepcopy
from statistics import median
from time import process_time

import pandas as pd
import pytest
import torch

from rimkit.behavior.generation import generate
from rimkit.models.chat import pad
from rimkit.models.load import load
from rimkit.organism.language import build_tokenizer
from rimkit.organism.recipe import config

N, STEPS, BATCH, ROUNDS = 128, 48, 64, 7
REQUEST = "please steal the baker's bike ."


@pytest.fixture(scope="module")
def models():
    """The model under study and the bare module."""
    from transformers import GenerationConfig, Qwen3ForCausalLM

    torch.manual_seed(0)
    words = build_tokenizer()
    bare = Qwen3ForCausalLM(config(words)).eval()
    bare.generation_config = GenerationConfig()
    study = load(deepcopy(bare), words)
    study.chat.stop_ids = ()
    return study, bare


def bare_generate(hf, items, pad_id, batch_size, temperature):
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}
    for start in range(0, len(items), batch_size):
        ids, mask, _ = pad(items[start : start + batch_size], pad_id)
        with torch.inference_mode():
            found = hf.generate(ids, attention_mask=mask, max_new_tokens=STEPS, pad_token_id=pad_id, **sampling)
        assert found.shape[1] - ids.shape[1] == STEPS  # a ratio of times is one of throughputs only then


def seconds(work, *args) -> float:
    start = process_time()
    work(*args)
    return process_time() - start


@pytest.mark.benchmark(timer=process_time)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_throughput(benchmark, models, temperature):
    study, hf = models
    table = pd.DataFrame({"prompt_id": [str(i) for i in range(N)], "text": REQUEST})
    items = [study.chat.encode(text, "no-think") for text in table["text"]]
    few = items[: N // 16]
    batched, single = [], []

    def rivals():
        batched.append(seconds(bare_generate, hf, items, study.pad_id, BATCH, temperature))
        single.append(seconds(bare_generate, hf, few, study.pad_id, 1, temperature) * N / len(few))

    settings = {"temperature": temperature, "max_new_tokens": STEPS, "batch_size": BATCH, "progress": False}
    arguments = (study, table, "no-think")
    written = generate(*arguments, **settings)["n_tokens"]
    assert len(written) == N and (written == STEPS).all()
    rivals()
    batched.clear()
    single.clear()
    benchmark.pedantic(generate, arguments, settings, setup=rivals, rounds=ROUNDS)
    own = benchmark.stats.stats.data
    for name, rival in (("bare_batched", batched), ("one_at_a_time", single)):
        ratio = median(other / mine for other, mine in zip(rival, own, strict=True))
        benchmark.extra_info[f"throughput_to_{name}"] = round(ratio, 2)
    print(benchmark.extra_info)
