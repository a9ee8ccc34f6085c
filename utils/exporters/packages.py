"""Packages that only one format needs, imported when it is asked for."""

from importlib import import_module
from types import ModuleType

from ..errors import ExportError


def package(place: str, name: str, requirement: str | None = None) -> ModuleType:
    """Import a package.

    Args:
        place: what needs it, such as "ONNX export".
        name: of the module.
        requirement: what pip is to install, where that has another name.

    Raises:
        ExportError: it is missing; with the line that installs it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        wanted = requirement or name.partition(".")[0]
        fact = f"the package {wanted} is missing"
        raise ExportError(place, fact, f"python -m pip install {wanted}") from error
