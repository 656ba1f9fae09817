"""Sick and hostile servers: an answer has one deadline and one bound, and is read strictly."""

import gzip
import itertools
import json
import os
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from functools import cache

import anyio
import httpx
import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from raw_server import ONCE, got, raw_server, response

from ringlens.cli.main import main
from ringlens.errors import ConfigError, RinglensError, ServingError
from ringlens.serving import saved
from ringlens.serving.address import Address, NoServerError
from ringlens.serving.client import LARGEST, Client, Patience, _asked_pause
from ringlens.serving.fields import parsed
from ringlens.serving.saved import exchanges

JSON = {"data": [{"id": "ring"}]}
RAW = json.dumps(JSON).encode()
SHORT = replace(ONCE, timeout=0.3)


@pytest.fixture(scope="module")
def server():
    with raw_server() as server:
        yield server


def drip(server, before, each):
    """A piece each 20 ms, by which a time-out of the connection begins anew; ends in 5 minutes."""

    def pieces():
        yield before
        for _ in range(15_000):
            server.stopped.wait(0.02)
            yield each

    return pieces


ENDLESS = {
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", b" "),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "until it closes": (b"HTTP/1.1 200 OK\r\n\r\n{", b" "),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "one header": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "informational": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "status line": (b"HTTP/1.1 200 ", b"O"),
    "nothing": (b"", b""),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    "a refusal": (b"HTTP/1.1 503 Busy\r\nContent-Length: 999\r\n\r\n", b" "),
    "gzip": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 999\r\n\r\n"
        b"\x1f\x8b\x08\0\0\0\0\0\0\0",
        b"\0\0\0\xff\xff",  # an empty block
    ),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_answer_that_never_ends_has_one_deadline(server, kind):
    server.pieces = drip(server, *ENDLESS[kind])
    with pytest.raises(NoServerError, match=r"no whole answer within 0\.3 seconds, 1 times"):
        got(server.url, SHORT)


def test_each_attempt_has_a_deadline_of_its_own(server):
    server.pieces = drip(server, *ENDLESS["body"])
    with pytest.raises(NoServerError, match=r"no whole answer within 0\.3 seconds, 3 times"):
        got(server.url, replace(SHORT, retries=2))


def test_headers_without_end_are_not_kept(server):
    lines = (b"X%d: y\r\n" % n for n in range(1_000_000))
    server.pieces = lambda: itertools.chain([b"HTTP/1.1 200 OK\r\n"], lines)
    with pytest.raises(NoServerError, match="RemoteProtocolError"):
        got(server.url, ONCE)


@cache
def bomb():
    return gzip.compress(bytes(200_000_000), 1)


@pytest.mark.parametrize("status", ["200 OK", "400 Bad", "500 Bad"])
def test_a_compressed_answer_is_expanded_to_the_bound_only(server, status):
    server.pieces = response(bomb(), "Content-Encoding: gzip", status=status)
    said = "larger than 1,000,000 bytes" if status == "200 OK" else f"status {status[:3]}"
    tracemalloc.start()
    with pytest.raises(ServingError, match=said):
        got(server.url, ONCE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("status", ["200 OK", "400 Bad"])
def test_a_plain_answer_is_read_to_the_bound_only(server, status):
    def pieces():
        yield response(b"", f"Content-Length: {10**12}", status=status, length=False)
        for count in range(10_000_000):
            yield bytes(65536)
            server.sent = count * 65536

    server.pieces = pieces
    said = "larger than 1,000,000 bytes.*--max-answer-mb" if status == "200 OK" else "status 400"
    with pytest.raises(ServingError, match=said):
        got(server.url, ONCE)
    assert server.sent < 64e6  # what the sockets held


@pytest.mark.parametrize(
    "coding",
    ["br", "zstd", "deflate", "gzip, gzip", "gzip, identity", "compress", "\xe9", "x" * 500],
)
def test_compression_that_was_not_asked_for_is_refused(server, coding):
    body = {"zstd": zstandard.compress(RAW), "gzip, gzip": gzip.compress(gzip.compress(RAW))}
    server.pieces = response(body.get(coding, RAW), f"Content-Encoding: {coding}")
    with pytest.raises(ServingError, match="which was not asked for") as refused:
        got(server.url, ONCE)
    assert len(str(refused.value)) < 250
    assert b"accept-encoding: gzip\r\n" in server.asked[-1].lower()


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "identity", ""])
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_what_was_asked_for_is_expanded(server, coding, size):
    body = gzip.compress(RAW) if "gzip" in coding.lower() else RAW
    whole = response(body, f"Content-Encoding: {coding}")
    server.pieces = lambda: (whole[at : at + size] for at in range(0, len(whole), size))
    assert got(server.url, ONCE) == JSON


def test_an_answer_as_large_as_the_bound_is_read(server):
    body = RAW.ljust(ONCE.largest)
    for sent, coding in ((body, "identity"), (gzip.compress(body), "gzip")):
        server.pieces = response(sent, f"Content-Encoding: {coding}")
        assert got(server.url, ONCE) == JSON
        server.pieces = response(sent, f"Content-Encoding: {coding}")
        with pytest.raises(ServingError, match="larger than 999,999 bytes"):
            got(server.url, replace(ONCE, largest=ONCE.largest - 1))


def test_the_default_bound_holds_the_largest_routing():
    tokens, layers, experts, int32 = 65_536, 80, 8, 4
    assert tokens * layers * experts * int32 * 4 / 3 < LARGEST


DAMAGED = {
    "gzip cut": (response(gzip.compress(RAW)[:-9], "Content-Encoding: gzip"), "is cut off"),
    "gzip of nothing": (response(b"", "Content-Encoding: gzip"), "is cut off"),
    "gzip twice": (response(gzip.compress(RAW) * 2, "Content-Encoding: gzip"), "after its end"),
    "no gzip": (response(RAW, "Content-Encoding: gzip"), "gzip is damaged"),
    "gzip checksum": (
        response(gzip.compress(RAW)[:-8] + bytes(8), "Content-Encoding: gzip"),
        "gzip is damaged",
    ),
    "latin-1": (response('{"é": 1}'.encode("latin-1")), "not UTF-8"),
    "utf-16": (response(json.dumps(JSON).encode("utf-16")), "not UTF-8"),
    "utf-32 without a mark": (response(json.dumps(JSON).encode("utf-32-le")), "not JSON"),
    "half a surrogate": (response(b'{"a": "\xed\xa0\x80"}'), "not UTF-8"),
    "half a surrogate, escaped": (response(b'{"a": "\\uD800"}'), "not JSON"),
    "cut letter": (response('{"a": "é'.encode()[:-1]), "not UTF-8"),
    "short": (response(RAW[:-3]), "not JSON"),
    "nothing": (response(b""), "not JSON"),
    "two": (response(RAW * 2), "not JSON"),
    "deep": (response(b"[" * 100_000), "not JSON"),
    "deep and whole": (response(b"[" * 300_000 + b"]" * 300_000), "not JSON"),
    "101 deep": (response(b"[" * 101 + b"]" * 101), "more than 100 levels"),
    "NaN": (response(b'{"a": NaN}'), "NaN is no number"),
    "infinity": (response(b'{"a": -Infinity}'), "-Infinity is no number"),
    "huge number": (response(b'{"a": 1%s}' % (b"0" * 5000)), "not JSON"),
    "a name twice": (response(b'{"data": [], "data": [{"id": "x"}]}'), "'data' stands twice"),
    "a name twice, inside": (response(b'{"data": [{"id": "x", "id": "y"}]}'), "'id' stands twice"),
    "stream": (response(b"data: {}\n\n"), "it is a stream"),
    "stream by its type": (response(RAW, "Content-Type: text/event-stream"), "it is a stream"),
    "no content": (response(b"", status="204 No Content", length=False), "status 204"),
    "partial content": (response(RAW, status="206 Partial"), "status 206"),
    "redirect": (response(RAW, "Location: /v1/models", status="302 Found"), "status 302"),
    "redirect to a file": (
        response(RAW, "Location: file:///etc/passwd", status="307 Moved"),
        "status 307",
    ),
    "redirect to nowhere": (response(RAW, "Location: http://[", status="308 X"), "status 308"),
    "status that is none": (response(RAW, status="999 What"), "status 999"),
    "HTTP/0.9": (RAW, "RemoteProtocolError"),
    "HTTP/2": (b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64\0\4\0\x10\0\0\0\6\0\0\x20\0", "RemoteProtocol"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n", "RemoteProtocolError"),
    "closed at once": (b"", "RemoteProtocolError"),
    "too short for its length": (
        response(RAW, f"Content-Length: {len(RAW) + 1}", length=False),
        "RemoteProtocolError",
    ),
    "two lengths": (response(RAW, "Content-Length: 3"), "RemoteProtocolError"),
    "negative length": (response(RAW, "Content-Length: -1", length=False), "RemoteProtocolError"),
    "huge length": (response(RAW, f"Content-Length: {'9' * 30}", length=False), "RemoteProtocol"),
    "no chunks": (response(RAW, "Transfer-Encoding: chunked", length=False), "RemoteProtocol"),
    "negative chunk": (
        response(b"-1\r\n" + RAW, "Transfer-Encoding: chunked", length=False),
        "RemoteProtocolError",
    ),
    "chunks cut": (
        response(b"5\r\n[1, 2\r\n", "Transfer-Encoding: chunked", length=False),
        "RemoteProtocolError",
    ),
    "other transfer": (response(RAW, "Transfer-Encoding: gzip", length=False), "RemoteProtocol"),
    "NUL in a header": (response(RAW, "X: a\0b"), "RemoteProtocolError"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_answer_is_refused_in_a_sentence(server, kind):
    server.pieces, said = DAMAGED[kind]
    with pytest.raises(ServingError, match=said) as refused:
        got(server.url, ONCE)
    assert str(refused.value).startswith(f"{server.url}/v1/models: ")
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "charset",
    [
        "nonsense",
        "utf-16",
        "utf-7",
        "latin-1",
        "base64",
        "idna",
        "undefined",
        "\xe9",
        "x" * 9000,
        "''",
    ],
)
def test_another_charset_is_refused(server, charset):
    for kind in (f"application/json; charset={charset}", f'text/plain;x=y;CHARSET="{charset}"'):
        server.pieces = response(RAW, f"Content-Type: {kind}")
        with pytest.raises(ServingError, match=r"its charset is .*, where JSON is UTF-8"):
            got(server.url, ONCE)


@pytest.mark.parametrize(
    "kind",
    ["", "application/json", "text/html", "application/json; charset=utf-8", "a; charset = UTF8",
     'a;charset="utf-8"', "a; charset=US-ASCII", "charset", ";;;", "a; charset", "\xff"],
)  # fmt: skip
def test_json_is_read_as_utf8_whatever_its_type(server, kind):
    said = {"é\u2028😀": "\0\x7f"}
    for mark in (b"", b"\xef\xbb\xbf"):
        body = mark + json.dumps(said, ensure_ascii=False).encode()
        server.pieces = response(body, f"Content-Type: {kind}")
        assert got(server.url, ONCE) == said


def test_what_steers_a_terminal_is_not_shown(server):
    said = b"\x1b[2J\x1b]0;title\x07red\r\n\0\xff" + "\u202e\u2028wrong".encode()
    for status in ("400 \x1b[2J", "503 \x1b[2J"):
        for body in (said, b""):
            server.pieces = response(body, status=status)
            with pytest.raises(ServingError) as refused:
                got(server.url, ONCE)
            assert str(refused.value).isprintable()


def test_a_key_that_a_server_repeats_is_not_shown(server):
    for status in ("400 Bad", "401 No", "500 Bad"):
        server.pieces = response(b"no such key: sk-secret", status=status)
        with pytest.raises(ServingError, match="no such key: …") as refused:
            got(server.url, ONCE, "sk-secret")
        assert "sk-secret" not in str(refused.value)


@pytest.mark.parametrize(
    "key", ["sk-é", "sk-a\nb", "sk-a\r\nX: y", "sk\0", " sk", "sk\n", "\ud800"]
)
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key):
    with pytest.raises(ConfigError, match="the server's key holds") as refused:
        Client("http://localhost:1", ONCE, key)
    assert key.strip() not in str(refused.value)


def test_cookies_are_not_kept(server):
    async def twice():
        async with Client(server.url, ONCE) as client:
            await client.get("/a")
            await client.get("/b")

    server.pieces = response(RAW, "Set-Cookie: a=b; Path=/", "Connection: close")
    anyio.run(twice)
    assert b"cookie" not in server.asked[-1].lower()


@pytest.mark.parametrize(
    ("after", "pause"),
    [("0", 0), ("7", 7), ("9" * 5000, 60), ("-5", None), ("1.5", None), ("", None), ("nan", None),
     ("1e3", None), ("Wed, 21 Oct 2099 07:28:00 GMT", None), ("1, 2", None), ("٣", 3)],
)  # fmt: skip
def test_a_server_may_ask_for_a_minute_at_most(after, pause):
    asked = _asked_pause(httpx.Response(503, headers={b"Retry-After": after.encode()}))
    assert asked == pause


@pytest.mark.parametrize(
    "server",
    ["", "h", "localhost:8000", "ftp://x", "http://", "http:///v1", "http://h:99999", "http://h:0",
     "http://h:-1", "http://h:abc", "http://h:1:2", "http://[::1", "http://[zz]:1", "http://h\0x",
     "http://h\n", "http://\ud800.org", "http://xn--é.org", "http://a..b", "http://.", " http://h",
     "http://" + "a" * 64 + ".org", "http://" + "a." * 200 + "org", "http://ex ample", "http://ex%20a",
     "http://h/?a=b", "http://h/#c", "http://" + "x" * 70_000, "http+unix://x", "file:///etc/passwd",
     "http://user:secret@h:99999", "http://user:secret@[::1", "http://user:secret@h\0"],
)  # fmt: skip
def test_what_is_no_address_is_said_before_anything_is_sent(server):
    with pytest.raises(
        NoServerError, match=r"is no address of a server \(.*http://localhost"
    ) as no:
        Client(server, Patience())
    assert len(str(no.value)) < 500
    assert "secret" not in str(no.value)


def test_what_is_no_address_leaves_no_store(tmp_path):
    options = ["--server", "http://h:99999", "--model", "ring-nano", "--store", str(tmp_path / "s")]
    result = CliRunner().invoke(main, ["import", "vllm", *options])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert not (tmp_path / "s").exists()


@given(
    st.one_of(st.text(), st.builds("http://{}:{}/{}".format, st.text(), st.integers(), st.text()))
)
def test_any_text_is_an_address_or_refused(text):
    with suppress(NoServerError):
        assert Address.of(text).shown.startswith("http")


def test_an_address_with_a_name_and_a_password_works_and_does_not_show_them(server):
    server.pieces = response(b"no", status="400 Bad")
    with pytest.raises(ServingError, match="status 400") as refused:
        got(server.url.replace("//", "//me:secret@") + "/v1/", ONCE)
    assert "secret" not in str(refused.value) and "me" not in str(refused.value).split("/v1")[0]
    assert b"authorization: basic bwu6c2vjcmv0" in server.asked[-1].lower()
    assert server.asked[-1].startswith(b"GET /v1/models ")


def test_tls_to_a_plain_port(server):
    server.pieces = response(RAW)
    with pytest.raises(NoServerError, match="ConnectError"):
        got(server.url.replace("http:", "https:"), ONCE)


@pytest.mark.parametrize(
    ("name", "value"),
    [("http_proxy", "nonsense://x"), ("http_proxy", "http://h:abc"), ("SSL_CERT_FILE", "/nowhere")],
)
def test_an_environment_that_cannot_be_used_is_said(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"the environment's.*{name.upper()}"):
        Client("http://localhost:1", ONCE)


@pytest.mark.parametrize(
    "options",
    [{"timeout": float("nan")}, {"timeout": -1}, {"timeout": "5"}, {"backoff": float("nan")},
     {"largest": 2**60},
     {"concurrency": 1.5}, {"concurrency": None}, {"retries": 0.5}, {"largest": 0}],
)  # fmt: skip
def test_patience_without_sense_is_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Patience(**options)
    assert Patience(largest=2**40).largest == 2**40


def test_the_bound_is_an_option(server, tmp_path):
    options = ["--server", server.url, "--model", "ring-nano", "--store", str(tmp_path / "s")]
    server.pieces = response(RAW.ljust(2000))
    result = CliRunner().invoke(main, ["import", "vllm", *options, "--max-answer-mb", "0.001"])
    assert "larger than 1,000 bytes" in result.output
    for wrong in ("nan", "0", "-1", "inf"):
        result = CliRunner().invoke(main, ["import", "vllm", *options, "--max-answer-mb", wrong])
        assert result.exit_code == 1 and "--max-answer-mb" in result.output


@pytest.mark.parametrize(
    "found", [None, [], {}, {"data": 1}, {"data": ["x"]}, {"data": [{"id": 1}]}]
)
def test_a_list_of_models_that_is_none(server, tmp_path, found):
    options = ["--server", server.url, "--model", "ring-nano", "--store", str(tmp_path / "s")]
    server.pieces = response(json.dumps(found).encode())
    result = CliRunner().invoke(main, ["import", "vllm", *options])
    assert "names no model: give --served-as" in result.output


def test_json_of_some_depth_is_read():
    text = "[" * 100 + "]" * 100
    assert json.dumps(parsed("x", text)) == text
    assert parsed("x", "3") == 3


def told(path):
    """What reading a saved file gives, as texts."""
    return [str(found) for found in exchanges([path])]


def test_saved_files_that_are_none(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", tmp_path, tmp_path.__class__("/dev/zero")):
        with pytest.raises(ServingError, match=r"cannot read .* (is no file but a|is a folder)"):
            told(path)
    with pytest.raises(ServingError, match="is no name of a file"):
        told(tmp_path / "a\0b.json")
    with pytest.raises(ServingError, match="cannot read"):
        told(tmp_path / "nothing.json")
    for name, said in (
        ("huge.json", "has 1,000,000,000,000 bytes"),
        ("huge.jsonl", "a line of over"),
    ):
        with (tmp_path / name).open("wb") as file:
            file.truncate(10**12)
        monkeypatch.setattr(saved, "LARGEST_ROW", 10**6)
        with pytest.raises(ServingError, match=said):
            told(tmp_path / name)


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"[" * 100_000, "not JSON"), (b"[" * 200 + b"]" * 200, "not JSON|levels deep"),
     (b'{"a": NaN}', "NaN"), (b'{"a": 1, "a": 2}', "twice"), (b"1" * 5000, "not JSON"),
     (b"\0", "not JSON"), (b'{"a": "\\udfff"}', "not JSON"), (b"\xff{}", "not UTF-8")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_saved_files_that_hold_no_json(tmp_path, body, said, name):
    path = tmp_path / name
    path.write_bytes(body)
    try:
        (found,) = told(path)
    except RinglensError as error:
        found = str(error)
    assert any(word in found for word in said.split("|"))


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_a_mark_of_byte_order_is_no_part_of_a_saved_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + RAW)
    (found,) = exchanges([tmp_path / name])
    assert found.response == JSON
