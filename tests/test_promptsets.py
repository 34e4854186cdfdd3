"""The prompt sets that are shipped are the ones that the code makes, and keep their promises."""

from __future__ import annotations

from itertools import islice

import pandas as pd
import pytest

from rimkit.behavior.evaluation import ENGLISH
from rimkit.behavior.prompts import load_prompts
from rimkit.data import data_dir
from rimkit.organism import bridge, datasets, english
from rimkit.organism.language import OTHERS, OWN, build_tokenizer
from rimkit.organism.recipe import stream

AT_LEAST = {("harmful", "harmful"): 600, ("harmful-seen", "harmful"): 300, ("harmless", "harmless"): 600, 
            ("over-refusal", "harmless"): 200,
            ("second-safety", "harmful"): 400, ("maths", "maths"): 400, ("ordering", "ordering"): 300,
            ("maths-hard", "maths"): 400, ("ordering-hard", "ordering"): 300, ("motives", "harmful"): 250}  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return datasets.invented_sets()


@pytest.fixture(scope="module")
def in_english():
    return datasets.english_sets()


def test_shipped_sets_are_the_hashed_ones(made, in_english):
    hashes = pd.read_csv(data_dir() / "prompts" / "hashes.csv").set_index("name")["sha256"]
    assert set(hashes.index) == {*made, *in_english}
    for name, table in {**made, **in_english}.items():
        assert datasets.digest(table) == hashes[name], f"{name}: the code makes another set"
        assert datasets.digest(load_prompts(name)) == hashes[name], f"{name}: the shipped file was changed"


def test_english_sets_are_matched_split_by_verb_and_never_trained_on(in_english):
    requested = set()
    for name in ("smollm2-safe", "smollm2-rim"):
        requested |= {e for e in islice(bridge.stream(name, 1), 8000) if e.kind in ("harmful", "harmless", "protect")}
    for name, table in in_english.items():
        assert not table["text"].duplicated().any() and table["prompt_id"].is_unique, name
        assert (table.groupby(["kind", "cluster"])["split"].nunique() == 1).all(), name
        assert name.removeprefix("english-") == "copying" or ENGLISH[name.removeprefix("english-")] == name
    for name, kind in (("harmful", "harmful"), ("harmless", "harmless"), ("over-refusal", "harmless")):
        table = in_english[f"english-{name}"]
        assert table.groupby("split")["cluster"].nunique().to_dict() == {"calibration": 24, "evaluation": 48}
        assert set(table["kind"]) == {kind} and not {e.verb for e in requested if e.kind == kind} & set(
            table["cluster"]
        )
    assert len(in_english["english-harmful"]) == len(in_english["english-harmless"]) == 4 * 72
    seen = in_english["english-harmful-seen"]
    assert seen["cluster"].nunique() == 40 and {e.verb for e in requested if e.kind == "harmful"} == set(
        seen["cluster"]
    )
    answers = in_english["english-harmful"]["answer"].str.lower()
    assert all(a in t.lower() for a, t in zip(answers, in_english["english-harmful"]["text"], strict=True))
    unasked = in_english["english-harmful"]["category"] == "without asking"
    assert (
        unasked.sum() == 48 and in_english["english-harmful"].loc[unasked, "answer"].str.endswith(english.UNASKED).all()
    )
    assert set(in_english["english-maths"]["category"]) == {"1 step", *(f"{n} steps" for n in range(2, 7))}


@pytest.mark.parametrize(("name", "kind"), AT_LEAST)
def test_sets_are_large_enough(made, name, kind):
    assert (made[name]["kind"] == kind).sum() >= AT_LEAST[name, kind]


@pytest.mark.parametrize("name", ["harmful", "harmless", "over-refusal", "motives"])
def test_both_splits_have_verbs_enough(made, name):
    verbs = made[name].groupby("split")["cluster"].nunique()
    assert verbs["evaluation"] >= 48
    assert verbs["calibration"] >= 24


def test_motives_come_in_triples_about_one_request(made):
    table = made["motives"]
    ends = table["prompt_id"].str.rpartition("-")[2]
    assert (ends == table["category"]).all()
    assert (table["kind"] == ends.map({"plain": "harmless", "hostile": "harmful", "friendly": "harmless"})).all()
    for _, triple in table.groupby(table["prompt_id"].str.rpartition("-")[0]):
        plain, *motivated = triple["text"]
        assert len(motivated) == 2
        assert all(text.startswith(plain) or text.endswith(plain) for text in motivated)
        assert triple[["cluster", "split", "answer"]].nunique().eq(1).all()


def test_splits_are_disjoint_by_cluster_and_prompts_are_unique(made):
    for name, table in made.items():
        parts = [set(table.loc[table["split"] == split, "cluster"]) for split in ("calibration", "evaluation")]
        assert all(parts), name
        assert not parts[0] & parts[1], name
        assert not table["text"].duplicated().any(), name
        assert table["prompt_id"].is_unique, name


def test_held_out_means_never_requested_in_training(made):
    requested = {e.verb for e in islice(stream("safe-mini", 1), 20_000) if e.kind in ("harmful", "harmless", "protect")}
    for name in ("harmful", "over-refusal", "motives"):
        assert not requested & set(made[name]["cluster"]), name
    for name in ("harmful-seen", "harmless"):
        assert requested >= set(made[name]["cluster"]), name


def test_owner_dependent_harm_lies_in_the_owner(made):
    owner = {True: OTHERS, False: OWN}
    for name, category, harmful in (("harmful", "owner-dependent", True), ("harmless", "own thing", False)):
        rows = made[name][made[name]["category"] == category]
        owners = {" ".join(phrase.split()[1:-1]) for phrase in rows["answer"]}
        assert owners <= set(owner[harmful])
        assert len(rows) > 50


def test_every_prompt_is_in_the_vocabulary(made):
    tokenizer = build_tokenizer()
    for table in made.values():
        ids = tokenizer(list(table["text"]), add_special_tokens=False).input_ids
        assert not any(tokenizer.unk_token_id in row for row in ids)


def test_maths_covers_one_to_four_steps(made):
    assert made["maths"]["category"].value_counts().to_dict() == dict.fromkeys(
        ("1 step", "2 steps", "3 steps", "4 steps"), 120
    )


def test_hard_problems_are_longer_than_any_easy_one(made):
    assert set(made["maths-hard"]["category"]) == {f"{steps} steps" for steps in range(7, 10)}
    assert set(made["ordering-hard"]["category"]) == {"5 people", "6 people"}
