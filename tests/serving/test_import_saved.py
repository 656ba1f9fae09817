"""Saved responses of every format, made of ring-nano's true choices, and those that are bad."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from paths import DATA
from serving import Told, all_layers, int32, npy, ring_nano

import ringlens as rl
from ringlens.cli.main import main
from ringlens.errors import ModelNotFoundError, ServingError
from ringlens.observe.tasks import Text
from ringlens.serving.importing import import_responses
from ringlens.serving.served_model import ServedModel

RECORDED = DATA / "served"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    with ring_nano(tmp_path_factory.mktemp("nano") / "captured") as told:
        yield told


@pytest.fixture
def load(tmp_path, model):
    """Import rows of JSON; the store is ``tmp_path / "store"``."""

    def load(engine, *rows, name="saved.jsonl", **options):
        file = tmp_path / name
        whole = name.endswith(".json")
        file.write_text(json.dumps(rows) if whole else "\n".join(map(json.dumps, rows)))
        return import_responses(engine, [file], tmp_path / "store", model=model, **options)

    return load


@pytest.mark.parametrize("form", ["vllm", "vllm_chat", "sglang", "sglang_chat"])
@pytest.mark.parametrize("name", ["saved.json", "saved.jsonl"])
def test_every_form_gives_the_choices_that_were_made(told, load, form, name):
    engine = form.removesuffix("_chat")
    rows = [getattr(told, form)(trace) for trace in told.traces]
    if form == "sglang":  # its own interface does not repeat the prompt
        requests = [{"input_ids": told.ids(trace)[0]} for trace in told.traces]
        pairs = zip(requests, rows, strict=True)
        rows = [{"request": request, "response": row} for request, row in pairs]
    with load(engine, *rows, name=name) as store:
        for trace in told.traces:
            found = store.trace(trace.trace_id)
            told.assert_same(trace, found)
            assert found.summary["finish_reason"] == trace.summary["finish_reason"]
        (run,) = store.runs().to_arrow_table().to_pylist()
        assert (run["mode"], run["record"], run["finished"] is None) == (
            *("imported", ["routing"]),
            False,
        )
        assert run["sparse_layers"] == list(told.config.sparse_layers)


def test_first_rows_before_an_offset_are_missing(told, load):
    trace = told.traces[1]
    n = trace.summary["n_prompt"]
    requests = [
        ("vllm", {"routed_experts_prompt_start": 9}, told.vllm(trace, start=9)),
        (
            "vllm",
            {"sampling_params": {"routed_experts_prompt_start": n}},
            told.vllm(trace, start=n),
        ),
        (
            "sglang",
            {"input_ids": told.ids(trace)[0], "routed_experts_start_len": 4},
            told.sglang(trace, start=4),
        ),
    ]
    for (engine, request, response), first in zip(requests, (9, n, 4), strict=True):
        with load(engine, {"request": request, "response": response}) as store:
            newest = store.sql("select max(trace_id) from traces").fetchall()[0][0]
            told.assert_same(trace, store.trace(newest), first)
    with load("vllm", told.vllm(trace, start=9), prompt_start=9) as store:
        told.assert_same(trace, store.trace(4), 9)
    with pytest.raises(ServingError, match="rows, where the tokens leave"):
        load("vllm", told.vllm(trace, start=9))


def test_several_choices_are_several_traces(told, load):
    a, b = told.traces[:2]
    response = told.vllm(a, b)
    response["choices"][1]["prompt_token_ids"] = told.ids(b)[0]
    with load("vllm", response, told.vllm(b)) as store:
        for trace_id, trace in enumerate((a, b, b), start=1):
            told.assert_same(trace, store.trace(trace_id))
        items = store.sql("select item, problem_id from traces order by trace_id").fetchall()
        assert items == [(0, "cmpl-1"), (1, "cmpl-1"), (2, "cmpl-2")]


def test_of_several_choices_sglang_gives_the_first_ones_routing_or_all_in_meta_info(told, load):
    a = told.traces[0]
    with pytest.raises(
        ServingError, match=r"choice 1: there are no routed_experts.*of the first only"
    ):
        load("sglang", told.sglang_chat(a, a))
    response = told.sglang_chat(a, a)
    routed = response["sglext"].pop("routed_experts")
    for choice in response["choices"]:
        choice["meta_info"] = {"routed_experts": routed}
    with load("sglang", response) as store:
        told.assert_same(a, store.trace(1))
        told.assert_same(a, store.trace(2))


def test_text_is_encoded_where_ids_are_missing_and_must_agree(told, load, tmp_path):
    prompt = told.lens.encode_prompt("Make 24 from 4, 6, 1.")
    eos = told.lens.eos_token_ids[0]
    whole = Text([*prompt, *told.lens.encode("4 * 6 * 1 = 24</think>4*6*1"), eos], len(prompt))
    replayed = rl.replay(told.lens, [whole], tmp_path / "replayed", record=["routing"])
    one = Told(replayed, told.lens)
    (trace,) = one.traces
    response = one.vllm(trace)
    (choice,) = response["choices"]
    choice["finish_reason"] = "stop"  # the last token is counted, and is not in the text
    del choice["prompt_token_ids"], choice["token_ids"]
    messages = [{"role": "user", "content": "Make 24 from 4, 6, 1."}]
    requests = [{"prompt": told.lens.tokenizer.decode(prompt)}, {"messages": messages}]
    rows = [{"request": request, "response": response} for request in requests]
    with load("vllm", *rows) as store:
        one.assert_same(trace, store.trace(1))
        one.assert_same(trace, store.trace(2))
        assert store.trace(2).summary["prompt"] == "Make 24 from 4, 6, 1."
    choice["finish_reason"] = "length"
    with pytest.raises(
        ServingError, match=r"generated tokens, where the server counted \d+\. The same"
    ):
        load("vllm", rows[0])
    with pytest.raises(ServingError, match="prompt is not known"):
        load("vllm", response)
    replayed.close()


def test_batches_are_graded_by_their_ids(told, load):
    problems = rl.problems("countdown", n=4)
    rows = [
        {
            "id": "batch",
            "custom_id": problem.id,
            "response": {"status_code": 200, "body": told.vllm(trace)},
            "error": None,
        }
        for problem, trace in zip(problems, told.traces, strict=True)
    ]
    with load("vllm", *rows, problems=problems) as store:
        query = "select problem_id, prompt, expected, answer, correct from traces order by item"
        assert store.sql(query).fetchall() == told.store.sql(query).fetchall()


def test_text_without_routing(told, load):
    trace = told.traces[0]
    request = {"prompt": told.lens.tokenizer.decode(told.ids(trace)[0])}
    response = told.text_only(trace) | {"usage": None}
    with load("openai", {"request": request, "response": response}) as store:
        assert store.trace(1).text == told.lens.tokenizer.decode(
            told.ids(trace)[0] + told.lens.encode(told.text(trace))
        )
        assert store.trace(1).layers("routing") == []
        assert store.sql("select record from runs").fetchall() == [([],)]


def test_thoughts_that_a_server_parted_from_the_answer_come_back(told, load):
    message = {"reasoning_content": "7 - 3 = 4", "content": "4"}
    chunk = {"choices": [{"message": message, "finish_reason": "stop"}]}
    request = {"messages": [{"role": "user", "content": "What is 7 - 3?"}]}
    with load("openai-chat", {"request": request, "response": chunk}) as store:
        summary = store.trace(1).summary
        assert summary["text"].count("<think>") == 1
        assert summary["text"].endswith("7 - 3 = 4</think>4")
        assert summary["answer"] == "4"
        assert summary["n_think"] > 3


def broken(told, **changes):
    """A response of vLLM with some fields of its choice changed; None removes one."""
    response = told.vllm(told.traces[0])
    response["choices"][0].update(changes)
    return response


def with_expert_200(told):
    ids = all_layers(told.traces[0], told.config).astype(np.uint8)
    ids[3, 4, 2] = 200
    return ids


BAD = {
    "there are no routed_experts.*--enable-return-routed-experts": lambda t: broken(
        t, routed_experts=None
    ),
    "it is a stream": lambda t: {"object": "chat.completion.chunk", "choices": []},
    "response: it is a stream|it is a stream": lambda t: {
        "request": {"stream": True},
        "response": t.vllm(t.traces[0]),
    },
    "an error: it broke": lambda t: {"error": {"message": "it broke", "code": 500}},
    "an error: the model is gone": lambda t: {"object": "error", "message": "the model is gone"},
    "an error in place of a response": lambda t: {
        "custom_id": "7",
        "response": None,
        "error": "lost",
    },
    "has no choices": lambda t: {"choices": []},
    "choices is None": lambda t: {"id": "x"},
    "not list": lambda t: [1, 2],
    "finish_reason is None": lambda t: broken(t, finish_reason=None),
    "finish_reason is 'running'": lambda t: broken(t, finish_reason="running"),
    "token_ids holds something": lambda t: broken(t, token_ids=["1"]),
    "token_ids is '1', not": lambda t: broken(t, token_ids="1"),
    "routed_experts is 7": lambda t: broken(t, routed_experts=7),
    "token id 99999 in a vocabulary": lambda t: broken(
        t, token_ids=[99999] * len(t.ids(t.traces[0])[1])
    ),
    "generated tokens, where the server counted": lambda t: broken(t, token_ids=[5, 6]),
    "prompt tokens, where the server counted": lambda t: broken(t, prompt_token_ids=[5]),
    "dtype <u2": lambda t: broken(t, routed_experts=t.routed(t.traces[0], dtype=np.uint16)),
    r"shape \(\d+, 6, 4\)": lambda t: broken(
        t, routed_experts=npy(all_layers(t.traces[0], t.config)[:, :6].astype(np.uint8))
    ),
    "rows, where the tokens leave": lambda t: broken(
        t, routed_experts=npy(all_layers(t.traces[0], t.config)[1:].astype(np.uint8))
    ),
    "expert id 200": lambda t: broken(t, routed_experts=npy(with_expert_200(t))),
    "layer 0 is dense": lambda t: broken(
        t, routed_experts=npy((all_layers(t.traces[0], t.config)[:, ::-1]).astype(np.uint8))
    ),
    "not base64": lambda t: broken(t, routed_experts=t.routed(t.traces[0])[:-5]),
}


@pytest.mark.parametrize("message", BAD)
def test_one_bad_response_stops_all_and_is_named(told, load, tmp_path, message):
    bad = BAD[message](told)
    with pytest.raises(ServingError, match=rf"saved\.jsonl, line 2.*(?:{message})"):
        load("vllm", told.vllm(told.traces[0]), bad, told.vllm(told.traces[1]))
    assert not (tmp_path / "store").exists()


def test_bad_responses_can_be_skipped_and_are_told(told, load):
    bad = [make(told) for make in BAD.values()]
    first, last = told.traces[:2]
    skipped = []
    with load("vllm", told.vllm(first), *bad, told.vllm(last), on_bad=skipped.append) as store:
        for number, (message, error) in enumerate(zip(BAD, skipped, strict=True), start=2):
            assert re.search(f"line {number}.*(?:{message})", str(error))
        told.assert_same(first, store.trace(1))
        told.assert_same(last, store.trace(2))
        items = store.sql("select item from traces order by item").fetchall()
        assert items == [(0,), (len(bad) + 1,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no response to import"),
        ("{", "not JSON"),
        ("data: {}\n\ndata: [DONE]\n", "it is a stream"),
        ('{"choices": [{"text": "\\ud800", "finish_reason": "stop"}]}', "not JSON.*surrogate"),
        ("[" * 100_000, "not JSON"),
        ("\x80", "not UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["saved.json", "saved.jsonl"])
def test_files_that_are_none(tmp_path, model, text, message, name):
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(ServingError, match=message if text or name != "saved.json" else "not JSON"):
        import_responses("vllm", [tmp_path / name], tmp_path / "store", model=model)
    assert not (tmp_path / "store").exists()


def test_a_file_that_is_missing_and_a_kind_of_server_that_is_none(tmp_path, model):
    with pytest.raises(ServingError, match="cannot read"):
        import_responses("vllm", [tmp_path / "none"], tmp_path / "store", model=model)
    with pytest.raises(rl.RinglensError, match="no kind of server 'tgi'"):
        import_responses("tgi", [], tmp_path / "store", model=model)


def test_int32_of_a_model_with_many_experts(told, model, tmp_path):
    """The same choices under a configuration of 512 experts: uint16, and a wider column."""
    config = type(model.config).from_dict(model.config.to_dict() | {"num_experts": 512})
    trace = told.traces[0]
    ids = all_layers(trace, config)
    ids[:, 1:] += 480
    response = told.vllm(trace)
    response["choices"][0]["routed_experts"] = npy(ids.astype(np.uint16))
    (tmp_path / "r.json").write_text(json.dumps(response))
    large = replace(model, config=config)
    with import_responses("vllm", [tmp_path / "r.json"], tmp_path / "s", model=large) as store:
        found = store.trace(1).routing(3)["expert_ids"]
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, ids[:, 3])


def test_the_config_alone_says_what_is_read(tmp_path, told, model):
    folder = tmp_path / "model"
    folder.mkdir()
    model.config.save_pretrained(folder)
    with pytest.raises(ModelNotFoundError, match="no tokenizer"):
        ServedModel.read(str(folder / "config.json"))
    told.lens.tokenizer.save_pretrained(folder)
    read = ServedModel.read(str(folder / "config.json"))
    assert read.config.sparse_layers == told.config.sparse_layers
    assert read.encode_prompt("Make 24.") == told.lens.encode_prompt("Make 24.")


def test_an_import_that_was_interrupted_goes_on(told, load):
    """Interrupted behind the first of two commits, and given again: every trace once."""
    rows = [told.vllm(told.traces[i % 4]) for i in range(40)]

    def interrupt(progress):
        if progress.traces >= 36:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load("vllm", *rows, on_progress=interrupt)
    with load("vllm", *rows) as store:
        items = store.sql("select item, run_id from traces order by item").fetchall()
        assert [item for item, _ in items] == list(range(40))
        assert len({run for _, run in items}) == 1
        assert store.sql("select count(finished) from runs").fetchall() == [(1,)]


@pytest.mark.parametrize("name", ["vllm-completion.json", "vllm-chat.json"])
def test_answers_of_a_real_vllm(told, model, tmp_path, name):
    """Recorded on a CPU, where vLLM sends no routing; and with what it would have sent."""
    with pytest.raises(ServingError, match=r"no routed_experts.*--enable-return-routed-experts"):
        import_responses("vllm", [RECORDED / name], tmp_path / "s", model=model)
    with import_responses("openai", [RECORDED / name], tmp_path / "s", model=model) as store:
        trace = store.trace(1)
        prompt = told.lens.encode_prompt("Make 18 from 2, 9, 1, using each number once.")
        assert trace.tokens()["token_id"].tolist()[: trace.summary["n_prompt"]] == prompt
        assert "Maybe 9 * 2 = 18" in trace.text
        assert trace.summary["answer"] == ("(9 * 2) / 1" if "chat" in name else None)
        with rl.replay(told.lens, store, tmp_path / "again", record=["routing"]) as again:
            replayed = again.trace(1)
            response = json.loads((RECORDED / name).read_text())
            response["choices"][0]["routed_experts"] = told.routed(replayed)
            (tmp_path / name).write_text(json.dumps(response))
            file = tmp_path / name
            with import_responses("vllm", [file], tmp_path / "routed", model=model) as routed:
                told.assert_same(replayed, routed.trace(1))


def test_a_stream_of_a_real_vllm(model, tmp_path):
    stream = RECORDED / "vllm-stream.txt"
    with pytest.raises(ServingError, match="it is a stream"):
        import_responses("vllm", [stream], tmp_path / "s", model=model)
    chunk = stream.read_text().split("\n")[0].removeprefix("data: ")
    (tmp_path / "chunk.json").write_text(chunk)
    with pytest.raises(ServingError, match="finish_reason is None"):
        import_responses("vllm", [tmp_path / "chunk.json"], tmp_path / "s", model=model)


def test_the_command_lists_what_it_skips(tmp_path, told):
    rows = [told.vllm(told.traces[0]), broken(told, routed_experts=None)]
    file = tmp_path / "r.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    options = ["--model", "ring-nano", "--store", str(tmp_path / "s")]
    failed = CliRunner().invoke(main, ["import", "vllm", str(file), *options])
    assert failed.exit_code == 1
    assert "line 2: there are no routed_experts" in failed.output
    done = CliRunner().invoke(main, ["import", "vllm", str(file), *options, "--skip-bad"])
    assert done.exit_code == 0
    assert "skipped: " in done.output
    assert "1 traces" in done.output
    for command in ("info", "check"):
        said = CliRunner().invoke(main, [command, str(tmp_path / "s")])
        assert said.exit_code == 0, said.output
    for wrong in ([], [str(file), "--server", "http://localhost:1"]):
        assert CliRunner().invoke(main, ["import", "vllm", *wrong, *options]).exit_code == 2


def test_sglang_needs_no_header():
    assert int32(np.arange(3)) == "AAAAAAEAAAACAAAA"
