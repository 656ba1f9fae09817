"""The addresses of a live model: who may ask, and that the dashboard itself holds no model."""

import json
import subprocess
import sys

import pytest
from live_worker import BOOT
from paths import TESTS
from small_store import small_store
from waiting import wait_for

from ringlens import problems
from ringlens.app import server
from ringlens.app.live.page import SAYS
from ringlens.app.live.routes import seen_in
from ringlens.app.shell import build
from ringlens.errors import ConfigError, RequestError
from ringlens.interventions.intervention import KINDS
from ringlens.live.thinker import LiveModel, Thinker
from ringlens.store import Store

HOST = {"Host": "127.0.0.1:8050"}

IN_A_DASHBOARD = """
import json, sys
from pathlib import Path
import live_worker
from ringlens.app.shell import build
from ringlens.live.thinker import LiveModel, Thinker
from ringlens.store import Store

thinker = Thinker(sys.argv[1], LiveModel("a model"), live_worker.BOOT)
client = build(Store(sys.argv[1]), thinker=thinker).server.test_client()
host = {"Host": "127.0.0.1:8050"}
asked = client.post("/data/live/ask", json={"prompt": "count 2"}, headers=host)
assert asked.json == {"numbers": [1]}, asked.text
while client.get("/data/live", headers=host).json["thoughts"][0]["state"] != "done":
    pass
assert client.get("/data/live/problems?set=countdown", headers=host).json["problems"]
for page in ("/live", "/trace/1", "/routing"):
    body = {
        "output": "page.children", "outputs": {"id": "page", "property": "children"},
        "inputs": [{"id": "url", "property": "pathname", "value": page},
                   {"id": "url", "property": "search", "value": ""}],
        "changedPropIds": ["url.pathname"], "state": [],
    }
    assert client.post("/_dash-update-component", json=body, headers=host).status_code == 200
thinker.close()
print(json.dumps(sorted({"torch", "transformers", "accelerate"} & set(sys.modules))))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("stores") / "store")


@pytest.fixture(scope="module")
def live(path):
    """A client of a dashboard with a model."""
    thinker = Thinker(str(path), LiveModel("a model"), BOOT)
    app = build(Store(path), thinker=thinker)
    yield app.server.test_client()
    thinker.close()
    app.server.extensions["ringlens.sources"].close()


def test_the_dashboard_stays_free_of_torch(path):
    run = subprocess.run(
        [sys.executable, "-c", IN_A_DASHBOARD, path],
        env={"PYTHONPATH": str(TESTS / "support"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


def test_what_is_asked_is_thought(live):
    numbers = live.post("/data/live/ask", json={"prompt": "count 3"}, headers=HOST).json["numbers"]

    def thought(seen=""):
        found = live.get(f"/data/live?seen={seen}", headers=HOST).json["thoughts"]
        return next(each for each in found if each["number"] == numbers[0])

    wait_for(lambda: thought()["state"] == "done")
    whole = thought()
    assert "".join(token[0] for token in whole["tokens"]) == "count 3 0 1 2"
    assert thought(f"{numbers[0]}.{whole['edition']}.4")["tokens"] == []
    stopped = live.post("/data/live/stop", json={"number": 999}, headers=HOST)
    assert (stopped.status_code, "no thought 999" in stopped.json["error"]) == (404, True)
    running = live.post("/data/live/restart", json={}, headers=HOST)
    assert (running.status_code, "nothing to start" in running.json["error"]) == (400, True)


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({"problem": {"set": "/etc/passwd", "id": "x"}}, 404, "no set of problems '/etc/passwd'"),
        ({"problem": {"set": "countdown", "id": "x"}}, 404, "no problem 'x' in the set countdown"),
        ({"problem": {"set": "countdown"}}, 400, "by its set and its id alone"),
        ({"problem": {"set": "countdown", "id": 3}}, 400, "name of a set and an id"),
        ({"problem": "countdown"}, 400, "name of a set and an id"),
        ({"problem": {"set": "countdown", "id": "x"}, "prompt": "a"}, 400, "without a prompt"),
    ],
)
def test_problems_are_of_the_sets_that_were_given(live, asked, status, message):
    answer = live.post("/data/live/ask", json=asked, headers=HOST)
    assert (answer.status_code, message in answer.json["error"]) == (status, True), answer.json


def test_a_set_is_listed(live):
    found = live.get("/data/live/problems?set=graphs", headers=HOST).json["problems"]
    assert [(each["id"], each["prompt"]) for each in found[:2]] == [
        (each.id, each.prompt) for each in problems("graphs", 2)
    ]
    assert live.get("/data/live/problems?set=/etc/passwd", headers=HOST).status_code == 404


@pytest.mark.parametrize("name", ["ask", "stop", "restart"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:9000"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8050.evil.example"},
    ],
)
def test_pages_of_other_sites_may_ask_nothing(live, name, headers):
    before = live.get("/data/live", headers=HOST).json["thoughts"]
    body = {"prompt": "count 1", "number": 1}
    refused = live.post(f"/data/live/{name}", json=body, headers={**HOST, **headers})
    assert (refused.status_code, "another site" in refused.json["error"]) == (400, True)
    text = json.dumps(body)
    form = live.post(f"/data/live/{name}", data=text, content_type="text/plain", headers=HOST)
    assert form.status_code == 415
    assert live.get(f"/data/live/{name}", headers=HOST).status_code in (404, 405)
    assert live.get("/data/live", headers=HOST).json["thoughts"] == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://hub.example"},
        {"Origin": "http://127.0.0.1:8050"},
    ],
)
def test_our_own_pages_may_ask_also_behind_a_proxy(live, headers):
    asked = live.post("/data/live/ask", json={"prompt": ""}, headers={**HOST, **headers})
    assert "the prompt is empty" in asked.json["error"]


def test_a_dashboard_without_a_model_says_how_to_have_one(path):
    app = build(Store(path))
    client = app.server.test_client()
    for answer in (
        client.get("/data/live", headers=HOST),
        client.post("/data/live/ask", json={"prompt": "a"}, headers=HOST),
    ):
        assert answer.status_code == 400
        assert "--live MODEL" in answer.json["error"]
    app.server.extensions["ringlens.sources"].close()


def test_a_model_needs_the_token(path):
    with pytest.raises(ConfigError, match="leave the token on"):
        server.serve(path, port=0, token=False, live="ring-nano")


@pytest.mark.parametrize(
    "seen", ["1", "1.2", "1.2.3.4", "a.b.c", "1.-2.3", "1.2.٣", f"{2**70}.1.1"]
)
def test_what_was_seen_is_numbers(seen):
    with pytest.raises(RequestError, match=r"NUMBER\.EDITION\.TOKENS"):
        seen_in(seen)


def test_the_form_offers_every_kind_that_has_a_short_form():
    assert set(SAYS) == set(KINDS) - {"steer"}
