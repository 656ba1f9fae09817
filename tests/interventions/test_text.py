"""The text form of interventions: printed and read, they are the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ringlens as rl
from ringlens.errors import ConfigError
from ringlens.interventions import read_intervention, read_interventions
from ringlens.interventions.place import PHASES

layers = st.none() | st.integers(-5, 90) | st.lists(st.integers(-5, 90), min_size=1, max_size=6)
numbers = st.integers(0, 300) | st.lists(st.integers(0, 300), min_size=1, max_size=8)
amounts = st.floats(-1e6, 1e6, width=64)
words = st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), max_size=3)


@st.composite
def places(draw):
    start = draw(st.integers(0, 500))
    said = draw(words)
    return {
        "phase": draw(st.none() | st.lists(st.sampled_from(PHASES), max_size=3)),
        "span": (start, draw(st.none() | st.integers(start + 1, 900))),
        "words": said,
        "reach": draw(st.integers(1, 99)) if said else 1,
    }


@st.composite
def interventions(draw):
    kind = draw(st.sampled_from([rl.Ablate, rl.RouteAround, rl.Boost, rl.Force, rl.Swap, rl.Scale,
                                 rl.AblateHead, rl.ScaleHead, rl.Steer]))  # fmt: skip
    layer, place = draw(layers), draw(places())
    if kind is rl.Steer:
        drawn = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1)
        direction = draw(drawn.filter(any))
        by = draw(amounts.filter(bool))
        point = draw(st.sampled_from(["resid_pre", "resid_post", "attn_out", "mlp_out"]))
        return kind(layer, direction, by=by, point=point, **place)
    if kind is rl.RouteAround:
        return kind(layer, draw(st.integers(0, 300)), **place)
    if kind is rl.Swap:
        two = draw(st.sets(st.integers(0, 300), min_size=2, max_size=2))
        return kind(layer, two, **place)
    what = draw(numbers)
    if kind is rl.Boost:
        return kind(layer, what, draw(st.floats(1e-6, 1e6)), **place)
    if kind in (rl.Scale, rl.ScaleHead):
        return kind(layer, what, draw(amounts), **place)
    return kind(layer, what, **place)


@given(interventions())
def test_what_is_printed_is_read_as_the_same(act):
    text = str(act)
    again = read_intervention(text)
    assert again == act
    assert hash(again) == hash(act)
    assert str(again) == text
    if not isinstance(act, rl.Steer):
        assert eval(repr(act), vars(rl) | {n: getattr(rl, n) for n in rl.__all__}) == act


@given(st.text())
def test_other_texts_are_read_or_refused_in_a_sentence(text):
    for each in (text, f"ablate:{text}", f"ablate:5/3@{text}", f"scale:5/3={text}"):
        try:
            act = read_intervention(each)
        except ConfigError:
            continue
        assert read_intervention(str(act)) == act


def test_the_forms_of_the_guide():
    assert read_intervention("ablate:5/3+7@think") == rl.Ablate(5, (3, 7), phase="think")
    assert read_intervention("ablate:2-4/3") == rl.Ablate((2, 3, 4), 3)
    assert read_intervention("boost:5/3=0.2@answer[40:]") == rl.Boost(
        5, 3, 0.2, phase="answer", span=(40, None)
    )
    assert read_intervention('scale:*/3=0.5@"Wait"~8') == rl.Scale(
        None, 3, 0.5, words="wait", reach=8
    )
    assert str(rl.Ablate(5, (7, 3, 3), phase=PHASES)) == "ablate:5/3+7"
    assert repr(rl.Ablate(layer=5, experts=(3, 7))) == "Ablate(layer=5, experts=(3, 7))"


def test_a_direction_comes_from_a_file_and_is_kept_whole(tmp_path, monkeypatch):
    direction = np.random.default_rng(0).normal(size=8).astype(np.float32)
    monkeypatch.chdir(tmp_path)
    np.save("direction.npy", direction)
    act = read_intervention("steer:4/resid_post=2.0*direction.npy")
    assert act == rl.Steer(4, direction, by=2.0)
    (tmp_path / "direction.npy").unlink()
    assert read_intervention(str(act)) == act
    with pytest.raises(ConfigError, match="cannot read the direction"):
        read_intervention("steer:4/resid_post=2.0*direction.npy")


REFUSED = {
    "ablate": "no intervention; write KIND:LAYERS/WHAT",
    "ablat:5/3": "Did you mean 'ablate'",
    "boost:5/3": "boost needs =by, as in 'boost:5/3=0.2'",
    "ablate:5/3=1": "ablate takes no =",
    "boost:5/3=-1": "a boost is above 0",
    "scale:5/3=nan": "must be a number",
    "scale:5/3=x": "'x' is no number",
    "swap:5/3": "two different experts",
    "route-around:5/3+4": "takes one expert",
    "ablate:5/7-3": "ends before it begins",
    "ablate:five/3": "no list of numbers",
    "ablate:5/": "no list of numbers",
    "ablate:5/3@": "says no place",
    "ablate:5/3@thinking": "Did you mean 'think'",
    "ablate:5/3@[9:9]": "holds no position",
    "ablate:5/3@think~3": "no words that it counts from",
    "steer:4/logits=1*AACAPw==": "unknown point to steer at",
    "steer:4/resid_post=1*AAA": "must be a .npy file",
    "ablate:5/1234567": "at most 6 digits",
}


@pytest.mark.parametrize("text", REFUSED)
def test_wrong_texts_are_refused_with_what_to_write(text):
    with pytest.raises(ConfigError) as caught:
        read_intervention(text)
    assert REFUSED[text] in str(caught.value)


def test_several_are_read_as_they_come():
    both = read_interventions([rl.Ablate(5, 3), "force:2/1"])
    assert both == (rl.Ablate(5, 3), rl.Force(2, 1))
    assert read_interventions("force:2/1") == both[1:]
    for wrong in (5, [5], {"ablate": 3}):
        with pytest.raises(ConfigError, match="is no intervention"):
            read_interventions(wrong)
