"""CheXpert: frontal radiographs with the paper's 12 findings -> a cohort folder (the paper's chest data).

    python data_scripts/chexpert.py CheXpert-v1.0-small.zip data/chexpert --demographics "CHEXPERT DEMO.xlsx"

SOURCE is CheXpert-v1.0 or CheXpert-v1.0-small as downloaded: the zip, its folder, or a folder with the zips of the
batches; it holds `train.csv`, `valid.csv` and `patient00001/study1/view1_frontal.jpg` and so on. Obtained from
Stanford AIMI (https://aimi.stanford.edu/datasets/chexpert-chest-x-rays) after registration, under the Stanford
University Dataset Research Use Agreement: no sharing, no clinical or commercial use, no attempt to re-identify
anyone. Race comes from the sheet `CHEXPERT DEMO.xlsx` (AIMI, "CheXpert demographic data"; .xlsx needs openpyxl, or
save it as .csv), found in SOURCE or named by --demographics; `--demographics none` does without. Cite Irvin et al.
2019, doi:10.1609/aaai.v33i01.3301590.

What the paper's code and text decide is an option each; the first choice is the default:

    --findings paper | all           12 findings (paper); all: support devices, which are no finding, are a task too
    --views frontal | all            the code leaves no lateral film out, the text names none: not known
    --uncertain ignore | ones | zeros   what -1 becomes: not recorded (paper), 1, 0
    --blank ignore | zeros           what is not mentioned becomes: not recorded (paper), 0
    --unknown-race keep | drop       patients of unknown race stay, counted as unknown; the paper drops them: drop
    --scale image | fixed            [0, 1] per image by its minimum and maximum (paper); by 255, or 2^BITS - 1

Where No Finding is 1, every finding is 0 and support devices stay as they are, as published. So each finding is asked
of other images. Splits 70/10/20 by patient; in train and validation 70/30 for reconstruction and prediction. Young is
up to 62 years, as in the paper. Race: six groups by the table RACE below, which the authors of the paper did not
publish; Hispanic is an ethnicity there and takes part in no group. Covariates: x_view (ap, pa, lateral ...), x_study,
x_support_devices (0, 1 or not recorded: a confounder of most findings).

Known blemishes: one patient has sex Unknown; age 0 is a missing value and 90 stands for 90 and above; some patients
are absent from the sheet, or have rows that disagree (unknown). A film that arrived damaged stops the conversion, with
its name; `--skip-broken` leaves such films out, and counts and names them.
"""

import io
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from archives import Source
from common import (
    Funnel,
    convert,
    first_patients,
    joined,
    lookup,
    number,
    parser,
    read_csv,
    readable,
    run,
    skip_broken,
    with_columns,
)
from films import decode, to_square, to_unit

from fairrecon_lab.auditing.reading import text_table

ABOUT = {
    "source": "CheXpert v1.0, https://aimi.stanford.edu/datasets/chexpert-chest-x-rays",
    "licence": "Stanford University Dataset Research Use Agreement",
    "cite": "Irvin et al. 2019, doi:10.1609/aaai.v33i01.3301590",
}
EXPECTED = {"frontal": {"images": 191_229}, "all": {"images": 223_648, "patients": 64_740}}  # train.csv and valid.csv
AGE_CUT_YEARS = 62  # of the paper; up to it is young
TABLE_2 = {"white": 36_110, "asian": 6_936, "black": 3_093, "native_american": 176, "pacific_islander": 861,
           "other": 9_634}  # patients, the paper's Table 2  # fmt: skip

FINDINGS = {
    "Enlarged Cardiomediastinum": "enlarged_cardiomediastinum", "Cardiomegaly": "cardiomegaly",
    "Lung Opacity": "lung_opacity", "Lung Lesion": "lung_lesion", "Edema": "edema", "Consolidation": "consolidation",
    "Pneumonia": "pneumonia", "Atelectasis": "atelectasis", "Pneumothorax": "pneumothorax",
    "Pleural Effusion": "pleural_effusion", "Pleural Other": "pleural_other", "Fracture": "fracture",
    "Support Devices": "support_devices",
}  # fmt: skip
SEX = {"Female": "female", "Male": "male", "Unknown": "unknown"}
VIEW = {"AP": "ap", "PA": "pa", "LL": "lateral", "RL": "lateral"}
DEVICES = "support_devices"  # recorded like a finding, and none
CHOICES = ("views", "findings", "uncertain", "blank", "unknown_race")  # options that `cohort.json` keeps
UNCERTAIN = {"ignore": None, "ones": 1, "zeros": 0}
BLANK = {"ignore": None, "zeros": 0}
RACE = {  # PRIMARY_RACE of the sheet, in small letters
    "white": "white", "white or caucasian": "white", "white, hispanic": "white", "white, non-hispanic": "white",
    "asian": "asian", "asian - historical conv": "asian", "asian, hispanic": "asian", "asian, non-hispanic": "asian",
    "black or african american": "black", "black, hispanic": "black", "black, non-hispanic": "black",
    "american indian or alaska native": "native_american",
    "native american, hispanic": "native_american", "native american, non-hispanic": "native_american",
    "native hawaiian or other pacific islander": "pacific_islander",
    "pacific islander, hispanic": "pacific_islander", "pacific islander, non-hispanic": "pacific_islander",
    "other": "other", "other, hispanic": "other", "other, non-hispanic": "other",
    "unknown": "unknown", "race and ethnicity unknown": "unknown", "patient refused": "unknown", "0": "unknown",
}  # fmt: skip
SHEETS = ("CHEXPERT DEMO.xlsx", "CHEXPERT DEMO.csv")
PLACE = re.compile(r"(patient\d+)/(study\d+)/([^/]+\.(?:jpg|png))$", re.IGNORECASE)


def read_sheet(data: bytes, name: str) -> pd.DataFrame:
    """The demographic sheet, .xlsx or .csv, as texts with at least PATIENT and PRIMARY_RACE.

    Raises
    ------
    ImportError
        openpyxl is not installed.
    ValueError
        The file (`data`, called `name`) is damaged, or lacks a column; the message says which columns there are.
    """
    if name.lower().endswith(".xlsx"):
        try:
            import openpyxl  # noqa: F401
        except ImportError as error:
            raise ImportError("reading .xlsx needs openpyxl: pip install openpyxl, or save it as .csv") from error
    try:
        if name.lower().endswith(".xlsx"):
            frame = pd.read_excel(io.BytesIO(data), dtype=str, keep_default_na=False, engine="openpyxl")
        else:
            frame, _ = text_table(data, name, ("PATIENT", "PRIMARY_RACE"))
    except Exception as error:  # whatever zip, XML and CSV readers raise
        raise ValueError(f"{name} is not a whole table ({error}): fetch it again") from error
    return with_columns(frame, name, ["PATIENT", "PRIMARY_RACE"])


def patient_number(text: str, where: str) -> str:
    """A patient's number without its zeros: a spreadsheet makes `1` or `patient1` of `patient00001`.

    Raises
    ------
    ValueError
        The `text` holds no number; the message names `where` it stands.
    """
    match = re.fullmatch(r"(?:patient)?[ _]*0*(\d+)(?:\.0)?", text.strip().lower())
    if not match:
        raise ValueError(
            f"{where}: {text!r} in column 'PATIENT' should look like patient00001: take the original sheet"
        )
    return match[1]


def read_races(sheet: pd.DataFrame, name: str) -> tuple[dict[str, str], int]:
    """Race by patient from the sheet called `name`, and how many patients have rows that disagree (unknown)."""
    races: dict[str, set] = {}
    for patient, race in zip(sheet["PATIENT"], sheet["PRIMARY_RACE"]):
        group = lookup(RACE, race.lower(), "PRIMARY_RACE", f"{patient} in {name}", "RACE") or "unknown"
        races.setdefault(patient_number(patient, name), set()).add(group)
    known = {patient: groups - {"unknown"} for patient, groups in races.items()}
    torn = sum(len(groups) > 1 for groups in known.values())
    return {patient: next(iter(groups)) if len(groups) == 1 else "unknown" for patient, groups in known.items()}, torn


def find_races(source: Source, demographics: str | None) -> tuple[dict[str, str], list[str]]:
    """Race by patient, and what was noted.

    Parameters
    ----------
    source : Source
    demographics : str or None
        Path of the sheet; "none" to do without; None to look in the source.

    Raises
    ------
    FileNotFoundError
        There is no sheet.
    """
    if demographics == "none":
        return {}, ["race unknown: no demographic sheet asked for"]
    name = demographics or source.find(*SHEETS, required=False)
    if name is None or (demographics and not Path(name).exists()):
        raise FileNotFoundError(f"no {name or SHEETS[0]}: get it from Stanford AIMI and name it with --demographics, "
                                "or go without race by --demographics none")  # fmt: skip
    data = Path(name).read_bytes() if demographics else source.read(name)
    races, torn = read_races(read_sheet(data, name), Path(name).name)
    counts = pd.Series(races).value_counts()
    listed = ", ".join(f"{group} {counts.get(group, 0)} (paper {n})" for group, n in TABLE_2.items())
    return races, [f"patients of the sheet: {listed}; unknown {counts.get('unknown', 0)}",
                   f"{torn} patients with rows of different race: unknown"]  # fmt: skip


def of_known_race(entries: pd.DataFrame, races: dict[str, str]) -> tuple[pd.DataFrame, str]:
    """Rows of `entries` whose patients have one of the six `races`, and what was noted; ValueError if nobody has."""
    known = entries["patient_id"].map(lambda patient: races.get(patient_number(patient, "train.csv"), "unknown"))
    kept = entries[known != "unknown"]
    if not len(kept):
        raise ValueError("--unknown-race drop leaves nobody: give the sheet with --demographics, or keep them")
    n = entries["patient_id"].nunique() - kept["patient_id"].nunique()
    return kept, f"{n} patients of unknown race left out, as in the paper, which has 56810 of known race"


def read_entries(source: Source, views: str, funnel: Funnel | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Rows of train.csv and valid.csv whose images are there, in the order to read them in, and what was noted.

    Parameters
    ----------
    source : Source
    views : {"frontal", "all"}
    funnel : Funnel, optional
        Counts who is left.

    Returns
    -------
    entries : DataFrame
        The columns of the source, with `patient_id`, `study`, `file` and `image_id`.
    notes : list of str

    Raises
    ------
    ValueError
        A path names no patient and study, or a table lists a path twice.
    """
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *FINDINGS]
    names = [source.find("train.csv"), source.find("valid.csv", required=False)]
    table = pd.concat([read_csv(source, name, columns) for name in names if name], ignore_index=True)
    keys = [PLACE.search(path) for path in table["Path"]]
    if None in keys:
        raise ValueError(
            f"Path {table['Path'][keys.index(None)]!r} names no patient and study: take the original table"
        )
    table["patient_id"], table["study"] = [key[1] for key in keys], [int(key[2][5:]) for key in keys]
    funnel = Funnel() if funnel is None else funnel
    funnel.count("recorded in train.csv and valid.csv", table)
    table["image_id"] = ["_".join(key.groups()).rpartition(".")[0] for key in keys]
    if table["image_id"].duplicated().any():
        raise ValueError(
            f"{table['Path'][table['image_id'].duplicated()].iloc[0]} comes twice: take the original tables"
        )
    files = {_image_id(match): name for name in source.names if (match := PLACE.search(name))}
    table["file"] = table["image_id"].map(files)
    kept = table if views == "all" else table[table["Frontal/Lateral"] == "Frontal"]
    funnel.count("frontal" if views == "frontal" else "of any view", kept)
    notes = [] if "valid.csv" in str(names[1]) else ["no valid.csv: train.csv alone"]
    notes += [f"{len(table) - len(kept)} lateral images left out"] if views == "frontal" else []
    notes += [f"{int(kept['file'].isna().sum())} images of the tables are not in the source"]
    ages = kept.loc[kept["file"].notna(), "Age"]
    notes += [f"{int((ages == '0').sum())} images with age 0, taken as unknown"]
    notes += [f"{int((ages == '90').sum())} images with age 90, which stands for 90 and above"]
    kept = kept.dropna(subset="file").set_index("file")
    funnel.count("with image", kept)
    return kept.loc[source.ordered(kept["image_id"].to_dict())].reset_index(), notes


def _image_id(match) -> str:
    return "_".join(match.groups()).rpartition(".")[0]


def label_of(text: str, finding: str, where: str, uncertain: str, blank: str) -> int | None:
    """Label of one entry: 0, 1, or None (not recorded).

    Parameters
    ----------
    text : str
        `1.0`, `0.0`, `-1.0` or blank.
    finding, where : str
        Column and row, for the message of the ValueError about any other text.
    uncertain, blank : str
        A key of `UNCERTAIN`, and one of `BLANK`.
    """
    codes = {"1.0": 1, "1": 1, "0.0": 0, "0": 0, "-1.0": UNCERTAIN[uncertain], "-1": UNCERTAIN[uncertain]}
    return lookup(codes, text, finding, where, "label_of") if text else BLANK[blank]


def read_row(entry: dict, races: dict[str, str], arguments) -> dict:
    """The cohort's row of one entry."""
    where = entry["Path"]
    policy = (arguments.uncertain, arguments.blank)
    labels = {f"y_{task}": label_of(entry[name], name, where, *policy) for name, task in FINDINGS.items()}
    if label_of(entry["No Finding"], "No Finding", where, "ignore", "ignore") == 1:
        labels = {key: labels[key] if key == f"y_{DEVICES}" else 0 for key in labels}
    devices = labels[f"y_{DEVICES}"] if arguments.findings == "all" else labels.pop(f"y_{DEVICES}")
    return {
        "image_id": entry["image_id"],
        "patient_id": entry["patient_id"],
        "modality": "xray",
        "sex": lookup(SEX, entry["Sex"], "Sex", where, "SEX"),
        "age_years": number(entry["Age"], "Age", where) or None,
        "race": races.get(patient_number(entry["patient_id"], where), "unknown"),
        **labels,
        "x_view": lookup(VIEW, entry["AP/PA"], "AP/PA", where, "VIEW") or entry["Frontal/Lateral"].lower(),
        "x_study": entry["study"],
        f"x_{DEVICES}": devices,
    }


def items(source: Source, entries: pd.DataFrame, races: dict[str, str], arguments) -> Iterable:
    """(image, row) of every entry; pixels are read when they are asked for."""
    columns = list(entries.columns)
    for values in entries.itertuples(index=False, name=None):
        entry = dict(zip(columns, values))
        yield lambda name=entry["file"]: _film(source, name, arguments), read_row(entry, races, arguments)


def _film(source, name, arguments):
    pixels = decode(source.read(name), name)
    return to_square(to_unit(pixels, arguments.scale, name, arguments.bits), arguments.size, arguments.fit)


def main(argv: list[str] | None = None):
    """Convert; returns the cohort."""
    options = skip_broken(parser(__doc__, conflicts="unknown"))
    options.add_argument("--demographics", metavar="FILE", help=f"{SHEETS[0]} or .csv, if it is not in SOURCE; or none")
    options.add_argument("--views", choices=tuple(EXPECTED), default="frontal", help="which films (frontal)")
    options.add_argument(
        "--findings", choices=("paper", "all"), default="paper", help="12, or support devices too (paper)"
    )
    options.add_argument(
        "--unknown-race", choices=("keep", "drop"), default="keep", help="patients without a race (keep)"
    )
    options.add_argument("--uncertain", choices=tuple(UNCERTAIN), default="ignore", help="what -1 becomes (ignore)")
    options.add_argument("--blank", choices=tuple(BLANK), default="ignore", help="what a blank becomes (ignore)")
    arguments = options.parse_args(argv)
    source = Source(arguments.source)
    funnel = Funnel()
    races, notes = find_races(source, arguments.demographics)
    entries, more = read_entries(source, arguments.views, funnel)
    if arguments.demographics != "none":
        numbers = [patient_number(patient, "train.csv") for patient in entries["patient_id"].unique()]
        notes.append(joined(numbers, races, "the demographic sheet", arguments.min_joined))
    entries, broken = readable(source, first_patients(entries, arguments.patients), arguments, funnel)
    counted = {"patients": int(entries["patient_id"].nunique()), "images": len(entries)}
    if arguments.unknown_race == "drop":
        entries, line = of_known_race(entries, races)
        funnel.count("of known race", entries)
        more.append(line)
    choices = {name: getattr(arguments, name) for name in CHOICES}
    return convert(
        arguments, source, items(source, entries, races, arguments), len(entries), name="chexpert",
        about=ABOUT | choices, expected=EXPECTED[arguments.views], notes=notes + more + broken, funnel=funnel,
        tasks=[task for task in FINDINGS.values() if task != DEVICES or arguments.findings == "all"], counted=counted,
        roles=(0.7, 0.3), age_cut_years=AGE_CUT_YEARS, age_cut_is_young=True,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
