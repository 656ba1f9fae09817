"""Widgets of an executed notebook in a real browser: seen, clicked, and selected from Python."""

import json

import pytest
from notebook_page import VIEW, executed
from playwright.sync_api import expect
from small_store import small_store

import ringlens as rl
from ringlens.app.notebook.assets import assets
from ringlens.errors import ConfigError
from ringlens.store import Store

pytest.importorskip("anywidget")

CELLS = (
    "import ringlens as rl\nstore = rl.Store({path!r})",
    "store[1]",
    "%load_ext ringlens",
    "store[1]",
    "store.routing(where=\"phase <> 'prompt'\")",
    "store.routing(where='pos < 0')",
    "trace = rl.widget(store[2])\ntrace",
    "routing = rl.widget(store.routing(where=\"phase <> 'prompt'\"))\nrouting",
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("stores") / "store")


@pytest.fixture(scope="module")
def store(path):
    with Store(path) as store:
        yield store


@pytest.mark.browser
def test_a_notebook_shows_widgets_whose_selection_goes_both_ways(tab, path, store):
    cells = [cell.format(path=str(path)) if "{path" in cell else cell for cell in CELLS]
    tab.emulate_media(color_scheme="dark")  # the notebook itself is light
    with executed(cells, tab) as (notebook, outputs):
        assert VIEW not in outputs[1]["data"]  # only a notebook that asks for widgets gets them
        for output, words in ((outputs[3], "Trace 1"), (outputs[4], "Routing of all layers")):
            assert VIEW in output["data"]
            assert words in output["data"]["text/html"]  # where no kernel runs

        assert VIEW not in outputs[5]["data"]
        assert "no token" in outputs[5]["data"]["text/html"]  # what cannot be drawn says why
        frame = notebook.show(outputs[6])
        app = frame.locator(".trace-app[data-ready=true]")
        notebook.until(lambda: app.count())
        tokens = frame.locator(".t")
        assert app.evaluate("() => window.ringlens.theme()") == "light"  # as the notebook is
        assert tokens.count() == len(store[2])
        notebook.until(lambda: frame.locator(".track canvas").count())
        tokens.nth(20).click()
        tokens.nth(24).click(modifiers=["Shift"])
        expect(frame.locator(".t.chosen")).to_have_count(5)
        notebook.until(lambda: "[20, 21, 22, 23, 24]" in notebook.run("trace.selected"))
        found = json.loads(notebook.run("print(0); trace.selection().to_json()").strip("'"))
        whole = store[2].tokens()
        assert list(found["pos"].values()) == [20, 21, 22, 23, 24]
        assert list(found["token_id"].values()) == whole["token_id"][20:25].tolist()
        assert set(found["trace_id"].values()) == {2}
        notebook.run("trace.select([5, 6, 9])")
        notebook.until(lambda: frame.locator(".t.chosen").count() == 3)
        index = "(nodes) => nodes.map((node) => node.tokenIndex)"
        assert frame.locator(".t.chosen").evaluate_all(index) == [5, 6, 9]
        assert frame.locator(".t.focused").evaluate_all(index) == [5]
        notebook.until(lambda: frame.locator(".routing-grid tbody tr").count() == 3)
        assert notebook.run("trace.selected") == "[5, 6, 9]"

        app.press("a")
        expect(frame.get_by_role("dialog", name="Annotate")).to_be_visible()
        frame.get_by_role("textbox", name="Label").fill("seen in a cell")
        frame.get_by_role("textbox", name="Author").fill("Ada")
        frame.get_by_role("button", name="Save").click()
        chip = frame.locator(".annotation", has_text="seen in a cell")
        notebook.until(lambda: chip.count())
        asked = "store.annotations().select('trace_id, label, author').fetchall()"
        assert eval(notebook.run(asked)) == [(2, "seen in a cell", "Ada")]
        notebook.run("store.annotate(expert=(2, 5), label='commas', author='Bob')")

        frame = notebook.show(outputs[7])
        notebook.until(lambda: frame.locator(".usage-app[data-ready=true]").count())
        canvas = frame.locator(".usage-map canvas")
        expect(canvas).to_be_visible()
        left, top, right, bottom = map(float, canvas.get_attribute("data-box").split())
        at = {"x": left + (right - left) * 5.5 / 16, "y": top + (bottom - top) * 1.5 / 3}
        canvas.click(position=at)
        panel = frame.get_by_role("complementary", name="Expert")
        expect(panel.get_by_role("heading", name="Expert 5")).to_be_visible()
        notebook.until(lambda: panel.locator(".annotation", has_text="commas").count())
        canvas.hover(position=at)
        expect(frame.locator(".usage-map .tip")).to_contain_text("“commas”, says Bob")
        notebook.until(lambda: "[2, 5]" in notebook.run("routing.selected"))
        rows = store.routing(2, "phase <> 'prompt'")
        chose = (rows["expert_ids"] == 5).any(axis=1)
        counted = notebook.run("routing.selection().groupby('trace_id').size().to_dict()")
        assert eval(counted) == {
            trace_id: n for trace_id in (1, 2, 3) if (n := chose[rows.trace_id == trace_id].sum())
        }
        notebook.run("routing.select(3, 7)")
        notebook.until(lambda: panel.get_by_role("heading", name="Expert 7").count())
        for name in ("think", "lift"):  # the bar is that of a bundle
            button = frame.locator(f"[data-choice={name}]")
            button.click()
            expect(button).to_have_attribute("aria-pressed", "true")
        expect(frame.locator(".routing-note")).to_contain_text("lift")


def test_what_is_not_there_cannot_be_selected(store):
    trace, routing = rl.widget(store[1]), rl.widget(store.routing())
    with pytest.raises(ConfigError, match="trace 1 has no token 60: it has 0 to 59"):
        trace.select([3, 60])
    with pytest.raises(ConfigError, match=r"\[0, 5\] is no layer and expert"):
        routing.select(0, 5)
    assert trace.selection().empty
    assert routing.selection().empty
    with pytest.raises(ConfigError, match="no widget of Store: give a trace"):
        rl.widget(store)


def test_routing_of_all_layers_is_read_by_layer(store):
    routing = store.routing(where="phase = 'think'")
    assert routing.layers == [1, 2, 3]
    rows = store.routing(2, "phase = 'think'")
    assert (routing[2]["expert_ids"] == rows["expert_ids"]).all()
    assert [len(rows) for rows in routing] == [len(rows)] * 3
    assert "layers: 1–3" in repr(routing)
    assert store.routing(where="pos < 0").layers == []


def test_modules_of_a_frame_import_one_another_by_name():
    found = assets()
    for name, source in found["modules"].items():
        for line in source.splitlines():
            if line.startswith(("import ", "} from ")) and '"' in line:
                assert line.split('"')[1] in found["modules"], (name, line)
