"""`python doctor.py --help` is the manual; the same as `netslim doctor`."""

from collections.abc import Sequence

from utils.cli import call, start


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the words `argv`, None for those that were typed; return its exit code."""
    return call("doctor", argv)


if __name__ == "__main__":
    start("doctor")
