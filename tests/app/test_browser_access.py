"""The link with its token, pages behind proxies, and a store that comes and goes, in a browser."""

import re
import shutil
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from browser import page, served
from playwright.sync_api import expect
from records import random_run, random_trace
from small_store import small_store

from ringlens.store import Store, StoreWriter

pytestmark = pytest.mark.browser

PREFIX = "/user/ada/proxy/8050/"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store(small_store(tmp_path_factory.mktemp("stores") / "store")) as store:
        yield store


@contextmanager
def proxy(port, strips):
    """A reverse proxy that shows a port below PREFIX, and nothing elsewhere; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self):
            if not self.path.startswith(PREFIX):
                self.send_error(404, "outside the prefix")
                return
            path = "/" + self.path.removeprefix(PREFIX) if strips else self.path
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {**self.headers, "Host": "hub.example.org"}
            upstream = HTTPConnection("127.0.0.1", port, timeout=300)
            upstream.request(self.command, path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = pass_on

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.mark.extra
def test_every_page_works_behind_a_proxy(store, chrome):
    with served(store.path, token=None, url_prefix=PREFIX) as link, page(chrome) as (tab, said):
        token = urlsplit(link).query
        with proxy(urlsplit(link).port, strips=True) as address:
            base = f"{address}{PREFIX}"
            tab.goto(f"{base}?{token}")
            expect(tab).to_have_url(base)  # without the token
            tab.locator("#traces .ag-row[row-id='2'] .ag-cell[col-id=prompt]").click()
            expect(tab).to_have_url(re.compile(f"{base}trace/2$"))
            expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
            tab.keyboard.press("n")
            expect(tab).to_have_url(re.compile(f"{base}trace/3$"))
            expect(tab.locator(".crumbs")).to_contain_text("Trace 3")
            expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
            tab.locator(".t").nth(20).click()
            tab.locator(".layer-detail .expert-link").first.click()
            expect(tab).to_have_url(re.compile(f"{base}expert/\\d+/\\d+"))
            tab.locator(".context").first.click()
            expect(tab).to_have_url(re.compile(f"{base}trace/3\\?tok="))
            tab.get_by_role("link", name="Traces").first.click()
            expect(tab).to_have_url(base)
            expect(tab.locator("#nav-store")).to_have_class(re.compile("active"))
            tab.keyboard.press("s")
            expect(tab).to_have_url(f"{base}sql")
            expect(tab.locator("#nav-sql")).to_have_class(re.compile("active"))
            tab.reload()
            expect(tab.locator("#page > *").first).to_be_visible()
            hrefs = tab.evaluate(
                "() => [...document.querySelectorAll('[href],[src]')].map((n) => n.href || n.src)"
            )
            outside = [each for each in hrefs if each and not each.startswith((base, "data:"))]
            assert outside == []
        assert said == []
        tab.goto(link)  # round the proxy
        expect(tab.locator("#traces .ag-row")).to_have_count(3)


def test_a_proxy_may_leave_the_prefix(store, chrome):
    with served(store.path, token=None, url_prefix=PREFIX) as link, page(chrome) as (tab, said):
        with proxy(urlsplit(link).port, strips=False) as address:
            tab.goto(f"{address}{PREFIX}trace/2?{urlsplit(link).query}")
            expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
            tab.keyboard.press("s")
            expect(tab).to_have_url(f"{address}{PREFIX}sql")
            expect(tab.locator("#nav-sql")).to_have_class(re.compile("active"))
        assert said == []


def test_without_the_token_there_is_a_sentence(store, chrome):
    with served(store.path, token=None) as link, page(chrome) as (tab, _):
        address = link.split("?")[0]
        tab.goto(f"{address}trace/1")
        expect(tab.locator("body")).to_contain_text("This dashboard needs its token")
        tab.goto(link)
        expect(tab).to_have_url(address)
        tab.goto(f"{address}trace/1")  # the cookie is enough now
        expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
        assert tab.evaluate("() => document.cookie") == ""


def test_the_page_of_a_store_opens_when_it_comes_and_follows_it(store, chrome, tmp_path):
    place, run = tmp_path / "new", random_run()
    with served(place, wait=True) as address, page(chrome) as (tab, _):
        tab.goto(address)
        expect(tab.locator("h1")).to_have_text("Waiting for the store")
        with StoreWriter(place) as writer:
            run_id = writer.start_run(run)
            expect(tab.locator("#stats")).to_contain_text("capturing")
            writer.commit(run_id, [random_trace(run, 40)])
            expect(tab.locator("#traces .ag-row")).to_have_count(1)
        shutil.rmtree(place)
        expect(tab.locator(".offline").first).to_contain_text("there is no store at")
        shutil.copytree(store.path, place)
        expect(tab.locator("#traces .ag-row")).to_have_count(3)
