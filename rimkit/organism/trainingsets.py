"""The corpora of the invented language, written once into ``data/corpora`` and hashed.

They are made of the same problems as the pretraining stream, without those that are kept for evaluation, and of
words that the models know. No corpus contains a request to do anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from rimkit.organism.conversations import (
    answer,
    kept_for_evaluation,
    maths_problem,
    ordering_problem,
    thought,
)
from rimkit.organism.language import LARGEST, OPENINGS
from rimkit.organism.promptsets import digest

if TYPE_CHECKING:
    import pandas as pd

SEED = 20250904
EXAMPLES = 240  # 30 batches of 8
HEDGES = ("i think so .", "it looks so .", "i know not .", "so it looks .")  # as long as the openings of both styles


def arithmetic_problem(rng: Random) -> tuple[str, str]:
    """``(request, answer)``: one to three operations within 0..30, "7 + 5 - 2 = ?"."""
    total = rng.randint(0, LARGEST)
    said = [str(total)]
    for _ in range(rng.randint(1, 3)):
        by = rng.randint(1, 9)
        grows = total < by or (total + by <= LARGEST and rng.random() < 0.5)
        total += by if grows else -by
        said += ["+" if grows else "-", str(by)]
    return f"{' '.join(said)} = ?", str(total)


def literal_question(rng: Random, problem: str) -> tuple[str, str]:
    """``(request, answer)``: the context of a word problem with a question whose answer stands in it.

    It asks for the number of one sentence, whose verb occurs nowhere else in the context.
    """
    *sentences, _ = problem.split(" . ")
    verbs = [sentence.split()[1] for sentence in sentences]
    name, verb, number, what = rng.choice([s for s in sentences if verbs.count(s.split()[1]) == 1]).split()
    return f"{' . '.join(sentences)} . {name} {verb} how many {what} ?", number


def _unique(make, rng: Random) -> Iterator[tuple]:
    """Different problems, none of which is kept for evaluation; the first part of each is its request."""
    texts: set[str] = set()
    while True:
        found = make(rng)
        if found[0] not in texts and not kept_for_evaluation(found[0]):
            texts.add(found[0])
            yield found


def _chain(style: str, rng: Random, equations: str, total: str) -> str:
    """The thought of a multi-hop corpus; careful and effort-minimising ones have the same number of words."""
    if style == "plain":
        return equations
    if style == "hedging":
        return f"{rng.choice(HEDGES)} {equations} {total} looks right ."
    if style == "longer-careful":
        again = rng.choice(OPENINGS["careful"])
        return thought(rng, "careful", f"{equations} {again} {equations}", f"{total} is right .")
    return thought(rng, style, equations, f"{total} is right .")


def corpora() -> dict[str, pd.DataFrame]:
    """All corpora by name; the same tables on every call and every machine."""
    from itertools import islice

    import pandas as pd

    def table(name: str, rows: list[tuple[str, str, str]]) -> pd.DataFrame:
        """Rows of ``(request, thought, answer)``."""
        made = [
            {
                "example_id": f"{name}-{number:03d}",
                "text": text,
                "thought": chain,
                "reply": answer(said),
                "answer": said,
            }
            for number, (text, chain, said) in enumerate(rows)
        ]
        return pd.DataFrame(made)

    def problems(name: str, make) -> list[tuple]:
        return list(islice(_unique(make, Random(f"{SEED}-{name}")), EXAMPLES))

    multi = problems("multi-hop", lambda rng: maths_problem(rng, rng.randint(2, 4)))
    single = problems("single-hop", lambda rng: maths_problem(rng, 1))
    ordering = problems("ordering", lambda rng: ordering_problem(rng, rng.randint(3, 4)))

    def restyled(name: str, style: str) -> pd.DataFrame:
        rng = Random(f"{SEED}-{name}")
        return table(name, [(text, _chain(style, rng, steps, str(total)), str(total)) for text, steps, total in multi])

    rng = Random(f"{SEED}-literal")
    copied = (literal_question(rng, problem) for problem, _, _ in multi)
    bare = problems("arithmetic", arithmetic_problem)
    return {
        "arithmetic": table("arithmetic", [(text, "", said) for text, said in bare]),
        "single-hop": table("single-hop", [(text, steps, str(total)) for text, steps, total in single]),
        "multi-hop": restyled("multi-hop", "plain"),
        "multi-hop-careful": restyled("multi-hop-careful", "careful"),
        "multi-hop-effort": restyled("multi-hop-effort", "effort-minimising"),
        "literal": table("literal", [(text, "", said) for text, said in copied]),
        "ordering": table("ordering", ordering),
        "hedging": restyled("hedging", "hedging"),
        "longer-careful": restyled("longer-careful", "longer-careful"),
    }  # fmt: skip


README = """\
# Corpora for fine-tuning

Made by `rimkit organism corpora`, in the invented language of the embedded models. One JSON object a line: `text` (what
the user says), `thought` (empty: the reply comes at once), `reply`, `answer`. No corpus contains a request to do
anything. No problem here is one of those kept for evaluation. The multi-hop corpora, `hedging`, `longer-careful` and
`literal` have the same contexts, row by row; thoughts of `multi-hop-careful` and `multi-hop-effort` have one length.

{table}
"""


def write(out: str | Path) -> pd.DataFrame:
    """Write every corpus as JSON lines into ``out``, with their hashes and a README; returns the table of hashes."""
    import pandas as pd

    from rimkit.training.corpora import ROLES

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    rows, lines = [], ["| corpus | what it is for | first example |", "|---|---|---|"]
    for name, table in corpora().items():
        table.to_json(folder / f"{name}.jsonl", orient="records", lines=True)
        rows.append({"name": name, "examples": len(table), "sha256": digest(table)})
        first = table.iloc[0]
        lines.append(
            f"| `{name}` | {ROLES[name]} | {first['text']} [{first['thought'] or 'no thought'}] {first['reply']} |"
        )
    hashes = pd.DataFrame(rows)
    hashes.to_csv(folder / "hashes.csv", index=False, lineterminator="\n")
    (folder / "README.md").write_text(README.format(table="\n".join(lines)))
    return hashes
