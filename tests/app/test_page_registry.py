"""The registry of pages: a toy page added by one folder and one row, and nothing else."""

import re
import threading
from contextlib import contextmanager

import pytest
from browser import page as tab_of
from dash import Input, Output, html
from paths import ROOT
from playwright.sync_api import expect
from small_store import small_store
from structure import arrows
from werkzeug.serving import make_server

from ringlens.app import shell
from ringlens.app.pages import PAGES, Page
from ringlens.app.shared.constants import CONSTANTS
from ringlens.app.web.files import Files, module
from ringlens.plot.palette import PHASE_HUES
from ringlens.store import Store

APP = ROOT / "app"
HOST = {"Host": "127.0.0.1:8050"}

SCRIPT = """
import { clientside, quietly } from "../shared/dash.js";
import { part } from "../shared/dom.js";
import { GREETING } from "./constants.js";

const greet = (name) => { part("greeting").textContent = GREETING + name; };
clientside("toy", { greet: quietly(greet) });
"""
STYLE = ".toy-page h1 { color: rgb(1, 2, 3); } .icon-toy { --i: none; }"


@pytest.fixture
def toy(tmp_path):
    """A page: its folder, and its row."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "page.js").write_text(SCRIPT)
    (folder / "page.css").write_text(STYLE)

    def layout(sources, query):
        traces = len(sources.catalogue.sql("select 1 from traces"))
        name = f"{query['name']}, {query.get('more')}" if "name" in query else "nobody"
        title = html.H1(f"Toy of {traces} traces")
        parts = [title, html.P(name, id="name"), html.P(id="greeting"), html.P(id="again")]
        return html.Div(parts, className="toy-page")

    def register(app, sources):
        app.clientside_callback(
            shell.ClientsideFunction("toy", "greet"),
            Output("greeting", "id"),
            Input("name", "children"),
        )
        app.callback(Output("again", "children"), Input("name", "children"))(lambda name: name)
        app.server.add_url_rule("/data/toy", "toy", lambda: {"toy": True})

    keys = (("x y", "play with it"),)
    rest = {"label": "Toy", "icon": "toy", "key": "y", "keys": keys}
    constants = {"GREETING": "Good morning, "}
    make = {"build": layout, "register": register, "folder": folder, "constants": constants}
    return Page(name="toy", path="/toys/<name>", title="Toy <name>", **make, **rest)


@pytest.fixture
def path(tmp_path):
    return small_store(tmp_path / "store", 40)


@contextmanager
def served(path, pages):
    app = shell.build(Store(path), pages=pages)
    server = make_server("127.0.0.1", 0, app.server, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        app.server.extensions["ringlens.sources"].close()


@pytest.mark.extra
@pytest.mark.browser
def test_a_toy_page_needs_a_folder_and_a_row(toy, path, chrome):
    there = Page(
        name="home", path="/toys", title="Toys", build=toy.build, register=lambda *_: None,
        folder=toy.folder, label="Home", icon="toy", key="h", constants=toy.constants,
    )  # fmt: skip
    with served(path, (*PAGES, toy, there)) as url, tab_of(chrome) as (tab, complaints):
        tab.goto(url)
        expect(tab.locator("#found")).to_have_text("3 traces")
        expect(tab.locator("nav nav .nav-item")).to_have_text(
            ["Traces", "Routing", "Compare", "Probes", "Live", "SQL", "Toy", "Home"]
        )
        tab.keyboard.press("?")
        expect(tab.locator("dialog")).to_contain_text("play with it")
        expect(tab.locator("dialog h3")).to_have_text(
            [
                "Everywhere",
                "Trace",
                "Side by side",
                "Routing",
                "Expert",
                "Heads",
                "Compare",
                "Live",
                "SQL",
                "Toy",
            ]
        )
        tab.keyboard.press("?")
        tab.keyboard.press("h")
        expect(tab.locator("h1")).to_have_text("Toy of 3 traces")
        expect(tab.locator("#nav-home")).to_have_class(re.compile("active"))
        expect(tab).to_have_title("Toys · ringlens")

        tab.goto(f"{url}/toys/ada?more=1&name=eve")  # by its address; the path says which
        expect(tab.locator("#greeting")).to_have_text("Good morning, ada, 1")
        expect(tab.locator("#again")).to_have_text("ada, 1")
        expect(tab.locator("h1")).to_have_css("color", "rgb(1, 2, 3)")
        expect(tab.locator("#nav-toy")).to_have_class(re.compile("active"))
        expect(tab).to_have_title("Toy ada · ringlens")
        assert tab.evaluate("() => fetch('/data/toy').then((r) => r.json())") == {"toy": True}
        assert complaints == []


def test_an_address_is_of_one_page():
    def found(path):
        return [(page.name, page.match(path)) for page in PAGES if page.match(path) is not None]

    assert found("/") == [("store", {})]
    assert found("/trace/7") == [("trace", {"trace_id": "7"})]
    assert found("/trace/7/") == [("trace", {"trace_id": "7"})]
    assert found("/routing") == [("routing", {})]
    for nowhere in ("/trace", "/trace/7/8", "/routing/1", "/store", "/x"):
        assert found(nowhere) == []
    keys = [page.key for page in PAGES if page.key]
    assert len(set(keys)) == len(keys)
    assert not {"?", "t"} & set(keys)  # the frame's own


def test_only_the_registry_knows_pages_and_none_knows_another():
    """The bundle is made of two pages; the server and the shell know the registry alone."""
    folders = {f"ringlens.app.{page.name}" for page in PAGES}

    def folder(module):
        return next((each for each in folders if module.startswith(f"{each}.")), None)

    found = {
        (folder(module) or module, folder(other))
        for module, others in arrows().items()
        for other in others
        if folder(other) and module.startswith("ringlens.app") and folder(module) != folder(other)
    }
    assert found == {
        *(("ringlens.app.pages", each) for each in folders),
        ("ringlens.app.bundle.assets", "ringlens.app.trace"),
        ("ringlens.app.bundle.assets", "ringlens.app.routing"),
        ("ringlens.app.bundle.contents", "ringlens.app.trace"),
        ("ringlens.app.bundle.contents", "ringlens.app.routing"),
        ("ringlens.app.bundle.aggregates", "ringlens.app.routing"),
        ("ringlens.app.notebook.answers", "ringlens.app.trace"),
        ("ringlens.app.notebook.assets", "ringlens.app.trace"),
        ("ringlens.app.notebook.assets", "ringlens.app.routing"),
        ("ringlens.app.notebook.view", "ringlens.app.trace"),
        ("ringlens.app.notebook.view", "ringlens.app.routing"),
    }
    for script in [*APP.glob("*.js"), *(APP / "shared").glob("*.js")]:
        for page in PAGES:
            assert f"/{page.name}/" not in script.read_text(), script
    for page in PAGES:
        for script in page.folder.glob("*.js"):
            others = re.findall(r'from "\.\./(\w+)/', script.read_text())
            assert set(others) <= {"shared", "annotations"}, script


def test_files_are_kept_for_good_under_an_address_of_their_content(path, tmp_path):
    app = shell.build(Store(path))
    client = app.server.test_client()
    html = client.get("/", headers=HOST).text
    addresses = re.findall(r'(?:src|href)="(/files/[^"]+)"', html)
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert {address.rsplit(".", 1)[1] for address in addresses} == set(kinds)
    for address in addresses:
        response = client.get(address, headers=HOST)
        assert response.status_code == 200, address
        assert response.mimetype == kinds[address.rsplit(".", 1)[1]]
        assert "immutable" in response.headers["Cache-Control"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    version = addresses[0].split("/")[2]
    for name in ("0" * 16 + "/shell.js", f"{version}/shell.py", f"{version}/../server.py"):
        assert client.get(f"/files/{name}", headers=HOST).status_code == 404
    scripts = re.findall(r'<script type="module"[^>]* src="[^"]*/([^/"]+)"', html)
    assert scripts == ["shell.js", *["page.js"] * len(PAGES), "start.js"]
    app.server.extensions["ringlens.sources"].close()

    (tmp_path / "a.js").write_text("1")
    first = Files({"a": tmp_path}, {})
    assert Files({"a": tmp_path}, {}).version == first.version
    assert Files({"a": tmp_path}, {"a/b.js": {"X": 1}}).version != first.version
    (tmp_path / "a.js").write_text("2")
    assert Files({"a": tmp_path}, {}).version != first.version
    assert Files({"a": tmp_path}, {}).address("a/a.js") != first.address("a/a.js")


@pytest.mark.parametrize(
    ("types", "constants"),
    [(APP / "shared", CONSTANTS), *((page.folder, page.constants) for page in PAGES)],
)
def test_constants_have_types(types, constants):
    declared = types / "constants.d.ts"
    names = re.findall(r"export const (\w+):", declared.read_text()) if declared.exists() else []
    assert names == list(constants)
    assert re.findall(r"export const (\w+) =", module(constants)) == names


def test_the_registry_has_types():
    declared = (APP / "pages.d.ts").read_text()
    names = re.findall(r"^  (\w+):", declared, re.M)
    assert names == list(PAGES[0].facts())


def test_style_sheets_and_scripts_agree_on_the_phases():
    sheet = (APP / "shared" / "base.css").read_text()
    for phase, hue in PHASE_HUES.items():
        found = re.findall(rf"--{phase}: oklch\([\d.]+ [\d.]+ (\d+)\)", sheet)
        assert found == [str(hue)] * 2, phase  # dark and light
