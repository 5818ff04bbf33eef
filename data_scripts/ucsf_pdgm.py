"""UCSF-PDGM: FLAIR slices of diffuse gliomas with tumour masks -> a cohort folder (the paper's brain data).

    pip install nibabel
    python data_scripts/ucsf_pdgm.py PKG-UCSF-PDGM data/ucsf_pdgm
    python data_scripts/ucsf_pdgm.py PKG-UCSF-PDGM --tables-only     # the paper's Table 1, needs the table alone

SOURCE is the folder of the TCIA download, doi:10.7937/tcia.bdgf-8v37 (142 GB, NIfTI): `UCSF-PDGM-<number>_nifti/`
with `..._FLAIR.nii.gz` and `..._tumor_segmentation.nii.gz`. The table `UCSF-PDGM-metadata_v2.csv` (or v5) comes as a
file of its own: lay it into SOURCE or name it with --metadata. Licence: CC BY 4.0. Cite Calabrese et al. 2022,
doi:10.1148/ryai.220058, and the doi above. Not for clinical use.

Image: axial slices 60 to 130 of each exam's FLAIR (`--slices`), skull-stripped, 240 px, seen from below (the
patient's right on the left, the face on top). Mask: the whole tumour, every label above 0; `--mask published` takes
labels 1 and 2 only (necrosis and oedema, without the enhancing part 4). Scaled to [0, 1] per slice by its minimum and
maximum, as the published code does; `--scale volume` uses those of the whole exam and keeps its slices comparable,
`--scale volume-percentile` its 99.9th percentile, which a hot pixel does not move.
Tasks: tumour_grade (1 = WHO grade 4, 0 = 2 or 3), tumour_type (1 = glioblastoma, IDH-wildtype, 0 = any other).
Covariates: x_exam, x_follow_up, x_slice, x_tumour, x_tumour_pixels (of the source's grid), x_grade, x_diagnosis,
x_idh (wildtype, mutated). Young is up to 58 years, as in the paper, which calls 58 the median; the median of the
table is 59.

Known blemishes: six of the 501 exams are follow-up scans of other six patients. The first tables hide this under
numbers of their own (138, 175, 181, 278, 289, 315; sex, age, survival and MGMT index agree in all six pairs); from
version 3 on the names say it (`UCSF-PDGM-0429_FU003d`). Both spellings are read, and a follow-up stays with its
patient: 495 patients. The paper counts and splits 501, so that a patient could be in training and test. Its Table 1
prints 147 young patients where 155 + 92 = 247. Numbers have three digits in the table and four in the folders.
"""

import gzip
import io
import math
import re
from functools import lru_cache

import numpy as np
import pandas as pd
from archives import LARGEST, Source
from common import Funnel, convert, first_patients, lookup, number, parser, read_csv, run
from films import high_of, mask_to_square, to_square, to_unit, to_unit_percentile

ABOUT = {
    "source": "UCSF-PDGM, TCIA, doi:10.7937/tcia.bdgf-8v37",
    "licence": "CC BY 4.0",
    "cite": "Calabrese et al. 2022, doi:10.1148/ryai.220058; doi:10.7937/tcia.bdgf-8v37",
}
N_PATIENTS, N_EXAMS = 495, 501
AGE_CUT_YEARS = 58  # of the paper; up to it is young
TABLE_1 = {("male", "young"): 155, ("female", "young"): 92, ("male", "old"): 144, ("female", "old"): 110}
FOLLOW_UPS = {138: 429, 175: 396, 181: 409, 278: 431, 289: 391, 315: 433}  # number in the first tables -> patient

SEX = {"F": "female", "M": "male"}
GRADE = {"2": 0, "3": 0, "4": 1}
GLIOBLASTOMA = {
    "Glioblastoma, IDH-wildtype": 1,
    "Astrocytoma, IDH-wildtype": 0,
    "Astrocytoma, IDH-mutant": 0,
    "Oligodendroglioma, IDH-mutant, 1p/19q-codeleted": 0,
}
MASKS = {"whole": (1, 2, 3, 4), "published": (1, 2)}  # labels that count as tumour
DIAGNOSIS = "Final pathologic diagnosis (WHO 2021)"
COLUMNS = ["ID", "Sex", "Age at MRI", "WHO CNS Grade", DIAGNOSIS, "IDH"]
EXAM = re.compile(r"UCSF-PDGM-(\d+)(_FU\d+d)?")
FILES = {"flair": "_FLAIR.nii.gz", "tumour": "_tumor_segmentation.nii.gz"}


def exam_of(text: str) -> tuple[str, str] | None:
    """Patient and exam that an ID or a folder name means, follow-ups under either spelling; None if it is neither.

    `UCSF-PDGM-004` and `UCSF-PDGM-0004_nifti` give ("UCSF-PDGM-0004", "UCSF-PDGM-0004"); `UCSF-PDGM-138` and
    `UCSF-PDGM-0429_FU003d_nifti` give ("UCSF-PDGM-0429", "UCSF-PDGM-0429_FU").
    """
    match = EXAM.match(text)
    if not match:
        return None
    given = int(match[1])
    name = f"UCSF-PDGM-{FOLLOW_UPS.get(given, given):04}"
    return name, f"{name}_FU" if given in FOLLOW_UPS or match[2] else name


def read_exams(source: Source | None, name: str) -> pd.DataFrame:
    """The table of exams (`source`, `name` as for `read_csv`) as rows of a cohort: patient_id, x_exam, traits, labels.

    Raises
    ------
    ValueError
        A code is unknown, an ID is none, or an exam comes twice.
    """
    rows = []
    for entry in read_csv(source, name, COLUMNS).to_dict("records"):
        where = f"{entry['ID']} in {name}"
        if exam_of(entry["ID"]) is None:
            raise ValueError(f"{where}: the ID should look like UCSF-PDGM-004: take the original table")
        patient, exam = exam_of(entry["ID"])
        rows.append({
            "patient_id": patient,
            "x_exam": exam,
            "sex": lookup(SEX, entry["Sex"], "Sex", where, "SEX"),
            "age_years": number(entry["Age at MRI"], "Age at MRI", where),
            "y_tumour_grade": lookup(GRADE, entry["WHO CNS Grade"], "WHO CNS Grade", where, "GRADE"),
            "y_tumour_type": lookup(GLIOBLASTOMA, entry[DIAGNOSIS], DIAGNOSIS, where, "GLIOBLASTOMA"),
            "x_follow_up": int(exam != patient),
            "x_grade": number(entry["WHO CNS Grade"], "WHO CNS Grade", where),
            "x_diagnosis": entry[DIAGNOSIS],
            "x_idh": "" if entry["IDH"] in ("", "unknown") else
                     "wildtype" if entry["IDH"] == "wildtype" else "mutated",
        })  # fmt: skip
    table = pd.DataFrame(rows)
    if table["x_exam"].duplicated().any():
        raise ValueError(f"{name} holds {table['x_exam'][table['x_exam'].duplicated()].iloc[0]} twice: leave one row")
    return table


def table_1(exams: pd.DataFrame) -> pd.DataFrame:
    """Counts of exams by sex and age as in the paper's Table 1, and of patients (first exams) beside them."""
    young = np.where(exams["age_years"] <= AGE_CUT_YEARS, "young", "old")
    first = exams["x_follow_up"] == 0
    counts = {}
    for (sex, group), published in TABLE_1.items():
        cell = (exams["sex"] == sex) & (young == group)
        counts[f"{sex}, {group}"] = [int(cell.sum()), published, int((cell & first).sum())]
    counts["all"] = [len(exams), N_EXAMS, int(first.sum())]
    return pd.DataFrame.from_dict(counts, orient="index", columns=["exams", "paper", "patients"])


def print_tables(exams: pd.DataFrame) -> pd.DataFrame:
    """Print and return `table_1`, with the age cut explained."""
    table = table_1(exams)
    print(table.to_string())
    print(f"young: up to {AGE_CUT_YEARS} years, which the paper calls the median; the median is "
          f"{exams['age_years'].median():g}")  # fmt: skip
    print("The paper prints 147 young patients in all: a misprint for 155 + 92 = 247.")
    return table


def volumes_of(source: Source) -> dict[str, dict[str, str]]:
    """Names of the FLAIR and segmentation files by exam."""
    found: dict[str, dict[str, str]] = {}
    for name in source.names:
        folder, _, file = name.rpartition("/")
        exam = exam_of(folder.rpartition("/")[2])
        kind = next((kind for kind, ending in FILES.items() if file.endswith(ending)), None)
        if exam and kind:
            found.setdefault(exam[1], {})[kind] = name
    return found


def read_volume(source: Source, name: str):
    """An axial stack: array (H, W, slices) with the face on top and the patient's right on the left, and its grid.

    Returns
    -------
    volume : ndarray, shape (H, W, slices)
    grid : ndarray, shape (4, 4)
        Where its voxels lie in space, in mm, after turning to the nearest axes.

    Raises
    ------
    ImportError
        nibabel is not installed.
    ValueError
        The file is truncated, no NIfTI-1 volume, or claims more voxels than it holds.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("reading NIfTI needs nibabel: pip install nibabel") from error
    data = source.read(name)
    try:
        packed, data = gzip.GzipFile(fileobj=io.BytesIO(data)), bytearray()
        while len(data) <= LARGEST and (part := packed.read(2**22)):  # read(n) asks for n bytes of memory at once
            data += part
        image = nibabel.Nifti1Image.from_bytes(bytes(data))
        shape, bits = image.shape, int(image.header["bitpix"])
        if min(shape, default=0) < 1 or math.prod(map(int, shape)) * bits // 8 > min(len(data), LARGEST):
            raise ValueError(f"it claims {' x '.join(map(str, shape))} voxels of {bits} bits in {len(data):,} bytes")
        image = nibabel.as_closest_canonical(image)  # x to the right, y to the front, z up
        volume = np.asanyarray(image.dataobj)
    except Exception as error:  # whatever gzip and nibabel raise
        raise ValueError(
            f"{name} is truncated or no NIfTI volume ({error}): fetch that file again, then start again"
        ) from error
    volume = volume[..., 0] if volume.ndim == 4 and volume.shape[3] == 1 else volume
    if volume.ndim != 3:
        raise ValueError(f"{name} has shape {volume.shape}, should be a single volume")
    return volume[::-1, ::-1].swapaxes(0, 1), image.affine


def check_grid(grid, other, name: str, other_name: str) -> None:
    """Refuse, with a ValueError, the volume `name` whose segmentation `other_name` lies elsewhere (`grid`, `other`).

    Both are turned to the nearest axes first, so another order of storage is no difference. A lost orientation is: the
    mask would lie mirrored.
    """
    if not np.allclose(grid, other, atol=0.01):
        row = int(np.argmax(np.abs(np.asarray(grid) - other).max(axis=1)))
        raise ValueError(
            f"{other_name} lies elsewhere in space than {name}: row {row + 1} of its affine is "
            f"{np.round(other[row], 2)}, of the image {np.round(grid[row], 2)}; fetch both again, or put the "
            "segmentation on the image's grid"
        )


def items(source: Source, exams: pd.DataFrame, volumes: dict, arguments):
    """(image, row, mask) of every slice; a FLAIR volume is read when the first of its slices is asked for."""

    @lru_cache(maxsize=1)
    def flair(name):
        volume, grid = read_volume(source, name)
        if arguments.scale == "volume-percentile":
            return to_unit_percentile(volume, high_of([volume])), grid
        return to_unit(volume, "image") if arguments.scale == "volume" else volume, grid

    def image(name, index, shape, grid, mask_name):
        volume, own = flair(name)
        if volume.shape != shape:
            raise ValueError(f"{name} has shape {volume.shape}, its segmentation {shape}: fetch both again")
        check_grid(own, grid, name, mask_name)
        return to_square(to_unit(volume[..., index], "image") if arguments.scale == "image" else volume[..., index],
                         arguments.size, arguments.fit)  # fmt: skip

    first, last = arguments.slices
    for exam in exams.to_dict("records"):
        names = volumes[exam["x_exam"]]
        source.prefetch(names.values())
        labels, grid = read_volume(source, names["tumour"])
        _check_labels(labels, names["tumour"], last)
        for index in range(first, last + 1):
            mask = np.isin(labels[..., index], MASKS[arguments.mask])
            row = exam | {"image_id": f"{exam['x_exam']}_{index:03}", "modality": "mri", "race": None, "x_slice": index}
            row |= {"x_tumour": int(mask.any()), "x_tumour_pixels": int(np.count_nonzero(mask))}
            place = (names["flair"], index, labels.shape, grid, names["tumour"])
            yield (lambda place=place: image(*place), row,
                   mask_to_square(mask, arguments.size, arguments.fit))  # fmt: skip


def _check_labels(labels, name, last) -> None:
    odd = sorted(set(np.unique(labels).tolist()) - {0, *MASKS["whole"]})
    if odd:
        raise ValueError(
            f"{name} holds label {odd[0]:g}; known are 0 to 4: add it to MASKS in ucsf_pdgm.py if it is tumour"
        )
    if last >= labels.shape[2]:
        raise ValueError(f"{name} has {labels.shape[2]} slices, asked for up to {last}: choose --slices below that")


def complete_exams(exams: pd.DataFrame, volumes: dict, skip: bool) -> tuple[pd.DataFrame, list[str]]:
    """Exams that have volumes, and what was noted.

    Parameters
    ----------
    exams : DataFrame
        Of `read_exams`.
    volumes : dict
        Of `volumes_of`.
    skip : bool
        Leave out an exam with one file of two.

    Raises
    ------
    FileNotFoundError
        An exam has one file of two, and `skip` is False.
    """
    half = [exam for exam in exams["x_exam"] if len(volumes.get(exam, FILES)) < len(FILES)]
    if half and not skip:
        lacks = next(ending for kind, ending in FILES.items() if kind not in volumes[half[0]])
        raise FileNotFoundError(f"{half[0]} has no file *{lacks} ({len(half)} such exams): fetch it again, or leave "
                                "such exams out with --skip-incomplete")  # fmt: skip
    there = exams[exams["x_exam"].map(lambda exam: len(volumes.get(exam, ())) == len(FILES))]
    unlisted = sorted(set(volumes) - set(exams["x_exam"]))
    notes = [f"{len(exams) - len(there)} exams of the table are not in the source"]
    notes += [f"{len(half)} exams with one file of two left out: {', '.join(half)}"] if half else []
    notes += [f"exams in the source that the table does not list, left out: {', '.join(unlisted)}"] if unlisted else []
    n_follow_ups = int(there["x_follow_up"].sum())
    return there, [*notes, f"{n_follow_ups} follow-up exams counted with their patients"]


def main(argv: list[str] | None = None):
    """Convert and return the cohort; with --tables-only print Table 1 and return it. ValueError on bad --slices."""
    options = parser(__doc__, scales=("image", "volume", "volume-percentile"))
    options.add_argument("--metadata", metavar="FILE.csv", help="the table of exams, if it is not in SOURCE")
    options.add_argument("--slices", type=int, nargs=2, default=(60, 130), metavar=("FIRST", "LAST"),
                         help="axial slices, counted from 0, both ends included (60 130)")  # fmt: skip
    options.add_argument("--mask", choices=tuple(MASKS), default="whole", help="labels that count as tumour (whole)")
    options.add_argument("--tables-only", action="store_true", help="print the paper's Table 1 and stop")
    options.add_argument("--skip-incomplete", action="store_true", help="leave out exams with one file of two")
    options.set_defaults(workers=1)  # a volume in memory at a time
    arguments = options.parse_args(argv)
    if not 0 <= arguments.slices[0] <= arguments.slices[1]:
        raise ValueError(f"--slices takes a first and a last index from 0 on, got {arguments.slices}")
    source = Source(arguments.source)
    if arguments.metadata:
        exams = read_exams(None, arguments.metadata)
    else:
        versions = [f"UCSF-PDGM-metadata{version}.csv" for version in ("", *(f"_v{i}" for i in range(1, 10)))]
        exams = read_exams(source, source.find(*versions))
    if arguments.tables_only:
        return print_tables(exams)
    volumes, funnel = volumes_of(source), Funnel()
    n_slices = arguments.slices[1] - arguments.slices[0] + 1
    every = exams["patient_id"].repeat(n_slices)
    funnel.count("recorded in the table of exams", every.to_frame())
    exams, notes = complete_exams(exams, volumes, arguments.skip_incomplete)
    exams = first_patients(exams.sort_values("x_exam", ignore_index=True), arguments.patients)
    funnel.count("with image", exams["patient_id"].repeat(n_slices).to_frame())
    return convert(
        arguments, source, items(source, exams, volumes, arguments), len(exams) * n_slices, name="ucsf_pdgm",
        about=ABOUT | {"mask": arguments.mask, "slices": list(arguments.slices)},
        expected={"patients": N_PATIENTS, "images": N_EXAMS * n_slices}, notes=notes, funnel=funnel,
        age_cut_years=AGE_CUT_YEARS, age_cut_is_young=True, tasks=["tumour_grade", "tumour_type"],
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
