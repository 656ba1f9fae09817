"""``ringlens plan`` on the command line: what it prints, how long it takes, what it refuses."""

import json
import shlex
from pathlib import Path

import pytest
import torch.distributed.run
import warm
from click.testing import CliRunner
from paths import ROOT

from ringlens.cli.main import main
from ringlens.store import Store

RING_1T = ROOT / "tests" / "configs" / "ring-1t.json"


def said_by(*args, code=0):
    result = CliRunner().invoke(main, ["plan", *map(str, args)])
    assert result.exit_code == code, result.output
    return result.output


def test_ring_1t_is_planned_in_seconds():
    """Some 0.2 seconds of CPU time beyond importing torch and transformers, which are there."""
    process = warm.Process(["-m", "ringlens.cli", "plan", RING_1T, "--gpus", "16x80GB"])
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert process.seconds < 5
    for part in ("999.71B", "51.05B", "1.999 TB", "does not fit", "fp8 fits on 16 x 80 GB"):
        assert part in said
    assert "\x1b" not in said  # no colours outside a terminal


def test_plan_prints_the_command_of_each_way():
    said = said_by(RING_1T, "--gpus", "8x141GB", "--quantization", "nf4")
    assert "ringlens capture MODEL --store" in said
    assert "--quantization nf4 --device-map auto" in said
    fp8 = RING_1T.with_name("ring-1t-fp8.json")
    said = said_by(fp8, "--gpus", "16x80GiB", "--batch", 1)
    assert f"ringlens plan {fp8} --gpus 16x80GiB" in said
    assert "torchrun --nnodes 2 --nproc-per-node 8" in said
    assert "--tp-size 16 --ep-size 16" in said
    assert "vllm serve MODEL" in said
    assert "--tensor-parallel-size 8 --pipeline-parallel-size 2" in said


def test_plan_as_json_has_everything():
    said = json.loads(said_by("ring-nano", "--gpus", "2x80GB", "--json"))
    assert said["fits"]
    assert said["dtype"] == "float32"  # as ring-nano is loaded
    assert said["parameters"]["total"] == sum(
        n for kind, n in said["parameters"].items() if kind not in ("total", "active")
    )
    ways = {way["name"]: way for way in said["ways"]}
    assert list(ways) == ["device_map", "torchrun", "vllm"]
    held = sum(device["weights"] for device in ways["device_map"]["devices"])
    assert held == said["weights"]["total"]
    for part in ("weights", "work", "cache", "activations", "recording", "largest", "devices"):
        assert said[part]


@pytest.mark.parametrize("way", ["device_map", "torchrun"])
def test_the_printed_command_runs(way, tmp_path):
    """As printed, with two problems; torchrun's processes write one store, the first speaks."""
    options = ["--context", 24, "--batch", 2]
    gpus = "2x80GB" if way == "torchrun" else "cpu:8GB"
    said = json.loads(said_by("ring-nano", "--gpus", gpus, *options, "--json"))
    (line,) = next(w["commands"] for w in said["ways"] if w["name"] == way)
    program, *args = shlex.split(line)
    args += ["--n", "2"]
    if program == "torchrun":  # read as torchrun reads it; its processes need no new imports
        job = torch.distributed.run.parse_args(args)
        assert (job.nnodes, job.module, job.training_script) == ("1", True, "ringlens.cli")
        command = ["-m", job.training_script, *job.training_script_args]
        said = warm.run_ranks(command, int(job.nproc_per_node), cwd=tmp_path)
    else:
        assert program == "ringlens"
        ran = warm.run(["-m", "ringlens.cli", *args], cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        said = [ran.stdout]
    assert "".join(said).count("2 traces") == 1
    with Store(tmp_path / "runs" / "first") as store:
        assert store.sql("select count(*) from traces").fetchall() == [(2,)]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["ring-nano"], 2, "--gpus"),
        (["ring-nano", "--gpus", "1x8GB", "--context", "0"], 1, "1 or more"),
        (["ring-nano", "--gpus", "1x8GB", "--dtype", "int3"], 1, "bfloat16"),
        (["ring-nano", "--gpus", "1x8GB", "--reserve", "much"], 1, "much"),
        (["ring-nano", "--gpus", "1x8GB", "--save-device-map", "none/m"], 1, "device map"),
        (["ring-nano", "--gpus", "1x8MB", "--save-device-map", "m"], 1, "does not fit"),
        (["nowhere.json", "--gpus", "1x8GB"], 1, "nowhere.json"),
        (["./nowhere", "--gpus", "1x8GB"], 1, "no model"),
        (["llama.json", "--gpus", "1x8GB"], 1, "'llama'"),
        (["old.json", "--gpus", "1x8GB"], 1, "BailingMoeForCausalLM"),
        (["broken.json", "--gpus", "1x8GB"], 1, "broken.json"),
    ],
)
def test_wrong_input_is_refused(args, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("llama.json").write_text('{"model_type": "llama"}')
    old = {"model_type": "bailing_moe", "architectures": ["BailingMoeForCausalLM"]}
    Path("old.json").write_text(json.dumps(old))
    Path("broken.json").write_text("{")
    assert message in said_by(*args, code=code)
    assert not Path("m").exists()


def test_plan_says_how_fast_each_layout_should_be():
    flash = RING_1T.with_name("ring-flash-2.0.json")
    said = said_by(flash, "--gpus", "4x141GB", "--batch", 1)
    assert "Speed expected on H200: tokens a second" in said
    for layout in ("one device", "device map", "pp 4", "tp 4", "ep 4", "tp 4 + ep 4"):
        assert f"  {layout} " in said
    assert "ep 4, decoding as a graph, should be fastest; ranges overlap with" in said
    mini = said_by(RING_1T.with_name("ring-mini-2.0.json"), "--gpus", "2x80GB", "--batch", 1)
    assert "one device, decoding as a graph, should be fastest; ranges overlap with tp 2" in mini
    assert "narrows them. A copy on each device shares the problems out" in mini
    (command,) = [line for line in mini.splitlines() if line.startswith("CUDA_VISIBLE_DEVICES=0 ")]
    assert command.endswith(" --device-map auto")
    assert "no figures of such GPUs; --kind h200 or" in said_by(flash, "--gpus", "1x24GB")
    assert "expected on A100" in said_by(flash, "--gpus", "4x80GB", "--kind", "a100")
    assert "kind = 'b300'; it must be" in said_by(
        flash, "--gpus", "1x80GB", "--kind", "b300", code=1
    )


def test_measuring_shows_what_this_machine_does_beside_what_is_expected():
    sizes = ("--context", 64, "--prefill", 32, "--batch", 2)
    args = ("ring-nano", "--gpus", "cpu:8GB", *sizes, "--measure")
    speed = json.loads(said_by(*args, "--json"))["speed"]
    assert speed["kind"] == "CPU, as measured here"
    (layout,) = speed["layouts"]
    assert layout["layout"] == speed["fastest"] == "one device"
    measured = speed["measured"]
    assert set(measured["parameters"]) == {"products", "attention", "bandwidth", "launch"}
    run = measured["run"]
    for each in (*measured["parameters"].values(), run["prefill"], run["decoding"]):
        assert each["measured"] > 0 and each["worst"] > 0 and each["best"] > 0
    assert (run["batch"], run["tokens"]) == (2, 32)


@pytest.mark.extra
def test_measuring_without_weights_measures_the_machine_alone():
    said = said_by(RING_1T, "--gpus", "8x141GB", "--measure")
    assert "Measured here: CPU" in said and "matrix products, TFLOP/s" in said
    assert "Speed expected on H200:" in said  # planned for others than this machine
    assert "The model was not run: " in said
