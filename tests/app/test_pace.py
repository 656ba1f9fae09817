"""The pace of a running capture, by a clock that is told the time."""

from datetime import UTC, datetime, timedelta

import pytest

from ringlens.app.store.pace import Paces


def test_the_pace_is_that_of_the_last_minute():
    now = [1000.0]
    paces = Paces(None, lambda: now[0])
    began = datetime.now(UTC) - timedelta(seconds=100)
    assert paces.of("a", 0, began) is None
    first = Paces(None, lambda: now[0]).of("b", 500, began)  # looked at for the first time
    assert (first.tokens, first.since_start) == (500, True)
    assert first.seconds == pytest.approx(100, abs=60)
    for tokens in (100, 200, 300):
        now[0] += 10
        pace = paces.of("a", tokens, began)
    assert (pace.tokens, pace.seconds, str(pace)) == (300, 30.0, "10")
    for tokens in (310, 320, 330, 340, 350, 360, 370):  # ten times as slow
        now[0] += 10
        pace = paces.of("a", tokens, began)
    assert str(pace) == "1.0"
    now[0] += 5
    assert str(paces.of("a", 370, began)) == "1.0"  # nothing new was committed
