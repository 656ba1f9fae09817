"""Joins modules into one script, for a page that has no server to import from.

A module becomes a function that runs once, after those that it imports, and returns what it
exports. That says the same as long as modules do not import one another in a circle and exports
are not assigned again; the scripts are ours, and what is not understood is refused.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from ringlens.errors import RinglensError

_IMPORT = re.compile(r'^import\s+(?:(\{[^}]*\}|\*\s+as\s+\w+)\s+from\s+)?"([^"]+)";\n?', re.M)
_EXPORT = re.compile(r"^export\s+(?=(?:const|class|(?:async\s+)?function)\s+(\w+))", re.M)
_NAMED = re.compile(r"^export\s*\{((?:\s*\w+\s*,)*\s*\w*\s*)\};\n?", re.M)
_LEFT = re.compile(
    r"^\s*(?:import|export)\b(?!\().*$|\bimport\s*\(\s*[\"'`]|\bimport\.meta\b", re.M
)
_RENAMED = re.compile(r"\s+as\s+")
_COMMENT = re.compile(r"^\s*(?://.*|/\*\*?[\s\S]*?\*/)\s*?$", re.M)


def joined(modules: Mapping[str, str], entry: str) -> str:
    """Join a module and all that it imports.

    Args:
        modules: Sources by path, such as ``trace/view.js``; they import by relative paths.
        entry: Path of the module that starts the page.

    Returns:
        A classic script.

    Raises:
        RinglensError: A module is missing, imported in a circle, or written in a form that cannot
            be joined.
    """
    order: list[str] = []
    _visit(entry, modules, (), order)
    parts = [_function(path, modules[path]) for path in order]
    return "\n".join(['"use strict";', "(() => {", *parts, "})();", ""])


def _visit(path: str, modules: Mapping[str, str], above: tuple[str, ...], order: list[str]) -> None:
    """Add a module to the order, after those that it imports."""
    if path in order:
        return
    if path in above:
        raise RinglensError(f"scripts import one another in a circle: {' → '.join((*above, path))}")
    if path not in modules:
        raise RinglensError(f"{above[-1] if above else 'the page'} imports {path}: it is not there")
    for found in _IMPORT.finditer(modules[path]):
        _visit(_target(path, found[2]), modules, (*above, path), order)
    order.append(path)


def _target(path: str, relative: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), relative))


def _function(path: str, source: str) -> str:
    """Write a module as a constant: what its function returns."""
    names = [found[1] for found in _EXPORT.finditer(source)]
    for found in _NAMED.finditer(source):
        names += [name.strip() for name in found[1].split(",") if name.strip()]

    def imported(found: re.Match[str]) -> str:
        if found[1] is None:
            return ""
        module = _constant(_target(path, found[2]))
        if found[1].startswith("*"):
            return f"const {found[1].split()[-1]} = {module};\n"
        names = _RENAMED.sub(": ", found[1])
        return f"const {names} = {module};\n"

    body = _NAMED.sub("", _EXPORT.sub("", _IMPORT.sub(imported, source)))
    left = _LEFT.search(_COMMENT.sub("", body))
    if left:
        raise RinglensError(f"{path} cannot be joined with others: {left[0].strip()[:80]}")
    returned = f"return {{ {', '.join(names)} }};\n" if names else ""
    return f"// {path}\nconst {_constant(path)} = (() => {{\n{body}{returned}}})();"


def _constant(path: str) -> str:
    return "m_" + re.sub(r"\W", "_", path)
