"""The numbers of both papers: Tables 1 to 7 of the seed, 1 to 8 of its follow-up, and what may be compared with them.

`numbers()` reads `published.csv`, which lies beside this file and is meant to be read: one row per printed number.
Names of cohort, arm, task, attribute, metric and level are the house's, `row` and `column` the paper's. Tables:

- "1" ... "7": the seed's. Table 5 has the parts 5a (sex), 5b (age) and 5c (race).
- "F1" ... "F8": the follow-up's (arXiv 2604.10904). F7 and F8 print the seed's Tables 4 and 3 again.
- "FT": numbers that the follow-up prints in a sentence only; "FA": first and last tick of its Figs 11 and 12, which
  print no value; "FS": mitigation on the authors' slides, arm by arm (Table F4 prints only their averages).

What is not plain about the columns:

- `printed`: as printed, so "0.70" has two decimals. `origin`: "text" (read in the paper's text), "followup" (the seed's
  text lost its column, the follow-up prints it), "copied" (printed, but the published code fills the cell from another
  column), "slides" (of the authors), "axis" (a tick of a figure).
- `slides`: the same number with more decimals, where the authors' slides have it.
- `colour`: "worse" or "better" where the slides colour the cell (p < .05 in the paper's test); "worse at .1".
- `note`: why the print is doubtful.

What chance alone would have printed is in `chance` and `unchanged`.
"""

from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

KEY = ("table", "row", "column")
COHORTS = ("UCSF-PDGM", "CheXpert")
POOLED = "both"  # the cohort of a number that is taken over both
COUNTED = ("patients", "cells")  # metrics that are counts

FIGURES = {  # the paper's result figures: what is in them, the notebook with the counterpart, its pictures' names
    "2": ("MRI at several accelerations", "02", "02_fig2"),
    "3": ("X-ray at several photon counts", "03", "03_fig3"),
    "4": ("brain: reconstructions and masks", "08", "08_fig_4"),
    "5": ("chest: reconstructions and Grad-CAM", "08", "08_fig_5"),
    "7": ("Dice and PSNR over acceleration", "08", "08_noise"),
    "8": ("mean AUROC and PSNR over photon count", "08", "08_noise"),
    "10": ("mean absolute change of SER and Delta Dice", "10", "10_fig_21"),
    "11": ("mean absolute change of EODD and EOP", "10", "10_fig_11"),
    "12": ("change by tumour task", "10", "10_fig_12"),
    "13": ("change by finding", "10", "10_fig_13"),
    "15": ("tumour grade: AUROC and PSNR over acceleration", "08", "08_noise"),
    "16": ("tumour type: AUROC and PSNR over acceleration", "08", "08_noise"),
    "17": ("every finding: AUROC and PSNR over photon count", "08", "08_findings"),
    "19": ("standard errors, segmentation", "10", "10_fig_20"),
    "20": ("standard errors, classification", "10", "10_fig_20"),
    "21": ("change of SER and Delta Dice", "10", "10_fig_21"),
}
FOLLOW_UP_FIGURES = {  # the same of the follow-up; its notebook 12 draws what the seed's notebooks do not
    "2": ("Dice, mean AUROC and PSNR over the noise level", "08", "08_noise"),
    "3": ("histogram of the change in per cent", "12", "12_percent"),
    "4": ("change by finding", "12", "12_change_chest"),
    "5": ("change by brain task", "12", "12_change_brain"),
    "10": ("brain: AUROC and PSNR over acceleration", "08", "08_noise"),
    "14": ("change of EOP by finding", "10", "10_fig_13"),
    "15": ("change of EOP and Delta Dice, brain", "10", "10_fig_21"),
    "16": ("histogram with merged races", "12", "12_merged"),
    "17": ("change by finding with merged races", "12", "12_merged_change"),
    "18": ("SSIM in place of PSNR", "12", "12_ssim"),
    "19": ("SSIM, brain tasks", "12", "12_ssim"),
    "20": ("histogram by attribute", "12", "12_percent"),
}


# ---------------------------------------------------------------------- the printed numbers
@cache
def _numbers() -> pd.DataFrame:
    text = files("fairrecon_lab.paper").joinpath("published.csv").open(encoding="utf-8")
    with text:
        table = pd.read_csv(text, dtype=str, keep_default_na=False)
    table["level"] = pd.to_numeric(table["level"], errors="coerce")
    table["value"] = pd.to_numeric(table["printed"], errors="coerce")
    decimals = table["printed"].str.partition(".")[2].str.len()
    rounding = np.where(table["metric"].isin(COUNTED), 0.0, 0.5 * 10.0**-decimals)
    table["precision"] = np.where(table["printed"] == "0", np.where(table["metric"] == "p_value", 0.001, 0.0), rounding)
    return table


def numbers(table: str | None = None) -> pd.DataFrame:
    """All printed numbers, or those of one table ("1" ... "7", "F1" ... ; "5" has the parts "5a", "5b", "5c").

    Returns
    -------
    DataFrame
        Columns of `published.csv`, and `value` and `precision`: half a unit of the last printed digit.

    Raises
    ------
    ValueError
        Unknown table.
    """
    frame = _numbers()
    if table is not None:
        wanted = frame["table"].str.fullmatch(f"{table}[abc]?")
        if not wanted.any():
            raise ValueError(f"no table {table!r}; there are {', '.join(frame['table'].unique())}")
        frame = frame[wanted]
    return frame.reset_index(drop=True)


def paper_table(table: str, values: str = "printed") -> pd.DataFrame:
    """One table in the paper's own rows and columns, of any column `values` of `numbers()`."""
    frame = numbers(table)
    wide = frame.pivot(index="row", columns="column", values=values)
    wide = wide.reindex(index=frame["row"].unique(), columns=frame["column"].unique())
    return wide.fillna("") if values == "printed" else wide


def changes() -> pd.DataFrame:
    """Table 5 as one row per attribute, task, metric and arm: `value`, `baseline`, `change` and the cell's `colour`.

    `copied` marks the eight baselines that are no baselines; their change says nothing.
    """
    frame = numbers("5")
    on = ["attribute", "task", "metric"]
    base = frame[frame["arm"] == "clean"].assign(copied=lambda rows: rows["origin"] == "copied")
    base = base.rename(columns={"value": "baseline"})[[*on, "baseline", "copied"]]
    out = frame[frame["arm"] != "clean"].merge(base, on=on)
    out["change"] = (out["value"] - out["baseline"]).round(3)
    return out[[*on, "arm", "value", "baseline", "change", "colour", "copied"]]


def compare(ours: pd.DataFrame) -> pd.DataFrame:
    """Put our numbers beside the printed ones, and say which of them may be compared at all.

    Parameters
    ----------
    ours : DataFrame
        One row per number: `table row column value`, and perhaps `low high` (the ends of its interval), `source`
        (name of the data; only the paper's own, `COHORTS`, can be compared), `definition` (how the quantity differs
        from the paper's; "" where it does not) and `unlike` (how its making differs, reasons joined by "; ").

    Returns
    -------
    DataFrame
        Every printed number with `published precision ours ours_low ours_high comparable why_not agrees note`.
        `agrees`: the printed number lies in our interval, widened by its precision; None where it cannot be asked.

    Raises
    ------
    ValueError
        A column is missing, a number has no counterpart in the paper or occurs twice.
    """
    absent = [name for name in (*KEY, "value") if name not in ours]
    if absent:
        raise ValueError(f"our numbers lack {absent}; their columns are {list(ours.columns)}")
    ours = ours.reindex(columns=[*KEY, "value", "low", "high", "source", "definition", "unlike"])
    ours = ours.fillna({"source": "", "definition": "", "unlike": ""}).astype(
        dict.fromkeys(("value", "low", "high"), float)
    )
    frame = _numbers().rename(columns={"value": "published"})
    strange = pd.MultiIndex.from_frame(ours[list(KEY)]).difference(pd.MultiIndex.from_frame(frame[list(KEY)]))
    if len(strange):
        raise ValueError(f"{len(strange)} of our numbers have no cell in the paper, e.g. {strange[0]}: see numbers()")
    if ours.duplicated(list(KEY)).any():
        twice = ours.loc[ours.duplicated(list(KEY)), list(KEY)].iloc[0].tolist()
        raise ValueError(f"our numbers hold {twice} twice: one number per cell")
    names = {"value": "ours", "low": "ours_low", "high": "ours_high"}
    frame = frame.merge(ours.rename(columns=names), on=list(KEY), how="left")
    frame["why_not"] = [_why_not(row) for row in frame.itertuples()]
    frame["comparable"] = frame["why_not"] == ""
    frame["agrees"] = [_agrees(row) for row in frame.itertuples()]
    kept = (*KEY, "metric", "published", "precision", *names.values(), "comparable", "why_not", "agrees", "note")
    return frame[list(kept)]


def _why_not(row) -> str:
    """Reasons why a pair may not be compared, joined; "" if it may."""
    missing = not np.isfinite(row.ours)
    reasons = {
        "no value printed": row.origin == "axis",
        "copied value": row.origin == "copied",
        "not computed": missing,
        f"other cohort: {row.source or 'unnamed'}": not missing and row.source != row.cohort,
        f"other definition: {row.definition}": not missing and row.definition != "",
        str(row.unlike): not missing and row.unlike != "",
    }
    return "; ".join(reason for reason, holds in reasons.items() if holds)


def reasons(compared: pd.DataFrame) -> pd.DataFrame:
    """Why cells cannot be compared, one line per reason, with their number; a cell may have several.

    `compared` is what `compare` returns.
    """
    lines = compared["why_not"].str.split("; ").explode().replace("", "comparable")
    return lines.value_counts().rename_axis("reason").rename("cells").to_frame()


def _agrees(row) -> bool | None:
    if not row.comparable or not np.isfinite(row.ours_low + row.ours_high):
        return None
    return bool(row.ours_low - row.precision <= row.published <= row.ours_high + row.precision)


def side_by_side(compared: pd.DataFrame, table: str) -> pd.DataFrame:
    """One table in the paper's form: "printed | ours", a dash where ours is missing; no bar where the whole table is.

    `compared` is what `compare` returns.
    """
    shown = ["table", "row", "column", "printed", "metric"]
    rows = compared[compared["table"] == table].merge(numbers()[shown], on=[*KEY, "metric"])
    digits = rows["printed"].str.partition(".")[2].str.len().where(rows["metric"] != "p_value", 3)
    mine = [" | -" if np.isnan(value) else f" | {value:.{d}f}" for value, d in zip(rows["ours"], digits)]
    rows["both"] = rows["printed"] + (mine if rows["ours"].notna().any() else "")
    wide = rows.pivot(index="row", columns="column", values="both")
    return wide.reindex(index=rows["row"].unique(), columns=rows["column"].unique()).fillna("")


def as_markdown(frame: pd.DataFrame) -> str:
    """A table of sentences in Markdown, whose columns wrap; the names of columns become words."""
    heads = [str(name).replace("_", " ") for name in frame.columns]
    rows = [heads, ["---"] * len(heads), *frame.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows)


def doubts() -> pd.DataFrame:
    """Why a print is doubted, and how many cells of which table."""
    doubtful = numbers()
    doubtful = doubtful[(doubtful["note"] != "") & (doubtful["note"] != "printed Atalectasis")]
    note = doubtful["note"].str.replace(r"^printed Atal.*?; ", "", regex=True)
    note = note.str.replace(r"label displaced.*", "photon count or metric label displaced in the text", regex=True)
    note = note.str.replace(r"Fig\. 1[12] prints", "The figure prints", regex=True)
    return doubtful.assign(note=note).groupby(["table", "note"], sort=False).size().rename("cells").reset_index()
