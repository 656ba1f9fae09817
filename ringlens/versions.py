"""Versions of ringlens and of the libraries it stands on, for records of a run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from ringlens import __version__

UNKNOWN = "unknown"


def version_of(package: str) -> str:
    """Version of a package; "unknown" where it is not installed or has no metadata.

    Ringlens tells its own, so a checkout that was never installed says it too.
    """
    if package == "ringlens":
        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN
