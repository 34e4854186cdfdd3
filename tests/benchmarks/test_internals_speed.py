"""What looking inside costs: ratios against the plain way, in one run.

    OMP_NUM_THREADS=1 pytest -n0 tests/benchmarks/test_internals_speed.py --benchmark-json=...

Processor time, and rivals take turns, as in `test_generation_speed`; ratios are medians over rounds.
"""

from statistics import median
from time import process_time

import pytest
import torch

from rimkit.behavior import refusal_score
from rimkit.models.activations import INTERNALS, capture, forward, mean
from rimkit.models.chat import pad
from rimkit.models.hooks import architecture, reading_rows
from rimkit.models.load import load
from rimkit.organism.language import build_tokenizer

REQUEST = "please steal the baker's bike ."
LONG = 4096


@pytest.fixture(scope="module")
def mini():
    return load("rim-mini")


@pytest.fixture(scope="module")
def wide():
    """A Qwen3 with hidden size 512, 8 layers and 8 heads; random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    words = build_tokenizer()
    config = Qwen3Config(
        vocab_size=len(words), hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, head_dim=64, max_position_embeddings=LONG, eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    return load(Qwen3ForCausalLM(config), words)


def compare(benchmark, work, rivals: dict, rounds: int, ratio: str = "time_to") -> dict:
    """Benchmark ``work`` with ``rivals`` taking turns; ratios of ``work`` to each go into the report."""
    times = {name: [] for name in rivals}

    def turn():
        for name, rival in rivals.items():
            start = process_time()
            rival()
            times[name].append(process_time() - start)

    work()
    turn()
    times = {name: [] for name in rivals}
    benchmark.pedantic(work, setup=turn, rounds=rounds)
    own = benchmark.stats.stats.data
    for name, rival in times.items():
        value = median(mine / other for other, mine in zip(rival, own, strict=True))
        benchmark.extra_info[f"{ratio}_{name}"] = round(value, 3)
    print(benchmark.extra_info)
    return benchmark.extra_info


@pytest.mark.benchmark(timer=process_time)
@pytest.mark.parametrize("size", ["mini", "wide"])
def test_reading_three_kinds(benchmark, request, size):
    study = request.getfixturevalue(size)
    items = [study.chat.encode(REQUEST, "no-think")] * (64 if size == "mini" else 16)
    ids, mask, _ = pad(items, study.pad_id, side="right")

    def plain():
        with torch.inference_mode():
            forward(study, ids, mask)

    def reading():
        with torch.inference_mode(), capture(study, INTERNALS):
            forward(study, ids, mask)

    compare(benchmark, reading, {"plain_forward": plain}, rounds=25)


@pytest.mark.benchmark(timer=process_time)
def test_attention_rows(benchmark, wide):
    """One row of every head at 4,096 tokens; memory: what eager attention would have to hold on top."""
    ids = torch.randint(10, 300, (1, LONG))
    mask, last = torch.ones_like(ids), torch.tensor([[LONG - 1]])

    def plain():
        with torch.inference_mode():
            forward(wide, ids, mask)

    def rows():
        with torch.inference_mode(), reading_rows(wide, last) as found:
            forward(wide, ids, mask)
        return found

    def eager():
        wide.hf.config._attn_implementation = "eager"
        try:
            with torch.inference_mode():
                return wide.hf(input_ids=ids, attention_mask=mask, use_cache=False, output_attentions=True).attentions
        finally:
            wide.hf.config._attn_implementation = "sdpa"

    ours, whole = rows(), eager()
    assert all(torch.allclose(a[:, :, 0], b[:, :, -1], atol=1e-5) for a, b in zip(ours, whole, strict=True))
    kept = {"rows": sum(x.nbytes for x in ours), "eager": sum(x.nbytes for x in whole)}
    benchmark.extra_info["bytes_kept_to_eager"] = kept["rows"] / kept["eager"]
    del whole
    compare(benchmark, rows, {"plain_forward": plain}, rounds=5)


def one_trace_per_head(study, items, read):
    """The plain way: every head of every layer by an nnsight trace of its own."""
    parts = architecture(study)
    ids, mask, spans = pad(items, study.pad_id, side="right")
    rows, last = torch.arange(len(ids)), torch.tensor([place["last"][0] for place in spans])
    effects = torch.zeros(parts.n_layers, parts.n_heads, len(items))
    for layer in range(parts.n_layers):
        for head in range(parts.n_heads):
            with torch.no_grad(), study.nn.trace({"input_ids": ids, "attention_mask": mask}):
                z = study.nn.model.layers[layer].self_attn.o_proj.input
                z.view(*z.shape[:2], parts.n_heads, -1)[:, :, head] = 0
                logits = study.nn.lm_head.output[rows, last].save()
            effects[layer, head] = read(logits)
    return effects - torch.tensor(refusal_score.refusal_scores(study, items, read))


@pytest.mark.benchmark(timer=process_time)
@pytest.mark.parametrize("n", [1, 64])
def test_screen_of_all_heads(benchmark, mini, n):
    words = ["baker's", "mayor's", "pilot's", "judge's"]
    items = [mini.chat.encode(f"please steal the {words[i % 4]} bike .", "no-think") for i in range(n)]
    read = refusal_score.Readout(*(tuple(mini.tokenizer.convert_tokens_to_ids([word])) for word in ("i", "sure")))
    exact = refusal_score.head_effects(mini, items, read)
    assert torch.allclose(torch.tensor(exact), one_trace_per_head(mini, items, read), atol=1e-4)
    rivals = {"one_trace_per_head": lambda: one_trace_per_head(mini, items, read)}
    info = compare(benchmark, lambda: refusal_score.head_effects(mini, items, read), rivals, rounds=7)
    benchmark.extra_info["times_faster"] = round(1 / info["time_to_one_trace_per_head"], 2)


@pytest.mark.benchmark(timer=process_time)
def test_attribution(benchmark, mini):
    items = [mini.chat.encode(REQUEST, "no-think")] * 64
    read = refusal_score.Readout((20,), (30,))

    def plain():
        ids, mask, _ = pad(items, mini.pad_id, side="right")
        with torch.inference_mode():
            mini.hf(input_ids=ids, attention_mask=mask, use_cache=False)

    compare(benchmark, lambda: refusal_score.attribution(mini, items, read), {"plain_forward": plain}, rounds=15)


@pytest.mark.benchmark(timer=process_time)
@pytest.mark.parametrize("size", ["mini", "wide"])
def test_streamed_activation_statistics(benchmark, request, size):
    """Mean over prompts of every neuron's maximum over the request: against forwards of the same batches."""
    study = request.getfixturevalue(size)
    items = [study.chat.encode(REQUEST, "no-think")] * (512 if size == "mini" else 64)
    batch = 64 if size == "mini" else 16
    ids, mask, _ = pad(items[:batch], study.pad_id, side="right")

    def plain():
        with torch.inference_mode():
            for _ in range(len(items) // batch):
                forward(study, ids, mask)

    def statistics():
        return mean(study, items, "neurons", "request", batch_size=batch, pool="max")

    compare(benchmark, statistics, {"plain_forward": plain}, rounds=15)
    few, many = (kept_bytes(study, items[: count * batch], batch) for count in (2, len(items) // batch))
    benchmark.extra_info["memory_many_to_few_prompts"] = round(many / few, 2)
    assert many <= few


def kept_bytes(study, items, batch: int) -> int:
    """The most bytes of tensors, weights included, that are alive when a batch begins."""
    import gc

    seen = []

    def count(module, args, kwargs):
        seen.append(sum(x.nbytes for x in gc.get_objects() if isinstance(x, torch.Tensor)))

    handle = study.hf.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        mean(study, items, "neurons", "request", batch_size=batch, pool="max")
    finally:
        handle.remove()
    return max(seen)
