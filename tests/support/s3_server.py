"""An S3 server on loopback, which can be told to fail.

It is moto's: it speaks S3 over real HTTP in this process, honours If-None-Match, and installs with
pip alone.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

BUCKET = "bucket"
ACCESS = {
    "AWS_ACCESS_KEY_ID": "reader",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
}


@dataclass
class S3Server:
    """A running server.

    Attributes:
        environment: What a process needs to reach it.
        requests: "METHOD path" of every request so far.
        fault: Given "METHOD path", returns a status to answer with instead of the true answer;
            ``before`` says whether the request is then left undone.
        delay: Seconds that every answer takes longer.
    """

    environment: dict[str, str]
    requests: list[str] = field(default_factory=list)
    fault: Callable[[str], int | None] = lambda request: None
    before: bool = True
    delay: float = 0.0

    @contextmanager
    def failing(self, fault: Callable[[str], int | None], before: bool = True) -> Iterator[None]:
        """Fail some requests for a while."""
        self.fault, self.before = fault, before
        try:
            yield
        finally:
            self.fault = lambda request: None


@contextmanager
def serve() -> Iterator[S3Server]:
    """Serve one empty bucket."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: object) -> None:
            """Nothing."""

    moto = DomainDispatcherApplication(create_backend_app)

    def app(environ, start_response):
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        server.requests.append(request)
        time.sleep(server.delay)
        status = server.fault(request)
        if status is None:
            return moto(environ, start_response)
        if not server.before:
            b"".join(moto(environ, lambda *_: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(f"{status} Failed", [("Content-Length", "0")])
        return [b""]

    http = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    server = S3Server(ACCESS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{http.port}"})
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        _make_bucket(server)
        yield server
    finally:
        http.shutdown()
        thread.join()


def _make_bucket(server: S3Server) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server.environment["AWS_ENDPOINT_URL"],
        region_name=ACCESS["AWS_DEFAULT_REGION"],
        aws_access_key_id=ACCESS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=ACCESS["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=BUCKET)


@contextmanager
def reached(server: S3Server) -> Iterator[None]:
    """This process's environment leads to the server."""
    import s3fs

    before = {name: os.environ.get(name) for name in (*server.environment, "AWS_PROFILE")}
    os.environ.pop("AWS_PROFILE", None)
    os.environ.update(server.environment)
    s3fs.S3FileSystem.clear_instance_cache()  # which may lead to an earlier server
    try:
        yield
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
