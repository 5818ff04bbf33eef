"""The paper's two downloads as their publishers lay them out, with drawn patients: for tests, from a seed, in seconds.

UCSF-PDGM: folders `UCSF-PDGM-0004_nifti`, volumes of 240 x 240 x 155 voxels of 1 mm stored from right to left and front
to back, the table with its real columns, follow-ups under both spellings. CheXpert: `train.csv` and `valid.csv` with
their real columns, films of 390 x 320 px, the sheet `CHEXPERT DEMO.xlsx`, and four layouts. The images are the
project's simulated brains and chests, so that a network has something to learn. Nobody's data are in here.

    python tests/fake_downloads.py FOLDER      # both downloads, 24 and 90 patients, to try the paper's recipe on
"""

import argparse
import functools
import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from fairrecon_lab.simulate import patient_table, simulate
from fairrecon_lab.simulate.brain import BrainPatient, Sequence, render
from fairrecon_lab.simulate.causal import STREAMS
from fairrecon_lab.simulate.population import standard_age

# ---------------------------------------------------------------------- UCSF-PDGM
UCSF_COLUMNS = ["ID", "Sex", "Age at MRI", "WHO CNS Grade", "Final pathologic diagnosis (WHO 2021)", "MGMT status",
                "MGMT index", "1p/19q", "IDH", "1-dead 0-alive", "OS", "EOR", "Biopsy prior to imaging", "BraTS21 ID",
                "BraTS21 Segmentation Cohort", "BraTS21 MGMT Cohort"]  # fmt: skip
MATRIX, HEAD, DEPTH = 240, 212, 155  # voxels of 1 mm; the drawn head's field of view; axial slices
MIDDLE, REACH = 95, 40  # the slice through the tumour's centre, that of the paper's slab 60 to 130; drawn on both sides
SEQUENCES = {"FLAIR": Sequence(), "T1": Sequence(700, 1, 12), "T2": Sequence(6000, 1, 100)}
NOT_READ = ("ADC", "SWI", "T1gad", "FLAIR_bias", "brain_segmentation")  # beside them in the download; no pixel is asked
FOLLOW_UP = ("UCSF-PDGM-429", "UCSF-PDGM-138", "UCSF-PDGM-0429_FU003d")  # patient, and the exam in both spellings


def write_ucsf(folder: Path, n_patients: int = 24, *, seed: int = 1, step: int = 10, version: str = "v2",
               sequences=("FLAIR",), draw=True) -> Path:  # fmt: skip
    """The TCIA download of UCSF-PDGM in `folder`, which is made; returns it.

    Parameters
    ----------
    folder : Path
    n_patients : int
        The last of them has a follow-up exam.
    seed : int
    step : int
        Every so many slices one is drawn; its neighbours repeat it. Beyond `REACH` the volume is empty.
    version : {"v2", "v5"}
        Of the table: the first ones hide follow-ups under numbers of their own.
    sequences : tuple of str
        Of `SEQUENCES`.
    draw : bool
        False leaves the volumes out, as if only the table had been fetched.
    """
    people = patient_table("brain", n_patients, seed=seed)
    names = [f"UCSF-PDGM-{4 + i:03}" for i in range(n_patients - 1)] + [FOLLOW_UP[0]]
    exams = [*zip(names, people.to_dict("records"), range(n_patients))]
    exams.append((FOLLOW_UP[2 if version == "v5" else 1], exams[-1][1], n_patients - 1))
    folder.mkdir(parents=True)
    rows = [_ucsf_row(name, row, i) for name, row, i in exams]
    pd.DataFrame(rows, columns=UCSF_COLUMNS).to_csv(folder / f"UCSF-PDGM-metadata_{version}.csv", index=False)
    volumes: dict[int, dict] = {}
    for name, row, i in exams if draw else ():
        number, _, visit = name.removeprefix("UCSF-PDGM-").partition("_")
        exam = f"UCSF-PDGM-{int(number):04}" + (f"_{visit}" if visit else "")
        place = folder / f"{exam}_nifti"
        place.mkdir()
        volumes = {i: volumes.get(i) or _volumes(row, i, seed, step, sequences)}  # a follow-up shows the same brain
        for kind, packed in volumes[i].items():
            (place / f"{exam}_{kind}.nii.gz").write_bytes(packed)
        for kind in NOT_READ:
            (place / f"{exam}_{kind}.nii.gz").write_bytes(b"never opened")
    return folder


def _ucsf_row(name: str, row: dict, i: int) -> list:
    mutant = row["x_kind"] != "glioblastoma" and not (row["x_kind"] == "astrocytoma" and row["x_grade"] == 4)
    diagnosis = {"glioblastoma": "Glioblastoma, IDH-wildtype",
                 "astrocytoma": f"Astrocytoma, IDH-{'mutant' if mutant else 'wildtype'}",
                 "oligodendroglioma": "Oligodendroglioma, IDH-mutant, 1p/19q-codeleted"}[row["x_kind"]]  # fmt: skip
    codeleted = {"oligodendroglioma": "Co-deletion", "astrocytoma": "intact"}.get(row["x_kind"], "")
    idh = ("IDH1 p.R132H", "mutated (NOS)")[i % 2] if mutant else "wildtype"
    mgmt = [("positive", 12), ("negative", 0), ("indeterminate", ""), ("", "")][i % 4]
    return [name, row["sex"][0].upper(), int(row["age_years"]), int(row["x_grade"]), diagnosis, *mgmt, codeleted, idh,
            i % 2, 300 + 17 * i, ("GTR", "STR", "biopsy")[i % 3], ("No", "Yes")[i % 7 == 0],
            f"BraTS2021_{i:05}" if i % 2 else "", "Training" if i % 2 else "", ""]  # fmt: skip


def _volumes(row: dict, i: int, seed: int, step: int, sequences) -> dict[str, bytes]:
    """The .nii.gz files of one exam by the ends of their names."""
    age = float(standard_age(row["age_years"], "brain"))
    patient = BrainPatient((seed, STREAMS.index("image"), i), 1.0 if row["sex"] == "male" else -1.0, age,
                           row["x_aggressiveness"], row["x_kind"], row["x_conspicuity"], row["x_snr"])  # fmt: skip
    n = 2 * (REACH // step) + 1
    place = np.round((np.arange(DEPTH) - MIDDLE) / step).astype(int)
    drawn = np.where(place > 0, 2 * place - 1, -2 * place)  # where `render` puts the slice at this offset
    drawn[np.abs(place) > REACH // step] = n  # an empty one
    found = {}
    for kind in dict.fromkeys(("FLAIR", *sequences)):
        slices = render(patient, HEAD, n, float(step), SEQUENCES[kind])
        found[kind] = _nifti(np.round(900 * slices.images).astype(np.int16), drawn)
        if kind == "FLAIR":
            labels = np.array([_labels(mask, row["x_grade"]) for mask in slices.masks])
    return found | {"tumor_segmentation": _nifti(labels, drawn)}


def _labels(mask: np.ndarray, grade: int) -> np.ndarray:
    """2 oedema; within it, of grade 4, 4 the enhancing rim, 1 the necrosis."""
    depth = ndimage.distance_transform_edt(mask)
    share = depth / max(depth.max(), 1)
    inner = np.where(share > 0.7, 1, np.where(share > 0.45, 4, 2))
    return np.where(mask, inner if grade == 4 else 2, 0).astype(np.uint8)


def _nifti(slices: np.ndarray, drawn: np.ndarray) -> bytes:
    """A volume whose slice z is `slices[drawn[z]]`, or empty, with x to the left, y to the back and z up."""
    import nibabel

    edge = (MATRIX - HEAD) // 2
    padded = np.pad(slices, ((0, 1), (edge, edge), (edge, edge)))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = MATRIX - 1
    volume = np.asfortranarray(padded.transpose(2, 1, 0)[:, :, drawn])  # (slice, y, x) to (x, y, z)
    return gzip.compress(nibabel.Nifti1Image(volume, affine).to_bytes(), 1, mtime=0)


# ---------------------------------------------------------------------- CheXpert
FINDINGS = ["Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
            "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
            "Support Devices"]  # fmt: skip
CHEXPERT_COLUMNS = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *FINDINGS]
SHEET_COLUMNS = ["PATIENT", "GENDER", "AGE_AT_CXR", "PRIMARY_RACE", "ETHNICITY"]
SHEET_RACES = {"white": "White, non-Hispanic", "asian": "Asian, non-Hispanic", "other": "Other, Hispanic",
               "black": "Black or African American", "native_american": "American Indian or Alaska Native",
               "pacific_islander": "Native Hawaiian or Other Pacific Islander"}  # fmt: skip
LAYOUTS = {  # name -> (top of the paths in train.csv, where a path of it lies)
    "small": ("CheXpert-v1.0-small", lambda path: path),
    "renamed": ("CheXpert-v1.0-small", lambda path: path.replace("CheXpert-v1.0-small", "archive (3)")),
    "full": ("CheXpert-v1.0", lambda path: path),
    "batches": ("CheXpert-v1.0", lambda path: _batch(path)),
}
FILM = (390, 320)  # width and height in pixels, as in the small layout
FIRST_VALID = 64541  # patients of valid.csv count on from those of train.csv


def _batch(path: str) -> str:
    """Where the full download in batches has a file: patients in three parts, tables and valid in the first."""
    _, split, rest = path.split("/", 2) if path.count("/") > 1 else (*path.split("/"), "")
    top = "chexpertchestxrays-u20210408"
    if split != "train":
        return f"{top}/CheXpert-v1.0 batch 1 (validate & csv)/{split}/{rest}".rstrip("/")
    part = int(rest[7:12]) % 3
    return f"{top}/CheXpert-v1.0 batch {part + 2} (train {part + 1})/{rest}"


def write_chexpert(folder: Path, n_patients: int = 90, *, seed: int = 1, layout: str = "small", sheet=True) -> Path:
    """The download of CheXpert in `folder`, which is made; returns it.

    Every third patient has a second study, every fourth a lateral film; an age of 0, one above 90, an Unknown sex, an
    unknown race, uncertain and blank labels occur, as they do there.

    Parameters
    ----------
    folder : Path
    n_patients : int
        At least 12; the last twelfth is in valid.csv, whose labels are all 0 or 1.
    seed : int
    layout : str
        A key of `LAYOUTS`.
    sheet : bool
        Whether `CHEXPERT DEMO.xlsx` lies beside.
    """
    top, place = LAYOUTS[layout]
    rng = np.random.default_rng(seed)
    tables, people = {"train": [], "valid": []}, {}
    for row, visit, image in _films(n_patients, seed):
        i = int(row["patient_id"].rpartition("-")[2])
        split = "valid" if i >= n_patients - n_patients // 12 else "train"
        number = FIRST_VALID + i if split == "valid" else i + 1
        views = ["view1_frontal", *(["view2_lateral"] if i % 4 == 0 and not visit else [])]
        for view in views:
            path = f"{top}/{split}/patient{number:05}/study{visit + 1}/{view}.jpg"
            tables[split].append(_chexpert_row(path, row, i, split, rng))
            _write_film(folder / place(path), image if "frontal" in view else image[:, ::-1] ** 1.5)
        people.setdefault(number, row | {"i": i})
    for split, rows in tables.items():
        table = folder / place(f"{top}/{split}.csv")
        table.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows, columns=CHEXPERT_COLUMNS).to_csv(table, index=False)
    if sheet:
        rows = [_sheet_row(number, row) for number, row in people.items()]
        pd.DataFrame(rows, columns=SHEET_COLUMNS).to_excel(folder / "CHEXPERT DEMO.xlsx", index=False)
    return folder


@functools.lru_cache(maxsize=4)
def _films(n_patients: int, seed: int) -> list[tuple[dict, int, np.ndarray]]:
    """Row, visit and image of every frontal film, by patient."""
    items = simulate("chest", n_patients, seed=seed, size=128, images_per_patient=2)
    found = [(row, int(row["image_id"].rpartition("-")[2]), image) for image, row, _ in items]
    return [item for item in found if item[1] == 0 or int(item[0]["patient_id"].rpartition("-")[2]) % 3 == 0]


def _chexpert_row(path: str, row: dict, i: int, split: str, rng: np.random.Generator) -> list:
    frontal = "frontal" in path
    sex = "Unknown" if i == 5 else row["sex"].capitalize()
    age = 0 if i == 7 else 90 if row["age_years"] > 90 else int(row["age_years"])
    labels = [int(row[f"y_{finding.lower().replace(' ', '_')}"]) for finding in FINDINGS]
    healthy = not any(labels[:-1])
    if split == "valid":
        cells = [f"{label}.0" for label in (int(healthy), *labels)]
    else:
        luck = rng.random(len(labels))
        cells = ["1.0" if label and u > 0.1 else "-1.0" if u < 0.1 else "0.0" if u < 0.5 else ""
                 for label, u in zip(labels, luck)]  # fmt: skip
        cells = ["1.0" if healthy else "", *cells]
    return [path, sex, age, "Frontal" if frontal else "Lateral", row["x_view"] if frontal else "", *cells]


def _sheet_row(number: int, row: dict) -> list:
    race = "Unknown" if row["i"] % 15 == 4 else SHEET_RACES[row["race"]]
    ethnicity = "Hispanic/Latino" if row["i"] % 9 == 0 else "Non-Hispanic/Non-Latino"
    return [f"patient{number:05}", row["sex"].capitalize(), int(row["age_years"]), race, ethnicity]


def _write_film(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    film = Image.fromarray(np.round(255 * image).astype(np.uint8)).resize(FILM, Image.Resampling.BILINEAR)
    packed = io.BytesIO()
    film.save(packed, "JPEG", quality=90)
    path.write_bytes(packed.getvalue())


# ---------------------------------------------------------------------- OASIS-1
OASIS_COLUMNS = ["ID", "M/F", "Hand", "Age", "Educ", "SES", "MMSE", "CDR", "eTIV", "nWBV", "ASF", "Delay"]
ATLAS = (176, 208, 176)  # voxels of 1 mm in the space of Talairach


def write_oasis(folder: Path, n_people: int = 6, *, seed: int = 1) -> Path:
    """The discs of OASIS-1 in `folder`, which is made; every second person has a CDR, the last a second scan."""
    import nibabel

    people = patient_table("brain", n_people, seed=seed)
    exams = [(f"OAS1_{i + 1:04}_MR1", i) for i in range(n_people)] + [(f"OAS1_{n_people:04}_MR2", n_people - 1)]
    rows = []
    for exam, i in exams:
        row = people.loc[i]
        cdr = ("", ("0", "0.5", "1")[i // 2 % 3])[i % 2]
        rows.append([exam, row.sex[0].upper(), "R", int(row.age_years), 3, 2, 29 if cdr else "", cdr, 1400 + 10 * i,
                     0.75, 1.2, "40" if exam.endswith("2") else "N/A"])  # fmt: skip
        patient = BrainPatient((seed, STREAMS.index("image"), i), 1.0 if row.sex == "male" else -1.0, 0.0)
        slices = render(patient, ATLAS[0], 5, 10.0, SEQUENCES["T1"], tumour=False).images
        volume = np.zeros(ATLAS, np.int16)
        for k, image in enumerate(slices):  # at 90, 100, 80, 110, 70
            z = 90 + 10 * ((k + 1) // 2) * (1 if k % 2 else -1)
            volume[:, 16:192, z] = np.round(2000 * image)[::-1].T  # x to the left, y to the front
        place = folder / f"disc{1 + i % 2}" / exam / "PROCESSED" / "MPRAGE" / "T88_111"
        place.mkdir(parents=True)
        stem = f"{exam}_mpr_n4_anon_111_t88"
        image = nibabel.AnalyzeImage(volume.astype(">i2")[..., None], None, nibabel.AnalyzeHeader(endianness=">"))
        image.header.set_zooms((1, 1, 1, 1))
        for end in ("masked_gfc", "gfc"):
            files = nibabel.AnalyzeImage.make_file_map()
            for part, kind in (("image", "img"), ("header", "hdr")):
                files[part].fileobj = (place / f"{stem}_{end}.{kind}").open("wb")
            image.to_file_map(files)
            for part in files.values():
                part.fileobj.close()
    pd.DataFrame(rows, columns=OASIS_COLUMNS).to_csv(folder / "oasis_cross-sectional.csv", index=False)
    return folder


# ---------------------------------------------------------------------- Shenzhen and Montgomery
READINGS = ("{sex} {age}yrs\n{finding}", "{Sex}, {age} years\n{finding}", "{sex}  {age}yrs\n\n{finding}\n")


def write_tuberculosis(folder: Path, n_people: int = 12, *, seed: int = 1, montgomery: bool = True) -> Path:
    """Both sets of tuberculosis films in `folder`, which is made; half of the people in each, the sick ones odd."""
    for i, (image, row, _) in enumerate(simulate("chest", n_people, seed=seed, size=128)):
        here, sick = montgomery and i >= n_people // 2, i % 2
        top, name = ("MontgomerySet", "MCU") if here else ("ChinaSet_AllFiles", "CHN")
        words = {"sex": row["sex"], "Sex": row["sex"].capitalize(), "age": int(row["age_years"]),
                 "finding": "PTB in the right upper field" if sick else "normal"}  # fmt: skip
        text = READINGS[i % 3].format(**words)
        if here:
            age = f"{words['age']:03}Y"
            text = f"Patient's Sex: {words['Sex'][0]}\nPatient's Age: {age}\n{words['finding']}\n"
        stem = f"{name}CXR_{i + 1:04}_{sick}"
        for part, data in (("CXR_png", _png(image)), ("ClinicalReadings", text.encode())):
            place = folder / top / part / f"{stem}.{'png' if part == 'CXR_png' else 'txt'}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
    return folder


def _png(image: np.ndarray) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(np.round(255 * image).astype(np.uint8)).resize((300, 290)).save(packed, "PNG")
    return packed.getvalue()


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("folder", type=Path, help="where both downloads go")
    where = asked.parse_args().folder
    print(write_ucsf(where / "PKG-UCSF-PDGM"), write_chexpert(where / "CheXpert"))
