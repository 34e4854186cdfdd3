"""Do a tokenizer and a model belong together?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rimkit.errors import UserError

if TYPE_CHECKING:
    from rimkit.models.chat import ChatFormat


def check_match(name: str, hf, tokenizer, chat: ChatFormat) -> None:
    """Raise ``UserError`` if the tokenizer can write ids that the model has no embedding for.

    Added tokens that no conversation uses may lie outside (Gemma 3's text models have one for images); the vocabulary
    itself, the special tokens and all that the chat template writes may not.
    """
    rows = hf.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"{name}: the tokenizer has {tokenizer.vocab_size} tokens and the model embeds {rows}: "
            "they do not belong together"
        )
    used = {index: _text(tokenizer, index) for index in _special(tokenizer)}
    for mode in ("think", "no-think") if chat.supports_think else ("no-think",):
        used |= {index: _text(tokenizer, index) for index in chat.encode("a", mode).ids}
    outside = {index: text for index, text in used.items() if not 0 <= index < rows}
    if outside:
        index, text = max(outside.items())
        raise UserError(
            f"{name}: the tokenizer's {text!r} is token {index} and the model embeds {rows} (0 to {rows - 1}): "
            "they do not belong together"
        )


def _special(tokenizer) -> set[int]:
    named = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return {index for index in named if index is not None}


def _text(tokenizer, index: int) -> str:
    try:
        return str(tokenizer.convert_ids_to_tokens(index))
    except (IndexError, OverflowError, TypeError):  # an id that the tokenizer itself does not know
        return "end of turn"
