"""How numbers are written on a page: with a true minus."""

from mocodet.common.study.statistics import bound


def fixed(value: float, digits: int = 1) -> str:
    """Write a number with so many digits after the point."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """Write a difference: with its sign, and a zero without one."""
    written = fixed(value, digits)
    return f"+{written}" if round(value, digits) > 0 else written


def between(low: float, high: float) -> str:
    """Write an interval; an end that is not 0 does not look like it."""
    return f"[{bound(low, '+')}, {bound(high, '+')}]".replace("-", "−")
