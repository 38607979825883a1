"""The memory plan: hand counts, what each setting must do to it, refusals, and optimisers that really train."""

import importlib.util
import json
import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, TrainerCallback

from videossr import memory
from videossr.data import to_trl_dataset
from videossr.demo import demo_videos, paint_evening, write_mp4
from videossr.grpo import VideoGRPOConfig, VideoGRPOTrainer
from videossr.memory import (
    OPTIMIZERS,
    LiveBytes,
    NotEnoughMemory,
    Workload,
    adapted,
    adapter_layers,
    advice,
    available_memory,
    check_memory,
    expected_hours,
    hours_left,
    launched,
    measured_peak,
    memory_plan,
    model_config,
    n_weights,
    require_optimizer,
    with_room,
    workload,
)
from videossr.policy import Policy, encode_sample, load_policy, tiny_policy
from videossr.released import RELEASES, published_config, release_processor, write_release
from videossr.runs import TrainSettings
from videossr.tasks import make_sample
from videossr.tasks.grounding import GroundingDifficulty

WORK = Workload(prompt_tokens=300, patches=512, answer_tokens=16, group_size=8, groups_at_once=2, groups=4, beta=0.1, answer_batch=4)


@pytest.fixture(scope="module")
def config():
    return tiny_policy(width=256, n_layers=6).model.config


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    videos = demo_videos(2, folder=tmp_path_factory.mktemp("demo"), progress=False)
    return [make_sample("grounding", video, difficulty="demo", index=index) for index, video in enumerate(videos)]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return tiny_policy(0).save(tmp_path_factory.mktemp("start"))


def at(plan, moment, part):
    return plan.moments[moment].get(part, 0)


# ----------------------------------------------------------------------------------------------------------- counting


def test_live_bytes_on_real_tensors():
    before = torch.zeros(10)
    with LiveBytes() as live:
        view = before.view(2, 5)
        assert live.now == 0  # of a tensor made before
        made = view + 1
        again = made.t()
        assert live.now == live.peak == 40
        del made
        assert live.now == 40
        del again
        assert live.now == 0


def test_live_bytes_agree_with_the_allocator():
    layer = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.SiLU(), torch.nn.Linear(256, 64))
    inputs = torch.rand(500, 64)

    def step():
        layer(inputs).square().mean().backward()

    measured = measured_peak(step)
    layer.zero_grad()
    with LiveBytes() as live:
        step()
    assert abs(live.peak / measured - 1) < 0.02


def published_folder(folder, name, tied=None):
    "A folder with nothing but a config.json, as published, or with embeddings tied or not, as releases say that."
    config = published_config(name)
    if tied is not None:
        config["tie_word_embeddings"] = tied
        config.get("text_config", {}).pop("tie_word_embeddings", None)  # untied releases lack it there
        if tied and "text_config" in config:
            config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", RELEASES)
def test_published_files_can_be_planned(name, tmp_path):
    folder = published_folder(tmp_path, name)
    config = model_config(folder)
    billions = float(re.search(r"-([\d.]+)B", name)[1])
    assert 0.9 < n_weights(config) / 1e9 / billions < 1.3  # names count without the tower, or without the embeddings
    assert memory._engine(config, WORK).count() == n_weights(config) == n_weights(model_config(published_config(name)))
    config.save_pretrained(tmp_path)  # transformers writes all keys, also those that published files lack
    assert memory._standing(memory._engine(model_config(tmp_path), WORK), WORK)[0]["weights"] == 4 * n_weights(config)


def test_tied_and_untied_files(tmp_path):
    for name in RELEASES:
        tied, untied = (model_config(published_folder(tmp_path, name, value)) for value in (True, False))
        (less, fewer, _), (more, most, _) = (memory._standing(memory._engine(config, WORK), WORK) for config in (tied, untied))
        vocabulary = 4 * untied.get_text_config().vocab_size * untied.get_text_config().hidden_size
        for part, times in {"weights": 1, "reference": 1, "optimiser": 2}.items():
            assert more[part] - less[part] == times * vocabulary, name
        assert most["gradients"] - fewer["gradients"] == vocabulary and untied.tie_word_embeddings is False


def test_thirty_billion():
    n = n_weights(model_config(published_config("Qwen3-VL-30B-A3B")))
    assert round(4 * n / 1e9, 1) == 124.3


def test_config_of_a_folder(start):
    assert model_config(start).text_config.hidden_size == 128
    assert model_config(str(start)).vision_config.depth == 1


# --------------------------------------------------------------------------------------------------------------- plan


def test_parts_that_follow_from_counts(config):
    n, plan = n_weights(config), memory_plan(config, WORK)
    assert list(plan.moments) == ["loading", "rollout", "forward", "backward", "update", "evaluation"]
    assert {at(plan, moment, "weights") for moment in plan.moments} == {4 * n}
    assert {at(plan, moment, "reference") for moment in plan.moments if moment != "evaluation"} == {4 * n}
    assert {at(plan, moment, "optimiser") for moment in plan.moments if moment not in ("loading", "evaluation")} == {8 * n}
    assert at(plan, "evaluation", "optimiser") == at(plan, "evaluation", "gradients") == at(plan, "loading", "optimiser") == 0
    assert at(plan, "update", "gradients") == 4 * n and at(plan, "rollout", "gradients") == 0
    assert at(plan, "forward", "gradients") == 4 * n, "those of the passes before"
    assert at(plan, "rollout", "frames") == 4 * 512 * 1536 * 4
    assert plan.host == 4 * 512 * 1536 * 4
    assert plan.total == sum(plan.moments[plan.peak].values()) == max(sum(need.values()) for need in plan.moments.values())


def test_cache_by_hand(config):
    "What the last token finds: keys and values of the prompts once, and of all answers, in all layers."
    work = replace(WORK, bf16=False, answer_tokens=256)
    need = memory._engine(config, work).sample(work, 4, 8, False)["decode"][0]
    assert 4 * (300 + 8 * 256) * 6 * 2 * 256 * 4 <= need["KV cache"] < 1.02 * 4 * (300 + 8 * 256) * 6 * 2 * 256 * 4


@pytest.mark.parametrize(
    ("change", "moment"),
    [
        ({"gradient_checkpointing": False}, "forward"),
        ({"share_prefix": False}, "backward"),
        ({"answer_tokens": 64}, "forward"),
        ({"answer_batch": 8}, "evaluation"),
        ({"group_size": 16}, "forward"),
        ({"groups_at_once": 4}, "forward"),
        ({"prompt_tokens": 600}, "backward"),
        ({"patches": 1024}, "rollout"),
        ({"groups": 8}, "rollout"),
        ({"optim": "adamw_torch"}, "update"),
    ],
)
def test_more_work_needs_more(config, change, moment):
    less, more = memory_plan(config, WORK), memory_plan(config, replace(WORK, **change))
    assert sum(more.moments[moment].values()) > sum(less.moments[moment].values())


@pytest.mark.parametrize(
    "change", [{"beta": 0.0}, {"lora_rank": 8}, {"optim": "adamw_8bit"}, {"weight_dtype": "bfloat16"}, {"processes": 4, "sharded": True}]
)
def test_what_saves_saves(config, change):
    assert memory_plan(config, replace(WORK, **change)).total < memory_plan(config, WORK).total


def test_lora_trains_adapters_alone(config):
    plan = memory_plan(config, replace(WORK, lora_rank=4, lora_targets=("q_proj", "v_proj")))
    adapters = 6 * 2 * 4 * (256 + 256)  # layers, targets, rank, in and out
    assert at(plan, "update", "gradients") == 4 * adapters
    assert at(plan, "update", "optimiser") == 8 * adapters
    assert at(plan, "update", "weights") == 4 * (n_weights(config) + adapters)
    assert at(plan, "update", "reference") == 0, "the pass is there, a second model is not"


def test_what_shares_keep_whole(config):
    "A rollout holds all weights gathered, loading has policy and reference whole before they are shared, an evaluation is not shared."
    n, plan = n_weights(config), memory_plan(config, replace(WORK, processes=4, sharded=True, bf16=True))
    assert at(plan, "rollout", "gathered weights") == 2 * n > at(plan, "backward", "gathered weights") > at(plan, "forward", "gathered weights") > 0
    assert plan.moments["loading"] == {"weights": 4 * n, "reference": 4 * n}
    assert at(plan, "evaluation", "weights") == 4 * n and at(plan, "update", "weights") == n


def fresh(config, work, all_layers, monkeypatch):
    "An engine of its own, short or with all layers."
    with monkeypatch.context() as patched:
        if all_layers:
            patched.setattr(memory, "_shortened", lambda config: ({"text": config.text_config.num_hidden_layers, "vision": config.vision_config.depth},) * 2)
        return memory._Dry(config.to_json_string(use_diff=False), torch.float32, work.lora_rank, work.lora_targets, work.gradient_checkpointing)


@pytest.mark.parametrize(
    "settings", [{}, {"on_cpu": True}, pytest.param({"gradient_checkpointing": False}, marks=pytest.mark.slow), pytest.param({"bf16": False, "groups": 2, "lora_rank": 4}, marks=pytest.mark.slow)]
)
def test_layers_left_out_count_as_if_they_were_there(config, monkeypatch, settings):
    "A plan runs five or six layers of twelve; with all of them it finds the same."
    deep = AutoConfig.for_model(**config.to_dict())
    deep.text_config.update({"num_hidden_layers": 12})
    deep.vision_config.update({"depth": 10, "deepstack_visual_indexes": [1, 4]})
    work = replace(WORK, **settings)
    short, whole = (fresh(deep, work, all_layers, monkeypatch) for all_layers in (False, True))
    assert short.short != short.depths == whole.short
    for name in ("sample", "loss"):
        some, every = (engine.sample(work, 2, 4, work.bf16) if name == "sample" else engine.loss(work) for engine in (short, whole))
        for moment in [moment for moment in every if moment]:
            (few, few_flops), (all_of, all_flops) = some[moment], every[moment]
            assert sum(few.values()) == pytest.approx(sum(all_of.values()), rel=0.02), (settings, moment)
            assert few_flops == pytest.approx(all_flops, rel=0.001), (settings, moment)


FAMILIES = ("Qwen3-VL-8B", "Qwen3-VL-30B-A3B", "Qwen2.5-VL-7B")


@pytest.fixture(scope="module", params=FAMILIES)
def small(request, tmp_path_factory):
    "A small model of each family, in the layout of its release."
    return AutoModelForImageTextToText.from_pretrained(write_release(tmp_path_factory.mktemp("small"), request.param), dtype=torch.float32)


@pytest.mark.parametrize("targets", [memory.LORA_TARGETS, ("q_proj", "v_proj")])
def test_adapters_are_as_many_as_with_peft(small, targets):
    peft = pytest.importorskip("peft", reason="pip install peft")
    copy = AutoModelForImageTextToText.from_config(small.config)
    real = peft.get_peft_model(copy, peft.LoraConfig(r=8, target_modules=adapter_layers(targets)))
    names = {name.split(".lora_")[0] for name, weight in real.named_parameters() if weight.requires_grad}
    assert not any("visual" in name or "experts" in name for name in names)
    n_trained = sum(weight.numel() for weight in real.parameters() if weight.requires_grad)
    work = replace(WORK, lora_rank=8, lora_targets=targets)
    assert memory._standing(memory._engine(small.config, work), work)[1]["gradients"] == 4 * n_trained
    said = adapted(small.config, targets)
    assert set(said.split(";")[0].removeprefix("adapters on ").split(", ")) == {name.split(".")[-1] for name in names}


def test_few_layers_make_up_the_model(small):
    assert memory._engine(small.config, WORK).count() == n_weights(small.config) == sum(weight.numel() for weight in small.parameters())


def test_what_adapters_leave_alone():
    said = adapted(published_config("Qwen3-VL-30B-A3B"))
    assert "experts 28.99 billion (93.3%)" in said and said.endswith("no linear layer is called gate_proj, up_proj, down_proj")
    shares = [float(share) for share in re.findall(r"\(([\d.]+)%\)", said)]
    assert 99.5 < sum(shares) <= 100.1
    with pytest.raises(ValueError, match="adapters reach nothing.*up_proj"):
        memory_plan(published_config("Qwen3-VL-30B-A3B"), replace(WORK, lora_rank=8, lora_targets=("up_proj",)))


def test_experts_run_at_once(small):
    "The dry run needs shapes that do not depend on which token goes to which expert."
    if small.config.model_type == "qwen3_vl_moe":
        skeleton = memory._engine(small.config, WORK).model
        assert skeleton.config.get_text_config()._experts_implementation == small.config.get_text_config()._experts_implementation == "grouped_mm"


@pytest.mark.slow
def test_more_experts_need_more_memory_but_not_more_activations():
    config = published_config("Qwen3-VL-30B-A3B")
    fewer = config | {"text_config": config["text_config"] | {"num_experts": 64}}
    work = replace(WORK, lora_rank=8)
    more, less = memory_plan(config, work), memory_plan(fewer, work)
    assert at(more, "forward", "weights") > 1.8 * at(less, "forward", "weights")
    assert at(more, "forward", "activations") == at(less, "forward", "activations")
    twice = memory_plan(config | {"text_config": config["text_config"] | {"num_experts_per_tok": 16}}, replace(work, gradient_checkpointing=False))
    assert at(twice, "forward", "activations") > 1.1 * at(memory_plan(config, replace(work, gradient_checkpointing=False)), "forward", "activations")


def test_a_plan_is_not_changed_by_another(config):
    first = memory_plan(config, WORK).moments
    memory_plan(config, replace(WORK, lora_rank=8, bf16=False, answer_tokens=64))
    assert memory_plan(config, WORK).moments == first


def test_tables(config):
    plan = memory_plan(config, WORK)
    table = plan.table()
    assert table.loc["all", plan.peak] == pytest.approx(plan.total / 1e9)
    assert plan.markdown().splitlines()[0] == "| GB | " + " | ".join(plan.moments) + " |"
    assert plan.peak in plan._repr_html_()


@pytest.mark.parametrize("settings", [{}, {"bf16": True, "gradient_checkpointing": True}])
def test_plan_of_a_whole_run(start, samples, tmp_path, settings):
    settings = {"max_steps": 2, "num_generations": 8, "per_device_train_batch_size": 16, "disable_tqdm": True, **settings}
    run = VideoGRPOConfig.demo(str(tmp_path), **settings)
    trainer = VideoGRPOTrainer(load_policy(start, device="cpu"), args=run, train_dataset=to_trl_dataset(samples))
    plan = memory_plan(trainer.policy, workload(run, [encode_sample(trainer.policy, sample) for sample in samples]))
    fixed = at(plan, "update", "weights") + at(plan, "update", "reference")
    with LiveBytes() as live:
        trainer.train()
    assert 0.9 < (plan.step - fixed) / live.peak < 1.1


def test_workload_of_a_configuration(start, samples, tmp_path):
    policy = load_policy(start, device="cpu")
    prompts = [encode_sample(policy, sample) for sample in samples]
    run = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=32, num_generations=8, gradient_accumulation_steps=2, optim="adamw_torch")
    work = workload(run, prompts, lora_rank=4)
    assert (work.group_size, work.groups_at_once, work.groups, work.answer_tokens, work.lora_rank) == (8, 4, 8, 8, 4)
    assert (work.optim, work.bf16, work.gradient_checkpointing, work.on_cpu, work.sharded) == ("adamw_torch", False, False, True, False)
    assert work.prompt_tokens == max(map(len, prompts))


# ------------------------------------------------------------------------------------------------------------ refusal


def test_families_without_a_plan(tmp_path):
    AutoConfig.for_model("qwen2_vl").save_pretrained(tmp_path)
    for model in (tmp_path, {"model_type": "qwen2_vl"}):
        with pytest.raises(ValueError, match="models of type 'qwen2_vl' are not trained here"):
            model_config(model)


def test_layers_that_differ():
    config = published_config("Qwen3-VL-30B-A3B")
    config["text_config"]["decoder_sparse_step"] = 2
    with pytest.raises(ValueError, match="layers that are all alike, and those of this Qwen3-VL MoE"):
        memory_plan(config, WORK)


def test_refusal(config):
    plan = memory_plan(config, replace(WORK, groups_at_once=4))
    check_memory(plan, int(plan.total * 1.1) + 1)
    with pytest.raises(NotEnoughMemory, match="-p groups_at_once 1: saves") as caught:
        check_memory(plan, int(plan.total * 1.09))
    assert isinstance(caught.value, MemoryError) and caught.value.plan is plan
    row = caught.value.advice.set_index("change").loc["-p groups_at_once 1"]
    assert row["needs (GB)"] == pytest.approx(memory_plan(config, replace(plan.work, groups_at_once=1)).total / 1e9) and row["fits"]


def test_advice_names_parameters_of_the_notebook():
    known = {entry.name for entry in fields(TrainSettings)}
    named = {name for text in memory._changes(replace(WORK, answer_tokens=256)) for name in re.findall(r"-p (\w+)", text)}
    assert named <= known and {"groups_at_once", "max_new_tokens", "optim", "groups", "group_size", "beta", "lora_rank"} <= named


@pytest.mark.slow
def test_advice_together(config):
    work = replace(WORK, answer_tokens=256, groups_at_once=4, bf16=False, on_cpu=True)
    plan = memory_plan(config, work)
    alone = advice(plan, 0)
    assert not alone["fits"].any() and not alone["change"].str.contains("accelerate").any(), "one CPU"
    limit = int(alone["needs (GB)"].min() * 1e9)  # what the best single change needs, and nothing in hand
    table = advice(plan, limit, margin=0.05)
    best = table[table["fits"]]
    assert len(best) == 1 and best["change"].iloc[0].count("-p ") > 1


def test_evaluation_takes_as_many_prompts_as_fit(config):
    plan = memory_plan(config, replace(WORK, answer_batch=32, groups=2))
    assert plan.peak == "evaluation"
    less = with_room(plan, int(plan.total * 0.6))
    assert less.work.answer_batch < 32 and sum(less.moments["evaluation"].values()) * 1.1 <= int(plan.total * 0.6)
    assert with_room(plan, 10**12) is plan
    check_memory(plan, int(plan.total * 0.6))


# -------------------------------------------------------------------------------------------------------------- hours


def test_hours_grow_with_work_and_fall_with_the_device(config):
    plan = memory_plan(config, WORK)
    hours = expected_hours(plan, 100, "H100", n_evaluated=64)
    assert hours.total == pytest.approx(hours.sampling + hours.training + hours.evaluation) and min(hours.sampling, hours.training, hours.evaluation) > 0
    twice = expected_hours(plan, 200, "H100", n_evaluated=64)
    assert twice.training == pytest.approx(2 * hours.training) and twice.evaluation == pytest.approx(hours.evaluation)
    assert expected_hours(plan, 100, "A100").total > expected_hours(plan, 100, "H200").total
    assert expected_hours(plan, 100, "H100", utilisation=2 * hours.utilisation).training == pytest.approx(hours.training / 2)
    assert expected_hours(plan, 100, "H100", answer_tokens=4).sampling < hours.sampling / 2
    assert f"GPU-hours, at {hours.utilisation:.0%} utilisation" in str(hours)
    with pytest.raises(ValueError, match="no rates of 'cpu'"):
        expected_hours(plan, 100, "cpu")


def test_hours_left_by_hand():
    rows = [{"step": step, "seconds": 30 + 3.0 * step, "completions/mean_length": 10} for step in range(1, 21)]  # the first took 30 s more
    assert hours_left(rows, 100) == pytest.approx(80 * 3 / 3600)
    assert hours_left([{"step": step, "seconds": 3.0 * step} for step in (5, 10, 15)], 100) == pytest.approx(85 * 3 / 3600), "every fifth is logged"
    assert hours_left(rows, 20) == 0
    assert np.isnan(hours_left([], 10))


def test_launched_on_several_processes(tmp_path):
    work = replace(WORK, groups=64, groups_at_once=1)
    fsdp = launched(work, Path(memory.__file__).parents[1] / "environments" / "accelerate" / "fsdp2.yaml")
    assert (fsdp.processes, fsdp.sharded, fsdp.groups) == (8, True, 8)
    ddp = launched(work, Path(memory.__file__).parents[1] / "environments" / "accelerate" / "ddp.yaml")
    assert (ddp.processes, ddp.sharded, ddp.groups) == (8, False, 8)


def test_available_memory(tmp_path):
    assert available_memory("cpu", tmp_path) > 0
    for name, text in {"limit_in_bytes": "9000", "usage_in_bytes": "8000"}.items():
        (tmp_path / "memory").mkdir(exist_ok=True)
        (tmp_path / "memory" / f"memory.{name}").write_text(text)
    (tmp_path / "memory" / "memory.stat").write_text("cache 1\ninactive_file 100\n")
    assert available_memory("cpu", tmp_path) == 1100


# --------------------------------------------------------------------------------------------------------- optimisers


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for optim, kind in OPTIMIZERS.items():
        if kind.package:
            with pytest.raises(ImportError, match=rf"{optim}.*pip install {kind.package}"):
                require_optimizer(optim)
        else:
            assert require_optimizer(optim) is kind


def test_names_are_those_of_transformers():
    from transformers.training_args import OptimizerNames

    assert set(OPTIMIZERS) <= {name.value for name in OptimizerNames}


def tensor_bytes(value):
    "Bytes of a tensor, or of the tensors that a quantised one consists of, without the table of levels that all share."
    if hasattr(value, "__tensor_flatten__"):
        return sum(tensor_bytes(getattr(value, name)) for name in value.__tensor_flatten__()[0] if name != "qmap")
    return value.nbytes if torch.is_tensor(value) and value.dim() else 0


def installed():
    "Names of the optimisers that can run here; torchao compiles its step, which takes a while."
    for name, kind in OPTIMIZERS.items():
        if kind.package is None or importlib.util.find_spec(kind.package):
            yield pytest.param(name, marks=[pytest.mark.slow] * (kind.package == "torchao"))


@pytest.mark.parametrize("optim", installed())
def test_optimiser_trains(start, samples, tmp_path, optim):
    "A step moves every weight, and the optimiser keeps as many bytes as planned."
    policy = load_policy(start, device="cpu")
    before = {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}
    settings = {"max_steps": 1, "num_generations": 4, "per_device_train_batch_size": 8, "warmup_steps": 0, "disable_tqdm": True, "beta": 0.0}
    run = VideoGRPOConfig.demo(str(tmp_path), optim=optim, **settings)

    def reward(completions, **_):
        return [float(index % 2) for index in range(len(completions))]

    trainer = VideoGRPOTrainer(policy, reward, run, to_trl_dataset(samples))
    trainer.train()
    assert all(not torch.equal(weight, before[name]) for name, weight in policy.model.named_parameters())
    states = trainer.optimizer.state.values()
    kept = sum(tensor_bytes(value) for state in states for name, value in state.items() if not name.startswith("qmap"))
    plan = memory_plan(policy, Workload(100, 100, 8, optim=optim, on_cpu=True, answer_batch=1))
    # Tensors below 4,096 numbers stay at 32 bits; in a policy this small they are a part that shows.
    assert 0.9 < kept / plan.moments["update"]["optimiser"] < (1.05 if OPTIMIZERS[optim].bits in (None, 32) else 1.75)


# --------------------------------------------------------------------------------------------------------- true size


def peak_resident():
    "Most bytes that this process ever held in memory (Linux)."
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])


class Resident(TrainerCallback):
    "Notes the peak where training ends, before the profiler sorts what it has seen."

    def on_train_end(self, *args, **kwargs):
        self.peak = peak_resident()


def whole_step(folder, name="Qwen3-VL-2B", n_frames=16):
    "One step of environments/recipes/one-gpu-lora.yaml with a smaller model, at its true shape: bytes planned, counted by the allocator, and resident."
    import peft

    before = psutil.Process().memory_info().rss
    torch.set_num_threads(os.cpu_count() or 1)
    config, processor = model_config(published_config(name)), release_processor(name)
    ids = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    config.update({key: processor.tokenizer.convert_tokens_to_ids(token) for key, token in ids.items()})
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    buffers = dict(AutoModelForImageTextToText.from_config(small_of(config)).named_buffers())
    model.to_empty(device="cpu").tie_weights()
    for key, buffer in model.named_buffers():
        buffer.copy_(buffers[key])
    with torch.no_grad():
        for weight in model.parameters():
            weight.uniform_(-0.035, 0.035)
    policy = Policy(model.eval(), processor)
    frames = paint_evening(np.random.default_rng(0))[:, :128, :128].repeat(2, 1).repeat(2, 2)
    difficulty = GroundingDifficulty(n_frames=n_frames, min_length=4, max_length=n_frames - 4)
    sample = make_sample("grounding", write_mp4(Path(folder, "video.mp4"), frames), difficulty=difficulty)
    run = VideoGRPOConfig.paper(
        str(folder), use_cpu=True, max_steps=1, num_generations=8, per_device_train_batch_size=8, gradient_accumulation_steps=1, beta=0.0,
        max_completion_length=8, save_steps=1, learning_rate=1e-5, report_to="none", disable_tqdm=True,
    )  # fmt: skip

    def reward(completions, **_):
        return [float(index % 2) for index in range(len(completions))]

    adapters, resident = peft.LoraConfig(r=16, lora_alpha=32, target_modules=adapter_layers(), task_type="CAUSAL_LM"), Resident()
    trainer = VideoGRPOTrainer(policy, reward, run, to_trl_dataset([sample]), peft_config=adapters, callbacks=[resident])
    plan = memory_plan(policy, workload(run, [encode_sample(policy, sample)], lora_rank=16, weight_dtype="bfloat16"))
    weights = sum(weight.nbytes for weight in trainer.model.parameters())
    counted = weights + measured_peak(trainer.train)
    saved = Path(folder, "checkpoint-1", "adapter_model.safetensors").stat().st_size
    return {"planned": plan.step, "counted": counted, "resident": resident.peak - before, "weights": weights, "saved": saved, "steps": trainer.state.global_step}


def small_of(config):
    "The same with one layer of each kind: for what is not trained, such as the angles of positions."
    few = AutoConfig.for_model(**config.to_dict())
    few.text_config.update({"num_hidden_layers": 1, "vocab_size": 8})
    few.vision_config.update({"depth": 1, "deepstack_visual_indexes": [0]})
    return few


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' count of resident memory")
def test_a_step_at_true_size(tmp_path, monkeypatch):
    "2.1 billion bfloat16 weights with LoRA: rollout, loss, optimiser and checkpoint in a fresh process. Takes minutes and 6 GB."
    pytest.importorskip("peft", reason="pip install peft")
    if available_memory() < 9e9:
        pytest.skip("needs 9 GB of free memory")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")  # else glibc keeps what was freed, some GB of it
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        found = fresh.submit(whole_step, tmp_path).result()
    print({name: value / 1e9 for name, value in found.items()})
    assert found["steps"] == 1 and found["saved"] > 4 * 16e6
    assert abs(found["planned"] / found["counted"] - 1) < 0.05
    assert abs(found["planned"] / found["resident"] - 1) < 0.10


def test_chapter_imports_nothing_optional():
    source = Path(memory.__file__).read_text(encoding="utf-8")
    assert "import bitsandbytes" not in source and "import torchao" not in source and "import peft" not in source
