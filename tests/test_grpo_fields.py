"""Every setting of TRL's GRPOConfig is honoured, refused by name or left to others, and `grpo_fields.py` says which."""

import ast
import dataclasses
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from datasets import Dataset
from grpo_fields import IDLE, LEFT, LIMITS, OURS, REFUSED, WORKS
from PIL import Image
from trl import GRPOConfig, GRPOTrainer

from videossr import grpo
from videossr.data import to_trl_dataset
from videossr.demo import demo_videos
from videossr.grpo import VideoGRPOConfig, VideoGRPOTrainer
from videossr.policy import Prompt, load_policy, tiny_policy
from videossr.rewards import videossr_reward
from videossr.tasks import make_sample, render

ROOT = Path(__file__).parent.parent
SIZE, LENGTH = 4, 6  # answers a prompt, and tokens of the longest


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    videos = demo_videos(2, folder=tmp_path_factory.mktemp("demo"), progress=False)
    return [make_sample("grounding", videos[index % 2], difficulty="demo", index=index) for index in range(6)]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return tiny_policy(0).save(tmp_path_factory.mktemp("start"))


@pytest.fixture
def made(start, samples, tmp_path):
    "A trainer on the tiny policy with some settings changed."

    def make(reward=None, model=None, dataset=None, options=None, **changes):
        settings = {"per_device_train_batch_size": SIZE, "num_generations": SIZE, "max_completion_length": LENGTH, "beta": 0.0, "disable_tqdm": True,
                    "max_steps": 1, "warmup_steps": 0}  # fmt: skip
        args = VideoGRPOConfig.demo(str(tmp_path / "run"), **{**settings, **changes})
        return VideoGRPOTrainer(model or str(start), reward or by_place, args, dataset or to_trl_dataset(samples), **(options or {}))

    return make


def by_place(completions, **_):
    "Rewards that differ within every group."
    return [index % SIZE / SIZE for index in range(len(completions))]


def rolled(trainer, n_prompts=1, seed=0):
    "A scored generation batch of the first prompts of the training set."
    size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
    torch.manual_seed(seed)
    return trainer._generate_and_score_completions([dict(row) for row in list(trainer.train_dataset)[:n_prompts] for _ in range(size)])


# What the table says of itself.


def test_every_setting_has_one_entry():
    "A release of TRL or transformers that brings a setting fails here until somebody has looked at it."
    names = {field.name for field in dataclasses.fields(GRPOConfig)}
    entries = [name for table in (WORKS, REFUSED, LEFT, IDLE) for name in table]
    assert len(entries) == len(set(entries)) and names - set(entries) == set() and set(entries) - names == set()


def test_this_kit_s_own_settings_have_one():
    assert {field.name for field in dataclasses.fields(VideoGRPOConfig)} - {field.name for field in dataclasses.fields(GRPOConfig)} == set(OURS)


@pytest.mark.parametrize("test", sorted({*WORKS.values(), *OURS.values()}))
def test_what_works_is_shown_by_a_test_that_runs(test):
    "The tests themselves are run with all others; here they must exist, and no mark may let them fail or leave them out."
    path, _, name = test.partition("::")
    functions = {node.name: node for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}
    assert name in functions, test
    marks = " ".join(ast.unparse(mark) for mark in functions[name].decorator_list)
    assert "mark.skip" not in marks and "mark.slow" not in marks and "mark.xfail" not in marks


def read_in(function) -> set[str]:
    "Settings that a method's source reads."
    return set(re.findall(r"\bargs\.(\w+)", inspect.getsource(function)))


def test_what_is_left_to_others_is_not_in_a_method_that_is_replaced():
    "Where a method of TRL is replaced and not called, whatever it read is ours to read."
    ours = inspect.getsource(grpo)
    for one in VideoGRPOTrainer.__mro__:
        for name, method in vars(one).items() if one.__module__ == grpo.__name__ else ():
            if not callable(method) or not hasattr(GRPOTrainer, name) or re.search(rf"super\(.*\)\.{name}\(", inspect.getsource(method)):
                continue
            # fp16 chooses the dtype of continuous batching, which is refused
            lost = {setting for setting in read_in(getattr(GRPOTrainer, name)) if setting in {*LEFT} - {"fp16"} and f"args.{setting}" not in ours}
            assert not lost, (name, lost)


@pytest.mark.parametrize("name", [*REFUSED])
def test_what_is_refused_is_named(made, name):
    changes, words = REFUSED[name]
    name = {"torch_compile_mode": "torch_compile"}.get(name, name)  # transformers turns the compiler on for its mode, and sets the rest
    with pytest.raises(ValueError, match=rf"(?s){name}.*{words}|{words}.*{name}"):
        made(**changes)


@pytest.mark.parametrize("name", [*LIMITS])
def test_values_that_mean_nothing_here_are_refused(made, name):
    changes, words = LIMITS[name]
    with pytest.raises(ValueError, match=words):
        made(**changes)


# The rollout.


def test_shapes_of_a_rollout(made):
    trainer = made(per_device_train_batch_size=2 * SIZE, num_generations_eval=2, max_completion_length=5, pad_to_multiple_of=8)
    plain = made(per_device_train_batch_size=2 * SIZE, max_completion_length=5)
    for one in (trainer, plain):
        one.model.train()
        one.current_gradient_accumulation_steps = 1
    batch = rolled(trainer, 2)
    assert len(batch["completion_ids"]) == 2 * SIZE and batch["completion_mask"].sum(1).max() <= 5
    assert batch["completion_ids"].shape[1] % 8 == 0 and batch["prompt_ids"].shape[1] % 8 == 0
    loss = trainer.compute_loss(trainer.model, {**batch, "advantages": torch.arange(8.0)})
    other = rolled(plain, 2)
    assert other["completion_ids"].shape[1] <= 5
    assert loss.item() == pytest.approx(plain.compute_loss(plain.model, {**other, "advantages": torch.arange(8.0)}).item(), abs=1e-5), "padding counts for nothing"
    trainer.model.eval()
    assert len(rolled(trainer, 2)["completion_ids"]) == 4


@pytest.mark.parametrize("name, changes, fresh", [
    ("a rollout a step", {}, [True, True, True, True]),
    ("steps_per_generation", {"steps_per_generation": 2}, [True, False, True, False]),
    ("generation_batch_size", {"generation_batch_size": 4 * SIZE}, [True, False, False, False]),
    ("num_iterations", {"num_iterations": 2}, [True, False, True, False]),
])  # fmt: skip
def test_one_rollout_serves_several_steps(made, monkeypatch, name, changes, fresh):
    trainer, found = made(max_steps=4, **changes), []
    own = trainer._generate_and_score_completions
    monkeypatch.setattr(trainer, "_generate_and_score_completions", lambda inputs: found.append(len(inputs)) or own(inputs))
    seen, loss = [], trainer.compute_loss
    monkeypatch.setattr(trainer, "compute_loss", lambda model, inputs, *rest, **more: seen.append((len(found), inputs)) or loss(model, inputs, *rest, **more))
    trainer.train()
    counts = [count for count, _ in seen]
    assert [now > before for now, before in zip(counts, [0, *counts], strict=False)] == fresh
    assert found == [SIZE * fresh.count(False) // fresh.count(True) + SIZE if name != "num_iterations" else SIZE] * fresh.count(True)
    assert all(("old_per_token_logps" in inputs) == (name != "a rollout a step") for _, inputs in seen), "later steps need the first's log-probabilities"


def test_rows_in_their_order(made, samples):
    orders = {}
    for shuffle in (True, False):
        sampler = made(per_device_train_batch_size=6 * SIZE, shuffle_dataset=shuffle)._get_train_sampler()
        orders[shuffle] = list(sampler)[:: SIZE][:6]
    assert orders[False] == list(range(6)) != orders[True] and sorted(orders[True]) == list(range(6))


def test_prompts_sampled_at_once_change_no_shape(made, monkeypatch):
    sizes, own = [], grpo.sample_answers
    monkeypatch.setattr(grpo, "sample_answers", lambda policy, batch, *rest, **more: sizes.append(len(batch["input_ids"])) or own(policy, batch, *rest, **more))
    trainer = made(per_device_train_batch_size=5 * SIZE, rollout_groups=2)
    trainer.model.train()
    assert len(rolled(trainer, 5)["completion_ids"]) == 5 * SIZE and sizes == [2, 2, 1]


def bent(policy, token, by):
    "A policy whose head likes a token more by so many nats."
    head = torch.nn.Linear(policy.model.lm_head.in_features, policy.model.lm_head.out_features)
    head.load_state_dict({"weight": policy.model.lm_head.weight.detach(), "bias": torch.zeros(head.out_features)})
    with torch.no_grad():
        head.bias[token] = by
    policy.model.lm_head = head
    return policy


def same_answers(batch) -> bool:
    "Whether the answers of the group are one."
    return bool((batch["completion_ids"] == batch["completion_ids"][:1]).all())


@pytest.mark.parametrize("name", ("top_k", "top_p", "min_p", "repetition_penalty"))
def test_sampling_settings_are_honoured(made, name):
    "Where only the likeliest token is left, all answers of a group are one; punished enough, no token comes twice."
    free = made()
    free.model.train()
    assert not same_answers(rolled(free))
    values = {"top_k": 1, "top_p": 1e-6, "min_p": 1.0, "repetition_penalty": 1e6}
    trainer = made(**{name: values[name]}, **({"top_k": 1} if name == "repetition_penalty" else {}))
    trainer.model.train()
    batch = rolled(trainer)
    assert same_answers(batch)
    if name == "repetition_penalty":
        answer = batch["completion_ids"][0][batch["completion_mask"][0] == 1].tolist()
        assert len(set(answer)) == len(answer) and not {*answer} & {*batch["prompt_ids"][0].tolist()}


def stopped(batch, tokenizer, text) -> bool:
    "Whether a text is nowhere but in the last token of an answer, and there at least once."
    answers = [row[mask == 1].tolist() for row, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)]
    return not any(text in tokenizer.decode(answer[:-1]) for answer in answers) and any(text in tokenizer.decode(answer) for answer in answers)


KEYS = {
    "max_new_tokens": ({"max_new_tokens": 2}, lambda batch, _: batch["completion_mask"].sum(1).max() == 2),
    "min_new_tokens": ({"min_new_tokens": LENGTH}, lambda batch, _: batch["completion_mask"].sum(1).min() == LENGTH),
    "suppress_tokens": ({"suppress_tokens": [*range(500)]}, lambda batch, trainer: batch["completion_ids"].min() >= min(500, trainer.processing_class.tokenizer.pad_token_id)),
    "top_k": ({"top_k": 1}, lambda batch, _: same_answers(batch)),
    "stop_strings": ({"stop_strings": ["e"]}, lambda batch, trainer: stopped(batch, trainer.processing_class.tokenizer, "e")),
    "do_sample": ({"do_sample": False}, lambda batch, _: same_answers(batch)),
}


@pytest.mark.parametrize("name", [f"generation_kwargs {key}" for key in KEYS])
def test_generation_kwargs_are_honoured_or_refused(made, start, name):
    changes, holds = KEYS[name.split()[-1]]
    policy = bent(load_policy(start, device="cpu"), 0, 0.0)
    try:
        trainer = made(model=policy, generation_kwargs=changes)
    except ValueError as error:
        assert re.search(f"generation_kwargs.*{[*changes][0]}", str(error), re.DOTALL)
        return
    with torch.no_grad():
        trainer.model.lm_head.bias[trainer.processing_class.tokenizer.eos_token_id] = 20.0 if "min_new_tokens" in changes else 0.0
    trainer.model.train()
    assert holds(rolled(trainer), trainer)


def test_chat_template_kwargs_reach_the_template(made, start):
    policy = load_policy(start, device="cpu")
    policy.processor.chat_template = "{% if loud %}LOUD{% endif %}" + policy.processor.chat_template
    trainer = made(model=policy, chat_template_kwargs={"loud": True})
    trainer.model.train()
    assert "LOUD" in policy.tokenizer.decode(rolled(trainer)["prompt_ids"][0])


def engine(prompts, answers, logprobs):
    "Somebody else's sampler of one group, with the log-probabilities that it claims."
    return lambda rows, trainer: {"prompt_ids": prompts, "completion_ids": answers, "logprobs": logprobs}


CORRECTIONS = {  # settings -> what the gradient of answers that were sampled e times less likely is multiplied by
    "rollout_func token_truncate": ({"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": 2.0}, 2.0),
    "rollout_func token_mask": ({"vllm_importance_sampling_mode": "token_mask", "vllm_importance_sampling_clip_max": 2.0}, 0.0),
    "rollout_func sequence_truncate": ({"vllm_importance_sampling_mode": "sequence_truncate", "vllm_importance_sampling_clip_max": 100.0}, np.exp(3)),
    "rollout_func clip_min": (
        {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": None, "vllm_importance_sampling_clip_min": 50.0}, 50.0),
    "rollout_func off": ({"vllm_importance_sampling_correction": False}, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", [*CORRECTIONS])
def test_an_engine_of_one_s_own(made, name):
    "Its answers are trained on; the gap to our log-probabilities is logged, and corrected as TRL does for vLLM."
    changes, expected = CORRECTIONS[name]
    answers = [[20 + index, 40, 50] for index in range(SIZE)]
    plain = made()
    plain.model.train()
    batch = rolled(plain)
    prompts = [row[mask == 1].tolist() for row, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)]

    def gradient(claimed, **changes):
        trainer = made(options={"rollout_func": engine(prompts, answers, claimed)}, **changes)
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        batch = rolled(trainer)
        assert batch["completion_ids"].tolist() == answers
        trainer.compute_loss(trainer.model, batch).backward()
        return trainer.model.lm_head.weight.grad, batch, trainer._metrics["train"]

    true = gradient([[0.0] * 3] * SIZE, num_iterations=2)[1]["old_per_token_logps"]
    usual = gradient(true.tolist(), vllm_importance_sampling_correction=False)[0]
    found, _, metrics = gradient((true - 1).tolist(), **changes)
    assert usual.norm() > 0 and torch.allclose(found, expected * usual, rtol=1e-3, atol=1e-4 * usual.abs().max().item())
    if expected != 1:
        assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx([1.0], abs=1e-4)
        assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx([expected], rel=1e-3)


def test_old_names_still_mean_the_same(tmp_path):
    assert VideoGRPOConfig.demo(str(tmp_path), vllm_importance_sampling_cap=5.0).vllm_importance_sampling_clip_max == 5.0


# The model.


def test_how_a_named_model_is_loaded(made, start):
    trainer = made(model_init_kwargs={"dtype": "bfloat16"})
    assert trainer.model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="model_init_kwargs"):
        made(model=load_policy(start, device="cpu"), model_init_kwargs={"dtype": "bfloat16"})


def test_dropout_is_turned_off(made):
    peft = pytest.importorskip("peft", reason="pip install peft")
    rates = {}
    for disable in (False, True):
        lora = peft.LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.5)
        model = made(disable_dropout=disable, options={"peft_config": lora}).model
        rates[disable] = {part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)}
    assert rates == {False: {0.5}, True: {0.0}}


def test_a_head_in_single_precision(made, start):
    "With weights of half the precision, the loss's log-probabilities are those of a float32 head."
    found = {}
    for cast in (False, True):
        policy = bent(load_policy(start, device="cpu", dtype=torch.bfloat16), 0, 0.0)
        policy.model.lm_head.bfloat16()
        policy.model.config.tie_word_embeddings = False  # `bent` gives it a head of its own
        trainer = made(model=policy, cast_lm_head_to_fp32=cast, num_iterations=2)
        trainer.model.train()
        found[cast] = rolled(trainer)["old_per_token_logps"][0, 0].item()
        logits = trainer.model(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=torch.ones(1, 3, dtype=torch.long)).logits
        assert logits.dtype == (torch.float32 if cast else torch.bfloat16)
    assert found[True] != found[False] and found[True] == pytest.approx(found[False], abs=0.1)


def test_a_tied_head_in_single_precision_is_refused(made, start):
    "TRL looks for the embeddings where a model of this kind does not have them."
    with pytest.raises(ValueError, match="cast_lm_head_to_fp32"):
        made(cast_lm_head_to_fp32=True)


def test_mixed_precision_is_that_of_both_passes(made, monkeypatch):
    "Rollout and loss run in bfloat16 with bf16=True, and in float32 without."
    for bf16 in (False, True):
        trainer, kinds = made(bf16=bf16), set()
        part = trainer.model.model.language_model.layers[0].mlp
        part.register_forward_hook(lambda module, inputs, output: kinds.add((module.training, output.dtype)))
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        trainer.compute_loss(trainer.model, rolled(trainer))
        assert kinds == {(training, torch.bfloat16 if bf16 else torch.float32) for training in (True, False)}


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_checkpointing_outlives_a_rollout(made, name, reentrant):
    "The way to checkpoint is the one that was asked for, also after a rollout, which runs without."
    trainer, found = made(**{"gradient_checkpointing": False, name: True, f"{name}_kwargs": {"use_reentrant": reentrant}}, max_steps=2), []
    own = trainer.compute_loss

    def looked(model, inputs, *rest, **more):
        layer = trainer.accelerator.unwrap_model(model).model.language_model.layers[0]
        checkpoint = getattr(layer, "_gradient_checkpointing_func", None) or getattr(layer, "_activation_checkpointing_func", None)
        found.append((getattr(layer, "gradient_checkpointing", False) or getattr(layer, "activation_checkpointing", False), checkpoint.keywords.get("use_reentrant")))
        return own(model, inputs, *rest, **more)

    trainer.compute_loss = looked
    trainer.train()
    assert found == [(True, reentrant)] * 2


# Loss and advantage.

LOSSES = {  # setting -> its value, and what it needs beside it
    "beta": ({"beta": 0.5}, {}),
    "epsilon": ({"epsilon": 0.05}, {}),
    "epsilon_high": ({"epsilon_high": 0.9}, {}),
    "delta": ({"delta": 1.25}, {}),
    "sapo_temperature_neg": ({"sapo_temperature_neg": 3.0}, {"loss_type": "sapo"}),
    "sapo_temperature_pos": ({"sapo_temperature_pos": 3.0}, {"loss_type": "sapo"}),
    "vespo_k_pos": ({"vespo_k_pos": 1.2}, {"loss_type": "vespo"}),
    "vespo_lambda_pos": ({"vespo_lambda_pos": 1.2}, {"loss_type": "vespo"}),
    "vespo_k_neg": ({"vespo_k_neg": 1.2}, {"loss_type": "vespo"}),
    "vespo_lambda_neg": ({"vespo_lambda_neg": 1.2}, {"loss_type": "vespo"}),
    "importance_sampling_level": ({"importance_sampling_level": "sequence"}, {}),
    **{f"loss_type {kind}": ({"loss_type": kind}, {}) for kind in ("bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")},
    "top_entropy_quantile": ({"top_entropy_quantile": 0.3}, {}),
    "entropy_coef": ({"entropy_coef": 0.5}, {}),
    "off_policy_mask_threshold": ({"off_policy_mask_threshold": 0.01}, {}),
    "use_bias_correction_kl": ({"use_bias_correction_kl": False}, {"beta": 0.5}),
}


@pytest.fixture(scope="module")
def rollout_of_stock(start, samples, tmp_path_factory, stock_trainer):
    "Rows for stock TRL, which sees frames as images; its batch, with answers of different lengths; and the prompt as ours takes it."
    policy = load_policy(start, device="cpu")
    images = [Image.fromarray(frame) for frame in render(samples[0])[0].frames[:6:3]]
    row = {**to_trl_dataset(samples)[0], "prompt": [{"role": "user", "content": "When?"}], "images": images}
    args = VideoGRPOConfig.demo(str(tmp_path_factory.mktemp("stock")), per_device_train_batch_size=SIZE, num_generations=SIZE, beta=0.0, max_completion_length=LENGTH)
    stock = stock_trainer(policy.model, videossr_reward, args, Dataset.from_list([row]), processing_class=policy.processor)
    stock.model.train()
    batch = stock._generate_and_score_completions([dict(row) for _ in range(SIZE)])
    generator = torch.Generator().manual_seed(0)
    batch["completion_ids"] = torch.randint(0, 200, (SIZE, LENGTH), generator=generator)
    batch["completion_mask"] = (torch.arange(LENGTH) < torch.tensor([[6], [4], [5], [2]])).long()
    batch["num_items_in_batch"] = batch["completion_mask"].sum()
    batch["advantages"] = torch.tensor([1.0, -0.5, 0.25, -0.75])
    noise = torch.randn(SIZE, LENGTH, generator=generator)
    logps = stock._get_per_token_logps_and_entropies(stock.model, **stock_inputs(batch))[0].detach()
    batch["old_per_token_logps"], batch["ref_per_token_logps"] = logps + noise, logps - noise
    encoded = Prompt(
        batch["prompt_ids"][0], batch["mm_token_type_ids"][0, : batch["prompt_ids"].shape[1]],
        pixel_values=batch["pixel_values"][: len(batch["pixel_values"]) // SIZE], image_grid_thw=batch["image_grid_thw"][: len(images)],
    )  # fmt: skip
    return row, batch, encoded


def stock_inputs(batch):
    "What stock TRL's forward takes of a batch."
    kind = torch.cat([batch["mm_token_type_ids"][:, : batch["prompt_ids"].shape[1]], torch.zeros_like(batch["completion_ids"])], 1)
    batch["mm_token_type_ids"] = kind
    return {"input_ids": torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1), "attention_mask": torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
            "logits_to_keep": LENGTH, "pixel_values": batch["pixel_values"], "image_grid_thw": batch["image_grid_thw"], "num_images": batch["num_images"],
            "mm_token_type_ids": kind}  # fmt: skip


@pytest.fixture(scope="module")
def stock_loss(start, rollout_of_stock, tmp_path_factory, stock_trainer):
    "Stock TRL's loss under some settings, computed once."
    row, batch, _ = rollout_of_stock
    folder, known = str(tmp_path_factory.mktemp("stock")), {}

    def loss(**changes):
        key = json.dumps(changes, sort_keys=True)
        if key not in known:
            policy = load_policy(start, device="cpu")
            args = VideoGRPOConfig.demo(folder, **{"per_device_train_batch_size": SIZE, "num_generations": SIZE, "beta": 0.0, "max_completion_length": LENGTH, **changes})
            trainer = stock_trainer(policy.model, videossr_reward, args, Dataset.from_list([row]), processing_class=policy.processor)
            trainer.model.train()
            trainer.current_gradient_accumulation_steps = 1
            known[key] = trainer.compute_loss(trainer.model, batch).item()
        return known[key]

    return loss


@pytest.mark.parametrize("name", [*LOSSES])
def test_the_loss_is_stock_trl_s(made, rollout_of_stock, stock_loss, name):
    "On the same rollouts; and the setting moves the loss, so that ignoring it would show."
    changes, needed = LOSSES[name]
    expected = stock_loss(**needed, **changes)
    assert abs(expected - stock_loss(**needed)) > 1e-4
    trainer = made(**{"beta": 0.0, **needed, **changes})
    trainer._banned[:] = False  # stock TRL leaves every token a chance
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    _, batch, encoded = rollout_of_stock
    inputs = {**batch, "group": torch.zeros(SIZE, dtype=torch.long), "encoded": [encoded], "silent": torch.zeros(SIZE, dtype=torch.bool)}
    assert trainer.compute_loss(trainer.model, inputs).item() == pytest.approx(expected, abs=2e-5)


FIRST, SECOND = [1.0, 0.0, 0.5, 0.0, 1.0, 1.0, 0.0, 1.0], [0.0, 0.25, 0.0, 1.0, 1.0, 0.0, 0.0, 0.5]  # of two groups


def first(completions, **_):
    return FIRST[: len(completions)]


def second(completions, **_):
    return SECOND[: len(completions)]


@pytest.mark.parametrize("name, changes", [
    ("group", {}), ("batch", {"scale_rewards": "batch"}), ("none", {"scale_rewards": "none"}), ("weights", {"reward_weights": [1.0, 3.0]}),
    ("normalize", {"multi_objective_aggregation": "normalize_then_sum", "reward_weights": [1.0, 3.0]}),
])  # fmt: skip
def test_advantages_by_hand(made, name, changes):
    trainer = made([first, second], per_device_train_batch_size=2 * SIZE, **changes)
    trainer.model.train()
    rewards = np.array([FIRST, SECOND])
    weights, groups = np.array(changes.get("reward_weights", [1.0, 1.0])), rewards.reshape(2, 2, SIZE)
    if name == "normalize":
        parts = (groups - groups.mean(2, keepdims=True)) / (groups.std(2, ddof=1, keepdims=True) + 1e-4)
        total = weights @ parts.reshape(2, -1)
        expected = (total - total.mean()) / (total.std(ddof=1) + 1e-4)
    else:
        total = (weights @ rewards).reshape(2, SIZE)
        scale = {"none": 1.0, "batch": total.std(ddof=1) + 1e-4}.get(name, total.std(1, ddof=1, keepdims=True) + 1e-4)
        expected = ((total - total.mean(1, keepdims=True)) / scale).flatten()
    assert np.allclose(rolled(trainer, 2)["advantages"].numpy(), expected, atol=1e-5)


def test_truncated_answers_leave_the_loss(made, start):
    "Nothing of an answer that was cut is trained on, be it some of a group or all; what is left counts as if alone."
    policy = load_policy(start, device="cpu")
    never = made(model=bent(policy, policy.tokenizer.eos_token_id, -100.0), mask_truncated_completions=True, per_device_train_batch_size=2 * SIZE)
    never.model.train()
    never.current_gradient_accumulation_steps = 1
    batch = rolled(never, 2)
    assert batch["completion_mask"].sum() == 0
    loss = never.compute_loss(never.model, batch)
    loss.backward()
    assert loss.item() == 0 and all(weight.grad is None or not weight.grad.any() for weight in never.model.parameters())


def test_the_entropy_bonus_follows_its_target(made):
    "Below the target the coefficient rises by its step to its most, above it falls to its least."
    for target, expected in ((100.0, [0.3, 0.5, 0.6]), (0.0, [0.0, -0.1, -0.1])):
        trainer, found = made(use_adaptive_entropy=True, entropy_coef=0.1, entropy_coef_delta=0.2, entropy_coef_max=0.6, entropy_coef_min=-0.1, entropy_target=target,
                              max_steps=3), []  # fmt: skip
        own = trainer.training_step
        trainer.training_step = lambda *rest, own=own, found=found, trainer=trainer, **more: (own(*rest, **more), found.append(trainer.entropy_coef))[0]
        trainer.train()
        assert found == pytest.approx(expected if target else [max(-0.1, 0.1 - 0.2 * step) for step in (1, 2, 3)])


def test_the_reference_follows(made):
    "With a mixture of 0.5 every second step: half of the way to the policy."
    trainer = made(beta=0.1, sync_ref_model=True, ref_model_mixup_alpha=0.5, ref_model_sync_steps=2, max_steps=2, learning_rate=1e-2)
    before = trainer.ref_model.lm_head.weight.detach().clone()
    trainer.train()
    after, policy = trainer.ref_model.lm_head.weight, trainer.model.lm_head.weight
    assert (policy - before).abs().max() > 1e-3 and torch.allclose(after, (before + policy) / 2, atol=1e-6)


# The run.


def test_parts_of_a_step_add_up(made):
    "Two halves of a step, accumulated, have the gradient of the whole."
    grads = []
    for size, steps in ((2 * SIZE, 1), (SIZE, 2)):
        trainer = made(per_device_train_batch_size=size, gradient_accumulation_steps=steps, shuffle_dataset=False, max_grad_norm=0.0)
        found = {}
        trainer.create_optimizer_and_scheduler(1)
        own = trainer.optimizer.step
        trainer.optimizer.step = lambda *rest, own=own, found=found, trainer=trainer, **more: (
            found.update({name: weight.grad.clone() for name, weight in trainer.model.named_parameters() if weight.grad is not None}), own(*rest, **more))[1]  # fmt: skip
        trainer.train()
        grads.append(found)
    assert grads[0].keys() == grads[1].keys() and grads[0]
    for name, grad in grads[0].items():
        assert (grads[1][name] - grad).norm() <= 1e-3 * grad.norm() + 1e-6, name


def test_an_evaluation_before_the_first_step(made, samples):
    held_out = to_trl_dataset(samples[:3])
    trainer = made(eval_strategy="steps", eval_steps=2, eval_on_start=True, max_steps=2, num_generations_eval=2, per_device_eval_batch_size=4, options={"eval_dataset": held_out})
    trainer.train()
    rows = [(row["step"], row["eval_reward"]) for row in trainer.state.log_history if "eval_reward" in row]
    assert [step for step, _ in rows] == [0, 2] and all(0 <= reward <= 1 for _, reward in rows)


def test_answers_are_written_down(made, tmp_path):
    made(log_completions=True, max_steps=2).train()
    files = sorted((tmp_path / "run" / "completions").glob("*.parquet"))
    rows = [pd.read_parquet(file) for file in files]
    assert len(rows) == 2 and all(len(table) == SIZE and {"prompt", "completion", "advantage"} <= set(table.columns) for table in rows)


def test_workers_change_nothing(made):
    weights = []
    for changes in ({}, {"dataloader_num_workers": 2}):
        trainer = made(max_steps=3, **changes)
        trainer.train()
        weights.append(trainer.model.lm_head.weight.detach().clone())
    assert torch.equal(*weights)


# What is no setting of a configuration.


def test_a_stock_configuration_works(start, samples, tmp_path):
    args = GRPOConfig(str(tmp_path), per_device_train_batch_size=SIZE, num_generations=SIZE, max_completion_length=LENGTH, use_cpu=True, bf16=False, max_steps=1,
                      report_to="none", disable_tqdm=True)  # fmt: skip
    trainer = VideoGRPOTrainer(str(start), by_place, args, to_trl_dataset(samples))
    trainer.train()
    assert trainer.state.global_step == 1


def test_rows_that_come_one_after_another_are_refused(made, samples):
    "Wherever they are given, before anything is sampled."
    rows = to_trl_dataset(samples)
    for changes in ({"dataset": rows.to_iterable_dataset()}, {"options": {"eval_dataset": rows.to_iterable_dataset()}},
                    {"options": {"eval_dataset": {"one": rows.to_iterable_dataset()}}}):  # fmt: skip
        with pytest.raises(ValueError, match="rows can be had by number"):
            made(per_device_eval_batch_size=SIZE, **changes)
    with pytest.raises(ValueError, match="rows can be had by number"):
        made(per_device_eval_batch_size=SIZE).evaluate(rows.to_iterable_dataset())


def test_pictures_beside_a_sample_are_refused(made, samples):
    "The policy sees the sample's video: pictures of a row's own would be shown to nobody."
    rows = to_trl_dataset(samples)
    with pytest.raises(ValueError, match="image"):
        made(dataset=rows.add_column("images", [[]] * len(rows)))


def test_quantisation_reaches_the_model_or_is_refused(made, start, monkeypatch):
    wanted, given = object(), {}

    def loaded(*_, **kwargs):
        given.update(kwargs)
        raise OSError("far enough")

    with pytest.raises(ValueError, match="quantization_config"):
        made(model=load_policy(start, device="cpu"), options={"quantization_config": wanted})
    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", loaded)
    with pytest.raises(OSError, match="far enough"):
        made(options={"quantization_config": wanted})
    assert given.get("quantization_config") is wanted


def a_tool(a: int) -> int:
    """
    Gives back its argument.

    Args:
        a: A number.

    Returns:
        The same.
    """
    return a


class Surroundings:
    "An environment of TRL's kind."

    def reset(self, **_) -> None: ...


def prompt_tuning():
    peft = pytest.importorskip("peft", reason="pip install peft")
    return peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)


@pytest.mark.parametrize("name, value", [
    (name, value)
    for name, value in (("tools", lambda: [a_tool]), ("environment_factory", lambda: Surroundings), ("peft_config", prompt_tuning))
])  # fmt: skip
def test_arguments_that_are_refused_by_name(made, name, value):
    with pytest.raises(ValueError, match=name):
        made(options={name: value()})
