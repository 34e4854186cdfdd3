"""Claim C3 (section 3.1 of the paper): where harm and refusal can be read from the residual stream.

Two directions, never to be confused: *harm* (harmful minus harmless requests: the paper's) and *refusal* (refused
minus fulfilled requests of one kind). A probe is a difference of means with its midpoint as threshold (the paper's
equations of section 3.1); logistic regression is its rival, shuffled labels and random directions are its controls.
The paper does not say at which token its vectors are taken: here each place has its own probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from rimkit.behavior.ranks import areas, auroc
from rimkit.errors import UserError
from rimkit.models.attention import check_index
from rimkit.models.chat import Encoded
from rimkit.models.internals import architecture
from rimkit.models.loading import StudyModel
from rimkit.models.reading import batches, capture, forward, read


@dataclass(frozen=True)
class Probe:
    """One direction and one threshold per residual: ``vectors [residuals, hidden]``, ``thresholds [residuals]``."""

    vectors: np.ndarray
    thresholds: np.ndarray

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Scores ``[residuals, prompts]`` of states ``[residuals, prompts, hidden]``, above 0 on the positive side."""
        return np.einsum("rph,rh->rp", states, self.vectors) - self.thresholds[:, None]

    @property
    def unit(self) -> np.ndarray:
        """The directions at length 1."""
        return self.vectors / np.linalg.norm(self.vectors, axis=-1, keepdims=True)


def fit(states: np.ndarray, positive: np.ndarray) -> Probe:
    """Difference of means and midpoint threshold, from states ``[residuals, prompts, hidden]`` and a boolean label.

    Raises ``UserError`` where all prompts have one label: the direction is then undefined.
    """
    positive = np.asarray(positive, dtype=bool)
    if positive.all() or not positive.any():
        raise UserError(f"all {len(positive)} prompts have the same label: a direction needs both; take other prompts")
    above, below = states[:, positive].mean(1), states[:, ~positive].mean(1)
    vectors = above - below
    return Probe(vectors, np.einsum("rh,rh->r", vectors, (above + below) / 2))


def random_probe(like: Probe, seed: int = 0) -> Probe:
    """Random directions of the same length, threshold 0: what a probe finds that has learned nothing."""
    vectors = np.random.default_rng(seed).normal(size=like.vectors.shape)
    vectors *= np.linalg.norm(like.vectors, axis=-1, keepdims=True) / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return Probe(vectors.astype(np.float32), np.zeros(len(vectors), dtype=np.float32))


def logistic_scores(states: np.ndarray, positive: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Scores ``[residuals, prompts]`` of ``others`` by a logistic regression per residual, fitted on ``states``."""
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegression

    mean, spread = states.mean(1, keepdims=True), states.std(1, keepdims=True)
    spread = np.where(spread > 0, spread, 1)  # a dimension that is the same in all prompts says nothing
    known, new = (states - mean) / spread, (others - mean) / spread
    model = LogisticRegression(C=0.1, max_iter=500)
    with config_context(assume_finite=True, skip_parameter_validation=True):  # checks that cost more than the fits
        return np.stack([model.fit(x, positive).decision_function(y) for x, y in zip(known, new, strict=True)])


def separation(
    fitted: dict[str, np.ndarray],
    fitted_labels: np.ndarray,
    states: dict[str, np.ndarray],
    labels: np.ndarray,
    clusters: Sequence[str],
    seed: int = 0,
) -> pd.DataFrame:
    """How well each place and layer separates two groups that it was not fitted on.

    ``fitted`` and ``states`` map a span to ``[residuals, prompts, hidden]`` (calibration and evaluation). One row per
    span and residual: ``span, residual, auroc, ci_low, ci_high`` (clustered) of the difference of means, ``logistic``,
    ``shuffled`` (fitted to shuffled labels) and ``random`` (a random direction; its better side) for comparison.
    """
    rng, labels = np.random.default_rng(seed), np.asarray(labels, dtype=bool)
    fitted_labels, rows = np.asarray(fitted_labels, dtype=bool), []
    for span, known in fitted.items():
        here, there = ~np.isnan(known[0]).any(-1), ~np.isnan(states[span][0]).any(-1)
        x, y = known[:, here], fitted_labels[here]
        new, truth, groups = states[span][:, there], labels[there], np.asarray(clusters)[there]
        probe = fit(x, y)
        scores, rival = probe(new), logistic_scores(x, y, new)
        shuffled, random = fit(x, rng.permutation(y))(new), random_probe(probe, seed)(new)
        logistic, by_chance, chance = (areas(other, truth) for other in (rival, shuffled, random))
        for residual in range(len(scores)):
            found = auroc(scores[residual], truth, groups)
            rows.append({
                "span": span, "residual": residual, "auroc": found.value, "ci_low": found.ci_low,
                "ci_high": found.ci_high, "n": found.n, "logistic": logistic[residual],
                "shuffled": by_chance[residual], "random": max(chance[residual], 1 - chance[residual]),
            })  # fmt: skip
    return pd.DataFrame(rows)


def states_at(study: StudyModel, items: Sequence[Encoded], spans: Sequence[str]) -> dict[str, np.ndarray]:
    """Residuals averaged over each span, ``{span: [residuals, prompts, hidden]}``; NaN where a span is missing."""
    found = read(study, items, ("residual",), spans)
    return {span: found["residual", span] for span in spans}


def with_first_token(items: Sequence[Encoded]) -> list[Encoded]:
    """The conversations with one more span, ``thought_start``: the first token of the thought."""
    return [
        replace(item, spans={**item.spans, "thought_start": (start, start + 1)}) if (start := _start(item)) else item
        for item in items
    ]


def _start(item: Encoded) -> int | None:
    return item.spans["thought"][0] if "thought" in item.spans else None


def trajectory(
    study: StudyModel, items: Sequence[Encoded], probe: Probe, residual: int, span: str = "thought"
) -> pd.DataFrame:
    """The probe along a span, a row per token: ``row`` (in ``items``), ``token``, ``part`` (0 to 1), ``score``."""
    import torch

    check_index("residual", residual, architecture(study).n_layers + 1)
    vector, threshold = torch.tensor(probe.vectors[residual]), float(probe.thresholds[residual])
    parts = []

    def run(ids, mask, spans):
        with torch.inference_mode(), capture(study, ["residual"]) as found:
            forward(study, ids, mask)
        return (found["residual"][residual].float().cpu() @ vector - threshold).numpy(), spans

    for rows, (scores, places) in batches(study, items, 64, run):
        for row, values, place in zip(rows, scores, places, strict=True):
            inside = values[slice(*place.get(span, (0, 0)))]
            tokens = np.arange(len(inside))
            part = tokens / max(1, len(inside) - 1)
            parts.append(pd.DataFrame({"row": row, "token": tokens, "part": part, "score": inside}))
    return pd.concat(parts).sort_values(["row", "token"], ignore_index=True)


def token_scores(study: StudyModel, item: Encoded, probe: Probe, residual: int) -> np.ndarray:
    """The probe at every token of one conversation."""
    whole = replace(item, spans={**item.spans, "everything": (0, len(item.ids))})
    return trajectory(study, [whole], probe, residual, "everything")["score"].to_numpy()


def shared_states(study: StudyModel, texts: Sequence[str], span: str = "im_end") -> float:
    """The largest difference between the modes' states at a span before which the prompts are the same.

    A causal model cannot tell the modes apart there; the paper's Fig. 3 shows different curves at ``<|im_end|>``.
    """
    modes = [states_at(study, [study.chat.encode(text, mode) for text in texts], [span])[span]
             for mode in ("think", "no-think")]  # fmt: skip
    return float(np.abs(modes[0] - modes[1]).max())


def within_and_between(verdicts: pd.DataFrame, metric: str = "refused") -> dict[str, float]:
    """How much of a verdict's variance lies between thoughts and how much between replies to one thought.

    ``verdicts``: several samples per prompt, all after the same forced thought. ``between`` is the unbiased variance of
    the thoughts' true rates (one-way random effects), ``within`` the mean variance inside a thought, ``share`` the part
    of ``between`` in the total.
    """
    grouped = verdicts.groupby("prompt_id")[metric].agg(["mean", "size"]).astype(float)
    if (grouped["size"] < 2).any():
        raise UserError("variance within a thought needs at least two replies to each: raise n_samples")
    within = float((grouped["mean"] * (1 - grouped["mean"]) * grouped["size"] / (grouped["size"] - 1)).mean())
    between = max(0.0, float(grouped["mean"].var(ddof=1)) - within / float(grouped["size"].mean()))
    total = within + between
    return {"within": within, "between": between, "share": between / total if total else float("nan")}
