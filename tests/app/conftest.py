"""The store at the module's ``path``, and the app that shows it."""

import pytest
from browser import page
from patient import be_patient

from ringlens.app import make_app
from ringlens.store import Store


@pytest.fixture(scope="session", autouse=True)
def _time_for_queries():
    be_patient()


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
