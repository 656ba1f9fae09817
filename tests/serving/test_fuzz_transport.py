"""Mutated HTTP responses: each gives what was sent or is refused in a sentence."""

import gzip
import json
import os
import random

import pytest
from raw_server import ONCE, got, raw_server, response

from ringlens.errors import ServingError
from ringlens.serving.client import Patience

ROUNDS = int(400 * float(os.environ.get("RINGLENS_FUZZ", "1")))
PART = 20

SAID = {"object": "list", "data": [{"id": "ring-é", "n": [1, 2.5, None, True, "\u2028"]}]}
RAW = json.dumps(SAID, ensure_ascii=False).encode()


def chunked(body, size):
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


WHOLE = [
    response(RAW, "Content-Type: application/json; charset=utf-8", "Server: uvicorn"),
    response(
        gzip.compress(RAW, mtime=0), "Content-Encoding: gzip", "Content-Type: application/json"
    ),
    response(chunked(RAW, 16), "Transfer-Encoding: chunked", "Connection: close", length=False),
    response(RAW, "Connection: close", length=False),
    response(b'{"error": "busy"}', "Retry-After: 1", status="503 Busy"),
]

TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"\xff", b"-", b"9" * 30, b"0",
    b"HTTP/1.1 200 OK\r\n",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n",
    b"Content-Encoding: br\r\n", b"; charset=utf-16", b"Location: /\r\n", b"\x1b[2J", b"\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"ffffffffffffffff\r\n", b"0\r\n\r\n", b'"', b"{",
    b"]" * 3000,    b"[" * 3000, b"\xef\xbb\xbf", b"\\ud800", b"NaN", b"1e999",
]  # fmt: skip


def mutated(rng):
    """A response with one to three faults, and whether only its head has any."""
    whole = rng.choice(WHOLE)
    head = whole.index(b"\r\n\r\n") + 2
    in_head = rng.random() < 0.6
    raw = bytearray(whole)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(head if in_head else len(raw))
        match rng.randrange(5):
            case 0:
                raw[at] ^= 1 << rng.randrange(8)
            case 1:
                end = rng.randint(at, min(at + 20, head - 1 if in_head else len(raw)))
                del raw[at:end]
                head -= max(0, end - at)
            case 2:
                token = rng.choice(TOKENS)
                raw[at:at] = token
                head += len(token)
            case 3:
                piece = bytes(raw[at : min(at + 30, head if in_head else len(raw))])
                raw[at:at] = piece
                head += len(piece)
            case 4 if not in_head:
                del raw[at:]
        if not raw:
            raw += b"\0"
        head = max(1, head)
    return bytes(raw), in_head


@pytest.fixture(scope="module")
def server():
    with raw_server() as server:
        yield server


def outcome(server):
    """What a client gets, or the sentence that refuses it."""
    try:
        return got(server.url, ONCE), None
    except ServingError as error:
        return None, str(error)


@pytest.mark.parametrize("part", range(PART))
def test_a_mutated_response_is_read_right_or_refused(server, part):
    for seed in range(part, ROUNDS, PART):
        sent, in_head = mutated(random.Random(seed))
        server.pieces = sent
        found, refusal = outcome(server)
        if refusal is not None:
            assert refusal.isprintable() and len(refusal) < 500, (seed, refusal)
        elif in_head:  # only a fault in the JSON itself may change what it says
            assert found == SAID, (seed, sent)


@pytest.mark.parametrize("part", range(PART))
def test_bytes_without_sense_are_refused(server, part):
    for seed in range(part, ROUNDS // 4, PART):
        rng = random.Random(seed)
        start = rng.choice([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
        server.pieces = start + rng.randbytes(rng.choice([0, 1, 10, 1000, 200_000]))
        found, refusal = outcome(server)
        if refusal is None:
            assert type(found) is int and found < 10, seed  # a digit is JSON
            continue
        assert refusal.isprintable() and len(refusal) < 500, (seed, refusal)


def test_a_mutated_response_that_is_asked_for_again(server):
    """Attempts after the first meet the same fault, and the last one is told."""
    server.pieces = WHOLE[-1].replace(b"Retry-After: 1", b"Retry-After: 0")
    with pytest.raises(ServingError, match=r"status 503 .*busy.*, 3 times"):
        got(server.url, Patience(1, 60, retries=2, backoff=0))
