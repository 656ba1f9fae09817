"""A prompt gives the same tokens and the same id in whatever form it comes; all else is refused."""

import csv
import io
import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_lens
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import ringlens as rl
from ringlens.cli.asking import Asked, read_asked
from ringlens.cli.main import main
from ringlens.config import Sampling
from ringlens.errors import ConfigError, ProblemError, RinglensError
from ringlens.observe.tasks import problem_tasks
from ringlens.prompts import stream
from ringlens.serving.server_kinds import CHAT

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NOTHING = Asked(None, None, None, False, (), None)


class Encoder:
    """What the door needs of a lens; a token is a character."""

    sizes = SimpleNamespace(vocabulary=sys.maxunicode + 1, positions=10**6)

    def __init__(self, template=TEMPLATE):
        self.tokenizer = tiny_lens.tokenizer()
        self.tokenizer.chat_template = template

    def encode(self, text):
        return list(map(ord, text))


ENCODER = Encoder()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n<"), min_size=1)
LINE = TEXT.filter(lambda text: text.strip() and not text.startswith(("{", "\ufeff")))
PROMPT = st.lists(LINE, min_size=1, max_size=3).map("\n".join)
BOM = b"\xef\xbb\xbf"


def asked(given, **options):
    """Tokens and ids of what is given."""
    tasks = problem_tasks(ENCODER, given, Sampling(temperature=1.0), **options)
    return [(task.token_ids, task.problem.id, task.problem.prompt) for task in tasks]


def as_csv(prompts, delimiter=","):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([["n", "question"], *enumerate(prompts)])
    return text.getvalue().encode()


def as_parquet(prompts, kind):
    file = io.BytesIO()
    column = pa.array(prompts, pa.string()).cast(kind)
    pq.write_table(pa.table({"n": range(len(prompts)), "question": column}), file)
    return file.getvalue()


def objects(prompts, messages):
    one = (lambda p: {"messages": [{"role": "user", "content": p}]}) if messages else (
        lambda p: {"prompt": p}
    )  # fmt: skip
    return [one(prompt) for prompt in prompts]


def forms(prompts, folder):
    """Every form of some prompts: what `rl.problems` reads, and how."""
    lines = [json.dumps(row, ensure_ascii=False) for row in objects(prompts, False)]
    chats = [json.dumps(row) for row in objects(prompts, True)]
    for bom in (b"", BOM):
        for end in ("\n", "\r\n"):
            yield "a.jsonl", bom + end.join(lines).encode(), {}
            yield "", bom + end.join([*chats, ""]).encode(), {}
        yield "a.json", bom + json.dumps(objects(prompts, True)).encode(), {}
        yield "a.json", bom + json.dumps(prompts).encode(), {}
        for name in ("a.csv", "a", ""):
            yield name, bom + as_csv(prompts), {"column": "question"}
        yield "a.TSV", bom + as_csv(prompts, "\t"), {"column": "question"}
        if not any("\n" in prompt for prompt in prompts):
            for end in ("\n", "\r\n", "\r", "\n\n"):
                text = bom + end.join([*prompts, ""]).encode()
                yield from (("a.txt", text, {}), ("a.prompts", text, {}), ("", text, {}))
        if len(prompts) == 1:
            text = bom + prompts[0].encode()
            yield "a.txt", text, {"whole": True}
            yield "", text + b"\n", {"whole": True}
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        yield "a.parquet", as_parquet(prompts, kind), {"column": "question"}
        yield "", as_parquet(prompts, kind), {"column": "question"}


def read(folder, name, content, options):
    if not name:
        return rl.problems(io.BytesIO(content), **options)
    (folder / name).write_bytes(content)
    return rl.problems(folder / name, **options)


@settings(max_examples=25)
@given(st.lists(PROMPT, min_size=1, max_size=3), st.none() | TEXT.filter(str.strip))
def test_every_form_of_a_prompt_gives_the_same_tokens_and_ids(tmp_path_factory, prompts, system):
    folder = tmp_path_factory.mktemp("forms")
    wanted = asked(prompts, system=system)
    assert [prompt for _, _, prompt in wanted] == prompts
    before = f"<system>{system}</>" if system is not None else ""
    texts = ["".join(map(chr, ids)) for ids, _, _ in wanted]
    assert texts == [f"{before}<user>{prompt}</><assistant>" for prompt in prompts]
    assert len({problem_id for _, problem_id, _ in wanted}) == len(prompts)
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    assert asked(chats, system=system) == wanted
    assert (
        asked(read_asked(Asked(None, None, None, False, (*prompts,), None)), system=system)
        == wanted
    )
    if len(prompts) == 1 and "." not in prompts[0]:
        assert asked(prompts[0], system=system) == wanted
        (folder / "chat.json").write_text(json.dumps(chats[0]))
        chat = read_asked(Asked(None, None, None, False, (), str(folder / "chat.json")))
        assert asked(chat, system=system) == wanted
    for name, content, options in forms(prompts, folder):
        assert asked(read(folder, name, content, options), system=system) == wanted, (name, content)


def test_samples_of_a_problem_stand_side_by_side_with_seeds_of_their_own():
    tasks = problem_tasks(ENCODER, ["a", "b"], Sampling(temperature=0.5), samples=3)
    assert [(t.item, t.problem.prompt, t.sample) for t in tasks] == [
        (0, "a", 0), (1, "a", 1), (2, "a", 2), (3, "b", 0), (4, "b", 1), (5, "b", 2),
    ]  # fmt: skip
    assert len({task.seed for task in tasks}) == 6
    assert len({task.problem.id for task in tasks}) == 2
    for greedy in (Sampling(), Sampling(temperature=1, top_k=1)):
        with pytest.raises(ConfigError, match="would all be equal"):
            problem_tasks(ENCODER, ["a"], greedy, samples=2)
    for wrong in (0, True, 1.5, "2", None):
        with pytest.raises(ConfigError, match="samples = "):
            problem_tasks(ENCODER, ["a"], Sampling(temperature=1), samples=wrong)


@pytest.mark.parametrize(
    ("given", "template", "said"),
    [
        (["a"], None, "no chat template"),
        (["a"], "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no role') }}"
         "{% endif %}{{ m.content }}{% endfor %}", "refuses the messages: no role"),
        (["a"], "{% for m in messages %}{{ m.content }}{% endfor %}", "know the role 'system'"),
        (["a"], "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
         "leaves out message 0|know the role 'system'"),
        ([[{"role": "system", "content": "x"}, {"role": "user", "content": "a"}]], TEMPLATE,
         "item 0 has a system message of its own"),
        ([[5, 6]], TEMPLATE, "item 0 is token ids"),
        (["<user>a</><assistant>"], TEMPLATE, "in the chat template already"),
    ],
)  # fmt: skip
def test_a_system_prompt_that_cannot_be_put_is_refused(given, template, said):
    with pytest.raises(ConfigError, match=said):
        problem_tasks(Encoder(template), given, Sampling(), system="Be short.")
    for wrong in ("", " ", "\0", "\ud800", 5):
        with pytest.raises(ConfigError):
            problem_tasks(ENCODER, ["a"], Sampling(), system=wrong)


def test_a_server_of_chats_is_asked_the_whole_chat():
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "a"}]
    rows = json.dumps({"messages": chat}).encode()
    greedy = Sampling()
    for asking in ([chat], rl.problems(io.BytesIO(rows)), ["a"]):
        (task,) = problem_tasks(ENCODER, asking, greedy)
        body = CHAT.body(None, task, greedy, "model")
        assert body["messages"] == (chat if asking != ["a"] else chat[1:])
    (task,) = problem_tasks(ENCODER, ["a"], greedy, system="Be short.")
    assert task.problem.id == problem_tasks(ENCODER, ["a"], greedy)[0].problem.id


def test_names_of_problems_are_no_prompts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thoughts").write_text("a")
    for name in ("countdown", "no.jsonl", "thoughts", tmp_path / "thoughts"):
        with pytest.raises(ConfigError, match=r"names problems: give ringlens\.problems"):
            problem_tasks(ENCODER, name, Sampling())
    assert asked(["countdown"])[0][2] == "countdown"


TABLE = as_csv(["a"])
REFUSED = [
    ("a.txt", b"", {}, "holds no problems"),
    ("a.txt", b" \n\r\n", {}, "holds no problems"),
    ("a.txt", b"a\nb\0\n", {}, "line 2 holds a NUL"),
    ("a.txt", b"a\nb\xff\n", {}, "not UTF-8 text"),
    ("a.txt", "a".encode("utf-16"), {}, "not UTF-8 text"),
    ("a.txt", b" ", {"whole": True}, "the prompt is empty"),
    ("a.txt", b"a\0b", {"whole": True}, "NUL at character 1"),
    ("a.txt", b"a", {"column": "a"}, "is text, but column= belongs to tables"),
    ("a.csv", TABLE, {"whole": True}, "is CSV, but whole= belongs to text"),
    ("a.csv", TABLE, {"whole": True, "column": "n"}, "give one of them"),
    ("a.csv", TABLE, {}, r"no column 'prompt'\. Name the one .* Columns: 'n', 'question'"),
    ("a.csv", TABLE, {"column": "questoin"}, "no column 'questoin'. Did you mean 'question'"),
    ("a.csv", b"q,q\na,b\n", {"column": "q"}, "two columns 'q'"),
    ("a.csv", b"q,r\na\n", {"column": "q"}, "line 2: 1 cells, and 2 columns"),
    ("a.csv", b'q\n"a\n', {"column": "q"}, "line 2: not CSV"),
    ("a.csv", b"q,r\na,b\n,c\n", {"column": "q"}, "line 3: the prompt is empty"),
    ("a.csv", b"", {"column": "q"}, "holds no problems"),
    ("a.csv", TABLE, {"column": 5}, "column = 5"),
    ("a.csv", TABLE, {"whole": 1}, "whole = 1"),
    ("a.json", b"5", {}, "expected an object or a list, found int"),
    ("a.json", b"[5]", {}, "item 0: expected an object or a prompt, found int"),
    ("a.json", b'[{"role": "user", "content": 5}]', {}, "message 0: its content is int 5"),
    ("a.jsonl", b'{"messages": []}', {}, "or give 'messages'"),
    ("a.jsonl", b'{"messages": [5]}', {}, "line 1: message 0 is int 5"),
    ("a.jsonl", b'{"messages": [{"role": "x", "content": "a"}]}', {}, "of the role 'x'"),
    ("a.jsonl", b'{"prompt": "b", "messages": [{"role": "user", "content": "a"}]}', {}, "differ"),
    ("a.jsonl", b'{"prompt": "a\\u0000"}', {}, "line 1: the prompt holds a NUL at character 1"),
    ("", b'{"prompt": "a"}\nb\n', {}, "line 2: not JSON"),
    ("a.parquet", b"PAR1", {"column": "q"}, "not Parquet that can be read"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "options", "said"), REFUSED, ids=range(len(REFUSED)))
def test_files_that_are_refused(name, content, options, said, tmp_path):
    with pytest.raises(ProblemError, match=said) as caught:
        read(tmp_path, name, content, options)
    assert len(str(caught.value)) < 500


def test_columns_of_parquet_that_are_refused(tmp_path):
    table = pa.table({"q": ["a", None, "b"], "n": [1, 2, 3], "m": [[{"role": "user"}]] * 3})
    pq.write_table(table, tmp_path / "a.parquet")
    assert len(rl.problems(tmp_path / "a.parquet", 1, column="q")) == 1
    for column, said in (
        ("q", "row 2: 'q' is null"),
        ("n", "the column 'n' is int64, and no text"),
        ("m", "no text"),
        ("qq", "no column 'qq'. Did you mean 'q'"),
    ):
        with pytest.raises(ProblemError, match=said):
            rl.problems(tmp_path / "a.parquet", column=column)


def test_ids_stand_once_and_equal_prompts_are_told_apart(tmp_path):
    first, second, third = rl.problems(io.BytesIO(b"a\nb\na\n"))
    assert third.id == f"{first.id}-2" and second.id != first.id
    assert [task.problem.id for task in problem_tasks(ENCODER, ["a", "b", "a"], Sampling())] == [
        first.id, second.id, third.id,
    ]  # fmt: skip
    rows = b'{"id": "x", "prompt": "a"}\n{"prompt": "a"}\n{"id": "x", "prompt": "b"}\n'
    with pytest.raises(ProblemError, match="line 3: id 'x' occurs twice"):
        rl.problems(io.BytesIO(rows))


def test_no_more_is_read_than_is_asked_for(tmp_path):
    def endless():
        while True:
            yield b"Why?\n"

    class Pipe(io.RawIOBase):
        lines = endless()

        def readable(self):
            return True

        def readinto(self, buffer):
            line = next(self.lines)[: len(buffer)]
            buffer[: len(line)] = line
            return len(line)

    assert len(rl.problems(io.BufferedReader(Pipe()), 3)) == 3
    with (tmp_path / "large.txt").open("wb") as sparse:
        sparse.write(b"Why?\n")
        sparse.truncate(stream.LARGEST + 1)
    assert len(rl.problems(tmp_path / "large.txt", 1)) == 1
    for n in (None, 2):
        with pytest.raises(ProblemError, match=r"at most 1 GiB|characters or more|NUL"):
            rl.problems(tmp_path / "large.txt", n)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompts": ("a",), "problems": "countdown"}, "--problems and --prompt each say"),
        ({"prompts": ("a",), "messages": "x"}, "--prompt and --messages each say"),
        ({"prompts": ("a",), "n": 1}, "--n belongs to --problems, and not to --prompt"),
        ({"messages": "x", "column": "a"}, "--column belongs to --problems"),
        ({"prompts": ("a", " ")}, "--prompt 2: the prompt is empty"),
        ({"prompts": ("\udcff",)}, "half of a surrogate pair"),
        ({"problems": "countdown", "whole": True}, "countdown is a bundled task"),
        ({"messages": "nowhere"}, "cannot read 'nowhere'"),
    ],
)
def test_options_that_contradict_one_another(options, said):
    with pytest.raises(RinglensError, match=said):
        read_asked(Asked(**{**vars(NOTHING), **options}))
    assert len(read_asked(Asked(**{**vars(NOTHING), "n": 2}))) == 2  # countdown


def test_standard_input(monkeypatch, tmp_path):
    from_pipe = Asked("-", None, None, False, (), None)
    pipe = SimpleNamespace(closed=False, isatty=lambda: False, buffer=io.BytesIO(b"a\nb\n"))
    monkeypatch.setattr(sys, "stdin", pipe)
    assert [problem.prompt for problem in read_asked(from_pipe)] == ["a", "b"]
    pipe.buffer = io.BytesIO(b'[{"role": "user", "content": "a"}]')
    assert read_asked(Asked(None, None, None, False, (), "-"))[0].prompt == "a"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProblemError, match="several processes"):
        read_asked(from_pipe)
    monkeypatch.delenv("WORLD_SIZE")
    pipe.isatty = lambda: True
    with pytest.raises(ProblemError, match="standard input is a terminal"):
        read_asked(from_pipe)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ProblemError, match="standard input is closed"):
        read_asked(from_pipe)


@pytest.mark.slow
def test_the_command_line_captures_a_pipe(tmp_path):
    command = [
        *("capture", "ring-nano", "--problems", "-", "--system", "Be short.", "--samples", "2"),
        *("--max-new-tokens", "2", "--record", "routing", "--store", str(tmp_path / "s")),
    ]
    refused = CliRunner().invoke(main, command, input="Why?\nHow?\n")
    assert refused.exit_code == 1 and "would all be equal" in refused.output
    assert not (tmp_path / "s").exists()
    done = CliRunner().invoke(main, [*command, "--temperature", "1"], input="Why?\nHow?\n")
    assert done.exit_code == 0, done.output
    with rl.Store(tmp_path / "s") as store:
        rows = store.sql("select prompt, sample, correct from traces order by item").fetchall()
        assert rows == [("Why?", 0, None), ("Why?", 1, None), ("How?", 0, None), ("How?", 1, None)]
        assert store.trace(1).text.startswith("<role>SYSTEM</role>Be short.<|role_end|>")
