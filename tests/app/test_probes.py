"""What probes have stored, and what a run is: tables made as they say, in pages and a browser."""

import numpy as np
import pytest
from drawn import array
from playwright.sync_api import expect
from probed_store import write_probed_store
from ran import by_python, by_sql
from records import random_run, random_trace

from ringlens.app.probes import page as probes
from ringlens.app.probes import results
from ringlens.app.runs import page as runs
from ringlens.app.shared.sources import Sources
from ringlens.store import Store, StoreWriter

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A probed run, and another that was intervened on and lost its heads."""
    path = write_probed_store(tmp_path_factory.mktemp("stores") / "store")
    other = random_run(seed=1, interventions=("ablate:1/3",))
    with StoreWriter(path) as writer:
        run_id = writer.start_run(other)
        writer.commit(run_id, [random_trace(other, 40, seed=5)])
        writer.finish_run(run_id)
    return path


@pytest.fixture(scope="module")
def run_id(store):
    ((run_id,),) = store.sql("select run_id from traces where trace_id = 1").fetchall()
    return run_id


def test_results_are_listed_and_made_as_they_say(store, run_id):
    listed = {row["probe"]: row for row in results.listed(store)}
    assert set(listed) == {"receivers", "ablation"}
    assert '"gaps"' in listed["receivers"]["settings"]
    assert (listed["ablation"]["traces"], listed["ablation"]["results"]) == (2, 6)
    found = results.read(store, "receivers", run_id)
    again = by_python(found.made)
    np.testing.assert_allclose(found.frame["score"], again["score"])
    shown = results.drawn(store, "receivers", run_id, found)
    figure = results.figure("receivers", shown, "dark")
    assert len(figure.data) >= 2
    found = results.read(store, "ablation", run_id)
    for frame in (by_sql(store, found.made), by_python(found.made)):
        np.testing.assert_allclose(frame["mean"], found.frame["mean"])
    assert found.frame["mean"].tolist() == pytest.approx([0.23, 0.13, 0.03])
    figure = results.figure("ablation", results.drawn(store, "ablation", run_id, found), "light")
    np.testing.assert_allclose(array(figure, 0, "z").ravel(), [0.03, 0.13, 0.23], atol=1e-6)
    assert results.traces(store, "ablation", run_id) == [1, 2]


def test_a_store_without_results_says_how_to_measure(tmp_path):
    with Store(write_probed_store(tmp_path / "bare", probed=False)) as bare:
        said = str(probes.layout(Sources(bare), {}))
    assert "ringlens probe belief" in said


def test_a_run_that_is_not_there(store):
    sources = Sources(store)
    assert "No run nope" in str(runs.layout(sources, {"run_id": "nope"}))
    assert "no such results" in str(probes.layout(sources, {"probe": "nope"}))


def test_from_a_run_to_what_was_measured_and_to_a_comparison(tab, address, run_id):
    tab.goto(f"{address}/runs/{run_id}")
    expect(tab.locator("h1")).to_have_text(f"Run {run_id}")
    expect(tab.locator(".run-about")).to_contain_text("3 of 16 experts a token")
    expect(tab.locator(".run-traces tbody tr")).to_have_count(2)
    expect(tab.locator(".run-others")).to_contain_text("ablate:1/3")
    tab.get_by_role("link", name="Probes").last.click()
    expect(tab.locator(".probe-link")).to_have_count(2)
    tab.locator(".probe-link", has_text="receivers").click()
    expect(tab.locator("#probes-figure .main-svg").first).to_be_visible()
    expect(tab.locator("#probes-app tbody tr")).to_have_count(12)
    tab.get_by_role("button", name="Behind “Figure”").click()
    expect(tab.locator("#behind tbody tr")).to_have_count(12)
    for kind, begins in (("PNG", b"\x89PNG"), ("SVG", b"<svg"), ("CSV", b"")):
        with tab.expect_download() as download:
            tab.locator("#behind").get_by_role("button", name=kind, exact=True).click()
        assert download.value.suggested_filename.endswith(f"-figure.{kind.lower()}")
        assert download.value.path().read_bytes().startswith(begins)
    tab.keyboard.press("Escape")
    tab.locator(".probe-link", has_text="ablation").click()
    row = tab.locator("#probes-app tbody tr").first
    expect(row).to_contain_text("0.2300")
    row.get_by_role("link").click()
    expect(tab.locator("h1")).to_have_text("Layer 1, expert 2")
