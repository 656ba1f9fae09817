"""Each interaction of the dashboard in headless Chromium, from the input to its effect, painted.

python benchmarks/bench_dashboard.py STORE [--rounds 12] [--only routing]   # some four minutes
python benchmarks/bench_dashboard.py STORE --people 20                      # at once, by requests
python benchmarks/bench_dashboard.py STORE --soak 1000                      # memory of the server

`dashboard_store.py` makes the store. An interaction is painted when the last of what it changed
is: figures, panels, captions; what an answer to it brings much later counts as well. Beside the
clock stand the processor's milliseconds of the server and of the browser's processes: on a machine
that others use too they say more, and without others the clock shows about their sum or less.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from dashboard_store import made
from dashboard_walks import LONG_TRACE, SIZE, WALKS, Interaction, Walk, navigations
from playwright.sync_api import Browser, Page, Request, sync_playwright
from side_by_side import machine

from ringlens.store import Store

GOAL_MS, OPEN_MS = 200, 1_000
QUIET = 250
"""Milliseconds without a change after which an interaction is over."""

ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking")
CHROMIUM = os.environ.get("RINGLENS_CHROMIUM", "/usr/bin/chromium")
OPENINGS = 5
FRAMES, STEP = 240, 90
THINKS = 1.0
"""Seconds a person looks before the next input, on average."""

TICKS = os.sysconf("SC_CLK_TCK")

Asked = tuple[str, str, str | None]
"""Method, path and body of a request."""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--routed", type=float, default=1e8, help="of a store that is made first")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", default="", help="pages whose name holds this")
    parser.add_argument("--people", type=int, help="as many at once")
    parser.add_argument("--soak", type=int, help="as many requests")
    given = parser.parse_args()
    made(given.store, int(given.routed))
    print(f"{machine()}, load {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
    with served(given.store) as server, chromium() as browser:
        if given.people or given.soak:
            asked = recorded(browser, server, given.only)
            crowd(server, asked, given.people or 1, given.soak or 20 * (given.people or 1))
        else:
            table(browser, server, given.rounds, given.only)
    print(f"load {' '.join(f'{load:.1f}' for load in os.getloadavg())}")


# --- processes ------------------------------------------------------------------------------------


class Server:
    """The dashboard in a process of its own.

    Attributes:
        address: Its address.
        pid: Its process.
        store: The store that it serves.
    """

    def __init__(self, address: str, pid: int, store: Path) -> None:
        self.address, self.pid, self.store = address, pid, store

    @property
    def cpu(self) -> float:
        """Seconds of the processor so far, those of its workers too."""
        return sum(cpu_of(pid) for pid in tree(self.pid))

    @property
    def memory(self) -> float:
        """Resident memory without its workers, MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (found,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
        return int(found) / 1024


@contextmanager
def served(path: Path) -> Iterator[Server]:
    """Serve a store on a free port."""
    code = "import sys; from ringlens.app import serve; serve(sys.argv[1], port=0, token=False)"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            found = next(filter(None, (re.search(r"http://\S+?(?=\s)", line) for line in lines)))
            yield Server(found.group().rstrip("/"), process.pid, path)
        finally:
            process.terminate()


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            if stat:
                children.setdefault(int(stat[1]), []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left += children.get(found[-1], [])
    return found


def cpu_of(pid: int) -> float:
    """Seconds of the processor that a process has had."""
    stat = _stat(pid)
    return (int(stat[11]) + int(stat[12])) / TICKS if stat else 0.0


def _stat(pid: int) -> list[str]:
    """Fields of a process's state behind its name; none if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _name(pid: int) -> str:
    """Name of a process's program; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def browser_cpu(server: Server) -> float:
    """Seconds of the processor of the browser's processes so far."""
    ours = set(tree(os.getpid())) - set(tree(server.pid))
    return sum(cpu_of(pid) for pid in ours if "chrom" in _name(pid))


# --- interactions ---------------------------------------------------------------------------------


@contextmanager
def page(browser: Browser) -> Iterator[Page]:
    """A page of a new visitor, with the meter in it."""
    context = browser.new_context(viewport=SIZE)
    context.set_default_timeout(120_000)
    context.add_init_script(path=Path(__file__).with_name("painted.js"))
    tab = context.new_page()
    try:
        yield tab
    finally:
        context.close()


def walks(server: Server, only: str) -> list[Walk]:
    """The pages that are asked for, with the newest run in their addresses."""
    run = newest_run(server.store)
    every = [*WALKS, Walk("between pages", "/", "#traces .ag-row", tuple(navigations()))]
    named = [Walk(w.name, w.path.format(run=run), w.ready, w.interactions) for w in every]
    return [walk for walk in named if only in walk.name]


def newest_run(path: Path) -> str:
    """The run that pages show first."""
    with Store(path) as store:
        found = store.sql("select run_id from runs order by started desc limit 1").fetchall()
    return str(found[0][0])


def table(browser: Browser, server: Server, rounds: int, only: str) -> None:
    """Print what each page and interaction takes."""
    heads = ("p50", "p95", "first", "server", "browser", "kB")
    print(f"{'milliseconds':36s}" + "".join(f"{head:>9s}" for head in heads))
    for walk in walks(server, only):
        opened(browser, server, walk)
        with page(browser) as tab:
            opening(tab, server, walk)
            for each in walk.interactions:
                timed(tab, server, walk, each, rounds)
            if walk.path == f"/trace/{LONG_TRACE}":
                scrolling(tab, server)
        print(f"  memory of the server {server.memory:.0f} MiB", flush=True)


def opening(tab: Page, server: Server, walk: Walk) -> dict[str, float]:
    """Open a page and wait until all of it is there."""
    tab.goto(server.address + walk.path)
    tab.locator(walk.ready).first.wait_for()
    ready = tab.evaluate("performance.now()")
    found = tab.evaluate(f"__meter.settled({QUIET})")
    paints = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"
    return {**found, "first": tab.evaluate(paints), "ready": ready}


def opened(browser: Browser, server: Server, walk: Walk) -> None:
    """Print how long a page takes to open: the first visit, and later ones with files at hand."""
    for name in ("opens", "opens again"):
        found, cpu = [], np.zeros(2)
        for _ in range(OPENINGS):
            with page(browser) as tab:
                if name == "opens again":
                    opening(tab, server, walk)
                before = np.array([server.cpu, browser_cpu(server)])
                found.append(opening(tab, server, walk))
                cpu += np.array([server.cpu, browser_cpu(server)]) - before
        show(f"{walk.name}: {name}", found, cpu, OPEN_MS)
        ready = np.percentile([each["ready"] for each in found], [50, 95])
        print(f"{'':8s}usable {ready[0]:.0f} / {ready[1]:.0f}", flush=True)


def timed(tab: Page, server: Server, walk: Walk, each: Interaction, rounds: int) -> None:
    """Print what an interaction takes, over so many rounds at random places."""
    rng = np.random.default_rng(0)
    found = []
    before = np.array([server.cpu, browser_cpu(server)])
    for _ in range(rounds):
        act = each.prepare(tab, rng)
        tab.evaluate("__meter.arm()")
        act()
        found.append(tab.evaluate(f"__meter.settled({QUIET})"))
    cpu = np.array([server.cpu, browser_cpu(server)]) - before
    show(f"{walk.name}: {each.name}", found, cpu, GOAL_MS)


def show(name: str, found: list[dict[str, float]], cpu: np.ndarray, goal: float) -> None:
    """One line; a star if the 95th percentile misses the goal."""
    seen = [each for each in found if each["painted"] is not None]
    if not seen:
        print(f"{name:36s} changed nothing", flush=True)
        return
    middle, late = np.percentile([each["painted"] for each in seen], [50, 95])
    first = np.median([each["first"] for each in seen])
    server, browser = 1000 * cpu / len(found)
    size = np.median([each["bytes"] for each in found]) / 1000
    numbers = (middle, late, first, server, browser, size)
    star = " *" if late > goal else ""
    print(f"{name:36s}" + "".join(f"{number:9.0f}" for number in numbers) + star, flush=True)


def scrolling(tab: Page, server: Server) -> None:
    """Print the frames of scrolling through the text."""
    before = browser_cpu(server)
    asked = f"__meter.scrolled(document.querySelector('.trace-text'), {STEP}, {FRAMES})"
    found = tab.evaluate(asked)
    cpu = 1000 * (browser_cpu(server) - before) / FRAMES
    between, work = (np.percentile(found[name], [50, 95]) for name in ("between", "work"))
    print(
        f"  scrolling: frames {between[0]:.1f} / {between[1]:.1f} ms apart, work of the page in one"
        f" {work[0]:.1f} / {work[1]:.1f} ms, processor {cpu:.1f} ms a frame"
    )


# --- many people ----------------------------------------------------------------------------------


def recorded(browser: Browser, server: Server, only: str, rounds: int = 3) -> list[list[Asked]]:
    """The requests of each interaction, from some rounds of all of them."""
    found: list[list[Asked]] = []

    def note(request: Request) -> None:
        path = request.url.removeprefix(server.address)
        if path.startswith(("/data/", "/_dash-update")) and found:
            found[-1].append((request.method, path, request.post_data))

    rng = np.random.default_rng(1)
    for walk in walks(server, only):
        with page(browser) as tab:
            tab.on("request", note)
            found.append([])
            opening(tab, server, walk)
            for each in walk.interactions:
                for _ in range(rounds):
                    found.append([])
                    act = each.prepare(tab, rng)
                    tab.evaluate("__meter.arm()")
                    act()
                    tab.evaluate(f"__meter.settled({QUIET})")
    return [each for each in found if each]


def crowd(server: Server, asked: list[list[Asked]], people: int, interactions: int) -> None:
    """Have so many people do what was recorded, in orders of their own, and print the answers."""
    times: list[float] = []
    failed: list[int] = []
    before, cpu, start = server.memory, server.cpu, time.perf_counter()

    def person(seed: int) -> None:
        rng = np.random.default_rng(seed)
        connection = HTTPConnection(urlsplit(server.address).netloc, timeout=300)
        for _ in range(interactions // people):
            if people > 1:
                time.sleep(rng.exponential(THINKS))
            began = time.perf_counter()
            for method, path, body in asked[rng.integers(len(asked))]:
                kind = {"Content-Type": "application/json"} if body else {}
                connection.request(method, path, body, kind)
                answer = connection.getresponse()
                answer.read()
                failed.extend([answer.status] if answer.status >= 500 else [])
            times.append(1000 * (time.perf_counter() - began))

    threads = [threading.Thread(target=person, args=(seed,)) for seed in range(people)]
    for thread in threads:
        thread.start()
    marks = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.5)
        if len(times) >= len(marks) * max(1, interactions // 5):
            marks.append(f"{len(times)}: {server.memory:.0f}")
    p50, p95 = np.percentile(times, [50, 95])
    seconds = time.perf_counter() - start
    print(
        f"{people} people, {len(times)} interactions in {seconds:.0f} s: answered after"
        f" p50 {p50:.0f}, p95 {p95:.0f} ms; processor of the server"
        f" {1000 * (server.cpu - cpu) / len(times):.0f} ms each; {len(failed)} failed"
    )
    print(f"memory of the server, MiB, by interactions: before {before:.0f}; {', '.join(marks)}")


if __name__ == "__main__":
    main()
