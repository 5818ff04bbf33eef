"""`fairrecon audit predictions.csv cohort.csv`: the audit from a shell, for anybody's tables."""

import argparse
import sys
from pathlib import Path

import pandas as pd

from fairrecon_core.audit.change import audit_change
from fairrecon_core.audit.summary import summary
from fairrecon_core.audit.thresholds import POLICIES, RULES

TEXT = ("image_id", "patient_id", "cohort", "arm", "task")  # read as categories: five million rows stay small


def main(argv: list[str] | None = None) -> int:
    """Run the audit and print its summary.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; default: the command line's.

    Returns
    -------
    status : int
        0, or 2 with one line on stderr when the tables do not fit.
    """
    options = _parser().parse_args(argv)
    try:
        table = audit_change(
            read(options.predictions), read(options.cohort), _attribute(options.attribute),
            baseline_arm=options.baseline, arms=options.arms, thresholds=_thresholds(options.thresholds),
            rule=options.rule, margin=options.margin, min_support=options.min_support, n_boot=options.n_boot,
            reference=options.reference, adjust=options.adjust, seed=options.seed, split=options.split,
        )  # fmt: skip
        print(summary(table), end="")
        if options.out:
            write(table, options.out)
            print(f"{len(table)} rows written to {options.out}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def read(path: str) -> pd.DataFrame:
    """Read a CSV (also .gz) or Parquet file; ids and names become categories of text, whatever they look like."""
    if Path(path).suffix == ".parquet":
        return pd.read_parquet(path)
    columns = pd.read_csv(path, nrows=0).columns
    return pd.read_csv(path, dtype={name: "category" if name in TEXT else None for name in columns if name in TEXT})


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
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="arms to audit (all others)")
    parser.add_argument(
        "--thresholds", metavar="POLICY", help=f"{', '.join(POLICIES)}, or a number (validation_frozen)"
    )
    parser.add_argument("--rule", default="sens_spec", choices=sorted(RULES), help="how a threshold is chosen")
    parser.add_argument("--reference", default="largest", help="subgroup compared with: a name, largest or rest")
    parser.add_argument("--margin", type=float, default=0.05, help="changes within do not matter (0.05)")
    parser.add_argument("--min-support", type=int, default=10, metavar="N", help="patients a subgroup needs (10)")
    parser.add_argument("--n-boot", type=int, default=10_000, metavar="N", help="resamples of patients (10000)")
    parser.add_argument("--adjust", default="max_t", choices=["max_t", "bh", "none"], help="for many tests (max_t)")
    parser.add_argument("--split", default="test", help="which images to audit, if the cohort has a split (test)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="FILE", help="write the whole table as .csv or .parquet")
    return parser


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
