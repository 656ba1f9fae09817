"""Photograph the pages of the dashboard for the README, with the store of `ringlens demo`.

``python docs/make_images.py [STORE]`` writes a picture of each page to docs/images
(all, or those named after the store); without a store it makes one, and probes the trace that is
shown for its beliefs and receiver heads. A store that was given is not changed: what is said and
thought for the pictures goes to a copy.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
sys.path.insert(0, str(IMAGES.parent.parent / "tests" / "support"))

from browser import browser, page, served
from notebook_page import executed

from ringlens.store import Store

TOKEN = "a-token-of-pictures"
STEP = 5
"""The step in focus, which is annotated: in ring-nano's thoughts the first that goes back."""

LOOK = {
    "viewport": {"width": 1280, "height": 800},
    "device_scale_factor": 1.5,
    "color_scheme": "dark",
    "reduced_motion": "reduce",
}


def shown(store):
    """The trace that is shown: a right thought of many steps, which still fit on a page."""
    query = """
select trace_id from steps join traces using (trace_id) where correct
group by trace_id having count(*) <= 25 order by count(*) desc, trace_id limit 1"""
    with Store(store) as opened:
        return opened.sql(query).fetchall()[0][0]


def token_of(store, trace):
    """The first token of the step that people have said something of."""
    with Store(store) as opened:
        query = "select token_start from steps where trace_id = ? and step = ?"
        return opened.sql(query, [trace, STEP]).fetchall()[0][0]


def store_page(tab, address, trace, tok):
    """The list of traces."""
    tab.goto(address)
    tab.locator("#traces .ag-row [col-id=prompt] a").first.wait_for()


def trace_page(tab, address, trace, tok):
    """A thought, with the focus on a token."""
    tab.goto(f"{address}/trace/{trace}?tok={tok}")
    tab.locator("#trace-app[data-ready=true]").wait_for()
    tab.locator(".layer-facts").wait_for()
    tab.locator("canvas.belief-track").wait_for()
    tab.locator("canvas.change-track").wait_for()


def routing_page(tab, address, trace, tok):
    """The usage of experts."""
    tab.goto(f"{address}/routing?L=4&E=26")
    tab.locator("#usage-app[data-ready=true]").wait_for()
    tab.locator(".token-table").wait_for()


def expert_page(tab, address, trace, tok):
    """The card of an expert."""
    tab.goto(f"{address}/expert/4/26")
    tab.locator("#expert-app[data-ready=true]").wait_for()


def heads_page(tab, address, trace, tok):
    """Receiver heads of a thought, and a pair of its steps."""
    tab.goto(f"{address}/heads/{trace}")
    tab.locator("#heads-app[data-ready=true]").wait_for()
    for _ in range(9):
        tab.keyboard.press("j")
    for _ in range(4):
        tab.keyboard.press("J")


def probes_page(tab, address, trace, tok):
    """What the probe of belief has stored."""
    tab.goto(f"{address}/probes?probe=belief")
    tab.locator("#probes-figure .main-svg").first.wait_for()
    tab.locator("#probes-app tbody tr").first.wait_for()


def run_page(tab, address, trace, tok):
    """What a run is, and its traces."""
    tab.goto(address)
    tab.locator(".runs-table a").first.click()
    tab.locator("#runs-app tbody tr").first.wait_for()


def compare_page(tab, address, trace, tok):
    """Thought against answer."""
    tab.goto(f"{address}/compare?L=4&E=26")
    tab.locator("#compare-app[data-ready=true]").wait_for()


def sql_page(tab, address, trace, tok):
    """A query, and the chart of its result."""
    tab.goto(f"{address}/sql")
    tab.locator(".sql-card", has_text="How unsure").click()
    tab.get_by_text("Chart", exact=True).click()
    tab.locator("#sql-chart .scatterlayer .trace").first.wait_for()


PAGES = {
    "store": store_page,
    "trace": trace_page,
    "routing": routing_page,
    "expert": expert_page,
    "heads": heads_page,
    "probes": probes_page,
    "run": run_page,
    "compare": compare_page,
    "sql": sql_page,
}


SHARED = {
    "share": ("?trace={trace}&tok={tok}", "light"),
    "share-usage": ("?L=4&E=26", "dark"),
}


def photograph_shared(chrome, store, folder, names):
    """Photograph one file of each kind, opened from disk; as few traces as it takes to show one."""
    trace = shown(store)
    tok = token_of(store, trace)
    options = {
        "share": [f"--trace={each}" for each in sorted({1, 3, trace})],
        "share-usage": ["--aggregate-only"],
    }
    for name, (query, scheme) in SHARED.items():
        if names and name not in names:
            continue
        form = ["--format", "bundle", "--single-file", *options[name]]
        run("export", store, "--out", f"{folder}/{name}.html", *form)
        with page(chrome, **{**LOOK, "color_scheme": scheme}) as (tab, complaints):
            tab.goto(f"file://{folder}/{name}.html{query.format(trace=trace, tok=tok)}")
            tab.locator("[data-ready=true]").wait_for()
            tab.screenshot(path=IMAGES / f"{name}.png", animations="disabled")
            assert complaints == [], complaints


def photograph_live(chrome, folder):
    """Photograph a problem that is thought about plainly, and without a group of experts."""
    options = {"token": TOKEN, "live": "ring-nano"}
    with (
        served(f"{folder}/live", **options) as address,
        page(chrome, **LOOK) as (tab, complaints),
    ):
        tab.goto(f"{address.partition('?')[0]}live?token={TOKEN}")
        tab.get_by_label("Set of problems").select_option("countdown")
        tab.get_by_label("Kind of intervention").select_option("ablate")
        tab.get_by_label("Layers").fill("*")
        tab.get_by_label("Experts").fill("8-15")
        tab.get_by_label("Where").select_option("think")
        tab.get_by_role("button", name="Add", exact=True).click()
        tab.get_by_label("New tokens").fill("200")
        tab.get_by_role("button", name="Think").click()
        tab.get_by_role("link", name="Side by side").wait_for(timeout=600_000)
        tab.screenshot(path=IMAGES / "live.png", animations="disabled")
        assert complaints == [], complaints


def photograph_beside(chrome, folder):
    """Photograph two thoughts about one problem, a right and a wrong one where there are both."""
    store = f"{folder}/samples"
    sampled = ("--n", 6, "--samples", 4, "--temperature", 1)
    run("capture", "ring-nano", "--store", store, *sampled)
    run("steps", store)
    query = """
select a.trace_id, b.trace_id
from traces a join traces b on a.problem_id = b.problem_id and a.trace_id <> b.trace_id
join (select trace_id, count(*) as steps from steps group by all) s on s.trace_id = a.trace_id
where a.correct and steps <= 25
order by b.correct, steps desc, a.trace_id, b.trace_id limit 1"""
    with Store(store) as opened:
        first, second = opened.sql(query).fetchall()[0]
    with served(store) as address, page(chrome, **LOOK) as (tab, complaints):
        tab.goto(f"{address}/beside/{first}/{second}")
        tab.locator("#beside-app[data-ready=true]").wait_for()
        tab.wait_for_load_state("networkidle")
        tab.screenshot(path=IMAGES / "beside.png", animations="disabled")
        assert complaints == [], complaints


def photograph_widgets(chrome, store, names):
    """Photograph cells of a notebook: a thought with tokens selected, and the map of experts."""
    trace = shown(store)
    tok = token_of(store, trace)
    cells = [
        f"import ringlens as rl; store = rl.Store({str(store)!r})",
        f"thought = rl.widget(store[{trace}]); thought",
        "experts = rl.widget(store.routing(where=\"phase = 'think'\")); experts",
    ]
    looks = {
        "widget-trace": (
            1,
            ".trace-app[data-ready=true]",
            f"thought.select(range({tok}, {tok} + 5))",
            ".layer-facts",
        ),
        "widget-routing": (
            2,
            ".usage-app[data-ready=true]",
            "experts.select(4, 26)",
            ".annotation",
        ),
    }
    with (
        page(chrome, **{**LOOK, "viewport": {"width": 1000, "height": 640}}) as (tab, complaints),
        executed(cells, tab) as (notebook, outputs),
    ):
        for name, (cell, ready, code, found) in looks.items():
            if names and name not in names:
                continue
            frame = notebook.show(outputs[cell])
            notebook.until(lambda here=frame, what=ready: here.locator(what).count())
            notebook.run(code)
            notebook.until(lambda here=frame, what=found: here.locator(what).count())
            tab.locator("iframe").screenshot(path=IMAGES / f"{name}.png", animations="disabled")
        assert complaints == [], complaints


def run(*words):
    """Run a command of ringlens."""
    subprocess.run([sys.executable, "-m", "ringlens.cli", *map(str, words)], check=True)


def made(folder):
    """Make the store of the demo; its steps, and what two probes find of one trace."""
    store = f"{folder}/demo"
    run("demo", "--store", store, "--no-serve")
    run("steps", store)
    for probe in ("belief", "receivers"):
        run("probe", probe, "ring-nano", store, "--trace", shown(store))
    return store


def annotated(given, folder):
    """A copy of a store of which people have said something."""
    trace = shown(given)
    with Store(shutil.copytree(given, f"{folder}/runs")) as store:
        store.annotate(trace, step=STEP, label="turns back", author="Ada")
        store.annotate(trace, label="worth a look", note="checks what it found", author="Bob")
        store.annotate(expert=(4, 26), label="opens a try", author="Ada")
    return f"{folder}/runs"


def main():
    """Serve a store, and photograph each page."""
    given, names = sys.argv[1:2], sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        store = annotated(given[0] if given else made(folder), folder)
        trace = shown(store)
        tok = token_of(store, trace)
        with browser() as chrome:
            with served(store) as address:
                for name, visit in PAGES.items():
                    if names and name not in names:
                        continue
                    with page(chrome, **LOOK) as (tab, complaints):
                        visit(tab, address, trace, tok)
                        tab.wait_for_load_state("networkidle")
                        tab.screenshot(path=IMAGES / f"{name}.png", animations="disabled")
                        assert complaints == [], complaints
            if not names or "live" in names:
                photograph_live(chrome, folder)
            if not names or "beside" in names:
                photograph_beside(chrome, folder)
            if not names or {"widget-trace", "widget-routing"} & set(names):
                photograph_widgets(chrome, store, names)
            photograph_shared(chrome, store, folder, names)


if __name__ == "__main__":
    main()
