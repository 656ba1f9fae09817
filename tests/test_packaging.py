"""The package list against the tree; wheel and editable install; what importing costs."""

import subprocess
import sys
import tomllib
import venv
import zipfile

import pytest
import warm
from paths import ROOT

SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
MAPPED = ("app", "data", "probes")
SERVED = ("*.css", "*.html", "*.js", "*.svg")


def test_every_package_is_listed():
    found = {"ringlens"}
    for init in (ROOT / "ringlens").rglob("__init__.py"):
        found.add(".".join(init.parent.relative_to(ROOT).parts))
    for top in MAPPED:
        for init in (ROOT / top).rglob("__init__.py"):
            found.add(".".join(("ringlens", *init.parent.relative_to(ROOT).parts)))
    assert sorted(found) == SETUP["packages"]


def test_every_folder_with_python_is_a_package():
    for top in ("ringlens", *MAPPED):
        for file in (ROOT / top).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file


def test_links_for_type_checkers():
    for top in MAPPED:
        assert (ROOT / "ringlens" / top).resolve() == ROOT / top
        assert SETUP["package-dir"][f"ringlens.{top}"] == top


PROBE = """
import ringlens, ringlens.app, ringlens.data, ringlens.probes
from ringlens.data import path
assert (path("ring-nano") / "config.json").is_file(), path("ring-nano")
assert (path("ring-nano-base") / "config.json").is_file(), path("ring-nano-base")
assert path("countdown.heldout.jsonl").is_file()
assert path("thoughts.heldout.jsonl").is_file()
import importlib.util
assert not any(importlib.util.find_spec(name) for name in ("app", "data", "probes"))
print(ringlens.app.__file__)
"""


@pytest.mark.extra
@pytest.mark.parametrize("kind", ["editable", "wheel"])
def test_installs(kind, tmp_path):
    """Install into a fresh environment that sees this one's libraries, away from the sources."""
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    libraries = [p for p in sys.path if p.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", ROOT, source], check=True)
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
    ]
    if kind == "wheel":
        subprocess.run(
            [sys.executable, "-m", "build", "-w", "-n", "-o", tmp_path / "dist", source],
            check=True,
            capture_output=True,
        )
        wheel = next((tmp_path / "dist").glob("*.whl"))
        names = zipfile.ZipFile(wheel).namelist()
        assert not [n for n in names if n.split("/")[0] in MAPPED]
        assert wheel.stat().st_size < 60e6  # two checkpoints of 28 MB, compressed
        served = [f for kind in SERVED for f in (source / "app").rglob(kind)]
        assert {f"ringlens/{file.relative_to(source)}" for file in served} <= set(names)
        assert not [n for n in names if n.endswith(".ts") or "node_modules" in n]
        subprocess.run([*install, "--force-reinstall", wheel], check=True)
    else:
        subprocess.run([*install, "--force-reinstall", "-e", source], check=True)
    result = subprocess.run(
        [python, "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    where = site if kind == "wheel" else source
    assert result.stdout.startswith(str(where))


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_ringlens_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'duckdb', 'pyarrow', 'dash', 'numpy'}"
    assert run(f"import sys, ringlens; print({heavy} & set(sys.modules))") == "set()"


def test_public_names_are_there_and_few():
    code = "import ringlens as rl; print(all(hasattr(rl, n) for n in rl.__all__), len(rl.__all__))"
    assert warm.run(["-c", code]).stdout == "True 19\n"


ORDERS = (
    "import ringlens",
    "import ringlens.model.ring.modeling",
    "from ringlens.model import BailingMoeV2ForCausalLM",
    "from transformers import AutoModelForCausalLM; import ringlens",
    "from transformers import AutoModelForCausalLM; import ringlens.model.ring.configuration",
)
# Each in a fork of a process that has imported torch, and neither transformers nor ringlens.
IN_FORKS = """
import os, sys
import accelerate, huggingface_hub, jinja2, tokenizers, torch._dynamo, torch.distributed.tensor
assert not {"transformers", "ringlens"} & {*sys.modules}
for code in sys.argv[1:]:
    if os.fork() == 0:
        exec(code)
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0, code
"""


@pytest.mark.extra
def test_auto_classes_know_ring_in_any_import_order():
    folder = str(ROOT / "tests" / "golden" / "ring-tiny")
    code = f"from transformers import AutoModelForCausalLM as A; m = A.from_pretrained({folder!r})"
    code += "; print('found', type(m).__module__, m.num_parameters())"
    done = subprocess.run(
        [sys.executable, "-c", IN_FORKS, *(f"{first}\n{code}" for first in ORDERS)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("found ringlens.model.ring.modeling 478912\n") == len(ORDERS)
