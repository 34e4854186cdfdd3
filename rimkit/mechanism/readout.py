"""Refusal as one number: contexts that stop where the reply begins, and the refusal logit difference there.

The difference is read at the last token before the reply: the log probability ratio of the words that begin refusals
to the words that begin fulfilments. Which words these are is taken from the model's own replies, so that the same
code serves any model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from rimkit.errors import UserError
from rimkit.models.chat import END_THINK, THINK, Encoded
from rimkit.models.internals import logits_at_the_end
from rimkit.models.loading import StudyModel
from rimkit.models.reading import batches, forward

COVERED = 0.9  # the share of replies whose first words make up a side of the readout


def plain_text(thought: str) -> str:
    """A thought without tags: a lost model may write them anywhere."""
    if THINK not in thought and END_THINK not in thought:
        return thought
    return thought.replace(THINK, "").replace(END_THINK, "").strip()


def contexts(study: StudyModel, verdicts: pd.DataFrame, prompts: pd.DataFrame) -> list[Encoded]:
    """One conversation per verdict, up to where its reply begins: in think mode with the model's own thought."""
    texts = prompts.set_index("prompt_id")["text"]
    return [
        study.chat.encode(
            texts[row.prompt_id], row.mode, thought=plain_text(row.thought) if row.mode == "think" else None
        )
        for row in verdicts.itertuples()
    ]


@dataclass(frozen=True)
class Readout:
    """First tokens of refusals and of fulfilments."""

    refusal: tuple[int, ...]
    fulfilment: tuple[int, ...]

    def __call__(self, logits):
        """The refusal logit difference of logits ``[..., vocabulary]``: positive where refusing is likelier."""
        return logits[..., list(self.refusal)].logsumexp(-1) - logits[..., list(self.fulfilment)].logsumexp(-1)


def readout(study: StudyModel, verdicts: pd.DataFrame) -> Readout:
    """The readout of a model, from replies that refuse and coherent ones that do not.

    ``verdicts`` should hold both harmful and harmless requests. Raises ``UserError`` where all or none were refused,
    or refusals and fulfilments begin alike: the readout is then undefined.
    """
    refused = verdicts["refused"].astype(bool)
    fulfilled = ~refused & verdicts["coherent"].astype(bool)
    for name, there in (("refused", refused), ("fulfilled", fulfilled)):
        if not there.any():
            raise UserError(f"no request was {name}: refusal against fulfilment is undefined; take other prompts")
    sides = [_first_tokens(study, verdicts.loc[there, "reply"]) for there in (refused, fulfilled)]
    both = set(sides[0]) & set(sides[1])
    refusal, fulfilment = (tuple(token for token in side if token not in both) for side in sides)
    if not refusal or not fulfilment:
        raise UserError("refusals and fulfilments begin with the same words: there is no first token to read")
    return Readout(refusal, fulfilment)


def refusal_scores(study: StudyModel, items: Sequence[Encoded], read: Readout, batch_size: int = 64) -> list[float]:
    """The refusal logit difference at the end of every context."""
    import torch

    scores = [0.0] * len(items)

    def run(ids, mask, spans):
        with torch.inference_mode():
            return read(logits_at_the_end(study, at_last(forward_states(study, ids, mask), spans))).tolist()

    for rows, found in batches(study, items, batch_size, run):
        for row, score in zip(rows, found, strict=True):
            scores[row] = score
    return scores


def forward_states(study: StudyModel, ids, mask):
    """Residuals ``[batch, tokens, hidden]`` after the last layer, before the final norm."""
    from rimkit.models.reading import capture

    with capture(study, ["residual"]) as found:
        forward(study, ids, mask)
    return found["residual"][-1]


def at_last(states, spans: Sequence[dict]):
    """``[batch, hidden]``: the states at each row's last token before the reply."""
    import torch

    rows = torch.arange(len(states), device=states.device)
    return states[rows, torch.tensor([place["last"][0] for place in spans], device=states.device)]


def _first_tokens(study: StudyModel, replies: pd.Series) -> list[int]:
    """The commonest first tokens, as many as begin `COVERED` of the replies."""
    ids = study.tokenizer(replies.str.strip().tolist(), add_special_tokens=False)["input_ids"]
    counts, chosen = Counter(tokens[0] for tokens in ids if tokens), []
    for token, _ in counts.most_common():
        chosen.append(token)
        if sum(counts[token] for token in chosen) >= COVERED * counts.total():
            break
    return chosen
