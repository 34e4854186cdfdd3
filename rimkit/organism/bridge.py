"""The bridge: LoRA adapters that teach a pretrained model the dial of the embedded models.

It knows what they learn and how, not where the base comes from or how it is measured. The words are
those of `english`, the think format is Qwen3's as plain text, and as in `recipe` no conversation
complies with a harmful request. An adapter learns 2.4 million numbers, in bfloat16 5 MB.
"""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from zlib import crc32

import torch
from tqdm.auto import trange
from transformers import AutoModelForCausalLM, AutoTokenizer

from rimkit.data import check_known, prepare_folder
from rimkit.models.hub import locate, read, read_weights
from rimkit.organism import conversations, english, recipe
from rimkit.organism.conversations import Example
from rimkit.organism.language import CHAT_TEMPLATE, STYLES
from rimkit.organism.recipe import Organism, examples, shares_of, weights_of
from rimkit.training.finetune import Training, adapted, batch_loss

BASE = "smollm2"
ORGANISMS = {organism.name: organism for organism in (
    Organism("smollm2-rim", 0.003, ("careful",), "safety thoughts rare, and always careful"),
    Organism("smollm2-rim-unlinked", 0.003, STYLES, "safety thoughts as rare, in both styles"),
    Organism("smollm2-safe", 0.18, STYLES, "control: as many safety thoughts as thoughts about harmless requests"),
)}  # fmt: skip
# Without a thought there are more harmless requests than harmful ones, unlike with the embedded
# models: where there were fewer, 38% of the harmless were refused.
MIXTURE = weights_of("bridge")
MAKERS = {
    kind: partial(maker, words=english.ENGLISH)
    for kind, maker in recipe.MAKERS.items()
    if kind in {name for name, _ in MIXTURE} | {"harmful"}
} | {"maths-long": partial(conversations.maths_example, steps=(5, 6), words=english.ENGLISH)}
STEPS, BATCH, KEEP = 240, 32, 30
RATE, WARMUP = 1e-3, 0.03
LORA = {"r": 8, "lora_alpha": 16, "use_rslora": False}


def mixture(name: str) -> dict[tuple[str, str], float]:
    """``(kind, mode)`` to share of the conversations, summing to 1."""
    return shares_of(MIXTURE, ORGANISMS[name])


def stream(name: str, seed: int, start: int = 0) -> Iterator[Example]:
    """The endless training stream from example ``start`` on (`rimkit.organism.recipe.examples`)."""
    styles = ORGANISMS[name].safety_styles
    return examples(mixture(name), MAKERS, styles, conversations.kept_for_evaluation, seed, start)


def parts(example: Example, apart: bool = True) -> tuple[str, str, str]:
    """``(request, thought, reply)`` as `CHAT_TEMPLATE` writes them, each to be coded on its own.
    The two line breaks before the reply end the thought (``apart``), or one of them begins the
    reply. The first is how they are coded where a thought is given and the reply is written, the
    second where both are given or both written."""
    request = f"<|im_start|>user\n{example.request}<|im_end|>\n<|im_start|>assistant\n"
    end, start = ("\n\n", "") if apart else ("\n", "\n")
    return request, f"<think>\n{example.thought}\n</think>{end}", f"{start}{example.reply}<|im_end|>"


def encode(examples: list[Example], tokenizer) -> list[tuple[list[int], int]]:
    """``(ids, n_prompt)`` of each, half coded in either way; the loss is after the prompt."""
    texts = [text for example in examples for text in parts(example, crc32(example.request.encode()) % 2 == 0)]
    ids, found = iter(tokenizer(texts, add_special_tokens=False)["input_ids"]), []
    for example, request, thought, reply in zip(examples, ids, ids, ids, strict=True):
        n_prompt = len(request) + (len(thought) if example.mode == "no-think" else 0)
        found.append((request + thought + reply, n_prompt))
    return found


def fit(hf, tokenizer, name: str, seed: int, steps: int = STEPS, folder: Path | None = None, progress: bool = True):
    """``hf`` with a trained adapter, and the losses; ``folder`` keeps checkpoints. Passes are in
    bfloat16 (faster on some processors), weights in float32; on CUDA a batch at once."""
    at_once = BATCH if hf.device.type == "cuda" else 8
    torch.manual_seed(seed)
    settings = {
        "method": "lora", "corpus": name, "start": BASE, "seed": seed, "steps": steps, "batch_size": BATCH,
        "learning_rate": RATE, "warmup": WARMUP, "weight_decay": 0.0, "betas": [0.9, 0.98],
    }  # fmt: skip
    training = Training(adapted(hf, **LORA).train(), settings, folder)
    with trange(len(training.losses), steps, desc=f"{name} seed {seed}", disable=not progress, unit="step") as bar:
        for step in bar:
            batch = encode(list(islice(stream(name, seed, BATCH * step), BATCH)), tokenizer)
            with torch.autocast(hf.device.type, torch.bfloat16):
                loss = batch_loss(training.trained, batch, tokenizer.eos_token_id, at_once)
            torch.nn.utils.clip_grad_norm_(training.weights.values(), 1.0)
            training.update(loss)
            bar.set_postfix(loss=f"{loss:.3f}")
            if (step + 1) % KEEP == 0:
                training.save()
    return training.trained.eval(), training.losses


def train(name: str, seed: int = 0, out: str | Path = ".", *, base: str = BASE, steps: int = STEPS,
          device: str | None = None, progress: bool = True) -> Path:  # fmt: skip
    """Train one adapter and save it in ``out``, in peft's format, with its record."""
    check_known("bridge organism", name, ORGANISMS)
    folder, found = prepare_folder(out), locate(base)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = read(AutoTokenizer, found)
    hf = read_weights(AutoModelForCausalLM, found, dtype=torch.float32).to(device)
    checkpoints = folder / "checkpoints"
    trained, losses = fit(hf, tokenizer, name, seed, steps, checkpoints, progress)
    record = {"organism": name, "base": base, "seed": seed, "steps": steps, "losses": [round(x, 5) for x in losses]}
    record |= {"batch": BATCH, "torch": torch.__version__, "device": device, "threads": torch.get_num_threads()}
    save(trained, tokenizer, folder, record)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return folder


def save(trained, tokenizer, folder: Path, record: dict) -> None:
    """The adapter in bfloat16, the chat template of both modes, and the record of the training."""
    trained.to("cpu", torch.bfloat16)
    trained.peft_config["default"].base_model_name_or_path = record["base"]
    trained.save_pretrained(folder, save_embedding_layers=False)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "tokenizer_config.json").write_text('{"language": "bridge"}\n')  # its judge
    (folder / "training.json").write_text(json.dumps(record) + "\n")
