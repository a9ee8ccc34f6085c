"""Numbers as a page shows them."""


def short(value: float) -> str:
    """Three digits and a unit.

    >>> short(8674496), short(2.72e9), short(416)
    ('8.67 M', '2.72 G', '416')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            scaled = value / size
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f} {unit}"
    return f"{value:.0f}"


def percent(fraction: float) -> str:
    """A fraction as per cent.

    >>> percent(0.3812)
    '38.1 %'
    """
    return f"{100 * fraction:.1f} %"


def points(change: float) -> str:
    """The change of a fraction in percentage points, with a real minus sign.

    >>> points(-0.0123), points(0.0), points(0.5)
    ('−1.2', '±0.0', '+50.0')
    """
    if round(100 * abs(change), 1) == 0:
        return "±0.0"
    return f"{100 * change:+.1f}".replace("-", "−")


def small(value: float) -> str:
    """A difference or threshold, with as many digits as say something.

    >>> small(3.2e-15), small(0.0134), small(0.0)
    ('3.2e-15', '0.0134', '0')
    """
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def milliseconds(value: float) -> str:
    """Without the unit.

    >>> milliseconds(0.123), milliseconds(12.34)
    ('0.12', '12.3')
    """
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}"
