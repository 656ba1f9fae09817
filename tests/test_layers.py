"""Dependencies point one way, read from every import in the source."""

import ast

import pytest
from paths import ROOT, TESTS
from slow_files import SLOW

BASE = {"errors", "config", "plain", "versions"}
# Package → what of ours it may import. Packages not listed may import anything but cli.
ALLOWED = {
    "model": BASE | {"model", "data"},
    "observe": BASE | {"model", "observe", "store", "problem", "lens", "transcript", "interact"},
    "interact": BASE | {"model", "observe", "interact", "lens", "problem"},
    "serving": BASE
    | {"model", "observe", "store", "serving", "problem", "transcript", "strict_json"},
    "store": BASE | {"store"},
    "sandbox": BASE | {"store", "sandbox"},
    "analysis": BASE | {"store", "analysis"},
    "app": BASE | {"store", "sandbox", "analysis", "app"},
    "strict_json": {"errors"},
    "problem": BASE | {"data", "transcript"},
    "transcript": BASE | {"quoting"},
    "quoting": set(),
    "errors": set(),
    "config": {"errors"},
    "plain": set(),
    "versions": set(),
}
NO_TORCH = {
    "store",
    "sandbox",
    "analysis",
    "app",
    "problem",
    "transcript",
    "quoting",
    "errors",
    "config",
    "cli",
}
HEAVY = {"torch", "transformers", "accelerate", "nnsight"}
PLACES = {"app": "app", "probes": "probes", "data": "data"}


def sources():
    for folder in ("ringlens", *PLACES):
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            if parts[0] == "ringlens" and parts[1] in PLACES:
                continue  # links to the top level
            yield file, parts[0] if parts[0] in PLACES else parts[1]


def imports(file):
    """Modules a file imports, those under TYPE_CHECKING left out."""
    tree = ast.parse(file.read_text())
    hidden = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            yield node.module
            if node.module == "ringlens":
                yield from (f"ringlens.{alias.name}" for alias in node.names)


FILES = list(sources())


@pytest.mark.parametrize(("file", "package"), FILES, ids=lambda x: str(x)[-40:])
def test_imports_point_one_way(file, package):
    for module in imports(file):
        top, _, rest = module.partition(".")
        assert top not in PLACES, f"import ringlens.{top}, not {top}"
        if top in HEAVY:
            assert package not in NO_TORCH, f"{package} must not import {top}"
        if top != "ringlens" or not rest:
            continue
        ours = rest.split(".")[0]
        assert ours != "cli" or package == "cli", "nothing imports cli"
        if package in ALLOWED and ours not in ("RinglensError", "__version__"):
            assert ours in ALLOWED[package], f"{package} must not import ringlens.{ours}"


@pytest.mark.parametrize(("file", "package"), FILES, ids=lambda x: str(x)[-40:])
def test_only_model_and_points_know_module_names(file, package):
    if package == "model" or file.name == "points.py":
        return
    strings = {
        n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant)
    }
    names = ("mlp.gate", "shared_experts", "query_key_value", "word_embeddings")
    assert not [s for s in strings if isinstance(s, str) and any(name in s for name in names)]


@pytest.mark.parametrize(("file", "package"), FILES, ids=lambda x: str(x)[-40:])
def test_files_stay_short(file, package):
    assert len(file.read_text().splitlines()) <= 400


def test_the_walk_sees_every_folder():
    assert {package for _, package in FILES} >= {"model", "observe", "store", "app", "data", "cli"}


def test_files_that_a_fast_run_leaves_out_are_there():
    missing = [name for name in SLOW if not (TESTS / name).exists()]
    assert missing == []
