"""Versions, in a place that imports nothing at once."""

VERSION = "0.1.0"


def installed_version(package: str) -> str | None:
    """The version of another package; None if it is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
