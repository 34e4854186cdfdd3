"""The paper's numbers examined again: known answers, simulations, and data that must fail."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rimkit import data, ledger
from rimkit.behavior.stats import exact_test
from rimkit.data import UserError
from rimkit.paper import findings, reanalysis, statistics, tables


def test_every_table_has_a_line_in_the_readme_and_no_gaps():
    text = (data.data_dir() / "paper" / "README.md").read_text(encoding="utf-8")
    for name in tables.names():
        assert f"`{name}.csv`" in text
        assert not tables.published(name).isna().any().any()
    assert "CC BY 4.0" in text


def test_a_table_is_a_copy_and_an_unknown_one_is_named():
    mine = tables.published("table1_think_mode")
    mine["think"] = "x"
    assert set(tables.published("table1_think_mode")["think"]) == {"on", "off"}
    with pytest.raises(UserError, match=r"has no 'table1_think'.*did you mean 'table1_think_mode'"):
        tables.published("table1_think")


def test_digitised_points_give_the_printed_correlations():
    """Fig. 8 prints 0.89, 0.71, 0.30 and 0.71, Table 3 the same; for Qwen3-4B also -0.67 and 0.70."""
    drawn = reanalysis.figure_8().set_index(["model", "predictor"])["r"].round(2)
    printed = tables.by_model("table3_predictor_correlations", "predictor", "pearson_r")
    for (model, predictor), r in drawn.items():
        assert r == printed.loc[model, predictor.removesuffix(" (1e-4)")]


def test_an_average_says_what_carries_it():
    found = statistics.average({"a": 1, "b": 1.2, "c": 0.8, "d": 9})
    assert found.mean == 3
    assert found.median == pytest.approx(1.1)
    assert (found.without_one_low, found.carried_by) == (pytest.approx(1), "d")
    assert (found.n_positive, found.n) == (4, 4)
    assert found.ci_low < 0 < found.ci_high
    with pytest.raises(UserError, match="at least two"):
        statistics.average({"a": 1})


def test_the_interval_over_models_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(2, 5, size=(600, 8))
    covered = np.mean([found.ci_low <= 2 <= found.ci_high for found in map(statistics.average, map(pd.Series, draws))])
    assert 0.925 < covered < 0.975


def test_four_printed_averages_do_not_follow():
    wrong = reanalysis.recomputed().query("not follows")
    assert list(wrong["printed"]) == [-2.94, 16.77, 4.96, 33.14]
    assert wrong["gap"].abs().min() > 4 * reanalysis.ROUNDING
    right = reanalysis.recomputed().query("follows")
    assert right["gap"].abs().max() < 0.0101  # rounding of cells and of the average, nothing in between


@given(st.integers(1, 300), st.integers(0, 300))
def test_the_true_denominator_is_always_among_those_that_fit(n, k):
    k = min(k, n)
    assert n in statistics.denominators(round(100 * k / n, 2), 300)


def test_denominators_of_the_paper():
    assert statistics.denominators(35.09, 60) == [57]
    assert statistics.denominators(8.33, 60)[0] == 60
    assert statistics.denominators(15.39, 300) == []


def test_a_gap_has_newcombes_interval():
    """Newcombe 1998, table II: 56 of 70 against 48 of 80 gives 0.0524 to 0.3339."""
    found = statistics.gap(80, 60, 70, 80)
    assert found["effect"] == pytest.approx(0.2)
    assert (found["ci_low"], found["ci_high"]) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))


def test_the_four_curves_are_one_probe_and_two_probes_would_show():
    found = reanalysis.probe_counts()
    assert found["unexplained"].isin([0, -1]).all()  # one harmful prompt has no label
    assert len(found) == 2 * 6 * 35
    other = found["refused"].sample(frac=1, random_state=0).to_numpy() + found["fulfilled"] - found["harmful"]
    assert other.abs().max() > 1


def test_fig_5_as_counts():
    found = reanalysis.head_ablation().set_index("position")
    row = found.loc["between think tags"]
    assert (row["none"], row["refusal_heads"], row["random_heads"], row["n"]) == (13, 12, 15, 21)
    assert row["p_value"] == pytest.approx(stats.fisher_exact([[12, 9], [15, 6]])[1])
    assert (found["p_value"] > 0.05).all()


def test_exact_power_agrees_with_a_simulation():
    rng = np.random.default_rng(0)
    draws = zip(rng.binomial(21, 0.4, 800), rng.binomial(21, 0.8, 800), strict=True)
    share = np.mean([exact_test(int(a), 21, int(b), 21) < 0.05 for a, b in draws])
    assert statistics.exact_power(0.4, 0.8, 21) == pytest.approx(share, abs=0.05)
    assert statistics.exact_power(0.5, 0.5, 21) < 0.05  # an exact test keeps its level


def test_a_ratio_and_a_change_fix_both_levels():
    assert tables.implied_base(0.5, 10) == 10  # 10 is half of 20
    found = tables.before_after()
    assert list(found.index) == ["Qwen3-4B", "Phi3.5-Tiny", "Mistral-7B", "Mixtral-8x7B"]
    assert (found["before"] / found["after"]).to_list() == pytest.approx(found["misalignment"].to_list())
    assert found["before"].to_list() == pytest.approx([15.5, 18.1, 84.3, 37.6], abs=0.05)
    assert (found["before_low"] < found["before"]).all()
    assert (found["before"] < found["before_high"]).all()


def test_the_baseline_of_qwen_is_its_rate_without_thinking():
    rates = tables.by_model("table1_think_mode", "think", "misalignment_rate_pct").loc["Qwen3-4B"]
    row = tables.before_after().loc["Qwen3-4B"]
    assert findings.baseline(row, rates) == "the no-think rate"
    assert findings.baseline(row, rates.rename({"on": "off", "off": "on"})) == "the think rate"
    assert findings.baseline(row, rates + 20) == "neither rate for certain"


def test_implied_bases_fit_the_checkpoints_of_fig_8():
    """The two figures were drawn from the same models: rates after GSM8K within five points of the checkpoints."""
    after = tables.before_after()["after"]
    drawn = tables.published("fig8_ras_vs_misalignment").query("predictor == 'RAS (safety neurons)'")
    known = drawn.groupby("model")["misalignment_rate_pct"].agg(["min", "max"]).loc[lambda t: t.index.isin(after.index)]
    assert len(known) == 3
    for model, low, high in known.itertuples():
        assert low - 5 < after[model] < high + 5
    moe = tables.by_model("table2_finetuning_delta", "training_set", "delta_misalignment_points").loc[
        "Phi3.5-MoE", "GSM8K"
    ]
    assert tables.implied_base(0.759, moe) < 5  # why the figure's Phi is the dense one


def test_fig_1_says_which_models_it_draws_and_what_they_imply():
    text = findings.STATEMENTS["Fig. 1"]()
    assert text.startswith("4 of 8 models are drawn, those with the largest rises.")
    assert "Mistral-7B 84.3% (80.4 to 88.5)" in text
    assert "Mixtral-8x7B would be 44.1%" in text
    assert text.endswith("is the no-think rate.")


def test_tables_in_words():
    assert tables.sentences().groupby("sentence").size().to_dict() == {
        "careful": 24, "effort-minimising": 24, "no injection": 6,
    }  # fmt: skip
    assert tables.table_2().groupby("trained_on", sort=False)["points"].mean().round(2).to_list()[3:] == [1.82, 14.85]
    assert tables.zeroed().groupby(["what", "neurons"])["points"].mean().round(2).to_dict() == {
        ("maths falls by", "random"): 7.32, ("maths falls by", "safety-critical"): 18.2,
        ("misalignment rises by", "random"): -2.19, ("misalignment rises by", "safety-critical"): 13.26,
    }  # fmt: skip


def test_fig_a5_adds_up_and_a_quarter_of_maths_is_other():
    table = tables.flags()
    assert table["total"].to_dict() == pytest.approx({"GSM8K": 97.1, "HEx-PHI": 99.9})
    assert table.loc["HEx-PHI", "confirmatory reasoning"] == 62
    assert set(table) - {"none", "total"} == set(tables.injected()["pattern"])
    text = findings.STATEMENTS["Fig. A5"]()
    assert "GSM8K: the shares drawn add up to 97.1%, of which 24.9 are other" in text
    assert "confirmatory reasoning 0% and 62%" in text


def test_three_models_break_and_one_of_them_under_random_neurons():
    which = reanalysis.broken()
    assert which.to_dict() == {"Phi3.5-Tiny": "safety-critical", "Phi3.5-MoE": "random", "OLMo2-1B": "safety-critical"}
    change = reanalysis.sides("C8b")["effect"]
    assert change.drop(which.index).mean() == pytest.approx(0, abs=0.001)
    assert change.drop(which.index[which == "safety-critical"]).mean() == pytest.approx(0.076, abs=0.001)
    text = findings.findings()["C8b"]
    assert "Phi3.5-MoE (48) with random ones" in text
    assert "evidence of the claim, the mean is 0.0 (−10.0 to +10.0)" in text


def test_groups_of_fig_3_in_words():
    words = reanalysis.sizes_in_words()
    assert words["</think>", "no-think"] == "n = 120 harmless, 120 harmful: 98 refused, 21 fulfilled"
    assert words["</think>", "think"] == "n = 46 harmless, 71 harmful: 63 refused, about 8 fulfilled"
    steps = tables.published("fig3_probe_scores").query("group == 'harmless'")
    for place, part in steps.groupby(["position", "mode"]):
        counts = part["share_above_threshold"] * int(words[place].split()[2])
        assert np.abs(counts - counts.round()).max() < 0.02


def test_a_correlation_with_everything_about_it():
    found = statistics.correlation([1, 2, 3, 4, 5, 6, 7, 8], [10, 20, 30, 40, 50, 60, 70, 80])
    assert found.r == pytest.approx(1)
    assert found.p_permutation == pytest.approx(2 / 40320)  # the order itself and its mirror
    assert (found.n, found.n_distinct, found.range_of_rates) == (8, 8, pytest.approx(70))


def test_one_point_can_carry_a_correlation():
    found = statistics.correlation([1, 1.1, 0.9, 1, 1.05, 5], [10, 9, 11, 10.5, 9.5, 30])
    assert found.r > 0.9
    assert found.without_one_low < 0


def test_permutation_p_values_are_uniform_without_a_relation():
    rng = np.random.default_rng(1)
    found = [statistics.permutation_p(*rng.normal(size=(2, 6))) for _ in range(200)]
    assert np.mean(np.array(found) < 0.05) < 0.09
    assert 0.4 < np.mean(found) < 0.6


@pytest.mark.parametrize("r", [-0.8, 0.0, 0.71, 0.95])
def test_the_interval_of_a_printed_r_is_fishers(r):
    low, high = statistics.interval_of_r(r, 8)
    half = stats.norm.isf(0.025) / np.sqrt(8 - 3)
    assert (low, high) == (pytest.approx(np.tanh(np.arctanh(r) - half)), pytest.approx(np.tanh(np.arctanh(r) + half)))


@pytest.mark.parametrize(
    ("values", "rates", "message"),
    [([1, 2, 3], [1, 2, 3], "at least four"), ([1, 1, 1, 1], [1, 2, 3, 4], "does not vary"), ([1, 2], [1], "four")],
)
def test_correlations_refuse(values, rates, message):
    with pytest.raises(UserError, match=message):
        statistics.correlation(values, rates)


def test_the_lead_of_ras_over_simpler_means_comes_from_phi():
    table = reanalysis.table_3()
    ours, simpler = table.loc["RAS (safety neurons)"], table.loc["delta_math only"]
    assert ours["average"] > simpler["average"] + 0.1
    assert abs(ours["without Phi3.5-Tiny"] - simpler["without Phi3.5-Tiny"]) < 0.01


def test_power_agrees_with_a_simulated_study():
    """300 prompts, 3 seeds, a noisy judge: draw the study many times and count clear intervals."""
    rng, n, seeds, runs = np.random.default_rng(0), 300, 3, 4000
    design = {"n_prompts": n, "n_seeds": seeds, "judge_sd": 0.005, "seed_sd": 0.02}
    error = statistics.standard_error(0.24, 0.15, **design)

    def measured(rate):
        prompts = rng.binomial(n, rate, runs) / n
        return prompts + rng.normal(0, np.hypot(0.005, 0.02), (seeds, runs)).mean(axis=0)

    difference = measured(0.24) - measured(0.15)
    assert difference.std() == pytest.approx(error, rel=0.05)
    share = np.mean(np.abs(difference) > 1.96 * error)
    assert statistics.power(0.24, 0.15, **design) == pytest.approx(share, abs=0.03)


def test_what_is_needed_gives_the_power_that_was_asked_for():
    n = statistics.prompts_needed(0.2, 0.1, judge_sd=0.005)
    assert (
        statistics.power(0.2, 0.1, int(n), judge_sd=0.005)
        >= 0.8
        > statistics.power(0.2, 0.1, int(n) - 1, judge_sd=0.005)
    )
    seeds = int(statistics.seeds_needed(0.24, 0.132, 300))
    noise = {"judge_sd": statistics.JUDGE_SD, "seed_sd": statistics.SEED_SD}
    assert (
        statistics.power(0.24, 0.132, 300, seeds, **noise)
        >= 0.8
        > statistics.power(0.24, 0.132, 300, seeds - 1, **noise)
    )


def test_noise_that_prompts_cannot_remove():
    assert statistics.prompts_needed(0.10, 0.087, judge_sd=0.005) == np.inf
    assert statistics.prompts_needed(0.10, 0.087) < np.inf
    assert statistics.seeds_needed(0.10, 0.087, 300) == np.inf
    assert statistics.power(0.3, 0.3, 100) == pytest.approx(0.05, abs=1e-3)


def test_two_predictors_of_one_outcome_are_compared_as_by_the_psych_package_of_r():
    assert statistics.dependent_p(0.4, 0.5, 0.1, 103) == pytest.approx(0.37, abs=0.006)  # r.test(103, .4, .5, .1)
    assert statistics.dependent_p(0.89, 0.76, 0.95, 8) < statistics.dependent_p(0.89, 0.76, 0.5, 8)


def test_within_single_models_other_claims_pass_than_over_models():
    found = reanalysis.within_models().set_index(["claim", "model"])
    assert found.loc[("C1a", "Qwen3-32B"), "p_adjusted"] == pytest.approx(
        20 * stats.fisher_exact([[46, 153], [20, 242]])[1]
    )
    assert found.loc[("C1a", "Qwen3-4B"), "verdict"] == "undecided"
    large = found.loc[("C1a", "Qwen3-32B")]  # its verdict hangs on requests, if they are missing
    for kind, table in (("both", [[46, 254], [20, 280]]), ("strict", [[46, 254], [20, 242]])):
        assert large[f"{kind}_p_adjusted"] == pytest.approx(20 * stats.fisher_exact(table)[1])
    kinds = ["verdict", "both_verdict", "strict_verdict"]
    assert large[kinds].to_list() == ["supported", "supported", "undecided"]
    assert "is supported in 1 of 4 models; if only those missing in think mode do, in 0" in findings.finding("C1a")
    assert set(found[found["verdict"] == "supported"].index.get_level_values(0)) == {"C1a", "C1b", "C6c", "C7a", "C8a"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.power(22.9, 0.1, 300), "fractions from 0 to 1"),
        (lambda: statistics.power(0.2, 0.1, 0), "at least one prompt"),
        (lambda: statistics.prompts_needed(0.2, 0.1, judge_sd=-1), "not negative"),
    ],
)
def test_power_refuses(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_the_comparisons_name_claims_and_cells_of_the_tables():
    assert set(reanalysis.needed()["claim"]) <= set(ledger.claims()["id"])
    cells = tables.injected().set_index(["model", "pattern"])
    mixtral = next(item for item in reanalysis.COMPARISONS if "Mixtral" in item[1])
    assert list(mixtral[3:]) == list(cells.loc[("Mixtral-8x7B", "confirmatory reasoning"), ["target", "control"]])
    change = tables.by_model("table2_finetuning_delta", "training_set", "delta_misalignment_points").loc["Qwen3-4B"]
    base = tables.by_model("table1_think_mode", "think", "misalignment_rate_pct").loc["Qwen3-4B", "off"]
    found = {(item[0], item[2]): item[3:] for item in reanalysis.COMPARISONS if "Qwen3-4B" in item[1]}
    assert found["C6a", "Table 2"] == pytest.approx((base + change["GSM8K"], base))
    assert found["C6b", "Table 2"] == pytest.approx((base + change["GSM8K"], base + change["MATH401"]))
    chains = (base + change["GSM8K(L)-target"], base + change["GSM8K(L)-control"])
    assert found["C6c", "Table 2"] == pytest.approx(chains)


def test_effects_name_the_models_and_their_mean():
    found = reanalysis.effects()
    assert list(found["claim"].unique()) == [claim for claim in ledger.claims()["id"] if claim in reanalysis.SIDES]
    means = found[found["model"] == reanalysis.OVER_MODELS].set_index("claim")
    table = reanalysis.reanalysis().set_index("claim")
    assert set(means.index) == set(table.index[table["verdict"].notna()])
    for claim, mean in means.iterrows():
        of_models = found[(found["claim"] == claim) & (found["model"] != reanalysis.OVER_MODELS)]
        assert mean["effect"] == pytest.approx(of_models["effect"].mean()) == pytest.approx(table.loc[claim, "effect"])
        assert mean["n"] == table.loc[claim, "n_models"] == len(of_models)
    assert (found["effect"] - found["value"] + found["control_value"]).abs().max() < 1e-9


def test_the_verdicts_are_those_of_the_rule():
    table = reanalysis.reanalysis()
    assert list(table["claim"]) == list(ledger.claims()["id"])
    known = ledger.claims().set_index("id")
    for item in table.dropna(subset=["verdict"]).itertuples():
        entry = known.loc[item.claim]
        numbers = (item.effect, item.ci_low, item.ci_high)
        rule = (entry["direction"], entry["smallest_effect"], item.p_value, entry["family_size"])
        assert item.verdict == ledger.verdict(*numbers, *rule)
        assert (item.ci_low > 0 or item.ci_high < 0) == (item.p_value < 0.05)  # the t test and its interval agree
    judged = table.set_index("claim")["verdict"]
    assert judged["C7a"] == "supported"
    assert pd.isna(judged["C5a"])  # refusals were not counted
    family = known.loc[table["claim"], "family_size"].to_numpy()
    assert table["p_adjusted"].equals((table["p_value"] * family).clip(upper=1).rename("p_adjusted"))


def test_figs_5_and_6_are_judged_by_one_standard():
    found = reanalysis.by_one_standard().set_index("claim")
    many = reanalysis.reanalysis().query("n_models > 1").set_index("claim")
    known = ledger.claims().set_index("id")
    assert set(found.index) == {*known.index[known["primary"]].intersection(many.index), "C5a"}
    for claim, row in found.iterrows():
        numbers = row[["effect", "ci_low", "ci_high"]]
        entry = known.loc[claim]
        assert claim == "C5a" or row["verdict"] == ledger.verdict(
            *numbers, *entry[["direction", "smallest_effect"]], row["p_value"], 20
        )
        assert row["p_adjusted"] == pytest.approx(min(1, 20 * row["p_value"]))
    assert found.loc["C5a", "p_value"] == pytest.approx(stats.fisher_exact([[12, 9], [15, 6]])[1])
    assert found.loc["C5a", ["n", "unit", "statement"]].to_list() == [
        21,
        "prompts",
        "Fig. 5, probe readout, not refusals",
    ]
    assert pd.isna(found.loc["C5a", "verdict"])
    assert found.loc["C8b", ["n", "unit", "verdict"]].to_list() == [8, "models", "undecided"]
    assert found.index[found["verdict"] == "supported"].to_list() == ["C7a"]


def test_c7a_with_the_values_of_table_2():
    found = reanalysis.with_table_2()
    change = tables.changes()["GSM8K"] - tables.literal_changes()["GSM8K-Literal"]
    assert found["effect"] == pytest.approx(change.mean() / 100)
    assert found["p_adjusted"] == pytest.approx(20 * stats.ttest_1samp(change, 0).pvalue)


def test_models_needed_agrees_with_a_simulation():
    effects = reanalysis.sides("C6c")["effect"]
    n = int(statistics.models_needed(effects, 0.0025))
    draws = np.random.default_rng(0).normal(effects.mean(), effects.std(ddof=1), (2, 3000, n))
    clear = [(stats.ttest_1samp(draws[0][:, :size], 0, axis=1).pvalue < 0.0025).mean() for size in (n, n - 1)]
    assert clear[0] == pytest.approx(0.81, abs=0.03) and clear[1] < 0.81
    assert statistics.models_needed([0.1, -0.1, 0.1, -0.1]) == np.inf


def test_exact_prompts_needed_have_the_power_that_was_asked_for():
    n = int(statistics.exact_prompts_needed(0.4, 0.8))
    assert statistics.exact_power(0.4, 0.8, n) == pytest.approx(0.8, abs=0.02)
    assert statistics.exact_prompts_needed(0.4, 0.4) == np.inf
    row = reanalysis.needed().set_index("claim").loc["C5a"]
    assert row["power"] == pytest.approx(statistics.exact_power(12 / 21, 15 / 21, 21))
    assert row["prompts"] == statistics.exact_prompts_needed(12 / 21, 15 / 21) == 187


def test_the_sentence_about_correction_is_computed():
    text = reanalysis.after_correction()
    assert "Of 14 primary claims" in text
    assert "6 have an interval over models that excludes zero (C1a, C2a, C6a, C6c, C7a, C8a)" in text
    assert text.endswith("fixed family of 20, as for every row of this workbook, supported: C7a.")


def test_the_mean_of_c8_is_the_papers():
    """Section 4.1: +13.26 and -2.19 points."""
    table = reanalysis.sides("C8a")
    assert 100 * table["value"].mean() == pytest.approx(13.26, abs=0.01)
    assert 100 * table["control_value"].mean() == pytest.approx(-2.19, abs=0.01)


def test_every_claim_has_a_finding_or_says_that_there_is_nothing():
    found = findings.findings()
    assert list(found.index) == list(ledger.claims()["id"])
    assert set(findings.FINDINGS) <= set(found.index)
    assert set(reanalysis.SIDES) <= set(findings.FINDINGS)
    assert (found[[claim for claim in found.index if claim not in findings.FINDINGS]] == findings.NOTHING).all()
    assert found.str.endswith(".").all()
    assert not found.str.contains("nan|None").any()
