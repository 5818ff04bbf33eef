"""Shenzhen and Montgomery: frontal chest films with and without tuberculosis -> a cohort folder.

    python data_scripts/shenzhen.py ChinaSet_AllFiles data/shenzhen --size 128 --folds 5
    python data_scripts/shenzhen.py FOLDER_WITH_BOTH data/tuberculosis --size 128 --folds 5

SOURCE is the download of either set, or a folder with both: `CXR_png/CHNCXR_0001_0.png` (Shenzhen, 662 films) or
`MCUCXR_0001_0.png` (Montgomery, 138), and for each a text of its name in `ClinicalReadings/`. From the U.S. National
Library of Medicine, https://lhncbc.nlm.nih.gov/LHC-downloads/downloads.html#tuberculosis-image-data-sets; free for
research, with the acknowledgement and the citations that it asks for: Jaeger et al. 2014,
doi:10.3978/j.issn.2223-4292.2014.11.20. Not for clinical use.

Scaled to [0, 1] per film by its minimum and maximum; `--scale fixed` by 255. Task: tuberculosis, the last figure of a
film's name (0 or 1). Sex and age stand in the text in free form ("male 45yrs", "Patient's Sex: F", "027Y"): what cannot
be read is unknown, counted and named. Covariates: x_source (shenzhen, montgomery), x_finding (the rest of the text).
Race is not recorded. One film per person. A reader that learns from both sets may learn which hospital it sees: 51 % of
Shenzhen's and 42 % of Montgomery's films show tuberculosis, and the two look different; compare within a set.

Written against the documented layout; the whole download was not at hand.
"""

import re

import pandas as pd
from archives import Source
from common import Funnel, convert, first_patients, parser, readable, run, skip_broken
from films import decode, to_square, to_unit

ABOUT = {
    "source": "Shenzhen and Montgomery County tuberculosis films, U.S. National Library of Medicine",
    "licence": "free for research with acknowledgement (U.S. National Library of Medicine)",
    "cite": "Jaeger et al. 2014, doi:10.3978/j.issn.2223-4292.2014.11.20",
}
SETS = {"CHN": ("shenzhen", 662), "MCU": ("montgomery", 138)}
FILM = re.compile(r"((CHN|MCU)CXR_\d{4})_([01])\.(png|txt)$")
SEX = re.compile(r"\b(?:sex\s*:\s*)?(female|male|f|m)\b", re.IGNORECASE)
AGE = re.compile(r"(\d+)\s*-?\s*(years?|yrs?|yr|y|months?|mos?|m|weeks?|w|days?|d)\b", re.IGNORECASE)
PER_YEAR = {"y": 1, "m": 12, "w": 52, "d": 365}


def read_text(text: str) -> dict:
    """Sex, age in years and finding of a clinical reading; None where it cannot be read.

    Parameters
    ----------
    text : str
        Such as "male 45yrs", a line break and "normal", or lines "Patient's Sex: F", "Patient's Age: 027Y".
    """
    sex, age = SEX.search(text), AGE.search(text)
    lines = [line.strip(" ,.") for line in text.splitlines()]
    finding = " ".join(line for line in lines if line and not SEX.search(line) and not AGE.search(line))
    rest = AGE.sub("", SEX.sub("", lines[0])).strip(" ,.") if lines else ""
    return {
        "sex": sex and {"f": "female", "m": "male"}[sex[1][0].lower()],
        "age_years": int(age[1]) / PER_YEAR[age[2][0].lower()] if age else None,
        "x_finding": finding or rest or None,
    }


def read_films(source: Source, funnel: Funnel) -> tuple[pd.DataFrame, list[str]]:
    """Films with their readings, in the order to read them in, and what was noted.

    Parameters
    ----------
    source : Source
    funnel : Funnel
        Counts who is left.

    Raises
    ------
    FileNotFoundError
        The source holds no film.
    ValueError
        A film comes twice.
    """
    found: dict[str, dict[str, str]] = {}
    for name in source.names:
        if (match := FILM.search(name)) and (match[4] == "txt" or "/CXR_png/" in f"/{name}"):
            kinds = found.setdefault(match[1] + "_" + match[3], {})
            if match[4] in kinds and source.read(name) != source.read(kinds[match[4]]):
                raise ValueError(
                    f"{source.path} holds {kinds[match[4]]} and {name}, which differ: leave only one there"
                )
            kinds[match[4]] = name
    films = {key: kinds for key, kinds in found.items() if "png" in kinds}
    if not films:
        raise FileNotFoundError(
            f"no CXR_png/CHNCXR_0001_0.png or the like in {source.path}: give the download's folder"
        )
    rows = []
    for key, kinds in films.items():
        text = source.read(kinds["txt"]).decode("utf-8", errors="replace") if "txt" in kinds else ""
        rows.append(read_text(text) | {"patient_id": key[:-2], "image_id": key, "file": kinds["png"],
                    "y_tuberculosis": int(key[-1]), "x_source": SETS[key[:3]][0]})  # fmt: skip
    table = pd.DataFrame(rows).set_index("file")
    if table["patient_id"].duplicated().any():
        twice = table["patient_id"][table["patient_id"].duplicated()].iloc[0]
        raise ValueError(f"{twice} is there with and without tuberculosis: leave only one film there")
    funnel.count("with a film", table)
    notes = [f"{sum('txt' not in kinds for kinds in films.values())} films have no text: sex and age unknown"]
    for trait in ("sex", "age_years"):
        unread = table["image_id"][table[trait].isna()].tolist()
        listed = ", ".join(unread[:5]) + (" ..." if len(unread) > 5 else "")
        notes += [f"{trait} cannot be read for {len(unread)} films: {listed}"] if unread else []
    odd = table[(table["y_tuberculosis"] == 1) == (table["x_finding"].fillna("").str.lower() == "normal")]
    notes += [f"{len(odd)} films whose name and text disagree on tuberculosis (the name is taken)"] if len(odd) else []
    return table.loc[source.ordered(table["image_id"].to_dict())].reset_index(), notes


def items(source: Source, films: pd.DataFrame, arguments):
    """(image, row) of every film; pixels are read when they are asked for."""

    def image(name: str):
        pixels = decode(source.read(name), name)
        return to_square(to_unit(pixels, arguments.scale, name, arguments.bits), arguments.size, arguments.fit)

    for film in films.astype(object).where(films.notna(), None).to_dict("records"):
        name = film.pop("file")
        yield lambda name=name: image(name), film | {"modality": "xray", "race": None}


def main(argv: list[str] | None = None):
    """Convert; returns the cohort."""
    arguments = skip_broken(parser(__doc__)).parse_args(argv)
    source, funnel = Source(arguments.source), Funnel()
    films, notes = read_films(source, funnel)
    films, more = readable(source, first_patients(films, arguments.patients), arguments, funnel)
    expected = sum(n for name, n in SETS.values() if name in set(films["x_source"]))
    return convert(
        arguments, source, items(source, films, arguments), len(films), name="shenzhen", about=ABOUT,
        expected={"images": expected}, notes=notes + more, funnel=funnel, tasks=["tuberculosis"],
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
