"""Mutated checkpoints: each loads as what its files say, or is refused in a sentence.

``RINGLENS_FUZZ=10`` makes ten times as many. The models that load are compared with a slow, plain
implementation that reads the same configuration.
"""

import copy
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import plain_ring
import pytest
import torch
from golden_data import relative
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import ringlens.model.gate.tokenizer_files as tokenizer_module
from ringlens.errors import CheckpointError, ConfigError, ModelNotFoundError, RinglensError
from ringlens.model.fit.memory import Workload
from ringlens.model.fit.placement import devices
from ringlens.model.fit.plan import plan
from ringlens.model.fit.scenario import scenario
from ringlens.model.loading import load_model, read_config

MANY = int(os.environ.get("RINGLENS_FUZZ", "1"))
BASE = {**plain_ring.BASE, "num_hidden_layers": 2, "dtype": "float32", "norm_topk_prob": True}
TENSORS = plain_ring.make_tensors(BASE)
IDS = [5, 17, 2, 80, 33]
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
# What the published code takes where a configuration says nothing, and no tensor's shape tells.
UNSTATED = {
    "rope_theta": 600000.0, "partial_rotary_factor": 1.0, "routed_scaling_factor": 1.0,
    "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8, "rope_scaling": None,
}  # fmt: skip
CPU_SECONDS, GROWTH = 60, 2**31


def words():
    backend = Tokenizer(models.WordLevel({f"t{i}.": i for i in range(96)}, unk_token="t0."))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="t0.", eos_token="t1.")
    made.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}t7."
    return made


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The checkpoint that everything here is a mutation of: two shards, index, tokenizer."""
    folder = tmp_path_factory.mktemp("sound")
    (folder / "config.json").write_text(json.dumps(BASE))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    names = sorted(TENSORS)
    halves = dict(zip(SHARDS, (names[::2], names[1::2]), strict=True))
    for file, part in halves.items():
        save_file({n: TENSORS[n] for n in part}, folder / file, metadata={"format": "pt"})
    weight_map = {n: file for file, part in halves.items() for n in part}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    words().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    """A copy to be mutated, beside which there is a weight file of another's."""
    copied = tmp_path / "model"
    shutil.copytree(sound, copied)
    shutil.copy(sound / SHARDS[0], tmp_path / "outside.safetensors")
    return copied


@contextmanager
def bounded():
    """CPU time and memory that no checkpoint of this size may take."""

    def stop(*_):
        raise AssertionError(f"still busy after {CPU_SECONDS} seconds of computing")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < GROWTH, f"took {grown / 2**10:.0f} MiB"


def a_sentence(error):
    said = str(error)
    assert 20 < len(said) < 900, said
    assert "\n" not in said
    assert said.rstrip()[-1] in ".)", said
    return said


def outcome(folder):
    """Load a folder: "right", where logits are those of its own files, or the error."""
    with bounded():
        try:
            model, tokenizer = load_model(str(folder))
        except RinglensError as error:
            a_sentence(error)
            return error
        assert max(tokenizer.get_vocab().values()) < model.config.vocab_size
        with torch.inference_mode():
            logits = model(torch.tensor([IDS])).logits[0]
    config = {**BASE, **UNSTATED, **json.loads((folder / "config.json").read_bytes())}
    files = list(folder.glob("model*.safetensors"))
    tensors = {n: t.float() for file in files for n, t in load_file(file).items()}
    assert relative(logits.double(), reference(config, tensors)) < 1e-4
    return "right"


def reference(config, tensors):
    """The plain implementation's logits; of scaled rotary embeddings it knows YaRN alone."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type") or rope.get("type")
    if kind not in ("linear", "dynamic"):
        return plain_ring.logits(config, tensors, IDS)
    plain = {**config, "rope_scaling": None, "rope_parameters": None}
    by = rope["factor"] if kind == "linear" else 1.0  # dynamic: only beyond the trained context
    freqs, scale = plain_ring.frequencies(plain, config["head_dim"])
    scaled = [f / by for f in freqs], scale
    with mock.patch.object(plain_ring, "frequencies", return_value=scaled):
        return plain_ring.logits(plain, tensors, IDS)


def planned(folder):
    """Plan for a folder: "planned", or the error."""
    with bounded():
        try:
            s = scenario(read_config(str(folder)), dtype="float32", work=Workload(64, 1, 64))
            found = plan(s, devices("2x8GB,cpu:8GB"))
        except RinglensError as error:
            a_sentence(error)
            return error
    assert found.strategies[0].loads
    return "planned"


# --- single faults -------------------------------------------------------------------------------


def change(file, **values):
    """A mutation of keys of a JSON file; ``...`` removes one."""

    def mutate(folder):
        content = json.loads((folder / file).read_text()) | values
        kept = {key: value for key, value in content.items() if value is not ...}
        (folder / file).write_text(json.dumps(kept))

    return mutate


def config(**values):
    return change("config.json", **values)


def text(file, content):
    def mutate(folder):
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return mutate


def remap(change_map):
    """A mutation of the index's weight_map."""

    def mutate(folder):
        file = folder / "model.safetensors.index.json"
        index = json.loads(file.read_text())
        index["weight_map"] = change_map(index["weight_map"])
        file.write_text(json.dumps(index))

    return mutate


def to_outside(name):
    """All tensors of the first shard are mapped to a file of another name, which is there."""

    def mutate(folder):
        target = str(folder.parent / "outside.safetensors") if name is None else name
        (folder / SHARDS[0]).unlink()
        remap(lambda m: {n: target if f == SHARDS[0] else f for n, f in m.items()})(folder)

    return mutate


def tensor(name, change_tensor):
    """A mutation of one tensor; to None removes it."""

    def mutate(folder):
        for file in (folder / shard for shard in SHARDS):
            held = load_file(file)
            if name in held:
                changed = change_tensor(held.pop(name))
                held |= {} if changed is None else {name: changed}
                save_file(held, file, metadata={"format": "pt"})

    return mutate


def header(change_header):
    """A mutation of the header of the first shard, its bytes in and out."""

    def mutate(folder):
        file = folder / SHARDS[0]
        content = file.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        made = change_header(content[8 : 8 + size])
        file.write_bytes(struct.pack("<Q", len(made)) + made + content[8 + size :])

    return mutate


def pipe(name):
    def mutate(folder):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return mutate


def remove(*names):
    def mutate(folder):
        for name in names:
            (folder / name).unlink()

    return mutate


def pickles_only(folder):
    for name in (*SHARDS, "model.safetensors.index.json"):
        (folder / name).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder / "executed")))


class Bomb:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def remote_code(folder):
    """An auto_map for everything, and the code that it names."""
    code = f"from pathlib import Path\nPath({str(folder / 'executed')!r}).touch()\n"
    (folder / "code.py").write_text(code)
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")
    config(auto_map={name: f"code.{name}" for name in names})(folder)
    change("tokenizer_config.json", auto_map={"AutoTokenizer": ["code.A", "code.A"]})(folder)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)


def template(content):
    return text("chat_template.jinja", content)


BIAS, NORM = "model.layers.1.mlp.gate.expert_bias", "model.norm.weight"
EXPERT = "model.layers.1.mlp.experts.5.up_proj.weight"
RIGHT = {
    "as it is": lambda folder: None,
    "model_type of other code": config(model_type="bailing_moe_v2"),
    "no model_type, as the published class saves": config(model_type=""),
    "model_type null": config(model_type=None),
    "model_type left out": config(model_type=...),
    "remote code": remote_code,
    "NUL that is no name": text("generation_config.json", b'{"a": "\\u0000"}'),
    "unknown keys": config(surprise={"a": [1]}, _attn_implementation="nonsense", _private=1),
    "keys of transformers": config(
        id2label=3, return_dict=False, text_config=-1, decoder={}, temperature="hot", num_beams=-1
    ),
    "no template": remove("chat_template.jinja"),
    "no generation config": remove("generation_config.json"),
    "expert bias not stated": config(moe_router_enable_expert_bias=...),
    "double precision": tensor(NORM, torch.Tensor.double),
    "half precision": tensor(NORM, torch.Tensor.half),
    "bias in bfloat16": tensor(BIAS, torch.Tensor.bfloat16),
    "a file too many": text("notes.safetensors", b"no weights of this model"),
    "yarn": config(
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    ),
    "linear": config(rope_scaling={"type": "linear", "factor": 4.0}),
    "dynamic": config(rope_scaling={"rope_type": "dynamic", "factor": 4.0}),
    "another scale": config(routed_scaling_factor=1),
    "one key twice, alike": text(
        "generation_config.json", '{"eos_token_id": 1, "eos_token_id": 1}'
    ),
    "a link inside": lambda folder: (
        (folder / SHARDS[0]).rename(folder.parent / "blob"),
        (folder / SHARDS[0]).symlink_to("../blob"),  # as the hub's cache has them
    ),
}
Q = "quantization_config"
REFUSED = {
    # outside the folder
    "parent folder": (to_outside("../outside.safetensors"), "outside the folder"),
    "absolute path": (to_outside(None), "outside the folder"),
    "through a folder": (to_outside("x/../../outside.safetensors"), "outside the folder"),
    "backslashes": (to_outside("..\\outside.safetensors"), "outside the folder"),
    "drive": (to_outside("C:outside.safetensors"), "outside the folder"),
    "adapter of another model": (
        text("adapter_config.json", '{"base_model_name_or_path": "/elsewhere"}'), "Merge"),
    "weights of another name": (
        config(transformers_weights="x.safetensors"), "transformers_weights"),
    # the index
    "map of numbers": (remap(lambda m: dict.fromkeys(m, 1)), "must be a name"),
    "map of lists": (remap(lambda m: {n: [f] for n, f in m.items()}), "must be a name"),
    "map of null": (remap(lambda m: dict.fromkeys(m)), "must be a name"),
    "map is a list": (remap(list), "no weight_map"),
    "map is empty": (remap(lambda m: {}), "no weight_map"),
    "no map": (text("model.safetensors.index.json", "{}"), "no weight_map"),
    "index is a list": (text("model.safetensors.index.json", "[]"), "JSON object"),
    "map to nothing": (remap(lambda m: dict.fromkeys(m, "")), "no name of a safetensors"),
    "map to the folder": (remap(lambda m: dict.fromkeys(m, ".")), "no name of a safetensors"),
    "map to a pickle": (remap(lambda m: dict.fromkeys(m, "model.bin")), "no name of a safetensors"),
    "map with NUL": (
        remap(lambda m: dict.fromkeys(m, "a\0.safetensors")), "no name of a safetensors"),
    "map to a long name": (
        remap(lambda m: dict.fromkeys(m, "a" * 5000 + ".safetensors")), "no name of a safetensors"),
    "map to what is not there": (remap(lambda m: dict.fromkeys(m, "b.safetensors")), "Fetch it"),
    "map to the other shard": (
        remap(lambda m: {n: SHARDS[f == SHARDS[0]] for n, f in m.items()}), "says that it is"),
    "map names a tensor too many": (remap(lambda m: {**m, "x": SHARDS[0]}), "says that it is"),
    # weight files
    "missing shard": (remove(SHARDS[1]), "Fetch it again"),
    "no weights": (remove(*SHARDS, "model.safetensors.index.json"), "holds no weights"),
    "pickles only": (pickles_only, "run no code"),
    "shard is a pipe": (pipe(SHARDS[0]), "is no file but"),
    "shard is empty": (text(SHARDS[0], b""), "cut off"),
    "shard is short": (text(SHARDS[0], b"\x08\0\0\0"), "cut off"),
    "shard of zeros": (text(SHARDS[0], bytes(4096)), "not"),
    "huge header": (text(SHARDS[0], struct.pack("<Q", 2**62) + b"{"), "cut off"),
    "header over its limit": (
        lambda folder: os.truncate(folder / SHARDS[0], 2**28) or _header_size(folder, 2**27), "MB"),
    "header is no JSON": (header(lambda h: b"{" + h), "not JSON"),
    "header is a list": (header(lambda h: b"[" + h + b"]"), "a JSON object"),
    "header too deep": (header(lambda h: b"[" * 10**6), "deep"),
    "header names one twice": (header(lambda h: h.rstrip()[:-1] + b"," + h.strip()[1:]), "twice"),
    "header: overlapping": (header(lambda h: _moved(h, -4)), "readable"),
    "header: a gap": (header(lambda h: _moved(h, 4)), "readable"),
    "one name in two files": (
        lambda folder: (folder / "model.safetensors").unlink(missing_ok=True)
        or _doubled(folder), "two files"),
    # tensors
    "int32": (tensor(EXPERT, torch.Tensor.int), "dtype I32"),
    "bool": (tensor(EXPERT, torch.Tensor.bool), "dtype BOOL"),
    "int64": (tensor("lm_head.weight", torch.Tensor.long), "dtype I64"),
    "int8": (tensor(EXPERT, lambda t: t.to(torch.int8)), "dtype I8"),
    "uint8": (tensor(NORM, lambda t: t.to(torch.uint8)), "dtype U8"),
    "float8": (tensor(EXPERT, lambda t: t.to(torch.float8_e4m3fn)), "states no quantisation"),
    "complex": (tensor(NORM, lambda t: t.to(torch.complex64)), "dtype C64"),
    "bias of int32": (tensor(BIAS, torch.Tensor.int), "dtype I32"),
    "bias of another length": (tensor(BIAS, lambda t: t[:-1].clone()), "shape"),
    "missing": (tensor(EXPERT, lambda t: None), "lacks"),
    "flat": (tensor(EXPERT, lambda t: t.flatten()), "shape"),
    "transposed": (tensor(EXPERT, lambda t: t.T.contiguous()), "shape"),
    "no rows": (tensor(NORM, lambda t: t[:0].clone()), "shape"),
    # quantisation
    "unknown method": (config(**{Q: {"quant_method": "foo"}}), "'foo', which ringlens cannot load"),
    "awq": (config(**{Q: {"quant_method": "awq", "bits": 4}}), "'awq', which"),
    "gptq": (config(**{Q: {"quant_method": "gptq", "bits": 4}}), "quantization='nf4'"),
    "compressed-tensors": (
        config(**{Q: {"quant_method": "compressed-tensors"}}), "published in FP8"),
    "compression": (config(compression_config={"format": "x"}), "compressed-tensors"),
    "hqq": (config(**{Q: {"quant_method": "hqq"}}), "'hqq', which"),
    "no method": (config(**{Q: {}}), "None"),
    "a method of no text": (config(**{Q: {"quant_method": ["fp8"]}}), "fp8"),
    "quantisation of no object": (config(**{Q: "fp8"}), Q),
    "fp8 of blocks of nothing": (
        config(**{Q: {"quant_method": "fp8", "weight_block_size": [0, 128]}}), "weight_block_size"),
    "fp8 of one block": (
        config(**{Q: {"quant_method": "fp8", "weight_block_size": 128}}), "weight_block_size"),
    "fp8, static": (
        config(**{Q: {"quant_method": "fp8", "activation_scheme": "static"}}), "activation_scheme"),
    "bits of two kinds": (
        config(**{Q: {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": True}}),
        "load_in_4bit"),
    "bits of none": (config(**{Q: {"quant_method": "bitsandbytes"}}), "load_in_4bit"),
    # the configuration
    "no architecture, other type": (
        config(model_type="bailing_moe_v2", architectures=...), "bailing_moe_v2"),
    "older architecture, no type": (
        config(model_type="", architectures=["BailingMoeForCausalLM"]), "BailingMoeForCausalLM"),
    "another model": (config(model_type="llama", architectures=["LlamaForCausalLM"]), "llama"),
    "model_type a list": (config(model_type=["bailing_moe"]), "model"),
    "n_group null": (config(n_group=None), "n_group = None"),
    "a billion layers": (config(num_hidden_layers=10**9), "num_hidden_layers = 1000000000"),
    "a billion experts": (config(num_experts=10**9), "num_experts"),
    "layers and experts": (
        config(num_hidden_layers=9999, num_experts=2**15), "experts in all"),
    "a billion more layers": (config(num_nextn_predict_layers=10**9), "num_nextn_predict_layers"),
    "wide beyond measure": (config(hidden_size=2**20, vocab_size=2**24), "no tensor has more"),
    "fewer layers than it has": (config(num_hidden_layers=3), "lacks"),
    "layers as text": (config(num_hidden_layers="2"), "num_hidden_layers = '2'"),
    "half a layer": (config(num_hidden_layers=2.5), "num_hidden_layers = 2.5"),
    "yes layers": (config(num_hidden_layers=True), "num_hidden_layers = True"),
    "no layers": (config(num_hidden_layers=0), "num_hidden_layers = 0"),
    "negative heads": (config(num_attention_heads=-4), "num_attention_heads"),
    "mrope": (config(rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]}), "'mrope'"),
    "unknown rope": (config(rope_scaling={"rope_type": "spiral"}), "'spiral'"),
    "two ropes": (
        config(rope_scaling={"rope_type": "yarn", "type": "linear", "factor": 2}), "same"),
    "rope of no object": (config(rope_scaling="yarn"), "rope_scaling"),
    "yarn of no factor": (config(rope_scaling={"type": "yarn"}), "factor"),
    "yarn of a text": (config(rope_scaling={"type": "yarn", "factor": "4"}), "factor = '4'"),
    "yarn that shrinks": (config(rope_scaling={"type": "yarn", "factor": 0.0}), "factor"),
    "theta of nothing": (config(rope_theta=0), "rope_theta"),
    "theta below": (config(rope_theta=-1e4), "rope_theta"),
    "weights that are not normed": (config(norm_topk_prob=False), "norm_topk_prob"),
    "another norm": (config(use_rmsnorm=False), "use_rmsnorm"),
    "unknown activation": (config(hidden_act="os.system"), "hidden_act"),
    "unknown dtype": (config(dtype="int4"), "dtype"),
    "a kernel of the hub": (config(attn_implementation="someone/kernel"), "attn_implementation"),
    "no end": (config(eos_token_id=["a"]), "eos_token_id"),
    "an end of a truth": (config(eos_token_id=True), "eos_token_id"),
    "padding beyond": (config(pad_token_id=96), "pad_token_id"),
    # JSON
    **{
        f"{file}: {name}": (text(file, content), None)
        for file in ("config.json", "generation_config.json", "tokenizer_config.json",
                     "model.safetensors.index.json")
        for name, content in {
            "empty": b"", "cut": b'{"a": ', "null": b"null", "list": b"[1]", "text": b'"a"',
            "deep": b'{"a":' * 10**5, "deep list": b'{"a": ' + b"[" * 10**6,
            "NaN": b'{"a": NaN}', "infinity": b'{"a": -Infinity}', "beyond": b'{"a": 1e999}',
            "zeros": bytes(100), "latin": b'{"a": "\xe9"}',
            "UTF-16": '{"a": 1}'.encode("utf-16"), "BOM": b"\xef\xbb\xbf{}",
            "surrogate": b'{"a": "\\ud800"}', "twice": b'{"a": 1, "a": 2}',
            "digits": b'{"a": ' + b"9" * 10**5 + b"}", "trailing": b"{} {}",
            "comment": b'{} // "x"',
        }.items()
    },
    **{
        f"{file}: a pipe": (pipe(file), "is no file but")
        for file in ("config.json", "generation_config.json", "tokenizer_config.json",
                     "tokenizer.json", "model.safetensors.index.json", "chat_template.jinja",
                     "special_tokens_map.json", "added_tokens.json", "adapter_config.json")
    },
    "config.json: too large": (
        lambda folder: os.truncate(folder / "config.json", 2**33), "larger than"),
    "index: too large": (
        lambda folder: os.truncate(folder / "model.safetensors.index.json", 2**33), "larger than"),
    "generation config: no end": (
        text("generation_config.json", '{"eos_token_id": "</s>"}'), "eos_token_id"),
    # the tokenizer
    "no tokenizer": (remove("tokenizer.json"), "no tokenizer"),
    "tokenizer is empty": (text("tokenizer.json", b""), "tokenizer"),
    "tokenizer is an object": (text("tokenizer.json", b"{}"), "tokenizer"),
    "tokenizer too deep": (text("tokenizer.json", b"[" * 10**5), "tokenizer"),
    "tokenizer cut": (lambda folder: os.truncate(folder / "tokenizer.json", 500), "tokenizer"),
    "tokenizer too large": (lambda folder: os.truncate(folder / "tokenizer.json", 2**33), "MB"),
    "unknown model of the tokenizer": (change("tokenizer.json", model={"type": "X"}), "tokenizer"),
    "tokenizer of another model": (
        change("tokenizer.json", added_tokens=[
            {"id": 500, "content": "<x>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}]), "vocab_size"),
    "auto_map of a number": (change("tokenizer_config.json", auto_map=3), "tokenizer"),
    "special tokens of numbers": (change("tokenizer_config.json", eos_token=3), "tokenizer"),
    "template raises": (template("{{ raise_exception('no') }}"), r"\(TemplateError: no\)"),
    "template is cut": (template("{% for m in messages %}"), "TemplateSyntaxError"),
    "template misses a key": (template("{{ messages[0]['x']['y'] }}"), "UndefinedError"),
    "template for ever": (
        template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        "did not finish"),
    "template of ten gigabytes": (template("{{ 'a' * 10**10 }}"), "within 1024 MiB"),
    "template of as many spaces": (template("{{ 'a'|center(10**10) }}"), "within 1024 MiB"),
    "template that recurses": (
        template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), "RecursionError"),
    "template that looks around": (template("{{ ''.__class__.__mro__ }}"), "SecurityError"),
    "template too long": (template("a" * 2 * 10**6), "larger than"),
    "template of no text": (
        lambda folder: (folder / "chat_template.jinja").unlink()
        or change("tokenizer_config.json", chat_template=3)(folder), "no text"),
}  # fmt: skip


def _header_size(folder, size):
    with (folder / SHARDS[0]).open("r+b") as file:
        file.write(struct.pack("<Q", size))


def _moved(header_bytes, by):
    """A header whose last tensor stands elsewhere."""
    found = json.loads(header_bytes)
    last = max((n for n in found if n != "__metadata__"), key=lambda n: found[n]["data_offsets"])
    found[last]["data_offsets"] = [at + by for at in found[last]["data_offsets"]]
    return json.dumps(found).encode()


def _doubled(folder):
    """Both shards hold the final norm."""
    for shard in SHARDS:
        held = load_file(folder / shard) | {NORM: torch.ones(32)}
        save_file(held, folder / shard, metadata={"format": "pt"})


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_sound_loads_right(name, folder):
    RIGHT[name](folder)
    found = outcome(folder)
    assert found == "right"
    assert planned(folder) == "planned"
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_is_refused_in_a_sentence(name, folder, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "TEMPLATE_SECONDS", 1)
    mutate, said = REFUSED[name]
    mutate(folder)
    found = outcome(folder)
    assert isinstance(found, (CheckpointError, ConfigError, ModelNotFoundError)), found
    with pytest.raises(type(found), match=said):
        raise found
    of_config = planned(folder)
    if isinstance(of_config, RinglensError):  # a plan and loading say the same
        assert str(of_config) == str(found)
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    "name", ["parent folder", "int32", "awq", "bias of another length", "adapter of another model"]
)
def test_the_ordinary_snippet_passes_the_same_gate(name, folder):
    mutate, said = REFUSED[name]
    mutate(folder)
    with pytest.raises(RinglensError, match=said):
        AutoModelForCausalLM.from_pretrained(folder)


# --- random mutations ----------------------------------------------------------------------------

STRANGE = [
    None, True, False, 0, 1, -1, 2, 3, 7, 10**9, 10**30, -(2**63), 0.5, -0.5, 1e-300, 1e300, "",
    "2", "nan", "x" * 5000, "ü", "../x", [], [1], [None], {}, {"a": 1},
    {"type": "yarn", "factor": 2, "original_max_position_embeddings": 64},
    {"rope_type": "dynamic", "factor": 2.0}, {"type": None}, [[[]]], "float16", "silu", "sigmoid",
]  # fmt: skip
SPLICES = [
    b"", b"\0", b"\xff", b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"-1", b"1e999", b"NaN",
    b"99999999999999999999", b"\\ud800", b"\\u0000", b"\xef\xbb\xbf", b'"a": 1,', b"..", b"/",
]  # fmt: skip
FIELDS = sorted({*BASE, Q, "rope_parameters", "rotary_dim", "torch_dtype", "tokenizer_class",
                 "initializer_range", "bos_token_id", "attention_dropout", "use_cache",
                 "num_nextn_predict_layers", "experts_layout", "score_function", "auto_map",
                 "problem_type", "id2label", "is_decoder", "chunk_size_feed_forward",
                 "text_config", "transformers_version", "return_dict",
                 "output_attentions"})  # fmt: skip


def mutated_config(draw):
    made = copy.deepcopy(BASE)
    for _ in range(draw.randint(1, 2)):
        made[draw.choice(FIELDS)] = draw.choice(STRANGE)
    return made


@pytest.mark.parametrize("seed", range(150 * MANY))
def test_strange_values_in_the_configuration(seed, folder):
    """Two fields with any value: the plain implementation's logits for that very file, or no."""
    draw = random.Random(seed)
    (folder / "config.json").write_text(json.dumps(mutated_config(draw)))
    by_plan, found = planned(folder), outcome(folder)
    if isinstance(by_plan, RinglensError):
        assert isinstance(found, RinglensError)
        assert str(found) == str(by_plan)


@pytest.mark.parametrize("seed", range(100 * MANY))
def test_spliced_files(seed, folder):
    """Bytes put into any file that describes the model, or into the header of a shard."""
    draw = random.Random(seed)
    file = folder / draw.choice(
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
         "model.safetensors.index.json", "chat_template.jinja", *SHARDS]
    )  # fmt: skip
    content = file.read_bytes()
    end = len(content)
    if file.suffix == ".safetensors":
        end = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(min(end, len(content)))
        content = content[:at] + draw.choice(SPLICES) + content[at + draw.randint(0, 3) :]
    file.write_bytes(content)
    found = outcome(folder)
    assert found == "right" or isinstance(found, RinglensError)
    assert planned(folder) is not None
