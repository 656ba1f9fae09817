"""Runs Python programs in processes forked from one that has the imports done.

Importing torch and transformers takes seconds, which every process of a test would spend anew. This
one computes nothing and starts no thread, so that forking it is safe. See `warm` for its use.

A request on the control socket is JSON (arguments, folder, environment) with four descriptors: the
program's three, and a pipe on which its pid, then its exit status and CPU seconds are told.
"""

import array
import atexit
import contextlib
import gc
import importlib
import json
import linecache
import os
import runpy
import select
import signal
import socket
import sys
import threading
import types

PRELOAD = (
    "torch",
    "torch.nn.attention.flex_attention",
    "transformers",
    "transformers.generation.utils",
    "transformers.masking_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.tokenization_utils_tokenizers",
    "accelerate",
    "pandas",
    "pyarrow.dataset",
    "httpx",
    "anyio._backends._asyncio",
    "jinja2.sandbox",
    "rich.progress",
    "rich.markdown",
    "ringlens.lens",
    "ringlens.cli.main",
    "ringlens.observe.session",
    "ringlens.serving.importing",
    "ringlens.model.ring.conversion",
    "ringlens.store.check.check",
    "ringlens.app",
)


def serve(control):
    """Fork for each request; in the child, return what is asked of it. None at the end."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running = {}
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            tell_ended(running)
        if control not in ready:
            continue
        said, descriptors = receive(control)
        if not said:
            return None
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number, descriptor in enumerate(descriptors[:3]):
                os.dup2(descriptor, number)
            for descriptor in (*descriptors, *running.values(), woken, wake, control.detach()):
                os.close(descriptor)
            return json.loads(said)
        *given, status = descriptors
        for descriptor in given:
            os.close(descriptor)
        running[pid] = status
        tell(status, pid)


def receive(control):
    """A request and its four descriptors; nothing where the other side is gone."""
    size = array.array("i", [0]).itemsize
    said, found, _, _ = control.recvmsg(1 << 22, socket.CMSG_SPACE(4 * size))
    descriptors = array.array("i")
    for _, _, data in found:
        descriptors.frombytes(data)
    return said, list(descriptors)


def tell_ended(running):
    """Tell how programs ended, and what they used."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            pipe = running.pop(pid)
            tell(pipe, os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime)
            os.close(pipe)


def tell(pipe, *said):
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        os.write(pipe, json.dumps(said).encode() + b"\n")


def run(arguments, folder, environment):
    """What ``python *arguments`` does."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    kind, *rest = arguments
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if kind == "-c":
        code, *sys.argv[1:] = rest
        sys.argv[0] = "-c"
        sys.path[:0] = ["", *paths]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        # As the interpreter does from 3.13, for those who read their own source.
        linecache.cache["<string>"] = (len(code), None, code.splitlines(True), "<string>")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    elif kind == "-m":
        module, *sys.argv[1:] = rest
        sys.path[:0] = [os.getcwd(), *paths]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = arguments
        sys.path[:0] = [os.path.dirname(os.path.abspath(kind)), *paths]
        runpy.run_path(kind, run_name="__main__")


def end(code):
    """End as an interpreter does, but do not take the modules apart, which takes half a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def status_of(asked):
    """Run a program; its exit status."""
    try:
        run(*asked)
    except SystemExit as ended:
        if isinstance(ended.code, int | None):
            return (ended.code or 0) & 0xFF
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException as error:  # noqa: BLE001 (this is the interpreter's part)
        sys.excepthook(type(error), error, error.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def main():
    sys.path.pop(0)  # the tests' folder
    for name in PRELOAD:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        end(status_of(asked))


if __name__ == "__main__":
    main()
