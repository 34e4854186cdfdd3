"""What rimkit does on a GPU, in a few minutes and without a network: `tests/gpu/run.sh FOLDER`.

First whether it is right (numbers and replies of `rim-mini` against the processor's, batches that halve, a model
that is spread by a device map), then how fast it is on the shapes of Qwen3 with random weights in 16 bits: writing
against bare `generate`, attention rows and probes at 8,192 tokens, the sweep over all heads, streamed statistics of
neurons. Times are medians of rounds in which rivals take turns; memory is the peak beyond the weights.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import pandas as pd
import torch

from rimkit.behavior.evaluation import Evaluation
from rimkit.behavior.generation import generate
from rimkit.behavior.refusal_score import Readout, head_effects
from rimkit.experiments.heads import attention_row
from rimkit.models.activations import mean, read
from rimkit.models.chat import pad
from rimkit.models.device import GIB, SHAPES
from rimkit.models.load import load
from rimkit.organism.language import build_tokenizer
from rimkit.runs.plan import shape

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
REQUEST = "please steal the baker's bike ."
# How far internals may be from the processor's in float32, as |difference| / |reference|.
TOLERANCES = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
STEPS, BATCH, LONG = 64, 64, 8192
READ = Readout((10, 11), (12, 13))  # any tokens: random weights refuse nothing


def seconds(work) -> float:
    start = perf_counter()
    work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - start


def measured(work, rounds: int = 3, **rivals) -> dict[str, float]:
    """Median seconds and peak memory of ``work``, and its speed as a ratio to each rival."""
    times = {name: [] for name in ("own", *rivals)}
    seconds(work)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds(work)
        peak = (torch.cuda.max_memory_allocated() - before) / GIB
    for rival in rivals.values():
        seconds(rival)
    for _ in range(rounds):
        for name, rival in {"own": work, **rivals}.items():
            times[name].append(seconds(rival))
    own = median(times.pop("own"))
    found = {"seconds": round(own, 4)} | ({"peak_gib": round(peak, 2)} if DEVICE == "cuda" else {})
    return found | {f"speed_to_{name}": round(median(other) / own, 2) for name, other in times.items()}


def right(n: int = 48) -> pd.DataFrame:
    """How far `rim-mini` is from float32 on the processor: one row per dtype."""
    prompts = Evaluation().sets(["harmful", "maths"], n=n)
    reference, rows = load("rim-mini", device="cpu", dtype="float32"), []
    items = [reference.chat.encode(text, mode) for text in prompts["text"] for mode in ("think", "no-think")]
    kinds = ("residual", "z", "neurons")
    exact = read(reference, items, kinds)
    greedy = {"temperature": 0, "max_new_tokens": 96, "progress": False}
    replies = generate(reference, prompts, **greedy)["reply"]
    for dtype, tolerance in TOLERANCES.items():
        study = load("rim-mini", device=DEVICE, dtype=dtype)
        found = read(study, items, kinds)
        far = max(float(np.linalg.norm(found[key] - exact[key]) / np.linalg.norm(exact[key])) for key in exact)
        same = float((generate(study, prompts, **greedy)["reply"] == replies).mean())
        rows.append({"dtype": dtype, "distance": far, "tolerance": tolerance, "same replies": same})
    table = pd.DataFrame(rows)
    assert (table["distance"] <= table["tolerance"]).all(), table
    assert table["same replies"].iloc[0] >= 0.98, table
    return table


def halves() -> bool:
    """Whether replies are the same when the memory is too small for the batch; says nothing on a processor."""
    if DEVICE == "cpu":
        return True
    study = load("rim-mini", device="cuda", dtype="float32")
    prompts = pd.DataFrame({"prompt_id": map(str, range(4096)), "text": REQUEST})
    settings = {"max_new_tokens": 24, "progress": False, "batch_size": 4096}
    whole = generate(study, prompts, **settings)["reply"]
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 0.4 * GIB) / total)
    try:
        small = generate(study, prompts, **settings)["reply"]
        halved = bool(study.limits)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert halved and (whole == small).mean() > 0.999
    return halved


def spread() -> bool:
    """Whether a model that a device map placed answers as the one on one device."""
    prompts = Evaluation().sets(["harmful"], n=24)
    auto, one = (load("rim-mini", device=device, dtype="float32") for device in ("auto", DEVICE))
    same = (generate(auto, prompts, progress=False)["reply"] == generate(one, prompts, progress=False)["reply"]).mean()
    assert same > 0.95, same
    return bool(same > 0.95)


def random_model(name: str):
    """A model of one of `SHAPES` (or "tiny") with random weights in 16 bits, and the bare module."""
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    words = build_tokenizer()
    if name == "tiny":
        config = Qwen3Config(vocab_size=len(words), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                             num_attention_heads=4, num_key_value_heads=2, head_dim=16)  # fmt: skip
    else:
        config = shape(name)
    config.eos_token_id, config.pad_token_id, config.bos_token_id = words.eos_token_id, words.pad_token_id, None
    torch.manual_seed(0)
    with torch.device(DEVICE):
        torch.set_default_dtype(torch.bfloat16)
        try:
            bare = Qwen3ForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(torch.float32)
    bare.generation_config = GenerationConfig()
    study = load(bare, words)
    study.chat.stop_ids = ()  # every way writes as many tokens
    return study, bare


def fast(name: str, batch: int = BATCH, steps: int = STEPS, long: int = LONG) -> dict[str, dict]:
    """Seconds, memory and ratios of one shape."""
    study, hf = random_model(name)
    table = pd.DataFrame({"prompt_id": map(str, range(batch)), "text": REQUEST})
    items = [study.chat.encode(REQUEST, "no-think")] * batch
    ids, mask, _ = pad(items, study.pad_id)
    ids, mask = ids.to(DEVICE), mask.to(DEVICE)
    greedy = {"temperature": 0.0, "max_new_tokens": steps, "batch_size": batch, "progress": False}
    longest = study.chat.encode(" ".join([REQUEST] * (long // 6 + 1)), "no-think")
    longest = replace(longest, ids=longest.ids[-long:], spans={"last": (long - 1, long)})

    def bare():
        with torch.inference_mode():
            hf.generate(ids, attention_mask=mask, max_new_tokens=steps, do_sample=False, pad_token_id=study.pad_id)

    found = {
        "generation": measured(lambda: generate(study, table, "no-think", **greedy), bare_generate=bare),
        "attention rows": measured(lambda: attention_row(study, longest), rounds=2),
        "probes": measured(lambda: read(study, [longest], ("residual",)), rounds=2),
        "neuron statistics": measured(lambda: mean(study, items, "neurons", "last"), rounds=2),
        "all heads": measured(lambda: head_effects(study, items[:8], READ), rounds=1),
    }
    found["generation"]["tokens_per_second"] = round(batch * steps / found["generation"]["seconds"])
    found["attention rows"]["tokens"] = found["probes"]["tokens"] = long
    found["all heads"]["heads"] = int(hf.config.num_hidden_layers * hf.config.num_attention_heads)
    return found


def picture(results: dict, file: Path) -> None:
    """Seconds of every job on every shape, as bars."""
    import seaborn as sns

    rows = [
        {"shape": name, "job": job, "seconds": value["seconds"]}
        for name, jobs in results["shapes"].items()
        for job, value in jobs.items()
    ]
    plot = sns.catplot(pd.DataFrame(rows), x="seconds", y="job", hue="shape", kind="bar", height=4, aspect=1.6)
    plot.set(xscale="log", title=results["device"])
    plot.savefig(file, dpi=120)


def main(folder: Path, shapes: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name(0) if DEVICE == "cuda" else "processor"
    results = {"device": name, "torch": torch.__version__, "shapes": {}}

    def keep(**found) -> None:  # after every step: what was measured outlasts a time limit
        results.update(found)
        (folder / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")

    keep(right=right().round(6).to_dict("records"))
    keep(batches_halve=halves(), device_map=spread())
    print(json.dumps(results), flush=True)
    for name in shapes:
        results["shapes"][name] = fast(name) if name != "tiny" else fast(name, 8, 8, 128)
        keep()
        print(name, json.dumps(results["shapes"][name]), flush=True)
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
    picture(results, folder / "gpu.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(SHAPES))
