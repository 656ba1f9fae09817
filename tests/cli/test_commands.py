"""The command line as a user runs it: real processes, real model, exit codes."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
import warm

from ringlens.store import Store, StoreWriter


def command(*args):
    return ["-m", "ringlens.cli", *map(str, args)]


def ringlens(*args, cwd=None):
    return warm.run(command(*args), cwd=cwd)


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """The issue's own line, as written."""
    folder = tmp_path_factory.mktemp("cli") / "store"
    line = f"capture ring-nano --problems countdown --n 8 --store {folder} --max-new-tokens 300"
    result = ringlens(*line.split())
    assert result.returncode == 0, result.stderr
    assert "8 traces" in result.stdout
    return folder


def test_help_is_quick_and_has_examples():
    code = (
        "import sys, time; from ringlens.cli.main import main; main(standalone_mode=False); print("
        "time.process_time(), {'torch', 'transformers', 'duckdb', 'pyarrow', 'numpy', 'pandas', "
        "'httpx', 'dash'} & {*sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True
    )
    seconds, heavy = result.stdout.splitlines()[-1].split(maxsplit=1)
    assert heavy == "set()"
    assert float(seconds) < 3  # of CPU time; 0.2 on an idle core
    for name in ("demo", "capture", "replay", "plan", "app", "sql", "info", "check"):
        assert name in result.stdout
        example = ringlens(name, "--help").stdout.split("Example")[1]
        assert "ringlens " + name in example
        assert "\\b" not in example
        assert example.count("\n    ringlens ") == example.count("ringlens " + name)


def test_capture_shows_progress(tmp_path):
    result = ringlens("capture", "ring-nano", "--n", 1, "--store", tmp_path, "--max-new-tokens", 5)
    assert result.returncode == 0
    assert "1/1" in result.stderr
    assert "tokens" in result.stderr


def test_progress_says_when_the_model_waits(capsys, monkeypatch):
    from ringlens.cli.console import progress_bar
    from ringlens.observe.session import Progress

    monkeypatch.setenv("COLUMNS", "200")
    for waited, said in ((0.0, False), (2.5, True)):
        with progress_bar("title", stays=True) as bar:
            bar.traces(Progress(1, 2, tokens=10, waited=waited))
        assert ("waited 2.5 s for recording" in capsys.readouterr().err) == said


def test_options_of_recording_are_those_of_the_functions():
    """The same defaults, though the command line imports neither torch nor the recorder."""
    import inspect

    import ringlens as rl
    from ringlens.cli.capture import capture
    from ringlens.cli.replay import replay

    for command, function in ((capture, rl.capture), (replay, rl.replay)):
        wanted = inspect.signature(function).parameters
        for option in command.params:
            if option.name in ("commit_every", "prefill"):
                assert option.default == wanted[option.name].default
    assert {"commit_every", "prefill"} <= {option.name for option in replay.params}
    assert "commit_every" in {option.name for option in capture.params}


def test_help_of_sql_names_every_table(captured):
    said = ringlens("sql", "--help").stdout.split("Tables:")[1].split("Examples:")[0]
    with Store(captured) as store:
        names = {name for (name,) in store.sql("show tables").fetchall()}
    assert {"activations", "attention", "router_choices"} <= names
    assert names <= set(re.findall(r"\w+", said))


def test_vectors_attention_and_commits_from_the_command_line(captured, tmp_path):
    """What the help of --record shows, on a few positions a forward."""
    shown = "resid_post@3+5,head_out@2/0-3[0:128],attention:4@2/1"
    assert all(
        part in " ".join(ringlens("replay", "-h").stdout.split()) for part in shown.split(",")
    )
    options = ["--record", f"routing,{shown}", "--commit-every", "0.01", "--prefill", "64"]
    result = ringlens("replay", "ring-nano", captured, "--store", tmp_path / "s", *options)
    assert result.returncode == 0, result.stderr
    with Store(tmp_path / "s") as store:
        points = store.sql("select distinct point, layer from activations order by all").fetchall()
        assert points == [("head_out", 2), ("resid_post", 3), ("resid_post", 5)]
        assert store.sql("select distinct layer, head from attention").fetchall() == [(2, 1)]


def test_sql_prints_table_csv_and_json(captured):
    query = "select layer, count(*) as n from routing group by layer order by layer limit 2"
    assert "layer" in ringlens("sql", captured, query).stdout
    csv = ringlens("sql", captured, query, "--format", "csv").stdout.splitlines()
    assert csv[0] == '"layer","n"'
    rows = json.loads(ringlens("sql", captured, query, "--format", "json").stdout)
    assert [row["layer"] for row in rows] == [1, 2]


def test_info_says_what_there_is(captured):
    result = ringlens("info", captured)
    assert result.returncode == 0
    assert "8 traces" in result.stdout
    assert "ring-nano" in result.stdout
    assert f"ringlens check {captured}" in result.stdout
    told = json.loads(ringlens("info", captured, "--json").stdout)
    assert [run["traces"] for run in told["runs"]] == [8]
    assert {table["table"] for table in told["tables"]} >= {"routing", "router_logits", "heads"}


def test_a_capture_checks_clean(captured):
    result = ringlens("check", captured)
    assert result.returncode == 0, result.stdout
    assert "nothing is wrong" in result.stdout
    told = json.loads(ringlens("check", captured, "--json").stdout)
    with Store(captured) as store:
        assert told["choices"] == len(store.sql("from router_logits")) > 0
    assert told["ok"] and told["findings"] == []


def test_replay_of_a_store_and_of_a_file(captured, tmp_path):
    result = ringlens("replay", "ring-nano", captured, "--store", tmp_path / "again")
    assert result.returncode == 0, result.stderr
    assert "8 replays" in result.stdout
    (tmp_path / "texts.txt").write_text("first text\n---\nsecond <think>a</think> b\n")
    result = ringlens("replay", "ring-nano", tmp_path / "texts.txt", "--store", tmp_path / "texts")
    assert "2 traces" in result.stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["capture", "ring-nanoo", "--store", "s"], 1, "no model"),
        (["capture", "./nowhere", "--store", "s"], 1, "no model"),
        (["capture", "ring-nano", "--problems", "none.jsonl", "--store", "s"], 1, "no problems"),
        (["capture", "ring-nano", "--problems", "empty.jsonl", "--store", "s"], 1, "no problems"),
        (["capture", "ring-nano", "--problems", "bad.jsonl", "--store", "s"], 1, "line 1"),
        (["capture", "ring-nano", "--n", "9999", "--store", "s"], 1, "9999"),
        (["capture", "ring-nano", "--record", "head", "--store", "s"], 1, "cannot record"),
        (["capture", "ring-nano", "--n", "1", "--store", "file/s"], 1, "store"),
        (["capture", "ring-nano", "--n", "1"], 2, "--store"),
        (["sql", "nowhere", "select 1"], 1, "nowhere"),
        (["info", "nowhere"], 1, "nowhere"),
        (["check", "nowhere"], 1, "nowhere"),
        (["check", "nowhere", "--repair"], 1, "nowhere"),
        (["check", "nowhere", "--drop-damaged"], 2, "--repair"),
        (["app", "nowhere", "--no-wait"], 1, "nowhere"),
        (["replay", "ring-nano", "nowhere", "--store", "s"], 1, "nothing to replay"),
        (["capture", "ring-nano", "--store", "s", "--device-map", "no.json"], 1, "device map"),
        (["capture", "ring-nano", "--store", "s", "--device-map", "list.json"], 1, "JSON object"),
        (["capture", "ring-nano", "--store", "s", "--quantization", "int4"], 2, "nf4-double"),
        (["capture", "ring-nano", "--store", "s", "--tp-size", "2"], 1, "torchrun"),
        (["plan", "ring-nano", "--gpus", "8xH100"], 1, "16x80GB"),
        (["capture", "ring-nano", "--store", "s", "--commit-every", "-1"], 1, "commit_every = -1"),
        (["replay", "ring-nano", "text.txt", "--store", "s", "--prefill", "0"], 1, "prefill = 0"),
    ],
)
def test_bad_input_has_a_message_and_a_code(args, code, message, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.jsonl").write_text("not json\n")
    (tmp_path / "text.txt").write_text("a\n")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "file").write_text("a file, not a folder")
    result = ringlens(*args, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.parquet"))


def test_damaged_parquet_is_named(captured, tmp_path):
    subprocess.run(["cp", "-r", captured, tmp_path / "s"], check=True)
    damaged = next((tmp_path / "s" / "routing").rglob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    result = ringlens("sql", tmp_path / "s", "select sum(margin) from routing")
    assert result.returncode == 1
    assert damaged.name in result.stderr
    assert ringlens("sql", tmp_path / "s", "select count(*) from traces").returncode == 0


@pytest.mark.extra
def test_ctrl_c_keeps_committed_traces(tmp_path):
    args = command("capture", "ring-nano", "--store", tmp_path / "s", "--batch-size", 2)
    process = warm.Process(args)
    deadline = time.monotonic() + 600
    while traces(tmp_path / "s") < 2:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    kept = traces(tmp_path / "s")
    assert kept >= 2
    with Store(tmp_path / "s") as store:
        assert store.sql("select count(distinct trace_id) from heads").fetchall() == [(kept,)]
    with StoreWriter(tmp_path / "s"):
        pass  # nothing blocks the next writer


def traces(folder):
    if not (folder / "store.json").exists():  # which comes last
        return 0
    with Store(folder) as store:
        return store.sql("select count(*) from traces").fetchall()[0][0]


def test_demo_captures_prints_and_serves(tmp_path):
    """What `make demo` runs, on a free port: traces, three queries, a dashboard over HTTP."""
    args = command("demo", "--store", tmp_path / "demo", "--n", 2, "--port", 0)
    process = warm.Process(args, stderr=warm.DEVNULL)
    try:
        said, address = [], None
        for line in process.stdout:
            said.append(line)
            if address := re.search(r"http://127\.0\.0\.1:\d+\S*", line):
                break
        assert address, said
        page = fetch(address.group())
    finally:
        process.terminate()
        process.wait(timeout=300)
    said = "".join(said)
    assert "2 traces" in said
    assert said.count("ringlens sql") == 3
    assert "ringlens" in page.lower()


def fetch(url):
    """A page as a browser gets it, which takes the cookie for the token. It is served by now."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with browser.open(url) as answer:
        return answer.read().decode()


def test_a_saved_device_map_starts_a_capture(tmp_path):
    """Of a model planned for main memory: the file that plan writes is one that capture reads."""
    file = tmp_path / "map.json"
    plan = ["plan", "ring-nano", "--gpus", "cpu:8GB", "--save-device-map", file]
    assert ringlens(*plan).returncode == 0
    assert set(json.loads(file.read_text()).values()) == {"cpu"}
    options = ["--store", tmp_path / "s", "--n", 1, "--max-new-tokens", 4, "--device-map", file]
    result = ringlens("capture", "ring-nano", *options, "--experts", "modules")
    assert result.returncode == 0, result.stderr
    with Store(tmp_path / "s") as store:
        assert store.sql("select experts_layout from runs").fetchall() == [("modules",)]


def test_only_the_first_process_speaks(captured, monkeypatch, capsys):
    from ringlens.cli.console import print_summary, progress_bar

    monkeypatch.setenv("RANK", "1")
    print_summary(captured)
    with progress_bar("quiet", stays=True) as bar:
        bar.rows(1, 2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    print_summary(captured)
    assert "8 traces" in capsys.readouterr().out
