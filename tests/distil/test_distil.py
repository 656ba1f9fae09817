"""A student learns from its teacher, wherever it is killed, and however many processes share."""

import json
import signal
import subprocess
import sys

import distil_worker
import golden_data
import numpy as np
import pytest
import session_worker
import tiny_lens
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torchrun_environment import environment

import ringlens as rl
from ringlens.cli.main import main
from ringlens.distil import Distillation, distil
from ringlens.distil.texts import split, texts_of
from ringlens.errors import ConfigError
from ringlens.observe.same_tokenizer import check_same_tokenizer
from ringlens.store import Store

WORKER = distil_worker.__file__


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher, a student that is a noisy copy of it, and the teacher's thoughts."""
    home = tmp_path_factory.mktemp("models")
    model = golden_data.load()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 1, 0
    model.save_pretrained(home / "teacher")
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * weight.std() * torch.randn_like(weight)
    model.save_pretrained(home / "student")
    for name in ("teacher", "student"):
        tiny_lens.tokenizer().save_pretrained(home / name)
    lens = rl.load(home / "teacher", dtype="float32")
    lens.model.generation_config.eos_token_id = 1_000_000
    options = {"max_new_tokens": 40, "temperature": 1.0, "seed": 4, "record": ()}
    rl.capture(lens, session_worker.PROMPTS, home / "thoughts", **options).close()
    return home


@pytest.fixture(scope="module")
def whole(made):
    """An uninterrupted distillation."""
    home = made
    given = (home / "student", home / "thoughts", home / "whole", home / "teacher")
    return distil_worker.run(*map(str, given))


def weights(folder):
    return load_file(folder / "model.safetensors")


def held_out_texts(made):
    with Store(made / "thoughts") as store:
        return split(texts_of(store), distil_worker.SETTINGS["held_out"], 0)[1]


def plain_divergence(student, teacher, texts):
    """KL and agreement per learnt position, a text at a time, from whole logits in float64."""
    loss = agreed = positions = 0
    for text in texts:
        at = torch.from_numpy(text.learnt_T)
        goal, found = (
            lens.model(torch.from_numpy(text.ids_T)[None]).logits[0, at].double().softmax(-1)
            for lens in (teacher, student)
        )
        loss += (goal * (goal / found).log()).sum().item()
        agreed += (goal.argmax(-1) == found.argmax(-1)).sum().item()
        positions += int(at.sum())
    return loss / positions, agreed / positions


def test_a_student_comes_closer_to_its_teacher(made, whole):
    first, last = whole.curve[0], whole.curve[-1]
    assert first.step == 0 and np.isnan(first.loss) and last.tokens >= 900
    assert last.loss < 0.75 * whole.curve[1].loss
    assert last.agreement > whole.curve[1].agreement
    lens = rl.load(whole.folder, dtype="float32")
    teacher = rl.load(made / "teacher", dtype="float32")
    for row, student in ((first, rl.load(made / "student", dtype="float32")), (last, lens)):
        found = plain_divergence(student, teacher, held_out_texts(made))
        assert found == pytest.approx((row.held_out, row.held_out_agreement), rel=1e-4)
    with Store(made / "thoughts") as store:
        check_same_tokenizer(lens, store)
    report = json.loads((whole.folder / "distillation.json").read_text())
    assert report["curve"][-1]["held_out"] == last.held_out and report["curve"][0]["loss"] is None
    assert report["settings"]["tokens"] == 900
    assert f"{first.held_out:.4g} → {last.held_out:.4g}" in repr(whole)
    assert list(whole.frame["step"]) == [row.step for row in whole.curve]


@pytest.mark.extra
def test_what_was_killed_ends_in_the_same_weights(made, whole):
    out = made / "killed"
    given = [made / "student", made / "thoughts", out, made / "teacher"]
    # The row of step 0 is the first; at the third, the second is on disk.
    died = subprocess.run([sys.executable, WORKER, *given, "3"], env=environment(), check=False)
    assert died.returncode == -signal.SIGKILL
    assert not out.exists() and (made / "killed.progress").is_file()
    other = Distillation(**distil_worker.SETTINGS, seed=7)
    with Store(made / "thoughts") as store, pytest.raises(ConfigError, match="seed = 0, not 7"):
        distil(made / "student", store, out, teacher=made / "teacher", settings=other)
    again = distil_worker.run(*map(str, given))
    kept, wanted = weights(out), weights(whole.folder)
    assert all(torch.equal(kept[name], wanted[name]) for name in wanted)
    assert [row.held_out for row in again.curve] == [row.held_out for row in whole.curve]
    assert not (made / "killed.progress").exists()


@pytest.mark.extra
def test_two_processes_learn_what_one_does(made, whole):
    out = made / "shared"
    given = [made / "student", made / "thoughts", out, made / "teacher"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*torchrun, WORKER, *given], env=environment(), check=True)
    kept, wanted = weights(out), weights(whole.folder)
    for name in wanted:
        if name.endswith("expert_bias"):
            assert torch.equal(kept[name], wanted[name])  # loads are summed exactly
        else:
            torch.testing.assert_close(kept[name], wanted[name], rtol=0, atol=2e-3)


def test_progress_that_is_torn_is_refused(made):
    (made / "torn.progress").write_bytes(b"PK torn")
    with Store(made / "thoughts") as store, pytest.raises(ConfigError, match="cannot be read"):
        distil(made / "student", store, made / "torn", teacher=made / "teacher", device="cpu")


def test_routers_alone_learn_where_only_they_are_asked(made):
    with Store(made / "thoughts") as store:
        settings = Distillation(**distil_worker.SETTINGS | {"tokens": 200}, parts="routers")
        out = made / "routers"
        distil(made / "student", store, out, teacher=made / "teacher", settings=settings)
    before, after = weights(made / "student"), weights(out)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".mlp.gate." in name for name in changed)


def test_what_cannot_be_is_refused_before_anything_is_written(made, tmp_path):
    with Store(made / "thoughts") as store:
        with pytest.raises(ConfigError, match="is there already"):
            distil(made / "student", store, made / "teacher", teacher=made / "teacher")
        with pytest.raises(ConfigError, match="different tokenizers"):
            distil("ring-nano", store, tmp_path / "out", teacher=made / "teacher", device="cpu")
    lens = rl.load(made / "teacher", dtype="float32")
    with rl.capture(lens, session_worker.PROMPTS[:1], tmp_path / "one", max_new_tokens=3) as store:
        with pytest.raises(ConfigError, match="one problem"):
            distil(made / "student", store, tmp_path / "out", device="cpu")
        settings = Distillation(held_out=0, tokens=2)
        assert np.isnan(
            distil(made / "student", store, tmp_path / "out", settings=settings, device="cpu")
            .curve[-1].held_out
        )  # fmt: skip
    with pytest.raises(ConfigError, match="unknown part that learns"):
        Distillation(parts="experts")
    with pytest.raises(ConfigError, match="learning_rate = -1"):
        Distillation(learning_rate=-1)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out"]


def test_the_command_line_says_what_was_gained(made):
    asked = ["distil", str(made / "student"), str(made / "thoughts"), "--out", str(made / "cli")]
    given = ["--tokens", "200", "--batch-tokens", "100", "--device", "cpu"]
    ran = CliRunner().invoke(main, [*asked, *given, "--teacher", str(made / "teacher")])
    assert ran.exit_code == 0, ran.output
    assert "held out: " in ran.output and (made / "cli" / "config.json").is_file()
