"""Numbers and words as the page prints them: plain text, which the templates escape."""

from fairrecon_lab.auditing.formats import between, number, p_value
from fairrecon_lab.plots import RACE_LABELS

__all__ = ["LIMIT_MB", "VERDICTS", "between", "group", "number", "p_value", "words"]

LIMIT_MB = 5  # of the whole page
VERDICTS = {
    "changed": "the gap changed, beyond chance",
    "changed_within_margin": "it changed, and by less than the margin",
    "equivalent": "any change is smaller than the margin",
    "undetermined": "too few patients to tell",
    "not_estimable": "a group is too small to be estimated",
}


def words(name: str) -> str:
    """A name of the tables as words."""
    return str(name).replace("_", " ")


def group(name: str) -> str:
    """A subgroup as it is printed."""
    return RACE_LABELS.get(name, words(name))
