"""Paths that were planted, against plain counting, and layers that do not know of each other."""

from collections import Counter, defaultdict
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from planted import LAYERS, RUN, planted
from records import WORDS, random_run, random_trace

from ringlens import analysis
from ringlens.analysis import Shuffled, path_clusters, routing_path
from ringlens.errors import ConfigError, StoreError
from ringlens.store import ChoiceArrays, Store, StoreWriter

THINK = "phase = 'think'"
ROUTES = {"Let": (1, 4, 7), " Wait": (2, 5, 8), " try": (2, 5, 9), " me": (1, 6, 7)}
"""Words whose tokens all take one path; two of them run alike, and differ from the others."""


def by_word(number, phase_T, token_T):
    effect_STE = np.zeros((len(LAYERS), len(phase_T), RUN.experts))
    for word, path in ROUTES.items():
        own_T = token_T == WORDS.index(word)
        for layer, expert in enumerate(path):
            effect_STE[layer, own_T, expert] = 30
    return effect_STE


def more_waiting_in_thought(rng, phase_T):
    words = rng.integers(0, len(WORDS), len(phase_T))
    again_T = (phase_T == "think") & (rng.random(len(phase_T)) < 0.4)
    words[again_T] = rng.choice([WORDS.index(" Wait"), WORDS.index(" try")], again_T.sum())
    return words


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "s"
    with Store(planted(path, by_word, traces=10, words=more_waiting_in_thought)) as store:
        yield store


def walked(store, where, layers=(1, 2, 3)):
    """Phase, correctness and path of each token, by trace."""
    rows = store.sql(
        f"""select trace_id, pos, phase, correct, layer, expert_ids[1] as expert
        from (select trace_id, layer, pos, expert_ids from routing)
        join token_context using (trace_id, pos) where ({where}) and layer in {layers}
        order by trace_id, pos, layer"""
    ).fetchall()
    found = defaultdict(list)
    for trace, pos, phase, correct, _, expert in rows:
        found[trace, pos, phase, correct].append(expert)
    return {key: tuple(path) for key, path in found.items()}


def test_the_planted_paths_are_the_most_frequent(store):
    frame = routing_path(store, THINK, draws=200)
    top = frame.head(4)
    assert {tuple(path) for path in top["path"]} == set(ROUTES.values())
    assert (top["lift"] > 2).all() and (top["low"] > top["expected"]).all()
    assert (top["p"] < 0.02).all() and (top["coverage"] > 2 * top["null"]).all()
    assert frame.attrs["layers"] == [1, 2, 3]


@pytest.mark.parametrize("by", [(), ("phase", "correct")])
def test_numbers_are_those_of_plain_counting_and_of_its_sql(store, by):
    frame = routing_path(store, None if by else THINK, by, top=30, draws=20)
    paths = walked(store, "true" if by else THINK)
    groups = defaultdict(dict)
    for (trace, pos, phase, correct), path in paths.items():
        groups[(phase, correct) if by else ()][trace, pos] = path
    for values, own in groups.items():
        rows = frame
        for name, value in zip(by, values, strict=False):
            rows = rows[rows[name] == value]
        n = Counter(own.values())
        ranked = sorted(n, key=lambda path: (-n[path], path))[:30]
        assert [tuple(path) for path in rows["path"]] == ranked
        assert rows["n"].tolist() == [n[path] for path in ranked]
        assert (rows["tokens"] == len(own)).all() and (rows["paths"] == len(n)).all()
        covered = np.cumsum([n[path] for path in ranked]) / len(own)
        np.testing.assert_allclose(rows["coverage"], covered)
        for row in list(rows.itertuples())[:5]:
            assert row.expected == pytest.approx(independent(own, row.path))
            assert row.lift == pytest.approx(row.share / row.expected)
    sql = store.sql(frame.attrs["sql"]).df()
    assert [list(path) for path in sql["path"]] == frame["path"].tolist()
    for name in set(sql.columns) - {"path"}:
        assert sql[name].tolist() == pytest.approx(frame[name].tolist())


def independent(own, path):
    """Share of a path if each trace's layers were independent."""
    loads, tokens = defaultdict(Counter), Counter()
    for (trace, _), taken in own.items():
        tokens[trace] += 1
        loads[trace].update(enumerate(taken))
    meets = [
        tokens[trace] * np.prod([loads[trace][step] / tokens[trace] for step in enumerate(path)])
        for trace in tokens
    ]
    return sum(meets) / len(own)


def test_layers_that_do_not_know_of_each_other_have_no_paths(tmp_path, store):
    """Words and traces have tastes on each layer; shuffled, nothing links the layers."""
    null = routing_path(Shuffled(store), THINK, draws=200)
    assert (null["p"] > 0.05).all()
    share, expected = null["share"].sum(), null["expected"].sum()
    assert null.attrs["source"] == "scan" and share > expected  # the most frequent of many

    def of_one_word(rng, phase_T):
        return np.zeros(len(phase_T), np.int64)

    def popular(number, phase_T, token_T):
        return np.where(np.arange(RUN.experts) == 3, 4, 0)

    path = planted(tmp_path / "s", popular, traces=10, words=of_one_word)
    with Store(path) as drawn:
        frame = routing_path(drawn, THINK, draws=200)
    assert (frame["p"] > 0.05).all()
    assert frame.iloc[0]["path"] == [3, 3, 3]  # frequent by its loads
    assert frame.iloc[0]["low"] < frame.iloc[0]["expected"] < frame.iloc[0]["high"]


def test_a_band_is_a_part_of_the_layers(store):
    frame = routing_path(store, THINK, layers=(2, 3), draws=0)
    assert frame.attrs["layers"] == [2, 3] and "low" not in frame
    expected = Counter(walked(store, THINK, (2, 3)).values()).most_common(1)[0][1]
    assert frame.iloc[0]["n"] == expected
    assert len(routing_path(store, THINK, top=7, draws=0)) == 7


def test_paths_that_run_alike_are_a_cluster_and_lie_where_they_do(store):
    frame = path_clusters(store, "phase <> 'prompt'", top=4, draws=200)
    centers = frame.drop_duplicates("cluster").set_index("cluster")
    assert tuple(centers.loc[1, "center"]) in {ROUTES[" Wait"], ROUTES[" try"]}
    assert tuple(centers.loc[2, "center"]) in {ROUTES["Let"], ROUTES[" me"]}
    assert centers["size"].tolist() == [2, 2]
    waiting = frame[frame["cluster"] == 1].set_index("phase")
    assert waiting.loc["think", "low"] > 1 > waiting.loc["answer", "high"]
    paths = walked(store, "phase <> 'prompt'")
    alike = {ROUTES[" Wait"], ROUTES[" try"]}
    for phase, row in waiting.iterrows():
        own = [path for (_, _, at, _), path in paths.items() if at == phase]
        n = sum(path in alike for path in own)
        assert (row.n, row.tokens, row.share) == (n, len(own), n / len(own))
        overall = sum(path in alike for path in paths.values()) / len(paths)
        assert row.overall == pytest.approx(overall)
        assert row.lift == pytest.approx(row.share / overall)


def test_clusters_have_nothing_to_do_with_what_was_shuffled(store):
    frame = path_clusters(Shuffled(store), "phase <> 'prompt'", draws=200)
    known = frame.dropna(subset=["low"])
    large = known[known["n"] >= 5]
    wrong = (large["low"] > 1) | (large["high"] < 1)
    assert len(large) and wrong.mean() < 0.2


def test_the_sql_of_clusters_counts_their_paths(store):
    frame = path_clusters(store, by="correct", over="phase", top=50, draws=0)
    rows = store.sql(frame.attrs["sql"]).df()
    tokens = rows[rows["rank"] == 0].groupby(["correct", "phase"])["n"].sum()
    for row in frame.itertuples():
        assert tokens[row.correct, row.phase] == row.tokens
    assert (frame["tokens"] >= frame["n"]).all() and (frame["size"] >= 2).all()


def test_phases_are_told_apart_where_nothing_names_them(store):
    assert set(routing_path(store, draws=0)["phase"]) == {"prompt", "think", "answer"}
    assert "phase" in path_clusters(store, over="correct", draws=0)


@pytest.mark.parametrize("function", [routing_path, path_clusters])
@pytest.mark.parametrize(
    ("where", "settings", "message"),
    [
        (THINK, {"layers": (2, 2)}, "takes two layers or more"),
        (THINK, {"layers": 2}, "first and the last layer"),
        (THINK, {"top": 0}, "top = 0"),
        (f"{THINK} and trace_id = 1", {}, "from 1 trace"),
        ("phase = 'nothing'", {}, "no token is selected"),
        ("phaze = 'think'", {}, "Did you mean 'phase'"),
    ],
)
def test_what_cannot_be_answered_is_refused(store, function, where, settings, message):
    with pytest.raises((ConfigError, StoreError), match=message):
        function(store, where, **settings)


def test_an_unknown_column_is_answered_with_the_nearest(store):
    with pytest.raises(ConfigError, match="Did you mean 'role'"):
        path_clusters(store, THINK, over="rolle")


def test_a_column_of_too_many_values_is_refused(store, monkeypatch):
    home = import_module("ringlens.analysis.structure.path_clusters")
    monkeypatch.setattr(home, "MOST", 20)
    with pytest.raises(ConfigError, match="values in the selection, and 20 are told apart"):
        path_clusters(store, "phase <> 'prompt'", over="pos")


def test_imported_choices_have_no_heaviest_expert(tmp_path):
    nothing = np.full((3, 16), np.nan)
    run = random_run(mode="imported", record=("routing",), expert_bias=nothing)
    full = random_trace(random_run(), 24, router_logits=None, heads=None)
    choices = ChoiceArrays(full.routing.layers, full.routing.expert_ids[:, :, ::-1], 0)
    with StoreWriter(tmp_path) as writer:
        writer.commit(writer.start_run(run), [replace(full, routing=choices)])
    with Store(tmp_path) as store:
        for function in (routing_path, path_clusters):
            with pytest.raises(StoreError, match="heaviest expert"):
                function(store, THINK)
        with pytest.raises(StoreError, match="no selection bias"):
            analysis.bias_audit(store, THINK)
