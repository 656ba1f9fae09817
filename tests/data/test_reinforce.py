"""Sampling in batches, rewards, and one round of reinforcement, with tiny models."""

import json
from itertools import islice

import numpy as np
import pytest
import torch

from ringlens.data import reinforce, score, tokenizer, train
from ringlens.data.forward import Forward
from ringlens.data.sampling import Sampler, Samples
from ringlens.data.tasks import mix

TOK = tokenizer.build()
END = TOK.token_to_id("<|role_end|>")
PAD = TOK.token_to_id("<|endoftext|>")


def tiny():
    torch.manual_seed(3)
    config = train.ring_nano(TOK).to_dict()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_experts": 8, "moe_intermediate_size": 16, "initializer_range": 0.2}
    config = train.BailingMoeV2Config(**{**config, **sizes, **heads, **experts})
    return train.BailingMoeV2ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(place)
    return place


def asked(n):
    return list(islice(reinforce.questions(TOK, seed=4), n))


def test_greedy_sampling_is_the_models_own(model):
    prompts = [question.ids for question in asked(3)]
    longest = max(map(len, prompts)) + 20
    sampler = Sampler(Forward(model, compiled=False), 4, longest, TOK.get_vocab_size(), 0.0)
    samples = sampler(prompts)
    again = sampler(prompts)
    assert samples.tokens_BT.tolist() == again.tokens_BT.tolist()
    for row, ids in enumerate(prompts):
        length = int(samples.lengths_B[row])
        tokens = samples.tokens_BT[row, :length]
        assert tokens[: len(ids)].tolist() == ids
        with torch.no_grad():
            logits = model(tokens[None]).logits[0, len(ids) - 1 : -1]
        logits[:, TOK.get_vocab_size() :] = -torch.inf
        logits[:, PAD] = -torch.inf
        assert logits.argmax(-1).tolist() == tokens[len(ids) :].tolist()
        logp = logits.log_softmax(-1).max(-1).values
        torch.testing.assert_close(samples.logp_BT[row, len(ids) : length], logp)
        assert length == longest or tokens[-1] == END


def test_sampling_follows_the_probabilities_and_its_seed(model):
    (question,) = asked(1)
    longest = len(question.ids) + 1
    sampler = Sampler(Forward(model, compiled=False), 500, longest, TOK.get_vocab_size(), 0.5)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(sampler([question.ids] * 500).tokens_BT[:, -1].tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    with torch.no_grad():
        logits = model(torch.tensor([question.ids])).logits[0, -1, : TOK.get_vocab_size()]
    logits[PAD] = -torch.inf
    likely = int(logits.argmax())
    share = (logits / 0.5).softmax(-1)[likely].item()
    found = np.mean([token == likely for token in drawn[0] + drawn[2]])
    assert abs(found - share) < 4 * (share * (1 - share) / 1000) ** 0.5 + 1e-3


def written(question, completion):
    return question.ids + TOK.encode(completion).ids


def samples_of(rows, prompts):
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    zeros = torch.zeros(tokens.shape)
    return Samples(tokens, torch.tensor(prompts), lengths, tokens[:, -1] == END, zeros)


def test_rewards_are_for_ended_thoughts_with_right_answers():
    question = next(q for q in asked(50) if q.kind.name == "products")
    right = question.kind.solution(question.fields)
    told = [
        (f"I think.\n</think>\n{right}<|role_end|>", 1),
        (f"I think.\n</think>\n{right}", 0),  # goes on
        (f"I think.\n{right}<|role_end|>", 0),  # its thought never ends
        ("I think.\n</think>\n7<|role_end|>", 0),
        ("I think.\n</think>\n<|role_end|>", 0),
        (f"</think>\n</think>\n{right}<|role_end|>", 0),
    ]
    rows = [written(question, completion) for completion, _ in told]
    samples = samples_of(rows, [len(question.ids)] * len(rows))
    found = reinforce.rewards(TOK, [question] * len(rows), samples)
    assert found.tolist() == [wanted for _, wanted in told]


def test_clipping_cuts_the_gradient_where_the_policy_went_far_enough():
    recipe = reinforce.Recipe(clip_low=0.2, clip_high=0.3)
    ratio = torch.tensor([1.0, 1.4, 0.7, 1.4, 0.7])
    advantage = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    logp = ratio.log().requires_grad_()
    loss, drift, clipped = reinforce.clipped_loss(logp, torch.zeros(5), advantage, recipe)
    loss.backward()
    kept = torch.tensor([1, 0, 1, 1, 0])
    torch.testing.assert_close(logp.grad, -ratio * advantage * kept)
    assert clipped == 4
    torch.testing.assert_close(drift, torch.tensor(1.4))


def test_learning_raises_the_probability_of_what_was_rewarded():
    model = tiny()
    recipe = reinforce.Recipe(problems=1, answers=2, updates=1, learning_rate=1e-3)
    (question,) = asked(1)
    rows = [written(question, " right"), written(question, " wrong")]
    samples = samples_of(rows, [len(question.ids)] * 2)
    weights = train.float_copies(model, 1e-3, 0.0)
    forward = Forward(model, compiled=False)

    def logp():
        batch, _ = reinforce.written(
            {
                "tokens": samples.tokens_BT.numpy(),
                "prompts": samples.prompts_B.numpy(),
                "lengths": samples.lengths_B.numpy(),
            },
            np.array([0, 1]),
        )
        with torch.no_grad():
            logits, _ = train.logits_of(forward, batch, "cpu")
        targets = torch.from_numpy(batch.targets_P)[:, None]
        return logits.log_softmax(-1).gather(1, targets)[:, 0]

    before = logp()
    samples.logp_BT[:, -1] = before / recipe.temperature
    told = reinforce.learn(forward, weights, recipe, samples, np.array([1.0, 0.0]), 1e-3)
    after = logp()
    assert told["split"] == 1
    assert after[0] > before[0]
    assert after[1] < before[1]
    same = reinforce.learn(forward, weights, recipe, samples, np.array([1.0, 1.0]), 1e-3)
    assert same["split"] == 0
    assert logp().tolist() == after.tolist()


def test_the_average_of_weights_is_their_mean():
    average = reinforce.Average()
    for value in (1.0, 2.0, 6.0):
        average.add([torch.full((2,), value)])
    live = [torch.nn.Parameter(torch.zeros(2))]
    average.give(live)
    torch.testing.assert_close(live[0].detach(), torch.full((2,), 3.0))


def test_reinforcing_runs_to_its_end_and_saves(folder, tmp_path):
    recipe = reinforce.Recipe(init=str(folder), steps=2, problems=2, answers=2, longest=110)
    model, log = reinforce.reinforce(recipe, "cpu")
    assert log[-1]["step"] == 2
    assert {"reward", "split", "tokens", *(kind.name for kind in mix.KINDS)} <= set(log[-1])
    train.save(tmp_path, model, recipe, log)
    told = json.loads((tmp_path / "training.json").read_text())
    assert told["recipe"]["temperature"] == recipe.temperature
    assert told["log"] == json.loads(json.dumps(log))


def test_scores_give_accuracy_and_its_standard_error(folder):
    found = score.scores(folder, n=2, batch=2, longest=100, device="cpu")
    assert list(found) == [kind.name for kind in mix.KINDS]
    for told in found.values():
        assert told == {"problems": 2, "accuracy": 0, "standard_error": 0, "unfinished": 2}
