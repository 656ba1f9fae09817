"""ring-nano, the embedded model, and the bundled problem sets; how both were made."""

from importlib.resources import files
from pathlib import Path


def path(name: str) -> Path:
    """Where a bundled file or folder lies, for example ``"ring-nano"``; it need not exist."""
    return Path(str(files(__name__).joinpath(name)))
