"""Chapter 10: what fits beside a model's weights, from its published shape."""

from rimkit.models.device import QWEN3, SHAPES
from rimkit.teaching.exercises import Exercise

MODEL, LEFT, TOKENS = "Qwen3-4B", 6, 8192  # GiB for keys and values, length of a conversation


def fitting(heads: int = QWEN3["num_key_value_heads"], kept: int = 2, size: int = 2) -> int:
    """How many conversations fit, if ``kept`` vectors of ``size`` bytes a number are kept per head and layer."""
    per_token = SHAPES[MODEL]["num_hidden_layers"] * heads * QWEN3["head_dim"] * kept * size
    return int(LEFT * 2**30 // (per_token * TOKENS))


def check_conversations(answer) -> bool | str:
    found = float(answer)
    if found == fitting():
        return True
    if found == fitting(kept=1):
        return "of every token both a key and a value are kept."
    if found == fitting(heads=SHAPES[MODEL]["num_attention_heads"]):
        return "the query heads share keys and values: only the 8 key-value heads are kept."
    if found == fitting(size=4):
        return "a number in 16 bits takes two bytes, not four."
    return "bytes per token: layers x key-value heads x head size x 2 (key and value) x 2 (bytes); then count whole conversations."


EXERCISES = {
    "10.1": Exercise(
        "Long thoughts",
        ("easy", "essential", 10),
        f"How many conversations of {TOKENS} tokens fit into {LEFT} GiB of keys and values?",
        check_conversations,
        hints=("How many numbers does one token leave behind in one layer? In all layers? How many bytes is that?",),
        answer=(
            f"`{LEFT} * 2**30 // (36 * 8 * 128 * 2 * 2 * {TOKENS})` = {fitting()}: 144 KiB per token, 1.125 GiB per conversation. "
            "A batch that is fine for short replies does not fit long thoughts, which is why the plan asks for a length, and why "
            "a batch that does not fit is halved and nothing that was computed is lost."
        ),
        expects="a whole number of conversations",
        code=f"{LEFT} * 2**30 // (36 * 8 * 128 * 2 * 2 * {TOKENS})",
    )
}
