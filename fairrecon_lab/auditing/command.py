"""`fairrecon audit predictions.csv cohort.csv`: the audit from a shell, for anybody's tables."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from fairrecon_core.audit.change import audit_change
from fairrecon_core.audit.engine import text_codes
from fairrecon_core.audit.thresholds import POLICIES, RULES, as_groups
from fairrecon_lab.auditing.reading import people, read_outside
from fairrecon_lab.auditing.summary import summary

TABLES = (".csv", ".tsv", ".txt", ".gz", ".parquet")
MOST_NUMBERS, MOST_GROUPS = 20, 100  # of an attribute; beyond, it is a measurement, or names people


def main(argv: list[str] | None = None) -> int:
    """Run the audit, write its table if asked for, and print who was audited and the summary.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; default: the command line's.

    Returns
    -------
    status : int
        0, or 2 with one line on stderr when the tables do not fit.
    """
    options = _parser().parse_args(_one_by_one(list(sys.argv[1:] if argv is None else argv)))
    for stream in (sys.stdout, sys.stderr):  # a console without a character shows a mark in its place
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        table, who = _audit(options)
        if options.out:
            write(table, options.out)
        print(who)
        print(summary(table), end="")
        if options.out:
            print(f"{len(table)} rows written to {options.out}")
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {_with_files(error, options)}", file=sys.stderr)
        return 2
    return 0


def _audit(options) -> tuple[pd.DataFrame, str]:
    """The audit's table, and a line on how many people it is about."""
    predictions, cohort = read_outside(options.predictions), read_outside(options.cohort)
    attribute, notes = _attribute(options.attribute), predictions.attrs["notes"] + cohort.attrs["notes"]
    cohort = _with_groups(cohort, attribute, _pairs(options.map), notes)
    chosen = {"baseline_arm": options.baseline, "arms": options.arms, "split": options.split}
    table = audit_change(
        predictions, cohort, attribute, thresholds=_thresholds(options.thresholds), rule=options.rule,
        margin=options.margin, min_support=options.min_support, n_boot=options.n_boot, reference=options.reference,
        adjust=options.adjust, seed=options.seed, **chosen,
    )  # fmt: skip
    table.attrs["notes"] = list(dict.fromkeys([*notes, *table.attrs["notes"]]))
    steps = people(predictions, cohort, attribute, **chosen)
    first, last = steps.iloc[0], steps.iloc[-1]
    counts = ", ".join(f"{row.patients} {row.step}" for row in steps.itertuples())
    return table, (f"Audited {last.patients} of {first.patients} patients, {last.images} of {first.images} images "
                   f"of {Path(options.cohort).name}: {counts}")  # fmt: skip


def _with_groups(cohort: pd.DataFrame, attribute, renamed: dict, notes: list) -> pd.DataFrame:
    """The cohort with clean names of groups in the audited columns; refuses what names no groups."""
    names = [attribute] if isinstance(attribute, str) else attribute
    absent = [name for name in names if name not in cohort]
    if absent:
        raise ValueError(f"the cohort has no attribute {absent}; its columns are {list(cohort.columns)}")
    for name in names:
        codes, words = text_codes(cohort[name])
        new = np.array([*(renamed.get(word.casefold(), word) for word in words), None], dtype=object)
        groups, found = as_groups(pd.Series(new[codes], index=cohort.index, name=name))
        kept = groups.dropna().unique()
        n_numbers = pd.to_numeric(pd.Series(kept, dtype=object), errors="coerce").notna().sum()
        if len(kept) > (MOST_NUMBERS if n_numbers > len(kept) / 2 else MOST_GROUPS):
            raise ValueError(f"{cohort.attrs['file']}, column {name!r} has {len(kept)} values, such as {kept[0]!r}: "
                             "make a column of groups first, for example young and old")  # fmt: skip
        notes += found
        if "patient_id" in cohort:
            several = groups.groupby(text_codes(cohort["patient_id"])[0]).nunique() > 1
            if several.any():
                notes.append(
                    f"{int(several.sum())} patients have more than one {name}: each image counts where it says"
                )
        cohort = cohort.assign(**{name: groups})
    return cohort


def _with_files(error: Exception, options) -> str:
    """The error in one line that names a file."""
    text = " ".join(str(error).split()) or type(error).__name__
    names = [Path(options.predictions).name, Path(options.cohort).name]
    return text if any(name in text for name in names) else f"{text} ({', '.join(names)})"


def write(table: pd.DataFrame, path: str) -> None:
    """Write the audit table as CSV or Parquet, by the file's ending."""
    if Path(path).suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fairrecon audit",
        description="Did reconstruction change the gaps between subgroups? Paired, by patient, with verdicts.",
        epilog="predictions: image_id arm task score (or image_id arm intersection predicted actual, or psnr_db ...); "
        "cohort: image_id patient_id <attribute> y_<task> and perhaps split.",
    )
    parser.add_argument("predictions", help="CSV or Parquet, one row per image, arm and task")
    parser.add_argument("cohort", help="CSV or Parquet, one row per image")
    parser.add_argument("--attribute", default="sex", help="column of the cohort; sex,race for intersections (sex)")
    parser.add_argument("--baseline", default="clean", metavar="ARM", help="arm to compare with (clean)")
    parser.add_argument("--arms", action="append", metavar="ARM", help="arms to audit, one or more (all others)")
    parser.add_argument("--map", action="append", default=[], metavar="OLD=NEW",
                        help="names of groups to rename, one or more, such as F=female NA=unknown")  # fmt: skip
    parser.add_argument(
        "--thresholds", metavar="POLICY", help=f"{', '.join(POLICIES)}, or a number (validation_frozen)"
    )
    parser.add_argument("--rule", default="sens_spec", choices=sorted(RULES), help="how a threshold is chosen")
    parser.add_argument("--reference", default="largest", help="subgroup compared with: a name, largest or rest")
    parser.add_argument("--margin", type=_share, default=0.05, help="changes within do not matter (0.05)")
    parser.add_argument("--min-support", type=_count, default=10, metavar="N", help="patients a subgroup needs (10)")
    parser.add_argument("--n-boot", type=_count, default=10_000, metavar="N", help="resamples of patients (10000)")
    parser.add_argument("--adjust", default="max_t", choices=["max_t", "bh", "none"], help="for many tests (max_t)")
    parser.add_argument("--split", default="test", help="which images to audit, if the cohort has a split (test)")
    parser.add_argument("--seed", type=_count, default=0)
    parser.add_argument("--out", metavar="FILE", help="write the whole table as .csv or .parquet")
    return parser


def _one_by_one(argv: list[str]) -> list[str]:
    """`--arms a b p.csv c.csv` as `--arms a --arms b p.csv c.csv`: the tables are no arms. The same for --map."""
    out, option = [], ""
    for word in argv:
        if word.startswith("-"):
            option = word if word in ("--arms", "--map") else ""
            out += [] if option else [word]
        elif option and not (word.lower().endswith(TABLES) or Path(word).is_file()):
            out += [option, word]
        else:
            option = ""
            out.append(word)
    return out


def _count(text: str) -> int:
    """A whole number, also written 1e4."""
    number = float(text)
    if number < 0 or not number.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(number)


def _share(text: str) -> float:
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1: five percentage points are 0.05")
    return number


def _pairs(texts: list[str]) -> dict[str, str]:
    """Old names, in small letters, and new ones; ValueError for a text without "="."""
    for text in texts:
        if not text.partition("=")[1]:
            raise ValueError(f"--map takes OLD=NEW, got {text!r}")
    return {old.strip().casefold(): new.strip() for old, _, new in (text.partition("=") for text in texts)}


def _attribute(text: str) -> str | list[str]:
    names = [name.strip() for name in text.split(",")]
    return names if len(names) > 1 else names[0]


def _thresholds(text: str | None) -> str | float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


if __name__ == "__main__":
    sys.exit(main())
