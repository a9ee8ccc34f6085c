"""What can go wrong for a user, by kind.

Every message reads "place: fact; remedy", so that it can be acted on without a traceback:
the scripts print it on one line and exit with code 2.
"""


class ToolkitError(Exception):
    """Something in the user's input cannot be used; the message says where, what and what to do."""


class CfgError(ToolkitError):
    """A cfg file cannot be read as a network; the message leads with `file:line`."""


class UnsupportedSectionError(CfgError):
    """A cfg uses a section or option whose semantics this project does not have."""


class WeightsError(ToolkitError):
    """A weights file or checkpoint does not fit the network."""


class PruningError(ToolkitError):
    """A pruning request cannot be fulfilled on this network."""


class DatasetError(ToolkitError):
    """A data file, image list, image or label file cannot be used."""


class ExportError(ToolkitError):
    """A network cannot be exported, or the exported file does not compute the same function."""
