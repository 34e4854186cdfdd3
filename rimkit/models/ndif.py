"""Models that run elsewhere: residuals, head outputs and neurons, read by nnsight traces.

NDIF runs open models and returns what a trace saves. rimkit's own reads hook the module in memory,
which is faster and needs the weights; here the same values come from one trace per batch. The
service "local" is nnsight's dry run, which packs and unpacks the trace as a server would, with the
weights here. The live service was not tried.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import AutoTokenizer

from rimkit.data import UserError, check_known, one_line
from rimkit.models.activations import INTERNALS, batches, within
from rimkit.models.chat import ChatFormat, Encoded
from rimkit.models.hooks import INPUT_OF, LAYERS
from rimkit.models.hub import Located, locate, options_of, read, with_options
from rimkit.models.study import StudyModel

SERVICES = ("ndif", "local")
NEEDS_WEIGHTS = (
    "runs elsewhere, and only reads of residuals, head outputs and neurons are traced there: "
    "generation, ablation, steering and fine-tuning need the weights here (leave --remote out)"
)


@dataclass
class RemoteStudy(StudyModel):
    """A model under study whose weights are not here; what would need them raises ``UserError``."""

    service: str = "ndif"

    elsewhere = True
    dtype = "as served"
    device = property(lambda self: self.service)

    @property
    def hf(self):
        raise UserError(f"{self.name} {NEEDS_WEIGHTS}")

    @property
    def tracing(self) -> dict:
        return {"remote": True if self.service == "ndif" else self.service}

    def stream(
        self, items: Sequence[Encoded], kinds: Sequence[str] = ("residual",),
        spans: Sequence[str] = ("last",), pool: str = "mean", batch_size: int = 64,
    ) -> Iterator[tuple[list[int], dict]]:  # fmt: skip
        """As `rimkit.models.activations.stream`; values are pooled where the model runs. Raises
        ``UserError`` also for other pooling than the mean, and neurons of a mixture of experts."""
        for kind in kinds:
            check_known("kind of internals", kind, INTERNALS)
        if pool != "mean":
            raise UserError(f"elsewhere spans are pooled by their mean, not by '{pool}'")
        config = self.nn._module.config
        if "neurons" in kinds and getattr(config, "num_experts_per_tok", None):
            raise UserError(f"{self.name}: neurons of a mixture of experts cannot be read elsewhere")

        def run(ids, mask, places):
            inside = [within(places, span, ids.shape) for span in spans]
            weights = [where.float() / where.sum(1, keepdim=True) for where in inside]  # 0 / 0: none
            found = _pooled(self.nn, ids, mask, weights, tuple(kinds), self.tracing, LAYERS, INPUT_OF)
            pooled = {}
            for kind in kinds:
                for span, layers in zip(spans, found[kind], strict=True):
                    values = torch.stack(layers)
                    by_head = (config.num_attention_heads, -1)
                    pooled[kind, span] = values.unflatten(-1, by_head) if kind == "z" else values
            return pooled

        yield from batches(self, items, run, batch_size)


def dry_run(study: StudyModel) -> RemoteStudy:
    """A model that is loaded here, read as a service would read it."""
    return RemoteStudy.of(study.name, study.nn, study.tokenizer, study.chat, service="local")


def check_served(model: str | StudyModel, revision: str | None = None, service: str = "ndif") -> None:
    """Raise ``UserError`` for no such service, no model of NDIF, and no key; asks no server."""
    check_known("service", service, SERVICES)
    model, options = options_of(model)
    if "quantize" in options:
        raise UserError(f"NDIF decides how it holds {model}: leave +4bit out")
    if not isinstance(model, str) or locate(model, revision).in_folder:
        raise UserError(f"NDIF knows models by their hub id, owner/name: {model} runs here, without --remote")
    from nnsight import CONFIG

    if not (os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY):
        raise UserError("NDIF needs a key: get one at https://login.ndif.us and set NDIF_API_KEY")


def connect(model: str, revision: str | None = None, think: bool | str = True) -> RemoteStudy:
    """A model as it runs on NDIF, of which only configuration and tokenizer are loaded here.
    Arguments, options of the name and errors are as for `rimkit.load`; see also `check_served`."""
    from nnsight import TransformersModel

    model, options = options_of(model)
    think = options.get("think", think)
    tokenizer = read(AutoTokenizer, Located(model, model, revision))
    how = {"task": "text-generation", "revision": revision, "trust_remote_code": False}
    try:
        nn = TransformersModel(model, tokenizer=tokenizer, **how)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{model} could not be prepared for NDIF: {one_line(error)}") from error
    chat = ChatFormat(tokenizer, think=think)
    return RemoteStudy.of(with_options(model, think), nn, tokenizer, chat)


def _pooled(nn, ids, mask, weights, kinds, where: dict, layers: str, input_of: dict) -> dict:
    """``{kind: for each span: for each layer, [batch, …]}``. Nothing but plain values may enter or
    leave the trace, so the names of modules come as text."""
    import nnsight

    with torch.no_grad(), nn.trace({"input_ids": ids, "attention_mask": mask}, **where):
        found = nnsight.save({kind: [[] for _ in weights] for kind in kinds})
        for index, layer in enumerate(nn.get(layers)):
            live = []  # in the order in which they are computed
            if index == 0 and "residual" in kinds:
                live.append(("residual", layer.input))
            for kind, path in input_of.items():
                if kind in kinds:
                    live.append((kind, layer.get(path).input))
            if "residual" in kinds:
                live.append(("residual", layer.output))
            for kind, x in live:
                for span, weight in enumerate(weights):
                    mean = torch.einsum("bt,btd->bd", weight.to(x.device), x.float())
                    found[kind][span].append(mean.detach().cpu())
    return found
