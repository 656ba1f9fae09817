"""Import from a server on loopback: formats, retries, refusals, death in the middle, resume."""

import asyncio
import json
import signal
import time

import pytest
import warm
from click.testing import CliRunner
from serving import answers, ring_nano, serving
from slow_files import few

import ringlens as rl
from ringlens.cli.main import main
from ringlens.errors import ConfigError, ServingError
from ringlens.serving.client import NoServerError, Patience
from ringlens.serving.importing import import_problems
from ringlens.store import Store

N = 6
QUICK = Patience(concurrency=3, timeout=300, retries=2, backoff=0.01)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    with ring_nano(tmp_path_factory.mktemp("nano") / "captured", N) as told:
        yield told


@pytest.fixture
def ask(tmp_path, model):
    """Import from a server into ``tmp_path / "store"``."""

    def ask(engine, server, **options):
        options = {"model": model, "patience": QUICK, "max_new_tokens": 48} | options
        problems = options.pop("problems", rl.problems("countdown", n=N))
        return import_problems(engine, server.url, problems, tmp_path / "store", **options)

    return ask


def stored(path):
    if not (path / "store.json").exists():  # which comes last
        return []
    with Store(path) as store:
        return [item for (item,) in store.sql("select item from traces order by item").fetchall()]


def assert_all(told, store):
    """Every problem once, as ring-nano did it."""
    rows = store.sql("select item, trace_id from traces order by item").fetchall()
    assert [item for item, _ in rows] == list(range(N))
    for (_, trace_id), trace in zip(rows, told.traces, strict=True):
        found = store.trace(trace_id)
        told.assert_same(trace, found)
        for name in ("prompt", "problem_id", "task", "answer", "expected", "correct", "seed"):
            assert found.summary[name] == trace.summary[name]


@pytest.mark.parametrize(("engine", "version"), [("vllm", "0.28.0"), ("sglang", "0.5.23")])
def test_problems_are_asked_and_answers_recorded(told, ask, engine, version):
    seen = []
    with serving(answers(told), together=2) as server:
        with ask(engine, server, on_progress=seen.append) as store:
            assert_all(told, store)
            (run,) = store.runs().to_arrow_table().to_pylist()
        assert json.loads(run["versions"])[engine] == version
        assert json.loads(run["sampling"])["max_new_tokens"] == 48
        assert run["finished"] is not None
        assert len(server.asked) == N
        assert 1 < server.most <= QUICK.concurrency
    assert (seen[-1].traces, seen[-1].total) == (N, N)
    path, body = server.asked[0]
    if engine == "vllm":
        assert path == "/v1/completions"
        assert body["return_token_ids"] is True
        assert body["model"] == "ring"
        assert "seed" not in body
    else:
        assert path == "/generate"
        assert body["return_routed_experts"] is True
        assert body["sampling_params"]["temperature"] == 0


def test_each_problem_is_drawn_with_a_seed_of_its_own(told, ask):
    with serving(answers(told)) as server:
        ask("vllm", server, temperature=0.7, top_k=5, seed=3).close()
        assert len({body["seed"] for _, body in server.asked}) == N
        assert {body["top_k"] for _, body in server.asked} == {5}
        ask("sglang", server, temperature=0.7, seed=3).close()
        seeds = {body["sampling_params"]["sampling_seed"] for _, body in server.asked[N:]}
        assert len(seeds) == N


@pytest.mark.parametrize("engine", ["openai", "openai-chat"])
def test_text_of_any_server_is_kept_and_a_replay_adds_the_routing(told, ask, engine, tmp_path):
    with serving(answers(told)) as server, ask(engine, server) as store:
        assert store.sql("select count(*) from routing").fetchall() == [(0,)]
        texts = store.sql("select text from traces order by item").fetchall()
        prompts = [told.lens.tokenizer.decode(told.ids(trace)[0]) for trace in told.traces]
        whole = [p + told.text(t) for p, t in zip(prompts, told.traces, strict=True)]
        assert [text.removesuffix("<|role_end|>") for (text,) in texts] == whole
        graded = "select correct, answer from traces order by item"
        assert store.sql(graded).fetchall() == told.store.sql(graded).fetchall()
    options = ["--store", str(tmp_path / "again"), "--record", "routing"]
    result = CliRunner().invoke(main, ["replay", "ring-nano", str(store.path), *options])
    assert result.exit_code == 0, result.output
    with Store(store.path) as source, Store(tmp_path / "again") as again:
        for trace_id in range(1, N + 1):
            replayed = again.trace(trace_id)
            assert replayed.summary["source_trace_id"] == trace_id
            ids = source.trace(trace_id).tokens()["token_id"].tolist()
            assert replayed.tokens()["token_id"].tolist() == ids
            assert len(replayed.routing(3)["expert_ids"]) == len(ids)


@pytest.mark.parametrize("fault", few([429, 500, 503, "close", "half"]))
def test_failures_that_pass_are_waited_out(told, ask, fault):
    with serving(answers(told), [fault, fault]) as server:
        with ask("vllm", server) as store:
            assert_all(told, store)
        assert len(server.asked) == N + 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (400, "refused with status 400.*this is fault 400"),
        (401, "refused with status 401"),
        (404, "refused with status 404"),
        ("stream", "it is a stream"),
        ({"choices": []}, "no choices"),
        ({"error": {"message": "no room"}}, "no room"),
        (
            {"choices": [{"text": "x", "finish_reason": "stop", "index": 0}]},
            "start vLLM|Start vLLM",
        ),
        ("nothing", "not JSON"),
    ],
)
def test_what_does_not_pass_is_said_at_once(told, ask, fault, message):
    with serving(answers(told), [fault] * 2) as server:
        with pytest.raises(ServingError, match=message):
            ask("vllm", server, patience=Patience(1, 20, 5, 0.01))
        assert len(server.asked) == 1
    with serving(answers(told), [fault]) as server:
        skipped = []
        if fault in (401, 404):  # no other request would fare better
            with pytest.raises(NoServerError):
                ask("vllm", server, on_bad=skipped.append)
            return
        with ask("vllm", server, on_bad=skipped.append, patience=Patience(1, 20, 5, 0.01)) as store:
            assert len(skipped) == 1
        assert stored(store.path) == list(range(1, N))


def test_a_server_that_is_not_there(ask, tmp_path):
    class Gone:
        url = "http://127.0.0.1:9"

    with pytest.raises(NoServerError, match=r"ConnectError.*3 times.*same command again"):
        ask("vllm", Gone)
    assert not (tmp_path / "store").exists()
    for Gone.url in ("ftp://x", "localhost:8000", "http://[::"):
        with pytest.raises(NoServerError, match="is no address of a server"):
            ask("vllm", Gone, patience=Patience(backoff=60))


def test_a_server_that_dies_in_the_middle_and_comes_back(told, ask, tmp_path):
    with serving(answers(told), [None, None, None, *[503] * 99]) as server:
        with pytest.raises(NoServerError, match="status 503"):
            ask("vllm", server, patience=Patience(1, 20, 1, 0.01))
        assert stored(tmp_path / "store") == [0, 1, 2]
        with Store(tmp_path / "store") as store:
            assert store.sql("select finished from runs").fetchall() == [(None,)]
    with serving(answers(told)) as server:
        with ask("vllm", server) as store:
            assert_all(told, store)
            assert store.sql("select count(*), count(finished) from runs").fetchall() == [(1, 1)]
        assert len(server.asked) == N - 3


def test_it_works_inside_a_running_event_loop(told, ask):
    """As in a notebook."""

    async def cell():
        with serving(answers(told)) as server, ask("sglang", server) as store:
            assert_all(told, store)

    asyncio.run(cell())


def test_another_command_is_another_run(told, ask):
    with serving(answers(told)) as server:
        ask("vllm", server).close()
        with ask("vllm", server, seed=1) as store:
            assert store.sql("select count(*) from runs").fetchall() == [(2,)]


def wait_until(true, process):
    """Wait for something that a process does."""
    deadline = time.monotonic() + 600
    while not true():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


KILLED = """
import sys
from ringlens.cli.main import main
main(sys.argv[1:])
"""


def test_killed_and_given_again_no_problem_is_done_twice_or_missed(told, tmp_path, monkeypatch):
    monkeypatch.setattr("ringlens.serving.target.TOGETHER", 1)
    options = ["--problems", "countdown", "--n", str(N), "--max-new-tokens", "48"]
    options += ["--model", "ring-nano", "--store", str(tmp_path / "s"), "--concurrency", "1"]
    code = "import ringlens.serving.target as t; t.TOGETHER = 1" + KILLED
    with serving(answers(told), held=3) as server:
        command = ["import", "vllm", "--server", server.url, *options]
        process = warm.Process(["-c", code, *command])
        wait_until(lambda: len(server.asked) > 3 and len(stored(tmp_path / "s")) >= 2, process)
        process.kill()
        _, said = process.communicate()
        assert process.returncode == -9, said
        before = stored(tmp_path / "s")
        assert 2 <= len(before) < N
        asked = len(server.asked)
        server.released.set()
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        assert len(server.asked) - asked == N - len(before)
    with Store(tmp_path / "s") as store:
        assert_all(told, store)
        assert store.sql("select count(*), count(finished) from runs").fetchall() == [(1, 1)]


def test_ctrl_c_keeps_what_was_answered_and_does_not_wait_for_the_rest(told, tmp_path):
    options = ["--n", str(N), "--max-new-tokens", "48", "--concurrency", "2"]
    options += ["--model", "ring-nano", "--store", str(tmp_path / "s")]
    with serving(answers(told), held=2) as server:
        command = ["import", "sglang", "--server", server.url, *options]
        process = warm.Process(["-m", "ringlens.cli", *command])
        wait_until(lambda: len(server.asked) > 2, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=300)  # the rest is never answered
        assert process.returncode == 130, said
        assert "every trace committed before is intact" in said
    assert 1 <= len(stored(tmp_path / "s")) < N


def test_the_key_is_sent_and_nowhere_kept(told, tmp_path, monkeypatch):
    key = "sk-very-secret"
    monkeypatch.setenv("RINGLENS_API_KEY", key)
    options = ["--n", "2", "--model", "ring-nano", "--store", str(tmp_path / "s")]
    with serving(answers(told)) as server:
        result = CliRunner().invoke(
            main, ["import", "vllm", "--server", f"{server.url}/v1/", *options]
        )
        assert result.exit_code == 0, result.output
        result = CliRunner().invoke(
            main, ["import", "openai", "--chat", "--server", server.url, *options]
        )
        assert result.exit_code == 0, result.output
        assert "4 traces" in result.output
        assert len(server.headers) == 4
        assert all(headers["Authorization"] == f"Bearer {key}" for headers in server.headers)
    assert key not in result.output
    for file in (tmp_path / "s").rglob("*"):
        assert file.is_dir() or key.encode() not in file.read_bytes()


def test_wrong_settings_are_refused_before_anything_is_asked(told, ask, tmp_path):
    with serving(answers(told)) as server:
        with pytest.raises(ConfigError, match="temperature"):
            ask("vllm", server, temperature=-1)
        with pytest.raises(ConfigError, match="concurrency = 0"):
            ask("vllm", server, patience=Patience(concurrency=0))
        with pytest.raises(ConfigError, match="no kind of server"):
            ask("tgi", server)
        with pytest.raises(ConfigError, match="at least one problem"):
            ask("vllm", server, problems=[])
        assert server.asked == []
    assert not (tmp_path / "store").exists()
