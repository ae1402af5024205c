"""Formatting of numbers for the page, with a true minus sign."""

from mocodet.common.study.statistics import bound


def fixed(value: float, digits: int = 1) -> str:
    """Format a number with ``digits`` decimal places."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """Format a difference with its sign, and zero without a sign."""
    written = fixed(value, digits)
    return f"+{written}" if round(value, digits) > 0 else written


def between(low: float, high: float) -> str:
    """Format an interval. Bounds other than 0 are never rounded to 0."""
    return f"[{bound(low, '+')}, {bound(high, '+')}]".replace("-", "−")
