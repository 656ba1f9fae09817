"""Every public call refuses a setting that it does not know, and names the nearest that it does."""

import inspect

import pytest

import ringlens as rl
from ringlens import analysis
from ringlens.errors import ConfigError
from ringlens.lens import Lens
from ringlens.store.read.trace import Trace

MODULES = (rl, analysis, rl.plot)


def calls():
    """Public functions and methods by name, of those that take settings."""
    for module in MODULES:
        for name in module.__all__:
            if inspect.isfunction(call := getattr(module, name)):
                yield f"{module.__name__}.{name}", call
    yield "Store", rl.Store.__init__
    for thing in (Lens, rl.Store, Trace):
        for name, call in inspect.getmembers(thing, inspect.isfunction):
            documented = not name.startswith("_") and "Args:" in (call.__doc__ or "")
            if documented and call.__qualname__.startswith(thing.__name__):
                yield call.__qualname__, call


CALLS = dict(calls())


@pytest.mark.parametrize("name", CALLS)
def test_an_unknown_setting_is_refused(name):
    parameters = inspect.signature(CALLS[name]).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        pytest.skip("looks its settings up itself")
    required = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    with pytest.raises(ConfigError, match="unknown"):
        CALLS[name](*[None] * len(required), no_such_setting=1)


def test_a_probe_names_the_settings_of_all_probes_and_its_own():
    with pytest.raises(ConfigError, match=r"Did you mean 'on_progress'.*samples.*batch_size"):
        rl.probe("belief", None, None, on_progres=print)
