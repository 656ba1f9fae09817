"""One model over several processes (torchrun, gloo) equals the model in one process."""

import dataclasses

import parallel_ring
import pytest
import torch
import transformers.distributed
import warm
from paths import CONFIGS, SUPPORT

from ringlens.errors import ConfigError
from ringlens.model.fit.placement import devices
from ringlens.model.fit.scenario import scenario
from ringlens.model.fit.strategy import sharded
from ringlens.model.loading import load_model, read_config
from ringlens.model.parallel import (
    Parallel,
    check_sizes,
    control_group,
    owned_layers,
    parallel_of,
    stage_layers,
)

WORKER = SUPPORT / "parallel_worker.py"
TWO = {"tp": "2,1,1", "ep": "1,2,1", "tp x ep": "2,2,1", "pp": "1,1,2"}
QUANTISED = "1,1,2,nf4"
FOUR = {"tp of four": "4,1,1", "tp x ep of four": "4,4,1"}  # more than the 2 kv heads
THREE = ["3,3,1", "1,1,3"]  # into which neither widths nor layers divide


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return parallel_ring.save(tmp_path_factory.mktemp("ring"))


@pytest.fixture(scope="module")
def alone(folder):
    return parallel_ring.observe(folder)


def launched(processes, folder, out, layouts):
    """What each rank saw of each layout."""
    warm.run_ranks([WORKER, folder, out, *layouts], processes)
    return {
        layout: [torch.load(out / f"{layout}-{rank}.pt") for rank in range(processes)]
        for layout in layouts
    }


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder, out):
    with torch.serialization.safe_globals([Parallel]):
        return launched(2, folder, out, [*TWO.values(), QUANTISED])


@pytest.fixture(scope="module")
def four(folder, out):
    with torch.serialization.safe_globals([Parallel]):
        return launched(4, folder, out, FOUR.values())


NAMES = [*TWO, *(pytest.param(name, marks=pytest.mark.extra) for name in FOUR)]


@pytest.fixture(params=NAMES, ids=lambda name: name.replace(" ", "_"))
def ranks(request):
    """What every rank saw in one layout."""
    fixture, layouts = ("two", TWO) if request.param in TWO else ("four", FOUR)
    return request.getfixturevalue(fixture)[layouts[request.param]]


def sizes(layout):
    return tuple(map(int, layout.split(",")))


def test_logits_are_those_of_one_process(ranks, alone):
    for seen in ranks:
        assert (seen["logits"] - alone["logits"]).abs().max() < 1e-5


def test_router_choices_are_exactly_those_of_one_process(ranks, alone):
    for seen in ranks:
        assert set(seen["gates"]) == set(seen["owned"]) - {0}
        for layer, (logits, weights, ids) in seen["gates"].items():
            wanted_logits, wanted_weights, wanted_ids = alone["gates"][layer]
            assert torch.equal(ids, wanted_ids)
            assert (logits - wanted_logits).abs().max() < 1e-5
            assert (weights - wanted_weights).abs().max() < 1e-5
    assert set().union(*(seen["gates"] for seen in ranks)) == {1, 2, 3}


def test_router_outputs_are_identical_on_all_ranks_that_own_a_layer(ranks):
    for layer in (1, 2, 3):
        outputs = [seen["gates"][layer] for seen in ranks if layer in seen["gates"]]
        for other in outputs[1:]:
            assert all(map(torch.equal, outputs[0], other))


def test_every_rank_sees_all_heads(ranks, alone):
    for seen in ranks:
        assert set(seen["heads"]) == set(seen["owned"])
        for layer, (query, key) in seen["heads"].items():
            wanted_query, wanted_key = alone["heads"][layer]
            assert query.shape == wanted_query.shape == (2, 4, 12, 16)
            assert key.shape == wanted_key.shape == (2, 2, 12, 16)
            assert (query - wanted_query).abs().max() < 1e-5
            assert (key - wanted_key).abs().max() < 1e-5


def test_greedy_tokens_of_a_padded_batch(ranks, alone):
    assert alone["tokens"].shape == (2, 12 + parallel_ring.NEW_TOKENS)
    for seen in ranks:
        assert torch.equal(seen["tokens"], alone["tokens"])


@pytest.mark.parametrize("layout", ["2,1,1", "1,2,1", "2,2,1"])
def test_each_rank_routes_and_computes_its_own_rows(layout, two, alone):
    """605 tokens, 4 of 16 experts each: what two processes do, one does not do again."""
    wanted, found = alone["many"], [seen["many"] for seen in two[layout]]
    assert wanted["routed"] == dict.fromkeys((1, 2, 3), 605)
    for rank, seen in enumerate(found):
        assert seen["routed"] == dict.fromkeys((1, 2, 3), 303)  # the last one is padding
        assert (seen["logits"] - wanted["logits"]).abs().max() < 1e-5
        for layer, ids in wanted["choices"].items():
            assert torch.equal(seen["choices"][layer], ids)
            own = int((ids // 8 == rank).sum()) if sizes(layout)[1] > 1 else ids.numel()
            assert seen["computed"][layer] == own


@pytest.mark.parametrize("layout", TWO.values())
def test_parallel_says_how_it_is_laid_out(layout, two):
    tp, ep, pp = sizes(layout)
    for rank, seen in enumerate(two[layout]):
        assert seen["parallel"] == Parallel(tp, ep, pp, rank, world_size=2)
        assert seen["layout"] == "fused"
        assert seen["owned"] == ((0, 1, 2, 3) if pp == 1 else ((0, 1), (2, 3))[rank])


@pytest.mark.parametrize("layout", ["2,1,1", "1,2,1", "2,2,1"])
def test_each_rank_holds_its_share_of_the_weights(layout, two, alone):
    tp, _, _ = sizes(layout)
    for seen in two[layout]:
        assert seen["bytes"]["experts"] * 2 == alone["bytes"]["experts"]
        # Attention: projections are shared out, the two norms of a layer (128 bytes) are not.
        whole = alone["bytes"]["attention"]
        assert seen["bytes"]["attention"] == (whole + 4 * 128 if tp == 2 else 2 * whole) // 2


def test_a_stage_holds_its_layers_only(two, alone):
    first, last = (seen["bytes"] for seen in two["1,1,2"])
    assert first["attention"] * 2 == last["attention"] * 2 == alone["bytes"]["attention"]
    assert (first["experts"], last["experts"]) == tuple(
        alone["bytes"]["experts"] * n // 3 for n in (1, 2)
    )


@pytest.mark.parametrize("layout", [*TWO.values(), QUANTISED])
def test_a_plan_knows_what_each_rank_holds(layout, two, folder):
    """To the byte, buffers included."""
    tp, ep, pp, *method = layout.split(",")
    if method:
        pytest.importorskip("bitsandbytes")
    s = scenario(read_config(str(folder)), dtype="float32", quantization=(method or [None])[0])
    strategy = sharded(s, devices("2x80GB"), int(tp), int(ep), int(pp))
    assert [load.weights for load in strategy.loads] == [
        sum(x["bytes"].values()) for x in two[layout]
    ]


@pytest.mark.extra
def test_uneven_shares(tmp_path):
    """Three ranks: 64 is no multiple of 3, nor are 4 layers; 12 experts are."""
    folder = parallel_ring.save(tmp_path, num_experts=12)
    wanted = parallel_ring.observe(folder)
    out = tmp_path / "ranks"
    out.mkdir()
    with torch.serialization.safe_globals([Parallel]):
        ranks = launched(3, folder, out, THREE)
    for layout in THREE:
        for seen in ranks[layout]:
            assert (seen["logits"] - wanted["logits"]).abs().max() < 1e-5
            assert torch.equal(seen["tokens"], wanted["tokens"])
    shares = [tuple(layers) for layers in stage_layers(4, 3)]  # what a plan counts with
    assert [seen["owned"] for seen in ranks["1,1,3"]] == shares
    assert [layer for share in shares for layer in share] == [0, 1, 2, 3]


def test_a_pipeline_of_nf4_is_the_nf4_of_one_process(two, folder):
    pytest.importorskip("bitsandbytes")
    wanted = parallel_ring.observe(folder, quantization="nf4")
    for seen in two[QUANTISED]:
        assert seen["layout"] == "modules"
        assert seen["bytes"]["experts"] < wanted["bytes"]["experts"]
        assert (seen["logits"] - wanted["logits"]).abs().max() < 1e-5
        assert torch.equal(seen["tokens"], wanted["tokens"])


def test_control_group_reaches_all_ranks_and_does_not_wait_for_ever(two, out):
    (words, waited), (other_words, _) = (torch.load(out / f"control-{r}.pt") for r in (0, 1))
    assert words == other_words == ["rank 0", "rank 1"]
    message, seconds = waited
    assert seconds < 300  # it waits for one, and the other rank comes when it has given up
    assert "imed out" in message or "timeout" in message.lower()


def test_a_single_process(folder):
    model, _ = load_model(str(folder))
    assert parallel_of(model) == Parallel(1, 1, 1, 0, 1)
    assert owned_layers(model) == owned_layers(model.model) == (0, 1, 2, 3)
    assert control_group(1) is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        parallel_of(model).rank = 1


REFUSED = {
    "no torchrun": (
        {"tp_size": 2},
        None,
        r"single process.*\n  torchrun --standalone --nproc-per-node=2 ",
    ),
    "other processes": ({"tp_size": 4}, 2, "takes 4 processes, but WORLD_SIZE is 2"),
    "unequal tp and ep": ({"tp_size": 2, "ep_size": 4}, 4, "give both the same size"),
    "ep with pp": ({"ep_size": 2, "pp_size": 2}, 4, "cannot yet combine .* tp_size = ep_size = 4"),
    "tp with pp": ({"tp_size": 2, "pp_size": 2}, 4, "cannot yet combine"),
    "experts do not divide": ({"ep_size": 3}, 3, "does not divide the model's 16 experts"),
    "experts too thin": ({"tp_size": 16}, 16, "experts, 64 wide, cannot be split into 16 parts"),
    "experts do not split": ({"tp_size": 3}, 3, "multiples of 8 .16 bytes"),
    "more stages than layers": ({"pp_size": 5}, 5, "the model has 4 layers"),
    "size of nothing": ({"tp_size": 0}, 1, "tp_size = 0"),
    "modules": ({"tp_size": 2, "experts": "modules"}, 2, "fused experts. Leave experts out"),
    "bitsandbytes": ({"ep_size": 2, "quantization": "nf4"}, 2, "do not combine"),
    "a device": ({"tp_size": 2, "device": "cpu"}, 2, "leave device"),
    "a device map": ({"pp_size": 2, "device_map": "auto"}, 2, "leave device"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(name, folder, monkeypatch):
    options, world, message = REFUSED[name]
    if world is not None:
        monkeypatch.setenv("WORLD_SIZE", str(world))
    with pytest.raises(ConfigError, match=message):
        load_model(str(folder), **options)


def test_fp8_weights_split_between_blocks():
    """Ring-1T has 16 blocks in an expert: more ranks than that would cut through them."""
    config = read_config(str(CONFIGS / "ring-1t-fp8.json"))
    for size in (2, 4, 8, 16):
        check_sizes(config, tp_size=size, ep_size=1, pp_size=1, method="fp8")
        check_sizes(config, tp_size=size, ep_size=size, pp_size=1, method="fp8")
    for sizes in ({"tp_size": 32, "ep_size": 1}, {"tp_size": 32, "ep_size": 32}):
        check_sizes(config, **sizes, pp_size=1)
        with pytest.raises(ConfigError, match="FP8 scales belong to blocks"):
            check_sizes(config, **sizes, pp_size=1, method="fp8")
    check_sizes(config, tp_size=1, ep_size=32, pp_size=1, method="fp8")


def test_transformers_without_expert_parallelism_is_named(folder, monkeypatch):
    old = dataclasses.make_dataclass("DistributedConfig", ["tp_size", "pp_size"])
    monkeypatch.setattr(transformers.distributed, "DistributedConfig", old)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"has no DistributedConfig\(ep_size=…\).*5\.23 or newer"):
        load_model(str(folder), ep_size=2)
