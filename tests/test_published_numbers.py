"""The paper's numbers: all there, each read twice, sums recomputed; chance against independent counts."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, spearmanr

from fairrecon_lab.paper import chance
from fairrecon_lab.paper import numbers as published
from fairrecon_lab.paper.evaluation import published_classification

REFERENCE = Path(__file__).resolve().parents[1] / "../shared/reference"
TEXT = REFERENCE / "000_635859b3b7416abd.txt"
FOLLOW_UP = REFERENCE / "followup_midl2026.txt"
SEED = {"1": 9, "2": 35, "3": 54, "4": 174, "5a": 120, "5b": 120, "5c": 96, "6": 12, "7": 18}
LATER = {"F1": 8, "F2": 6, "F3": 9, "F4": 8, "F5": 35, "F6": 9, "F7": 174, "F8": 54}  # the follow-up's Tables 1 to 8
BESIDE = {"FT": 14, "FA": 18, "FS": 57}  # its sentences, the axes of Figs 11 and 12, the authors' slides
CELLS = SEED | LATER | BESIDE
FINDINGS = 12


@pytest.fixture(scope="module")
def printed():
    return published.numbers()


# ---------------------------------------------------------------------- complete, and read twice
def test_every_table_has_all_its_cells(printed):
    assert printed["table"].value_counts().to_dict() == CELLS
    assert not printed.duplicated(list(published.KEY)).any()
    assert len(published.numbers("5")) == 120 + 120 + 96
    assert sum(SEED.values()) == 638 and sum(LATER.values()) == 303
    with pytest.raises(ValueError, match="no table '8'"):
        published.numbers("8")


def test_names_are_the_houses(printed):
    assert set(printed["arm"]) == {"", "clean", "unet", "pix2pix", "sde"}
    assert set(printed["origin"]) == {"text", "copied", "followup", "slides", "axis"}
    assert set(printed["cohort"]) == {*published.COHORTS, published.POOLED}
    one_cohort = printed["cohort"] != published.POOLED  # what is taken over both has no level
    assert set(printed.loc[(printed["arm"] == "clean") & one_cohort, "level"]) == {1.0, np.inf}
    tasks = set(printed["task"]) - {"", "all", "quality", "segmentation", "average", "tumour_type", "tumour_grade"}
    assert tasks == set(chance.LABEL_COUNTS) and len(tasks) == FINDINGS


def section(text, start, end):
    """Text from one caption to the next."""
    first = text.index(start)
    return text[first : text.index(end, first)] if end else text[first:]


SECTIONS = {  # where a table's numbers are, and what its numbers look like
    "1": ("Table 1:", "Table 2:", r"\b\d{2,3}\b"),
    "2": ("Table 2:", "6.2 Performance", r"\b\d{2,5}\b"),
    "3": ("Table 3:", "Table 4:", r"\b\d+\.\d+\b"),
    "4": ("Table 4:", "Fig. 15", r"\b\d+\.\d+\b"),
    "5a": ("(a) Sex", "(b) Age", r"\b\d\.\d{3}\b"),
    "5b": ("(b) Age", "(c) Race", r"\b\d\.\d{3}\b"),
    "5c": ("(c) Race", "Table 6:", r"\b\d\.\d{3}\b"),
    "6": ("Table 6:", "Table 7:", r"(?<=\t)\d+(?:\.\d+)?"),
    "7": ("Table 7:", "", r"(?<=\t)\d+(?:\.\d+)?"),
}


@pytest.mark.skipif(not TEXT.exists(), reason="the paper's text is not beside this clone")
@pytest.mark.parametrize("table", SECTIONS)
def test_second_reading_finds_the_same_numbers_in_the_same_order(table, printed):
    """The text as one stream of numbers, no columns: nothing is missing, nothing is changed, nothing moved."""
    start, end, number = SECTIONS[table]
    body = section(TEXT.read_text(encoding="utf-8"), start, end).partition("\t")
    found = re.findall(number, body[1] + body[2])
    if table == "4":
        found = [token for token in found if token not in ("100", "10")]
    here = printed[(printed["table"] == table) & printed["origin"].isin(["text", "copied"])]
    assert found == list(here["printed"])


@pytest.mark.skipif(not TEXT.exists(), reason="the paper's text is not beside this clone")
@pytest.mark.parametrize("table", ["2", "5a", "5b", "5c", "6", "7"])
def test_second_reading_finds_the_same_row_names_in_the_same_order(table, printed):
    start, end, number = SECTIONS[table]
    lines = section(TEXT.read_text(encoding="utf-8"), start, end).splitlines()
    names = [re.match(r"[A-Za-z, ]+", line)[0] for line in lines if re.search(number, line) and line[0].isalpha()]
    names = [name for name in names if name != "Table "]
    assert names == [row for row in printed.loc[printed["table"] == table, "row"].unique() if row != "All"]


LATER_SECTIONS = {  # lines of the follow-up's text that hold a table: first, last, and what its numbers look like
    "F1": ("Sex Age Race\nClassification", "Table 1:", r"\d\.\d\d"),
    "F2": ("U-Net GAN SDE\nMedian", "Table 2:", r"-?\d+\.\d+"),
    "F3": ("Sex Age Race\nStandard", "Table 3:", r"-?\d+\.\d+"),
    "F4": ("Reweighted EODD\nChex UCSF", "Table 4:", r"-?\d+\.\d+"),
    "F5": ("AI/AN Asian Black", "Table 5:", r"(?<=[ \n])\d+(?!,)(?=[ \n])"),
    "F6": ("Male Female\n", "Table 6:", r"(?<=[ \n])\d+(?=[ \n])"),
    "F7": ("Photon Count Metrics", "Table 7:", r"\d+\.\d+"),
    "F8": ("Acceleration Metrics", "Table 8:", r"\d+\.\d+"),
}
CUTS = {"F5": "62", "F6": "58"}  # the age in the names of rows


@pytest.mark.skipif(not FOLLOW_UP.exists(), reason="the follow-up's text is not beside this clone")
@pytest.mark.parametrize("table", LATER_SECTIONS)
def test_second_reading_of_the_follow_up_finds_the_same_numbers_in_the_same_order(table, printed):
    """The text as one stream of numbers: nothing is missing, changed or moved."""
    start, end, number = LATER_SECTIONS[table]
    found = re.findall(number, section(FOLLOW_UP.read_text(encoding="utf-8"), start, end))
    found = [token for token in found if token != CUTS.get(table)]
    here = printed[printed["table"] == table]
    assert found == list(here["printed"])


def test_the_follow_up_prints_the_seeds_tables_again_but_for_two_cells(printed):
    wide = {table: published.paper_table(table) for table in ("4", "F7", "3", "F8", "1", "F6", "2", "F5")}
    other = wide["F7"].to_numpy() != wide["4"].to_numpy()
    assert [wide["F7"].index[i] for i in np.unique(np.argwhere(other)[:, 0])] == ["3000, Pneumothorax AUROC"]
    assert other.sum() == 2 and (wide["F8"].to_numpy() == wide["3"].to_numpy()).all()
    people = printed[printed["metric"] == "patients"].groupby("table")["value"].apply(lambda values: sorted(values))
    assert people["1"] == people["F6"] and people["2"] == people["F5"]


def test_table_1_of_the_follow_up_is_the_seeds_table_5_but_for_race():
    clean = published.changes().query("metric == 'eodd' and arm == 'unet'")
    findings = clean[clean["task"].isin(chance.LABEL_COUNTS)].groupby("attribute")["baseline"].agg(["mean", "std"])
    everything = clean.groupby("attribute")["baseline"].agg(["mean", "std"])
    said = published.paper_table("F1", "value").loc["Classification"]
    assert everything.loc["sex"].to_list() == pytest.approx([said["Sex mean"], said["Sex s.d."]], abs=0.005)
    assert findings.loc["age_group"].to_list() == pytest.approx([said["Age mean"], said["Age s.d."]], abs=0.005)
    assert findings.loc["race", "mean"] > 3 * said["Race mean"]


def test_the_slides_give_the_averages_of_table_4_of_the_follow_up():
    table, said = published.paper_table("FS", "value"), published.paper_table("F4", "value").loc["PSNR"]
    for cohort, short in (("CheXpert", "Chex"), ("UCSF", "UCSF")):
        for name in ("Reweighted", "EODD"):
            ratio = table.loc[f"{cohort}, PSNR, {name}"] / table.loc[f"{cohort}, PSNR, Standard"] - 1
            assert 100 * ratio.mean() == pytest.approx(said[f"{name} {short}"], abs=0.25)


def test_numbers_with_more_decimals_round_to_the_print(printed):
    finer = printed[printed["slides"] != ""]
    assert len(finer) == 3 * 2 + 8 + 5 + 3 * 13 + 3
    decimals = finer["printed"].str.partition(".")[2].str.len()
    off = (finer["slides"].astype(float) - finer["value"]).abs() - 0.5 * 10.0**-decimals
    assert (off < 1e-9).all()


def test_the_paper_reads_as_its_own_tables():
    table = published.paper_table("5a")
    assert table.loc["EC", "SDE EOP"] == "0.070" and table.loc["Segmentation", "Baseline SER"] == "1.133"
    assert table.loc["EC", "SDE SER"] == ""  # no such cell
    assert published.paper_table("6", "value").loc["Sex", "SDE %"] == 2.21


# ---------------------------------------------------------------------- what can be recomputed
def test_table_1_adds_up_but_for_one_doubtful_total(printed):
    table = published.paper_table("1", "value")
    off = table.assign(All=table["Male"] + table["Female"] - table["All"])["All"]
    assert off.to_dict() == {"Young": 100, "Old": 0, "All": 0}
    assert (table[["Male", "Female"]].loc[["Young", "Old"]].sum() == table.loc["All", ["Male", "Female"]]).all()
    doubtful = printed[(printed["table"] == "1") & (printed["note"] != "")]
    assert doubtful[["row", "column", "printed"]].values.tolist() == [["Young", "All", "147"]]


def test_table_2_adds_up():
    table = published.paper_table("2", "value")
    assert (table.drop(columns="All").sum(axis=1) == table["All"]).all()
    assert (table.drop(index="All").sum() == table.loc["All"]).all()
    assert table.loc["All", "All"] == 56_810


def test_averages_of_table_4_follow_from_its_rows(printed):
    auroc = printed[(printed["table"] == "4") & (printed["metric"] == "auroc")].copy()
    auroc["block"] = auroc["row"].str.partition(",")[0]
    rows = auroc[auroc["task"] != "average"].groupby(["block", "arm"])["value"].agg(["mean", "size"])
    stated = auroc[auroc["task"] == "average"].set_index(["block", "arm"])["value"]
    assert (rows["size"] == FINDINGS).all() and len(rows) == 3 * 4
    assert ((rows["mean"] - stated).abs() <= 0.01).all()  # both are rounded to two decimals


@pytest.mark.parametrize("table", ["3", "4", "F7", "F8"])
def test_the_baseline_is_the_same_at_every_level(table, printed):
    clean = printed[(printed["table"] == table) & (printed["arm"] == "clean")]
    assert (clean.groupby(["task", "metric"])["value"].nunique() == 1).all()
    assert (clean.groupby(["task", "metric"]).size() == 3).all()


def test_the_column_that_the_text_lost_is_that_of_the_follow_up(printed):
    sde = printed[(printed["table"] == "3") & (printed["arm"] == "sde")].set_index("row")
    assert (sde["origin"] == "followup").all() and len(sde) == 15
    assert sde["note"].str.startswith("column lost from the text; printed in Table 8").all()
    again = printed[(printed["table"] == "F8") & (printed["arm"] == "sde")].set_index("row")
    assert sde["printed"].equals(again["printed"])
    assert sde.loc["4, PSNR", "printed"] == "40.23" and sde.loc["4, LPIPS", "printed"] == "0.00"
    assert printed["value"].notna().all(), "no number is lost any more"


def test_displaced_labels_of_table_4_are_marked(printed):
    four = printed[printed["table"] == "4"]
    assert (four["note"].str.contains("displaced") == ~four["row"].str.startswith("100000") | four["row"].str.contains(
        "^100000, (?:Pneum|Average|PSNR|LPIPS)")).all()  # fmt: skip
    # noise lowers PSNR: the order of the blocks is the right one
    psnr = four[four["metric"] == "psnr_db"].pivot(index="level", columns="arm", values="value")
    assert (psnr.sort_index().diff().iloc[1:] > 0).all(axis=None)


def test_precision_is_half_a_digit(printed):
    precision = printed.set_index(list(published.KEY))["precision"]
    assert precision["3", "8, PSNR", "U-Net"] == pytest.approx(0.005)
    assert precision["5a", "EC", "SDE EOP"] == pytest.approx(0.0005)
    assert precision["3", "16, PSNR", "SDE"] == 0.005 and precision["FT", "cells called significant", "Sex"] == 0
    assert precision["7", "Sex", "U-Net p-value"] == 0.001 and precision["1", "Old", "All"] == 0


def test_doubtful_prints_of_tables_6_and_7_are_marked(printed):
    gaps = printed[printed["metric"] == "psnr_gap_percent"]
    assert sorted(gaps.loc[gaps["note"].str.contains("above the 2 %"), "printed"]) == ["2.21", "2.63", "2.78"]
    zero = printed[(printed["printed"] == "0") & (printed["metric"] == "p_value")]
    assert len(zero) == 9 and zero["note"].str.contains("below 0.001").all() and set(zero["table"]) == {"7"}


# ---------------------------------------------------------------------- table 5
def pairs(printed):
    part = printed[printed["table"].str.startswith("5") & printed["metric"].isin(["eodd", "eop"])]
    return part.pivot(index=["attribute", "task", "arm"], columns="metric", values="value")


def test_table_5_follows_the_mean_convention_not_the_maximum(printed):
    both = pairs(printed)
    assert len(both) == 160
    below = both["eodd"] < both["eop"]  # impossible for the larger of two gaps
    assert below.sum() == 68
    assert below.groupby("attribute").sum().to_dict() == {"sex": 35, "age_group": 1, "race": 32}
    fpr_gap = 2 * both["eodd"] - both["eop"]  # what the mean implies: a gap between 0 and 1 in every cell
    assert fpr_gap.between(0.0, 1.0).all()
    medians = fpr_gap.groupby("attribute").median().to_dict()
    assert medians == pytest.approx({"sex": 0.018, "age_group": 0.235, "race": 0.198}, abs=0.001)


def test_only_the_copied_baselines_equal_the_unet_column(printed):
    five = printed[printed["table"].str.startswith("5")]
    wide = five.pivot(index=["attribute", "task"], columns=["arm", "metric"], values="value")
    same = (wide["clean"]["eodd"] == wide["unet"]["eodd"]) & (wide["clean"]["eop"] == wide["unet"]["eop"])
    copied = five[five["origin"] == "copied"].groupby(["attribute", "task"]).size()
    assert (copied == 2).all() and set(copied.index) == set(same.index[same]) and len(copied) == 4


def test_colours_agree_with_the_direction_of_the_change():
    change = published.changes()
    assert len(change) == 3 * (120 + 120 + 96) // 4
    named = change[change["colour"] != ""]
    counts = named.groupby(["attribute", "colour"]).size().to_dict()
    assert {name: n for name, n in counts.items() if name[0] == "sex"} == {("sex", "worse"): 14, ("sex", "better"): 2}
    assert (counts["age_group", "better"], counts["age_group", "worse"]) == (16, 7)
    assert counts["race", "worse at .1"] == 1 and sum(counts.values()) == 16 + 23 + 1
    sign = named["colour"].str.startswith("worse").map({True: 1, False: -1})
    against = named[np.sign(named["change"]) != sign]
    assert against[["attribute", "task", "arm", "metric"]].values.tolist() == [
        ["age_group", "tumour_type", "unet", "eop"]  # worse than a baseline that is its own copy
    ]
    assert against["copied"].all()


def test_folding_shows_in_the_signs():
    eodd_change = published.changes().query("metric == 'eodd' and not copied and task in @chance.LABEL_COUNTS")
    up = (eodd_change["change"] > 0).groupby(eodd_change["attribute"]).mean()
    base = eodd_change.groupby("attribute")["baseline"].mean()
    assert base["sex"] < 0.03 < 0.15 < base["age_group"]
    assert up["sex"] > 0.75 and up["age_group"] < 0.35


# ---------------------------------------------------------------------- compare
def test_compare_says_what_may_be_compared():
    ours = pd.DataFrame([
        ("4", "10000, PSNR", "U-Net", 30.4, 30.3, 30.52, "CheXpert", ""),
        ("4", "10000, PSNR", "SDE", 20.0, 19.0, 21.0, "CheXpert", ""),
        ("3", "8, Dice", "U-Net", 0.7, 0.6, 0.8, "simulated", ""),
        ("3", "8, PSNR", "U-Net", 35.0, 34.0, 36.0, "UCSF-PDGM", "brain only"),
        ("5b", "Tumor Type", "Baseline EOP", 0.1, 0.0, 0.2, "UCSF-PDGM", ""),
        ("FA", "Fig. 11, EODD, sex panel", "lowest tick", 0.1, 0.0, 0.2, "CheXpert", ""),
    ], columns=["table", "row", "column", "value", "low", "high", "source", "definition"])  # fmt: skip
    table = published.compare(ours).set_index(list(published.KEY))
    assert len(table) == sum(CELLS.values())
    first = table.loc[("4", "10000, PSNR", "U-Net")]
    assert first["comparable"] and first["agrees"] is True and first["why_not"] == ""
    assert table.loc[("4", "10000, PSNR", "SDE"), "agrees"] is False
    why = table["why_not"].to_dict()
    assert why["3", "8, Dice", "U-Net"] == "other cohort: simulated"
    assert why["3", "8, PSNR", "U-Net"] == "other definition: brain only"
    assert why["5b", "Tumor Type", "Baseline EOP"] == "copied value"
    assert why["FA", "Fig. 11, EODD, sex panel", "lowest tick"] == "no value printed"
    assert why["1", "Old", "All"] == "not computed"
    assert table["comparable"].sum() == 2 and table.loc[table["why_not"] != "", "agrees"].isna().all()


def test_the_precision_of_the_print_counts():
    row = {"table": "3", "row": "8, Dice", "column": "U-Net", "value": 0.7, "low": 0.7049, "high": 0.8}
    ours = pd.DataFrame([row | {"source": "UCSF-PDGM"}])
    one = lambda frame: published.compare(frame).query("ours == ours")["agrees"].item()
    assert one(ours) is True  # 0.70 may have been 0.7049
    assert one(ours.assign(low=0.7051)) is False
    assert one(ours.drop(columns=["low", "high"])) is None


def test_compare_refuses_what_has_no_counterpart():
    row = {"table": "5a", "row": "EC", "column": "U-Net EODD", "value": 0.1}
    with pytest.raises(ValueError, match="lack \\['column'\\]"):
        published.compare(pd.DataFrame([row]).drop(columns="column"))
    with pytest.raises(ValueError, match="no cell in the paper.*NLM"):
        published.compare(pd.DataFrame([row | {"column": "NLM EODD"}]))
    with pytest.raises(ValueError, match="twice"):
        published.compare(pd.DataFrame([row, row]))


def test_the_figures_of_the_follow_up_are_named():
    assert sorted(map(int, published.FOLLOW_UP_FIGURES)) == [2, 3, 4, 5, 10, 14, 15, 16, 17, 18, 19, 20]
    for shows, notebook, picture in published.FOLLOW_UP_FIGURES.values():
        assert shows and picture.startswith(notebook + "_")


def test_all_sixteen_result_figures_are_named():
    assert sorted(map(int, published.FIGURES)) == [2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 15, 16, 17, 19, 20, 21]
    for shows, notebook, picture in published.FIGURES.values():
        assert shows and picture.startswith(notebook + "_")


# ---------------------------------------------------------------------- chance
def test_shares_come_from_table_2():
    assert chance.subgroup_shares("race")["AI/AN"] == pytest.approx(176 / 56_810)
    assert chance.subgroup_shares("sex")["female"] == pytest.approx((11_804 + 13_732) / 56_810)
    assert chance.subgroup_shares("age_group")["old"] == pytest.approx((11_804 + 15_590) / 56_810)


def test_one_subgroup_has_no_gap_and_smaller_groups_have_larger_ones():
    null = lambda n, shares: chance.null_gaps(n, n, shares, 0.8, 0.2, n_draws=100, n_inner=20).mean(axis=0)
    assert (null(500, [1.0]) == 0).all()
    assert (null(500, [0.5, 0.5]) < null(500, [0.9, 0.1])).all()
    assert (null(5000, [0.9, 0.1]) < null(500, [0.9, 0.1])).all()


def test_two_equal_groups_differ_by_eight_tenths_of_a_standard_error():
    n, tpr, fpr = 20_000, 0.75, 0.25
    gaps = chance.null_gaps(n, n, [0.4, 0.6], tpr, fpr, estimator="plug_in", n_draws=20_000)
    se = np.sqrt(tpr * (1 - tpr) / n * (1 / 0.4 + 1 / 0.6))
    assert gaps[:, 1].mean() == pytest.approx(np.sqrt(2 / np.pi) * se, rel=0.02)
    assert gaps[:, 0].mean() == pytest.approx(np.sqrt(2 / np.pi) * se, rel=0.02)  # the mean of two such gaps


def test_a_bootstrap_mean_adds_the_noise_once_more():
    plain, mean = (chance.null_gaps(3000, 3000, [0.5, 0.5], 0.8, 0.2, estimator=name).mean(axis=0)
                   for name in ("plug_in", "bootstrap_mean"))  # fmt: skip
    assert mean / plain == pytest.approx(np.sqrt([2, 2]), rel=0.08)
    with pytest.raises(ValueError, match="unknown estimator 'median'"):
        chance.null_gaps(10, 10, [1.0], 0.8, 0.2, estimator="median")


def test_a_design_effect_widens_the_gap_by_its_root():
    gap = lambda effect: chance.null_gaps(9000, 9000, [0.5, 0.5], 0.8, 0.2, design_effect=effect).mean()
    assert gap(4.0) / gap(1.0) == pytest.approx(2, rel=0.1)


def test_null_gaps_are_those_of_the_published_evaluation():
    """The same world, drawn as rows and read by the published evaluation itself."""
    rng, shares, values = np.random.default_rng(3), [0.85, 0.12, 0.03], []
    for seed in range(40):
        truth = (rng.random(700) < 0.1).astype(float)
        group = rng.choice(3, 700, p=shares)
        decision = (rng.random(700) < np.where(truth == 1, 0.8, 0.2)).astype(float)
        arms, cuts = {"clean": decision, "x": decision}, {"clean": 0.5, "x": 0.5}
        table = published_classification(truth, arms, group, thresholds=cuts, n_boot=60, seed=seed)
        values.append(table[table["arm"] == "clean"]["value"].to_list())
    ours = chance.null_gaps(70, 630, shares, 0.8, 0.2, n_draws=400, n_inner=60)
    error = np.std(values, axis=0) / np.sqrt(len(values))
    assert (np.abs(np.mean(values, axis=0) - ours.mean(axis=0)) < 4 * error + 0.005).all()


def test_equal_error_rates_follow_from_the_auroc():
    rate = chance.rate_at_equal_errors(0.85)
    distance = np.sqrt(2) * norm.ppf(0.85)
    assert norm.sf(distance / 2 - distance) == pytest.approx(rate) and norm.sf(distance / 2) == pytest.approx(1 - rate)
    assert chance.rate_at_equal_errors(0.5) == pytest.approx(0.5)


def test_the_race_column_is_what_noise_would_print(printed):
    clean = printed[(printed["table"] == "4") & (printed["slides"] != "") & (printed["arm"] == "clean")]
    auroc = clean.drop_duplicates("task").set_index("task")["slides"].astype(float)
    shares, expected = chance.subgroup_shares("race"), {}
    for task in chance.LABEL_COUNTS:
        rate = chance.rate_at_equal_errors(auroc[task])
        gaps = chance.null_gaps(*chance.expected_counts(task), shares, rate, 1 - rate, n_draws=200, n_inner=50)
        expected[task] = gaps[:, 1].mean()
    eop = printed[(printed["table"] == "5c") & (printed["arm"] == "clean") & (printed["metric"] == "eop")]
    eop = eop.set_index("task")["value"]
    expected = pd.Series(expected)[eop.index]
    assert expected.mean() == pytest.approx(0.244, abs=0.01) and eop.mean() == pytest.approx(0.286, abs=0.001)
    assert spearmanr(expected, eop).statistic == pytest.approx(0.87, abs=0.03)


def test_dice_gaps_of_equal_groups_have_their_closed_form():
    sizes, sd = (60, 41), 0.22
    plain = chance.null_dice_gaps(sizes, 0.72, sd, estimator="plug_in", n_draws=40_000)
    se = sd * np.sqrt(1 / 60 + 1 / 41)
    assert plain[:, 1].mean() == pytest.approx(np.sqrt(2 / np.pi) * se, rel=0.02)
    assert (plain[:, 0] >= 1).all()
    mean = chance.null_dice_gaps(sizes, 0.72, sd, n_draws=4000)
    assert mean[:, 1].mean() == pytest.approx(np.sqrt(2) * np.sqrt(2 / np.pi) * se, rel=0.03)
    assert 0.046 < mean[:, 1].mean() < 0.058 and 1.18 < mean[:, 0].mean() < 1.25
