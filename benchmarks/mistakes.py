"""A typo in every public call, and what ringlens answers: it names the nearest name that exists."""

import inspect
import sys
from contextlib import redirect_stderr
from functools import partial
from io import StringIO

from click.testing import CliRunner

import ringlens as rl
from ringlens import analysis
from ringlens.cli.main import main
from ringlens.cli.registry import COMMANDS


def answers(lens, store, path):
    """All typos with what was said, as triples (what was called, the right name, the answer)."""
    return [
        *_settings(lens, store),
        *_values(lens, store, path),
        *_names(lens, store),
        *_commands(),
    ]


def typo(name):
    """A name without its last letter but one."""
    return name[:-2] + name[-1]


def _calls(lens, store):
    """Every public function and method by name, bound where it belongs to an object."""
    for module, names in (
        (rl, rl.__all__),
        (analysis, analysis.__all__),
        (rl.plot, rl.plot.__all__),
    ):
        for name in names:
            call = getattr(module, name)
            if inspect.isfunction(call) or call is rl.Store:
                yield f"{module.__name__}.{name}", call
    for thing in (lens, store, store[1]):
        for name, call in inspect.getmembers(type(thing), inspect.isfunction):
            documented = not name.startswith("_") and "Args:" in (call.__doc__ or "")
            if documented and call.__qualname__.startswith(type(thing).__name__):
                yield call.__qualname__, getattr(thing, name)


def _settings(lens, store):
    """A misspelt setting for each call that has one of four letters or more."""
    for name, call in _calls(lens, store):
        settings = inspect.signature(call).parameters.values()
        named = [
            setting.name
            for setting in settings
            if setting.kind in (setting.KEYWORD_ONLY, setting.POSITIONAL_OR_KEYWORD)
            and len(setting.name) > 3
        ]
        if named:
            first = "Hello" if name.startswith("Lens") else store
            given = [lens if name in ("ringlens.capture", "ringlens.replay") else first]
            if name == "ringlens.probe":  # which looks its settings up when it has all the rest
                given = ["belief", lens, store]
            yield name, named[-1], _said(partial(call, *given, **{typo(named[-1]): 1}))


def _values(lens, store, path):
    """A misspelt value for each setting that takes a name."""
    cache = lens.run_with_cache("Hello", "resid_post")[1]
    think, answer = "phase = 'think'", "phase = 'answer'"
    tries = {
        "load": ("ring-nano", lambda: rl.load("ring-nanu")),
        "load(dtype=)": ("bfloat16", lambda: rl.load(dtype="bfloat61")),
        "load(quantization=)": ("nf4", lambda: rl.load(quantization="nf5")),
        "load(attention=)": ("sdpa", lambda: rl.load(attention="sdap")),
        "problems": ("countdown", lambda: rl.problems("countdwn")),
        "problems(split=)": ("heldout", lambda: rl.problems("countdown", split="heldot")),
        "capture(record=)": ("routing", lambda: rl.capture(lens, ["a"], path, record=["routin"])),
        "capture(point)": (
            "resid_post",
            lambda: rl.capture(lens, ["a"], path, record=["resid_pst@3"]),
        ),
        "replay(record=)": ("heads", lambda: rl.replay(lens, store, path, record=["heds"])),
        "sql table": ("tokens", lambda: store.sql("from tokns")),
        "sql column": ("entropy", lambda: store.sql("select entrpy from tokens")),
        "store[table]": ("tokens", lambda: store["tokns"]),
        "relation[column]": ("entropy", lambda: store["tokens"]["entrpy"]),
        "where": ("phase", lambda: store.tokens("phse = 'think'")),
        "context": ("correct", lambda: store.tokens(context=["corect"])),
        "rows[column]": ("phase", lambda: store.tokens()["phse"]),
        "statistics": ("heads", lambda: store.statistics("heds", 1)),
        "trace.statistics": ("heads", lambda: store[1].statistics("heds", 1)),
        "run_with_cache": ("resid_post", lambda: lens.run_with_cache("Hello", "resid_pst")),
        "run_with_hooks": (
            "resid_post",
            lambda: lens.run_with_hooks("Hello", [("resid_pst", print)]),
        ),
        "trace": ("use_cache", lambda: _traced(lens.trace("Hello", use_cach=True))),
        "generate": (
            "max_new_tokens",
            lambda: _traced(lens.generate("Hello", max_new_token=2)),
        ),
        "cache[point]": ("resid_post", lambda: cache["resid_pst", 1]),
        "cache.stack": ("resid_post", lambda: cache.stack("resid_pst")),
        "plot.usage(metric=)": ("share", lambda: rl.plot.usage(store, metric="shar")),
        "plot.heads(phase=)": ("think", lambda: rl.plot.heads(store[1], phase="thnk")),
        "plot.trace(theme=)": ("dark", lambda: rl.plot.trace(store[1], theme="drak")),
        "contrast(within=)": (
            "token",
            lambda: analysis.contrast(store, think, answer, within="tokn"),
        ),
        "expert_load(by=)": ("phase", lambda: analysis.expert_load(store, by="phse")),
    }
    for name, (wanted, call) in tries.items():
        yield name, wanted, _said(call)


def _traced(tracer):
    with tracer:
        nothing = None  # noqa: F841


def _names(lens, store):
    """A misspelt attribute of each object; Python asks whether another was meant."""
    for thing, wanted in (
        (rl, "capture"),
        (rl, "replay"),
        (lens, "run_with_cache"),
        (lens, "encode_prompt"),
        (store, "router_logits"),
        (store[1], "router_logits"),
    ):
        label = f"{type(thing).__name__}.{typo(wanted)}"
        yield label, wanted, _said(lambda t=thing, w=wanted: getattr(t, typo(w)))


def _commands():
    """Each command misspelt, and its longest option."""
    for row in COMMANDS:
        yield row.name, row.name, _printed(typo(row.name) if len(row.name) > 3 else row.name + "l")
        command = main.get_command(None, row.name)
        options = [name for p in command.params for name in p.opts if name.startswith("--")]
        if options:
            longest = max(options, key=len)
            yield f"{row.name} {longest}", longest, _printed(row.name, typo(longest))


def _said(call):
    """The sentence below the traceback."""
    try:
        call()
    except rl.RinglensError as error:
        return str(error)
    except AttributeError as error:
        with redirect_stderr(StringIO()) as shown:
            sys.__excepthook__(type(error), error, None)
        return shown.getvalue().strip().splitlines()[-1]
    return "nothing was said"


def _printed(*words):
    answer = CliRunner().invoke(main, list(words), prog_name="ringlens")
    assert answer.exit_code, words
    return answer.output
