"""Dependencies point one way, read from every import in the source, inside functions too."""

import ast
import re

import pytest
from paths import ROOT, TESTS
from slow_files import EXTRA, SLOW, extra_tests
from structure import (
    PLACES,
    arrows,
    between,
    circles,
    home,
    imported,
    modules,
    package,
    part,
    programs,
    room,
)

BASE = {"errors", "config", "display", "files", "messages", "plain", "strict_json", "versions"}
# What a part of ringlens may import of the others; parts not listed may import all but the cli.
ALLOWED = {
    "model": {"data"},
    "observe": {"model", "interventions", "store", "problem", "prompts", "transcript", "graders"},
    "interact": {"model", "interventions", "observe", "lens", "problem"},
    "serving": {"model", "observe", "store", "problem", "prompts", "transcript"},
    "interventions": set(),
    "distil": {"model", "observe", "store"},
    "store": {"interventions"},
    "sandbox": {"store"},
    "analysis": {"store", "problem"},
    "plot": {"store", "analysis"},
    "live": {
        *("model", "lens", "observe", "interventions", "store", "sandbox", "analysis"),
        *("problem", "prompts"),
    },
    "app": {"store", "sandbox", "analysis", "plot", "live", "interventions"},
    "problem": {"data", "graders", "transcript"},
    "graders": {"sandbox"},
    "prompts": {"data", "problem"},
    "transcript": {"quoting"},
    **{name: set() for name in ("quoting", *BASE)},
}
# Sub-packages in the order in which they stand: each may import those before it.
ORDER = {
    "store": "schema manifest storage encode parallel commit annotations read write maintain check",
    "observe": "kernels instruments interventions monitoring pipeline decoding",
    "model": "gate fit",
    "app": "web shared",
    "plot": "forms load differences structure experts trajectory",
}
NO_TORCH = {
    *("store", "sandbox", "analysis", "plot", "app", "problem", "prompts", "transcript"),
    "graders",
    *("interventions", *BASE),
}
AT_START = ("ringlens", "ringlens.cli.main", "ringlens.cli.console")  # functions may import torch
HEAVY = {"torch", "transformers", "accelerate", "nnsight"}


def edges():
    return [(module, other) for module, others in sorted(arrows().items()) for other in others]


def test_parts_import_those_below_them():
    for module, other in edges():
        ours, theirs = part(module), part(other)
        if ours in ALLOWED and theirs not in ("ringlens", ours):
            assert theirs in ALLOWED[ours] | BASE, f"{module} must not import {other}"


def test_nothing_imports_the_command_line():
    assert [edge for edge in edges() if part(edge[1]) == "cli" != part(edge[0])] == []


@pytest.mark.parametrize("name", ORDER)
def test_sub_packages_import_those_before_them(name):
    order = {f"ringlens.{name}.{folder}": at for at, folder in enumerate(ORDER[name].split())}
    for module, other in edges():
        ours, theirs = package(module), package(other)
        if ours in order and theirs in order:
            assert order[theirs] <= order[ours], f"{module} must not import {other}"


def test_no_circles():
    """Of modules; of sub-packages and the files beside them; of the parts of ringlens.

    Of the last, programs are left out, such as the training of ring-nano.
    """
    rooms = between(room)
    print(
        f"{len(modules())} modules, {len(edges())} arrows; {len(rooms)} packages and files beside"
    )
    print(f"sub-packages, {sum(map(len, rooms.values()))} arrows")
    assert circles(arrows()) == []
    assert circles(rooms) == []
    assert circles(between(part, programs())) == []


def test_torch_stays_out_of_what_starts_without_it():
    """Not even through another module."""
    for module in modules():
        at_once = module in AT_START
        if part(module) not in NO_TORCH and not at_once:
            continue
        todo, seen = [module], set()
        while todo:
            seen.add(found := todo.pop())
            for name in imported(modules()[found], at_once or found != module):
                assert name.partition(".")[0] not in HEAVY, f"{module} imports {name} by {found}"
                if (ours := home(name)) is not None and ours not in seen:
                    todo.append(ours)


def test_names_at_the_top_level_are_not_imported():
    for module, file in modules().items():
        for name in imported(file):
            assert name.partition(".")[0] not in PLACES, f"{module}: import ringlens.{name}"


def test_only_a_family_knows_its_modules_classes_and_fields():
    """TransformerLens' names, which begin with "blocks.", stand for points of any family."""
    names = ("mlp.gate", ".shared_experts", "query_key_value", "word_embeddings", "BailingMoe")
    fields = {
        *("num_experts", "num_experts_per_tok", "n_group", "topk_group", "num_shared_experts"),
        *("moe_intermediate_size", "first_k_dense_replace", "experts_layout", "expert_bias"),
        *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"),
    }
    table = ("ringlens.model", "ringlens.model.family")  # public names; which classes are whose
    records = ("ringlens.store", "ringlens.serving")  # `runs` has two columns of these names
    for module, file in modules().items():
        if module.startswith(("ringlens.model.ring", "ringlens.data")) or module in table:
            continue
        nodes = list(ast.walk(ast.parse(file.read_text())))
        strings = [n.value for n in nodes if isinstance(n, ast.Constant)]
        texts = [re.sub(r"blocks\.\S+", "", s) for s in strings if isinstance(s, str)]
        assert not [s for s in texts if any(name in s for name in names)], module
        if not module.startswith(records):
            asked = {n.attr for n in nodes if isinstance(n, ast.Attribute)} & fields
            assert not asked, f"{module} asks for {asked}: see ringlens.model.sizes"


def test_folders_hold_few_files():
    """Sixteen Python files at most, so that a reader takes in a folder at a glance."""
    counts = {}
    for file in modules().values():
        folder = str(file.parent.relative_to(ROOT))
        counts[folder] = counts.get(folder, 0) + 1
    print(sorted(counts.items(), key=lambda item: -item[1])[:5])
    assert {folder: n for folder, n in counts.items() if n > 16} == {}


def test_the_walk_sees_every_folder():
    assert {part(module) for module in modules()} >= {
        *("model", "observe", "interact", "serving", "store", "sandbox", "analysis"),
        *("plot", "app", "data", "probes", "cli", "lens", "errors"),
    }


def test_files_that_a_fast_run_leaves_out_are_there():
    assert [name for name in (*SLOW, *EXTRA) if not (TESTS / name).exists()] == []


@pytest.mark.parametrize(("file", "names"), extra_tests().items())
def test_tests_that_only_an_extra_run_runs_are_there(file, names):
    defined = re.findall(r"^def (test_\w+)", (TESTS / file).read_text(), re.MULTILINE)
    assert {name.partition("[")[0] for name in names} <= set(defined)
