"""How numbers are written on a page."""


def fixed(value: float, digits: int = 1) -> str:
    """Write a number with so many digits after the point, and a true minus."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """Write a difference: with its sign, and a zero without one."""
    written = fixed(value, digits)
    return f"+{written}" if round(value, digits) > 0 else written
