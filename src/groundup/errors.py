"""The errors a user can cause. Each carries one line: the value seen, what was expected, and the fix.

The command line prints that line and exits with code 2; from Python they are ordinary exceptions that also
derive from the built-in type a caller would expect to catch.
"""

from collections.abc import Sequence


class GroundupError(Exception):
    """Base of every error that a user's input, file or setting can cause."""


class ConfigError(GroundupError, ValueError):
    """An option has an impossible value, or does not exist."""


class TokenizerError(GroundupError, ValueError):
    """A vocabulary, merge list, special token or token id cannot be used."""


class DataError(GroundupError, ValueError):
    """Text or token shards cannot be used as they are."""


class FileMissingError(GroundupError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class CheckpointError(GroundupError, RuntimeError):
    """A checkpoint is incomplete, foreign, or does not fit the model."""


class TrainingError(GroundupError, RuntimeError):
    """Training cannot go on: non-finite loss or gradients, or a run directory in the way."""


class DivergenceError(TrainingError):
    """Loss or gradients are no longer finite: what became of the run, not a fault of the machine.

    Args:
        message: the line for the user.
        step: at which it happened; nothing of it was applied.
    """

    def __init__(self, message: str, step: int = 0):
        super().__init__(message)
        self.step = step


class MissingExtraError(GroundupError, ImportError):
    """An optional package is needed for what was asked."""

    @classmethod
    def for_package(cls, package: str, extra: str, purpose: str, at_least: str = "") -> "MissingExtraError":
        """Return the error for a package that is missing, or older than ``at_least``."""
        version = f" {at_least} or newer" if at_least else ""
        requirement = f"'{package}>={at_least}'" if at_least else package
        return cls(
            f"{purpose} needs the package {package}{version}; install it with: pip install {requirement} "
            f"(or, in a clone of groundup: pip install '.[{extra}]')"
        )

    @classmethod
    def for_packages(cls, packages: Sequence[str], extra: str, purpose: str) -> "MissingExtraError":
        """Return the error for packages that are needed together, some of which are missing."""
        return cls(
            f"{purpose} needs the packages {' and '.join(packages)}; install them with: pip install "
            f"{' '.join(packages)} (or, in a clone of groundup: pip install '.[{extra}]')"
        )
