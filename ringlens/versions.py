"""Versions of ringlens and of the libraries that it uses, for the record of a run."""

from __future__ import annotations

__version__ = "0.1.0"
UNKNOWN = "unknown"


def version_of(package: str) -> str:
    """Version of a package; "unknown" if it is not installed or has no metadata.

    Ringlens tells its own, so a checkout that was never installed says it too.
    """
    if package == "ringlens":
        return __version__
    # Imported when needed: it takes longer than all of `import ringlens`.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN
