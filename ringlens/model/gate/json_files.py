"""Reading the JSON files of a checkpoint, which may hold anything: bounded, no raw error."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from ringlens.errors import CheckpointError

MB = 10**6


def regular(path: Path) -> bool:
    """Whether there is something at ``path``; it must then be a plain file, or a link to one.

    Raises:
        CheckpointError: It is a folder, a pipe, a device, or a link to nothing.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise CheckpointError(
                f"{path} is a link to nothing. Fetch the file again, or mend the link."
            ) from None
        return False
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}.") from error
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is no plain file. Fetch the checkpoint again.")
    return True


def read_bytes(path: Path, limit: int) -> bytes:
    """A file of at most ``limit`` bytes.

    Raises:
        CheckpointError: It is missing, no plain file, unreadable or larger.
    """
    if not regular(path):
        raise CheckpointError(f"there is no {path.name} in {path.parent}.")
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
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

    Refused beside malformed JSON: a byte-order mark, a key that is there twice with two values, NaN
    and infinities, numbers beyond float64, lone surrogates in texts.

    Raises:
        CheckpointError: It is no such object.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{name} is no UTF-8 text: {error.reason}.") from error
    except UnicodeEncodeError as error:
        raise CheckpointError(
            f"{name} holds half of a surrogate pair, which is no text."
        ) from error
    except RecursionError as error:
        raise CheckpointError(f"{name} is nested too deeply to be read.") from error
    except ValueError as error:
        raise CheckpointError(f"{name} is not valid JSON: {error}. Fetch it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} holds a {type(value).__name__}, not a JSON object.")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, no key of which has two values."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and not _same(found[key], value):
            raise ValueError(f"the key {key[:80]!r} is there twice, with two values")
        found[key] = value
    return found


def _same(a: object, b: object) -> bool:
    return type(a) is type(b) and isinstance(a, Hashable) and a == b


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")
