"""The audit's page: its numbers are the table's, it needs nothing else, and every figure has a text."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_curve

from fairrecon_core.measures import decimals_of
from fairrecon_lab.auditing import page_figures
from fairrecon_lab.auditing.command import main
from fairrecon_lab.auditing.page import AuditReport

N = 600


def tables(arms=("clean",), tasks=("edema", "effusion"), seed=3):
    """Two images a patient; women with edema are missed more often, the more so by the second arm."""
    rng = np.random.default_rng(seed)
    who = np.arange(N) // 2
    female = rng.random(N // 2)[who] < 0.5
    cohort = pd.DataFrame({"image_id": [f"i{k}" for k in range(N)], "patient_id": [f"p{k}" for k in who],
                           "sex": np.where(female, "female", "male"), "age": rng.integers(20, 90, N // 2)[who],
                           "split": "test"})  # fmt: skip
    rows = []
    for t, task in enumerate(tasks):
        truth = (rng.random(N // 2) < 0.4)[who]
        cohort[f"y_{task}"] = truth.astype(int)
        for a, arm in enumerate(arms):
            logit = -1 + 2.5 * truth - (1.2 + 1.5 * a) * (female & truth & (t == 0)) + rng.normal(size=N)
            rows.append(cohort[["image_id"]].assign(arm=arm, task=task, score=(1 / (1 + np.exp(-logit))).round(4)))
    results = pd.concat(rows, ignore_index=True)
    return (results if len(arms) > 1 else results.drop(columns="arm")), cohort


class Page(HTMLParser):
    """Tags with their attributes, and the texts of table cells by section and table."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.section, self.cell = [], [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "section" and "id" in attrs:
            self.section = attrs["id"]
        if tag == "table":
            self.tables.append((self.section, []))
        if tag == "tr":
            self.tables[-1][1].append([])
        if tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][1][-1].append(self.cell)
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


@pytest.fixture(scope="module")
def two_arms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    results, cohort = tables(("clean", "unet"))
    results.to_csv(folder / "scores.csv", index=False)
    cohort.to_csv(folder / "people.csv", index=False)
    line = [str(folder / "scores.csv"), str(folder / "people.csv"), "--attribute", "sex", "age", "--n-boot", "200"]
    assert main([*line, "--report", str(folder / "page.html"), "--out", str(folder / "out.csv")]) == 0
    text = (folder / "page.html").read_text(encoding="utf-8")
    read = lambda name: pd.read_csv(folder / name, keep_default_na=False, na_values={"value": "", "ci_low": ""})
    return text, Page(text), read("out_rates.csv"), read("out.csv")


def test_every_number_of_the_whole_table_is_the_tables(two_arms):
    _, page, rates, changes = two_arms
    shown = [rows for section, rows in page.tables if section == "table"]
    assert [rows[0][5] for rows in shown] == ["label", "label", "value"]  # the last: subgroups that nobody named
    for rows, table in zip(shown[:2], (rates, changes), strict=True):
        head = [name.replace(" ", "_") for name in rows[0]]
        key = ["arm", "task", "attribute", "metric", "label", "subgroup", "reference", "estimator"]
        told = {tuple(row[head.index(name)] for name in key): row for row in rows[1:]}
        assert len(told) == len(table)
        for row in table.to_dict("records"):
            digits = decimals_of(row["unit"])
            cell = told[tuple(str(row[name]) for name in key)]
            for name in ("value", "ci_low", *(["delta"] if "delta" in table else [])):
                text = cell[head.index(name)].replace("−", "-").replace(",", "")
                if row[name] == "" or pd.isna(row[name]):
                    assert text == "–"
                else:
                    assert text == f"{float(row[name]):z.{digits}f}"
            assert cell[head.index("verdict")] == row["verdict"]


def test_rates_at_the_top_are_the_tables(two_arms):
    text, page, rates, _ = two_arms
    captions = re.findall(r"<caption>([^<]+)</caption>", text[text.index('id="rates"') : text.index('id="gaps"')])
    shown = [rows for section, rows in page.tables if section == "rates"]
    assert len(captions) == len(shown) == 2 * 2 * 2  # tasks, arms, attributes
    metric = {"true positive rate": "tpr", "false positive rate": "fpr", "positive predictive value": "ppv"}
    for caption, rows in zip(captions, shown):
        task, arm, attribute = re.split(", |: by ", caption)
        for row in rows[1:]:
            for name, cell in zip(rows[0][1:], row[1:]):
                own = rates[(rates[["task", "arm", "attribute"]] == [task, arm, attribute]).all(axis=1)]
                own = own[
                    (own["reference"] == "")
                    & (own["subgroup"] == row[0])
                    & (own["metric"] == metric.get(name, name.lower()))
                ].iloc[0]
                numbers = f"{own['value']:.3f}{float(own['ci_low']):.3f} to {float(own['ci_high']):.3f}"
                assert cell.strip() == f"{numbers}n = {own['n_patients']}"


def test_a_strip_lies_where_its_number_lies():
    svg = page_figures.strip(-0.1, -0.2, 0.05, (-0.1, 0.1), 0.05, 0.2, "undetermined", "a < b")
    assert 'aria-label="a &lt; b"' in svg
    places = [float(x) for x in re.findall(r'<line x1="([\d.]+)%" x2="(?:[\d.]+)%" y1="7"', svg)]
    assert places == [4.0, 61.5]  # 50 + 46 * -1, 50 + 46 / 4
    assert '<svg x="27.0%"' in svg
    assert {f'd="{path}"' for path, _ in page_figures.MARKS.values() if f'd="{path}"' in svg} == {
        f'd="{page_figures.MARKS["undetermined"][0]}"'
    }
    assert len({path + str(full) for path, full in page_figures.MARKS.values()}) == 5  # told apart without colour


def test_the_page_asks_for_nothing_and_runs_nothing(two_arms):
    text, page, _, _ = two_arms
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "img", "object", "embed")]
    links = [attrs[name] for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert links and all(link.startswith("#") or link == "data:," for link in links)
    assert not re.search(r"https?://|@import|url\(", text)
    there = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {link[1:] for link in links if link.startswith("#")} <= there
    assert len(text.encode()) < 5_000_000


def test_every_figure_has_a_text(two_arms):
    _, page, _, _ = two_arms
    figures = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("role") == "img"]
    silent = [attrs for tag, attrs in page.tags if tag == "svg" and "aria-label" not in attrs
              and attrs.get("aria-hidden") != "true" and "overflow" not in attrs]  # fmt: skip
    assert len(figures) > 40 and all(len(attrs["aria-label"]) > 20 for attrs in figures) and not silent
    assert any("the gap of female to male went from" in attrs["aria-label"] for attrs in figures)
    assert len([attrs for attrs in figures if attrs["aria-label"].startswith(("ROC", "Calibration"))]) == 2 * 8


def test_the_answer_counts_what_the_table_counts(two_arms):
    text, _, rates, changes = two_arms
    claims = rates[(rates["role"] == "primary") & (rates["subgroup"] != "")]
    real = claims["verdict"].isin(["different", "different_within_margin"]).sum()
    assert real >= 1  # the page has something to say
    assert (
        f"Of {len(claims)} gaps between subgroups" in text and f", {real} {'are' if real > 1 else 'is'} beyond" in text
    )
    moved = changes[changes["role"] == "primary"]
    assert f"Of {len(moved)} changes of these gaps" in text


@pytest.mark.parametrize("seed", range(4))
def test_the_roc_passes_through_the_points_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random(400) < 0.3
    score = np.round(rng.random(400) * 0.5 + 0.3 * truth, 2)  # with ties
    x, y = page_figures.roc(score, truth.astype(float))
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    assert {(round(a, 9), round(b, 9)) for a, b in zip(x, y)} <= {
        (round(a, 9), round(b, 9)) for a, b in zip(false, true)
    }
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert len(page_figures.roc(score, np.ones(400))[0]) == 0


def test_calibration_bins_by_hand():
    score, truth = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.8]), np.array([0, 0, 1, 1, 1, 0])
    mean, share = page_figures.calibration(score, truth, np.arange(6), min_support=3)
    assert mean == pytest.approx([0.2, 0.7]) and share == pytest.approx([1 / 3, 2 / 3])
    assert len(page_figures.calibration(score, truth, np.zeros(6, int), min_support=3)[0]) == 0  # one patient


def test_from_dataframes_the_figures_are_those_of_the_files(tmp_path):
    results, cohort = tables()
    report = AuditReport.of(results, cohort, "sex", n_boot=200)
    results.to_csv(tmp_path / "scores.csv", index=False)
    cohort.to_csv(tmp_path / "people.csv", index=False)
    line = [str(tmp_path / "scores.csv"), str(tmp_path / "people.csv"), "--attribute", "sex", "--n-boot", "200"]
    assert main([*line, "--out", str(tmp_path / "out.csv")]) == 0
    from_files = pd.read_csv(tmp_path / "out.csv")
    np.testing.assert_allclose(report.rates["value"], from_files["value"])
    np.testing.assert_allclose(report.rates["ci_low"], from_files["ci_low"])
    path = report.save(tmp_path / "page.html")
    assert "<h1>Audit of predictions by sex</h1>" in path.read_text(encoding="utf-8")
    assert report._repr_html_().startswith("<iframe") and "&lt;h1&gt;" in report._repr_html_()
    with pytest.raises(ValueError, match="'margins'"):
        AuditReport.of(results, cohort, "sex", margins=0.1)


def test_names_from_a_file_are_text_on_the_page(tmp_path):
    results, cohort = tables(tasks=("<b>x</b>",))
    cohort["sex"] = cohort["sex"].replace("female", "<script>f")
    text = AuditReport.of(results, cohort, "sex", n_boot=100).save(tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<script" not in text and "<b>x" not in text and "&lt;script&gt;f" in text
