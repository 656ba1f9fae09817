"""Answers what the SQL page's script asks: run, cancel, download."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Flask, Response, request

from ringlens.app.sql import cells
from ringlens.app.sql.console import Console
from ringlens.app.web.answers import answered
from ringlens.errors import NotInStoreError, RinglensError
from ringlens.sandbox.sandbox import Answer

_FILES = {
    "csv": (cells.to_csv, "text/csv; charset=utf-8"),
    "parquet": (cells.to_parquet, "application/vnd.apache.parquet"),
}

FAILED = 422
"""Status of a query that was understood and did not work."""


def register(server: Flask, console: Console) -> None:
    """Add the addresses under ``/data/sql``."""
    routes = Blueprint("sql", __name__, url_prefix="/data/sql")

    def run() -> Response:
        asked = _asked("query", "name")
        key, answer = console.run(asked["query"], asked["name"])
        head = {
            "id": key,
            "columns": cells.columns(answer),
            "cut": answer.cut,
            "seconds": answer.seconds,
            "frame": cells.frame(answer),
        }
        return Response(_pieces(head, answer), mimetype="application/json")

    def cancel() -> dict[str, bool]:
        return {"cancelled": console.cancel(_asked("name")["name"])}

    def download(key: str, form: str) -> Response:
        if form not in _FILES:
            raise NotInStoreError(f"answers come as {' and '.join(_FILES)}, not as {form[:20]!r}")
        write, kind = _FILES[form]
        name = f'attachment; filename="ringlens.{form}"'
        return Response(
            write(console.answer(key)), mimetype=kind, headers={"Content-Disposition": name}
        )

    routes.post("/run")(answered(run, FAILED))
    routes.post("/cancel")(answered(cancel, FAILED))
    routes.get("/result/<key>.<form>")(answered(download, FAILED))
    server.register_blueprint(routes)


def _pieces(head: dict[str, Any], answer: Answer) -> Iterator[str]:
    """Yield an answer as JSON in pieces: other requests are served in between."""
    yield f'{json.dumps(head, allow_nan=False)[:-1]}, "rows": ['
    for i, rows in enumerate(cells.rows(answer.readable)):
        yield ("," if i else "") + json.dumps(rows, allow_nan=False)[1:-1]
    yield "]}"


def _asked(*names: str) -> dict[str, str]:
    """Read texts of the request; it must be JSON, which other sites' pages cannot send unasked."""
    body = request.get_json()
    if not isinstance(body, dict) or not all(isinstance(body.get(name), str) for name in names):
        raise RinglensError(f"the request must be a JSON object with {', '.join(names)} as text")
    return {name: body[name] for name in names}
