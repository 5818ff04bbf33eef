"""Numbers as a page prints them: plain text, which the templates escape."""

import math


def number(value: float, digits: int, sign: bool = False) -> str:
    """A number of so many digits with a true minus sign, none before 0; a dash for NaN."""
    if math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}z,.{digits}f}".replace("-", "−") if math.isfinite(value) else "∞"


def p_value(value: float) -> str:
    """An adjusted p-value."""
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def between(low: float, high: float, digits: int, sign: bool = False) -> str:
    """The ends of an interval in so many digits; a dash if there is none."""
    return "–" if math.isnan(low + high) else f"{number(low, digits, sign)} to {number(high, digits, sign)}"
