"""Who may ask: the token, its cookie and header, hosts; what a client may take; prefixes."""

import json
import resource
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest
from browser import served
from small_store import small_store
from werkzeug.test import Client
from werkzeug.wrappers import Response

from ringlens.app import serve
from ringlens.app.pages import PAGES
from ringlens.app.shell import files_of
from ringlens.app.web import access, prefix
from ringlens.app.web.http_server import ServerLimits, make_server
from ringlens.errors import ConfigError
from ringlens.store import Store

TOKEN = "correct-horse-battery"
SCRIPT = "/" + files_of(PAGES).address("shell.js")
PLACES = ("/", "/trace/1", SCRIPT, "/data/version", "/_dash-layout", "/data/sql/run")


def hello(environ, start):
    return Response(f"hello {environ['PATH_INFO']}")(environ, start)


@pytest.fixture
def gate():
    return Client(access.TokenGate(hello, TOKEN, 8050), use_cookies=False)


def cookie_of(response):
    return response.headers["Set-Cookie"].split(";")[0]


@pytest.mark.parametrize("path", PLACES)
def test_nothing_is_answered_without_the_token(gate, path):
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer nope-nope"}, 403),
        ({"Authorization": "Bearer "}, 403),
        ({"Authorization": "Basic eDp5"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Cookie": f"ringlens-8050={TOKEN}"}, 403),  # the token itself is no cookie
        ({"Cookie": "ringlens-8050="}, 403),
        ({"Cookie": "ringlens-8051=x"}, 401),
    ):
        for method in ("get", "post", "options"):
            response = getattr(gate, method)(path, headers=headers)
            assert response.status_code == status, headers
            assert "token" in response.json["error"]
            assert TOKEN not in response.text
    for wrong in ("", "x", TOKEN[:-1], TOKEN + "x", "ü", "\x00"):
        assert gate.get(path, query_string={"token": wrong}).status_code == 403
    assert "Set-Cookie" not in gate.get(path, query_string={"token": "x"}).headers


def test_a_browser_is_shown_a_page(gate):
    response = gate.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert response.status_code == 401
    assert response.mimetype == "text/html"
    assert "open the link" in response.text
    assert response.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "token"])
def test_scripts_bring_it_in_a_header(gate, kind):
    assert gate.post("/data", headers={"Authorization": f"{kind} {TOKEN}"}).text == "hello /data"


def test_the_link_gives_a_cookie_and_loses_the_token(gate):
    response = gate.get(f"/trace/3?token={TOKEN}&L=2&q=a%20b")
    assert response.status_code == 302
    assert response.headers["Location"] == "/trace/3?L=2&q=a+b"
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/" in cookie
    assert TOKEN not in cookie
    assert gate.get("/trace/3", headers={"Cookie": cookie_of(response)}).text == "hello /trace/3"
    # Of another port, or another token, it is worth nothing.
    for token, port in ((TOKEN, 8051), ("another-token", 8050)):
        other = Client(access.TokenGate(hello, token, port), use_cookies=False)
        worthless = cookie_of(response).replace("8050", str(port))
        assert other.get("/", headers={"Cookie": worthless}).status_code == 403


@pytest.mark.parametrize("path", ["//evil.org/", "/\\evil.org", "///evil.org", "\\\\evil.org"])
def test_the_redirect_stays_here(gate, path):
    environ = {"PATH_INFO": path, "QUERY_STRING": f"token={TOKEN}"}
    location = gate.get("/", environ_overrides=environ).headers["Location"]
    assert location.startswith("/evil.org")


def test_tokens_that_are_none():
    assert access.chosen_token(None) != access.chosen_token(None)
    assert len(access.chosen_token(None)) >= 32
    for wrong in ("", "short", "has space", "ünicode-token", "a" * 300, "newline-newline\n"):
        with pytest.raises(ConfigError, match="8 to 256"):
            access.chosen_token(wrong)


def test_another_host_needs_a_token(tmp_path):
    with pytest.raises(ConfigError, match=r"without a token .* this machine only"):
        serve(tmp_path, host="0.0.0.0", token=False)
    client = Client(access.HostGate(hello))
    assert client.get("/", headers={"Host": "localhost:8050"}).status_code == 200
    assert client.get("/", headers={"Host": "evil.org"}).status_code == 400
    client = Client(access.TokenGate(hello, TOKEN, 8050))
    headers = {"Host": "evil.org", "Authorization": f"Bearer {TOKEN}"}
    assert client.get("/", headers=headers).status_code == 200


# --- the served app ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store(small_store(tmp_path_factory.mktemp("stores") / "store")) as store:
        yield store


def ask(port, path, **headers):
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response, response.read()


def test_the_printed_link_works_and_nothing_else_does(store):
    with served(store.path, token=None) as link:
        port, token = int(link.split(":")[2].split("/")[0]), link.split("token=")[1]
        for path in PLACES[:-1]:
            response, body = ask(port, path)
            assert response.status == 401
            assert b"ringlens app" in body
        response, _ = ask(port, f"/?token={token}")
        assert response.status == 302
        cookie = response.headers["Set-Cookie"].split(";")[0]
        for path in PLACES[:-1]:
            response, body = ask(port, path, Cookie=cookie)
            assert response.status == 200
            assert token.encode() not in body
            assert response.headers["Referrer-Policy"] == "no-referrer"
        response, body = ask(port, "/data/version", Authorization=f"Bearer {token}")
        assert response.status == 200
        assert json.loads(body)["version"]


def test_the_token_is_taken_from_the_environment_and_never_printed_to_errors(store):
    code = (
        "import sys; from ringlens.cli.main import main; "
        "main(['app', sys.argv[1], '--port', '0', '--trace', '1'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, store.path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", access.VARIABLE: TOKEN},
    ) as process:
        said = process.stdout.readline()
        port = int(said.split("127.0.0.1:")[1].split("/")[0])
        assert f"http://127.0.0.1:{port}/trace/1?token={TOKEN}" in said
        response, _ = ask(port, f"/trace/1?token={TOKEN}")
        assert (response.status, response.headers["Location"]) == (302, "/trace/1")
        for path in ("/data/version", "/nowhere", "/data/trace/9/tokens"):
            ask(port, f"{path}?token={TOKEN}"), ask(port, f"{path}?token={TOKEN}x")
        process.send_signal(2)
        rest, errors = process.communicate(timeout=300)
    assert TOKEN not in rest + errors


# --- clients that take too much ---------------------------------------------------------------


@contextmanager
def running(**limits):
    """A server of `hello` in a thread; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(hello, listener, ServerLimits(threads=2, **limits))
    server.adj.asyncore_loop_timeout = 0.05
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.task_dispatcher.shutdown()
        server.close()
        server._map.clear()
        thread.join(300)


def silent(port, count):
    return [socket.create_connection(("127.0.0.1", port), 300) for _ in range(count)]


def test_silent_connections_do_not_stop_the_server():
    with running(connections=16, request_seconds=600, idle_seconds=600) as port:
        held = silent(port, 300)
        for each in held[::2]:
            each.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")  # and never the end
        response, body = ask(port, "/still-here")
        assert (response.status, body) == (200, b"hello /still-here")
        assert held[0].recv(1) == b""  # the oldest had to go
        for each in held:
            each.close()


def test_few_file_descriptors_are_shared_out():
    old = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, old[1]))
        server = make_server(hello, socket.create_server(("127.0.0.1", 0)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, old)
    assert server.limits.connections == 100
    server.task_dispatcher.shutdown()
    server.close()


def test_a_request_that_trickles_is_given_up():
    """A byte now and then keeps waitress waiting for ever."""
    with running(request_seconds=0.3, idle_seconds=600) as port:
        (slow,) = silent(port, 1)
        slow.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        slow.settimeout(0.05)
        sent = 0
        while sent < 100_000:  # ends by being cut off, long before the body is whole
            try:
                slow.sendall(b"x")
                sent += 1
                if slow.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert sent < 100_000
        slow.close()


def test_an_idle_connection_is_closed():
    with running(idle_seconds=0.1) as port:
        (idle,) = silent(port, 1)
        assert idle.recv(1) == b""
        idle.close()


@pytest.mark.parametrize("length", ["Content-Length: 300000000", "Transfer-Encoding: chunked"])
def test_a_large_body_is_refused_before_it_is_read(length):
    with running(body_bytes=2**16) as port:
        (client,) = silent(port, 1)
        client.sendall(f"POST /x HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
        if "chunked" in length:
            client.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
        client.close()


def test_large_headers_are_refused():
    with running(header_bytes=2**12) as port:
        (client,) = silent(port, 1)
        client.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 2**12 + b"\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 431 ")
        client.close()


# --- prefixes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, "/"),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"}, "/user/ada/proxy/8050/"),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/a%40b.org/x"}, "/user/a%40b.org/x/proxy/8050/"),
        ({"NB_PREFIX": "/notebook/ns/ada"}, "/notebook/ns/ada/proxy/8050/"),
        ({"JUPYTER_SERVER_URL": "http://localhost:8888/lab-1/"}, "/lab-1/proxy/8050/"),
        ({"VSCODE_PROXY_URI": "https://code.org/ada/proxy/{{port}}/"}, "/ada/proxy/8050/"),
        ({"VSCODE_PROXY_URI": "https://{{port}}.code.org/"}, "/"),
        ({"DASH_REQUESTS_PATHNAME_PREFIX": "/x/"}, "/x/"),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/<script>/"}, "/"),
    ],
)
def test_prefixes_of_the_environment(environment, found):
    assert prefix.from_environment(8050, environment) == found


@pytest.mark.parametrize("wrong", ["http://x/y", "/a b/", "/a/../b/", "/a?b", '/"/', "/a//b/", "ü"])
def test_what_is_no_prefix(wrong):
    with pytest.raises(ConfigError, match="no path"):
        prefix.normal(wrong)


def test_requests_with_and_without_the_prefix_are_the_same():
    start = prefix.normal("user/a%40b/proxy/8050")
    client = Client(prefix.WithoutPrefix(hello, start))
    for path in ("/user/a%40b/proxy/8050/data", "/user/a@b/proxy/8050/data", "/data"):
        assert client.get(path).text == "hello /data"
    assert client.get("/user/a@b/proxy/8050").text == "hello /"
    assert client.get("/user/a@b/proxy/80501").text == "hello /user/a@b/proxy/80501"


def test_the_cookie_and_the_redirect_know_the_prefix():
    start = "/user/ada/proxy/8050/"
    gate = access.TokenGate(hello, TOKEN, 8050, start)
    client = Client(prefix.WithoutPrefix(gate, start), use_cookies=False)
    for path in ("/user/ada/proxy/8050/trace/2", "/trace/2"):  # one proxy strips it, another not
        response = client.get(path, query_string={"token": TOKEN})
        assert response.headers["Location"] == "/user/ada/proxy/8050/trace/2"
        assert "Path=/user/ada/proxy/8050/" in response.headers["Set-Cookie"]
