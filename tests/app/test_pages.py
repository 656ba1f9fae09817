"""The app as a WSGI application: pages, headers, hosts; and how it starts and refuses."""

import base64
import dataclasses
import itertools
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from records import random_run, random_trace
from small_store import small_store, write_run

from ringlens.analysis.load.usage import METRICS, PHASE_CHOICES
from ringlens.app import make_app, serve
from ringlens.app.shared.sources import Sources
from ringlens.app.shell import page_at
from ringlens.errors import ConfigError, RinglensError, StoreError
from ringlens.store import ChoiceArrays, Store, StoreWriter

HOST = {"Host": "127.0.0.1:8050"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = small_store(tmp_path_factory.mktemp("stores") / "store", 80)
    with StoreWriter(path) as writer:
        bare = random_run(record=())
        none = {"routing": None, "router_logits": None, "heads": None}
        writer.commit(writer.start_run(bare), [random_trace(bare, 20, **none)])
    return path


def page(store, address, search):
    return page_at(Sources(store), address, search)


def text_of(component):
    return json.dumps(component.to_plotly_json(), default=lambda c: c.to_plotly_json())


def test_everything_comes_from_here(client):
    index = client.get("/", headers=HOST).text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', index)
    assert addresses
    assert all(address.startswith("/") and not address.startswith("//") for address in addresses)
    for address in addresses:
        assert client.get(address, headers=HOST).status_code == 200
    config = json.loads(re.search(r'id="_dash-config"[^>]*>(.*?)</script>', index, re.S)[1])
    assert not config["ui"]  # no developer tools


def test_no_script_is_inline(client):
    response = client.get("/", headers=HOST)
    policy = response.headers["Content-Security-Policy"]
    assert re.search(r"script-src ([^;]*)", policy)[1] == "'self'"
    inline = re.findall(r"<script(?![^>]*src=)([^>]*)>", response.text)
    assert inline
    assert all("application/json" in attributes for attributes in inline)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8050", 200),
        ("localhost:9000", 200),
        ("[::1]:8050", 200),
        ("example.org", 400),
        ("example.org:8050", 400),
        ("127.0.0.1.example.org:8050", 400),
        ("192.168.1.7:8050", 400),
        ("localhost@example.org", 400),
        ("[::1", 400),
        ("", 400),
    ],
)
def test_other_hosts_are_refused(client, host, status):
    for address in ("/", "/_dash-layout", "/data/version", "/data/trace/1/tokens"):
        assert client.get(address, headers={"Host": host}).status_code == status


def test_data_addresses(client):
    for name in ("tokens", "margin", "layer/2", "experts", "routing/5", "statistics/heads/5"):
        response = client.get(f"/data/trace/1/{name}", headers=HOST)
        assert response.status_code == 200, name
        assert response.is_json
    for name in ("tokens", "experts", "statistics/heads/5"):
        response = client.get(f"/data/trace/99/{name}", headers=HOST)
        assert response.status_code == 404
        assert "no trace 99" in response.json["error"]


@pytest.mark.parametrize(
    ("address", "search", "says"),
    [
        ("/", "", "All traces"),
        ("/trace/2", "", "trace-app"),
        ("/trace/99", "", "No trace 99"),
        ("/trace/x", "", "No trace x"),
        ("/trace/99999999999999999999999", "", "No trace 9999"),
        ("/nowhere", "", "No such page"),
        ("/routing", "", "usage-app"),
        ("/routing", "?trace=2&L=3&E=7&metric=lift&phase=think", "trace 2"),
        ("/routing", "?trace=77", "No trace 77"),
        ("/routing", "?run=nope", "No run nope"),
        ("/routing", "?L=99&E=-1&metric=x&phase=y", "usage-app"),
    ],
)
def test_pages(store, address, search, says):
    run_id = store.trace(1).summary["run_id"]
    if address == "/routing" and not search:
        search = f"?run={run_id}"
    elif search.startswith("?L=99"):
        search += f"&run={run_id}"
    assert says in text_of(page(store, address, search))


def usage(app, run_id, trace_id=None):
    """What the routing page draws and says, as the browser asks for it."""
    trace = "" if trace_id is None else f"&trace={trace_id}"
    asked = f"/data/usage?run={run_id}{trace}"
    response = app.server.test_client().get(asked, headers=HOST)
    assert response.status_code == 200
    return response.json


def drawn(view):
    """The numbers of a map [layers, experts]; nan where it has gaps."""
    flat = np.frombuffer(base64.b64decode(view["values"]), "<f4")
    return flat.reshape(len(view["layers"]), -1)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A run that knows which experts were chosen, and no reasons."""
    run = random_run(
        mode="imported", record=("routing",), expert_bias=np.full((3, 16), np.nan, np.float32)
    )
    full = random_trace(random_run(), 60, router_logits=None, heads=None)
    choices = ChoiceArrays(full.routing.layers, full.routing.expert_ids[:, 5:59], 5)
    path = tmp_path_factory.mktemp("stores") / "it's"
    return write_run(path, run, [dataclasses.replace(full, routing=choices)])


@pytest.mark.parametrize("kind", ["rollups", "routing", "imported", "imported routing"])
def test_the_copied_sql_gives_what_the_heatmap_shows(path, imported, tmp_path, kind):
    place = shutil.copytree(imported if "imported" in kind else path, tmp_path / "s")
    if "routing" in kind:
        with sqlite3.connect(place / "manifest.sqlite") as manifest:
            manifest.execute("delete from files where table_name like 'usage%'")
    app = make_app(place)
    with Store(place) as store:
        run_id = store.trace(1).summary["run_id"]
        for trace_id in (None, 1):
            queries = set()
            for view in usage(app, run_id, trace_id)["views"].values():
                z, query, layers = drawn(view), view["made"]["sql"], view["layers"]
                rows = store.sql(query).fetchall()
                assert [row[:2] for row in rows] == list(itertools.product(layers, range(16)))
                values = [np.nan if row[2] is None else row[2] for row in rows]
                np.testing.assert_allclose(np.reshape(values, z.shape), z, rtol=2e-6, atol=1e-7)
                queries.add(query)
            known = 2 if "imported" in kind else len(METRICS)
            assert len(queries) == known * len(PHASE_CHOICES)
    app.server.extensions["ringlens.sources"].close()


def test_without_usage_tables_the_page_counts_and_says_how_to_add_them(app, store, path, tmp_path):
    run_id = store.trace(1).summary["run_id"]
    assert "command" not in usage(app, run_id)
    old = shutil.copytree(path, tmp_path / "old")
    with sqlite3.connect(old / "manifest.sqlite") as manifest:
        manifest.execute("delete from files where table_name like 'usage%'")
    app = make_app(old)
    found = usage(app, run_id)
    assert found["command"] == f"ringlens rollup {old}"
    assert found["phases"]["all"]["tokens"] == [240]
    app.server.extensions["ringlens.sources"].close()


def test_routing_not_recorded_says_so(store):
    bare = store.trace(4).summary["run_id"]
    assert "was not recorded" in text_of(page(store, "/routing", f"?run={bare}"))
    assert "was not recorded" in text_of(page(store, "/routing", "?trace=4"))


def test_an_empty_store_shows_how_to_fill_it(tmp_path):
    with StoreWriter(tmp_path / "my store"):
        pass
    with Store(tmp_path / "my store") as store:
        text = text_of(page(store, "/", ""))
        assert "ringlens capture ring-nano" in text
        assert f"--store '{tmp_path / 'my store'}'" in text
        assert "holds no runs" in text_of(page(store, "/routing", ""))


def test_a_damaged_store_is_a_sentence(tmp_path):
    run = random_run()
    with StoreWriter(tmp_path / "s") as writer:
        writer.commit(writer.start_run(run), [random_trace(run, 30)])
    app = make_app(tmp_path / "s")
    store = app.server.extensions["ringlens.sources"].store
    (store.path / store.files("tokens")[0].path).write_bytes(b"not parquet")
    response = app.server.test_client().get("/data/trace/1/tokens", headers=HOST)
    store.close()
    assert response.status_code == 500
    assert "tokens" in response.json["error"]


def test_a_damaged_file_stops_only_the_pages_that_need_it(tmp_path):
    run = random_run()
    with StoreWriter(tmp_path / "s") as writer:
        run_id = writer.start_run(run)
        for seed in (1, 2):
            writer.commit(run_id, [random_trace(run, 30, seed=seed)])
    with Store(tmp_path / "s") as store:
        (store.path / store.files("tokens")[0].path).write_bytes(b"not parquet")
        sources = Sources(store)
        assert "trace-app" in text_of(page_at(sources, "/trace/2", ""))
        with pytest.raises(StoreError, match="tokens"):
            page_at(sources, "/", "")


def test_a_word_that_is_no_table_has_none_read(tmp_path):
    """Columns, texts and remarks of a query may be called as tables are."""
    run = random_run()
    with StoreWriter(tmp_path / "s") as writer:
        writer.commit(writer.start_run(run), [random_trace(run, 30, seed=1)])
    with Store(tmp_path / "s") as store:
        catalogue = Sources(store).catalogue
        (store.path / store.files("tokens")[0].path).write_bytes(b"not parquet")
        for column in ("n_prompt as tokens", "'tokens' as annotations", "1 /* from tokens */"):
            query = f"select {column} from Traces where trace_id = $id"
            assert len(catalogue.sql(query, {"id": 1}).fetchall()) == 1
        for source in ("tokens", "main.TOKENS", "traces join tokens using (trace_id)"):
            with pytest.raises(StoreError, match="tokens"):
                catalogue.sql(f"select count(*) from {source}").fetchall()


def test_starts_fast_and_without_torch(path):
    code = f"""
import sys, time
start = time.process_time()
from ringlens.app import make_app
app = make_app({str(path)!r})
app.server.test_client().get("/", headers={HOST!r})
took = time.process_time() - start
app.server.extensions["ringlens.sources"].close()
heavy = [name for name in ("torch", "transformers", "nnsight", "accelerate") if name in sys.modules]
print(took, heavy)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    took, heavy = result.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert float(took) < 10  # of CPU time; 1.6 on an idle machine


def test_serve_refuses(path, tmp_path):
    with pytest.raises(ConfigError, match="this machine only"):
        serve(path, host="0.0.0.0", token=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .* cannot be used"):
            serve(path, port=port)
    with pytest.raises(ConfigError, match="port 99999"):
        serve(path, port=99999)
    with pytest.raises(StoreError):
        serve(tmp_path / "nothing", port=0)
    assert issubclass(ConfigError, RinglensError)


def test_serve_stops_cleanly(path):
    import signal

    code = f"from ringlens.app import serve; serve({str(path)!r}, port=0)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        address = re.search(r"http://127\.0\.0\.1:\d+\S*", process.stdout.readline())
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        browser.open(address.group()).close()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0
    assert errors == ""
