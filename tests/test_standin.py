"""What users load: a stand-in for a released checkpoint, tied and untied, of each family, through every path of the kit."""

import importlib.util
import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoConfig, AutoProcessor

from videossr import launch
from videossr.data import export_verl, to_trl_dataset
from videossr.demo import demo_videos
from videossr.families import FAMILIES
from videossr.grpo import VideoGRPOConfig, VideoGRPOTrainer, group_logps, lost_steps, plain_logps, warm_start
from videossr.policy import Policy, collate, encode, encode_sample, end_ids, generate_answers, load_policy, never_sampled, prompt_positions, sample_tokens, tiny_policy
from videossr.released import write_release
from videossr.runs import Run, make_policy, plan_of, train_policy, train_settings
from videossr.tasks import make_sample
from videossr.video import Clip

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "tied": ("Qwen3-VL-2B", {"tied": True}), "untied": ("Qwen3-VL-8B", {"tied": False}), "thinking": ("Qwen3-VL-2B", {"thinking": True}),
    "moe": ("Qwen3-VL-30B-A3B", {}), "2.5": ("Qwen2.5-VL-7B", {}),
}  # fmt: skip
VOCABULARY = "released" if importlib.util.find_spec("dashscope") else "small"  # all 151,643 tokens of text where the package that holds them is there
TRAINED = ("tied", "untied", "moe", "2.5")


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    "Folders of stand-ins by kind, written when first asked for."
    place, made = tmp_path_factory.mktemp("releases"), {}

    def get(kind):
        if kind not in made:
            name, options = KINDS[kind]
            made[kind] = write_release(place / kind, name, vocabulary=VOCABULARY, **options)
        return made[kind]

    return get


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    videos = demo_videos(2, folder=tmp_path_factory.mktemp("demo"), progress=False)
    tasks = ("grounding", "jigsaw", "counting")
    return [make_sample(task, video, difficulty="demo", index=index) for index, video in enumerate(videos) for task in tasks]


def loaded(folder, **options):
    return load_policy(folder, device="cpu", **options)


def some_clips(step=0.5, start=0.0, n=(4, 6)):
    rng = np.random.default_rng(0)
    return [Clip(rng.integers(0, 256, (size, 64, 96, 3), dtype=np.uint8), start + np.arange(size) * step) for size in n]


def some_groups(policy):
    "Two prompts, one with two clips, and answers some of which end early."
    prompts = [encode(policy, some_clips(n=(4,)), "When?"), encode(policy, some_clips(start=3.0), "In which order?")]
    answers = torch.randint(0, 200, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    return collate(prompts, policy.pad_id), answers, (torch.arange(4) < torch.tensor([[4, 2, 1], [3, 4, 4]])[..., None]).long()


def trained(policy, samples, folder, **changes):
    settings = {"per_device_train_batch_size": 4, "num_generations": 4, "max_steps": 1, "warmup_steps": 0, "max_completion_length": 6, "disable_tqdm": True}
    trainer = VideoGRPOTrainer(policy, args=VideoGRPOConfig.demo(str(folder), **{**settings, **changes}), train_dataset=to_trl_dataset(samples))
    trainer.train()
    return trainer


# Each family, as it is published


@pytest.mark.parametrize("kind", [*KINDS])
def test_packed_equals_plain_and_answers_follow_the_model(release, kind):
    "Log-probabilities of a shared prompt are those of copies, and greedy answers are the likeliest tokens of a plain pass."
    policy = loaded(release(kind))
    batch, answers, mask = some_groups(policy)
    banned = never_sampled(policy)
    with torch.no_grad():
        ours, theirs = (torch.stack(logps(policy.model, batch, answers, mask, banned)) for logps in (group_logps, plain_logps))
        assert (ours - theirs).abs().max() < 1e-4
        tokens = sample_tokens(policy, batch, 2, temperature=0, max_new_tokens=4).view(2, 2, 4)
        every = torch.arange(len(banned))[~banned]
        said = tokens[:, :1].expand(-1, len(every), -1).clone()
        said[:, :, -1] = every
        logps, _ = group_logps(policy.model, batch, said, torch.ones_like(said), banned)
    assert every[logps[:, :, -1].argmax(1)].tolist() == tokens[:, 0, -1].tolist()
    assert torch.equal(tokens[:, 0], tokens[:, 1])


@pytest.mark.parametrize("kind", TRAINED)
def test_warm_start_and_a_step_of_grpo(release, samples, tmp_path, kind):
    "The warm start teaches answers that end, and a step of GRPO with all weights moves both tower and language model."
    policy = loaded(release(kind))
    prompts = [encode_sample(policy, sample) for sample in samples]
    losses = warm_start(policy, samples, prompts, steps=25, learning_rate=3e-3, n_answers=8, batch_size=2, progress=False)
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0] / 2
    batch = collate(prompts, policy.pad_id)
    torch.manual_seed(0)
    answers = sample_tokens(policy, batch, 8, max_new_tokens=24)
    assert torch.isin(answers, torch.tensor(end_ids(policy))).any(1).float().mean() > 0.9
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    trainer = trained(policy, samples, tmp_path, beta=0.0, max_steps=2, learning_rate=1e-4)
    moved = {name.split(".")[1] for name, weight in policy.model.state_dict().items() if not torch.equal(weight, before[name])}
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert len(rewards) == 2 and ({"visual", "language_model"} <= moved or max(row.get("reward_std", 0) for row in trainer.state.log_history) == 0)


# Tokens


def with_pad(policy, pad):
    "The policy with another pad token, as descendants of a release have it."
    policy.tokenizer.pad_token = pad
    return policy


@pytest.mark.parametrize("pad", [None, "<|im_end|>"], ids=["no pad", "pad is end"])
def test_any_pad_token_trains_and_ends(release, samples, tmp_path, pad):
    policy = with_pad(loaded(release("tied")), pad)
    end = policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_ids(policy)[0] == end and not never_sampled(policy)[end] and policy.pad_id == end
    warm_start(policy, samples, [encode_sample(policy, sample) for sample in samples], steps=25, learning_rate=3e-3, n_answers=8, batch_size=2, progress=False)
    trainer = trained(policy, samples, tmp_path, max_completion_length=24)
    row = next(row for row in trainer.state.log_history if "reward" in row)
    assert row["completions/clipped_ratio"] < 0.5 and math.isfinite(row["loss"] if "loss" in row else 0.0)


def test_control_tokens_are_never_sampled(release):
    policy, thinker = loaded(release("tied")), loaded(release("thinking"))
    name_of = policy.tokenizer.convert_ids_to_tokens
    added = policy.tokenizer.get_added_vocab()
    free = {name_of(token) for token in (~never_sampled(policy)).nonzero()[:, 0].tolist()} & {*added}
    assert free == {"<|im_end|>"} and {"<tool_call>", "</think>", "<|video_pad|>"} < {*added}
    kept = {name_of(token) for token in (~never_sampled(thinker)).nonzero()[:, 0].tolist()} & {*added}
    assert kept == {"<|im_end|>", "<think>", "</think>"}
    asked = Policy(policy.model, policy.processor, allowed_tokens=("<tool_call>",))
    assert not never_sampled(asked)[added["<tool_call>"]]
    with pytest.raises(ValueError, match="no control token <box>"):
        never_sampled(Policy(policy.model, policy.processor, allowed_tokens=("<box>",)))


def test_a_barred_answer_and_a_loss_that_is_not_finite_are_errors(release, samples):
    policy = loaded(release("tied"))
    prompts = [encode_sample(policy, sample) for sample in samples]
    bad = [replace(sample, answer="<|video_pad|>") for sample in samples]
    with pytest.raises(ValueError, match=r"holds <\|video_pad\|>, which no answer may hold"):
        warm_start(policy, bad, prompts, steps=1, progress=False)
    with torch.no_grad():
        policy.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        warm_start(policy, samples, prompts, steps=1, progress=False)


def test_a_grpo_loss_that_is_not_finite_is_an_error(release, samples, tmp_path):
    settings = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_steps=1, max_completion_length=4)
    trainer = VideoGRPOTrainer(loaded(release("tied")), lambda completions, **_: [1.0, 0.0, 0.0, 1.0], settings, to_trl_dataset(samples))
    score = trainer._score
    trainer._score = lambda *given: tuple(values * math.nan for values in score(*given))
    with pytest.raises(FloatingPointError, match="loss is nan after step 0"):
        trainer.train()


# What is not trained here


@pytest.mark.parametrize("kind", ["qwen3_5", "qwen3_5_moe", "qwen2_vl", "llava_next_video"])
def test_other_families_are_refused_by_name(release, tmp_path, kind):
    "Before a weight is read: the folder has none that fit."
    folder = shutil.copytree(release("tied"), tmp_path / kind)
    AutoConfig.for_model(kind).save_pretrained(folder)
    with pytest.raises(ValueError, match=f"models of type '{kind}' are not trained here, only .*Qwen2.5-VL"):
        loaded(folder)


def test_a_model_of_another_family_is_refused_by_the_trainer(samples, tmp_path):
    policy = tiny_policy(0)
    policy.model.config.text_config.layer_types = ["linear_attention", "full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="linear_attention, which the mask of a shared prompt does not reach"):
        trained(policy, samples, tmp_path)


# Qwen2.5-VL: sizes and times


def test_times_reach_qwen25(release):
    "Two clips of the same frames, of 0.8 and of 12 seconds, are different inputs, and a late start is told."
    policy = loaded(release("2.5"))
    banned = never_sampled(policy)
    found = []
    for step in (0.2, 3.0):
        prompt = encode(policy, some_clips(step, n=(4,)), "How long is it?")
        batch = collate([prompt], policy.pad_id)
        answers = torch.tensor([[[50, 60, 70]]])
        with torch.no_grad():
            found.append((prompt.input_ids, prompt_positions(policy.model, batch)[0], group_logps(policy.model, batch, answers, torch.ones_like(answers), banned)[0]))
    (ids, places, logps), (other_ids, other_places, other_logps) = found
    assert torch.equal(ids, other_ids) and not torch.equal(places, other_places)
    assert (logps - other_logps).abs().max() > 1e-4
    late = policy.tokenizer.decode(encode(policy, some_clips(start=7.3, n=(4,)), "When?").input_ids)
    assert "starts at 7.3 seconds" in late and "seconds" not in policy.tokenizer.decode(ids)


def test_frames_of_any_size_fit_every_family(release):
    for kind in ("tied", "2.5"):
        policy = loaded(release(kind))
        video = policy.processor.video_processor
        for height, width in ((32, 32), (256, 256), (160, 352)):
            clip = Clip(np.zeros((4, height, width, 3), np.uint8), np.arange(4.0))
            prompt = encode(policy, [clip], "?")
            _, rows, columns = prompt.video_grid_thw[0].tolist()
            assert rows % video.merge_size == columns % video.merge_size == 0
            assert abs(rows * video.patch_size - height) <= video.patch_size and abs(columns * video.patch_size - width) <= video.patch_size


# Thoughts


def test_a_thinking_policy_is_read_behind_its_thought(release, samples, tmp_path):
    "Replies carry the opening that the prompt made, the warm start closes it, and reading to the letter is refused before training."
    policy = loaded(release("thinking"))
    assert policy.thought.startswith("<think>")
    replies = generate_answers(policy, samples[:1], max_new_tokens=3)[0]
    assert replies[0].startswith(policy.thought)
    warm_start(policy, samples, [encode_sample(policy, sample) for sample in samples], steps=40, learning_rate=3e-3, n_answers=8, batch_size=2, progress=False)
    seen = []

    def reward(completions, **_):
        seen.extend(one[0]["content"] if isinstance(one, list) else one for one in completions)
        return [float(len(text)) for text in seen[-len(completions) :]]

    settings = VideoGRPOConfig.demo(str(tmp_path / "thoughts"), per_device_train_batch_size=4, num_generations=4, max_steps=1, max_completion_length=16)
    VideoGRPOTrainer(policy, reward, settings, to_trl_dataset(samples)).train()
    assert all(text.startswith(policy.thought) for text in seen) and sum("</think>" in text for text in seen) > len(seen) / 2
    with pytest.raises(ValueError, match=r"make_reward\(parse='lenient'\)"):
        VideoGRPOTrainer(policy, args=settings, train_dataset=to_trl_dataset(samples))
    thinker = train_settings("demo", model=str(release("thinking")), n_train=4, n_held_out=2, warm_steps=0)
    run = Run.create(tmp_path / "run", thinker, 0)
    with pytest.raises(ValueError, match="parse='lenient'"):
        make_policy(run, thinker, samples, 0, progress=False)
    ok, _ = make_policy(run, replace(thinker, parse="lenient"), samples, 0, progress=False)
    assert run.read_json("environment.json")["policy"]["thought"] == ok.thought


# Precision


def test_weights_train_in_float32_unless_asked_otherwise(release, samples, tmp_path):
    "As TRL does; a bfloat16 run is told what it loses, and model_init_kwargs is honoured or refused."
    settings = {"per_device_train_batch_size": 4, "num_generations": 4, "max_steps": 1, "learning_rate": 1e-6, "model_init_kwargs": None}
    rows = to_trl_dataset(samples)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*rounded away.*")
        trainer = VideoGRPOTrainer(str(release("tied")), args=VideoGRPOConfig.demo(str(tmp_path / "a"), **settings), train_dataset=rows)
    assert trainer.model.dtype == torch.float32 and loaded(release("tied")).model.dtype == torch.float32
    with pytest.warns(UserWarning, match=r"rounded away for 9\d\.\d%"):
        trainer = VideoGRPOTrainer(
            str(release("tied")), args=VideoGRPOConfig.demo(str(tmp_path / "b"), **{**settings, "model_init_kwargs": {"dtype": "bfloat16"}}), train_dataset=rows
        )
    assert trainer.model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="model_init_kwargs"):
        VideoGRPOTrainer(loaded(release("tied")), args=VideoGRPOConfig.demo(str(tmp_path / "c"), **{**settings, "model_init_kwargs": {"dtype": "bfloat16"}}), train_dataset=rows)


def test_the_share_of_lost_steps_is_what_adam_loses(release):
    "One step of Adam on random gradients moves as few bfloat16 weights as `lost_steps` says, and nearly all float32 ones."
    for dtype, low, high in ((torch.bfloat16, 0.9, 1.0), (torch.float32, 0.0, 0.05)):
        model = loaded(release("tied"), dtype=dtype).model.model.language_model
        told = lost_steps(model, 1e-6)
        before = [weight.detach().clone() for weight in model.parameters()]
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight)
        torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0).step()
        still = sum((weight == old).sum().item() for weight, old in zip(model.parameters(), before)) / sum(weight.numel() for weight in before)
        assert low <= still <= high and abs(still - told) < 0.02


# Settings that want a GPU, and changes that a plan must see


def test_the_paper_on_a_machine_without_a_gpu(release, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    paper = train_settings("paper", model=str(release("untied")), groups=2, group_size=2, max_new_tokens=4, steps=1, prefetch=0, n_train=4, n_held_out=2)
    with pytest.raises(ValueError, match="-p device cpu"):
        Run.create(tmp_path / "none", paper, 0)
    assert not (tmp_path / "none").exists()
    run = Run.create(tmp_path / "some", replace(paper, device="cpu"), 0)
    policy, _ = make_policy(run, replace(paper, device="cpu"), samples, 0, progress=False)
    narrow, wide = (plan_of(run, policy, samples, replace(paper, device="cpu"), 0, max_completion_length=length) for length in (4, 512))
    assert wide.work.answer_tokens == 512 and wide.total > narrow.total
    trained = train_policy(run, policy, samples, replace(paper, device="cpu"), 0, progress=False)
    assert trained.device.type == "cpu" and run.log_rows()


def test_a_run_says_what_adapters_reach(release, samples, tmp_path):
    "The experts of a mixture are no linear layers: LoRA leaves them as they are, and the run's record says so."
    settings = train_settings("demo", model=str(release("moe")), lora_rank=4, warm_steps=0)
    run = Run.create(tmp_path, settings, 0)
    make_policy(run, settings, samples, 0, progress=False)
    said = run.read_json("environment.json")["policy"]["adapters"]
    assert "adapters on q_proj, k_proj, v_proj, o_proj;" in said and "without: experts" in said


# Loading


def broken(folder, tmp_path, change):
    "A copy of a release with one fault."
    place = shutil.copytree(folder, tmp_path / "broken")
    change(place)
    return place


def cut(place):
    path = place / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FAULTS = {
    "no processor": (lambda place: [path.unlink() for path in place.glob("*preprocessor_config.json")], "lacks a processor .*preprocessor_config.json"),
    "no tokenizer": (lambda place: [(place / name).unlink(missing_ok=True) for name in ("tokenizer.json", "vocab.json")], "lacks a tokenizer"),
    "only pickles": (lambda place: (place / "model.safetensors").rename(place / "pytorch_model.bin"), "only pytorch_model.bin: pickled weights"),
    "cut off": (cut, "model.safetensors is cut off or damaged"),
    "pointer": (lambda place: (place / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"), "model.safetensors is a Git LFS pointer"),
    "config": (lambda place: (place / "config.json").write_text('{"model_type": '), "config.json is no JSON"),
    "no config": (lambda place: (place / "config.json").unlink(), "lacks config.json"),
}


@pytest.mark.parametrize("name", [*FAULTS])
def test_loading_says_what_is_wrong_with_which_file(release, tmp_path, name):
    change, message = FAULTS[name]
    with pytest.raises(OSError, match=message):
        loaded(broken(release("tied"), tmp_path, change))


def test_adapters_load_from_anywhere(release, samples, tmp_path, monkeypatch):
    "A LoRA checkpoint is trained in one folder and loaded from another; a base that moved is asked for by name."
    pytest.importorskip("peft")
    shutil.copytree(release("untied"), tmp_path / "here" / "base")
    monkeypatch.chdir(tmp_path / "here")
    settings = train_settings("demo", model="base", lora_rank=4, steps=1, groups=1, groups_at_once=1, group_size=4, warm_steps=0, save_steps=1, learning_rate=0.1)
    run = Run.create(tmp_path / "run", settings, 0)
    policy, _ = make_policy(run, settings, samples, 0, progress=False)
    final = train_policy(run, policy, samples, settings, 0, progress=False)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    adapters = run.path("checkpoints", "checkpoint-1")
    again = loaded(adapters)
    wanted = final.model.state_dict()
    assert all(torch.allclose(weight, wanted[name].float(), atol=1e-2) for name, weight in again.model.state_dict().items())
    shutil.move(tmp_path / "here" / "base", tmp_path / "base")
    with pytest.raises(OSError, match=r"holds adapters for .*base', which is not here; load_policy\(.*base=...\)"):
        loaded(adapters)
    moved = loaded(adapters, base=tmp_path / "base")
    assert all(torch.equal(weight, moved.model.state_dict()[name]) for name, weight in again.model.state_dict().items())


def test_encoding_leaves_the_processor_alone(release):
    for kind in ("tied", "2.5"):
        policy = loaded(release(kind))
        before = json.dumps(policy.processor.to_dict(), default=str, sort_keys=True)
        encode(policy, some_clips(), "?")
        assert json.dumps(policy.processor.to_dict(), default=str, sort_keys=True) == before


@pytest.mark.parametrize("kind", ["tied", "2.5"])
def test_exported_rows_reach_a_release_as_they_are(release, samples, tmp_path, kind):
    "A release's own processor, with the limits it was published with, leaves the frames of an export at their size."
    processor = AutoProcessor.from_pretrained(release(kind))
    side = processor.video_processor.patch_size
    (path,) = export_verl(samples, tmp_path, patch_size=side, progress=False)
    for row in pq.read_table(path).to_pylist():
        for video in row["videos"]:
            frames = np.stack([np.asarray(Image.open(path.parent / frame)) for frame in video["video"]])
            batch = processor.video_processor(videos=[frames], do_sample_frames=False, return_tensors="pt")
            assert [number * side for number in batch["video_grid_thw"][0, 1:].tolist()] == [*frames.shape[1:3]]


# Whole runs: the recipes, shrunk by parameters alone

SMALL = {
    "n_train": 6, "n_held_out": 3, "held_out": 0.3, "steps": 2, "groups": 2, "group_size": 2, "max_new_tokens": 6, "save_steps": 1, "device": "cpu",
    "prefetch": 0,
}  # fmt: skip


RECIPES = ("paper", "one-gpu", "one-gpu-lora", "tiny")
QUICK = [("paper", "untied", 9216), ("one-gpu", "untied", 9216), ("one-gpu-lora", "tied", 9216), ("tiny", "untied", 0)]  # of a frame; 0: as many as the recipe has
WHOLE = [pytest.param(recipe, kind, 0, marks=pytest.mark.slow) for recipe in RECIPES for kind in ("tied", "untied") if (recipe, kind, 0) not in QUICK]


@pytest.mark.parametrize(("recipe", "kind", "pixels"), [*QUICK, *WHOLE])
def test_recipes_on_a_release(release, tmp_path, recipe, kind, pixels):
    "Samples, evaluation, plan, training, resume and what is kept, by the launcher with the recipe and -p alone."
    given = {**SMALL, "model": release(kind), "output_dir": tmp_path / "run", **({"difficulty": f"max_pixels={pixels}"} if pixels else {})}
    arguments = [str(ROOT / "environments" / "recipes" / f"{recipe}.yaml"), *(part for name, value in given.items() for part in ("-p", name, str(value)))]
    found = launch.main(arguments)
    run = Run(tmp_path / "run")
    assert set(found["tasks"]) and [row["step"] for row in run.log_rows()] == [1, 2]
    assert all(math.isfinite(row["loss"]) for row in run.log_rows() if "loss" in row)
    about = run.read_json("environment.json")["policy"]
    assert about["markers"] == "released" and about["ends"] == ["<|im_end|>"] and about["family"] == FAMILIES["qwen3_vl"].name
    kept, published = run.path("checkpoints", "final"), release(kind)
    assert (kept / "generation_config.json").read_bytes() == (published / "generation_config.json").read_bytes()
    assert json.loads((kept / "config.json").read_text()) == json.loads((published / "config.json").read_text())
    assert loaded(kept, dtype="auto").model.dtype == torch.bfloat16
    assert type(AutoProcessor.from_pretrained(kept)) is type(AutoProcessor.from_pretrained(published))
    weights = (kept / "model.safetensors").read_bytes()
    for name in ("final", "checkpoint-2"):  # as if killed in the second step
        shutil.rmtree(run.path("checkpoints", name))
    run.path("results.json").unlink()
    again = launch.main(["--run", str(run.folder)])
    assert again["tasks"].keys() == found["tasks"].keys() and (kept / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_the_ablations_recipe_on_a_release(release, tmp_path, monkeypatch):
    papermill = pytest.importorskip("papermill")
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load((ROOT / "environments" / "recipes" / "ablations.yaml").read_text(encoding="utf-8"))
    small = {name: SMALL[name] for name in ("n_train", "n_held_out", "groups", "group_size", "max_new_tokens", "device")}
    given = {**recipe, **small, "model": str(release("untied")), "steps": 1, "experiments": "figure1,figure5", "seeds": "0", "sizes": "3"}
    papermill.execute_notebook(ROOT / "nbs" / "experiments" / "ablations.ipynb", tmp_path / "out.ipynb", given, kernel_name="python3", progress_bar=False)
    assert len([*tmp_path.rglob("results.json")]) >= 4


@pytest.mark.parametrize("kind", [pytest.param("tied", marks=pytest.mark.slow), "untied"])
def test_evaluate_notebook_on_a_release(release, tmp_path, monkeypatch, kind):
    papermill = pytest.importorskip("papermill")
    monkeypatch.chdir(tmp_path)
    given = {"model": str(release(kind)), "limit": 9, "max_pixels": 4096, "output_dir": str(tmp_path / "out"), "name": "release"}
    papermill.execute_notebook(ROOT / "nbs" / "evaluate.ipynb", tmp_path / "out.ipynb", given, kernel_name="python3", progress_bar=False)
    lines = (tmp_path / "out" / "records" / "release.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(lines) == 9 and not any(json.loads(line)["error"] for line in lines)
