"""The trainer: what it relies on in TRL, and that every way of running it gives the same numbers."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import PrinterCallback, ProgressCallback
from trl import GRPOTrainer

from videossr.data import to_trl_dataset
from videossr.demo import demo_videos
from videossr.grpo import (
    VideoGRPOConfig,
    VideoGRPOTrainer,
    group_logps,
    last_checkpoint,
    plain_logps,
    replace_groups,
    split_groups,
    warm_start,
)
from videossr.policy import (
    Prompt,
    collate,
    encode,
    encode_sample,
    end_ids,
    load_policy,
    never_sampled,
    sample_tokens,
    tiny_policy,
)
from videossr.rewards import videossr_reward
from videossr.tasks import make_sample, render
from videossr._versions import declared
from videossr.video import Clip

POLICY = tiny_policy(1)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    videos = demo_videos(2, folder=tmp_path_factory.mktemp("demo"), progress=False)
    tasks = ("grounding", "jigsaw", "counting")
    return [make_sample(task, video, difficulty="demo", index=index) for index, video in enumerate(videos) for task in tasks]


@pytest.fixture(scope="module")
def start(tmp_path_factory, samples):
    policy = tiny_policy(0)
    warm_start(policy, samples, [encode_sample(policy, sample) for sample in samples], steps=15, n_answers=8, progress=False)
    return policy.save(tmp_path_factory.mktemp("start"))


def groups_of(policy, n_clips=(1, 6, 2), n_answers=3, length=4):
    "Prompts of different lengths, one with six clips, and answers some of which end early."
    rng = np.random.default_rng(0)
    prompts = []
    for count in n_clips:
        clips = [Clip(rng.integers(0, 256, (4, 32, 64, 3), dtype=np.uint8), np.arange(4) * 0.5) for _ in range(count)]
        prompts.append(encode(policy, clips, "In which order?" if count > 1 else "When?"))
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(0, 200, (len(prompts), n_answers, length), generator=generator)
    ends = torch.randint(1, length + 1, (len(prompts), n_answers, 1), generator=generator)
    return collate(prompts, policy.tokenizer.pad_token_id), answers, (torch.arange(length) < ends).long()


def test_trl_s_loss_still_asks_for_log_probabilities_where_ours_are():
    assert "self._get_per_token_logps_and_entropies(" in inspect.getsource(GRPOTrainer._compute_loss)


OTHER_RELEASES = """
import trl.trainer.utils
from trl import GRPOTrainer

def without(owner, name, instead=None):
    "What importing says when a release of TRL lacks a name, or has another thing under it."
    kept = getattr(owner, name)
    delattr(owner, name) if instead is None else setattr(owner, name, instead)
    try:
        import videossr.grpo
    except ImportError as error:
        return str(error)
    finally:
        setattr(owner, name, kept)

print(without(GRPOTrainer, "_compute_loss"))
print(without(GRPOTrainer, "_tokenize_prompts", lambda self: None))
print(without(trl.trainer.utils, "RepeatSampler"))
"""


def test_a_release_of_trl_without_it_is_named_at_once():
    paths = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, "-c", OTHER_RELEASES], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": paths})
    lines, advice = done.stdout.splitlines(), f"pip install 'trl{declared('trl').specifier}'"
    assert len(lines) == 3 and all(line.startswith("trl ") and line.endswith(advice) for line in lines), lines
    assert "no GRPOTrainer._compute_loss" in lines[0] and "no parameter prompts in GRPOTrainer._tokenize_prompts" in lines[1] and "RepeatSampler" in lines[2]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_equals_plain(checkpointing, dtype):
    policy = tiny_policy(1)
    if checkpointing:
        policy.model.gradient_checkpointing_enable()
        policy.model.train()
    batch, answers, mask = groups_of(policy)
    banned = never_sampled(policy)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        packed, plain = (logps(policy.model, batch, answers, mask, banned)[0] for logps in (group_logps, plain_logps))
    limit = 1e-5 if dtype == torch.float32 else 0.1
    assert (packed - plain).abs().max() < limit
    assert packed[mask == 0].abs().max() == 0 and packed[mask == 1].max() < 0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_any_shape_gives_the_log_probabilities_and_gradients_of_the_plain_way(data):
    "Random prompts, numbers of clips, groups, lengths, early ends and empty answers; single precision."
    policy = POLICY
    size, group, length = (data.draw(st.integers(1, most), label=name) for name, most in (("prompts", 3), ("answers", 6), ("tokens", 9)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
    prompts = []
    for _ in range(size):
        frames, n_clips = 2 * int(rng.integers(1, 4)), int(rng.integers(1, 7))
        clips = [Clip(rng.integers(0, 256, (frames, 32, 64, 3), dtype=np.uint8), np.arange(frames) * 0.5) for _ in range(n_clips)]
        prompts.append(encode(policy, clips, "In which order must they be played?"[: int(rng.integers(1, 36))]))
    batch = collate(prompts, policy.tokenizer.pad_token_id)
    answers = torch.from_numpy(rng.integers(0, 200, (size, group, length)))
    mask = torch.arange(length) < torch.from_numpy(rng.integers(0, length + 1, (size, group, 1)))
    weights, found = torch.from_numpy(rng.normal(size=answers.shape)).float(), []
    for logps in (group_logps, plain_logps):
        policy.model.zero_grad()
        values = logps(policy.model, batch, answers, mask, never_sampled(policy))[0]
        (values * weights).sum().backward()
        found.append((values.detach(), {name: weight.grad.clone() for name, weight in policy.model.named_parameters() if weight.grad is not None}))
    assert (found[0][0] - found[1][0]).abs().max() < 2e-5
    assert found[0][1].keys() == found[1][1].keys()
    largest = max(grad.norm() for grad in found[1][1].values())
    for name, grad in found[1][1].items():
        assert (found[0][1][name] - grad).norm() <= 1e-4 * grad.norm() + 1e-6 * largest, name


def test_packed_gradients_equal_plain():
    policy = tiny_policy(1)
    batch, answers, mask = groups_of(policy)
    grads = []
    for logps in (group_logps, plain_logps):
        policy.model.zero_grad()
        values = logps(policy.model, batch, answers, mask, never_sampled(policy))[0]
        (values * torch.linspace(-1, 1, values.numel()).view(values.shape)).sum().backward()
        grads.append({name: weight.grad.clone() for name, weight in policy.model.named_parameters() if weight.grad is not None})
    assert grads[0].keys() == grads[1].keys() and any("visual" in name for name in grads[0])
    for name, grad in grads[1].items():
        assert (grads[0][name] - grad).norm() <= 1e-4 * grad.norm() + 1e-7, name


def test_lora_policy_packs_too():
    peft = pytest.importorskip("peft", reason="pip install peft")
    policy = tiny_policy(1)
    batch, answers, mask = groups_of(policy)
    adapted = peft.get_peft_model(policy.model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    banned = never_sampled(policy)
    packed, plain = (logps(adapted, batch, answers, mask, banned)[0] for logps in (group_logps, plain_logps))
    assert (packed - plain).abs().max() < 1e-5


def test_a_policy_in_love_with_placeholders_never_writes_one():
    policy = tiny_policy(0)
    names = ["<|video_pad|>", "<|image_pad|>", "<|vision_start|>", "<|im_start|>", "<|endoftext|>"]
    wanted = policy.tokenizer.convert_tokens_to_ids(names)
    head = torch.nn.Linear(policy.model.lm_head.in_features, policy.model.lm_head.out_features)
    head.load_state_dict({"weight": policy.model.lm_head.weight.detach(), "bias": torch.zeros(head.out_features)})
    with torch.no_grad():
        head.bias[wanted] = 50.0
    policy.model.lm_head = head
    batch, _, _ = groups_of(policy)
    ends = torch.tensor(end_ids(policy))
    for temperature in (0.0, 1.0):
        tokens = sample_tokens(policy, batch, 8, temperature=temperature, max_new_tokens=6)
        ended = torch.isin(tokens, ends).int().cumsum(1) - torch.isin(tokens, ends).int()
        assert not torch.isin(tokens[ended == 0], torch.tensor(wanted)).any()


def test_rollout_and_loss_agree_on_the_probabilities(start):
    "What was sampled has, in the loss, the probability that it was sampled with: shares of 2,000 first tokens."
    policy = load_policy(start, device="cpu")
    batch, _, _ = groups_of(policy, n_clips=(2,))
    torch.manual_seed(0)
    tokens = sample_tokens(policy, batch, 2000, temperature=0.7, max_new_tokens=1)[:, 0]
    kinds = tokens.unique()
    logps, entropy = group_logps(policy.model, batch, kinds[None, :, None], torch.ones(1, len(kinds), 1), never_sampled(policy), 0.7)
    chance = logps[0, :, 0].exp()
    share = torch.bincount(tokens)[kinds] / len(tokens)
    assert ((share - chance).abs() / (chance * (1 - chance) / 2000).sqrt().clamp(min=5e-4)).max() < 5
    assert chance.sum() <= 1 + 1e-5 and (entropy >= 0).all()


def trained(start, samples, folder, trainer_options=None, resume=None, **changes):
    policy = load_policy(start, device="cpu")
    settings = {"per_device_train_batch_size": 8, "num_generations": 4, "max_steps": 2, "warmup_steps": 0, "max_completion_length": 8,
                "disable_tqdm": True, "gradient_accumulation_steps": 2}  # fmt: skip
    trainer = VideoGRPOTrainer(
        policy, args=VideoGRPOConfig.demo(str(folder), **{**settings, **changes}), train_dataset=to_trl_dataset(samples), **(trainer_options or {})
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train(resume_from_checkpoint=resume)
    return policy, trainer


def test_same_seed_same_weights_and_packed_as_plain(start, samples, tmp_path):
    first, trainer = trained(start, samples, tmp_path / "a")
    again, _ = trained(start, samples, tmp_path / "b")
    plain, _ = trained(start, samples, tmp_path / "c", share_prefix=False)
    untouched = load_policy(start, device="cpu").model.state_dict()
    moved = 0.0
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
        # Adam divides by the gradient's size, so rounding in tiny gradients may show as a fraction of a step (1e-3).
        assert (weight - plain.model.state_dict()[name]).abs().max() < 1.5e-3, name
        moved = max(moved, (weight - untouched[name]).abs().max().item())
    assert moved > 1e-4
    row = trainer.state.log_history[0]
    assert {"reward", "kl", "entropy", "frac_reward_zero_std"} <= row.keys()
    assert any(name.startswith("reward/") for name in row) and any(name.startswith("zero_variance/") for name in row)


def test_lora_trains_its_adapters_alone(start, samples, tmp_path):
    peft = pytest.importorskip("peft", reason="pip install peft")
    options = {"peft_config": peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"])}
    policy, trainer = trained(start, samples, tmp_path, options, learning_rate=1e-2)
    untouched = load_policy(start, device="cpu").model.state_dict()
    weights = {name: value for name, value in policy.model.state_dict().items() if "lora_" not in name}
    assert weights and all(torch.equal(value, untouched[name.replace(".base_layer", "")]) for name, value in weights.items())
    assert any(value.abs().max() > 0 for name, value in policy.model.state_dict().items() if "lora_B" in name)
    assert "kl" in trainer.state.log_history[0]  # the reference is the model without its adapters


def test_trl_s_own_arguments_work(start, samples, tmp_path):
    policy = load_policy(start, device="cpu")
    config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=8, num_generations=4)
    trainer = VideoGRPOTrainer(model=policy.model, reward_funcs=[videossr_reward], args=config, train_dataset=to_trl_dataset(samples),
                               processing_class=policy.processor)  # fmt: skip
    assert isinstance(trainer, GRPOTrainer) and trainer.model is policy.model


def test_an_evaluation_between_two_steps_does_not_swap_the_prompts(start, samples, tmp_path):
    config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=4, num_generations=4, num_generations_eval=2)
    trainer = VideoGRPOTrainer(str(start), args=config, train_dataset=to_trl_dataset(samples))
    rows, trainer.current_gradient_accumulation_steps = list(trainer.train_dataset), 1
    trainer.model.train()
    batch = trainer._generate_and_score_completions([rows[0]] * 4)
    batch["old_per_token_logps"] = torch.full_like(batch["ref_per_token_logps"], -1.0)
    expected = trainer.compute_loss(trainer.model, batch).item()
    trainer.model.eval()
    trainer._generate_and_score_completions([rows[1]] * 2)
    trainer.model.train()
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, abs=1e-7)


def test_an_image_prompt_has_the_loss_of_stock_trl(start, samples, tmp_path, stock_trainer):
    "Stock TRL sees images in its loss, so there it must agree with ours: loss and gradients of the same rollouts."
    policy = load_policy(start, device="cpu")
    clip = render(samples[0])[0]
    images = [Image.fromarray(frame) for frame in clip.frames[:6:3]]
    row = {**to_trl_dataset(samples)[0], "prompt": [{"role": "user", "content": "When?"}], "images": images}
    config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=4, num_generations=4)
    stock = stock_trainer(policy.model, videossr_reward, config, Dataset.from_list([row]), processing_class=policy.processor)
    stock.model.train()
    stock.current_gradient_accumulation_steps = 1
    batch = stock._generate_and_score_completions([dict(row) for _ in range(4)])
    batch["completion_ids"] = torch.randint(0, 200, batch["completion_ids"].shape, generator=torch.Generator().manual_seed(0))  # nothing banned
    batch["advantages"] = torch.tensor([1.0, -0.5, 0.25, -0.75])
    batch["old_per_token_logps"] = batch["ref_per_token_logps"] = torch.full(batch["completion_ids"].shape, -6.0)
    encoded = Prompt(
        batch["prompt_ids"][0], batch["mm_token_type_ids"][0, : batch["prompt_ids"].shape[1]],
        pixel_values=batch["pixel_values"][: len(batch["pixel_values"]) // 4], image_grid_thw=batch["image_grid_thw"][:2],
    )  # fmt: skip
    ours = VideoGRPOTrainer(policy, args=config, train_dataset=to_trl_dataset(samples))
    ours._banned[:] = False  # stock TRL leaves every token a chance
    ours.model.train()
    ours.current_gradient_accumulation_steps = 1
    found = []
    for trainer, inputs in ((stock, batch), (ours, {**batch, "group": torch.zeros(4, dtype=torch.long), "encoded": [encoded]})):
        policy.model.zero_grad()
        loss = trainer.compute_loss(policy.model, inputs)
        loss.backward()
        found.append((loss.item(), {name: weight.grad.clone() for name, weight in policy.model.named_parameters() if weight.grad is not None}))
    assert abs(found[0][0]) > 1e-3 and found[1][0] == pytest.approx(found[0][0], abs=2e-5)
    assert found[0][1].keys() == found[1][1].keys()
    largest = max(grad.norm() for grad in found[0][1].values())
    for name, grad in found[0][1].items():
        assert (found[1][1][name] - grad).norm() <= 1e-4 * grad.norm() + 1e-6 * largest, name


def constant_reward(completions, task, **_):
    "Jigsaw answers all get the same; others by their length."
    return [0.5 if name == "jigsaw" else len(text[0]["content"]) / 20 for text, name in zip(completions, task, strict=True)]


@pytest.mark.parametrize("quantile", [1.0, 0.5])
def test_silent_groups_cost_no_pass_and_change_nothing(start, samples, tmp_path, quantile):
    "Neither loss, gradients and logged entropy nor, where only tokens of high entropy count, which tokens these are."
    found = []
    for skip in (True, False):
        policy = load_policy(start, device="cpu")
        config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=12, num_generations=4, beta=0.0, top_entropy_quantile=quantile)
        trainer = VideoGRPOTrainer(policy, constant_reward, args=config, train_dataset=to_trl_dataset(samples))
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        torch.manual_seed(0)
        batch = trainer._generate_and_score_completions([row for row in list(trainer.train_dataset)[:3] for _ in range(4)])
        assert batch["silent"].tolist() == [False] * 4 + [True] * 4 + [False] * 4
        if not skip:
            batch["silent"] = torch.zeros_like(batch["silent"])
        trainer._tokens = np.zeros(2)
        loss = trainer.compute_loss(policy.model, batch)
        loss.backward()
        entropy = trainer._metrics["train"]["entropy"][-1]
        found.append((loss.item(), trainer._tokens, entropy, {name: weight.grad for name, weight in policy.model.named_parameters()}))
    (loss, tokens, entropy, grads), (full_loss, full_tokens, full_entropy, full_grads) = found
    assert loss == pytest.approx(full_loss, abs=1e-6) and entropy == pytest.approx(full_entropy, abs=1e-5)
    assert tokens[0] < 0.8 * full_tokens[0] and tokens[1] == full_tokens[1]
    for name, grad in full_grads.items():
        if grad is not None:
            assert (grads[name] - grad).norm() <= 1e-4 * grad.norm() + 1e-7, name


def every_other_reward(completions, **_):
    return [float(number % 2) for number in range(len(completions))]


def test_the_reference_is_the_policy_as_it_stands(samples, tmp_path):
    "Also one that was never saved, and one that has changed since."
    policy = tiny_policy(0)
    for _ in range(2):
        config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_steps=1, warmup_steps=0)
        trainer = VideoGRPOTrainer(policy, every_other_reward, config, to_trl_dataset(samples))
        trainer.train()
        assert trainer.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert trainer.ref_model is not trainer.model and not any(weight.requires_grad for weight in trainer.ref_model.parameters())
        theirs, ours = trainer.ref_model.state_dict(), trainer.model.state_dict()
        assert any(not torch.equal(theirs[name], ours[name]) for name in ours), "the reference stays where it was"
        with torch.no_grad():
            policy.model.lm_head.weight.mul_(1.5)  # changed in memory alone


def choosy_reward(completions, task, **_):
    return [None if name == "jigsaw" or number % 4 == 0 else 1.0 for number, (_, name) in enumerate(zip(completions, task, strict=True))]


def test_answers_that_no_reward_scored_count_nowhere(start, samples, tmp_path):
    config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=24, num_generations=4, max_steps=1, disable_tqdm=True)
    trainer = VideoGRPOTrainer(str(start), choosy_reward, args=config, train_dataset=to_trl_dataset(samples))
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["reward"] == row["reward/grounding"] == 1.0 and row["reward/jigsaw"] is None
    assert row["zero_variance/jigsaw"] == row["zero_variance/grounding"] == 1.0


def test_an_infinite_reward_is_named(start, samples, tmp_path):
    def infinite(completions, **_):
        return [0.0] * (len(completions) - 1) + [float("inf")]

    config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_steps=1, disable_tqdm=True)
    trainer = VideoGRPOTrainer(str(start), infinite, args=config, train_dataset=to_trl_dataset(samples))
    with pytest.raises(ValueError, match="reward infinite of answer 7 is inf"):
        trainer.train()


class Recorder:
    "A curriculum that notes what it was asked and told."

    def __init__(self):
        self.seeds, self.told = [], []

    def draw(self, n, seed):
        self.seeds.append(tuple(seed))
        return [0] * n

    def observe(self, rows, rewards):
        self.told += rewards

    def state(self):
        return {}

    def restore(self, state):
        pass

    def metrics(self):
        return {}


def test_each_generation_draws_its_own_prompts_and_a_curriculum_is_told_means(start, samples, tmp_path):
    "Two generations serve one step; two weighted rewards add up to more than 1."
    def one(completions, **_):
        return [1.0] * len(completions)

    recorder = Recorder()
    config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=4, num_generations=4, gradient_accumulation_steps=2, steps_per_generation=1,
                                  max_steps=2, reward_weights=[1.0, 3.0], disable_tqdm=True)  # fmt: skip
    VideoGRPOTrainer(str(start), [one, one], args=config, train_dataset=to_trl_dataset(samples), curriculum=recorder).train()
    assert len(recorder.seeds) == len({*recorder.seeds}) == 4
    assert recorder.told == [[1.0] * 4] * 4


def test_a_step_of_silent_groups_alone_runs_no_model(start, samples, tmp_path):
    silent = [sample for sample in samples if sample.task == "jigsaw"]
    config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=8, num_generations=4, beta=0.0, max_steps=2, disable_tqdm=True)
    policy = load_policy(start, device="cpu")
    untouched = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    trainer = VideoGRPOTrainer(policy, constant_reward, args=config, train_dataset=to_trl_dataset(silent))
    trainer.train()
    assert trainer.state.log_history[0]["frac_reward_zero_std"] == 1.0
    assert all(torch.equal(weight, untouched[name]) for name, weight in policy.model.state_dict().items())


def test_refill_replaces_silent_groups(start, samples, tmp_path):
    config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=24, num_generations=4, beta=0.0, refill=4)
    trainer = VideoGRPOTrainer(str(start), constant_reward, args=config, train_dataset=to_trl_dataset(samples))
    trainer.model.train()
    rows = [row for row in trainer.train_dataset for _ in range(4)]
    torch.manual_seed(0)
    batch = trainer._prepare_inputs(rows)
    assert len(batch["silent"]) == 24 and batch["silent"].sum() == 0, "six draws a turn, a third of them silent"
    assert trainer._metrics["train"]["refilled"][0] == 2
    sampled = trainer.rollouts()
    assert len(sampled) == 6 + sum(trainer._metrics["train"]["refilled"]), "also those that were replaced"
    assert not trainer.rollouts()
    for group, prompt in enumerate(batch["encoded"]):
        for row in (batch["group"] == group).nonzero()[:, 0].tolist():
            real = batch["prompt_ids"][row][-len(prompt) :]
            assert torch.equal(real, prompt.input_ids), "rows and prompts belong together"


def test_a_prompt_has_random_numbers_of_its_own(start, samples, tmp_path):
    "Whatever was drawn before, and whoever is sampled beside it; at the next step it has others."
    def said(noise, groups, **changes):
        config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=24, num_generations=4, rollout_groups=groups, **changes)
        trainer = VideoGRPOTrainer(str(start), constant_reward, args=config, train_dataset=to_trl_dataset(samples))
        trainer.model.train()
        rows, found = [row for row in trainer.train_dataset for _ in range(4)], []
        for trainer._step in range(2):
            torch.manual_seed(noise)
            trainer._prepare_inputs(rows)
            found.append([group["replies"] for group in trainer.rollouts()])
        return found

    first, second = said(0, 8, seed_per_prompt=True)
    assert [first, second] == said(1, 4, seed_per_prompt=True) and first != second
    assert len({tuple(group) for group in first}) == len(first)
    assert said(0, 8) != said(1, 4), "as it is without"
    assert first != said(0, 8, seed_per_prompt=True, seed=1)[0]


def test_a_checkpoint_of_more_processes(start, samples, tmp_path):
    settings = {"per_device_train_batch_size": 8, "num_generations": 4, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}

    def trainer(**changes):
        config = VideoGRPOConfig.demo(str(tmp_path), **settings, **changes)
        return VideoGRPOTrainer(str(start), constant_reward, args=config, train_dataset=to_trl_dataset(samples))

    trainer().train()
    shutil.rmtree(tmp_path / "checkpoint-2")
    marker = tmp_path / "checkpoint-1" / "complete"
    noted = json.loads(marker.read_text())
    assert noted == {"passes": 1, "processes": 1}
    marker.write_text(json.dumps({"passes": 8, "processes": 4}))
    with pytest.raises(ValueError, match="checkpoint-1 was made by 4 processes, and 1 cannot go on with it.*seed_per_prompt"):
        trainer().train(resume_from_checkpoint=True)
    other = trainer(seed_per_prompt=True)
    other.train(resume_from_checkpoint=True)
    assert other.state.global_step == 2 and other._step == 2


@pytest.mark.parametrize(("changes", "told"), [({"refill": 2}, "refill=2"), ({"steps_per_generation": 2}, "steps_per_generation=2")])
def test_what_each_number_of_processes_does_in_its_own_way_is_refused(start, samples, tmp_path, changes, told):
    config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=8, num_generations=4, seed_per_prompt=True, **changes)
    with pytest.raises(ValueError, match=f"seed_per_prompt and {told}"):
        VideoGRPOTrainer(str(start), constant_reward, args=config, train_dataset=to_trl_dataset(samples))


def test_replaced_groups_keep_their_columns_together():
    def made(silent, first):
        rows = torch.arange(first, first + 2 * len(silent))
        return {"silent": torch.tensor(silent).repeat_interleave(2), "group": torch.arange(len(silent)).repeat_interleave(2),
                "encoded": [f"p{first + 2 * index}" for index in range(len(silent))], "value": rows, "completion_ids": rows[:, None].expand(-1, 1 + first % 3),
                "prompt_ids": rows[:, None].expand(-1, 2 + first % 5), "num_items_in_batch": torch.tensor(7)}  # fmt: skip

    merged = replace_groups(made([True, False, True], 0), made([True, False, False, False], 101), 2)
    assert merged["encoded"] == ["p103", "p2", "p105"] and merged["value"].tolist() == [103, 104, 2, 3, 105, 106]
    assert merged["completion_ids"].max(1).values.tolist() == merged["prompt_ids"][:, -1].tolist() == merged["value"].tolist()
    assert not merged["silent"].any() and merged["group"].tolist() == [0, 0, 1, 1, 2, 2]


def test_checkpoints_that_were_not_finished_do_not_count(tmp_path):
    for step, complete in ((5, True), (10, True), (15, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10" and last_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("at", [2, 3, 6, 8])
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(start, samples, tmp_path, at):
    "Two epochs and more of three steps each; the weights, the log and the optimiser agree to the bit."
    options = {"max_steps": 8, "save_strategy": "steps", "save_steps": 1, "save_total_limit": None}
    whole, first = trained(start, samples, tmp_path / "whole", **options)
    assert first.state.epoch > 2
    for checkpoint in (tmp_path / "whole").glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > at:
            shutil.rmtree(checkpoint)
    resumed, second = trained(start, samples, tmp_path / "whole", resume=True, **options)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    assert second.state.global_step == 8, "transformers takes one step more after a checkpoint at the last one"
    kept = ("loss", "reward", "entropy", "grad_norm", "tokens/computed")
    assert [[row[name] for name in kept] for row in first.state.log_history[:8]] == [[row[name] for name in kept] for row in second.state.log_history[:8]]


def test_a_loss_that_did_not_look_is_refused(start, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", lambda self, model, inputs: sum(weight.sum() for weight in model.parameters()))
    with pytest.raises(RuntimeError, match="computed without the video.*pip install 'trl"):
        trained(start, samples, tmp_path)


def test_rollouts_that_serve_several_steps_are_not_cut_by_a_checkpoint(start, samples, tmp_path):
    config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=8, num_generations=4, num_iterations=2, save_strategy="steps", save_steps=3)
    with pytest.raises(ValueError, match="a multiple of 2"):
        VideoGRPOTrainer(str(start), args=config, train_dataset=to_trl_dataset(samples))


def test_groups_stay_whole():
    batch = {"group": torch.arange(8).repeat_interleave(3), "value": torch.arange(24), "count": torch.tensor(3.0), "name": "x"}
    parts = split_groups(batch, 3, 4)
    assert [len(part["group"]) for part in parts] == [6] * 4
    for part in parts:
        assert (part["group"].view(-1, 3) == part["group"].view(-1, 3)[:, :1]).all()
        assert (part["value"] // 3 == part["group"]).all() and part["count"] == 3 and part["name"] == "x"


def test_a_system_prompt_that_a_row_brings_is_in_the_prompt(samples):
    brought = replace(samples[0], recipe={**samples[0].recipe, "system": "Be brief."})
    plain, with_system = (POLICY.tokenizer.decode(encode_sample(POLICY, sample).input_ids) for sample in (samples[0], brought))
    assert "Be brief." in with_system and with_system.endswith(plain[-40:]) and "Be brief." not in plain


def test_supervised_steps_on_true_answers_take_each_sample_s_own(monkeypatch):
    from videossr import grpo
    from videossr.policy import encode_sample, tiny_policy
    from videossr.tasks import make_sample

    policy, said, tokens = tiny_policy(0), [], grpo._tokens_of
    samples = [make_sample("jigsaw", demo_videos(1, progress=False)[0], difficulty="demo", index=k) for k in range(3)]
    monkeypatch.setattr(grpo, "_tokens_of", lambda policy, texts, rows: said.append(texts) or tokens(policy, texts, rows))
    losses = grpo.warm_start(policy, samples, [encode_sample(policy, one) for one in samples], borrow=False, n_answers=2, batch_size=3, steps=2, progress=False)
    assert len(losses) == 2 and all(texts[::2] == texts[1::2] for texts in said)
    assert all(sorted(texts[::2]) == sorted(one.answer for one in samples) for texts in said)
