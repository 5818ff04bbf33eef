"""LGG MRI Segmentation (TCGA-LGG): FLAIR slices with tumour masks -> a cohort folder.

    kaggle datasets download mateuszbuda/lgg-mri-segmentation
    python data_scripts/tcga_lgg.py lgg-mri-segmentation.zip data/tcga_lgg --size 128 --folds 3

SOURCE is that zip or its unpacked folder: `kaggle_3m/<case>/<case>_<slice>.tif`, `..._mask.tif`, `data.csv`. Licence:
CC BY-NC-SA 4.0 (the Kaggle release of M. Buda; the images come from TCIA, TCGA-LGG). Not for clinical use. Cite Buda,
Saha, Mazurowski 2019, doi:10.1016/j.compbiomed.2019.05.002, and TCGA-LGG, doi:10.7937/K9/TCIA.2016.L4LTD3TK.

Image: channel 1 of 3 (before contrast, FLAIR, after contrast), axial, 256 px, not skull-stripped. Mask: the FLAIR
abnormality. Scaled to [0, 1] per slice by its minimum and maximum, as the published code does and because MRI has no
unit; `--scale fixed` divides by 255 instead, which keeps the brightness that the publisher gave; `--scale
volume-percentile` by the 99.9th percentile of the exam, so that one hot pixel leaves no slice black. Tasks:
tumour_grade (1 = G3, 0 = G2; the paper's task is grade 4 against 2-3, which this cohort cannot ask), astrocytoma and
oligodendroglioma (each against the two other histologies), tumour_on_slice (of each slice), large_tumour (mask pixels
of all slices of a patient at or above LARGE, about the median of 75 patients), tumour_left (1 where at least 60 %
of them lie in the image's left half, 0 where at most 40 %; a *control*, of no clinical use: it is told by the place
alone, which a reader that averages over the image cannot see), and idh1 (1 = mutated) where data.csv has a column
IDH1 or `--idh1 TABLE.csv` brings one (columns Patient, IDH1; cBioPortal has it for TCGA-LGG). Covariates: x_site
(tissue source site, from the case id), x_histology, x_ethnicity, x_coc_cluster (molecular cluster of clusters, a number
without legend; by histology, grade and age a guess is 1 IDH-mutant, 2 IDH-wildtype, 3 IDH-mutant with 1p/19q
codeletion), x_slice, x_tumour (1 where the mask is not empty), x_tumour_pixels (of the source's grid).

Known blemishes: TCGA_HT_A61B has no clinical values, so its sex, age, race and labels are unknown; race or grade is
blank for a few others. A missing sequence is a copy of FLAIR in the source, which does not matter here. The Kaggle
zip holds every file twice; one copy is read. Case names carry the date of the exam: it is dropped.
"""

import re
from argparse import Namespace
from functools import lru_cache

import numpy as np
import pandas as pd
from archives import Source
from common import MIN_SHARE, Funnel, agreeing, convert, first_patients, joined, lookup, number, parser, read_csv, run
from films import check_shape, decode, high_of, mask_of, mask_to_square, to_square, to_unit, to_unit_percentile

ABOUT = {
    "source": "LGG MRI Segmentation (Kaggle: mateuszbuda/lgg-mri-segmentation), from TCGA-LGG (TCIA)",
    "licence": "CC BY-NC-SA 4.0",
    "cite": "doi:10.1016/j.compbiomed.2019.05.002; doi:10.7937/K9/TCIA.2016.L4LTD3TK",
    "control_tasks": ["tumour_left"],
}
EXPECTED = {"patients": 110, "images": 3929}
FLAIR = 1  # channel
LARGE = 17_000  # mask pixels of the source's grid, summed over a patient's slices
FROM_MASKS = ("tumour_on_slice", "large_tumour", "tumour_left")

# The source has no legend; these were checked against TCGA's clinical table.
SEX = {"1": "female", "2": "male"}
RACE = {"1": "unknown", "2": "black", "3": "white"}  # 1 could not be checked: it is Asian or American Indian
ETHNICITY = {"1": "hispanic", "2": "not hispanic"}
GRADE = {"1": 0, "2": 1}  # G2, G3
HISTOLOGY = {"1": "astrocytoma", "2": "oligoastrocytoma", "3": "oligodendroglioma"}
IDH1 = {"0": 0, "1": 1, "wildtype": 0, "WT": 0, "mutant": 1, "mutated": 1, "Mutant": 1}
COLUMNS = ["Patient", "histological_type", "neoplasm_histologic_grade", "gender", "age_at_initial_pathologic", "race",
           "ethnicity", "COCCluster"]  # fmt: skip
SAMPLE = re.compile(r"^(TCGA_\w\w_\w{4})_\w{2,3}(?:_.*)?$")  # a sample's barcode is its patient's and more
SLICE = re.compile(r"(?P<case>(?P<patient>TCGA_(?P<site>\w\w)_\w{4})_\d{8})_(?P<slice>\d+)\.tif$")


def read_patients(
    source: Source, idh1_table: str | None, min_joined: float = MIN_SHARE
) -> tuple[dict[str, dict], list[str]]:
    """The part of a row that all slices of a patient share, by patient, and what was noted.

    Parameters
    ----------
    source : Source
    idh1_table : str or None
        Path of a table with columns Patient (or a sample's barcode) and IDH1.
    min_joined : float
        Share of patients that it has to know.
    """
    name, notes = source.find("data.csv"), []
    table = agreeing(read_csv(source, name, COLUMNS), "Patient", name)
    if idh1_table:
        extra = read_csv(None, idh1_table, ["Patient", "IDH1"])[["Patient", "IDH1"]]
        extra["Patient"] = extra["Patient"].str.upper().str.replace("-", "_").str.replace(SAMPLE, r"\1", regex=True)
        extra = agreeing(extra[extra["IDH1"] != ""], "Patient", idh1_table)
        notes.append(joined(table["Patient"], extra["Patient"], idh1_table, min_joined))
        table = table.drop(columns="IDH1", errors="ignore").merge(extra, how="left").fillna("")
    patients = {}
    for row in table.to_dict("records"):
        if all(row[column] == "" for column in COLUMNS[1:-1]):
            notes.append(f"{row['Patient']}: blank in data.csv; sex, age, race and labels are unknown")
        patients[row["Patient"]] = _patient(row, name, "IDH1" in table)
    for key in ("sex", "age_years", "race", "y_tumour_grade"):
        n_blank = sum(patient[key] is None for patient in patients.values())
        notes.append(f"{key} blank for {n_blank} of {len(patients)} patients in data.csv")
    return patients, notes


def _patient(row: dict, table: str, has_idh1: bool) -> dict:
    where = f"{row['Patient']} in {table}"
    histology = lookup(HISTOLOGY, row["histological_type"], "histological_type", where, "HISTOLOGY")
    grade = row["neoplasm_histologic_grade"]
    patient = {
        "sex": lookup(SEX, row["gender"], "gender", where, "SEX"),
        "age_years": number(row["age_at_initial_pathologic"], "age_at_initial_pathologic", where),
        "race": lookup(RACE, row["race"], "race", where, "RACE"),
        "y_tumour_grade": lookup(GRADE, grade, "neoplasm_histologic_grade", where, "GRADE"),
        "y_astrocytoma": None if histology is None else histology == "astrocytoma",
        "y_oligodendroglioma": None if histology is None else histology == "oligodendroglioma",
        "x_histology": histology,
        "x_ethnicity": lookup(ETHNICITY, row["ethnicity"], "ethnicity", where, "ETHNICITY"),
        "x_coc_cluster": number(row["COCCluster"], "COCCluster", where),
    }
    return patient | ({"y_idh1": lookup(IDH1, row["IDH1"], "IDH1", where, "IDH1")} if has_idh1 else {})


def list_slices(source: Source) -> pd.DataFrame:
    """One row per slice with a name `<case>_<slice>.tif`: patient_id, site, slice, image_id, image, mask.

    Raises
    ------
    FileNotFoundError
        A slice has no mask.
    """
    masks, slices = {}, {}
    for name in sorted(source.names, key=lambda name: (len(name), name)):  # of two copies, the shorter path
        file = name.rpartition("/")[2]
        if match := SLICE.search(file.replace("_mask.tif", ".tif")):
            (masks if file.endswith("_mask.tif") else slices).setdefault(match.groups(), name)
    exams: dict[str, list] = {}
    for case, patient in sorted({key[:2] for key in slices}):
        exams.setdefault(patient, []).append(case)
    rows = []
    for (case, patient, site, index), name in slices.items():
        if (case, patient, site, index) not in masks:
            raise FileNotFoundError(f"{name} has no mask beside it: the download is not whole, fetch it again")
        exam = chr(ord("a") + exams[patient].index(case)) if len(exams[patient]) > 1 else ""
        rows.append({"patient_id": patient, "site": site, "slice": int(index), "image": name,
                     "mask": masks[case, patient, site, index],
                     "image_id": f"{patient}{exam}_{int(index):03}"})  # fmt: skip
    order = {name: rank for rank, name in enumerate(source.ordered({row["image"]: row["image_id"] for row in rows}))}
    first = {}
    for row in sorted(rows, key=lambda row: order[row["image"]]):
        first.setdefault(row["patient_id"], len(first))
    rows.sort(key=lambda row: (first[row["patient_id"]], row["image_id"]))
    return pd.DataFrame(rows, columns=["patient_id", "site", "slice", "image", "mask", "image_id"])


def items(source: Source, slices: pd.DataFrame, patients: dict, arguments: Namespace):
    """(image, row, mask) of every slice; pixels are read when they are asked for."""

    @lru_cache(maxsize=1)
    def high(names):
        return high_of(_channel(source, name) for name in names)

    for patient, part in slices.groupby("patient_id", sort=False):
        source.prefetch([*part["image"], *part["mask"]])
        volume = tuple(part["image"]) if arguments.scale == "volume-percentile" else ()
        masks = [mask_of(decode(source.read(name), name), name) for name in part["mask"]]
        whole = tumour_labels(masks)
        for row, mask in zip(part.itertuples(), masks):
            traits = {"image_id": row.image_id, "patient_id": patient, "modality": "mri"} | patients[patient] | whole
            traits |= {"y_tumour_on_slice": int(mask.any())}
            traits |= {"x_site": row.site, "x_slice": row.slice, "x_tumour": int(mask.any())}
            traits |= {"x_tumour_pixels": int(np.count_nonzero(mask))}
            place = (row, mask.shape, volume)
            yield (lambda place=place: _flair(source, *place, arguments, high), traits,
                   mask_to_square(mask, arguments.size, arguments.fit))  # fmt: skip


def tumour_labels(masks: list[np.ndarray]) -> dict[str, int | None]:
    """What the masks (H, W) of all slices say of a patient: y_large_tumour and y_tumour_left, None in the middle."""
    pixels = sum(np.count_nonzero(mask) for mask in masks)
    left = sum(np.count_nonzero(mask[:, : mask.shape[1] // 2]) for mask in masks) / pixels if pixels else 0.5
    return {"y_large_tumour": int(pixels >= LARGE), "y_tumour_left": 1 if left >= 0.6 else 0 if left <= 0.4 else None}


def _channel(source, name) -> np.ndarray:
    pixels = decode(source.read(name), name)
    if pixels.ndim != 3:
        raise ValueError(f"{name} has one channel instead of three: take the .tif files as published")
    return pixels[..., FLAIR]


def _flair(source, row, shape, volume, arguments, high) -> np.ndarray:
    pixels = _channel(source, row.image)
    check_shape(pixels, shape, row.image, row.mask)
    unit = (
        to_unit_percentile(pixels, high(volume))
        if volume
        else to_unit(pixels, arguments.scale, row.image, arguments.bits)
    )
    return to_square(unit, arguments.size, arguments.fit)


def main(argv: list[str] | None = None):
    """Convert; returns the cohort. ValueError if slices belong to a patient who is not in data.csv."""
    options = parser(__doc__, scales=("image", "fixed", "volume-percentile"))
    options.add_argument("--idh1", metavar="TABLE.csv", help="IDH1 status by patient, columns Patient and IDH1")
    arguments = options.parse_args(argv)
    source = Source(arguments.source)
    patients, notes = read_patients(source, arguments.idh1, arguments.min_joined)
    slices, funnel = list_slices(source), Funnel()
    funnel.append({"step": "recorded in data.csv", "patients": len(patients), "images": len(slices)})
    unknown = sorted(set(slices["patient_id"]) - set(patients))
    if unknown:
        raise ValueError(f"data.csv has no row for {', '.join(unknown[:5])}: take the original table")
    funnel.count("with image", slices)
    slices = first_patients(slices, arguments.patients)
    tasks = [key[2:] for key in next(iter(patients.values()), {}) if key.startswith("y_")] + [*FROM_MASKS]
    return convert(arguments, source, items(source, slices, patients, arguments), len(slices), name="tcga_lgg",
                   about=ABOUT, expected=EXPECTED, notes=notes, funnel=funnel, tasks=tasks)  # fmt: skip


if __name__ == "__main__":
    run(main)
