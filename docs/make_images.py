"""Photograph the pages of the dashboard for the README, with the store of `ringlens demo`.

``python docs/make_images.py [STORE]`` writes a picture of each page to docs/images
(all, or those named after the store); without a store it makes one, and probes trace 3 for its
beliefs and receiver heads.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
sys.path.insert(0, str(IMAGES.parent.parent / "tests" / "support"))

from browser import browser, page, served

LOOK = {
    "viewport": {"width": 1280, "height": 800},
    "device_scale_factor": 1.5,
    "color_scheme": "dark",
    "reduced_motion": "reduce",
}


def store_page(tab, address):
    """The list of traces."""
    tab.goto(address)
    tab.locator("#traces .ag-row [col-id=prompt] a").first.wait_for()


def trace_page(tab, address):
    """A thought, with the focus on a token and the attention of a head on the text."""
    tab.goto(f"{address}/trace/3?tok=62")
    tab.locator("#trace-app[data-ready=true]").wait_for()
    tab.locator(".layer-facts").wait_for()
    tab.locator("canvas.belief-track").wait_for()
    tab.locator("canvas.change-track").wait_for()


def routing_page(tab, address):
    """The usage of experts."""
    tab.goto(f"{address}/routing?L=4&E=26")
    tab.locator("#heatmap canvas[data-window]").wait_for()


def expert_page(tab, address):
    """The card of an expert."""
    tab.goto(f"{address}/expert/4/26")
    tab.locator("#expert-app[data-ready=true]").wait_for()


def heads_page(tab, address):
    """Receiver heads of a thought, and a pair of its steps."""
    tab.goto(f"{address}/heads/3")
    tab.locator("#heads-app[data-ready=true]").wait_for()
    for _ in range(4):
        tab.keyboard.press("j")


def probes_page(tab, address):
    """What the probe of belief has stored."""
    tab.goto(f"{address}/probes?probe=belief")
    tab.locator("#probes-figure .main-svg").first.wait_for()
    tab.locator("#probes-app tbody tr").first.wait_for()


def run_page(tab, address):
    """What a run is, and its traces."""
    tab.goto(address)
    tab.locator(".runs-table a").first.click()
    tab.locator("#runs-app tbody tr").first.wait_for()


def compare_page(tab, address):
    """Thought against answer."""
    tab.goto(f"{address}/compare?L=4&E=26")
    tab.locator("#compare-app[data-ready=true]").wait_for()


def sql_page(tab, address):
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
    "share": ([], "?trace=3&tok=62", "light"),
    "share-usage": (["--aggregate-only"], "?L=4&E=26", "dark"),
}


def photograph_shared(chrome, store, folder, names):
    """Photograph one file of each kind, opened from disk."""
    for name, (options, query, scheme) in SHARED.items():
        if names and name not in names:
            continue
        export = ["-m", "ringlens.cli", "export", store, "--out", f"{folder}/{name}.html"]
        form = ["--format", "bundle", "--single-file", *options]
        subprocess.run([sys.executable, *export, *form], check=True)
        with page(chrome, **{**LOOK, "color_scheme": scheme}) as (tab, complaints):
            tab.goto(f"file://{folder}/{name}.html{query}")
            tab.locator("[data-ready=true]").wait_for()
            tab.screenshot(path=IMAGES / f"{name}.png", animations="disabled")
            assert complaints == [], complaints


def main():
    """Serve a store, and photograph each page."""
    with tempfile.TemporaryDirectory() as folder:
        store = sys.argv[1] if len(sys.argv) > 1 else f"{folder}/demo"
        if len(sys.argv) == 1:
            demo = ["-m", "ringlens.cli", "demo", "--store", store, "--no-serve"]
            subprocess.run([sys.executable, *demo], check=True)
            subprocess.run([sys.executable, "-m", "ringlens.cli", "steps", store], check=True)
            for probe in ("belief", "receivers"):
                asked = ["-m", "ringlens.cli", "probe", probe, "ring-nano", store, "--trace", "3"]
                subprocess.run([sys.executable, *asked], check=True)
        with served(store) as address, browser() as chrome:
            for name, visit in PAGES.items():
                if sys.argv[2:] and name not in sys.argv[2:]:
                    continue
                with page(chrome, **LOOK) as (tab, complaints):
                    visit(tab, address)
                    tab.wait_for_load_state("networkidle")
                    tab.screenshot(path=IMAGES / f"{name}.png", animations="disabled")
                    assert complaints == [], complaints
            photograph_shared(chrome, store, folder, sys.argv[2:])


if __name__ == "__main__":
    main()
