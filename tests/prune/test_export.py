"""Checkpoints with fewer experts: the masked model's logits, nothing that loads half-written."""

import json
import signal
import tracemalloc
from pathlib import Path

import fp8_ring
import golden_data
import plain_ring
import pytest
import tiny_lens
import torch
import warm
from click.testing import CliRunner
from pruned import exact, mask, random_plan
from safetensors.torch import load_file

import ringlens as rl
from ringlens.cli.main import main
from ringlens.data import path as bundled
from ringlens.errors import CheckpointError, ConfigError, ModelNotFoundError
from ringlens.model.loading import load_model
from ringlens.prune import tensor_file
from ringlens.prune.checkpoint import export
from ringlens.prune.plan import PruningPlan

MTP = {**plain_ring.BASE, "vocab_size": 384, "num_experts": 16, "num_nextn_predict_layers": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints of several shapes and kinds, by name."""
    home = tmp_path_factory.mktemp("models")
    tensors = plain_ring.make_tensors(MTP, seed=2)
    plain_ring.write(home / "mtp", MTP, tensors)
    bare = {
        name.removeprefix("model."): tensor
        for name, tensor in plain_ring.make_tensors({**MTP, "num_nextn_predict_layers": 0}).items()
    }
    plain_ring.write(home / "base", {**MTP, "num_nextn_predict_layers": 0}, bare)
    (home / "fp8").mkdir()
    fp8_ring.save(home / "fp8", home / "plain")
    for name in ("mtp", "base"):
        tiny_lens.tokenizer().save_pretrained(home / name)
    return {
        "ring-nano": bundled("ring-nano"),
        "golden": golden_data.FOLDER,
        **{name: home / name for name in ("mtp", "base", "fp8", "plain")},
    }


def logits(model, tokens):
    ids = torch.randint(4, 90, (2, tokens), generator=torch.Generator().manual_seed(tokens))
    with torch.inference_mode():
        return model(ids).logits


def opened(folder, **options):
    from transformers import AutoModelForCausalLM

    if Path(folder, "tokenizer.json").exists():
        return load_model(str(folder), dtype="float32", **options)[0]
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


@pytest.mark.parametrize(
    ("name", "per_group"),
    [("ring-nano", 4), ("ring-nano", 2), ("golden", 3), ("golden", 2), ("mtp", 3), ("base", 2),
     ("plain", 2), ("fp8", 3)],
)  # fmt: skip
def test_its_logits_are_those_of_the_masked_model(folders, tmp_path, name, per_group):
    plan = random_plan(folders[name], per_group, seed=7)
    made = export(plan, tmp_path / "small")
    full, small = mask(opened(folders[name]), plan), opened(tmp_path / "small")
    assert small.config.num_experts == plan.left < full.config.num_experts
    for tokens in (
        1,
        7,
        40,
    ):  # how a CPU sums float32 is its own: some parts in a million of a logit
        torch.testing.assert_close(logits(small, tokens), logits(full, tokens), atol=1e-4, rtol=0)
    exact(small), exact(full)
    for tokens in (1, 7, 40):
        assert torch.equal(logits(small, tokens), logits(full, tokens))
    assert not torch.allclose(logits(small, 7), logits(opened(folders[name]), 7), atol=1e-2)
    assert made.bytes == sum(
        tensor.numel() * tensor.element_size()
        for file in made.files
        for tensor in load_file(tmp_path / "small" / file).values()
    )
    assert made.bytes < made.bytes_before


def test_modules_and_generation_agree_too(folders, tmp_path):
    plan = random_plan("ring-nano", 3, seed=1)
    export(plan, tmp_path / "small")
    full = mask(opened(folders["ring-nano"], experts="modules"), plan)
    small = opened(tmp_path / "small", experts="modules")
    ids = torch.tensor([[5, 6, 7, 8]])
    settings = {"max_new_tokens": 20, "do_sample": False}
    assert torch.equal(small.generate(ids, **settings), full.generate(ids, **settings))


def test_everything_else_comes_along(folders, tmp_path):
    plan = random_plan("ring-nano", 4)
    made = export(plan, tmp_path / "small")
    old, new = folders["ring-nano"], tmp_path / "small"
    assert made.files == ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                 "generation_config.json"):  # fmt: skip
        assert (new / name).read_bytes() == (old / name).read_bytes()
    values = json.loads((old / "config.json").read_text())
    assert json.loads((new / "config.json").read_text()) == values | {"num_experts": 16}
    index = json.loads((new / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == made.bytes
    assert {n for n in index["weight_map"] if ".experts.16." in n} == set()
    told = json.loads((new / "pruning.json").read_text())
    assert PruningPlan.from_json((new / "pruning.json").read_text()) == plan
    assert (told["bytes"], told["bytes_before"]) == (made.bytes, made.bytes_before)
    tensors, whole = ({}, {})
    for found, folder in ((tensors, new), (whole, old)):
        for file in folder.glob("*.safetensors"):
            found |= load_file(file)
    for layer, kept in plan.kept.items():
        prefix = f"model.layers.{layer}.mlp"
        assert torch.equal(
            tensors[f"{prefix}.gate.weight"], whole[f"{prefix}.gate.weight"][list(kept)]
        )
        for place, expert in enumerate(kept):
            for part in ("gate", "up", "down"):
                end = f"{part}_proj.weight"
                assert torch.equal(
                    tensors[f"{prefix}.experts.{place}.{end}"],
                    whole[f"{prefix}.experts.{expert}.{end}"],
                )
    assert rl.load(new).encode_prompt("Make 24.") == rl.load("ring-nano").encode_prompt("Make 24.")


def test_layers_of_prediction_are_left_out_and_it_says_so(folders, tmp_path):
    plan = random_plan(folders["mtp"], 3)
    made = export(plan, tmp_path / "small")
    assert made.left_out == 63  # of one layer of 16 experts
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["num_nextn_predict_layers"] == 0
    assert not [n for n in load_file(tmp_path / "small" / "model.safetensors") if "layers.3." in n]


def test_memory_is_that_of_a_chunk(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "CHUNK", 2**16)
    plan = random_plan("ring-nano", 7)
    tracemalloc.start()
    made = export(plan, tmp_path / "small")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.bytes > 20e6
    assert peak < 3e6  # the headers and the index of 700 tensors, and a chunk


KILLED = """
import os, signal, sys
from ringlens.prune.checkpoint import export
from ringlens.prune.plan import read_plan
plan, folder = sys.argv[1:]
export(read_plan(plan), folder, on_bytes=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_export_leaves_no_folder_that_loads(tmp_path, monkeypatch):
    plan, small = random_plan("ring-nano", 4), tmp_path / "small"
    plan.save(tmp_path / "plan.json")
    done = warm.run(["-c", KILLED, tmp_path / "plan.json", small])
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = tmp_path / "small.incomplete"
    assert [file.name for file in left.glob("*.safetensors")] == [
        "model-00001-of-00002.safetensors"
    ]
    for folder in (small, left):
        with pytest.raises(ModelNotFoundError):
            rl.load(str(folder))
    first = left / "model-00001-of-00002.safetensors"
    (left / "model-00002-of-00002.safetensors.half").write_bytes(b"half")
    kept = first.stat().st_ino
    export(plan, small)  # goes on with the second file
    assert (small / first.name).stat().st_ino == kept and not left.exists()
    assert not list(small.glob("*.half"))
    export(plan, tmp_path / "other")
    for file in (tmp_path / "other").iterdir():
        assert file.read_bytes() == (small / file.name).read_bytes()


def test_what_was_left_of_another_plan_is_not_gone_on_with(tmp_path):
    small, left = tmp_path / "small", tmp_path / "small.incomplete"
    left.mkdir()
    (left / "pruning.json").write_text("{}")
    (left / "model-00001-of-00002.safetensors").write_bytes(b"of another plan")
    plan = random_plan("ring-nano", 2)
    export(plan, small)
    full = exact(mask(opened(bundled("ring-nano")), plan))
    assert torch.equal(logits(exact(opened(small)), 7), logits(full, 7))


def test_what_cannot_be_is_refused(folders, tmp_path, monkeypatch):
    plan = random_plan("ring-nano", 4)
    full = tmp_path / "full"
    full.mkdir()
    (full / "something").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        export(plan, full)
    assert (full / "something").read_text() == "mine"
    with pytest.raises(ConfigError, match="the plan is about 32 experts"):
        export(plan, tmp_path / "a", model=folders["golden"])
    with pytest.raises(ModelNotFoundError):
        export(plan, tmp_path / "a", model=tmp_path / "nowhere")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("ringlens.prune.checkpoint.shutil.disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"takes .* bytes, and there are 1,000 left"):
        export(plan, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_command_plans_writes_and_says_so(tmp_path):
    rl.capture(
        rl.load("ring-nano"), rl.problems("countdown", n=2), tmp_path / "store", max_new_tokens=20,
        record=("routing", "expert_outputs"),
    ).close()  # fmt: skip

    def run(*words):
        return CliRunner().invoke(main, list(map(str, words)), prog_name="ringlens")

    done = run("prune", "ring-nano", tmp_path / "store", "--criterion", "ean", "--keep", "0.75",
               "--save", tmp_path / "plan.json")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "24 of 32 experts a layer stay (6 of 8 in each of 4 groups)" in done.output
    done = run("prune", "ring-nano", "--plan", tmp_path / "plan.json", "--export", tmp_path / "new")
    assert done.exit_code == 0, done.output
    assert "MB of weights in 2 files" in done.output
    planned = run("plan", tmp_path / "new", "--gpus", "cpu:8GB")
    assert "24 of 32 experts a layer, by ean" in planned.output
    for words, said in (
        (("prune", "ring-nano"), "a plan is made of STORE and --keep"),
        (("prune", "ring-nano", tmp_path / "store", "--keep", "17"), "do not divide into 4 groups"),
        (("prune", "ring-nano", tmp_path / "store", "--plan", "x.json"), "leave these out"),
    ):
        wrong = run(*words)
        assert wrong.exit_code == 1 and said in wrong.output
