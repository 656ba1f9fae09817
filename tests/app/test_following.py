"""The app follows the store at its path: waits for one, notices another, says when it is gone."""

import re
import shutil
import threading

import pytest
from records import random_run, random_trace
from small_store import small_store, write_run
from werkzeug.test import Client

from ringlens.app import make_app, server
from ringlens.errors import StoreError
from ringlens.sandbox import confine
from ringlens.store import Store, StoreWriter

HOST = {"Host": "127.0.0.1:8050"}
PAGE = {**HOST, "Accept": "text/html"}
RUN = random_run()


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores: of three traces of 60 tokens, and of one of 90."""
    folder = tmp_path_factory.mktemp("stores")
    small_store(folder / "three", 60)
    write_run(folder / "one", RUN, [random_trace(RUN, 90, seed=9)])
    return folder


@pytest.fixture
def place(stores, tmp_path):
    return shutil.copytree(stores / "three", tmp_path / "store")


def by_renaming(new, place):
    shutil.move(place, place.with_name("old"))
    shutil.move(new, place)


def by_deleting(new, place):
    shutil.rmtree(place)
    shutil.copytree(new, place)


def by_writing_over(new, place):
    """As `rsync --delete` does: the folder stays the same."""
    for path in list(place.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(new, place, dirs_exist_ok=True)


def shown(client):
    """Tokens of trace 1, and what the store's page counts."""
    tokens = client.get("/data/trace/1/tokens", headers=HOST)
    missing = client.get("/data/trace/3/tokens", headers=HOST)
    return tokens.json["text"], missing.status_code, client.get("/data/version", headers=HOST).json


@pytest.mark.parametrize("change", [by_renaming, by_deleting, by_writing_over])
def test_another_store_at_the_path_is_shown(stores, place, tmp_path, change):
    new = shutil.copytree(stores / "one", tmp_path / "new")
    with Store(stores / "three") as first, Store(stores / "one") as second:
        texts = first.trace(1).text, second.trace(1).text
    client = make_app(place).server.test_client()
    before = shown(client)
    assert before[:2] == (texts[0], 200)
    assert shown(client) == before
    change(new, place)
    after = shown(client)
    assert after[:2] == (texts[1], 404)
    assert after[2]["store"] != before[2]["store"]  # open pages load themselves again
    assert shown(client) == after
    if confine.missing() is None:  # the workers of SQL are new ones, too
        body = {"query": "select count(*) as n from tokens", "name": "a"}
        assert client.post("/data/sql/run", json=body, headers=HOST).json["rows"] == [[90]]
    figures = client.get("/_dash-layout", headers=HOST)
    assert figures.status_code == 200


def test_a_deleted_store_is_said_to_be_gone(stores, place):
    client = make_app(place).server.test_client()
    assert client.get("/data/version", headers=HOST).status_code == 200
    shutil.rmtree(place)
    for path in ("/data/version", "/data/trace/1/tokens", "/_dash-layout"):
        response = client.get(path, headers=HOST)
        assert response.status_code == 503
        assert "there is no store at" in response.json["error"]
    page = client.get("/", headers=PAGE)
    assert "The store is gone" in page.text
    assert 'http-equiv="refresh"' in page.text
    shutil.copytree(stores / "one", place)
    assert client.get("/data/version", headers=HOST).status_code == 200


def test_a_damaged_store_is_a_sentence_until_it_is_whole(stores, place):
    client = make_app(place).server.test_client()
    marker = place / "store.json"
    text = marker.read_text()
    marker.unlink()
    marker.write_text("{")
    response = client.get("/data/version", headers=HOST)
    assert response.status_code == 503
    assert "damaged" in response.json["error"]
    assert "cannot be opened" in client.get("/", headers=PAGE).text
    marker.write_text(text)
    assert client.get("/data/version", headers=HOST).status_code == 200


def test_requests_under_way_end_before_their_store_is_closed(stores, place, tmp_path):
    app = make_app(place)
    store = app.server.extensions["ringlens.sources"].store
    entered, replaced = threading.Event(), threading.Event()

    def slow():
        entered.set()
        assert replaced.wait(300)
        return str(store.sql("select 41 + 1").fetchall()[0][0])

    app.server.add_url_rule("/slow", "slow", slow)
    answers = []

    def call():  # buffered: closes the answer as a server does
        response = app.server.test_client().get("/slow", headers=HOST, buffered=True)
        answers.append(response.text)

    ask = threading.Thread(target=call)
    ask.start()
    assert entered.wait(300)
    by_renaming(shutil.copytree(stores / "one", tmp_path / "new"), place)
    client = app.server.test_client()
    assert client.get("/data/trace/3/tokens", headers=HOST).status_code == 404
    replaced.set()
    ask.join(300)
    assert answers == ["42"]
    with pytest.raises(StoreError):
        store.sql("select 1").fetchall()  # closed by now


# --- waiting ----------------------------------------------------------------------------------


def waiting(path):
    return Client(server._following(path, "/", False, wait=True))


def test_a_store_that_is_about_to_be_made_is_waited_for(tmp_path):
    client = waiting(tmp_path / "new")
    page = client.get("/", headers=PAGE)
    assert page.status_code == 200
    assert "Waiting for the store" in page.text
    assert 'http-equiv="refresh"' in page.text
    assert client.get("/data/version", headers=HOST).status_code == 503
    with StoreWriter(tmp_path / "new") as writer:
        run_id = writer.start_run(RUN)
        assert "_dash-config" in client.get("/", headers=PAGE).text
        first = client.get("/data/version", headers=HOST).json
        writer.commit(run_id, [random_trace(RUN, 30)])
        assert client.get("/data/trace/1/tokens", headers=HOST).status_code == 200
        second = client.get("/data/version", headers=HOST).json
        assert first["store"] == second["store"]
        assert first["version"] != second["version"]


def test_what_no_store_can_come_of_is_not_waited_for(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "store.json").write_text('{"format_version": 99}')
    for name, says in (("letters", "not a store"), ("newer", "format version 99")):
        with pytest.raises(StoreError, match=re.escape(says)):
            waiting(tmp_path / name)
    with pytest.raises(StoreError):
        waiting(tmp_path / "file")
    with pytest.raises(StoreError, match="no store"):
        server._following(tmp_path / "nothing", "/", False, wait=False)
