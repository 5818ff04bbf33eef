"""Numbers as a page prints them: plain text, which the templates escape."""

import math


def number(value: float, digits: int, sign: bool = False) -> str:
    """A number of so many digits with a true minus sign; a dash for NaN."""
    if math.isnan(value):
        return "–"
    value = 0.0 if math.isfinite(value) and round(value, digits) == 0 else value  # no -0.00
    return f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−") if math.isfinite(value) else "∞"


def p_value(value: float) -> str:
    """An adjusted p-value."""
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def between(low: float, high: float, digits: int, sign: bool = False) -> str:
    """The ends of an interval in so many digits; a dash if there is none."""
    return "–" if math.isnan(low + high) else f"{number(low, digits, sign)} to {number(high, digits, sign)}"
