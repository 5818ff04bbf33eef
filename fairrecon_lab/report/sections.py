"""The sections of the page: each takes a run's contents, `run`, and returns HTML, empty if it has nothing to say.

Throughout: `cells` are signed rows of the audit table, and `row` is one of them, as a named tuple.
"""

from dataclasses import fields

import numpy as np
import pandas as pd

from fairrecon_core.audit import summary
from fairrecon_core.measures import METRICS, label_of
from fairrecon_core.settings import Settings
from fairrecon_core.tables import SCHEMAS
from fairrecon_lab.report.contents import CONTROLS, QUALITY, Contents, changed
from fairrecon_lab.report.markup import (
    VERDICTS,
    bar,
    between,
    chip,
    details,
    estimate,
    group,
    items,
    legend,
    number,
    p_value,
    safe,
    table,
    words,
)
from fairrecon_lab.report.pictures import gallery

PRIMARY = ("tpr", "dice")  # measures whose every comparison is listed
UNFIT = (
    "Do not use these numbers to judge a scanner, a network, a hospital or a group of people, to choose a treatment, "
    "or to claim that a product is fair. Nothing here is a medical device. Sex and race are recorded traits with the "
    "source's categories; a gap between recorded groups does not say where it comes from, and <em>undetermined</em> "
    "does not mean that nothing changed."
)


# ---------------------------------------------------------------------- the first screen
def head(run: Contents) -> str:
    """Title, the answer, and the banners that must not be missed."""
    when = run.record.get("finished", run.record.get("started", ""))[:16].replace("T", " ")
    return (
        f'<p class="kicker">fairrecon run report · profile <b>{safe(run.profile)}</b> · {when} UTC</p>'
        f"<h1>Did reconstruction change the gaps between subgroups?</h1>{answer(run)}{banners(run)}"
    )


def banners(run: Contents) -> str:
    """Smoke, simulated or real, and what could not be read."""
    smoke = ("stop", "Smoke run.", "Everything ran, as small as it goes. <strong>The numbers mean nothing.</strong>")
    shown = [smoke] if run.profile == "smoke" else []
    if run.simulated or not run.cohorts:
        about = "" if len(run.simulated) == len(run.cohorts) else f" ({safe(', '.join(run.simulated))})"
        text = "A computer drew every image and person. The numbers show how an audit works, nothing about real people."
        shown.append(("note", f"Simulated patients{about}.", text))
    if real := [name for name in run.cohorts if name not in run.simulated]:
        text = "A gap between recorded groups does not say where it comes from."
        shown.append(("note", f"Real patients ({safe(', '.join(real))}).", text))
    shown += [("stop", "Could not be used:", safe(problem)) for problem in dict.fromkeys(run.problems)]
    return "".join(f'<p class="{kind}" role="note"><strong>{word}</strong> {text}</p>' for kind, word, text in shown)


def answer(run: Contents) -> str:
    """What became of the comparisons, in counts, and how the controls fared."""
    if run.cells.empty:
        return '<p class="answer">This run has no audit yet: notebook 10 makes it.</p>'
    controls = run.cells["arm"].isin(CONTROLS)
    cells = run.cells[~controls]
    text = "<b>No reconstruction was audited here</b>: all arms are controls, made to test the audit itself."
    if len(cells):
        counts = cells["verdict"].value_counts()
        said = [f"<b>{counts.get(name, 0):,}</b> {words(name)}" for name in VERDICTS if counts.get(name, 0)]
        none = "<b>none changed</b>, " if changed(cells).empty else ""
        text = f"Of {len(cells):,} comparisons of a subgroup with its reference: {none}{', '.join(said)}."
    rates = [f"{arm} {len(changed(part)):,} of {len(part):,}" for arm, part in run.cells[controls].groupby("arm")]
    check = f" Controls that changed: {safe('; '.join(rates))}." if rates else ""
    return f'<p class="answer">{text}{check}</p>'


def first_screen(run: Contents) -> str:
    """What was asked, on which data, what came out."""
    cards = {"Asked": asked(run), "Data": data(run), "What came out": outcome(run)}
    shown = (f'<section class="card"><h2>{title}</h2>{text}</section>' for title, text in cards.items())
    return f'<div id="first" tabindex="-1">{"".join(shown)}</div>'


def asked(run: Contents) -> str:
    """The question of this run in words."""
    levels = [f"{name}: {run.level_text(name, level)}" for name in run.cohorts if (level := run.audited_level(name))]
    text = "Images were made worse on purpose" + (f" ({safe('; '.join(levels))})" if levels else "")
    networks = [arm for arm in run.arms if arm not in CONTROLS and arm not in ("clean", "degraded")]
    text += f", repaired by <b>{safe(', '.join(networks))}</b>, and read by frozen networks." if networks else "."
    if controls := [f"<b>{safe(arm)}</b> ({CONTROLS[arm]})" for arm in run.arms if arm in CONTROLS]:
        text += f" Made from clean scores: {', '.join(controls)}."
    if run.cells.empty:
        return f"<p>{text} Whether gaps between subgroups changed was not asked in this run.</p>"
    traits = ", ".join(map(words, run.cells["attribute"].unique()))
    baselines = " and of ".join(f"<b>{safe(name)}</b>" for name in run.cells["baseline_arm"].unique())
    return (
        f"<p>{text} For every finding and measure: did the gap between groups by <b>{traits}</b> change, "
        f"compared with that of {baselines} images of the same patients?</p>"
    )


def data(run: Contents) -> str:
    """One line per cohort."""
    lines = []
    for name, cohort in run.cohorts.items():
        people = cohort.table.drop_duplicates("patient_id")
        tested = len(people) if cohort.info["n_folds"] > 1 else (people["split"] == "test").sum()
        kind = ("simulated " if name in run.simulated else "") + {"mri": "MRI", "xray": "X-ray"}[cohort.modality]
        known = people[people["sex"] != "unknown"]
        female = f"{100 * (known['sex'] == 'female').mean():.0f} % female" if len(known) else "sex unknown"
        age = people["age_years"].median()
        age = f"median age {age:.0f} years" if np.isfinite(age) else "age unknown"
        size = " × ".join(map(str, cohort.info["shape"]))
        lines.append(
            f"<b>{safe(name)}</b>: {kind}, {size} px; <b>{tested:,}</b> patients tested, of {len(people):,} with "
            f"{len(cohort):,} images; {female}, {age}; labels: {len(cohort.tasks)}"
        )
    return items(lines) or "<p>This run has no cohort of its own (notebook 01 makes it).</p>"


def outcome(run: Contents) -> str:
    """The arms at a glance, the clearest changes, what the verdicts mean, and what is missing."""
    text = glance(run)
    if not run.cells.empty:
        controls = run.cells["arm"].isin(CONTROLS)
        hits = changed(run.cells[~controls] if not controls.all() else run.cells)
        said = items([sentence(row) for row in hits.head(3).itertuples()])
        text += (f"<h3>The clearest {min(3, len(hits))} of {len(hits):,} changes</h3>{said}" if said else "") + legend()
    missing = [f"{name} (notebook {schema.notebook})" for name, schema in SCHEMAS.items()
               if name not in run.tables and name != "cohort"]  # fmt: skip
    return text + (f"<p><small>Not in this run: {', '.join(missing)}.</small></p>" if missing else "")


def glance(run: Contents) -> str:
    """One row per arm at the audited level: image quality, readers, verdicts; empty if there is none of these."""
    rows = [_glance_row(run, cohort, arm) for cohort, arm in run.conditions()]
    heads = ["cohort", "arm", "PSNR (dB)", "SSIM", "AUROC, mean", "Dice", "verdicts on changed gaps"]
    keep = [i for i in range(len(heads)) if i < 2 or any(row[i] != "–" for row in rows)]
    if len(keep) == 2:
        return ""
    rows, numbers = [[row[i] for i in keep] for row in rows], range(2, sum(i < 6 for i in keep))
    return table([heads[i] for i in keep], rows, "Arms at the audited level", numbers, "glance")


def _glance_row(run: Contents, cohort: str, arm: str) -> list[str]:
    quality, readers, cells = (run.at_audit(part, cohort, arm) for part in (run.quality, run.readers, run.cells))
    means = {name: quality[name].iloc[0][0] if len(quality) else np.nan for name in ("psnr_db", "ssim")}
    for measure in ("AUROC", "Dice"):
        values = readers.loc[readers["measure"] == measure, "value"] if len(readers) else []
        means[measure] = pd.Series([value[0] for value in values], dtype=float).mean()
    name = f"<b>{safe(arm)}</b>" + (f"<small>{CONTROLS[arm]}</small>" if arm in CONTROLS else "")
    shown = [number(value, 2 if key == "psnr_db" else 3) for key, value in means.items()]
    return [safe(cohort), name, *shown, bar(cells["verdict"]) if len(cells) else "–"]


def sentence(row) -> str:
    """One signed audit row in words."""
    label = {"1": ", with the finding", "0": ", without it"}.get(row.label, "") if row.metric == "logit_shift" else ""
    signed = lambda value: number(value, 3, sign=True)
    p = p_value(row.p_adjusted)
    return (
        f"<b>{safe(row.arm)}</b>, {safe(row.cohort)}, {words(row.task)}: {label_of(row.metric)}"
        f"{label}, {group(row.subgroup)} − {group(row.reference)}, from {signed(row.baseline)} to {signed(row.value)}: "
        f"change <b>{signed(row.delta)}</b> [{signed(row.delta_ci_low)}, {signed(row.delta_ci_high)}], "
        f"adjusted&nbsp;p&nbsp;{p if p.startswith('&') else '=&nbsp;' + p}"
    )


# ---------------------------------------------------------------------- the sections below
def audit(run: Contents) -> str:
    """Verdicts by cohort, attribute and baseline, and every comparison of the primary measures."""
    if run.cells.empty:
        return ""
    by, whole = ["cohort", "attribute", "baseline_arm"], run.tables["audit"]
    groups = run.cells.groupby(by, sort=False)
    return "".join(_audited(key, cells, whole[(whole[by] == list(key)).all(axis=1)]) for key, cells in groups)


def _audited(key: tuple, cells: pd.DataFrame, part: pd.DataFrame) -> str:
    title = f"{key[0]} by {key[1].replace('_', ' ')}, against {key[2]}"
    rows = [
        [label_of(metric), *((mine["verdict"] == name).sum() for name in VERDICTS),
         bar(mine["verdict"], said=False)]
        for metric, mine in cells.groupby("metric", sort=False)
    ]  # fmt: skip
    heads = ["measure", *map(words, VERDICTS), "share"]
    said = items([sentence(row) for row in changed(cells).itertuples()]) or "<p>No comparison changed beyond doubt.</p>"
    listed = comparisons(cells[cells["metric"].isin(PRIMARY)])
    return (
        f"<h3>{safe(title)}</h3>{table(heads, rows, f'Comparisons by verdict: {title}', range(1, 6))}{said}"
        + details(f"Every comparison of rates and Dice: {title}", listed)
        + details(f"In full, with gaps and limits: {title}", f'<pre tabindex="0">{safe(summary(part))}</pre>')
    )


def comparisons(cells: pd.DataFrame) -> str:
    """Signed audit rows, one by one, those that changed first."""
    order = cells["verdict"].map({name: i for i, name in enumerate(VERDICTS)})
    cells = cells.assign(order=order).sort_values(["order", "p_adjusted", "task"])
    rows = [
        [safe(row.arm), words(row.task), row.metric, f"{group(row.subgroup)} − {group(row.reference)}",
         row.smallest_group, *(number(value, 3, True) for value in (row.baseline, row.value, row.delta)),
         between(row.delta_ci_low, row.delta_ci_high, 3, True), p_value(row.p_adjusted), chip(row.verdict)]
        for row in cells.itertuples()
    ]  # fmt: skip
    heads = ["arm", "finding", "measure", "groups", "n of the smaller", "gap before", "gap after", "change",
             "95 % interval", "adjusted p", "verdict"]  # fmt: skip
    return table(heads, rows, "Signed gaps and their change", range(4, 10))


def quality(run: Contents) -> str:
    """Image quality of every arm and level."""
    if run.quality.empty:
        return ""
    rows = [
        [safe(row["cohort"]), safe(row["arm"]), run.level_text(row["cohort"], row["level"]), row["n"],
         *(estimate(row[name], METRICS[name].decimals) for name in QUALITY)]
        for _, row in run.quality.iterrows()
    ]  # fmt: skip
    heads = ["cohort", "arm", "level", "patients", *(METRICS[name].label for name in QUALITY)]
    return (
        "<p>Against the clean image of the same patient, on test images, with 95 % intervals over patients. Higher is "
        "better for PSNR and SSIM, lower for NMSE and LPIPS.</p>"
    ) + table(heads, rows, "Image quality by arm and level", range(3, 8))


def readers(run: Contents) -> str:
    """Readers by arm and level, and the thresholds they used."""
    if run.readers.empty:
        return _thresholds(run)
    rows = [
        [safe(row["cohort"]), words(row["task"]), safe(row["arm"]), run.level_text(row["cohort"], row["level"]),
         row["measure"], estimate(row["value"], 3), row["n"], row["positive"]]
        for _, row in run.readers.sort_values(["cohort", "task", "level", "arm"]).iterrows()
    ]  # fmt: skip
    heads = ["cohort", "finding", "arm", "level", "measure", "value", "patients", "with the finding"]
    text = "<p>Trained on clean images, then frozen; test images only; 95 % intervals over patients.</p>"
    return text + table(heads, rows, "Readers by finding, arm and level", range(5, 8)) + _thresholds(run)


def _thresholds(run: Contents) -> str:
    if "thresholds" not in run.tables:
        return ""
    rows = [
        [safe(row.cohort), words(row.task), safe(row.arm), run.level_text(row.cohort, row.level), words(row.policy),
         number(row.value, 3), row.n, safe(row.chosen_on)]
        for row in run.tables["thresholds"].itertuples()
    ]  # fmt: skip
    heads = ["cohort", "finding", "arm", "level", "policy", "threshold", "images", "chosen on"]
    return details("Thresholds", table(heads, rows, "Thresholds", range(5, 7)))


def people(run: Contents) -> str:
    """Patients of every cohort by subgroup and split."""
    text = ""
    for name, cohort in run.cohorts.items():
        counts = cohort.describe()
        counts = counts.loc[:, (counts != 0).any()]
        rows = [[words(trait), group(subgroup), *(f"{n:,}" for n in row)]
                for (trait, subgroup), row in zip(counts.index, counts.to_numpy().tolist())]  # fmt: skip
        heads = ["trait", "group", *map(words, counts)]
        cut, folds = cohort.info.get("age_cut_years"), cohort.info["n_folds"]
        notes = [f"Young is below {cut:g} years."] * bool(cut)
        notes += [f"Everybody is tested once, in one of {folds} folds; the splits are those of fold 0."] * (folds > 1)
        text += f"<h3>{safe(name)}</h3><p>{' '.join(notes)}</p>"
        text += table(heads, rows, f"Patients of {name} by group", range(2, len(heads)))
    return text


def figures(run: Contents) -> str:
    """Every figure, by notebook."""
    return gallery(run.folder)


def costs(run: Contents) -> str:
    """Time and peak memory of every notebook."""
    steps = dict(sorted(run.record.get("notebooks", {}).items()))
    if not steps:
        return ""
    seconds = sum(step["wall_s"] for step in steps.values())
    peak = max(step["peak_memory_mb"] for step in steps.values())
    rows = [[safe(name), f"{step['wall_s']:,.1f}", f"{step['peak_memory_mb']:,}", len(step.get("wrote", {}))]
            for name, step in steps.items()]  # fmt: skip
    rows.append(["<b>all</b>", f"<b>{seconds:,.0f}</b>", f"<b>{peak:,}</b>", sum(row[3] for row in rows)])
    heads = ["notebook", "seconds", "peak memory (MB)", "files and folders written"]
    machine = safe(run.record.get("machine", "unknown"))
    return f"<p>{len(steps)} notebooks took {seconds / 60:.1f} minutes on this machine: {machine}.</p>" + table(
        heads, rows, "Cost of every step", range(1, 4)
    )


def made_with(run: Contents) -> str:
    """Weights, settings, versions."""
    used = [(step, entry["weights"]) for step, entry in run.record.get("notebooks", {}).items() if entry.get("weights")]
    used = [(step, note if isinstance(note, dict) else {"": note}) for step, note in used]
    rows = [[safe(step), safe(name), safe(value)] for step, note in used for name, value in note.items()]
    text = table(["notebook", "network", "weights"], rows, "Weights used") or "<p>No trained weights were noted.</p>"
    usual = {field.name: field.default for field in fields(Settings)}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in run.settings.items()}
    rows = [[safe(name), safe(", ".join(map(str, value)) if isinstance(value, tuple) else value),
             "differs" if name != "profile" and value != usual.get(name) else ""]
            for name, value in plain.items()]  # fmt: skip
    text += details("Settings", table(["setting", "value", "from the default"], rows, "Settings of this run"))
    record = {name: run.record.get(name) or "unknown" for name in ("commit", "started", "finished", "machine")}
    rows = [[safe(name), safe(value)] for name, value in (record | run.record.get("versions", {})).items()]
    return text + details("Versions", table(["what", "value"], rows, "Versions"))


def unfit(run: Contents) -> str:
    """What no run's numbers may be used for."""
    return f"<p>{UNFIT}</p>"


SECTIONS = {
    "Audit": audit,
    "Image quality": quality,
    "Readers": readers,
    "Who is in the data": people,
    "Figures": figures,
    "Time and memory": costs,
    "Made with": made_with,
    "What these numbers may not be used for": unfit,
}
