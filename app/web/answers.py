"""Answers requests for data: JSON, or an error of ours as a sentence with its status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, jsonify

from ringlens.errors import NotInStoreError, RequestError, RinglensError

View = Callable[..., Any]


def answered(view: View, failed: int = 500) -> Callable[..., Response]:
    """Make a view that sends its result as JSON, and an error of ours as a sentence.

    Args:
        view: Returns a response, or what JSON can hold.
        failed: Status of an error that :func:`status_of` has no own status for.
    """

    def answer(**arguments: str) -> Response:
        try:
            found = view(**arguments)
        except RinglensError as error:
            response = jsonify(error=str(error))
            response.status_code = status_of(error, failed)
            return response
        return found if isinstance(found, Response) else jsonify(found)

    answer.__name__ = getattr(view, "__name__", "answer")  # Flask names addresses by it
    return answer


def status_of(error: RinglensError, failed: int = 500) -> int:
    """Return the status of an error of ours: 404 not there, 400 wrongly asked, else ``failed``."""
    if isinstance(error, NotInStoreError):
        return 404
    return 400 if isinstance(error, RequestError) else failed
