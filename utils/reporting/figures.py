"""Numbers as a page shows them: three digits, and a unit where there is one."""


def digits(value: float) -> str:
    """Three digits, more only before the point.

    >>> digits(0.8123), digits(33.79), digits(1065.6)
    ('0.81', '33.8', '1066')
    """
    places = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{places}f}"


def short(count: float) -> str:
    """A count in thousands, millions or thousand millions.

    >>> short(8674496), short(2.72e9), short(416)
    ('8.67 M', '2.72 G', '416')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{digits(count / size)} {unit}"
    return f"{count:.0f}"


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
    """A difference or threshold, with its significant digits.

    >>> small(3.2e-15), small(0.0134), small(0.0)
    ('3.2e-15', '0.0134', '0')
    """
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"
