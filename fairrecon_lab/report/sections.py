"""What the page says: each function takes a run's contents, `run`, and gives plain data, which a template renders.

Throughout: `cells` are signed rows of the audit table, and `row` is one of them, as a named tuple. A cell of a `Table`
is a text, or a dict that the template knows: a number with its interval, a verdict, shares of verdicts.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import yaml

from fairrecon_core.measures import METRICS, label_of
from fairrecon_core.settings import Settings
from fairrecon_core.tables import SCHEMAS
from fairrecon_lab.auditing.summary import summary
from fairrecon_lab.report.contents import CONTROLS, QUALITY, Contents, changed
from fairrecon_lab.report.formats import LIMIT_MB, VERDICTS, between, group, number, p_value, words
from fairrecon_lab.report.pictures import gallery

PLAIN = {  # of the first sentence
    "changed_within_margin": "of these, and too little to matter",
    "equivalent": "any change is smaller than the margin",
    "undetermined": "too few patients to tell",
    "not_estimable": "a group is too small",
}
PRIMARY = ("tpr", "dice")  # measures whose every comparison is listed


@dataclass(frozen=True)
class Table:
    """Heads, rows (the first cell of a row is its heading), a caption, and which columns are numbers."""

    heads: list
    rows: list
    caption: str
    numbers: tuple = ()


def estimate(value: tuple[float, float, float], digits: int) -> dict:
    """A cell with a value in so many digits and its interval below."""
    point, low, high = value
    return {"text": number(point, digits), "small": between(low, high, digits) if np.isfinite(low) else ""}


def bar(verdicts: pd.Series, said: bool = True) -> dict:
    """A cell with shares of the verdicts, and the counts in words: below it (`said`), or for screen readers."""
    counts = {name: int((verdicts == name).sum()) for name in VERDICTS}
    text = ", ".join(f"{n:,} {words(name)}" for name, n in counts.items() if n)
    return {"kind": "bar", "counts": counts, "text": text, "said": said}


# ---------------------------------------------------------------------- the first screen
def banners(run: Contents) -> list[dict]:
    """Smoke, simulated or real, and what could not be read."""
    shown = []
    if run.profile == "smoke":
        text = "Everything ran, as small as it goes."
        shown.append({"kind": "stop", "word": "Smoke run.", "text": text, "strong": "The numbers mean nothing."})
    if run.simulated or not run.cohorts:
        about = "" if len(run.simulated) == len(run.cohorts) else f" ({', '.join(run.simulated)})"
        text = "A computer drew every image and person. The numbers show how an audit works, nothing about real people."
        shown.append({"kind": "note", "word": f"Simulated patients{about}.", "text": text})
    if real := [name for name in run.cohorts if name not in run.simulated]:
        text = f"A gap between recorded groups does not say where it comes from. {agreements(run, real)}"
        shown.append({"kind": "note", "word": f"Real patients ({', '.join(real)}).", "text": text})
    wrong = [{"kind": "stop", "word": "Could not be used:", "text": text} for text in dict.fromkeys(run.problems)]
    return shown + wrong


def agreements(run: Contents, real: list[str]) -> str:
    """Under which agreement the data of each `real` cohort may be used, as its record states it."""
    unsaid = "not stated in its record, ask its source"
    stated = [f"{name}: {run.cohorts[name].info.get('licence') or unsaid}" for name in real]
    return f"Data agreement: {'; '.join(stated)}."


def answer(run: Contents) -> dict | None:
    """What became of the claims and how the controls fared, in counts, with one bar an arm; None without an audit."""
    if run.claims.empty:
        return None
    controls = run.claims["arm"].isin(CONTROLS)
    cells = run.claims[~controls]
    counts = cells["verdict"].value_counts()
    rates = [{"arm": arm, "what": CONTROLS[arm].partition(": ")[2], "changed": f"{len(changed(part)):,}"}
             | {"n": f"{len(part):,}"} for arm, part in run.claims[controls].groupby("arm")]  # fmt: skip
    n = {"n": f"{len(cells):,}", "changed": f"{len(changed(cells)):,}" if len(changed(cells)) else ""}
    return n | {
        "counts": {name: f"{counts[name]:,}" for name in VERDICTS if name != "changed" and counts.get(name, 0)},
        "plain": PLAIN,
        "controls": rates,
        "bars": verdict_bars(run.claims, run.arms),
        "verdicts": [name for name in VERDICTS if (run.claims["verdict"] == name).any()],
    }


def verdict_bars(cells: pd.DataFrame, arms: list[str]) -> list[dict]:
    """One bar an arm, in the order of `arms`: of each verdict where it begins, its width (per cent) and its count.

    A count is written into its piece where there is room for it.
    """
    bars = []
    for arm in [arm for arm in arms if (cells["arm"] == arm).any()]:
        verdicts = cells.loc[cells["arm"] == arm, "verdict"]
        pieces, start = [], 0.0
        for name in VERDICTS:
            n = int((verdicts == name).sum())
            width = 100 * n / len(verdicts)
            if n:
                pieces.append({"verdict": name, "n": n, "x": round(start, 2), "width": round(width, 2)})
            start += width
        n_changed = int(verdicts.isin(["changed", "changed_within_margin"]).sum())
        bars.append({"arm": arm, "what": CONTROLS.get(arm, ""), "pieces": pieces, "n": f"{len(verdicts):,}"}
                    | {"changed": n_changed})  # fmt: skip
    return bars


def asked(run: Contents) -> dict:
    """The question of this run: levels, networks, controls, traits and baselines."""
    levels = [f"{name}: {run.level_text(name, level)}" for name in run.cohorts if (level := run.audited_level(name))]
    networks = [arm for arm in run.arms if arm not in CONTROLS and arm not in ("clean", "degraded")]
    audited = not run.cells.empty
    return {
        "levels": "; ".join(levels),
        "networks": ", ".join(networks),
        "controls": [(arm, CONTROLS[arm]) for arm in run.arms if arm in CONTROLS],
        "traits": ", ".join(map(words, run.cells["attribute"].unique())) if audited else "",
        "baselines": list(run.cells["baseline_arm"].unique()) if audited else [],
    }


def data(run: Contents) -> list[dict]:
    """What is to be said of every cohort.

    Parameters
    ----------
    run : Contents
    """
    found = []
    for name, cohort in run.cohorts.items():
        people = cohort.table.drop_duplicates("patient_id")
        tested = len(people) if cohort.info["n_folds"] > 1 else (people["split"] == "test").sum()
        known, age = people[people["sex"] != "unknown"], people["age_years"].median()
        female = f"{100 * (known['sex'] == 'female').mean():.0f} % female" if len(known) else "sex unknown"
        kind = ("simulated " if name in run.simulated else "") + {"mri": "MRI", "xray": "X-ray"}[cohort.modality]
        found.append(
            {"name": name, "kind": kind, "size": " × ".join(map(str, cohort.info["shape"])), "tested": f"{tested:,}"}
            | {
                "people": f"{len(people):,}",
                "images": f"{len(cohort):,}",
                "female": female,
                "labels": len(cohort.tasks),
            }
            | {"age": f"median age {age:.0f} years" if np.isfinite(age) else "age unknown"}
        )
    return found


def outcome(run: Contents) -> dict:
    """The arms at a glance, the clearest changes, and what is missing."""
    found = {"glance": glance(run), "audited": not run.cells.empty, "clearest": [], "n_changed": 0}
    if found["audited"]:
        controls = run.cells["arm"].isin(CONTROLS)
        hits = changed(run.cells[~controls] if not controls.all() else run.cells)
        found |= {"clearest": [sentence(row) for row in hits.head(3).itertuples()], "n_changed": len(hits)}
    missing = [f"{name} (notebook {schema.notebook})" for name, schema in SCHEMAS.items()
               if name not in run.tables and name != "cohort"]  # fmt: skip
    missing += [f"{name[:2]}: {reason}" for name, reason in run.record.get("left_out", {}).items()]
    return found | {"missing": ", ".join(missing)}


def glance(run: Contents) -> Table | None:
    """One row per arm at the audited level: image quality, readers, verdicts; None if there is none of these."""
    rows = [_glance_row(run, cohort, arm) for cohort, arm in run.conditions()]
    heads = ["cohort", "arm", "PSNR (dB)", "SSIM", "AUROC, mean", "Dice", "verdicts on changed gaps"]
    keep = [i for i in range(len(heads)) if i < 2 or any(row[i] != "–" for row in rows)]
    if len(keep) == 2:
        return None
    numbers = tuple(range(2, sum(i < 6 for i in keep)))
    return Table(
        [heads[i] for i in keep], [[row[i] for i in keep] for row in rows], "Arms at the audited level", numbers
    )


def _glance_row(run: Contents, cohort: str, arm: str) -> list:
    quality, readers, cells = (run.at_audit(part, cohort, arm) for part in (run.quality, run.readers, run.claims))
    means = {name: quality[name].iloc[0][0] if len(quality) else np.nan for name in ("psnr_db", "ssim")}
    for measure in ("AUROC", "Dice"):
        values = readers.loc[readers["measure"] == measure, "value"] if len(readers) else []
        means[measure] = pd.Series([value[0] for value in values], dtype=float).mean()
    shown = [number(value, 2 if key == "psnr_db" else 3) for key, value in means.items()]
    name = {"text": arm, "bold": True, "small": CONTROLS.get(arm, "")}
    return [cohort, name, *shown, bar(cells["verdict"]) if len(cells) else "–"]


def sentence(row) -> dict:
    """One signed audit row, in pieces of a sentence."""
    label = {"1": ", with the finding", "0": ", without it"}.get(row.label, "") if row.metric == "logit_shift" else ""
    signed = lambda value: number(value, 3, sign=True)
    p = p_value(row.p_adjusted)
    return {
        "arm": row.arm, "cohort": row.cohort, "task": row.task, "measure": label_of(row.metric), "label": label,
        "groups": f"{group(row.subgroup)} − {group(row.reference)}", "before": signed(row.baseline),
        "after": signed(row.value), "change": signed(row.delta), "low": signed(row.delta_ci_low),
        "high": signed(row.delta_ci_high), "p": p if p.startswith("<") else f"=\N{NO-BREAK SPACE}{p}",
    }  # fmt: skip


# ---------------------------------------------------------------------- the sections below
def audit(run: Contents) -> list[dict]:
    """Verdicts by cohort, attribute and baseline, and every comparison of the primary measures."""
    if run.cells.empty:
        return []
    by, whole = ["cohort", "attribute", "baseline_arm"], run.tables["audit"]
    groups = run.cells.groupby(by, sort=False)
    return [_audited(key, cells, whole[(whole[by] == list(key)).all(axis=1)]) for key, cells in groups]


def _audited(key: tuple, cells: pd.DataFrame, part: pd.DataFrame) -> dict:
    title = f"{key[0]} by {words(key[1])}, against {key[2]}"
    rows = [
        [
            label_of(metric) + (", exploratory" if (mine["role"] != "primary").all() else ""),
            *((mine["verdict"] == name).sum() for name in VERDICTS),
            bar(mine["verdict"], said=False),
        ]
        for metric, mine in cells.groupby("metric", sort=False)
    ]
    heads = ["measure", *map(words, VERDICTS), "share"]
    return {
        "title": title,
        "counts": Table(heads, rows, f"Comparisons by verdict: {title}", tuple(range(1, 6))),
        "changed": [sentence(row) for row in changed(cells).itertuples()],
        "listed": comparisons(cells[cells["metric"].isin(PRIMARY)]),
        "summary": summary(part),
    }


def comparisons(cells: pd.DataFrame) -> Table:
    """Signed audit rows, one by one, those that changed first."""
    order = cells["verdict"].map({name: i for i, name in enumerate(VERDICTS)})
    cells = cells.assign(order=order).sort_values(["order", "p_adjusted", "task"])
    rows = [
        [row.arm, words(row.task), row.metric, f"{group(row.subgroup)} − {group(row.reference)}", row.smallest_group,
         *(number(value, 3, True) for value in (row.baseline, row.value, row.delta)),
         between(row.delta_ci_low, row.delta_ci_high, 3, True), p_value(row.p_adjusted),
         {"kind": "chip", "verdict": row.verdict}]
        for row in cells.itertuples()
    ]  # fmt: skip
    heads = ["arm", "finding", "measure", "groups", "n of the smaller", "gap before", "gap after", "change",
             "95 % interval", "adjusted p", "verdict"]  # fmt: skip
    return Table(heads, rows, "Signed gaps and their change", tuple(range(4, 10)))


def quality(run: Contents) -> dict | None:
    """Image quality of every arm and level."""
    if run.quality.empty:
        return None
    rows = [
        [row["cohort"], row["arm"], run.level_text(row["cohort"], row["level"]), row["n"],
         *(estimate(row[name], METRICS[name].decimals) for name in QUALITY)]
        for _, row in run.quality.iterrows()
    ]  # fmt: skip
    better = lambda way: " and ".join(
        METRICS[name].label.split(" (")[0] for name in QUALITY if METRICS[name].better == way
    )
    heads = ["cohort", "arm", "level", "patients", *(METRICS[name].label for name in QUALITY)]
    table = Table(heads, rows, "Image quality by arm and level", tuple(range(3, len(heads))))
    return vars(table) | {"directions": f"Higher is better for {better('higher')}, lower for {better('lower')}."}


def readers(run: Contents) -> dict | None:
    """Readers by arm and level, and the thresholds they used."""
    rows = [
        [row["cohort"], words(row["task"]), row["arm"], run.level_text(row["cohort"], row["level"]), row["measure"],
         estimate(row["value"], 3), row["n"], row["positive"]]
        for _, row in _sorted(run.readers, "cohort", "task", "level", "arm").iterrows()
    ]  # fmt: skip
    heads = ["cohort", "finding", "arm", "level", "measure", "value", "patients", "with the finding"]
    table = Table(heads, rows, "Readers by finding, arm and level", (5, 6, 7)) if rows else None
    thresholds = _thresholds(run)
    return {"table": table, "thresholds": thresholds} if table or thresholds else None


def _sorted(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    return table.sort_values(list(columns)) if len(table) else table


def _thresholds(run: Contents) -> Table | None:
    if "thresholds" not in run.tables:
        return None
    rows = [
        [row.cohort, words(row.task), row.arm, run.level_text(row.cohort, row.level), words(row.policy),
         number(row.value, 3), row.n, row.chosen_on]
        for row in run.tables["thresholds"].itertuples()
    ]  # fmt: skip
    heads = ["cohort", "finding", "arm", "level", "policy", "threshold", "images", "chosen on"]
    return Table(heads, rows, "Thresholds", (5, 6))


def people(run: Contents) -> list[dict]:
    """Patients of every cohort by subgroup and split, and how many are left from the record to the audit."""
    found = []
    for name, cohort in run.cohorts.items():
        counts = cohort.describe()
        counts = counts.loc[:, (counts != 0).any()]
        rows = [[words(trait), group(subgroup), *(f"{n:,}" for n in row)]
                for (trait, subgroup), row in zip(counts.index, counts.to_numpy().tolist())]  # fmt: skip
        heads = ["trait", "group", *map(words, counts)]
        cut, folds = cohort.info.get("age_cut_years"), cohort.info["n_folds"]
        notes = [f"Young is below {cut:g} years."] * bool(cut)
        notes += [f"Everybody is tested once, in one of {folds} folds; the splits are those of fold 0."] * (folds > 1)
        table = Table(heads, rows, f"Patients of {name} by group", tuple(range(2, len(heads))))
        steps = [[row["step"], f"{row['patients']:,}", f"{row['images']:,}"] for row in run.funnel(name)]
        left = Table(["step", "patients", "images"], steps, f"Who is left of {name}, step by step", (1, 2))
        found.append({"name": name, "notes": " ".join(notes), "table": table, "left": left})
    return found


def figures(run: Contents, room: float = LIMIT_MB * 1e6) -> dict | None:
    """Every figure, by notebook, as far as they fit into `room` bytes; of real patients only on request."""
    if run.shows_images:
        groups, too_large = gallery(run.folder, room)
        return {"groups": groups, "too_large": too_large, "limit_mb": LIMIT_MB} if groups or too_large else None
    n = len(list((run.folder / "figures").glob("*.png")))
    why = "not every cohort of this run is simulated, and a figure may show a patient"
    where = "They stay in the run's folder, as do the executed notebooks, which hold pictures too"
    return {"hidden": f"Figures left out of this page: {n}; {why}. {where}."} if n else None


def costs(run: Contents) -> dict | None:
    """Time and peak memory of every notebook of a `run`, and the time of its steps on workers."""
    steps = dict(sorted(run.record.get("notebooks", {}).items()))
    if not steps:
        return None
    seconds = sum(step["wall_s"] for step in steps.values())
    peak = max(step["peak_memory_mb"] for step in steps.values())
    rows = [[name, f"{step['wall_s']:,.1f}", f"{step['peak_memory_mb']:,}", len(step.get("wrote", {}))]
            for name, step in steps.items()]  # fmt: skip
    total = [{"text": text, "bold": True} for text in ("all", f"{seconds:,.0f}", f"{peak:,}")]
    rows.append([*total, sum(row[3] for row in rows)])
    heads = ["notebook", "seconds", "peak memory (MB)", "files and folders written"]
    said = f"{len(steps)} notebooks took {seconds / 60:.1f} minutes on this machine: {run.record.get('machine')}."
    if starts := run.record.get("steps"):
        minutes, many = sum(start["wall_s"] for start in starts) / 60, f" in {len(starts)} starts" * (len(starts) > 1)
        said += f" Before them, {starts[-1]['steps']} steps on {starts[-1]['on']} took {minutes:.1f} minutes{many}."
    return {"sentence": said, "table": Table(heads, rows, "Cost of every step", (1, 2, 3))}


def made_with(run: Contents) -> dict:
    """Weights, settings and versions of a `run`."""
    weights = [[step, name, value] for step, entry in run.record.get("notebooks", {}).items()
               for name, value in _by_network(entry.get("weights")).items()]  # fmt: skip
    plain = lambda value: yaml.safe_dump(value, default_flow_style=True).strip() if isinstance(value, dict) else value
    chosen = {name: tuple(value) if isinstance(value, list) else plain(value) for name, value in run.settings.items()}
    usual = {name: plain(value) for name, value in asdict(Settings()).items()}
    settings = [[name, ", ".join(map(str, value)) if isinstance(value, tuple) else value,
                 "differs" if name != "profile" and value != usual.get(name) else ""]
                for name, value in chosen.items()]  # fmt: skip
    record = {name: run.record.get(name) or "unknown" for name in ("commit", "started", "finished", "machine")}
    versions = [list(pair) for pair in (record | run.record.get("versions", {})).items()]
    return {
        "weights": Table(["notebook", "network", "weights"], weights, "Weights used"),
        "settings": Table(["setting", "value", "from the default"], settings, "Settings of this run"),
        "versions": Table(["what", "value"], versions, "Versions"),
    }


def _by_network(weights) -> dict:
    """What a notebook noted of weights: by network, or one line for all; {} for none."""
    return weights if isinstance(weights, dict) else {"": weights} if weights else {}


SECTIONS = {  # name of the template's macro, in the order of the page, to its question and to what gives its data
    "audit": ("Did a gap between groups change?", audit),
    "quality": ("How good are the images?", quality),
    "readers": ("How well are they read?", readers),
    "people": ("Who is in the data?", people),
    "figures": ("What does it look like?", lambda run: None),  # comes last, into the room that the others leave
    "costs": ("How long did it take?", costs),
    "made_with": ("What was it made with?", made_with),
    "unfit": ("What may these numbers not be used for?", lambda run: {"always": True}),
}
