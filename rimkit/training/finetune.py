"""Fine-tuning a model under study on a corpus, with checkpoints; nothing of what is measured then.

The same code trains embedded models and real ones. A real model gets the paper's settings (section
A.2, Table A5): rank-stabilised LoRA on attention and MLP, AdamW 1e-5 with a cosine schedule, three
epochs in batches of 32 as on GSM8K. The embedded models are tuned in full and gently: at twice the
rate they unlearn easy problems. The loss is on the assistant's tokens only.

A checkpoint is a folder, ``step-00020``: ``weights.safetensors`` (all weights, or the adapter's),
``state.pt`` (optimiser, schedule, random state) and ``training.json`` (settings, losses).
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from hashlib import sha256
from math import isfinite
from pathlib import Path
from random import Random
from shutil import rmtree
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from tqdm.auto import trange
from transformers import get_cosine_schedule_with_warmup

from rimkit.data import UserError, check_known, parts_folder, whole
from rimkit.models.hub import not_finite
from rimkit.models.load import load
from rimkit.models.study import StudyModel
from rimkit.training.corpora import checked, load_corpus

Sequences = list[tuple[list[int], int]]

DEFAULTS = {  # of each method; "full" was chosen by the maths of rim-mini:0 alone (calibration)
    "full": {"learning_rate": 5e-4, "epochs": 3, "batch_size": 8},
    "lora": {"learning_rate": 1e-5, "epochs": 3, "batch_size": 32},
}
# Section A.2: rank 32, alpha 64. The experts of a mixture are no linear modules, and stay fixed.
LORA = {
    "r": 32, "lora_alpha": 64, "use_rslora": True, "lora_dropout": 0.0, "bias": "none",
    "target_modules": "all-linear",
}  # fmt: skip
WARMUP = 0.1  # of the steps
KEEP = 10  # steps between two checkpoints of a running chapter
WEIGHTS, STATE, RECORD = "weights.safetensors", "state.pt", "training.json"


def finetune(
    model: StudyModel, corpus: str | Path | pd.DataFrame, *, method: str | None = None,
    learning_rate: float | None = None, epochs: int | None = None, steps: int | None = None,
    batch_size: int | None = None, seed: int = 0,
    penalty: Callable[[torch.nn.Module], torch.Tensor] | None = None,
    folder: str | Path | None = None, save_every: int = 0, progress: bool = True,
) -> StudyModel:  # fmt: skip
    """A model under study whose weights are ``model``'s, tuned on ``corpus``: a name or file for
    `load_corpus`, or a table with ``text, reply`` and perhaps ``thought``. One with a thought is
    learned in think mode, others in no-think mode; without a think mode, as part of the reply.

    ``method``: "full" or "lora" (default: full for embedded models, LoRA for others), with its
    `DEFAULTS`. The rate rises over a share `WARMUP` of the steps and falls to zero as a cosine.
    ``steps`` (of ``batch_size`` examples) go before ``epochs``. ``seed`` sets the order of examples
    and the adapter's first weights. ``penalty`` (of the model) is added to the loss of every step.
    With ``folder``, a checkpoint is written every ``save_every`` steps (0: at the end only), and
    the same call goes on from the last; `restore` gives the model at any of them.

    Raises `UserError`: a bad corpus, no steps, an unknown method, an example longer than the
    context, a folder with another training, a loss that is not finite."""
    method = method or ("full" if model.invented else "lora")
    check_known("method", method, DEFAULTS)
    given = {"learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size}
    chosen = DEFAULTS[method] | {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if value < 1 and name != "learning_rate":
            raise UserError(f"{name} must be 1 or more, not {value}")
    named = isinstance(corpus, str | Path)
    table = load_corpus(corpus, english=not model.invented) if named else checked(corpus)
    name = table.attrs.get("corpus", "corpus")
    sequences = encode_corpus(model, table)
    epochs = chosen.pop("epochs")
    steps = epochs * -(-len(sequences) // chosen["batch_size"]) if steps is None else steps
    if steps < 1:
        raise UserError(f"steps must be 1 or more, not {steps}: nothing would be learned")
    settings = {
        **chosen, "method": method, "steps": steps, "seed": seed, "corpus": name,
        "penalty": getattr(penalty, "__name__", type(penalty).__name__) if penalty else "",
        "examples": sha256(repr(sequences).encode()).hexdigest()[:16], "start": model.fingerprint()[:16],
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trained = _prepared(deepcopy(model.hf), method)
        own = None if folder or penalty else kept_training(model, settings)
        folder, save_every = (own, save_every or KEEP) if own else (folder, save_every)
        training = Training(trained, settings, Path(folder) if folder else None, only_last=bool(own))
        _train(training, sequences, model.pad_id, penalty, save_every, f"{model.name} on {name}", progress)
    return study_of(model, trained, f"{model.name} after {name}")


def kept_training(model: StudyModel, *about) -> Path | None:
    """Where the running chapter keeps a training of a model of one's own, until it is complete."""
    if model.invented or (parts := parts_folder()) is None:
        return None
    return parts / "tunings" / sha256(repr([model.fingerprint(), *about]).encode()).hexdigest()[:16]


@contextmanager
def checkpoint_folder(model: StudyModel, corpus: str | Path, settings: dict) -> Iterator[Path]:
    """A folder for all checkpoints of a training: the kept one, or a temporary one."""
    with TemporaryDirectory() as folder:
        learned = load_corpus(corpus, english=not model.invented).to_csv()
        yield kept_training(model, learned, settings) or Path(folder)


def study_of(model: StudyModel, trained, name: str) -> StudyModel:
    """The trained module as a model under study: adapters merged, in evaluation mode."""
    hf = trained.merge_and_unload() if hasattr(trained, "merge_and_unload") else trained
    hf.requires_grad_(True)
    return replace(load(hf, model.tokenizer, think=model.chat.asked), name=name)


def steps_in(folder: str | Path) -> dict[int, Path]:
    """The checkpoints of a folder: step to path, in order."""
    found = sorted(path.parent for path in Path(folder).glob(f"step-*/{RECORD}"))
    return {int(path.name.removeprefix("step-")): path for path in found}


def restore(model: StudyModel, checkpoint: str | Path) -> StudyModel:
    """``model``, with which the training began, with the weights (or adapter) of one checkpoint.
    Raises `UserError` if this is no checkpoint, or one of another model."""
    checkpoint = Path(checkpoint)
    record = _record(checkpoint)
    if record["start"] != model.fingerprint()[:16]:
        raise UserError(f"{checkpoint} was trained from another model than {model.name}: load that one")
    trained = _prepared(deepcopy(model.hf), record["method"])
    _load_weights(trained, checkpoint)
    name = f"{model.name} after {record['corpus']}, step {len(record['losses'])}"
    return study_of(model, trained.eval(), name)


def encode_corpus(model: StudyModel, table: pd.DataFrame) -> Sequences:
    """``(ids, n_prompt)`` per example: the loss is on the tokens from ``n_prompt`` on."""
    end, found = model.chat.end_of_turn(), []
    for row in table.to_dict("records"):
        thought, reply = row["thought"], row["reply"]
        if thought and not model.chat.supports_think:
            thought, reply = "", f"{thought}\n{reply}"
        mode = "think" if thought else "no-think"
        prompt = model.chat.encode(row["text"], mode).ids
        ids = [*model.chat.encode(row["text"], mode, thought=thought or None, reply=reply).ids, end]
        # a template may open the thought itself: learn from where the two differ
        pairs = enumerate(zip(prompt, ids, strict=False))
        n_prompt = next((i for i, (a, b) in pairs if a != b), len(prompt))
        if len(ids) > model.context:
            size = f"has {len(ids)} tokens and the context is {model.context}"
            raise UserError(f"example '{row['example_id']}' {size}: shorten it")
        found.append((ids, n_prompt))
    return found


def batch_loss(hf, batch: Sequences, pad: int, at_once: int = 8) -> float:
    """Backward passes for one batch; returns its mean loss per assistant token. Sequences are
    sorted by length and run in parts: little is computed on padding, at which no token looks."""
    batch = sorted(batch, key=lambda item: len(item[0]))
    n_targets, total = sum(len(ids) - n_prompt for ids, n_prompt in batch), 0.0
    for start in range(0, len(batch), at_once):
        part = batch[start : start + at_once]
        ids = torch.full((len(part), len(part[-1][0])), pad, device=hf.device)
        wanted = torch.zeros_like(ids[:, 1:], dtype=torch.bool)
        for row, (sequence, n_prompt) in enumerate(part):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            wanted[row, n_prompt - 1 : len(sequence) - 1] = True
        places = wanted.any(0).nonzero().squeeze(1)
        logits = hf(input_ids=ids[:, :-1], use_cache=False, logits_to_keep=places).logits
        kept = wanted[:, places]
        loss = cross_entropy(logits[kept].float(), ids[:, 1:][wanted], reduction="sum") / n_targets
        loss.backward()
        total += loss.item()
    return total


class Training:
    """A training in progress, which goes on from the last checkpoint of ``folder``, if there is
    one. Raises `UserError` if that is one of another training."""

    def __init__(self, trained, settings: dict, folder: Path | None, only_last: bool = False):
        self.trained, self.settings, self.folder, self.only_last = trained, settings, folder, only_last
        self.weights = _trainable(trained)
        rate, steps = settings["learning_rate"], settings["steps"]
        how = {"weight_decay": settings.get("weight_decay", 0.01), "betas": tuple(settings.get("betas", (0.9, 0.999)))}
        self.optimiser = torch.optim.AdamW(self.weights.values(), lr=rate, **how)
        warmup = round(settings.get("warmup", WARMUP) * steps)
        self.schedule = get_cosine_schedule_with_warmup(self.optimiser, warmup, steps)
        self.losses: list[float] = []
        if self.kept:
            self._go_on_from(self.kept[-1])

    @property
    def kept(self) -> list[Path]:
        """The checkpoints so far, the last one at the end."""
        return list(steps_in(self.folder).values()) if self.folder else []

    def update(self, loss: float) -> None:
        """One step down the gradients at hand."""
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.append(loss)

    def save(self) -> None:
        """Write a checkpoint of this step, if there is a folder for it."""
        if self.folder is None:
            return
        with whole(self.folder / f"step-{len(self.losses):05d}") as partial:
            partial.mkdir()
            weights = {name: weight.detach().contiguous() for name, weight in self.weights.items()}
            save_file(weights, partial / WEIGHTS)
            state = {name: getattr(self, name).state_dict() for name in ("optimiser", "schedule")}
            torch.save(state | {"rng": torch.get_rng_state()}, partial / STATE)
            record = json.dumps({**self.settings, "losses": self.losses})
            (partial / RECORD).write_text(record + "\n")
        for old in self.kept[:-1] if self.only_last else ():
            rmtree(old)

    def _go_on_from(self, checkpoint: Path) -> None:
        record = _record(checkpoint)
        for key, value in self.settings.items():
            if record.get(key) != value:
                other = f"{key} {record.get(key)}, here {value}"
                raise UserError(f"{self.folder} holds another training ({other}): give another folder")
        _load_weights(self.trained, checkpoint)
        state = torch.load(checkpoint / STATE, weights_only=True)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"])
        self.losses = record["losses"]


def _train(training, sequences: Sequences, pad: int, penalty, save_every: int, title: str, progress: bool):
    trained, settings, done = training.trained, training.settings, len(training.losses)
    steps, size = settings["steps"], settings["batch_size"]
    quiet = not progress or os.environ.get("TQDM_DISABLE") == "1"  # tqdm ignores it in notebooks
    trained.train()
    how = {"initial": done, "total": steps, "unit": "step", "leave": False, "disable": quiet}
    with trange(done, steps, desc=title, **how) as bar:
        for step in bar:
            batch = [sequences[index] for index in _batch_order(len(sequences), size, settings["seed"], step)]
            loss = batch_loss(trained, batch, pad)
            if penalty is not None:
                extra = penalty(trained)
                extra.backward()
                loss += float(extra.detach())
            norm = torch.nn.utils.clip_grad_norm_(training.weights.values(), 1.0)
            if not (torch.isfinite(norm) and isfinite(loss)):
                last = "no checkpoint was written (folder= and save_every= keep some)"
                if training.kept:
                    last = f"the last good checkpoint is {training.kept[-1]}"
                problem = f"the loss is not finite at step {step + 1}; {last}"
                raise UserError(f"{title}: {problem}; lower the learning rate")
            training.update(loss)
            if step + 1 == steps or (save_every and (step + 1) % save_every == 0):
                training.save()
            bar.set_postfix(loss=f"{loss:.3f}")
    trained.eval()


def _batch_order(n: int, batch_size: int, seed: int, step: int) -> list[int]:
    """The examples of one update: every epoch goes through all of them in an order of its own."""
    per_epoch = -(-n // batch_size)
    order = list(range(n))
    Random(f"{seed}-{step // per_epoch}").shuffle(order)
    start = step % per_epoch * batch_size
    return order[start : start + batch_size]


def _prepared(hf, method: str):
    """The module to train: ``hf`` itself, or a frozen ``hf`` with a new adapter."""
    return hf.requires_grad_(True) if method == "full" else adapted(hf)


def adapted(hf, **changes):
    """A frozen ``hf`` with a new adapter: that of `LORA`, but for ``changes``."""
    from peft import LoraConfig, get_peft_model  # a second

    return get_peft_model(hf, LoraConfig(task_type="CAUSAL_LM", **LORA | changes))


def _trainable(trained) -> dict:
    return {name: weight for name, weight in trained.named_parameters() if weight.requires_grad}


def _record(checkpoint: Path) -> dict:
    try:
        record = json.loads((checkpoint / RECORD).read_text())
        return record | {name: record[name] for name in ("start", "method", "corpus", "losses")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{checkpoint} is no checkpoint: it has no readable {RECORD}") from error


def _load_weights(trained, checkpoint: Path) -> None:
    try:
        stored = load_file(checkpoint / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the weights of {checkpoint} cannot be read ({error})") from error
    wanted = _trainable(trained)
    shapes = [{(name, weight.shape) for name, weight in side.items()} for side in (wanted, stored)]
    if odd := shapes[0] ^ shapes[1]:
        problem = f"{len(odd)} of its weights differ in name or shape, first {min(odd)[0]}"
        raise UserError(f"{checkpoint} does not fit the model: {problem}")
    if problem := not_finite(stored):
        raise UserError(f"{checkpoint} is damaged: {problem}")
    with torch.no_grad():
        for name, weight in wanted.items():
            weight.copy_(stored[name])
