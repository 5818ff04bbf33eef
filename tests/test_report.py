"""The run report: it says what the tables say, stands alone, and never costs a run its record."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from fairrecon_core import tables
from fairrecon_core.audit import audit_change
from fairrecon_core.cohort.folder import write_cohort
from fairrecon_core.settings import load_settings
from fairrecon_lab import runner as series
from fairrecon_lab.auditing.summary import claims
from fairrecon_lab.report import LIMIT_MB, STYLE, cell_texts, figure_texts, sections, write_report
from fairrecon_lab.report.contents import Contents

TASKS = {"brain": ["tumour_grade"], "chest": ["edema", "fracture"]}
LEVEL = {"brain": 8.0, "chest": 10_000.0}
IDENTITY = {"brain": 1.0, "chest": np.inf}
HARM = {"clean": 0.0, "degraded": 1.2, "unet": 0.5, "planted": 0.1}  # noise that an arm adds to a score
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415478da63f8ffff3f0005fe02fe"
    "dccc59e70000000049454e44ae426082"
)


def make_cohort(folder, name, n_patients, n_slices=1, size=8, **extra):
    """A small cohort on disk; `extra` goes into its record, as the simulator does it."""
    rng = np.random.default_rng(len(name))

    def items():
        for p in range(n_patients):
            labels = {f"y_{task}": float(rng.random() < 0.5) for task in TASKS[name]}
            row = {"patient_id": f"{name}{p:04}", "modality": "mri" if name == "brain" else "xray",
                   "sex": ["female", "male"][p % 2], "age_years": 20.0 + p % 70,
                   "race": ["white", "asian", "black"][p % 3]} | labels  # fmt: skip
            for s in range(n_slices):
                image = rng.random((size, size))
                entry = row | {"image_id": f"{name}{p:04}-{s}"}
                yield (image, entry, image > 0.5) if name == "brain" else (image, entry)

    return write_cohort(folder / "cohorts" / name, items(), name=name, seed=1, split=(0.0, 0.2, 0.8), extra=extra)


def make_tables(folder, cohort, arms=("clean", "degraded", "unet", "planted")):
    """All five result tables of a cohort, with an audit that finds what `planted` did to the women."""
    name, people = cohort.name, cohort.table
    rng = np.random.default_rng(7)
    key = {"cohort": name, "fold": 0, "train_seed": 0, "sample": 0}
    frames = {table: [] for table in ("predictions", "quality", "overlap", "thresholds")}
    for task in TASKS[name]:
        latent = 2.0 * people[f"y_{task}"] - 1 + rng.normal(size=len(people))
        for arm in arms:
            score = 1 / (1 + np.exp(-(latent + HARM[arm] * rng.normal(size=len(people)))))
            hit = (arm == "planted") & (people["sex"] == "female") & (people[f"y_{task}"] == 1)
            level = IDENTITY[name] if arm == "clean" else LEVEL[name]
            rows = {"image_id": people["image_id"], "arm": arm, "level": level, "task": task}
            frames["predictions"].append(pd.DataFrame(rows | {"score": np.where(hit, 0.02, score)}))
            cut = {"task": task, "arm": arm, "level": level, "policy": "validation_frozen"}
            frames["thresholds"].append(pd.DataFrame([cut | {"value": 0.5, "n": 20, "chosen_on": "clean"}]))
    for i, arm in enumerate(arms[1:3], start=1):
        rows = {"image_id": people["image_id"], "arm": arm, "level": LEVEL[name]}
        frames["quality"].append(
            pd.DataFrame(rows | {"psnr_db": 20.0 + 5 * i + rng.normal(size=len(people)), "ssim": 0.5 + 0.1 * i,
                                 "nmse": 0.02, "lpips": 0.3, "psnr_foreground_db": 20.0}))  # fmt: skip
        counts = {"intersection": 30 + 5 * i, "predicted": 40, "actual": 50}
        frames["overlap"].append(pd.DataFrame(rows | counts))
    if name != "brain":
        del frames["overlap"]
    for table, parts in frames.items():
        columns = {column: value for column, value in key.items() if column in tables.SCHEMAS[table].columns}
        tables.write_table(folder, table, pd.concat(parts).assign(**columns))
    whole = pd.concat(frames["predictions"]).assign(**key)
    audit = audit_change(whole, people, "sex", reference="male", n_boot=200, min_support=5, seed=1)
    tables.write_table(folder, "audit", tables.with_defaults("audit", audit), attribute="sex")


def notebook(*cells):
    """An executed notebook as JSON; a text that starts with # is markdown."""
    kind = lambda text: "markdown" if text.startswith(("#", "**", "Text")) else "code"
    return {"cells": [{"cell_type": kind(text), "source": text, "metadata": {}} for text in cells]}


def make_record(folder, profile="tutorial", **more):
    """A run.json as the runner writes it."""
    settings = {name: list(value) if isinstance(value, tuple) else value
                for name, value in vars(load_settings("tutorial", n_boot=200)).items()}  # fmt: skip
    record = {
        "profile": profile, "seed": 1, "settings": settings, "commit": "abc", "versions": {"python": "3.11"},
        "machine": "x86_64, 2 cores", "started": "2026-01-02T03:04:05+00:00", "finished": "2026-01-02T03:14:05+00:00",
        "notebooks": {
            "04_unet": {"made_from": "x", "wall_s": 61.0, "peak_memory_mb": 812, "read": {}, "wrote": {"a": "1"},
                        "weights": {"unet": "unet-brain.safetensors"}},
            "10_audit": {"made_from": "y", "wall_s": 30.5, "peak_memory_mb": 300, "read": {}, "wrote": {}},
        },
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record | more))


def make_run(folder, n_brain=60, n_chest=150, size=8):
    """A run that has everything."""
    make_record(folder)
    for name, n in (("brain", n_brain), ("chest", n_chest)):
        cohort = make_cohort(folder, name, n, 2 if name == "brain" else 1, size, simulator_version="1")
        make_tables(folder, cohort)
    for part in ("figures", "notebooks"):
        (folder / part).mkdir()
    for name in ("10_gaps", "stray"):
        (folder / "figures" / f"{name}.png").write_bytes(PIXEL)
    text = notebook("# 10. Audit", "## The gaps\n**What to look for:** the bar at *zero*.\n\nMore.",
                    'run.figure(draw(), "10_gaps")')  # fmt: skip
    (folder / "notebooks" / "10_audit.ipynb").write_text(json.dumps(text))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A complete run and its page."""
    folder = make_run(tmp_path_factory.mktemp("run"))
    write_report(folder)
    return folder


def test_the_page_shows_who_is_left_at_every_step(run):
    text = re.sub(r"<[^>]+>|\s+", " ", (run / "report.html").read_text())
    cohort = Contents(run).cohorts["chest"]
    tested = cohort.table[cohort.table["split"] == "test"]
    by_race = tested[tested["race"] != "unknown"]
    words = " ".join(text.split())
    assert f"in the cohort {cohort.table['patient_id'].nunique()} {len(cohort)}" in words
    assert f"audited by race {by_race['patient_id'].nunique()} {len(by_race)}" in words
    assert words.count("audited by sex") == 2, "one table a cohort"


def test_the_page_says_which_notebook_a_small_cohort_leaves_out(tmp_path):
    make_run(tmp_path, 12, 30)
    make_record(tmp_path, left_out={"10_did": "brain has one sex, male: there is no gap to audit"})
    write_report(tmp_path)
    assert "10: brain has one sex, male: there is no gap to audit" in (tmp_path / "report.html").read_text()


class Page(HTMLParser):
    """Tags of a page, its words, and whether its tags nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "input", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


# the page against the tables


def test_the_first_screen_counts_the_verdicts_of_the_table(run):
    cells = claims(tables.read_table(run, "audit"))
    images, planted = cells[cells["arm"] != "planted"], cells[cells["arm"] == "planted"]
    text = page(run).text
    hits = images["verdict"].isin(["changed", "changed_within_margin"]).sum()
    assert f"Of {len(images)} comparisons" in text and f"{hits or 'none'} changed by more than chance" in text
    for verdict, n in images["verdict"].value_counts().drop("changed", errors="ignore").items():
        assert f"{n} {verdict.replace('_', ' ')} (" in text
    n = planted["verdict"].isin(["changed", "changed_within_margin"]).sum()
    assert n > 0 and f"planted {n} of {len(planted)} (known bias added)" in text


def test_the_page_opens_with_two_sentences_and_one_picture_of_the_same_counts(run):
    whole = (run / "report.html").read_text(encoding="utf-8")
    opening = whole[whole.index('<div class="opening">') : whole.index('<p class="note"')]
    said = re.sub(r"<[^>]+>", "", opening[: opening.index("<figure")]).strip()
    assert len(re.findall(r"\.(?= |$)", said)) == 2 and opening.count("<svg") == 1 and "<table" not in opening
    label = re.search(r'aria-label="([^"]*)"', opening)[1]
    cells = claims(tables.read_table(run, "audit"))
    for (arm, verdict), n in cells.groupby(["arm", "verdict"]).size().items():
        mine = re.search(rf"{arm}: ([^.]*)\.", label)[1]
        assert f"{n} {verdict.replace('_', ' ')}" in mine
    for bar in sections.verdict_bars(cells, list(cells["arm"].unique())):
        assert sum(piece["width"] for piece in bar["pieces"]) == pytest.approx(100, abs=0.05)
        ends = [piece["x"] + piece["width"] for piece in bar["pieces"]]
        assert [piece["x"] for piece in bar["pieces"][1:]] == pytest.approx(ends[:-1], abs=0.02)


def test_every_section_answers_a_question(run):
    heads = re.findall(r"<h2>(.*?)</h2>", (run / "report.html").read_text(encoding="utf-8"))
    assert len(heads) > 8 and all(head.endswith("?") for head in heads), heads


def test_the_whole_page_keeps_its_limit_and_names_the_figures_that_do_not_fit(run, tmp_path):
    """Forty figures of 200 kB are 10.7 MB on a page; the noise cannot be packed."""
    shutil.copytree(run, tmp_path / "run")
    rng = np.random.default_rng(1)
    for k in range(40):
        (tmp_path / "run" / "figures" / f"10_large_{k:02d}.png").write_bytes(PIXEL + rng.bytes(200_000))
    size = write_report(tmp_path / "run").stat().st_size
    shown = page(tmp_path / "run")
    assert LIMIT_MB == 5 and 4.2e6 < size <= 5e6
    pictures = [image for image in shown.of("img") if "large" in image["alt"]]
    named = re.search(r"Not shown, to keep the page below 5 MB;.*", shown.text)[0]
    assert len(pictures) + len(set(re.findall(r"10_large_\d\d", named))) == 40 and len(pictures) >= 13


def test_the_page_says_what_was_asked_on_which_data_and_what_is_to_be_seen(run):
    text = page(run).text
    first = text[: text.index("How good are the images?")]  # before the navigation
    for said in ("R = 8", "10,000 photons", "repaired by unet", "by sex", "simulated MRI", "48 patients tested",
                 "120 patients tested", "PSNR (dB)", "AUROC, mean", "control: known bias added"):  # fmt: skip
        assert said in re.sub(r" ([,.:;])", r"\1", first).replace("by  ", "by "), said


def test_an_auroc_is_that_of_scikit_learn_and_lies_in_its_interval(run):
    contents = Contents(run)
    people = contents.cohorts["chest"].table.query("split == 'test'")
    scores = tables.read_table(run, "predictions", cohort="chest", arm="unet", task="edema").merge(
        people, on="image_id"
    )
    row = contents.readers.query("arm == 'unet' and task == 'edema'").iloc[0]
    value, low, high = row["value"]
    assert value == pytest.approx(roc_auc_score(scores["y_edema"], scores["score"]))
    assert 0 <= low < value < high <= 1 and high - low < 0.3
    assert (row["n"], row["positive"]) == (120, scores["y_edema"].sum())
    assert f"{value:.3f}" in page(run).text


def test_psnr_and_dice_are_means_over_test_patients(run):
    contents = Contents(run)
    people = contents.cohorts["brain"].table.query("split == 'test'")
    psnr = tables.read_table(run, "quality", cohort="brain", arm="unet").merge(people, on="image_id")["psnr_db"]
    shown = contents.quality.query("cohort == 'brain' and arm == 'unet'").iloc[0]
    assert shown["psnr_db"][0] == pytest.approx(psnr.mean()) and shown["n"] == people["patient_id"].nunique()
    dice = contents.readers.query("measure == 'Dice' and arm == 'unet'").iloc[0]["value"]
    assert dice[0] == pytest.approx(2 * 40 / (40 + 50))  # every volume: 2 x 40 of 40 + 50 pixels a slice


def test_the_cost_of_every_step_and_its_weights_are_there(run):
    text = page(run).text
    for said in (
        "04_unet",
        "61.0",
        "812",
        "2 notebooks took 1.5 minutes",
        "unet-brain.safetensors",
        "n_boot",
        "differs",
    ):
        assert said in text, said


@pytest.mark.parametrize(("n", "said"), [
    (0, "this machine: x86_64, 2 cores."),
    (1, "2 cores. Before them, 151 steps on local:2 took 10.0 minutes."),
    (2, "2 cores. Before them, 151 steps on local:2 took 20.0 minutes in 2 starts."),
])  # fmt: skip
def test_what_workers_did_before_the_notebooks_costs_too(tmp_path, n, said):
    make_record(tmp_path, steps=[{"on": "local:2", "steps": 151, "wall_s": 600.0, "seconds": {}}] * n)
    assert sections.costs(Contents(tmp_path))["sentence"].endswith(said)


# standing alone, for everybody


def test_the_page_needs_nothing_but_itself(run):
    text = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\(", text)
    for tag, attributes in page(run).tags:
        assert tag not in ("link", "iframe", "object") and not (tag == "script" and "src" in attributes)
        assert attributes.get("src", "data:").startswith("data:") and attributes.get("href", "#").startswith("#")


def test_every_figure_has_words_from_its_notebook(run):
    figures = page(run).of("img")
    assert [figure["alt"] for figure in figures] == ["The gaps. The bar at zero.", "stray."]


def test_tables_have_captions_and_headings_and_scroll_by_keyboard(run):
    tags = page(run)
    assert len(tags.of("table")) == len(tags.of("caption")) > 8
    boxes = [box for box in tags.of("div") if "scroll" in box.get("class", "").split()]
    assert len(boxes) == len(tags.of("table"))
    assert all(box["tabindex"] == "0" and box["aria-label"] and box["role"] == "region" for box in boxes)
    assert all(head["scope"] in ("row", "col") for head in tags.of("th"))


def test_links_lead_to_one_place_each_and_headings_skip_no_level(run):
    tags = page(run)
    ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link["href"][1:] for link in tags.of("a")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in tags.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast_ratio(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_text_has_a_contrast_of_at_least_four_and_a_half():
    assert contrast_ratio("#000000", "#ffffff") == pytest.approx(21)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", STYLE))
    for ink in ("ink", "soft", "link"):
        for paper in ("paper", "tint", "head", "note", "stop"):
            assert contrast_ratio(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    assert not re.search(r"(?<!-)color: #", STYLE), "a text colour outside the list above is not checked"


# runs that are not whole


def test_a_run_of_nothing_but_a_record_still_has_a_page(tmp_path):
    make_record(tmp_path, notebooks={})
    write_report(tmp_path)
    text = page(tmp_path).text
    assert "This run has no audit yet: notebook 10 makes it." in text and "no cohort of its own" in text
    assert "quality (notebook 07)" in text and "What may these numbers not be used for?" in text


def test_tables_without_their_cohort_are_named_and_not_counted(tmp_path):
    make_record(tmp_path)
    rows = {"image_id": ["a", "b"], "psnr_db": [20.0, 30.0], "cohort": "brain", "arm": "unet", "level": 8.0}
    tables.write_table(tmp_path, "quality", tables.with_defaults("quality", pd.DataFrame(rows)))
    write_report(tmp_path)
    text = page(tmp_path).text
    assert "quality of brain: this run has no cohort of that name" in text and "Image quality by arm" not in text


def test_a_damaged_table_is_named_and_the_rest_is_shown(tmp_path):
    make_record(tmp_path)
    cohort = make_cohort(tmp_path, "chest", 60, simulator_version="1")
    make_tables(tmp_path, cohort)
    damaged = next((tmp_path / "tables" / "quality").glob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    write_report(tmp_path)
    text = page(tmp_path).text
    assert "Could not be used: table quality" in re.sub(r" +", " ", text) and "Readers by finding" in text


def test_smoke_simulated_and_real_data_carry_their_banner(tmp_path):
    for name, profile, extra, wanted, absent in [
        ("smoke", "smoke", {"simulator_version": "1"}, "The numbers mean nothing.", "Real patients"),
        ("simulated", "tutorial", {"simulator_version": "1"}, "Simulated patients.", "mean nothing"),
        ("real", "nih", {}, "Real patients ( chest ).", "Simulated patients"),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        make_record(folder, profile)
        make_cohort(folder, "chest", 20, **extra)
        write_report(folder)
        text = page(folder).text.replace("(chest)", "( chest )")
        assert wanted in text and absent not in text, name


def test_names_are_shown_and_never_executed(tmp_path):
    make_record(tmp_path, profile="<script>alert(1)</script>")
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<script>") == 1 and "&lt;script&gt;alert" in text


def test_without_a_record_there_is_a_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the series first"):
        write_report(tmp_path)


def test_equal_runs_make_equal_pages(run):
    before = (run / "report.html").read_bytes()
    write_report(run)
    assert (run / "report.html").read_bytes() == before and not list(run.glob("*.part"))


# whose images


@pytest.mark.parametrize("case", ["real", "beside a simulated one", "damaged", "only in a table"])
def test_images_stay_out_unless_every_cohort_is_known_as_simulated(tmp_path, case):
    make_record(tmp_path)
    known = {"simulator_version": "1"}
    make_cohort(tmp_path, "chest", 60, **({"licence": "Agreement <X>"} if case == "real" else known))
    if case == "beside a simulated one":
        make_cohort(tmp_path, "brain", 20)
    elif case == "damaged":
        brain = make_cohort(tmp_path, "brain", 20)
        (brain.folder / "cohort.parquet").write_bytes(b"damaged")
    elif case == "only in a table":
        rows = {"image_id": ["a"], "psnr_db": [20.0], "cohort": "brain", "arm": "unet", "level": 8.0}
        tables.write_table(tmp_path, "quality", tables.with_defaults("quality", pd.DataFrame(rows)))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "00_patient.png").write_bytes(PIXEL)
    write_report(tmp_path)
    without = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img" not in without and "Figures left out of this page: 1;" in without
    write_report(tmp_path, with_images=True)
    shown = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert shown.count("<img") == 1 and "left out of this page" not in shown
    if case == "real":
        assert "Data agreement: chest: Agreement &lt;X&gt;." in without


# words for figures


def test_a_figure_is_described_by_what_to_look_for_or_by_the_paragraph_before_it():
    cells = notebook(
        "# 2. Title\n- **You will** x", "## One\nText before `x`.\n\n| a |\n|---|", 'run.figure(f, "one")',
        "**What to look for:** the *edge*.\n\nElse.", 'run.figure(f(\n    1),\n    "two")', "## Three", "plain()",
    )  # fmt: skip
    assert figure_texts(cells, ["two", "one", "three"]) == {"one": ("One", "The edge."), "two": ("One", "The edge.")}
    assert cell_texts(cells)[-1] == ("Three", "")
    without = notebook("## One\nText before `x` and $y$.", 'run.figure(f, "one")')
    assert figure_texts(without, ["one"]) == {"one": ("One", "Text before x and y.")}


def test_a_figure_whose_name_is_made_in_a_loop_is_found():
    cells = notebook(
        "## Curves\nText here.", 'for name in names:\n    keep(f"07_curves_{name}", name)', "## X", '"07_x"'
    )
    found = figure_texts(cells, ["07_x", "07_curves_brain", "07_curve", "08_curves_brain"])
    assert found == {"07_curves_brain": ("Curves (brain)", "Text here."), "07_x": ("X", "")}


# the runner makes it


def test_all_weights_that_a_notebook_notes_are_kept(tmp_path):
    notes = [{"action": "note", "path": None, "weights": {name: name}} for name in ("unet", "sde")]
    (tmp_path / "trace").write_text("".join(json.dumps(note) + "\n" for note in notes))
    assert series._read_trace(tmp_path / "trace", tmp_path)[2] == {"weights": {"unet": "unet", "sde": "sde"}}


def test_a_page_that_cannot_be_made_costs_a_line_and_no_record(tmp_path, monkeypatch, capsys):
    make_record(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    monkeypatch.setattr(series, "write_report", lambda folder: 1 / 0)
    assert series.report(tmp_path) is None
    assert "no report.html: ZeroDivisionError" in capsys.readouterr().out
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_series_that_fails_before_its_first_record_makes_no_page(tmp_path, capsys):
    assert series.report(tmp_path) is None and capsys.readouterr().out == ""


@pytest.mark.series
def test_every_series_ends_with_a_page_also_one_that_fails(tmp_path, root, monkeypatch):
    head = '# %% tags=["parameters"]\nprofile = "tiny"\noverrides = {}\n\n# %%\n'
    folder = tmp_path / "notebooks"
    (folder / "profiles").mkdir(parents=True)
    (folder / "profiles" / "tiny.yml").write_text("seed: 3\n")
    (folder / "00_good.py").write_text(head + "1 + 1\n")
    (folder / "01_bad.py").write_text(head + "1 / 0\n")
    subprocess.run([sys.executable, root / "tools/pairs.py", "--folder", folder], check=True, capture_output=True)
    monkeypatch.setenv("FAIRRECON_HOME", str(tmp_path))
    monkeypatch.setenv("FAIRRECON_RUNS", str(tmp_path / "runs"))
    with pytest.raises(series.SeriesError, match="01_bad"):
        series.run_series("tiny")
    text = page(tmp_path / "runs" / "tiny").text
    assert "00_good" in text and "01_bad" not in text


# in a browser


@pytest.mark.browser
def test_nothing_sticks_out_at_phone_width_and_the_answer_is_on_the_first_screen(run):
    webdriver = pytest.importorskip("selenium.webdriver")
    if not shutil.which("chromedriver"):
        pytest.skip("needs chromium and its driver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        for width, height in ((400, 844), (1400, 1000)):
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get((run / "report.html").resolve().as_uri())
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
            bottom = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom"
            shown = (".answer", ".verdicts", ".note", *[".card:nth-child(1)"] * (width > 900))
            assert max(driver.execute_script(bottom, part) for part in shown) <= height
        assert driver.get_log("browser") == []
        asked = [entry["message"] for entry in driver.get_log("performance") if "requestWillBeSent" in entry["message"]]
        assert not any('"url":"http' in message for message in asked)
    finally:
        driver.quit()
