"""covid-chestxray-dataset: radiographs out of publications -> a cohort folder.

    git clone https://github.com/ieee8023/covid-chestxray-dataset
    python data_scripts/covid_cxr.py covid-chestxray-dataset data/covid_cxr --size 128 --fit pad --folds 10

SOURCE is the clone, or GitHub's zip of it: `metadata.csv` and `images/<filename>`. Licences differ per image and are
kept in x_license (CC BY, CC BY-NC-SA, CC BY-SA ...; some are blank); the table is CC BY-NC-SA. Not for clinical use.
Cite Cohen et al. 2020, arXiv:2006.11988. The collection shows that a pipeline runs on real radiographs; it supports
no claim: hospital, country and journal go with finding, sex and age.

Taken are frontal X-rays: views PA, AP, AP Supine, AP Erect. Lateral views and CT are left out. Scaled to [0, 1] per
image by its minimum and maximum, as the published code does, since these are screenshots of all kinds; `--scale
fixed` divides by the largest number of the file's type. Tasks: findings and the kinds of pneumonia above them (viral,
bacterial, fungal) that at least `--min-patients` patients have (default 10) and as many have not; of two tasks with
the same labels (fungal, pneumocystis) only the finer one. A finding recorded is 1, and so is what it is a kind of;
what it may turn out to be is not recorded (NaN: "Pneumonia" alone says nothing on COVID-19), anything else is 0. ARDS
is a severity and not a cause: alone, it leaves pneumonia and its kinds unrecorded. "todo" and "Unknown" are no
finding at all: every label NaN. One more task is a *control*, easy and of no clinical use: view_ap (any AP view).
Covariates: x_view, x_offset_days (since symptoms or admission), x_source (host of
the page it came from), x_license. Dates, hospitals and clinical notes are dropped. Race is not recorded.

Known blemishes: files listed under two patients (four of them, two pairs): those are one person, so the patients are
merged and the repeated rows dropped. A third of the ages and a few sexes are missing: unknown. Arrows, letters and
burnt-in text occur; 16-bit and colour files are read as grey. Rows of an unknown view are left out and counted.
"""

import re
from urllib.parse import urlparse

import numpy as np
import pandas as pd
from archives import Source
from common import Funnel, convert, first_patients, lookup, number, parser, read_csv, readable, run, skip_broken
from films import decode, to_square, to_unit

ABOUT = {
    "source": "https://github.com/ieee8023/covid-chestxray-dataset",
    "licence": "per image, column x_license; table CC BY-NC-SA 4.0",
    "cite": "Cohen et al. 2020, arXiv:2006.11988",
    "control_tasks": ["view_ap"],
}
VIEWS = {"PA": "pa", "AP": "ap", "AP Supine": "ap_supine", "AP Erect": "ap_erect"}
OTHER_VIEWS = ("L", "Lateral", "Axial", "Coronal")
SEX = {"F": "female", "M": "male"}
COLUMNS = ["patientid", "sex", "age", "finding", "view", "modality", "filename", "folder"]

KIND_OF = {  # finding as written -> (task, the task it is a kind of)
    "Pneumonia": ("pneumonia", None),
    "Viral": ("viral_pneumonia", "pneumonia"), "Bacterial": ("bacterial_pneumonia", "pneumonia"),
    "Fungal": ("fungal_pneumonia", "pneumonia"), "Lipoid": ("lipoid_pneumonia", "pneumonia"),
    "Aspiration": ("aspiration_pneumonia", "pneumonia"),
    "COVID-19": ("covid_19", "viral_pneumonia"), "SARS": ("sars", "viral_pneumonia"),
    "MERS-CoV": ("mers", "viral_pneumonia"), "MERS": ("mers", "viral_pneumonia"),
    "Influenza": ("influenza", "viral_pneumonia"), "H1N1": ("influenza_h1n1", "influenza"),
    "Varicella": ("varicella", "viral_pneumonia"), "Herpes": ("herpes", "viral_pneumonia"),
    "Streptococcus": ("streptococcus", "bacterial_pneumonia"), "Klebsiella": ("klebsiella", "bacterial_pneumonia"),
    "E.Coli": ("e_coli", "bacterial_pneumonia"), "Legionella": ("legionella", "bacterial_pneumonia"),
    "Mycoplasma": ("mycoplasma", "bacterial_pneumonia"), "Nocardia": ("nocardia", "bacterial_pneumonia"),
    "Mycoplasma Bacterial Pneumonia": ("mycoplasma", "bacterial_pneumonia"),
    "Chlamydophila": ("chlamydophila", "bacterial_pneumonia"),
    "Staphylococcus": ("staphylococcus", "bacterial_pneumonia"), "MRSA": ("mrsa", "staphylococcus"),
    "Pneumocystis": ("pneumocystis", "fungal_pneumonia"), "Aspergillosis": ("aspergillosis", "fungal_pneumonia"),
    "Tuberculosis": ("tuberculosis", None), "ARDS": ("ards", None),
    "No Finding": ("", None), "todo": (None, None), "Unknown": (None, None),
}  # fmt: skip
PARENT = {task: above for task, above in KIND_OF.values() if task}


def lineage(task: str) -> list[str]:
    """A task and everything it is a kind of, `pneumonia` last."""
    return [task, *lineage(PARENT[task])] if PARENT.get(task) else [task]


def labels_of(finding: str, where: str) -> dict[str, int | None]:
    """Labels of all tasks from the text of a finding.

    Parameters
    ----------
    finding : str
        `Pneumonia/Viral/COVID-19`, `COVID-19, ARDS`, `No Finding`, `todo` ...
    where : str
        Row, for the message; a ValueError names a finding that `KIND_OF` does not know.

    Returns
    -------
    dict of str to 0, 1 or None
        None: not recorded.
    """
    found = [lookup(KIND_OF, text.strip(), "finding", where, "KIND_OF") for text in re.split("[/,]", finding)]
    tasks = [task for pair in found if pair for task in pair[:1]]
    if not tasks or None in tasks:
        return dict.fromkeys(PARENT)
    present = {name for task in tasks if task for name in lineage(task)}
    finest = {task for task in present if not any(task in lineage(other)[1:] for other in present)}
    open_ended = {task for task in PARENT if any(leaf in lineage(task)[1:] for leaf in finest)}
    if present == {"ards"}:
        open_ended |= {task for task in PARENT if "pneumonia" in lineage(task)}
    return {task: 1 if task in present else None if task in open_ended else 0 for task in PARENT}


def merged_patients(table: pd.DataFrame) -> pd.Series:
    """Patient of every row, patients who share a file taken as one and called by the first of their ids."""
    one = {patient: patient for patient in table["patientid"]}

    def root(patient):
        return patient if one[patient] == patient else root(one[patient])

    for _, patients in table.groupby("filename")["patientid"]:
        roots = sorted({root(patient) for patient in patients}, key=lambda text: (len(text), text))
        one.update(dict.fromkeys(roots, roots[0]))
    return table["patientid"].map(root)


def read_films(source: Source, funnel: Funnel | None = None) -> tuple[pd.DataFrame, int, list[str]]:
    """Frontal films that are there, how many the table lists, and what was noted; `funnel` counts who is left.

    Returns
    -------
    films : DataFrame
        One row per file, in the order of the table, with `patient_id` and `file`.
    n_listed : int
        Frontal films of the table, each file once.
    notes : list of str
    """
    name = source.find("metadata.csv")
    table = read_csv(source, name, COLUMNS)
    films = table[table["modality"] == "X-ray"]
    odd = films.loc[~films["view"].isin([*VIEWS, *OTHER_VIEWS]), "view"].replace("", "(blank)").value_counts()
    films = films[films["view"].isin(VIEWS)]
    notes = [f"{len(table) - len(films)} of {len(table)} rows are no frontal X-rays and left out"]
    if len(odd):
        codes = ", ".join(f"{code!r} ({n})" for code, n in odd.items())
        notes.append(f"{odd.sum()} of them have a view that VIEWS and OTHER_VIEWS in covid_cxr.py do not know: {codes}")
    funnel = Funnel() if funnel is None else funnel
    funnel.count(f"recorded in {name}", table.rename(columns={"patientid": "patient_id"}))
    films = films.assign(patient_id=merged_patients(films))
    twice = films["filename"].duplicated()
    n_merged = films["patientid"].nunique() - films["patient_id"].nunique()
    notes.append(f"{twice.sum()} files listed under two patients: {n_merged} pairs of patients merged, one row kept")
    n_blank = {column: int((films[column] == "").sum()) for column in ("age", "sex")}
    notes.append(f"in {len(films)} rows of the table {n_blank['age']} ages and {n_blank['sex']} sexes are missing")
    films = films[~twice]
    funnel.count("frontal X-rays, each file once", films)
    files = {tuple(file.split("/")[-2:]): file for file in source.names}
    films = films.assign(file=[files.get((row.folder, row.filename)) for row in films.itertuples()])
    there = films.dropna(subset="file")
    funnel.count("with image", there)
    return there, len(films), notes


def read_row(film, tasks: list[str]) -> dict:
    """The cohort's row of one film, with the labels of `tasks`."""
    where = f"{film.filename} in metadata.csv"
    labels = labels_of(film.finding, where) | {"view_ap": int(VIEWS[film.view] != "pa")}
    return {
        "image_id": film.filename,
        "patient_id": film.patient_id,
        "modality": "xray",
        "sex": lookup(SEX, film.sex, "sex", where, "SEX"),
        "age_years": number(film.age, "age", where),
        "race": None,
        **{f"y_{task}": labels[task] for task in tasks},
        "x_view": VIEWS[film.view],
        "x_offset_days": number(getattr(film, "offset", ""), "offset", where),
        "x_source": urlparse(getattr(film, "url", "")).netloc,
        "x_license": getattr(film, "license", ""),
    }


def frequent_tasks(films: pd.DataFrame, min_patients: int) -> list[str]:
    """Tasks that at least `min_patients` patients of `films` have, and as many have not; of equal ones the finest."""
    every = pd.DataFrame([labels_of(film.finding, f"{film.filename} in metadata.csv") for film in films.itertuples()])
    every = every.assign(view_ap=[VIEWS[view] != "pa" for view in films["view"]]).astype(float)
    patients = films["patient_id"].to_numpy()
    often = [task for task in every if all(len(np.unique(patients[every[task] == value])) >= min_patients
                                           for value in (0, 1))]  # fmt: skip
    same = {
        above for task in often for above in lineage(task)[1:] if above in often and every[task].equals(every[above])
    }
    return [task for task in often if task not in same]


def items(source: Source, films: pd.DataFrame, tasks: list[str], arguments):
    """(image, row) of every film; pixels are read when they are asked for."""
    for film in films.itertuples():
        yield lambda name=film.file: _film(source, name, arguments), read_row(film, tasks)


def _film(source, name, arguments) -> np.ndarray:
    pixels = decode(source.read(name), name)
    pixels = pixels if pixels.ndim == 2 else pixels.mean(axis=2).round().astype(np.uint8)
    return to_square(to_unit(pixels, arguments.scale, name, arguments.bits), arguments.size, arguments.fit)


def main(argv: list[str] | None = None):
    """Convert; returns the cohort."""
    options = skip_broken(parser(__doc__, conflicts="unknown"))
    options.add_argument("--min-patients", type=int, default=10, metavar="N",
                         help="patients with and without a finding that make it a task (10)")  # fmt: skip
    arguments = options.parse_args(argv)
    source = Source(arguments.source)
    funnel = Funnel()
    films, n_listed, notes = read_films(source, funnel)
    films, more = readable(source, first_patients(films, arguments.patients), arguments, funnel)
    tasks = frequent_tasks(films, arguments.min_patients) if len(films) else []
    rare = sorted(set(PARENT) - set(tasks))
    few = f"fewer than {arguments.min_patients} patients have it or have it not"
    notes.append(f"no task, as {few} or a finer one has the same labels: {', '.join(rare)}")
    return convert(arguments, source, items(source, films, tasks, arguments), len(films), name="covid_cxr",
                   about=ABOUT | {"min_patients": arguments.min_patients}, expected={"images": n_listed},
                   notes=notes + more, funnel=funnel, tasks=tasks)  # fmt: skip


if __name__ == "__main__":
    run(main)
