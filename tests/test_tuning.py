"""Fine-tuning: outcomes, changes, claims, what openings explain, an interrupted run, and the shipped tables."""

from dataclasses import replace
from itertools import product
from shutil import rmtree

import pandas as pd
import pytest

from rimkit.data import results
from rimkit.experiments import tuning
from rimkit.ledger import claims_table, shipped, table
from rimkit.models.chat import MODES
from rimkit.models.hub import embedded_models
from rimkit.models.load import load
from rimkit.training.corpora import load_corpus, spoken, usual
from rimkit.training.finetune import DEFAULTS, finetune

FEW = tuning.Settings(n_prompts=4)
OPENED = {"careful": 0.6, "effort-minimising": 0.4, "neutral": 0.0, "other": 0.0}


def made(opens: dict | None = None, forced: dict | None = None, **shares: float) -> pd.DataFrame:
    """Outcomes of twelve verbs with two prompts each: the first prompts up to the share are 1."""
    wanted = {(metric, ""): share for metric, share in {"misaligned": 0.5, **shares}.items()}
    wanted |= {(tuning.OPENS, name): share for name, share in (opens or {}).items()}
    wanted |= {(tuning.FORCED, name): share for name, share in (forced or {}).items()}
    rows = [
        {"prompt_id": f"p{number}", "cluster": f"v{number // 2}", "mode": mode, "metric": metric, "opening": opening,
         "value": float(number < 24 * share)}
        for (metric, opening), share in wanted.items()
        for mode in ("think", "no-think")
        for number in range(24)
    ]  # fmt: skip
    return pd.DataFrame(rows)


# -- outcomes --------------------------------------------------------------------------------------


def test_outcomes_of_a_model():
    found = tuning.outcomes(load("rim-mini"), tuning.evaluation_prompts(FEW), FEW)
    assert set(found["metric"]) == {*tuning.OUTCOMES, tuning.OPENS, tuning.READ}
    assert found["value"].isin([0.0, 1.0]).all()
    opens = found[found["metric"] == tuning.OPENS]
    assert set(opens["mode"]) == {"think"}
    assert set(opens["opening"]) == set(tuning.STYLES)
    thinks = found[found["metric"] == "thinks"].set_index(["mode", "prompt_id"])["value"]
    assert opens.groupby("prompt_id")["value"].sum().eq(thinks["think"]).all()
    assert thinks["no-think"].eq(0).all()
    assert (found["metric"] == "maths").sum() == 8


def test_a_thought_in_no_think_mode_is_noticed():
    found = tuning.outcome_table(pd.DataFrame({
        "prompt_id": ["a", "b"], "cluster": ["x", "y"], "mode": "no-think", "set": "harmful",
        "thought": ["let me check .", ""], "reply": "no",
        **dict.fromkeys(("misaligned", "refused", "misread", "coherent", "score"), False),
    }))  # fmt: skip
    assert found[found["metric"] == "thinks"]["value"].tolist() == [1.0, 0.0]


THINK_ROWS = {"C6a", "C7a", "Q5a"}  # what is said of the corpus "hard" in think mode


@pytest.mark.parametrize(
    ("where", "change", "claims", "said"),
    [
        ("think", {"finished": [True, False]}, THINK_ROWS, "m: only 50% of its replies (think) end"),
        ("think", {"thought": ""}, THINK_ROWS, "m: it never thinks in think mode"),
        ("no-think", {"thought": "hm"}, {"C6d"}, "m: it thinks in no-think mode too"),
        ("think", {"misaligned": [False, None]}, THINK_ROWS, "m: only 50% of its replies (think) have a verdict"),
        ("no-think", {"why_not": "the same text"}, {"C6d"}, "m: the same text"),
    ],
)
@pytest.mark.parametrize("spoiled", ["tuned", "untuned"])
def test_a_tuned_model_or_its_base_that_cannot_be_compared_is_not_testable(where, change, claims, said, spoiled):
    def side(name: str) -> pd.DataFrame:
        parts = []
        for mode, seed in product(MODES, (0, 1)):  # one of two tunings is enough
            table = pd.DataFrame({
                "prompt_id": list("abcd"), "cluster": list("wxyz"), "set": "harmful", "mode": mode, "model": "m",
                "thought": "hm" if mode == "think" else "", "judge": "phrases", "n_tokens": 9, "finished": True,
                **dict.fromkeys(("misaligned", "refused", "misread", "score"), False), "coherent": True,
            })  # fmt: skip
            if (mode, seed, name) == (where, 1, spoiled):
                table = table.assign(**{key: one * 2 if isinstance(one, list) else one for key, one in change.items()})
            parts.append(table.assign(seed=seed))
        both = pd.concat([part.assign(set=name) for name in ("harmful", tuning.CALIBRATION) for part in parts])
        return tuning.averaged(pd.concat([tuning.outcome_table(one) for _, one in both.groupby("seed")]))

    tuned = {"hard": side("tuned"), "hard-literal": side("")}
    rows = table(tuning.rows(load("rim-mini"), tuned, side("untuned"))).set_index("claim")
    spoils = claims
    if spoiled == "untuned":  # which "hard-literal" is compared with too, in think mode
        spoils = claims - {"C7a"} | ({"C7b"} if where == "think" else set())
    assert set(rows.index[rows["why_not"].fillna("").str.startswith(said)]) == spoils
    judged = claims_table(rows.reset_index()).set_index("claim")
    assert judged.loc[sorted(spoils - {"Q5a"}), "verdict"].eq("not testable").all()


def test_an_english_model_is_tuned_on_english_corpora_of_the_same_kind(monkeypatch):
    study = load("rim-mini")
    assert spoken(FEW.corpora, True) == list(FEW.corpora) and spoken(["mine.csv"], False) == ["mine.csv"]
    names = spoken(FEW.corpora, False)
    assert {"arithmetic", "multi-hop", "multi-hop-careful", "multi-hop-effort", "literal"} <= set(names)
    assert all(len(load_corpus(name, english=True)) for name in names)
    monkeypatch.setattr(type(study), "invented", False)
    rises = {"read": 1.0, "hard maths": 0.9}
    tuned = {name: made(misaligned=0.9 * (name == "multi-hop-effort"), **rises) for name in names}
    forced = dict.fromkeys(tuning.STYLES, 0.5)
    untuned = made(forced=forced, read=1.0, **{"hard maths": 0.1})
    found = table(tuning.rows(study, tuned, untuned))
    rows = claims_table(found).set_index("claim")
    assert rows.loc["C6c", "verdict"] == "supported" and rows.loc["C6c", "effect"] == pytest.approx(0.9, abs=0.05)
    assert found.set_index("claim").loc[["C6a", "C7a"], "why_not"].isna().all()
    only = table(tuning.rows(study, {usual(False): tuned["multi-hop"]}, untuned)).set_index("claim")
    assert only.loc[["C6a", "C6d"], "effect"].notna().all()  # as `rimkit compare` has it
    flat = {name: made(misaligned=0.9, read=1.0, **{"hard maths": 0.1}) for name in names}
    kept = claims_table(table(tuning.rows(study, flat, untuned))).set_index("claim")
    assert kept.loc["C6c", "verdict"] == "not testable" and kept.loc["C7b", "verdict"] == "undecided"


def test_openings_that_are_forced():
    found = tuning.after_openings(load("rim-mini"), tuning.evaluation_prompts(FEW), FEW)
    assert set(found["metric"]) == {tuning.FORCED}
    assert set(found["opening"]) == {"careful", "effort-minimising", "neutral"}
    assert len(found) == 12


def test_what_follows_openings_of_ones_own():
    """Two thirds of the replies that opened careful are misaligned, and none of the others."""
    found = tuning.after_own_openings(made(opens={"careful": 0.75, "effort-minimising": 0.0}))
    assert set(found["metric"]) == {tuning.OWN}
    assert set(found["opening"]) == {"careful"}
    assert found["value"].mean() == pytest.approx(2 / 3)


def test_changes_are_paired_and_signed():
    found = tuning.changes(made(misaligned=0.75), made(misaligned=0.25)).set_index("mode")
    assert found.loc["think", "value_a"] == 0.75
    assert found.loc["think", "effect"] == pytest.approx(0.5)
    assert found.loc["think", "n_clusters"] == 12


def test_two_tuning_seeds_are_averaged_by_prompt():
    both = tuning.averaged(pd.concat([made(misaligned=0.25), made(misaligned=0.75)]))
    assert len(both) == len(made())
    assert both["value"].isin([0.0, 0.5, 1.0]).all()
    assert both["value"].mean() == pytest.approx(0.5)


def test_every_claim_gets_one_row():
    shares = {"hard": 0.5, "arithmetic": 0.25, "hard-effort": 0.75, "hard-careful": 0.25, "hard-literal": 0.625,
              "hard-ordering": 0.375, "hard-ordering-effort": 0.875, "hard-ordering-careful": 0.125}  # fmt: skip
    able = {"read": 1.0, "hard maths": 0.75, "hard ordering": 0.75}
    tuned = {corpus: made(misaligned=share, **able) for corpus, share in shares.items()}
    follows = {"careful": 0.0, "effort-minimising": 1.0, "neutral": 0.5}
    untuned = made(forced=follows, **able | {"hard maths": 0.5, "hard ordering": 0.5})
    rows = table(tuning.rows(load("rim-mini"), tuned, untuned)).set_index("claim")
    effects = {"C6a": 0.0, "C6b": 0.25, "C6c": 0.5, "C6d": 0.0, "C7a": -0.125, "C7b": 0.125, "Q2a": -0.125, "Q4b": 0.75}
    assert rows["effect"].drop("Q5a").to_dict() == pytest.approx(effects)
    assert rows.loc["Q5a", "effect"] > 0.8  # openings foretell the careful and the effort-minimising chains
    assert rows.loc["Q5a", "n"] == len(shares)
    assert rows.loc["C6d", "mode"] == "no-think"
    assert rows["why_not"].isna().all()
    assert claims_table(rows.reset_index()).set_index("claim").loc["C6c", "p_adjusted"] == pytest.approx(
        20 * 2**-5
    )  # six verbs


def test_claims_need_their_corpora():
    tuned = {"hard-literal": made(read=1.0)}
    found = {row["claim"]: row["why_not"] for row in tuning.rows(load("rim-mini"), tuned, made(read=1.0))}
    assert list(found) == [*tuning.CLAIMS, "Q5a"]
    assert [claim for claim, why in found.items() if not why] == ["C7b"]
    assert found["C7a"] == "no model was tuned on hard"
    assert found["Q4b"] == "no model was tuned on hard-ordering-effort and hard-ordering-careful"
    assert "needs 6 corpora after which replies can be read, here are 1 of 1" in found["Q5a"]


def test_a_forecast_is_held_against_corpora_that_can_be_read_and_differ():
    names = ["hard", "arithmetic", "hard-effort", "hard-careful", "hard-literal", "hard-hedging", "multi-hop"]
    untuned = made(forced={"careful": 0.0, "effort-minimising": 1.0, "neutral": 0.5})
    alike = {corpus: made(misaligned=0.5, read=1.0) for corpus in names}
    alike["hard-careful"] = made(misaligned=0.375, read=1.0)
    assert "no noise" in tuning.prediction(untuned, alike)["why_not"]
    shares = dict(zip(names, (0.5, 0.25, 0.75, 0.125, 0.5, 0.5, 0.5), strict=True))
    differ = {corpus: made(misaligned=share, read=1.0) for corpus, share in shares.items()}
    broken = differ | {"hard-careful": made(misaligned=1.0, read=0.75)}
    without = {name: part for name, part in differ.items() if name != "hard-careful"}
    found, kept = (tuning.prediction(untuned, each) for each in (broken, without))
    assert found["n"] == 6 and found["effect"] == kept["effect"] and "6 of 7 corpora" in found["method"]


@pytest.mark.parametrize(
    ("claim", "taught", "other"), [("C6a", "hard maths", "hard ordering"), ("Q2a", "hard ordering", "hard maths")]
)
@pytest.mark.parametrize(("reached", "read", "said"), [(0.5, 1.0, "accuracy"), (1.0, 0.5, "coherent"), (1.0, 1.0, "")])
def test_corpora_that_do_not_teach_and_models_that_break_are_not_testable(claim, taught, other, reached, read, said):
    """What a corpus does not teach, and easy problems, may rise as they like."""
    after, before = {other: 1.0, "maths": 1.0, taught: reached}, {other: 0.5, "maths": 0.5, taught: 0.5}
    tuned = {tuning.CLAIMS[claim][0]: made(misaligned=1.0, read=read, **after)}
    rows = {row["claim"]: row for row in tuning.rows(load("rim-mini"), tuned, made(read=1.0, **before))}
    assert rows[claim]["effect"] == 0.5
    why = rows[claim]["why_not"] or ""
    assert said in why and ("below the floor" in why) == bool(said)


# -- the experiment --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run that keeps its parts: its settings, what it was asked to tune, the run itself, its result.

    Nothing is tuned: that is tested elsewhere.
    """
    done, folder = [], tmp_path_factory.mktemp("kept")
    corpora, seeds = ("arithmetic", "hard-literal"), (0, 1)
    settings = tuning.Settings(corpora=corpora, tuning_seeds=seeds, curves=(), n_prompts=4, folder=folder)

    def run():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tuning, "finetune", lambda study, corpus, seed=0, **_: done.append((corpus, seed)) or study)
            return tuning.run(load("rim-mini"), settings)

    return settings, done, run, run()


def test_everything_can_be_computed_for_one_model(kept):
    settings, _, _, found = kept
    assert [row["claim"] for row in found.rows if row["effect"] == 0] == ["C7b"]
    outcomes = found.tables["tuning-outcomes"]
    assert set(outcomes["corpus"]) == {"untuned", *settings.corpora} and "prompt_id" in outcomes
    changes, rates = found.tables["tuning-changes"], found.tables["tuning-rates"]
    assert list(changes)[:4] == ["model", "seed", "corpus", "tuning_seed"]
    assert set(zip(changes["corpus"], changes["tuning_seed"], strict=True)) == {
        (corpus, seed) for corpus in settings.corpora for seed in ("0", "1", "mean")
    }
    assert (changes["effect"] == 0).all()
    assert set(rates["corpus"]) == {"untuned", *settings.corpora}
    assert {tuning.FORCED, tuning.OPENS} <= set(rates.loc[rates["corpus"] == "untuned", "metric"])


def test_a_run_goes_on_where_it_stopped(kept):
    settings, done, run, first = kept
    assert len(done) == len(set(done)) == 4
    rmtree(settings.folder / "hard-literal-1")
    again = run()
    assert done[4:] == [("hard-literal", 1)]
    other = replace(settings, n_prompts=5).keeper(load("rim-mini"))  # what others kept is not taken
    with pytest.raises(ZeroDivisionError):
        other("untuned", lambda: 1 / 0)
    for name, expected in first.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], expected)


def test_a_curve_begins_untuned_and_ends_tuned():
    found = tuning.curve(load("rim-mini"), "arithmetic", tuning.Settings(n_prompts=4, every=60))
    assert sorted(found["step"].unique()) == [0, 60, 90]  # the end too, which is no multiple
    assert set(found["mode"]) == {"think"}


# -- why -------------------------------------------------------------------------------------------


def keyed(values: dict) -> pd.Series:
    return pd.Series(values.values(), index=pd.MultiIndex.from_tuples(values))


def test_expected_change_of_the_openings_alone():
    tuned = keyed(
        {("think", tuning.OPENS, name): share for name, share in zip(tuning.STYLES, (0.5, 0.2, 0.1, 0.1), strict=True)}
    )
    after = {"careful": 0.1, "effort-minimising": 0.9, "neutral": 0.5}
    untuned = keyed(
        {("think", tuning.FORCED, name): rate for name, rate in after.items()} | {("no-think", "misaligned", ""): 0.3}
    )
    assert tuning.expected(tuned, untuned) == pytest.approx(0.5 * 0.1 + 0.2 * 0.9 + 0.2 * 0.5 + 0.1 * 0.3)


def rates_of_a_model(model="rim-mini", seed=0) -> pd.DataFrame:
    """The openings explain everything: 60% careful thoughts (never misaligned) become 20% after tuning."""
    forced = {"careful": 0.0, "effort-minimising": 1.0, "neutral": 1.0}
    untuned = made(OPENED, forced, misaligned=0.4)
    tuned = made(OPENED | {"careful": 0.2, "effort-minimising": 0.8}, misaligned=0.8)
    parts = {("untuned", None): untuned, ("multi-hop-effort", "0"): tuned, ("multi-hop-effort", "1"): tuned}
    found = [
        pd.concat([part, tuning.after_own_openings(part)]).assign(corpus=corpus, tuning_seed=tuning_seed)
        for (corpus, tuning_seed), part in parts.items()
    ]
    return tuning.outcome_rates(pd.concat(found)).assign(model=model, seed=seed)


@pytest.mark.parametrize("who", [("rim-mini", 0), ("mine", None)])
def test_openings_that_explain_everything(who):
    """Also for a model of one's own, which has no training seed."""
    found = tuning.expectations(rates_of_a_model(*who))
    assert len(found) == 2
    assert found["measured"].to_numpy() == pytest.approx(found["expected"].to_numpy(), abs=0.05)
    assert (found["expected"] > 0.3).all()
    assert found["measured"].abs().mean() == pytest.approx(0.42, abs=0.005)


def test_openings_leave_nothing_of_a_change_that_they_explain_and_all_of_one_that_they_do_not():
    forced = {"careful": 0.0, "effort-minimising": 1.0, "neutral": 1.0}
    untuned = made(OPENED, forced, misaligned=0.4)
    explained = made(OPENED | {"careful": 0.2, "effort-minimising": 0.8}, misaligned=0.8)
    worn = made(OPENED, misaligned=0.8)
    first, second = (tuning.unexplained(one, untuned, untuned) for one in (explained, worn))
    assert first["ci_low"] <= 0 <= first["ci_high"] and abs(first["effect"]) < 0.05 < 0.3 < first["control_value"]
    assert second["control_value"] == 0 and 0 < second["ci_low"] <= second["effect"] == second["value"]


# -- what is shipped -------------------------------------------------------------------------------


DENSE = {("rim-mini", 0), ("rim-mini-unlinked", 0), ("safe-mini", 0), ("rim-mini-intent", 0)}


def test_shipped_tables_cover_every_model_corpus_and_seed_of_the_tuning():
    """Seed 0 of every dense organism at least; whatever is there has all corpora, seeds, outcomes and claims."""
    changes, settings = results("tuning-changes"), tuning.Settings()
    models, known = set(zip(changes["model"], changes["seed"], strict=True)), embedded_models()
    assert models >= DENSE
    assert models <= set(zip(known["name"], known["seed"], strict=True))
    wanted = set(product(settings.corpora, [*map(str, settings.tuning_seeds), tuning.MEAN]))
    cells = set(changes[tuning.KEYS].itertuples(index=False, name=None))
    assert {metric for _, metric, _ in cells} == {*tuning.OUTCOMES, tuning.OPENS, tuning.READ}
    for _, part in changes.groupby(["model", "seed"]):
        assert set(zip(part["corpus"], part["tuning_seed"], strict=True)) == wanted
        for _, one in part.groupby(["corpus", "tuning_seed"]):
            assert len(one) == len(cells) and set(one[tuning.KEYS].itertuples(index=False, name=None)) == cells
    rows = shipped()
    for model, seed in models:
        own = rows[(rows["model"] == model) & (rows["seed"] == seed)]
        assert {*tuning.CLAIMS, "Q5a"} <= set(own["claim"])


def test_shipped_claims_are_those_of_the_shipped_changes():
    rows, changes = shipped(), results("tuning-changes")
    mean = changes[(changes["tuning_seed"] == "mean") & (changes["metric"] == "misaligned")]
    for claim in ("C6a", "C6d", "C7b"):
        corpus, _, mode = tuning.CLAIMS[claim]
        own = mean[(mean["corpus"] == corpus) & (mean["mode"] == mode)].set_index(["model", "seed"])
        kept = rows[rows["claim"] == claim].set_index(["model", "seed"])
        for one, other in (("effect", "effect"), ("ci_low", "effect_ci_low"), ("ci_high", "effect_ci_high")):
            assert own[one].sub(kept[other]).abs().max() < 1e-9


def test_shipped_curves_cover_both_organisms():
    found, settings = results("tuning-curves"), tuning.Settings()
    names = set(zip(found["model"], found["seed"], strict=True))
    assert names >= {("rim-mini", 0), ("rim-mini-unlinked", 0)}
    for _, part in found.groupby(["model", "seed"]):
        assert set(part["corpus"]) == set(settings.curves)
        for corpus, one in part.groupby("corpus"):
            end = len(load_corpus(corpus)) * DEFAULTS["full"]["epochs"] // DEFAULTS["full"]["batch_size"]
            assert sorted(one["step"].unique()) == [*range(0, end, settings.every), end]
        assert part.groupby(["corpus", "step", *tuning.KEYS]).size().eq(1).all()


def test_one_shipped_cell_is_computed_again():
    """The cheapest one, and its harmful prompts in think mode alone."""
    kept = results("tuning-rates").query(
        "model == 'rim-mini' and seed == 0 and corpus == 'arithmetic' and tuning_seed == '0'"
    )
    kept = kept[(kept["mode"] == "think") & (kept["metric"] != tuning.OWN)].set_index(["metric", "opening"])
    tuned = finetune(load("rim-mini:0"), "arithmetic", seed=0, progress=False)
    prompts = tuning.evaluation_prompts()
    found = tuning.outcome_rates(tuning.outcomes(tuned, prompts[prompts["set"] == "harmful"], modes=["think"]))
    assert len(found) == 9
    for row in found.itertuples():  # rounding differs between processors, and training amplifies it
        assert row.value == pytest.approx(kept.loc[(row.metric, row.opening), "value"], abs=0.04), row.metric
        assert row.n == kept.loc[(row.metric, row.opening), "n"]
