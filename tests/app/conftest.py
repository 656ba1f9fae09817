"""The store at the module's ``path``, and the app that shows it."""

from dataclasses import replace
from functools import partial

import pytest
from browser import page

from ringlens.app import make_app
from ringlens.app.shared import confined
from ringlens.app.sql import console
from ringlens.sandbox import confined_store
from ringlens.sandbox.sandbox import Limits
from ringlens.store import Store


@pytest.fixture(scope="session", autouse=True)
def _time_for_queries():
    """A query may take as long as a busy machine needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "Limits", partial(Limits, seconds=300))
        patch.setattr(confined, "LIMITS", replace(confined.LIMITS, seconds=300))
        patch.setattr(confined_store, "SECONDS", 300)
        yield


@pytest.fixture(scope="module")
def store(path):
    with Store(path) as store:
        yield store


@pytest.fixture(scope="module")
def app(path):
    app = make_app(path)
    yield app
    app.server.extensions["ringlens.sources"].close()


@pytest.fixture
def tab(chrome):
    """A page on a small screen that must end without any complaint."""
    with page(chrome, viewport={"width": 1280, "height": 720}) as (tab, complaints):
        yield tab
        assert complaints == []


@pytest.fixture(scope="module")
def client(app):
    return app.server.test_client()
