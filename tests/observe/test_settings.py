"""Settings of any kind of number; names that do not exist; versions without metadata."""

import importlib.metadata
import inspect
import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tiny_lens

import ringlens as rl
from ringlens import versions
from ringlens.config import Sampling, TopAttention, Vectors
from ringlens.errors import ConfigError, ModelNotFoundError
from ringlens.model.loading import load_model, locate, model_name
from ringlens.serving.client import Patience
from ringlens.serving.importing import import_problems, import_responses
from ringlens.store.schema.instruments import recordable


def test_numbers_of_any_kind_become_pythons_own():
    given = Sampling(np.int64(9), np.float32(0.5), np.uint8(3), Fraction(1, 2), np.int16(7))
    assert given == Sampling(9, 0.5, 3, 0.5, 7)
    assert {type(value) for value in vars(given).values()} == {int, float}
    assert Vectors("resid_post", np.arange(2), [np.int8(1)], (np.int32(0), None)) == Vectors(
        "resid_post", (0, 1), (1,), (0, None)
    )
    assert TopAttention([np.int64(3)], k=np.int64(2)) == TopAttention((3,), k=2)
    assert Patience(np.int64(2), np.float64(3)) == Patience(2, 3.0)


@pytest.mark.parametrize("name", ["max_new_tokens", "temperature", "top_k", "top_p", "seed"])
@pytest.mark.parametrize(
    "value",
    [True, np.bool_(True), "1", None, math.nan, np.float32("nan"), math.inf, -1, 10**400,
     [1], np.array([1]), 1j, b"1"],
    ids=lambda value: f"{value!r:.12}",
)  # fmt: skip
def test_other_values_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"{name} = .*must be"):
        Sampling(**{name: value})


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (Sampling, {"seed": 1.0}, "seed = 1.0; it must be a whole number"),
        (Sampling, {"temperature": 1e-40}, "0 .greedy. or at least 1e-30"),
        (Sampling, {"top_p": 0}, "above 0"),
        (TopAttention, {"layers": (1,), "k": True}, "k = True"),
        (TopAttention, {"layers": None}, "layers = None"),
        (TopAttention, {"layers": "1"}, "layers = '1'"),
        (Vectors, {"point": 5}, "point = 5"),
        (Vectors, {"point": "resid_post", "heads": [1.5]}, "heads = 1.5"),
        (Vectors, {"point": "resid_post", "span": 5}, "span = 5"),
        (Vectors, {"point": "resid_post", "span": (0, True)}, "span = True"),
        (Patience, {"concurrency": 0.5}, "concurrency = 0.5"),
        (Patience, {"timeout": math.nan}, "timeout = nan"),
    ],
)
def test_refusals(kind, values, said):
    with pytest.raises(ConfigError, match=said):
        kind(**values)


@pytest.mark.parametrize(
    "wanted",
    [5, None, [5], ["routing", None], b"routing", "²", "x" * 10_000, "resid_post@²",
     "resid_post@0-99999999999", "attention:" + "9" * 5000 + "@1",
     "resid_post@1[0:" + "9" * 20 + "]"],
    ids=lambda value: f"{value!r:.24}",
)  # fmt: skip
def test_what_cannot_be_recorded_is_refused(wanted):
    with pytest.raises(ConfigError) as caught:
        recordable(wanted)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("call", "given", "wrong", "said"),
    [
        (rl.load, (), "devcie", "Did you mean 'device'.*tp_size.*revision"),
        (rl.capture, (None, [], "x"), "temprature", "Did you mean 'temperature'.*record"),
        (rl.replay, (None, [], "x"), "prefil", "Did you mean 'prefill'.*commit_every"),
        (rl.problems, ("countdown",), "sede", "Did you mean 'seed'.*split"),
        (rl.Store, ("x",), "verfy", "Did you mean 'verify'"),
        (import_responses, ("vllm", [], "x"), "modle", "Did you mean 'model'.*prompt_start"),
        (import_problems, ("vllm", "", [], "x"), "top_pp", "Did you mean 'top_p'.*patience"),
    ],
)
def test_unknown_names_list_all_that_are_known(call, given, wrong, said):
    with pytest.raises(ConfigError, match=f"unknown setting '{wrong}'. {said}"):
        call(*given, **{wrong: 1})


def defaults(call):
    """Names and defaults of a call as `inspect` and editors show them; no bare ``**options``."""
    found = inspect.signature(call).parameters.values()
    assert not [p for p in found if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    assert all(p.annotation is not p.empty for p in found)
    return {p.name: p.default for p in found}


@pytest.mark.parametrize("call", [rl.load, rl.capture, rl.replay, rl.problems, import_problems])
def test_public_calls_show_and_document_every_setting(call):
    for name in defaults(call):
        assert re.search(rf"^ +{name}: ", call.__doc__, re.MULTILINE), name


@pytest.mark.parametrize("call", [rl.capture, import_problems])
def test_defaults_of_sampling_are_those_of_its_settings(call):
    here = defaults(call)
    assert {name: here[name] for name in vars(Sampling())} == vars(Sampling())


def test_load_takes_what_load_model_takes():
    """With its defaults; but ring-nano has a dtype of its own where none is named."""
    here, there = defaults(rl.load), defaults(load_model)
    assert [*here] == [*there]
    assert {n for n in there if here[n] != there[n]} == {"name", "dtype"}


def test_a_model_may_be_a_path(tmp_path):
    assert model_name(Path("ring-nano")) == "ring-nano"
    (tmp_path / "config.json").touch()
    assert locate(model_name(tmp_path)) == str(tmp_path)
    for name in (5, None, "", " ", b"ring-nano", "a\0b", "a/\ud800", True):
        with pytest.raises(ModelNotFoundError, match="no model"):
            rl.load(name)


def test_versions_are_known_without_metadata(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert versions.version_of("ringlens") == rl.__version__
    assert versions.version_of("torch") == "unknown"


@pytest.mark.parametrize("call", ["run_with_cache", "run_with_hooks"])
@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("devcie", "device"), ("stop_at_layre", "stop_at_layer"), ("logits_to_kep", "logits_to_keep")],
)
def test_unknown_options_of_a_forward(call, wrong, meant):
    with pytest.raises(ConfigError, match=f"'{wrong}'. Did you mean '{meant}'"):
        getattr(tiny_lens.lens(), call)("t5.", **{wrong: 1})
