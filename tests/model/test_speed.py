"""The roofline of plans: what was measured lies within, and what more devices must change."""

import csv
import dataclasses

import pytest
from paths import CONFIGS, ROOT

from ringlens.model.fit.device_kind import KINDS, Span, kind_of
from ringlens.model.fit.forward import Split, forward
from ringlens.model.fit.memory import Workload
from ringlens.model.fit.placement import devices
from ringlens.model.fit.scenario import scenario
from ringlens.model.fit.speed import fastest, seconds, sentence, speeds
from ringlens.model.loading import locate, read_config

MEASURED = list(csv.DictReader((ROOT / "benchmarks" / "measured.csv").open()))


def scenario_of(row, **work):
    """The model that was measured: a published one, of fewer layers."""
    name = row["model"]
    file = locate(name) if name == "ring-nano" else str(CONFIGS / f"{name}.json")
    config = read_config(file)
    config.num_hidden_layers = int(row["layers"])
    config.first_k_dense_replace = int(row["dense"])
    method, dtype = (None, row["weights"]) if row["weights"] != "nf4" else ("nf4", "bfloat16")
    return scenario(config, quantization=method, dtype=dtype, work=Workload(**work))


def expected(row):
    """The range of seconds of what was measured: a prefill, or a step."""
    batch, tokens = int(row["batch"]), int(row["tokens"])
    sizes = dict.fromkeys(("tp", "ep", "pp"), 1)
    for part in row["layout"].split(" + "):
        word, _, size = part.partition(" ")
        sizes |= {word: int(size)} if word in sizes else {}
    split = Split(sizes["tp"], sizes["ep"])
    s = scenario_of(row, context=tokens, batch=batch, prefill=tokens)
    new = tokens if row["what"] == "prefill" else 1
    done = forward(s, batch, new, tokens, split)
    # What was measured before few rows took one launch, and not again, says what launches take.
    kind = dataclasses.replace(KINDS[row["kind"]], spares=row["few_rows"] == "one launch")
    return seconds(done, kind, graph=row["what"] == "graph")


@pytest.mark.parametrize(
    "row", MEASURED, ids=lambda row: "-".join(list(row.values())[:10]).replace(" ", "_")
)
def test_what_was_measured_lies_within_what_is_expected(row):
    span = expected(row)
    assert span.best <= float(row["seconds"]) <= span.worst
    wide = 16 if row["kind"] == "cpu" else 6.5  # a range that holds everything says nothing
    assert span.worst / span.best < wide


FLASH = {"model": "ring-flash-2.0", "layers": 32, "dense": 1, "weights": "bfloat16"}


@pytest.fixture(scope="module")
def flash():
    return scenario_of(FLASH, context=4096, batch=2, prefill=2048)


@pytest.mark.parametrize("split", [Split(tp=4), Split(ep=4), Split(4, 4)], ids=str)
@pytest.mark.parametrize("tokens", [1, 2048])
def test_dividing_takes_work_from_each_rank_and_adds_messages(flash, split, tokens):
    one, four = (forward(flash, 2, tokens, 4096, each) for each in (Split(), split))
    assert four.products < one.products <= 4.001 * four.products
    assert four.attention == one.attention  # every rank sees all heads
    assert four.messages > one.messages == one.sent == 0
    if split.ep > 1:
        assert four.moved < one.moved and four.read < one.read
    elif tokens == 1:  # decoding copies the chosen experts there
        assert four.moved > one.moved


def test_a_forward_reads_each_weight_at_most_once_and_computes_what_is_active(flash):
    size = flash.size
    prefill, step = forward(flash, 1, 8192, 8192), forward(flash, 1, 1, 1)
    embeddings = size.weight_bytes[flash.units.embeddings]
    cache = 2 * 32 * 4 * 128 * 2  # of a token
    assert prefill.read == pytest.approx(size.bytes - embeddings + 8192 * cache, rel=1e-6)
    active = size.active - embeddings / 2
    assert step.products == pytest.approx(2 * active, rel=0.01)
    assert step.read == pytest.approx(2 * active + cache, rel=0.02)


def test_every_layout_that_loading_accepts_has_a_speed(flash):
    found = speeds(flash, devices("4x141GB"), KINDS["h200"])
    names = ["one device", "device map", "pp 4", "tp 4", "ep 4", "tp 4 + ep 4"]
    assert [each.layout for each in found] == names
    assert [each.fits for each in found] == [False, True, True, True, True, True]
    assert [each.layout for each in found if each.graph] == [
        *("one device", "tp 4", "ep 4", "tp 4 + ep 4"),
    ]
    assert fastest(found) in found[1:]
    assert "should be fastest" in sentence(found)
    nf4 = scenario_of({**FLASH, "weights": "nf4"}, context=4096)
    assert [x.layout for x in speeds(nf4, devices("2x141GB"), KINDS["h200"])] == [
        *names[:2],
        "pp 2",
    ]
    assert sentence(speeds(flash, devices("1x80GB"), KINDS["h100"])) == ""


def test_the_fastest_is_the_one_whose_batch_ends_first(flash):
    found = speeds(flash, devices("4x141GB"), KINDS["h200"])
    quick = dataclasses.replace(found[3], seconds=Span(1e-3, 2e-3))
    assert fastest([*found[:3], quick, *found[4:]]) is quick
    assert sentence([*found[:3], quick]) == "tp 4, decoding as a graph, should be fastest."


@pytest.mark.parametrize(
    ("gpus", "named", "kind"),
    [
        ("8x141GB", None, "h200"),
        ("16x80GB", None, "h100"),
        ("16x80GB", "a100", "a100"),
        ("2x141GB,cpu:500GB", None, "h200"),
        ("cpu:8GB", None, "cpu"),
        ("1x24GB", None, None),
        ("8x192GB", None, None),
    ],
)
def test_the_kind_follows_from_the_memory_or_is_named(gpus, named, kind):
    assert kind_of(devices(gpus), named) is (None if kind is None else KINDS[kind])


def test_measured_values_replace_the_best_ones():
    kind = KINDS["h200"].measured({"bandwidth": 4e12, "launch": 20e-6})
    assert kind.bandwidth == Span(4e12, pytest.approx(3e12))
    assert kind.launch == Span(20e-6, pytest.approx(20e-6 * 30 / 14))
    assert kind.products == KINDS["h200"].products
    assert "measured" in kind.name
