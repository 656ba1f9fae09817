"""tokenizer.json decides; its digest; replays with another tokenizer are refused."""

import json
import shutil

import pytest
import tiny_lens
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import ringlens as rl
from ringlens.data import path
from ringlens.errors import CheckpointError, ConfigError, ModelNotFoundError, ObservationError
from ringlens.lens import Lens
from ringlens.model.tokenizer import load_tokenizer, tokenizer_digest
from ringlens.serving.records import imported_run
from ringlens.serving.served_model import ServedModel

TEXTS = ["Make 18 from 2, 9, 1.", "<think>\n</think> <|role_end|><role>HUMAN</role>", " a  b\n\n7"]


def backend(*words, **added):
    """A tokenizer of whole words."""
    found = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[0]))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.add_special_tokens(list(added))
    return found


def fast(tokenizer):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture
def folder(tmp_path):
    """A copy of ring-nano's files beside its weights."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        shutil.copy(path("ring-nano") / name, tmp_path)
    return tmp_path


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def changed(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tokenizer_class": "LlamaTokenizer"},
        {"tokenizer_class": "LlamaTokenizerFast", "legacy": False, "add_prefix_space": True},
        {"tokenizer_class": "Qwen2Tokenizer"},
        {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True},
        {"split_special_tokens": True},
        {"additional_special_tokens": ["Make", "18"]},
        {"added_tokens_decoder": {"1293": {"content": "18 ", "special": True}}},
        {"pad_token": "from", "model_max_length": 3},
    ],
    ids=str,
)
def test_the_ids_of_tokenizer_json_are_used(settings, folder):
    changed(folder / "tokenizer_config.json", **settings)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(str(folder))
    for text in TEXTS:
        wanted = own.encode(text, add_special_tokens=False).ids
        assert ids(tokenizer, text) == wanted
        assert tokenizer.backend_tokenizer.decode(wanted, skip_special_tokens=False) == own.decode(
            wanted, skip_special_tokens=False
        )
    assert tokenizer_digest(tokenizer) == tokenizer_digest(fast(own))


def test_truncation_and_padding_of_the_file_cut_nothing(folder):
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain = load_tokenizer(str(folder))
    own.enable_truncation(2)
    own.enable_padding(length=9)
    own.save(str(folder / "tokenizer.json"))
    changed(folder / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    cutting = load_tokenizer(str(folder))
    assert ids(cutting, TEXTS[0]) == ids(plain, TEXTS[0])
    assert tokenizer_digest(cutting) == tokenizer_digest(plain)


def test_a_digest_is_of_the_meaning_and_not_of_the_file(folder):
    file = folder / "tokenizer.json"
    mine = tokenizer_digest(load_tokenizer(str(folder)))
    found = json.loads(file.read_text())
    found["model"]["vocab"] = dict(reversed(found["model"]["vocab"].items()))
    file.write_text(json.dumps(dict(reversed(found.items())), indent=3))
    assert tokenizer_digest(load_tokenizer(str(folder))) == mine
    used = load_tokenizer(str(folder))
    used(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(used) == mine

    vocab, pre = found["model"]["vocab"], found["pre_tokenizer"]
    one, other = list(vocab)[5:7]
    swapped = {**vocab, one: vocab[other], other: vocab[one]}
    for name, values in {
        "vocab": {"model": {**found["model"], "vocab": swapped}},
        "added": {"added_tokens": found["added_tokens"][:-1]},
        "decoder": {"decoder": None},
        "normalizer": {"normalizer": {"type": "Lowercase"}},
        "pre": {"pre_tokenizer": {**pre, "pretokenizers": pre["pretokenizers"][1:]}},
    }.items():
        file.write_text(json.dumps(found | values))
        assert tokenizer_digest(load_tokenizer(str(folder))) != mine, name


def test_zeros_are_settings_and_slow_tokenizers_have_no_digest():
    one = Tokenizer(models.Unigram([("a", 0.0), ("b", -1.0)], unk_id=0))
    two = Tokenizer(models.Unigram([("a", 0.0), ("b", -1.0)]))
    assert tokenizer_digest(fast(one)) != tokenizer_digest(fast(two))
    metaspace = Tokenizer(models.Unigram([("a", 0.0), ("b", -1.0)]))
    metaspace.decoder = decoders.Metaspace()
    assert tokenizer_digest(fast(metaspace)) != tokenizer_digest(fast(two))
    with pytest.raises(ObservationError, match="not a fast tokenizer"):
        tokenizer_digest(object())


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": 5}', "\0", "[" * 10_000])
def test_a_broken_tokenizer_json_is_told(content, folder):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(str(folder))


def test_a_folder_without_a_tokenizer_is_told(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    with pytest.raises(ModelNotFoundError, match="no tokenizer"):
        ServedModel.read(folder)


def other_lens(lens):
    """The lens with a tokenizer that means other words by the same ids."""
    words = {f"u{i}.": i for i in range(384)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="u0."))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    other = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="u0.", eos_token="u1.")
    return Lens(lens.model, other, "ring-other")


@pytest.fixture(scope="module")
def lens():
    return tiny_lens.lens()


@pytest.fixture(scope="module")
def store(lens, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "s"
    return rl.capture(lens, ["t5. t6.", "t7."], folder, max_new_tokens=2, record=["routing"])


def test_a_run_names_its_tokenizer(lens, store):
    digest = tokenizer_digest(lens.tokenizer)
    assert store.sql("select tokenizer from runs").fetchall() == [(digest,)]
    model = ServedModel(lens.config, lens.tokenizer, "ring-tiny")
    run = imported_run(model, "vllm", routing=True, seed=0, sampling={}, fingerprint="x")
    assert run.tokenizer == digest


def test_a_replay_with_another_tokenizer_is_refused(lens, store, tmp_path):
    other = other_lens(lens)
    mine, theirs = (tokenizer_digest(each.tokenizer)[:12] for each in (lens, other))
    with pytest.raises(ConfigError, match=f"tokenizer {mine}, ring-other has {theirs}"):
        rl.replay(other, store, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    texts = [store.trace(trace_id).text for trace_id in (1, 2)]
    rl.replay(lens, store, tmp_path / "again", record=["routing"]).close()
    rl.replay(other, texts, tmp_path / "again", record=["routing"]).close()


def test_runs_that_name_no_tokenizer_are_compared_text_by_text(lens, store, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ringlens.observe.pipeline.run_record.tokenizer_digest", lambda tokenizer: None
    )
    old = rl.capture(lens, ["t5. t6."], tmp_path / "old", max_new_tokens=2, record=["routing"])
    assert old.sql("select tokenizer from runs").fetchall() == [(None,)]
    with pytest.raises(ConfigError, match=r"token 5 at position 0 of trace 1 is 't5\.'.*'u5\.'"):
        rl.replay(other_lens(lens), old, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    rl.replay(lens, old, tmp_path / "again", record=["routing"]).close()
