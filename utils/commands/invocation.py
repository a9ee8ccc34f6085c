"""How this process was started, so that messages name commands as the user types them.

In a checkout a command is a script, `python slim_prune.py`; installed it is `netslim slim-prune`. The texts
of this package are written with scripts, and are translated where they are shown.
"""

import re
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_SCRIPT = re.compile(r"\bpython ((?:data/)?[a-z_]+)\.py\b")


def program(command: str) -> str:
    """The words that start a command: "slim-prune" is `python slim_prune.py` or `netslim slim-prune`."""
    installed = _installed()
    if installed:
        return f"{installed} {command}"
    if command == "demo":  # has no script
        return f"python -m {__package__}.demo"
    return f"python {script(command)}"


def script(command: str) -> str:
    """The script of a command: "data get-voc" is data/get_voc.py."""
    return command.replace(" ", "/").replace("-", "_") + ".py"


def as_typed(text: str) -> str:
    """A text in which every `python some_script.py` is written as this process was started."""
    if not _installed():
        return text

    def translated(match: re.Match[str]) -> str:
        return program(match[1].replace("/", " ").replace("_", "-"))

    return _SCRIPT.sub(translated, text)


def _installed() -> str | None:
    """The words that start the installed program, or None for a script of a checkout."""
    start = Path(sys.argv[0])
    if start.name in ("netslim", "netslim.exe"):
        return "netslim"
    if start.name == "__main__.py" and start.resolve().parent == _PACKAGE:
        return f"python -m {(__package__ or '').partition('.')[0]}"
    return None
