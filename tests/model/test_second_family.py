"""A second family by one folder and one row: loaded, observed, stored, checked, planned, shown.

Nothing of ringlens is changed for it; `softmax_family` and the row below are all that there is.
"""

import json
from dataclasses import replace

import pytest
import tiny_lens
import torch
from click.testing import CliRunner
from transformers import GenerationConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM

import ringlens as rl
from ringlens.cli.main import main
from ringlens.errors import CheckpointError, ConfigError, ObservationError
from ringlens.model.family import FAMILIES, Row
from ringlens.model.fit.placement import devices
from ringlens.model.fit.plan import plan
from ringlens.model.fit.scenario import scenario
from ringlens.model.loading import read_config

ROW = Row(home="softmax_family", model_type="qwen3_moe", architectures=("Qwen3MoeForCausalLM",))
LAYERS, SPARSE, E, K = 4, (0, 2, 3), 6, 2  # a dense layer in the midst of sparse ones


@pytest.fixture(scope="module", autouse=True)
def row():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "Qwen3-MoE", ROW)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen") / "tiny"
    config = Qwen3MoeConfig(
        vocab_size=384, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, moe_intermediate_size=16,
        num_experts=E, num_experts_per_tok=K, norm_topk_prob=True, mlp_only_layers=[1],
        max_position_embeddings=256, initializer_range=0.4, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(5)
    model = Qwen3MoeForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    model.save_pretrained(folder)
    tiny_lens.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lens(folder):
    return rl.load(folder)


@pytest.fixture(scope="module")
def stored(lens, tmp_path_factory):
    """A store with a capture of two prompts, and a replay of what it wrote."""
    path = tmp_path_factory.mktemp("stores") / "store"
    prompts = [tiny_lens.prompt(5, 6, 7), tiny_lens.prompt(8, 9)]
    captured = rl.capture(lens, prompts, path, max_new_tokens=70, seed=3)
    with rl.replay(lens, captured, path) as store:
        yield store


def routers(lens, token_ids):
    """Logits, weights and ids of each router over a text, by hooks that are none of ringlens'."""
    seen = {}

    def keep(layer):
        return lambda module, args, output: seen.update({layer: output})

    layers = lens.model.model.layers
    handles = [layers[i].mlp.gate.register_forward_hook(keep(i)) for i in SPARSE]
    with torch.inference_mode():
        logits = lens.model(torch.tensor([token_ids]), use_cache=False).logits
    for handle in handles:
        handle.remove()
    return seen, logits


def test_interventions_follow_the_rule_of_the_family(lens):
    ids = [5, 6, 7, 8, 9, 30, 31]
    with lens.intervene(rl.Ablate(2, 1), rl.Scale(3, 0, 0.5)) as effect:
        seen, _ = routers(lens, ids)
    shares = seen[2][0].softmax(dim=-1)
    left = shares.clone()
    left[:, 1] = 0
    weights, chosen = left.topk(K)
    assert torch.equal(seen[2][2], chosen)
    torch.testing.assert_close(seen[2][1], weights / weights.sum(dim=-1, keepdim=True))
    weights, chosen = seen[3][0].softmax(dim=-1).topk(K)
    halved = torch.where(chosen == 0, 0.5, 1.0)
    torch.testing.assert_close(seen[3][1], halved * weights / weights.sum(dim=-1, keepdim=True))
    assert all(change.changed for change in effect.changes)


def test_it_is_loaded_as_transformers_own_class(lens, folder):
    assert type(lens.model) is Qwen3MoeForCausalLM
    assert lens.sizes.layers, lens.sizes.sparse_layers == (LAYERS, SPARSE)
    assert (lens.router.score, lens.router.bias, lens.router.group_score) == (
        "softmax", "none", "none",
    )  # fmt: skip
    twin = Qwen3MoeForCausalLM.from_pretrained(folder)
    for name, tensor in twin.state_dict().items():
        assert torch.equal(lens.model.state_dict()[name], tensor), name
    with pytest.raises(ConfigError, match="this family have their experts as 'fused' only"):
        rl.load(folder, experts="modules")


def test_its_checkpoints_are_checked(folder, tmp_path):
    values = json.loads((folder / "config.json").read_text())
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(values | {"num_local_experts": E + 1}))
    with pytest.raises(CheckpointError, match=r"lacks .*experts\.6"):
        rl.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values | {"hidden_size": "wide"}))
    with pytest.raises(ConfigError, match="hidden_size = 'wide'"):
        rl.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ConfigError, match=r"'llama' model.*Ring models.*Qwen3-MoE models"):
        rl.load(tmp_path)


@pytest.mark.parametrize("mode", ["live", "replay"])
def test_choices_are_the_models_own_and_affinities_its_softmax(lens, stored, mode):
    (trace_id,) = stored.sql(
        f"select min(trace_id) from traces join runs using (run_id) where mode = '{mode}'"
    ).fetchall()[0]
    trace = stored.trace(trace_id)
    seen, _ = routers(lens, trace.tokens()["token_id"].tolist())
    for layer, (z_TE, weights_Tk, ids_Tk) in seen.items():
        routing = trace.routing(layer)
        ids = torch.from_numpy(routing["expert_ids"].astype("int64"))
        softmax_TE = z_TE.softmax(dim=-1)
        assert torch.equal(ids, ids_Tk)
        close = {"rtol": 1e-4, "atol": 1e-5}
        affinities = torch.tensor(routing["affinities"])
        torch.testing.assert_close(affinities, softmax_TE.gather(1, ids), **close)
        weights = torch.tensor(routing["weights"])
        torch.testing.assert_close(weights, weights_Tk, rtol=1e-3, atol=1e-4)
        best = softmax_TE.sort(dim=-1, descending=True).values
        margin = torch.tensor(routing["margin"])
        torch.testing.assert_close(margin, best[:, K - 1] - best[:, K], **close)
        entropy = torch.tensor(routing["entropy"])
        torch.testing.assert_close(entropy, torch.special.entr(softmax_TE).sum(-1), **close)


def test_what_the_rule_lacks_is_not_made_up(stored):
    said = stored.sql("select distinct router, groups, groups_kept from runs").fetchall()
    assert said == [(json.dumps(
        {"bias": "none", "group_score": "none", "renormalised": True, "score": "softmax",
         "shared_experts": 0}), 1, 1)]  # fmt: skip
    flips = "sum(len(bias_flips)), sum(len(group_flips)), min(group_margin)"
    assert stored.sql(f"select {flips} from routing").fetchall()[0] == (0, 0, float("inf"))
    assert stored.sql("select count(*), count(bias) from experts").fetchall()[0] == (2 * 3 * E, 0)
    layers = stored.sql("select distinct layer from routing order by 1").fetchall()
    assert layers == [(layer,) for layer in SPARSE]


def test_the_store_agrees_with_itself(stored):
    found = CliRunner().invoke(main, ["check", str(stored.address)])
    assert found.exit_code == 0, found.output
    assert stored.sql("select count(*) from router_logits").fetchall()[0][0] > 100
    assert stored.sql("select count(*) from heads").fetchall()[0][0] > 100


def test_another_choice_than_the_rules_is_refused(lens, tmp_path):
    def swap(module, args, output):
        logits, weights, ids = output
        return logits, weights, ids.flip(0)

    handle = lens.model.model.layers[2].mlp.gate.register_forward_hook(swap)
    try:
        with pytest.raises(ObservationError, match="does not follow from its logits"):
            rl.replay(lens, [tiny_lens.prompt(*range(5, 40))], tmp_path / "store")
    finally:
        handle.remove()


@pytest.mark.parametrize(
    "wrong",
    [{"score": "sigmoid"}, {"renormalised": False}, {"routed_scaling_factor": 2.5},
     {"score": "sqrt_softplus"}],
)  # fmt: skip
def test_a_rule_that_is_not_the_routers_is_refused(folder, tmp_path, monkeypatch, wrong):
    """Even where it ranks experts alike, so that every choice follows from it."""
    family = ROW.open()
    true = family.sizes

    def sizes(config):
        found = true(config)
        return replace(found, router=replace(found.router, **wrong))

    monkeypatch.setattr(family, "sizes", sizes)
    with pytest.raises(ObservationError, match="do not choose as its family says"):
        rl.replay(rl.load(folder), [tiny_lens.prompt(5, 6)], tmp_path / "store")


def test_points_by_every_name(lens):
    text = tiny_lens.prompt(5, 6, 7, 8)
    names = ["blocks.2.mlp.gate.hook_out", "model.layers.3.self_attn", ("head_out", 1), "embed"]
    logits, cache = lens.run_with_cache(text, names)
    seen, plain = routers(lens, lens.encode(text))
    assert torch.equal(cache["router_logits", 2][0], seen[2][0])
    assert cache["attn_out", 3].shape == (1, 4, 32)
    assert cache["head_out", 1].shape == (1, 4, 4, 8)
    torch.testing.assert_close(logits, plain)
    with pytest.raises(ObservationError, match=r"layers 0, 2-3"):
        lens.run_with_cache(text, ("router_logits", 1))
    with pytest.raises(ObservationError, match=r"model\.layers\.3\.mlp\.gate"):
        lens.run_with_cache(text, "word_embeddings")


def test_attention_is_that_of_transformers_own_class(lens, folder):
    eager = Qwen3MoeForCausalLM.from_pretrained(folder, attn_implementation="eager")
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        wanted = eager(ids, output_attentions=True).attentions
    for layer in range(LAYERS):
        found = torch.from_numpy(lens.attention(ids, layer).weights)
        torch.testing.assert_close(found, wanted[layer][0], atol=2e-6, rtol=0)
        torch.testing.assert_close(found.sum(-1), torch.ones(4, 40))


def test_changed_router_logits_are_routed_anew(lens):
    text = tiny_lens.prompt(5, 6, 7, 8)

    def only_the_first(logits, hook):
        logits[..., 0] = 50.0

    chosen = []
    lens.run_with_hooks(
        text, [(("router_logits", 2), only_the_first), (("router_choice", 2), keep(chosen))]
    )
    assert (chosen[0][..., 0] == 0).all()


def keep(seen):
    def look(activation, hook):
        seen.append(activation.clone())

    return look


def test_nnsight_traces_it(lens):
    text = tiny_lens.prompt(5, 6, 7, 8)
    with lens.trace(text):
        logits = lens.points.router_logits[2].save()
        resid = lens.points.resid_post[3].save()
    _, cache = lens.run_with_cache(text, ["router_logits", "resid_post"])
    assert torch.equal(logits, cache["router_logits", 2])
    assert torch.equal(resid, cache["resid_post", 3])


def test_it_is_planned_for(lens, folder):
    found = plan(scenario(read_config(str(folder)), dtype="float32"), devices("2x80GB"))
    assert found.scenario.size.total == lens.model.num_parameters()
    assert found.scenario.size.parameters["experts"] == len(SPARSE) * E * 3 * 32 * 16
    held = sum(p.numel() * 4 for p in lens.model.parameters())
    held += sum(b.numel() * b.element_size() for b in lens.model.buffers())
    assert found.scenario.size.bytes == held
    assert set(found.strategies[0].device_map) == {
        "model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head",
        *(f"model.layers.{i}" for i in range(LAYERS)),
    }  # fmt: skip
    printed = CliRunner().invoke(main, ["plan", str(folder), "--gpus", "1x80GB"])
    assert printed.exit_code == 0, printed.output
    assert "4 layers" in printed.output


def test_the_dashboard_shows_it(stored):
    from ringlens.app import make_app

    app = make_app(stored.address)
    try:
        client = app.server.test_client()
        host = {"Host": "127.0.0.1:8050"}
        for address in ("/", "/routing", "/trace/1"):
            assert client.get(address, headers=host).status_code == 200
        for name in ("tokens", "margin", "layer/2", "experts", "routing/0", "statistics/heads/0"):
            answer = client.get(f"/data/trace/1/{name}", headers=host)
            assert answer.status_code == 200, name
            json.loads(answer.text, parse_constant=pytest.fail)
    finally:
        app.server.extensions["ringlens.sources"].close()


def test_outputs_of_its_experts_are_recorded(lens, tmp_path):
    """Its modules of experts know nothing of ringlens: they are mixed outside."""
    store = rl.capture(
        lens, [tiny_lens.prompt(5, 6, 7)], tmp_path, max_new_tokens=8,
        record=("routing", "expert_outputs"),
    )  # fmt: skip
    trace, layer = store.trace(1), lens.model.model.layers[2]
    found, seen = trace.statistics("expert_outputs", 2), []
    handle = layer.mlp.experts.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.inference_mode():
        lens.model(torch.tensor([trace.tokens()["token_id"].tolist()]))
    handle.remove()
    layer.requires_grad_(False)
    for pos, ids in enumerate(found["expert_ids"].tolist()):
        for slot, expert in enumerate(ids):
            gate, up = (layer.mlp.experts.gate_up_proj[expert] @ seen[0][pos]).chunk(2)
            output = layer.mlp.experts.down_proj[expert] @ (torch.nn.functional.silu(gate) * up)
            assert found["norms"][pos, slot] == pytest.approx(float(output.norm()), rel=1e-3)
            assert found["peaks"][pos, slot] == pytest.approx(float(output.abs().max()), rel=1e-3)
