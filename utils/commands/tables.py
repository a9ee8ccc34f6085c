"""The tables that commands end with."""

from rich.console import Console
from rich.table import Table


def show(title: str, table: Table) -> None:
    """Print a table under its title; the title is not broken to the width of a narrow table."""
    print(title)
    Console().print(table)


def percent(fraction: float | None) -> str:
    """A fraction as per cent with two decimals; a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def multiply_adds(value: float) -> str:
    """With their unit.

    >>> multiply_adds(2.7e9)
    '2.700 G'
    """
    return f"{value / 1e9:.3f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"


def mebibytes(value: float) -> str:
    """Bytes as MiB."""
    return f"{value / 2**20:.2f} MiB"


def milliseconds(value: float) -> str:
    """With their unit."""
    return f"{value:.2f} ms"
