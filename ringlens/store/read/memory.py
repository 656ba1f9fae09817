"""Memory that the queries of a store may take."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from pathlib import Path

from ringlens.errors import ConfigError

VARIABLE = "RINGLENS_MEMORY"
"""Environment variable: what `Store` takes as ``memory``."""

_SIZE = re.compile(r"\d+(\.\d+)?\s*(K|M|G|T)i?B", re.IGNORECASE)


def settings(memory: str | None, spill: Path) -> dict[str, str | bool | int | float | list[str]]:
    """DuckDB's settings for a bound of memory.

    Args:
        memory: A size such as "1GB"; None leaves it to the environment, and without a word there
            to DuckDB, which takes four fifths of the machine's.
        spill: A folder, not there yet, for what does not fit; made only if it is needed.

    Raises:
        ConfigError: It is no size.
    """
    size = memory if memory is not None else os.environ.get(VARIABLE) or None
    found: dict[str, str | bool | int | float | list[str]] = {"temp_directory": str(spill)}
    if size is None:
        return found
    if not isinstance(size, str) or not _SIZE.fullmatch(size.strip()):
        name = "memory" if memory is not None else VARIABLE
        raise ConfigError(f"{name} = {size!r:.40}; give a size with its unit, such as '1GB'.")
    return found | {"memory_limit": size.strip()}


def spill_folder() -> Path:
    """A folder that no other store uses, under TMPDIR; nothing is made."""
    return Path(tempfile.gettempdir()) / f"ringlens-spill-{secrets.token_hex(8)}"
