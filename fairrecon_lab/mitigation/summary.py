"""results/mitigation/README.md in words: what was fixed beforehand and what was found, every sentence from a table."""

from collections.abc import Mapping

import pandas as pd

from fairrecon_lab.mitigation import registered

TABLES = {
    "answers": "registered question: the figure that its rule looks at, its interval, the answer",
    "skew": "skew, quantity and subgroup: change against the network without the skew, and the counterfactual truth",
    "audit": "row of the audit of a skewed network",
    "seeds": "skew and training seed: change of each gap, `truth_` that of the same patients as women and as men",
    "mitigation": "method, lambda, threshold, quantity and subgroup: method minus twin, the rates of each sex too",
    "repaired": "method and lambda: bias that is left, beside the twin's, and what the worst-off subgroup paid",
    "translation": "quantity of T1 to T2, by sex",
    "translation_audit": "row of the audit of PSNR, T1 to T2 against T1 shown as it is",
}

NETWORKS = {"pix2pix": "Pix2Pix", "sde": "the SDE"}


def interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """A figure with its 95 % interval, as `-0.12 [-0.20, -0.04]`; without one, the figure alone."""
    if pd.isna(low):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def figure_of(row: Mapping, name: str, digits: int = 3) -> str:
    """The figure `name` of a row with its interval, which stands in `<name>_low` and `<name>_high`."""
    return interval(*(row[f"{name}{end}"] for end in ("", "_low", "_high")), digits)


def note(found: Mapping[str, pd.DataFrame]) -> str:
    """What stands below every figure: simulated, how many seeds, what bars are."""
    if not {"seeds", "mitigation"} & set(found):
        return "simulated"
    seeds = found["seeds"]["train_seed"].nunique() if "seeds" in found else int(found["mitigation"]["n_seeds"].iloc[0])
    return f"simulated; {seeds} training seeds; bars are 95 % intervals over patients and training seeds"


def sentences(answers: pd.DataFrame) -> list[str]:
    """One line per registered question: the question, its figure with the interval, the answer."""
    return [f"{row.question}: **{row.answer}**, {interval(row.figure, row.low, row.high)}"
            for row in answers.itertuples()]  # fmt: skip


def costs(repaired: pd.DataFrame) -> pd.DataFrame:
    """Methods beside their twins at the registered threshold: what they repaired, and what the worst-off paid, in text.

    Parameters
    ----------
    repaired : DataFrame
        Of `tables.repaired`.

    Returns
    -------
    DataFrame
        method (with lambda), published, the odds bias that is left, the repair (empty where no bias was shown that it
        could repair), its share of the bias, the price in TPR, FPR and PSNR; intervals.
    """
    rows = []
    for row in repaired[repaired["threshold"] == registered.THRESHOLD].to_dict("records"):
        lam = f", lambda {row['weight']:g}" if row["weight"] else ""
        women = "as it comes" if row["share"] < 0 else f"{row['share']:.0%}"
        shown = row["twin_bias_low"] > 0 or row["twin_bias_high"] < 0
        rows.append({"method": row["method"] + lam, "women who fine-tune and have the finding": women,
                     "published form": "yes" if row["published"] else "", "odds bias left": figure_of(row, "bias"),
                     "repair of the odds gap": figure_of(row, "change") if shown else "",
                     "share of the twin's bias removed": row["removed"], "TPR": figure_of(row, "worst_tpr"),
                     "FPR": figure_of(row, "worst_fpr"), "PSNR (dB)": figure_of(row, "worst_psnr_db", 2)})  # fmt: skip
    return pd.DataFrame(rows).round(2)


def changes(skew: pd.DataFrame) -> pd.DataFrame:
    """What each skew changed in the gaps between the sexes, women minus men, beside the truth of the same patients.

    Parameters
    ----------
    skew : DataFrame
        Of `tables.skew_table`.

    Returns
    -------
    DataFrame
        skew, quantity, change of the gap, truth; with intervals, in text.
    """
    rows = []
    for row in skew.query("subgroup == 'gap' and quantity != 'eodd'").to_dict("records"):
        rows.append({"skew": row["skew"], "quantity": row["quantity"],
                     "change of the gap": interval(row["delta"], row["low"], row["high"]),
                     "truth of the same patients": figure_of(row, "truth")})  # fmt: skip
    return pd.DataFrame(rows)


def _markdown(table: pd.DataFrame) -> list[str]:
    """Lines of a table, and an empty one."""
    cells = lambda values: "| " + " | ".join("" if pd.isna(cell) else str(cell) for cell in values) + " |"
    rows = table.itertuples(index=False)
    return [cells(table.columns), "|" + "---|" * table.shape[1], *(cells(row) for row in rows), ""]


def page(found: Mapping[str, pd.DataFrame], answers: pd.DataFrame, brain: Mapping[str, pd.DataFrame],
         beside: Mapping[str, pd.DataFrame]) -> str:  # fmt: skip
    """The README of results/mitigation/.

    Parameters
    ----------
    found : mapping
        Tables by name, as in `registered.answers`.
    answers : DataFrame
    brain : mapping
        Tables of the study of brains, by name; may be empty.
    beside : mapping
        `repaired` of other networks than the U-Net, by arm.
    """
    lines = ["# Training-set skew, translation and mitigation", "",
             "All patients are simulated. Made by `python tools/mitigation.py`, which goes on where it was stopped;",
             "`run.json` holds commands, commits and recipes, `REGISTERED.md` what was fixed and committed before the",
             "first full run, what the pilot looked at, and the order in which arms run.", ""]  # fmt: skip
    lines += ["## What was asked, and what came out", ""]
    for kind in ("primary", "secondary"):
        part = answers[answers["kind"] == kind]
        lines += [f"{kind.capitalize()}:", "", *(f"- {line}" for line in sentences(part)), ""] if len(part) else []
    if "repaired" in found:
        lines += ["## Methods beside their twins", "",
                  "A repair above 0 means less bias than the twin leaves; of the twin, than the network before it. The",
                  "last three columns are the change of that subgroup which paid most. Rates of each sex under every",
                  "method: `mitigation.csv`, `levels.png`.", "",
                  *_markdown(costs(found["repaired"]))]  # fmt: skip
    for arm, repaired in beside.items():
        twin = repaired.query("method == 'twin' and threshold == @registered.THRESHOLD").iloc[0]
        lines += [f"## The same with {NETWORKS[arm]}", "",
                  f"Before fine-tuning its odds bias was {figure_of(twin, 'twin_bias')}; `repaired_{arm}.csv`, "
                  f"`run_{arm}.json`.", "",
                  *_markdown(costs(repaired))]  # fmt: skip
    if "skew" in brain:
        lines += ["## Brains, and large tumours", "",
                  "The same question of the brain simulator, `--recipe brain`; tables and figure end in `_brain`.", "",
                  *(f"- {line}" for line in sentences(registered.answers(brain))), "",
                  *_markdown(changes(brain["skew"]))]  # fmt: skip
    missing = [name for name in registered.SKEWS if "skew" not in found or name not in set(found["skew"]["skew"])]
    done = set(found["mitigation"]["method"]) if "mitigation" in found else set()
    missing += [name for name in registered.WEIGHTS if name not in done]
    if missing:
        lines += ["## Registered and not run", "", *(f"- {name}" for name in missing), ""]
    if "translation" in found:
        rows = found["translation"].query("quantity == 'silent_share'").set_index("subgroup")
        told = {who: interval(*rows.loc[who, ["value", "low", "high"]], 2) for who in ("all", "gap")}
        lines += ["## T1 to T2", "", f"Of an oedema that T1 does not show the network draws {told['all']} "
                  f"(1: all of it); women minus men {told['gap']}.", ""]  # fmt: skip
    lines += ["## Files", "", "| table | one row per |", "|---|---|"]
    lines += [f"| `{name}.csv` | {what} |" for name, what in TABLES.items() if name in {*found, "answers"}]
    return "\n".join([*lines, ""])
