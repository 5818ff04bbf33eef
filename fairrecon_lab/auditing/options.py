"""What `fairrecon audit` can be asked for. The standard library alone: `--help` answers at once."""

import argparse
from pathlib import Path

TABLES = (".csv", ".tsv", ".txt", ".gz", ".parquet")
SEVERAL = ("--arms", "--map", "--attribute", "--value", "--score", "--label", "--bins")  # take words until a table
POLICIES = "validation_frozen, validation_per_arm, test_per_arm, test_frozen"
RULES = "sens_spec, youden, f1, specificity_90"
UNCERTAIN = ("missing", "negative", "positive")


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of a command line; SystemExit for --help and for what cannot be read.

    Parameters
    ----------
    argv : list of str
        Arguments after `fairrecon audit`.

    Returns
    -------
    options : Namespace
        `attribute` is a list, one entry an audit, each a list of the columns that are crossed; `bins` maps a column to
        its edges; `map` old names, in small letters, to new ones; `value` a name to (unit, margin).
    """
    parser = _parser()
    options = parser.parse_args(_one_by_one(argv))
    if options.masks is None and not options.results:
        parser.error("the following arguments are required: a table with scores")
    if options.masks and options.cohort:
        parser.error("argument --masks: two folders and one table of people, got two tables")
    columns = [[name.strip() for name in text.split(",")] for text in options.attribute]
    options.attribute = [*columns, *([name.strip() for name in text.split(",")] for text in options.cross)]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fairrecon audit",
        description="Which rates does each subgroup get, which gaps are more than chance, and did reconstruction "
        "change them? By patient, with intervals and verdicts. One table with people and scores is enough, or two.",
        epilog="Common column names are recognised, whatever case, blanks and hyphens, and said. Long: image, task, "
        "score, label. Wide: <finding>_score and <finding>_label. Two tables: scores, and people with labels y_<task>.",
    )
    parser.add_argument("results", nargs="?", metavar="SCORES", help="CSV or Parquet with scores (and people)")
    parser.add_argument("cohort", nargs="?", metavar="PEOPLE", help="CSV or Parquet with people, a row an image")
    _add_columns(parser)
    _add_groups(parser)
    _add_statistics(parser)
    parser.add_argument("--out", metavar="FILE", help="write the whole table as .csv or .parquet")
    parser.add_argument("--report", metavar="FILE", help="write one self-contained page (.html)")
    parser.add_argument("--evidence", metavar="DIR", help="keep hashes, choices, versions, tables and page there; "
                        "'fairrecon verify DIR' checks them")  # fmt: skip
    parser.add_argument("--declared", metavar="FILE", help="refuse what differs from margins of 'fairrecon plan --out'")
    parser.add_argument("--json", metavar="FILE", help="write tables, notes and choices as JSON, with --report "
                        "bounds for the unrecorded and the search, too; - for the screen")  # fmt: skip
    return parser


def _add_columns(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("columns, where their names are not recognised")
    group.add_argument("--id", metavar="COLUMN", help="of the image")
    group.add_argument("--patient", metavar="COLUMN", help="of the patient")
    group.add_argument("--arm", metavar="COLUMN", help="of the model or reconstruction, if there are several")
    group.add_argument("--task", metavar="COLUMN", help="of the finding, in a long table; else the finding's name")
    group.add_argument("--score", action="append", default=[], metavar="COLUMN", help="of the score, one or more")
    group.add_argument("--label", action="append", default=[], metavar="COLUMN", help="of the label, in that order")
    group.add_argument("--value", action="append", default=[], type=_value, metavar="NAME:unit:margin",
                       help="a number of each image to audit, such as seconds:s:2")  # fmt: skip
    group.add_argument("--masks", nargs=2, metavar=("PREDICTED", "TRUE"),
                       help="two folders of NIfTI or PNG masks: Dice and surface distances are computed")  # fmt: skip
    group.add_argument("--logits", action="store_true", help="scores are logits: 1 / (1 + exp(-x)) first")
    group.add_argument("--uncertain", choices=UNCERTAIN, default="missing", help="what a label of -1 is (missing)")


def _add_groups(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("subgroups")
    group.add_argument("--attribute", action="append", default=[], metavar="COLUMN",
                       help="one or more columns (sex); sex,race for their intersections")  # fmt: skip
    group.add_argument("--cross", action="append", default=[], metavar="A,B", help="intersections, such as sex,age")
    group.add_argument("--bins", action="append", default=[], type=_bins, metavar="COLUMN=EDGES",
                       help="age=40,60: under 40, to 60, from 60 on; site=none: as it is (tertiles)")  # fmt: skip
    group.add_argument("--map", action="append", default=[], type=_pair, metavar="OLD=NEW",
                       help="names of groups to rename, one or more, such as F=female NA=unknown")  # fmt: skip
    group.add_argument("--reference", default="largest", help="compared with: a name, largest, rest or all-pairs")


def _add_statistics(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("statistics")
    group.add_argument("--baseline", metavar="ARM", help="arm to compare with (clean)")
    group.add_argument("--arms", action="append", metavar="ARM", help="arms to audit, one or more (all)")
    group.add_argument("--thresholds", metavar="POLICY", help=f"{POLICIES}, or a number (validation_frozen)")
    group.add_argument("--rule", default="sens_spec", help=f"how a threshold is chosen: {RULES}")
    group.add_argument("--margin", type=_share, default=0.05, help="changes and gaps within do not matter (0.05)")
    group.add_argument("--min-support", type=_count, default=10, metavar="N", help="patients a subgroup needs (10)")
    group.add_argument("--n-boot", type=_count, default=10_000, metavar="N", help="resamples of patients (10000)")
    group.add_argument("--adjust", default="max_t", choices=["max_t", "bh", "none"], help="for many tests (max_t)")
    group.add_argument("--split", default="test", help="which images to audit, if there is a split (test)")
    group.add_argument("--seed", type=_count, default=0)


def _one_by_one(argv: list[str]) -> list[str]:
    """`--arms a b p.csv c.csv` as `--arms a --arms b p.csv c.csv`: the tables are no arms. The same for `SEVERAL`."""
    out, option = [], ""
    for word in argv:
        if word.startswith("-"):
            option = word if word in SEVERAL else ""
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


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"--map takes OLD=NEW, got {text!r}")
    return old.strip().casefold(), new.strip()


def _bins(text: str) -> tuple[str, list[float] | None]:
    """ "age=40,60" as ("age", [40, 60]); "site=none" as ("site", None)."""
    name, equals, edges = text.rpartition("=")
    if equals and edges.strip().lower() == "none":
        return name.strip(), None
    try:
        numbers = [float(edge) for edge in edges.split(",")]
    except ValueError:
        numbers = []
    rising = numbers == sorted(set(numbers)) and all(abs(number) < float("inf") for number in numbers)
    if not equals or not numbers or not rising:
        raise argparse.ArgumentTypeError(f"{text!r} is not COLUMN=EDGES with rising numbers, such as age=40,60")
    return name.strip(), numbers


def _value(text: str) -> tuple[str, str, float | None]:
    """ "seconds:s:2" as ("seconds", "s", 2.0); unit and margin may be left out where they are known."""
    name, _, rest = text.partition(":")
    unit, _, margin = rest.partition(":")
    try:
        number = float(margin) if margin.strip() else None
    except ValueError:
        number = float("nan")
    if not name.strip() or (number is not None and not 0 < number < float("inf")):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:unit:margin, such as seconds:s:2")
    return name.strip(), unit.strip(), number
