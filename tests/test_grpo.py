"""The trainer: what it relies on in TRL, and that every way of running it gives the same numbers."""

import inspect

import numpy as np
import pytest
import torch
from transformers import PrinterCallback, ProgressCallback
from trl import GRPOTrainer

from videossr.data import to_trl_dataset
from videossr.demo import demo_videos
from videossr.grpo import VideoGRPOConfig, VideoGRPOTrainer, group_logps, plain_logps, split_groups, warm_start
from videossr.policy import collate, encode, encode_sample, end_ids, load_policy, never_sampled, sample_tokens, tiny_policy
from videossr.rewards import videossr_reward
from videossr.tasks import make_sample
from videossr.video import Clip


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
        prompts.append(encode(policy.processor, clips, "In which order?" if count > 1 else "When?"))
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(0, 200, (len(prompts), n_answers, length), generator=generator)
    ends = torch.randint(1, length + 1, (len(prompts), n_answers, 1), generator=generator)
    return collate(prompts, policy.tokenizer.pad_token_id), answers, (torch.arange(length) < ends).long()


def test_trl_still_has_what_is_replaced():
    "A release of TRL that renames or reshapes one of these would train with its own code, silently."
    for name in ("_generate_and_score_completions", "_tokenize_prompts", "_generate_single_turn", "_prepare_inputs", "_compute_loss",
                 "_calculate_rewards", "_get_per_token_logps_and_entropies"):  # fmt: skip
        assert callable(getattr(GRPOTrainer, name)), name
        assert getattr(VideoGRPOTrainer, name).__module__ == "videossr.grpo", name
    logps = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    assert list(logps)[:6] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"]
    single = inspect.signature(GRPOTrainer._generate_single_turn).parameters
    assert list(single)[:5] == ["self", "prompt_ids", "images", "multimodal_fields", "num_generations"]
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert "self._get_per_token_logps_and_entropies(" in source


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


def trained(start, samples, folder, trainer_options=None, **changes):
    policy = load_policy(start, device="cpu")
    settings = {"per_device_train_batch_size": 8, "num_generations": 4, "max_steps": 2, "warmup_steps": 0, "max_completion_length": 8,
                "disable_tqdm": True, "gradient_accumulation_steps": 2}  # fmt: skip
    trainer = VideoGRPOTrainer(
        policy, args=VideoGRPOConfig.demo(str(folder), **{**settings, **changes}), train_dataset=to_trl_dataset(samples), **(trainer_options or {})
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train()
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


def test_groups_stay_whole():
    batch = {"group": torch.arange(8).repeat_interleave(3), "value": torch.arange(24), "count": torch.tensor(3.0), "name": "x"}
    parts = split_groups(batch, 3, 4)
    assert [len(part["group"]) for part in parts] == [6] * 4
    for part in parts:
        assert (part["group"].view(-1, 3) == part["group"].view(-1, 3)[:, :1]).all()
        assert (part["value"] // 3 == part["group"]).all() and part["count"] == 3 and part["name"] == "x"
