"""Interventions on a forward: exactly what their definitions say, and nothing else."""

import numpy as np
import plain_interventions
import pytest
import tiny_lens
import torch
from hypothesis import given
from hypothesis import strategies as st

import ringlens as rl
from ringlens.errors import ConfigError, ObservationError, RinglensError
from ringlens.observe.interventions.choosable import check_choosable
from ringlens.observe.interventions.reader import Prompts, TextReader
from ringlens.observe.interventions.selection import RouterEdits
from ringlens.observe.interventions.stream import Stream
from ringlens.observe.interventions.tally import Seen, count
from ringlens.observe.interventions.whereabouts import Forward, Whereabouts
from ringlens.observe.points import POINTS as POINTS_BY_NAME
from ringlens.observe.points import selection_bias

LAYER = 5
POINTS = ("router_logits", "router_choice", "router_weights")
ACTS = [
    [rl.Ablate(LAYER, (3, 7, 9, 20))],
    [rl.Ablate(LAYER, range(0, 14))],  # a group with two experts left, and one without any
    [rl.RouteAround(LAYER, 20)],
    [rl.Boost(LAYER, 3, 0.3)],
    [rl.Boost(LAYER, (3, 17), 0.05), rl.Boost(LAYER, 3, 0.2)],
    [rl.Force(LAYER, (1, 30))],
    [rl.Swap(LAYER, (20, 17))],
    [rl.Scale(LAYER, (20, 5), 0.25)],
    [rl.Scale(LAYER, 20, -2.0), rl.Swap(LAYER, (20, 2)), rl.Scale(LAYER, 2, 0.5)],
    [rl.Ablate(LAYER, (17, 22)), rl.Force(LAYER, 8), rl.Boost(LAYER, 9, 0.1)],
    [rl.RouteAround(LAYER, 5), rl.Ablate(LAYER, 20), rl.Scale(LAYER, 17, 0.0)],
]


@pytest.fixture(scope="module")
def nano():
    return rl.load("ring-nano")


@pytest.fixture(scope="module")
def token_ids(nano):
    return nano.encode_prompt("Make 24 from 4, 6, 1, using each number once.")


def routers(lens, ids, layer=LAYER):
    """Logits, choice and weights of a layer."""
    _, cache = lens.run_with_cache(ids, [(name, layer) for name in POINTS])
    return [cache[name, layer].flatten(0, 1) for name in POINTS]


def weights_of(ids_k, weights_k):
    return dict(zip(ids_k.tolist(), weights_k.tolist(), strict=True))


def assert_defined(lens, seen, acts, layer=LAYER):
    """Every token's choice and weights are those of the plain router; returns how many differ."""
    logits, ids, weights = seen
    bias = selection_bias(lens.model, layer).tolist()
    differ = 0
    for z, chosen, w in zip(logits.tolist(), ids, weights, strict=True):
        wanted = plain_interventions.routed(lens.router, z, bias, acts)
        found = weights_of(chosen, w)
        assert found.keys() == wanted.keys()
        np.testing.assert_allclose(
            [found[e] for e in wanted], list(wanted.values()), rtol=2e-6, atol=0
        )
        own = plain_interventions.routed(lens.router, z, bias, [])
        differ += own.keys() != wanted.keys()
    return differ


@pytest.mark.parametrize("acts", ACTS, ids=str)
def test_choice_and_weights_equal_the_definition(nano, token_ids, acts):
    plain = routers(nano, token_ids)
    with nano.intervene(*acts) as effect:
        seen = routers(nano, token_ids)
    assert torch.equal(seen[0], plain[0])  # the logits stay
    differ = assert_defined(nano, seen, acts)
    assert effect.differ == {LAYER: differ}
    assert not all(torch.equal(*pair) for pair in zip(seen, plain, strict=True))
    assert [change.tokens for change in effect.changes] == [len(token_ids)] * len(acts)
    assert all(change.changed > 0 for change in effect.changes)
    for one, other in zip(routers(nano, token_ids), plain, strict=True):
        assert torch.equal(one, other)  # afterwards the model is what it was


def test_weights_of_an_unchanged_choice_stay_bit_by_bit(nano, token_ids):
    _, ids, weights = routers(nano, token_ids)
    with nano.intervene(rl.Ablate(LAYER, (3, 7))):
        _, ids_2, weights_2 = routers(nano, token_ids)
    same = (ids == ids_2).all(dim=-1)
    assert 0 < same.sum() < len(same)
    assert torch.equal(weights[same], weights_2[same])


def test_what_was_displaced_is_counted_by_expert(nano, token_ids):
    _, plain, _ = routers(nano, token_ids)
    with nano.intervene(rl.Force(LAYER, 8)) as effect:
        _, seen, _ = routers(nano, token_ids)
    lost, gained = {}, {}
    for own, ran in zip(plain.tolist(), seen.tolist(), strict=True):
        for into, experts in ((lost, set(own) - set(ran)), (gained, set(ran) - set(own))):
            for expert in experts:
                into[LAYER, expert] = into.get((LAYER, expert), 0) + 1
    assert effect.displaced == lost
    assert effect.gained == gained
    assert sum(gained.values()) == sum(lost.values()) >= effect.changes[0].changed > 0


def test_a_generation_is_intervened_step_by_step(nano, token_ids):
    inputs = torch.tensor([token_ids])
    with nano.intervene(rl.Ablate(LAYER, (3, 7, 9, 20))) as effect:
        written = nano.model.generate(inputs, max_new_tokens=80, do_sample=False)
        steps = effect.changes[0]
        again = routers(nano, written[0, :-1].tolist())  # teacher-forced, under the same
    assert written.shape[1] > len(token_ids) + 64
    assert steps.tokens == written.shape[1] - 1  # short forwards wait, and are counted all the same
    assert effect.changes[0].tokens == 2 * steps.tokens
    assert not set(again[1].flatten().tolist()) & {3, 7, 9, 20}
    assert 0 < steps.changed < steps.tokens


@pytest.mark.parametrize(
    "acts",
    [
        [rl.Ablate(None, (3, 7, 9, 20), phase="think")],
        [rl.Ablate(None, range(14), span=(20, 60)), rl.Scale(None, 3, 0.6, words="=", reach=4)],
    ],
)
def test_a_generation_in_chunks_or_from_drafts_writes_the_same(nano, token_ids, acts):
    inputs = torch.tensor([token_ids])

    def written(*acts, **how):
        with nano.intervene(*acts) as effect:
            return nano.model.generate(inputs, max_new_tokens=40, do_sample=False, **how), effect

    text, plain = written(*acts)
    assert plain.repeated == 0 and "drafts" not in str(plain)
    for how in (
        {"prefill_chunk_size": 7},
        {"prefill_chunk_size": 7, "prompt_lookup_num_tokens": 4},
    ):
        again, effect = written(*acts, **how)
        assert torch.equal(again, text)
        drafted = "prompt_lookup_num_tokens" in how
        assert (effect.repeated > 0) == drafted == ("drafts" in str(effect))
        if not drafted:
            assert effect.changes == plain.changes and effect.displaced == plain.displaced
    assert plain.changes[0].changed


@pytest.mark.parametrize("layout", ["fused", "modules"])
def test_both_layouts_compute_the_same(layout, ablated_logits):
    lens = tiny_lens.lens(layout)
    text = tiny_lens.prompt(74, 276, 166, 285, 103, 65)
    acts = (rl.Ablate(2, 3), rl.Swap(1, (0, 5)), rl.AblateHead(1, 0), "force:3/6")
    with lens.intervene(*acts):
        found, _ = lens.run_with_cache(text, [])
    assert torch.allclose(found, ablated_logits, atol=2e-5)
    assert not torch.allclose(found, lens.run_with_cache(text, [])[0], atol=1e-3)


@pytest.fixture(scope="module")
def ablated_logits():
    lens = tiny_lens.lens("fused")
    text = tiny_lens.prompt(74, 276, 166, 285, 103, 65)
    with lens.intervene(rl.Ablate(2, 3), rl.Swap(1, (0, 5)), rl.AblateHead(1, 0), rl.Force(3, 6)):
        return lens.run_with_cache(text, [])[0]


def test_rows_of_a_batch_are_intervened_each_in_its_own_way(nano):
    texts = ["Make 24 from 4, 6, 1.", "What is 7 times 8?", "Make 10 from 3, 7, 9, 2, 5."]
    rows = [[rl.Ablate(LAYER, (3, 20))], (), ["force:5/3", rl.ScaleHead(2, 1, 0.0)]]
    with nano.intervene_by_row(rows) as effect:
        together, _ = nano.run_with_cache(texts, [])  # rows are padded on the left
    for row, (text, acts) in enumerate(zip(texts, rows, strict=True)):
        if acts:
            with nano.intervene(*acts) as alone_effect:
                alone, _ = nano.run_with_cache(text, [])
            mine = [change for change in effect.changes if change.rows == (row,)]
            assert [(c.tokens, c.changed) for c in mine] == [
                (c.tokens, c.changed) for c in alone_effect.changes
            ]
        else:
            alone, _ = nano.run_with_cache(text, [])
        T = alone.shape[1]
        assert torch.allclose(together[row, -T:], alone[0], atol=1e-4), row
    with nano.intervene_by_row(rows), pytest.raises(ObservationError, match="3 rows, and a batch"):
        nano.run_with_cache(texts[:2], [])


def test_spans_count_positions_of_the_trace_in_padded_rows(nano):
    texts = ["Make 24 from 4, 6, 1.", "What is 7 times 8? Think first, then answer."]
    acts = [rl.Force(LAYER, 8, span=(2, 5)), rl.AblateHead(2, 1, span=(3, None))]
    with nano.intervene(*acts) as effect:
        together, cache = nano.run_with_cache(texts, [("router_choice", LAYER), ("head_out", 2)])
    lengths = [len(nano.encode(text)) for text in texts]
    for row, length in enumerate(lengths):
        chosen = (cache["router_choice", LAYER][row, -length:] == 8).any(dim=-1)
        assert chosen[2:5].all()
        assert not cache["head_out", 2][row, -length:][3:, 1].any()
        assert cache["head_out", 2][row, -length:][:3, 1].any(dim=-1).all()
    assert [change.tokens for change in effect.changes] == [6, sum(lengths) - 6]
    chunks = []
    with nano.intervene(*acts):  # in chunks, behind a cache
        cache = None
        ids = torch.tensor([nano.encode(texts[1])])
        for part in ids.split(4, dim=1):
            output = nano.model(part, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            chunks.append(output.logits)
    assert torch.allclose(torch.cat(chunks, dim=1)[0], together[1, -lengths[1] :], atol=1e-4)


def test_heads_are_silenced_and_scaled_and_directions_added(nano, token_ids):
    direction = np.random.default_rng(0).normal(size=256)
    places = [("head_out", 2), ("head_out", 3), ("resid_post", 4)]
    _, plain = nano.run_with_cache(token_ids, places)
    with nano.intervene(rl.AblateHead(2, (0, 1)), rl.ScaleHead(2, 2, 0.5)):
        _, seen = nano.run_with_cache(token_ids, places)
    wanted = plain["head_out", 2].clone()
    wanted[:, :, :2] = 0
    wanted[:, :, 2] *= 0.5
    assert torch.equal(seen["head_out", 2], wanted)
    with nano.intervene(rl.Steer(4, direction, by=0.5), rl.Steer(4, direction, by=-0.25)):
        _, seen = nano.run_with_cache(token_ids, places)
    added = torch.tensor(direction, dtype=torch.float32)
    torch.testing.assert_close(seen["resid_post", 4], plain["resid_post", 4] + 0.25 * added)


def test_new_logits_by_hand_do_not_undo_an_intervention(nano, token_ids):
    def flat(logits, hook):
        return logits * 0.5

    with nano.intervene(rl.Ablate(LAYER, (3, 20))) as effect:
        hooked = nano.run_with_hooks(token_ids, [(("router_logits", LAYER), flat)])
        plain, _ = nano.run_with_cache(token_ids, [])
    assert effect.changes[0].tokens == 2 * len(token_ids)  # each forward once
    assert not torch.equal(hooked, plain)
    seen = []
    with nano.intervene(rl.Ablate(LAYER, (3, 20))):
        nano.run_with_hooks(
            token_ids,
            [
                (("router_logits", LAYER), flat),
                (("router_choice", LAYER), lambda x, hook: seen.append(x.clone())),
            ],
        )
    assert not set(seen[0].flatten().tolist()) & {3, 20}


def test_new_logits_in_a_trace_are_intervened_once(nano, token_ids):
    """nnsight changes a router's output before the hooks of the router run."""
    acts = (rl.Swap(LAYER, (20, 17)), rl.Scale(LAYER, 2, 0.5))
    with nano.intervene(*acts):
        hooked = nano.run_with_hooks(
            token_ids, [(("router_logits", LAYER), lambda x, hook: x * 0.3)]
        )
    with nano.intervene(*acts) as effect, torch.no_grad(), nano.trace(token_ids):
        nano.points.router_logits[LAYER] = 0.3 * nano.points.router_logits[LAYER]
        traced = nano.points.logits.save()
    assert torch.allclose(traced, hooked, atol=1e-5)
    assert [change.tokens for change in effect.changes] == [len(token_ids)] * 2


def test_what_changes_nothing_says_why(nano, token_ids, caplog):
    own = routers(nano, token_ids)[1]
    never, other = sorted(set(range(32)) - set(own.flatten().tolist()))[:2]
    acts = {
        rl.Ablate(LAYER, never): "never chosen at 23 tokens",
        rl.Scale(LAYER, 20, 1.0): "its factor is 1",
        rl.ScaleHead(2, 1, 1.0): "its factor is 1",
        rl.Boost(LAYER, other, 1e-9, span=(0, 1)): "does not bring them among the chosen",
        rl.Ablate(LAYER, 20, span=(500, 600)): "no token of 23 stands at positions 500 to 599",
    }
    with nano.intervene(*acts) as effect:
        nano.run_with_cache(token_ids, [])
    assert [change.changed for change in effect.changes] == [0] * len(acts)
    for change, why in zip(effect.without_effect, acts.values(), strict=True):
        assert why in change.why
        assert why in caplog.text
    caplog.clear()
    with nano.intervene(rl.Ablate(LAYER, 20)) as effect:
        pass
    assert "no forward ran" in caplog.text


def test_the_group_limit_is_named_where_it_kept_an_expert_out(nano, token_ids):
    logits, own, _ = routers(nano, token_ids)
    scores = logits.sigmoid() + selection_bias(nano.model, LAYER)
    best = scores.topk(nano.router.experts_per_token).indices
    barred = set(best.flatten().tolist()) - set(own.flatten().tolist())
    assert barred  # else another text is needed
    expert = min(barred)
    with nano.intervene(rl.Ablate(LAYER, expert)) as effect:
        nano.run_with_cache(token_ids, [])
    times = int((best == expert).any(dim=-1).sum())
    assert f"the group limit kept them out at {times}" in effect.changes[0].why


def test_no_step_waits_for_the_device(nano):
    """On tensors without numbers: what would look at one fails."""
    on = torch.device("meta")
    acts = [
        rl.Ablate(LAYER, (3, 7), phase="think"),
        rl.RouteAround(LAYER, 9),
        rl.Boost(LAYER, 4, 0.1, words=("wait", "so"), reach=4),
        rl.Force(LAYER, 5, span=(1, 3)),
        rl.Swap(LAYER, (1, 2), phase=("prompt", "answer")),
        rl.Scale(LAYER, 8, 0.5),
    ]
    reader = TextReader(nano, [act.place for act in acts])
    reader.begin(Prompts([3, 5], [True, False]))
    where = Whereabouts(acts, [None, (1,), None, None, None, (0,)], 2, reader)
    edits, bias = RouterEdits(acts, nano.router, on), torch.zeros(32, device=on)
    heads = [rl.AblateHead(2, 1), rl.ScaleHead(2, 3, 0.5)]
    steering = [rl.Steer(2, np.ones(256), by=0.5)]
    mask = torch.ones(2, 9, dtype=torch.bool, device=on)
    for start, T in ((0, 7), (7, 1), (8, 1)):  # a prefill and two steps
        ids = torch.zeros(2, T, dtype=torch.int64, device=on)
        where.begin(Forward(ids, (2, T), start, mask[:, : start + T], on))
        active = where.active(tuple(range(6)), on)
        logits = torch.zeros(2 * T, 32, device=on)
        own = torch.zeros(2 * T, 4, dtype=torch.int64, device=on)
        chosen = edits.rechoose(logits.sigmoid() + bias, active)
        ran, weights, behind = edits.act_behind(chosen, logits[:, :4], active)
        counts = count(edits, Seen(logits, bias, own, ran, active, behind))
        assert counts.tokens_I.shape == (6,)
        assert weights.shape == ran.shape == (2 * T, 4)
        for point, numbered, x in (
            ("head_out", heads, torch.zeros(2, T, 8, 32, device=on)),
            ("resid_post", steering, torch.zeros(2, T, 256, device=on)),
        ):
            stream = Stream(POINTS_BY_NAME[point], 2, list(enumerate(numbered)), where)
            assert stream.change(x).shape == x.shape


REFUSED = {
    "ablate:0/3": "layer 0 is dense",
    "ablate:9/3": "layer 9 is not there",
    "ablate:-9/3": "layer -9 is not there",
    "ablate:5/32": "expert 32 is not there; they go from 0 to 31",
    "ablate-head:2/8": "head 8 is not there; they go from 0 to 7",
    "ablate:5/0-31": "may hold 0 experts, and it chooses 4 of 2 groups",
    "ablate:5/0-22": "may hold",  # one group whole, one expert of another: no second group
    "force:5/0-4": "5 experts are to be chosen, where the router chooses 4 of 2",
    "force:5/0+8+16": "experts of 3 groups are to be chosen",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_is_refused_before_anything_runs(nano, text):
    with pytest.raises(RinglensError, match=REFUSED[text]), nano.intervene(text):
        pytest.fail("it must not begin")
    assert not nano.model._forward_pre_hooks


def test_settings_that_contradict_each_other_are_refused(nano):
    with pytest.raises(ConfigError, match="taken away and to be chosen"):
        nano.intervene(rl.Ablate(5, 3), rl.Force(5, 3))
    with nano.intervene(rl.Ablate(5, 3, span=(0, 4)), rl.Force(5, 3, span=(4, None))):
        pass  # never at one token
    with pytest.raises(ConfigError, match="256 dimensions, and the direction 3"):
        nano.intervene(rl.Steer(4, (1.0, 2.0, 3.0)))
    with pytest.raises(ConfigError, match="no intervention is given"):
        nano.intervene()
    with (
        nano.intervene(rl.Ablate(5, 3)),
        pytest.raises(ObservationError, match="attached to this model already"),
        nano.intervene(rl.Ablate(5, 4)),
    ):
        pass


@given(st.data())
def test_any_experts_are_ablated_by_the_definition_or_refused(nano, data):
    """Over routers of random logits, through the arithmetic alone."""
    rule, E = nano.router, nano.router.experts
    gone = data.draw(st.sets(st.integers(0, E - 1), min_size=1, max_size=E))
    acts = [rl.Ablate(LAYER, sorted(gone))]
    try:
        check_choosable(acts, rule)
    except ConfigError:
        return
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    logits = torch.randn(5, E, generator=g) * 2
    edits = RouterEdits(acts, rule, torch.device("cpu"))
    active = torch.ones(5, 1, dtype=torch.bool)
    chosen = edits.rechoose(logits.sigmoid(), active)
    for z, ids in zip(logits.tolist(), chosen.tolist(), strict=True):
        assert set(ids) == plain_interventions.routed(rule, z, [0.0] * E, acts).keys()
        assert not set(ids) & gone
