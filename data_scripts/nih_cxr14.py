"""NIH ChestX-ray14: frontal radiographs with 14 findings -> a cohort folder.

    python data_scripts/nih_cxr14.py ChestXray-NIHCC data/nih_cxr14 --size 64 --folds 5

SOURCE is the folder as downloaded from https://nihcc.app.box.com/v/ChestXray-NIHCC (images_001.tar.gz to
images_012.tar.gz are read as they are) or its unpacked form, with `Data_Entry_2017_v2020.csv`; images of any size.
Licence: NIH states no restrictions on use, but asks for that link, the citation, and an acknowledgement of the NIH
Clinical Center. Not for clinical use. Cite Wang et al., CVPR 2017, doi:10.1109/CVPR.2017.369.

Scaled to [0, 1] per image by its minimum and maximum, as the published code does with its radiographs; the source's
8 bits carry no unit either. `--scale fixed` divides by 255 instead. Tasks: the 14 findings, read by a program from
reports (its authors expect more than 90 % of the labels to be right); "No Finding" is 0 in all 14; any_finding (one
of the 14); view_ap (taken from the front of the bed; a *control*: easy, and of no clinical use). Effusion becomes
pleural_effusion, to agree with the other chest cohorts. Covariates: x_view (ap or pa; AP patients are sicker, so view
is a confounder) and x_follow_up. A patient has many images: splits are by patient. Race is not recorded.

Known blemishes: ages above 120 (typing errors such as 411 in the table of 2017) become unknown; ages written as
058Y, 011M, 020D are read. A few hundred files have four channels: they are turned into grey. Several images are
rotated, inverted or not of a chest; they are kept.
"""

import re

import pandas as pd
from archives import Source
from common import Funnel, convert, first_patients, lookup, number, parser, read_csv, readable, run, skip_broken
from films import decode, to_square, to_unit

ABOUT = {
    "source": "NIH ChestX-ray14, https://nihcc.app.box.com/v/ChestXray-NIHCC",
    "licence": "no restrictions stated by NIH; link, citation and acknowledgement asked for",
    "cite": "Wang et al., CVPR 2017, doi:10.1109/CVPR.2017.369",
    "control_tasks": ["view_ap"],
}
EXPECTED = {"patients": 30_805, "images": 112_120}
FINDINGS = {
    "Atelectasis": "atelectasis", "Cardiomegaly": "cardiomegaly", "Consolidation": "consolidation", "Edema": "edema",
    "Effusion": "pleural_effusion", "Emphysema": "emphysema", "Fibrosis": "fibrosis", "Hernia": "hernia",
    "Infiltration": "infiltration", "Mass": "mass", "Nodule": "nodule", "Pleural_Thickening": "pleural_thickening",
    "Pneumonia": "pneumonia", "Pneumothorax": "pneumothorax", "No Finding": None,
}  # fmt: skip
TASKS = [*sorted(filter(None, FINDINGS.values())), "any_finding", "view_ap"]
SEX = {"F": "female", "M": "male"}
VIEW = {"PA": "pa", "AP": "ap"}
YEARS = {"Y": 1, "M": 1 / 12, "D": 1 / 365.25, "": 1}
COLUMNS = ["Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position"]


def read_age(text: str, where: str) -> float | None:
    """Age in years of `58`, `058Y`, `011M` or `020D`; None if blank; ValueError naming the row `where` otherwise."""
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([YMD]?)", text)
    if not match:
        raise ValueError(f"{where}: {text!r} in column 'Patient Age' is no age: mend the table")
    return float(match[1]) * YEARS[match[2]]


def read_entries(source: Source, funnel: Funnel | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Rows of the table whose images are there, in the order to read them in (column `file`), and what was noted.

    `funnel` counts who is left.
    """
    funnel = Funnel() if funnel is None else funnel
    name = source.find("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    table = read_csv(source, name, COLUMNS)
    sex = next((column for column in ("Patient Gender", "Patient Sex") if column in table), None)
    if sex is None:
        raise ValueError(f"{name} has neither 'Patient Gender' nor 'Patient Sex': take the original table")
    table = table.rename(columns={sex: "sex", "Image Index": "image", "Finding Labels": "findings",
                                  "Patient ID": "patient_id", "Patient Age": "age", "View Position": "view",
                                  "Follow-up #": "follow_up"})  # fmt: skip
    table["patient_id"] = table["patient_id"].str.removesuffix(".0").str.zfill(8)
    funnel.count(f"recorded in {name}", table)
    if table["image"].duplicated().any():
        raise ValueError(f"{name} lists {table['image'][table['image'].duplicated()].iloc[0]} twice: take the original")
    files = {file.rpartition("/")[2]: file for file in sorted(source.names, reverse=True) if file.endswith(".png")}
    table["file"] = table["image"].map(files)
    unlisted = len(set(files) - set(table["image"]))
    notes = [f"{int(table['file'].isna().sum())} images of the table are not in the source"]
    notes += [f"{unlisted} images in the source are not in the table and left out"] if unlisted else []
    table = table.dropna(subset="file").set_index("file")
    funnel.count("with image", table)
    return table.loc[source.ordered(table["image"].to_dict())].reset_index(), notes


def read_row(entry, table_name: str) -> dict:
    """The cohort's row of one entry."""
    where = f"{entry.image} in {table_name}"
    age = read_age(entry.age, where)
    names = {lookup(FINDINGS, text, "Finding Labels", where, "FINDINGS") for text in entry.findings.split("|")}
    if not entry.findings:
        labels = dict.fromkeys((f"y_{task}" for task in TASKS), None)
    else:
        labels = {f"y_{task}": int(task in names) for task in TASKS} | {"y_any_finding": int(names != {None})}
    view = lookup(VIEW, entry.view, "View Position", where, "VIEW")
    labels["y_view_ap"] = None if view is None else int(view == "ap")
    return {
        "image_id": entry.image.removesuffix(".png"),
        "patient_id": entry.patient_id,
        "modality": "xray",
        "sex": lookup(SEX, entry.sex, "Patient Gender", where, "SEX"),
        "age_years": None if age is None or age > 120 else age,
        "race": None,
        **labels,
        "x_view": view,
        "x_follow_up": int(number(str(getattr(entry, "follow_up", "")), "Follow-up #", where) or 0),
    }


def items(source: Source, entries: pd.DataFrame, arguments):
    """(image, row) of every entry; pixels are read when they are asked for."""
    for entry in entries.itertuples():
        yield lambda name=entry.file: _film(source, name, arguments), read_row(entry, "the table of entries")


def _film(source, name, arguments):
    pixels = decode(source.read(name), name)
    return to_square(to_unit(pixels, arguments.scale, name, arguments.bits), arguments.size, arguments.fit)


def main(argv: list[str] | None = None):
    """Convert; returns the cohort."""
    arguments = skip_broken(parser(__doc__)).parse_args(argv)
    source = Source(arguments.source)
    funnel = Funnel()
    entries, notes = read_entries(source, funnel)
    ages = [read_age(text, image) for image, text in zip(entries["image"], entries["age"])]
    notes.append(f"{sum(age is not None and age > 120 for age in ages)} ages above 120 years became unknown")
    entries, more = readable(source, first_patients(entries, arguments.patients), arguments, funnel)
    return convert(arguments, source, items(source, entries, arguments), len(entries), name="nih_cxr14", about=ABOUT,
                   expected=EXPECTED, notes=notes + more, funnel=funnel, tasks=TASKS)  # fmt: skip


if __name__ == "__main__":
    run(main)
