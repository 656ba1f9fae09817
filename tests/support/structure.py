"""The structure of the source: which module imports which, and the circles among them."""

import ast
from functools import cache
from pathlib import Path

from paths import ROOT

PLACES = ("app", "data", "probes")
"""Folders at the top level that install below `ringlens`, where links stand for them."""


@cache
def modules():
    """Every module and its file."""
    found = {}
    for top in ("ringlens", *PLACES):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            if parts[:2] in [("ringlens", place) for place in PLACES]:
                continue
            parts = parts if top == "ringlens" else ("ringlens", *parts)
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


@cache
def imported(file: Path, at_once: bool = False):
    """What a file imports; not what only type checkers see.

    Args:
        file: The file.
        at_once: Leave out what is imported inside functions, when they are called.

    Returns:
        Full names, as ``ringlens.errors.RinglensError`` of ``from ringlens.errors import …``.
    """
    found, nodes = [], [ast.parse(file.read_text())]
    for node in nodes:  # grows
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if at_once and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def home(name):
    """The module of ours that a full name lies in; None of others'."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name or None


@cache
def arrows():
    """Modules of ours, and those of ours that each imports."""
    return {
        module: {home(name) for name in imported(file)} - {None, module}
        for module, file in modules().items()
    }


@cache
def programs():
    """Modules that are run, such as the training of ring-nano, and those beside that serve them.

    Nothing but other programs of their folder imports them.
    """
    users = {module: set() for module in modules()}
    for module, others in arrows().items():
        for other in others:
            users.setdefault(other, set()).add(module)
    run = {m for m, file in modules().items() if '__name__ == "__main__"' in file.read_text()}
    found = {m for m in modules() if m in run or users[m]}
    while outside := {
        m
        for m in found
        if not all(user in found and package(user) == package(m) for user in users[m])
    }:
        found -= outside
    return found - {m for m in found if modules()[m].name == "__init__.py"}


def package(module):
    """The package a module lies in; one that is a package lies in itself."""
    is_package = modules()[module].name == "__init__.py"
    return module if is_package else module.rpartition(".")[0]


@cache
def room(module):
    """What counts as one among packages: a package, or a file that stands beside sub-packages.

    A program stands by itself too.
    """
    inside = package(module)
    packages = {package(other) for other in modules()}
    divided = any(other.startswith(f"{inside}.") for other in packages)
    return module if divided or module in programs() else inside


def part(module):
    """A package or file right below `ringlens`; `ringlens` itself."""
    return module.split(".")[1] if "." in module else module


def between(rooms, leave_out=frozenset()):
    """The arrows again, of what `rooms` makes of modules.

    Args:
        rooms: From a module to what it belongs to.
        leave_out: Modules whose arrows do not count.
    """
    found = {}
    for module, others in arrows().items():
        if module in leave_out:
            continue
        found.setdefault(rooms(module), set()).update(map(rooms, others))
    return {name: others - {name} for name, others in found.items()}


def circles(graph):
    """Groups of nodes that reach one another (Tarjan 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found
