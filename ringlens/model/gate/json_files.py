"""Reading the JSON files of a checkpoint, which may hold anything: bounded, no raw error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ringlens.errors import CheckpointError
from ringlens.files import regular
from ringlens.strict_json import parsed_object

MB = 10**6


def is_there(path: Path) -> bool:
    """Whether there is a file at ``path``.

    Raises:
        CheckpointError: It is a folder, a pipe, a device, or a link to nothing.
    """
    try:
        regular(path)
    except FileNotFoundError:
        if path.is_symlink():
            raise CheckpointError(
                f"{path} is a link to nothing. Fetch the file again, or repair the link."
            ) from None
        return False
    except (OSError, ValueError) as error:  # a ValueError of the path: it holds a NUL
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{str(path)!r} cannot be read: {reason}. Fetch the checkpoint again."
        ) from error
    return True


def read_bytes(path: Path, limit: int) -> bytes:
    """A file of at most ``limit`` bytes.

    Raises:
        CheckpointError: It is missing, no regular file, unreadable or larger.
    """
    if not is_there(path):
        raise CheckpointError(f"there is no {path.name} in {path.parent}.")
    try:
        with path.open("rb") as file:
            # Python sets aside what is asked for, so no more than is there.
            data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > limit:
        raise CheckpointError(
            f"{path} is larger than {limit / MB:.4g} MB, more than such a file needs. "
            "Fetch it again."
        )
    return data


def read_object(path: Path, limit: int) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: The file.
        limit: Most bytes that it may have.

    Raises:
        CheckpointError: It is missing, too large, or holds no single, unambiguous JSON object.
    """
    return parse_object(read_bytes(path, limit), str(path))


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in some bytes; ``name`` says in errors where they come from.

    A key that stands twice with the same text or number is accepted: published files have some.

    Raises:
        CheckpointError: It is no such object, not UTF-8, or not strict JSON (`strict_json.parsed`).
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{name} is no UTF-8 text: {error.reason}. Fetch it again."
        ) from error
    return parsed_object(text, name, CheckpointError, advice="Fetch it again.", alike=True)
