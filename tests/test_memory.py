"""Out of memory: batches that shrink and lose nothing; long conversations in bounded memory."""

from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rimkit.behavior.generation import generate
from rimkit.data import UserError
from rimkit.models import activations
from rimkit.models.device import out_of_memory, shrinking
from rimkit.models.load import load

PROMPTS = pd.DataFrame(
    {"prompt_id": [f"p{i}" for i in range(9)], "text": ["open my shed . " * (1 + i % 3) for i in range(9)]}
)
QUICK = {"max_new_tokens": 6, "progress": False}


@pytest.fixture
def model():
    words = tiny.tokenizer()
    return load(tiny.random_model(words), words)


@contextmanager
def small_memory(model, largest, error=torch.OutOfMemoryError):
    """Forwards of more than ``largest`` conversations fail; yields the sizes of those that begin a batch."""
    sizes = []

    def check(module, args, kwargs):
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        if ids.shape[1] > 1:
            sizes.append(len(ids))
        if len(ids) > largest:
            raise error("out of memory")

    handle = model.hf.model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_halves_the_batch_and_loses_nothing(model, temperature, capsys):
    whole = generate(model, PROMPTS, "think", temperature=temperature, **QUICK)
    with small_memory(model, 2) as sizes:
        part = generate(model, PROMPTS, "think", temperature=temperature, batch_size=8, **QUICK)
    pd.testing.assert_frame_equal(part, whole)
    assert sizes[:4] == [8, 4, 2, 2] and max(sizes[2:]) <= 4 and capsys.readouterr().out.count("out of memory") >= 2
    with small_memory(model, 2) as sizes:
        generate(model, PROMPTS.head(2), "think", temperature=temperature, batch_size=8, **QUICK)
    assert max(sizes) <= 2  # what was too much is remembered


def test_what_was_finished_before_is_not_done_again(model):
    done = []

    def run(rows):
        if len(done) == 1 and len(rows) > 1:
            raise torch.OutOfMemoryError
        done.append(rows)
        return rows

    found = [rows for rows, _ in shrinking(model, "testing", [5, 9, 7, 7], 2, run, "advice")]
    assert found == done == [[1, 2], [3], [0]]


@pytest.mark.parametrize("task", ["generating", "reading"])
def test_one_conversation_too_many_is_one_clear_line(model, task):
    items = [model.chat.encode("open my shed .", "think")] * 4
    work = {"generating": lambda: generate(model, PROMPTS, **QUICK), "reading": lambda: activations.read(model, items)}
    with (
        small_memory(model, 0),
        pytest.raises(UserError, match=f"out of memory while {task} one conversation of") as caught,
    ):
        work[task]()
    assert "\n" not in str(caught.value) and "smaller" in str(caught.value)


def test_reading_halves_the_batch(model):
    items = [model.chat.encode("open my shed . " * (1 + i), "no-think") for i in range(8)]
    whole = activations.read(model, items, activations.INTERNALS, ("last", "request"))
    with small_memory(model, 2) as sizes:
        part = activations.read(model, items, activations.INTERNALS, ("last", "request"), batch_size=8)
    assert sizes[:3] == [8, 4, 2]
    for key, values in whole.items():
        assert np.allclose(values, part[key], atol=1e-5, equal_nan=True), key


def test_only_memory_is_meant(model):
    known = [
        torch.OutOfMemoryError(),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ]
    assert all(map(out_of_memory, [*known, RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")]))
    with small_memory(model, 0, ZeroDivisionError), pytest.raises(ZeroDivisionError):
        generate(model, PROMPTS, **QUICK)
    with pytest.raises(RuntimeError, match="shapes"):
        list(shrinking(model, "testing", [1], 1, lambda rows: (_ for _ in ()).throw(RuntimeError("shapes")), ""))


# -- long thoughts ---------------------------------------------------------------------------------

LENGTH = 8192


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that torch makes."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = out if isinstance(out, tuple | list) else [out]
        self.found = max([self.found, *(x.untyped_storage().nbytes() for x in tensors if isinstance(x, torch.Tensor))])
        return out


@pytest.fixture(scope="module")
def long_study():
    from transformers import Qwen3Config, Qwen3ForCausalLM

    words = tiny.tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, max_position_embeddings=2 * LENGTH, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return load(Qwen3ForCausalLM(config), words)


@pytest.fixture(scope="module")
def long_items(long_study):
    """Thoughts of about 8,000 and 6,000 tokens: one of the two is padded."""
    lengths = LENGTH - 40, 3 * LENGTH // 4
    items = [
        long_study.chat.encode("open my shed .", "think", thought="fine . " * (n // 2), reply="sure .") for n in lengths
    ]
    assert LENGTH - 40 < len(items[0].ids) <= LENGTH
    return items


def test_long_thoughts_are_read_without_a_matrix_of_tokens_by_tokens(long_study, long_items):
    """Residuals, heads, neurons and attention rows of 8k tokens; a byte per pair of tokens would be 64 MiB."""
    from rimkit.experiments.heads import attention_by_span

    with Largest() as seen:
        read = activations.read(long_study, long_items, activations.INTERNALS, ("last", "thought"))
        mass = attention_by_span(long_study, long_items)
    assert seen.found < LENGTH * LENGTH / 8
    assert all(np.isfinite(values).all() for values in read.values())
    assert mass["thought"].shape == (2, 4, 2)
    assert ((mass["thought"] > 0.1) & (mass["thought"] <= 1.0001)).all()


def test_a_probe_follows_a_long_thought(long_study, long_items):
    from rimkit.experiments.probes import Probe, trajectory

    probe = Probe(np.ones((3, 16), dtype=np.float32), np.zeros(3, dtype=np.float32))
    with Largest() as seen:
        table = trajectory(long_study, long_items, probe, residual=2)
    assert seen.found < LENGTH * LENGTH / 8
    assert len(table) == sum(item.spans["thought"][1] - item.spans["thought"][0] for item in long_items)
