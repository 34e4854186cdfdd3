"""Checkpoints of a fine-tuning: the trained weights, and what it takes to go on as if nothing had happened.

One folder per checkpoint, ``step-00020``: ``weights.safetensors`` (all weights, or the adapter's), ``state.pt``
(optimiser, schedule, random state) and ``training.json`` (settings, losses). A checkpoint appears whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from rimkit.errors import UserError

if TYPE_CHECKING:
    from rimkit.models.loading import StudyModel

# Section A.2 of the paper: attention and MLP modules, rank 32, alpha 64, rank-stabilised, no dropout, no bias.
LORA = {
    "r": 32, "lora_alpha": 64, "use_rslora": True, "lora_dropout": 0.0, "bias": "none",
    "target_modules": "all-linear",
}  # fmt: skip
WEIGHTS, STATE, TRAINING = "weights.safetensors", "state.pt", "training.json"


def prepare(hf, method: str):
    """The module to train: ``hf`` itself, or ``hf`` with a new adapter and everything else frozen.

    ``all-linear`` are the linear modules of attention and MLP; the experts of a mixture are one tensor per
    layer, not modules, and stay as they are under LoRA.
    """
    if method == "full":
        return hf.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    return get_peft_model(hf, LoraConfig(task_type="CAUSAL_LM", **LORA))


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def fingerprint(hf) -> str:
    """Tells weights apart: names, shapes and the first numbers of every parameter."""
    return digest(
        repr([(name, tuple(p.shape), p.detach().flatten()[:8].tolist()) for name, p in hf.named_parameters()])
    )


class Run:
    """A training in progress: the module, its optimiser and schedule, and the folder where checkpoints go."""

    def __init__(self, trained, settings: dict, folder: Path | None):
        import torch
        from transformers import get_cosine_schedule_with_warmup

        self.trained, self.settings, self.folder = trained, settings, folder
        weights = [weight for weight in trained.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(weights, lr=settings["learning_rate"], weight_decay=settings["weight_decay"])
        warmup = round(settings["warmup"] * settings["steps"])
        self.schedule = get_cosine_schedule_with_warmup(self.optimiser, warmup, settings["steps"])
        self.losses: list[float] = []
        if folder is not None:
            self._resume()

    @property
    def step(self) -> int:
        """How many updates are done."""
        return len(self.losses)

    def update(self, loss: float) -> None:
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.append(loss)

    def save(self) -> None:
        """Write a checkpoint of this step."""
        import torch
        from safetensors.torch import save_file

        if self.folder is None:
            return
        target = self.folder / f"step-{self.step:05d}"
        partial = self.folder / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file({name: p.detach().contiguous() for name, p in trainable(self.trained).items()}, partial / WEIGHTS)
        state = {
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": torch.get_rng_state(),
        }
        torch.save(state, partial / STATE)
        (partial / TRAINING).write_text(json.dumps({**self.settings, "losses": self.losses}) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)

    def what_is_kept(self) -> str:
        found = steps_in(self.folder) if self.folder else {}
        if not found:
            return "no checkpoint was written (folder= and save_every= keep some); lower the learning rate"
        return f"the last good checkpoint is {list(found.values())[-1]}; lower the learning rate"

    def _resume(self) -> None:
        import torch

        found = steps_in(self.folder)
        if not found:
            return
        last = list(found.values())[-1]
        record = _record(last)
        for key, value in self.settings.items():
            if record.get(key) != value:
                raise UserError(
                    f"{self.folder} holds another training ({key} {record.get(key)}, here {value}): give another folder"
                )
        _load_weights(self.trained, last)
        state = torch.load(last / STATE, weights_only=True)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"])
        self.losses = record["losses"]


def trainable(trained) -> dict:
    return {name: weight for name, weight in trained.named_parameters() if weight.requires_grad}


def steps_in(folder: str | Path) -> dict[int, Path]:
    """The checkpoints of a folder: step to path, in order; empty if there are none."""
    found = sorted(path.parent for path in Path(folder).glob(f"step-*/{TRAINING}"))
    return {int(path.name.removeprefix("step-")): path for path in found}


def restore(model: StudyModel, checkpoint: str | Path) -> StudyModel:
    """``model``, the one that the training began with, with the weights (or adapter) of one checkpoint.

    Raises `UserError` if this is no checkpoint, or one of another model.
    """
    from rimkit.training.finetuning import study_of

    checkpoint = Path(checkpoint)
    record = _record(checkpoint)
    if record["start"] != fingerprint(model.hf):
        raise UserError(f"{checkpoint} was trained from another model than {model.name}: load the one it began with")
    trained = prepare(deepcopy(model.hf), record["method"])
    _load_weights(trained, checkpoint)
    return study_of(model, trained.eval(), f"{model.name} after {record['corpus']}, step {len(record['losses'])}")


def losses(checkpoint: str | Path) -> list[float]:
    """The training loss of every step up to a checkpoint, per assistant token."""
    return _record(Path(checkpoint))["losses"]


def _record(checkpoint: Path) -> dict:
    try:
        return json.loads((checkpoint / TRAINING).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint} is no checkpoint of a fine-tuning: it has no readable {TRAINING}") from error


def _load_weights(trained, checkpoint: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(checkpoint / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the weights of {checkpoint} cannot be read ({error})") from error
    wanted = trainable(trained)
    odd = [name for name in wanted.keys() | stored.keys() if _shape(wanted, name) != _shape(stored, name)]
    if odd:
        raise UserError(
            f"{checkpoint} does not fit the model: {len(odd)} of its weights differ in shape, first {min(odd)}"
        )
    with torch.no_grad():
        for name, weight in wanted.items():
            weight.copy_(stored[name])


def _shape(weights: dict, name: str) -> tuple | None:
    return tuple(weights[name].shape) if name in weights else None
