"""OASIS-1: T1-weighted slices of 416 people from 18 to 96, a hundred of them demented -> a cohort folder.

    pip install nibabel
    python data_scripts/oasis1.py OASIS-1 data/oasis1 --size 128 --folds 5

SOURCE is a folder with the twelve discs (`oasis_cross-sectional_disc1.tar.gz` ... or unpacked) and the table
`oasis_cross-sectional.csv` (saved from .xlsx if need be; or name it with --table). Obtained from
https://sites.wustl.edu/oasisbrains after accepting the OASIS Data Use Agreement: no attempt to re-identify anyone, and
the acknowledgement that it asks for. Cite Marcus et al. 2007, doi:10.1162/jocn.2007.19.9.1498. Not for clinical use.

Image: axial slices (`--slices FIRST LAST`, 70 to 110, every `--every` 10th, counted from the bottom) of
`OAS1_0001_MR1/PROCESSED/MPRAGE/T88_111/*_t88_masked_gfc.img`: averaged, skull-stripped, corrected for the coil, in the
atlas space of Talairach (176 x 208 x 176 voxels of 1 mm, Analyze). Every head lies in the atlas, so head size is not in
the image; x_etiv has it. Scaled to [0, 1] per slice by its minimum and maximum; `--scale volume-percentile` by the
99.9th percentile of the exam, which keeps its slices comparable. The face is on top, the patient's right on the left by
Analyze's own convention, which no file can prove.
Task: dementia (1 = CDR of .5 and above, 0 = CDR 0; blank for most people below 60: not recorded). Covariates: x_exam,
x_rescan (1: the second scan of one of 20 people, within 90 days), x_slice, x_cdr, x_mmse, x_etiv, x_nwbv. Race is not
recorded. Handed down as a check of image quality by sex and age, not as a reader's task: age tells most of dementia.

Written against the documented layout; the whole download was not at hand.
"""

import io
import re

import numpy as np
import pandas as pd
from archives import Source
from common import Funnel, convert, first_patients, lookup, number, parser, read_csv, run
from films import high_of, to_square, to_unit, to_unit_percentile

ABOUT = {
    "source": "OASIS-1, cross-sectional, https://sites.wustl.edu/oasisbrains",
    "licence": "OASIS Data Use Agreement",
    "cite": "Marcus et al. 2007, doi:10.1162/jocn.2007.19.9.1498",
}
N_PATIENTS, N_EXAMS = 416, 436
TABLE = "oasis_cross-sectional.csv"
COLUMNS = ["ID", "M/F", "Age", "MMSE", "CDR", "eTIV", "nWBV"]
SEX = {"F": "female", "M": "male"}
CDR = {"0": 0, "0.0": 0, "0.5": 1, "1": 1, "1.0": 1, "2": 1, "2.0": 1}
EXAM = re.compile(r"(OAS1_\d{4})_MR(\d)$")
VOLUME = re.compile(r"(OAS1_\d{4}_MR\d)/PROCESSED/MPRAGE/T88_111/[^/]*_t88_masked_gfc\.(img|hdr)$")


def read_exams(source: Source | None, name: str) -> pd.DataFrame:
    """The table of exams (`source`, `name` as for `read_csv`) as rows of a cohort.

    Raises
    ------
    ValueError
        An ID is none, or comes twice, or a code is unknown.
    """
    rows = []
    for entry in read_csv(source, name, COLUMNS).to_dict("records"):
        where, match = f"{entry['ID']} in {name}", EXAM.match(entry["ID"])
        if not match:
            raise ValueError(f"{where}: the ID should look like OAS1_0001_MR1: take the original table")
        rows.append({
            "patient_id": match[1],
            "x_exam": entry["ID"],
            "sex": lookup(SEX, entry["M/F"], "M/F", where, "SEX"),
            "age_years": number(entry["Age"], "Age", where),
            "y_dementia": lookup(CDR, entry["CDR"], "CDR", where, "CDR"),
            "x_rescan": int(match[2] != "1"),
            **{f"x_{column.lower()}": number(entry[column], column, where) for column in COLUMNS[3:]},
        })  # fmt: skip
    table = pd.DataFrame(rows)
    if table["x_exam"].duplicated().any():
        raise ValueError(f"{name} holds {table['x_exam'][table['x_exam'].duplicated()].iloc[0]} twice: leave one row")
    return table


def volumes_of(source: Source) -> dict[str, dict[str, str]]:
    """Names of header and image of the masked atlas-space volume, by exam."""
    found: dict[str, dict[str, str]] = {}
    for name in source.names:
        if match := VOLUME.search(name):
            found.setdefault(match[1], {})[match[2]] = name
    return {exam: pair for exam, pair in found.items() if len(pair) == 2}


def read_volume(source: Source, names: dict[str, str]) -> np.ndarray:
    """Axial stack (H, W, slices), the face on top and the patient's right on the left.

    Parameters
    ----------
    source : Source
    names : dict
        Of `img` and `hdr`.

    Raises
    ------
    ImportError
        nibabel is not installed.
    ValueError
        The pair is truncated or no Analyze volume.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("reading Analyze needs nibabel: pip install nibabel") from error
    parts = {"image": names["img"], "header": names["hdr"]}
    try:
        holders = {kind: nibabel.FileHolder(fileobj=io.BytesIO(source.read(name))) for kind, name in parts.items()}
        image = nibabel.AnalyzeImage.from_file_map(holders)
        volume = np.asanyarray(nibabel.as_closest_canonical(image).dataobj)
    except Exception as error:  # whatever nibabel raises
        raise ValueError(f"{names['img']} is truncated or no Analyze volume ({error}): fetch it again") from error
    volume = volume[..., 0] if volume.ndim == 4 and volume.shape[3] == 1 else volume
    if volume.ndim != 3:
        raise ValueError(f"{names['img']} has shape {volume.shape}, should be a single volume")
    return volume[::-1, ::-1].swapaxes(0, 1)


def items(source: Source, exams: pd.DataFrame, volumes: dict, slices: range, arguments):
    """(image, row) of every slice; a volume is read when the first of its slices is asked for."""
    last: dict[str, np.ndarray] = {}

    def image(exam: str, index: int):
        if exam not in last:
            last.clear()
            source.prefetch(volumes[exam].values())
            volume = read_volume(source, volumes[exam])
            if slices[-1] >= volume.shape[2]:
                raise ValueError(f"{exam} has {volume.shape[2]} slices, asked for {slices[-1]}: choose --slices below")
            high = high_of([volume])
            last[exam] = to_unit_percentile(volume, high) if arguments.scale == "volume-percentile" else volume
        film = last[exam][..., index]
        return to_square(to_unit(film, "image") if arguments.scale == "image" else film, arguments.size, arguments.fit)

    for exam in exams.to_dict("records"):
        for index in slices:
            row = exam | {"image_id": f"{exam['x_exam']}_{index:03}", "modality": "mri", "race": None, "x_slice": index}
            yield lambda exam=exam["x_exam"], index=index: image(exam, index), row


def main(argv: list[str] | None = None):
    """Convert; returns the cohort. ValueError on bad --slices or --every."""
    options = parser(__doc__, scales=("image", "volume-percentile"))
    options.add_argument("--table", metavar="FILE.csv", help=f"{TABLE}, if it is not in SOURCE")
    options.add_argument("--slices", type=int, nargs=2, default=(70, 110), metavar=("FIRST", "LAST"),
                         help="axial slices from the bottom, both ends included (70 110)")  # fmt: skip
    options.add_argument("--every", type=int, default=10, metavar="N", help="take every Nth of them (10)")
    options.set_defaults(workers=1, fit="pad")  # a volume in memory at a time; 208 x 176 pixels are no square
    arguments = options.parse_args(argv)
    first, last = arguments.slices
    if not 0 <= first <= last or arguments.every < 1:
        raise ValueError(
            f"--slices takes a first and a last index from 0 on and --every a step, got {arguments.slices}"
        )
    source, slices, funnel = Source(arguments.source), range(first, last + 1, arguments.every), Funnel()
    exams = read_exams(None, arguments.table) if arguments.table else read_exams(source, source.find(TABLE))
    funnel.count("recorded in the table of exams", exams.loc[exams.index.repeat(len(slices))])
    volumes = volumes_of(source)
    there = exams[exams["x_exam"].isin(list(volumes))]
    notes = [f"{len(exams) - len(there)} exams of the table are not in the source",
             f"{len(set(volumes) - set(exams['x_exam']))} exams of the source are not in the table, left out",
             f"{int(there['x_rescan'].sum())} second scans stay with their people"]  # fmt: skip
    order = source.ordered({volumes[exam]["img"]: exam for exam in there["x_exam"]})
    rank = {name: place for place, name in enumerate(order)}
    there = there.assign(place=[rank[volumes[exam]["img"]] for exam in there["x_exam"]]).sort_values("place")
    there = first_patients(there.drop(columns="place"), arguments.patients)
    funnel.count("with image", there.loc[there.index.repeat(len(slices))])
    return convert(
        arguments, source, items(source, there, volumes, slices, arguments), len(there) * len(slices), name="oasis1",
        about=ABOUT | {"slices": [*arguments.slices, arguments.every]}, notes=notes, funnel=funnel, tasks=["dementia"],
        expected={"patients": N_PATIENTS, "images": N_EXAMS * len(slices)},
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
