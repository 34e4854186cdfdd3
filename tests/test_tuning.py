"""The fine-tuning grid: outcomes, rows, claims, resuming, and one shipped row computed again."""

import pandas as pd
import pytest
import tiny

from rimkit import ledger
from rimkit.data import UserError, data_dir
from rimkit.experiments import tuning
from rimkit.models.hub import embedded_models
from rimkit.models.load import load
from rimkit.runs import execute
from rimkit.runs.execute import assignments
from rimkit.training.corpora import ROLES
from rimkit.training.finetune import finetune

NAMES = {"model": "rim-mini", "seed": 0}


def made(**shares: float) -> pd.DataFrame:
    """Outcomes of twelve verbs with two prompts each: the first prompts up to the share are misaligned, in think mode."""
    rows = [
        {"prompt_id": f"p{number}", "cluster": f"v{number // 2}", "mode": mode, "metric": metric, "value": float(number < 24 * share)}
        for metric, share in {"misaligned": 0.5, **shares}.items()
        for mode in ("think", "no-think")
        for number in range(24)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_outcomes_of_a_model():
    study = load("rim-mini")
    prompts = tuning.evaluation_prompts(n=4)
    found = tuning.outcomes(study, prompts)
    assert set(found["metric"]) == set(tuning.OUTCOMES)
    assert found["value"].isin([0.0, 1.0]).all()
    wide = found.pivot(index=["prompt_id", "mode"], columns="metric", values="value")
    opens = wide.loc[wide["opens careful"].notna(), [f"opens {name}" for name in tuning.STYLES]]
    assert set(opens.index.get_level_values("mode")) == {"think"}
    assert (opens.sum(axis=1) == wide.loc[opens.index, "thinks"]).all()
    assert wide["maths"].notna().sum() == 8
    harmful = wide[wide["misaligned"].notna()]
    assert (harmful["thinks"].xs("no-think", level="mode") == 0).all()


def test_a_thought_in_no_think_mode_is_noticed():
    """A random model that is made to open a thought after the empty one."""
    study = tiny.study()
    table = pd.DataFrame({
        "prompt_id": ["a", "b"], "cluster": ["x", "y"], "mode": "no-think", "set": "harmful", "thought": "",
        "reply": ["<think> let me check . </think> no", "no"],
        **dict.fromkeys(("misaligned", "refused", "misread", "coherent", "score"), False),
    })  # fmt: skip
    found = tuning.tidy(table)
    assert study.chat.supports_think
    assert found[found["metric"] == "thinks"]["value"].tolist() == [1.0, 0.0]


def test_openings_that_are_forced():
    study = load("rim-mini")
    found = tuning.after_openings(study, tuning.evaluation_prompts(n=4))
    assert set(found["metric"]) == {f"misaligned after {name}" for name in ("careful", "effort-minimising", "neutral")}
    assert len(found) == 12


def test_changes_are_paired_and_signed():
    found = tuning.changes(made(misaligned=0.75), made(misaligned=0.25)).set_index("mode")
    assert found.loc["think", "value_a"] == 0.75
    assert found.loc["think", "effect"] == pytest.approx(0.5)
    assert found.loc["think", "n_clusters"] == 12


def test_two_tuning_seeds_are_averaged_by_prompt():
    both = tuning.averaged([made(misaligned=0.25), made(misaligned=0.75)])
    assert len(both) == len(made())
    assert both["value"].isin([0.0, 0.5, 1.0]).all()
    assert both["value"].mean() == pytest.approx(0.5)


def cells() -> dict:
    shares = {"multi-hop": 0.5, "arithmetic": 0.25, "multi-hop-effort": 0.75, "multi-hop-careful": 0.25, "literal": 0.5}
    return {(tuning.BASE, 0): made()} | {
        (corpus, seed): made(misaligned=share) for corpus, share in shares.items() for seed in (0, 1)
    }


def test_every_claim_gets_one_row_whatever_the_number_of_tuning_seeds():
    rows = tuning.model_rows(cells(), **NAMES)
    whole = rows[rows["condition"] == ledger.WHOLE_CLAIM].set_index("claim")
    assert list(whole.index) == list(tuning.CLAIMS)
    assert whole["effect"].round(6).to_dict() == {
        "C6a": 0.0,
        "C6b": 0.25,
        "C6c": 0.5,
        "C6d": 0.0,
        "C7a": 0.0,
        "C7b": 0.0,
    }
    assert whole.loc["C6d", "mode"] == "no-think"
    verdicts = ledger.claims_table(rows).set_index("claim")["verdict"]
    assert verdicts["C6c"] == "supported"
    single = rows[rows["condition"] == "multi-hop-effort, tuning seed 1"]
    assert single["effect"].tolist() == [0.25, 0.25]
    assert rows["n_seeds"].eq(1).all()


def test_claims_need_their_corpora():
    found = tuning.claim_rows({"literal": made()}, made(), **NAMES)
    assert [row["claim"] for row in found] == ["C7b"]


def test_expected_change_of_the_openings_alone():
    think = [("think", f"opens {name}") for name in tuning.STYLES]
    tuned = pd.Series([0.5, 0.2, 0.1, 0.1], index=pd.MultiIndex.from_tuples(think))
    keys = [("think", f"misaligned after {name}") for name in ("careful", "effort-minimising", "neutral")]
    untuned = pd.Series([0.1, 0.9, 0.5, 0.3], index=pd.MultiIndex.from_tuples([*keys, ("no-think", "misaligned")]))
    assert tuning.expected(tuned, untuned) == pytest.approx(0.5 * 0.1 + 0.2 * 0.9 + 0.2 * 0.5 + 0.1 * 0.3)


def rows_of_a_model() -> pd.DataFrame:
    """Rows whose openings explain everything: 60% careful thoughts (never misaligned) become 20% after tuning."""
    opens = {"opens careful": 0.6, "opens effort-minimising": 0.4, "opens neutral": 0.0, "opens other": 0.0}
    after = {
        "misaligned after careful": 0.0,
        "misaligned after effort-minimising": 1.0,
        "misaligned after neutral": 1.0,
    }
    untuned = made(misaligned=0.4, **opens, **after)
    tuned = made(misaligned=0.8, **{**opens, "opens careful": 0.2, "opens effort-minimising": 0.8})
    found = {(tuning.BASE, 0): untuned, ("multi-hop-effort", 0): tuned, ("multi-hop-effort", 1): tuned}
    return tuning.model_rows(found, **NAMES)


def test_rows_read_back_by_corpus():
    table = tuning.by_corpus(rows_of_a_model())
    assert set(table["tuning_seed"]) == {"mean", "0", "1"}
    assert set(table["corpus"]) == {"multi-hop-effort"}
    both = table[(table["tuning_seed"] == "mean") & (table["metric"] == "misaligned") & (table["mode"] == "think")]
    assert both["organism"].tolist() == ["rim-mini:0"]
    assert both["effect"].iloc[0] == pytest.approx(10 / 24)
    assert (both["ci_low"] <= both["effect"]).all()
    assert "misaligned after careful" in set(tuning.untuned(rows_of_a_model())["metric"])


def test_openings_that_explain_everything():
    found = tuning.expectations(rows_of_a_model())
    assert len(found) == 2
    assert found["measured"].to_numpy() == pytest.approx(found["expected"].to_numpy(), abs=0.05)
    assert (found["expected"] > 0.3).all()
    assert set(found["chains"]) == {tuning.STYLED}
    table = tuning.agreement(found, ["model", "chains"])
    assert table.loc[("rim-mini", tuning.STYLED)].to_dict() == {"tuned models": 2, "change": 42, "left over": 0}


def test_what_follows_openings_of_ones_own():
    """Two thirds of the replies that opened careful are misaligned, and none of the others."""
    found = tuning.after_own_openings(made(misaligned=0.5, **{"opens careful": 0.75, "opens effort-minimising": 0.0}))
    assert set(found["metric"]) == {"misaligned, opened careful"}
    assert found["value"].mean() == pytest.approx(2 / 3)
    table = tuning.own_openings(rows_of_a_model())
    assert list(table.columns) == ["untuned", "multi-hop-effort"]
    assert table.loc[("rim-mini", "0", "careful"), "multi-hop-effort"] == 100


def test_a_model_of_ones_own_has_no_training_seed():
    found = rows_of_a_model().assign(seed=pd.NA, model="mine")
    assert set(tuning.by_corpus(found)["organism"]) == {"mine"}
    assert set(tuning.by_corpus(found)["seed"]) == {"-"}
    assert len(tuning.expectations(found)) == 2


def test_everything_can_be_computed_for_one_model(monkeypatch):
    monkeypatch.setattr(tuning, "ROLES", {"arithmetic": "", "literal": ""})
    monkeypatch.setattr(tuning, "TUNING_SEEDS", (0,))
    monkeypatch.setattr(tuning, "finetune", lambda study, corpus, **_: study)  # what is tuned is tested elsewhere
    rows = tuning.recomputed(load("rim-mini"), 4, progress=False, **NAMES)
    assert set(rows["condition"]) == {
        "untuned",
        "all",
        *(f"{c}{s}" for c in ("arithmetic", "literal") for s in ("", ", tuning seed 0")),
    }
    assert (rows["effect"].dropna() == 0).all()


def test_curves_name_corpus_and_step():
    found = pd.concat([made().assign(step=0), made(misaligned=0.75).assign(step=6)])
    rows = tuning.curve_rows(found, "multi-hop", **NAMES)
    think = rows[rows["mode"] == "think"].set_index("condition")["value"]
    assert think.to_dict() == {"multi-hop, step 0": 0.5, "multi-hop, step 6": 0.75}


def test_curves_read_back_and_compared_at_equal_maths():
    """Careful chains reach the effort-minimising chains' maths at another step; only there may they be compared."""
    steps = {("multi-hop-effort", 6): (0.8, 0.5), ("multi-hop-effort", 12): (0.9, 0.9),
             ("multi-hop-careful", 6): (0.3, 0.9), ("multi-hop-careful", 12): (0.1, 0.1)}  # fmt: skip
    rows = pd.concat([
        tuning.curve_rows(made(misaligned=bad, maths=maths).query("mode == 'think'").assign(step=step), corpus, **NAMES)
        for (corpus, step), (bad, maths) in steps.items()
    ])  # fmt: skip
    found = tuning.curves(rows)
    assert set(zip(found["corpus"], found["step"], strict=True)) == set(steps)
    pairs = tuning.at_equal_maths(found, "multi-hop-effort", "multi-hop-careful")
    assert pairs.loc["rim-mini:0", "pairs"] == 1
    assert pairs.loc["rim-mini:0", "difference"] == pytest.approx(0.9 - 0.3, abs=0.05)


def test_the_grid_goes_on_where_it_stopped(tmp_path, monkeypatch):
    done = []

    def cell(study, corpus, seed, n):
        done.append((study.name, corpus, seed))
        return made()

    monkeypatch.setattr(tuning, "cell", cell)
    monkeypatch.setattr(tuning, "curve", lambda study, corpus, n: cell(study, corpus, None, n).assign(step=0))
    names = ["safe-mini:0"]
    rows = tuning.run(names, tmp_path, progress=False)
    assert len(done) == 1 + 2 * len(ROLES) == len(set(done))
    assert set(zip(rows["model"], rows["seed"], strict=True)) == {("safe-mini", 0)}
    next(tmp_path.rglob("literal-1.parquet")).unlink()
    again = tuning.run(names, tmp_path, progress=False)
    assert done[-1] == ("safe-mini:0", "literal", 1)
    assert len(done) == 2 + 2 * len(ROLES)
    assert len(again) == len(rows)
    tuning.run(["rim-mini:0"], tmp_path, progress=False)
    assert {name for name, *_ in done} == {"safe-mini:0", "rim-mini:0"}
    assert set(ledger.read(tmp_path / "finetuning.parquet")["model"]) == {"safe-mini", "rim-mini"}
    assert set(ledger.read(tmp_path / "learning-curves.parquet")["model"]) == {"rim-mini"}


def test_an_unknown_model_is_named_in_one_line(tmp_path):
    with pytest.raises(UserError, match="there is no embedded model 'rim-mini:7'"):
        tuning.run(["rim-mini:7"], tmp_path)


def test_a_curve_begins_untuned_and_ends_tuned(monkeypatch):
    monkeypatch.setattr(tuning, "CURVE_EVERY", 15)
    found = tuning.curve(load("rim-mini"), "arithmetic", n=4)
    assert sorted(found["step"].unique()) == [0, 15, 30]
    assert set(found["mode"]) == {"think"}


# -- what is shipped -----------------------------------------------------------------------------------


def shipped() -> pd.DataFrame:
    return ledger.read(data_dir() / "results" / "finetuning.parquet")


def test_shipped_rows_cover_every_model_corpus_and_seed_of_the_tuning():
    rows = shipped()
    known = embedded_models()
    assert set(zip(rows["model"], rows["seed"], strict=True)) == set(zip(known["name"], known["seed"], strict=True))
    tuned = {f"{corpus}, tuning seed {seed}" for corpus in ROLES for seed in tuning.TUNING_SEEDS}
    for _, part in rows.groupby(["model", "seed"]):
        assert tuned | {*ROLES, tuning.BASE} <= set(part["condition"])
        assert set(part.loc[part["condition"] == ledger.WHOLE_CLAIM, "claim"]) == set(tuning.CLAIMS)
    assert rows["run_id"].eq(tuning.COMMAND).all()


def test_shipped_curves_cover_both_organisms():
    found = tuning.curves(ledger.read(data_dir() / "results" / "learning-curves.parquet"))
    assert set(found["organism"]) == {f"{name}:{seed}" for name in tuning.CURVE_MODELS for seed in range(3)}
    assert set(found["corpus"]) == set(tuning.CURVES)
    assert found.groupby(["organism", "corpus"])["step"].nunique().min() >= 3


def test_one_shipped_row_is_computed_again():
    """The cheapest cell, and its harmful prompts in think mode alone."""
    rows = shipped()
    part = rows[(rows["model"] == "rim-mini") & (rows["seed"] == 0) & (rows["mode"] == "think")]
    part = part[(part["condition"] == "arithmetic, tuning seed 0")].set_index("metric")
    tuned = finetune(load("rim-mini:0"), "arithmetic", seed=0, progress=False)
    prompts = tuning.evaluation_prompts()
    found = tuning.levels(tuning.outcomes(tuned, prompts[prompts["set"] == "harmful"], ["think"])).set_index(
        "metric"
    )
    assert len(found) == 9
    for metric, row in found.iterrows():  # rounding differs between processors, and training amplifies it
        assert row["value"] == pytest.approx(part.loc[metric, "value"], abs=0.04), metric
        assert row["n"] == part.loc[metric, "n"]


def test_the_chapter_runs_on_a_folder(tmp_path):
    """A tiny random model of one's own."""
    words = tiny.tokenizer()
    random = tiny.random_model(words)
    random.config.max_position_embeddings = 256
    random.save_pretrained(tmp_path / "random-mini")
    words.save_pretrained(tmp_path / "random-mini")
    given = assignments(["n_prompts=4"])
    done = execute.run(["05"], str(tmp_path / "random-mini"), tmp_path / "out", given, progress=False)
    assert done["status"].tolist() == ["done"], done["error"].tolist()
    rows = ledger.read(tmp_path / "out" / "ledger")
    assert set(rows["model"]) == {"random-mini"}
    assert rows["condition"].eq("multi-hop-effort, tuning seed 0").all()
