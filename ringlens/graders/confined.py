"""Inside a process that grades: libraries made ready, then confinement.

Python finds a module by listing folders, which a confined process may not; it may read files. So
the lists are made before it is confined.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import FileFinder
from pathlib import Path
from pkgutil import get_importer
from typing import Any

from ringlens.errors import SandboxError
from ringlens.sandbox.channel import Channel, ChannelClosedError, of_standard_pipes
from ringlens.sandbox.confine import Bounds, confine

Prepare = Callable[[dict[str, Any]], None]

LEFT_OUT = {
    "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip",
    "tkinter", "turtledemo", "pydoc_data", "__pycache__",
}  # fmt: skip
"""Folders of the standard library that no answer needs."""


def serve(
    given: str, folders: Iterable[Path], answer: Callable[[Any], Any], prepare: Prepare
) -> None:
    """Confine this process, then answer requests until the pipe is closed.

    Args:
        given: JSON: ``memory``, ``parent``, and what ``prepare`` needs.
        folders: What it may read; modules are imported from there.
        answer: From a request to its answer.
        prepare: Called with the settings before the confinement.
    """
    settings = json.loads(given)
    channel = of_standard_pipes()
    try:
        prepare(settings)
        readable = [folder for folder in folders if folder.is_dir()]
        for folder in readable:
            know(folder)
        confine(Bounds(readable, settings["memory"], settings["parent"]))
    except (ImportError, OSError, SandboxError) as error:
        _send(channel, str(error) or type(error).__name__)
        return
    _send(channel, "")
    while True:
        try:
            request = json.loads(channel.receive(1 << 28))
        except ChannelClosedError:
            return
        _send(channel, answer(request))


def know(folder: Path) -> None:
    """Note what modules a folder and the packages in it hold."""
    for each in (folder, *_packages(folder)):
        finder = get_importer(str(each))
        if isinstance(finder, FileFinder):
            finder.find_spec("ringlens_asks_for_nothing")


def _packages(folder: Path) -> Iterable[Path]:
    for each in folder.iterdir():
        if each.name not in LEFT_OUT and each.is_dir() and (each / "__init__.py").exists():
            yield each
            yield from _packages(each)


def standard_library() -> list[Path]:
    """Folders of the standard library."""
    import os

    folders = {Path(os.__file__).parent}
    return [*folders, *(Path(each) for each in sys.path if each.endswith("lib-dynload"))]


def _send(channel: Channel, found: Any) -> None:
    channel.send(json.dumps(found).encode())
