"""What predicts a choice, where it is known what does."""

import numpy as np
import pytest
from planted import LAYERS, RUN, planted

from ringlens.analysis import predictability
from ringlens.errors import StoreError
from ringlens.store import Store


def by_half(number, phase_T, token_T):
    """On the first layer experts 0 to 2 early and 3 to 5 late; on the last what the token says."""
    T = len(phase_T)
    effect_STE = np.zeros((len(LAYERS), T, RUN.experts))
    effect_STE[0, : T // 2, 0:3] = 20
    effect_STE[0, T // 2 :, 3:6] = 20
    for pos, token in enumerate(token_T):
        effect_STE[2, pos, [(token + i) % RUN.experts for i in range(3)]] = 20
    return effect_STE


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    with Store(planted(tmp_path_factory.mktemp("s") / "s", by_half)) as store:
        yield predictability(store, draws=100).set_index(["layer", "known"])


def test_what_decides_predicts(frame):
    assert frame.loc[(1, "position"), "overlap"] > 0.99
    assert frame.loc[(3, "token"), "overlap"] > 0.99
    for layer, known in ((1, "token"), (3, "position")):
        assert frame.loc[(layer, known), "overlap"] < 0.7
    for place in ((1, "position"), (3, "token")):
        row = frame.loc[place]
        assert 0.3 < row.low <= row.gain <= row.high


def test_what_knows_nothing_is_the_frequency(frame):
    nothing = frame.xs("nothing", level="known")
    assert (nothing["gain"] == 0).all()
    assert (nothing["unseen"] == 0).all()
    gain = frame["overlap"] - frame.index.get_level_values("layer").map(nothing["overlap"])
    np.testing.assert_allclose(frame["gain"], gain)
    # On the middle layer words have tastes, and nothing else says anything.
    middle = frame.loc[2]
    assert middle.loc["token", "low"] > 0.02
    for known in ("position", "phase", "role"):
        assert abs(middle.loc[known, "gain"]) < 0.02
    assert middle.loc["bigram", "unseen"] > 0


def test_held_out_traces_are_needed(tmp_path):
    path = planted(tmp_path / "s", traces=1)
    with Store(path) as store, pytest.raises(StoreError, match="from 1 trace"):
        predictability(store)
