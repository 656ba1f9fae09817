"""Help for browser tests: a served store, and a page of the system's Chromium."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import warm
from paths import SUPPORT

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--no-first-run",
)
VIOLATIONS = """addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.effectiveDirective} forbids ${event.blockedURI}`))"""
SERVE = """
import ast, sys
from ringlens.app import serve
sys.path.append(sys.argv[3])
from patient import be_patient
be_patient()
serve(sys.argv[1], port=0, **ast.literal_eval(sys.argv[2]))
"""
WAIT = 120_000  # milliseconds before an expectation fails; the machine may be busy


def chromium():
    """Path of the system's Chromium; skips the test where there is none."""
    wanted = os.environ.get("RINGLENS_CHROMIUM", "/usr/bin/chromium")
    found = shutil.which(wanted) or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here: install the package 'chromium' or set RINGLENS_CHROMIUM")
    return found


@contextmanager
def served(store_path, **options):
    """Serve a store from a process of its own on a free port; yields its address.

    Without a token unless ``options`` of `ringlens.app.serve` ask for one. Queries may take as long
    as a busy machine needs.
    """
    options = {"token": False, **options}
    with warm.Process(
        ["-c", SERVE, store_path, repr(options), SUPPORT], stderr=warm.DEVNULL
    ) as process:
        try:
            said = iter(process.stdout.readline, "")
            yield next(filter(None, (re.search(r"http://\S+", line) for line in said))).group()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(120)


@contextmanager
def static(folder):
    """Serve a folder with Python's own server of files; yields its address."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", folder]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield re.search(r"http://\S+/", process.stdout.readline()).group()
        finally:
            process.kill()


@contextmanager
def browser():
    """A headless browser."""
    from playwright.sync_api import expect, sync_playwright

    path = chromium()
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield chrome
        finally:
            chrome.close()


@contextmanager
def page(chrome, **options):
    """A page in a context of its own, as a pair (page, complaints).

    ``complaints`` collects console errors, uncaught exceptions, failed requests, and what the
    page's policy of security forbade.
    """
    context = chrome.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    context.set_default_timeout(WAIT)
    context.add_init_script(VIOLATIONS)
    tab = context.new_page()
    complaints = []
    tab.on("console", lambda m: m.type == "error" and complaints.append(m.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("response", lambda r: r.status >= 400 and complaints.append(f"{r.status} {r.url}"))
    try:
        yield tab, complaints
    finally:
        context.close()


def on_map(tab, across, down):
    """Place on the page of a part of the routing map's width and height, in pixels."""
    canvas = tab.locator(".usage-map canvas[data-box]")
    box = canvas.bounding_box()
    left, top, right, bottom = map(float, canvas.get_attribute("data-box").split())
    x, y = left + across * (right - left), top + down * (bottom - top)
    return box["x"] + x, box["y"] + y
