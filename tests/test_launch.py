"""Runs from the command line: killed and resumed, in one process and in two, plain, with FSDP2, ZeRO-2 and ZeRO-3."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import accelerate
import psutil
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from videossr import launch, runs
from videossr.data import load_samples, save_samples
from videossr.demo import demo_videos
from videossr.evaluate import read_records
from videossr.launch import open_run, read_parameters
from videossr.policy import load_policy, tiny_policy
from videossr.tasks import make_sample

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "environments" / "accelerate"
SMALL = {"steps": 8, "save_steps": 2, "n_train": 12, "n_held_out": 6, "warm_steps": 6, "groups": 2, "group_size": 4}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    cache = os.environ.get("VIDEOSSR_CACHE") or str(tmp_path_factory.mktemp("cache"))
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "VIDEOSSR_CACHE": cache, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def command(recipe, folder, *more):
    return [sys.executable, "-m", "videossr.launch", str(recipe), "-p", "output_dir", str(folder), *more]


def run_to_end(command, environment, timeout=300):
    done = subprocess.run(command, check=False, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def weights_of(folder):
    return load_file(Path(folder) / "checkpoints" / "final" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, recipe, environment):
    "A run that nothing interrupts."
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = run_to_end(command(recipe, folder), environment)
    assert str(folder) in done.stdout
    return folder


def killed(command, environment, when):
    "Starts the command and kills it as soon as `when()` says so. True if it was killed, False if it came to its end."
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if when():
                os.kill(process.pid, signal.SIGKILL)
                return True
            time.sleep(0.002)
    assert process.returncode == 0
    return False


def check_killed(whole, recipe, environment, tmp_path, chosen=None):
    "Kills a run once at each of the chosen stages, or at all; it ends as the undisturbed one."
    folder = tmp_path / "run"
    run = runs.Run(folder)
    begun = time.monotonic()
    stages = {
        "samples": lambda: (folder / "samples" / "train.parquet").exists(),
        "warm start": lambda: (folder / "checkpoints" / "start.part").exists() or (folder / "checkpoints" / "start").exists(),
        "some steps": lambda: run.log_path.exists() and len(run.log_rows()) >= 3,
        "in a checkpoint": lambda: (folder / "checkpoints" / "checkpoint-6").exists(),
        "evaluation": lambda: (folder / "records" / "after.jsonl").exists(),
    }
    assert (chosen or set()) <= stages.keys()
    for name, when in ((name, when) for name, when in stages.items() if not chosen or name in chosen):
        assert killed(command(recipe, folder), environment, when), f"too late for a kill at {name}"
        assert not (folder / "results.json").exists()
    run_to_end(command(recipe, folder), environment)
    assert time.monotonic() - begun < 600
    expected, found = weights_of(whole), weights_of(folder)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        assert torch.equal(weight, found[name]), name
    assert [row["step"] for row in run.log_rows()] == list(range(1, SMALL["steps"] + 1))
    assert [row["reward"] for row in run.log_rows()] == [row["reward"] for row in runs.Run(whole).log_rows()]
    assert run.rollout_rows() == runs.Run(whole).rollout_rows() and len(run.rollout_rows()) == SMALL["steps"] * SMALL["groups"]
    for stage in ("before", "after"):
        records, others = (read_records(place / "records" / f"{stage}.jsonl") for place in (folder, whole))
        assert [(record.id, record.reply) for record in records] == [(record.id, record.reply) for record in others]
    assert not list((folder / "checkpoints").glob("*.part"))


def test_a_killed_run_ends_as_one_that_was_not(whole, recipe, environment, tmp_path):
    check_killed(whole, recipe, environment, tmp_path, {"warm start", "some steps"})


@pytest.mark.slow
def test_a_run_killed_at_every_stage_ends_as_one_that_was_not(whole, recipe, environment, tmp_path):
    check_killed(whole, recipe, environment, tmp_path)


@pytest.mark.slow
def test_fifty_kills_at_random_moments(whole, recipe, environment, tmp_path):
    rng, folder, kills = random.Random(0), tmp_path / "run", 0
    while kills < 50:
        limit = time.monotonic() + rng.uniform(4, 14)
        if killed(command(recipe, folder), environment, lambda limit=limit: time.monotonic() > limit):
            kills += 1
            continue
        for name, weight in weights_of(whole).items():
            assert torch.equal(weight, weights_of(folder)[name]), name
        folder = tmp_path / f"run-{kills}"


def test_tensorboard_has_the_curves(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    assert {"train/reward", "train/frac_reward_zero_std", "train/tokens/computed", "train/tokens/copied"} <= set(names)
    assert any(name.startswith("train/reward/") for name in names) and any(name.startswith("train/zero_variance/") for name in names)
    assert [event.step for event in events.Scalars("train/reward")] == list(range(1, SMALL["steps"] + 1))


def test_other_settings_leave_a_run_alone(whole):
    before = (whole / "results.json").read_bytes()
    with pytest.raises(ValueError, match="steps is 8 there, 9 here"):
        open_run({**SMALL, "steps": 9, "output_dir": str(whole)})
    assert (whole / "results.json").read_bytes() == before


def test_numbers_on_the_command_line(recipe):
    assert runs.settings_of(read_parameters(recipe, [("learning_rate", "1e-6"), ("strict", "true")])).learning_rate == 1e-6
    assert runs.settings_of(read_parameters(recipe, [("strict", "true")])).strict is True


# ---------------------------------------------------------------------------------------------------- several processes

# Trains two steps with plain gradient descent on rollouts that depend on the prompt alone, so that one process and two have
# the same ones.
WORKER = """
import hashlib, json, os, sys
from pathlib import Path
import numpy as np
import torch
from transformers import TrainerCallback
import videossr.grpo as grpo
from videossr.data import load_samples, to_trl_dataset
from videossr.launch import leave
from videossr.policy import Answers, load_policy
from videossr.runs import TrainSettings, adapters

folder, out, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
if not options.pop("sampled", False):
    def fixed(policy, batch, n, *, max_new_tokens, **_):
        rows = []
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"]):
            seed = int(hashlib.blake2b(ids[mask.bool()].numpy().tobytes(), digest_size=4).hexdigest(), 16)
            rows.append(torch.from_numpy(np.random.default_rng(seed).integers(20, 280, (n, max_new_tokens))))
        tokens = torch.cat(rows)
        lengths, unknown = torch.full((len(tokens),), max_new_tokens), torch.zeros(tokens.shape)
        return Answers(tokens, lengths, lengths < 0, unknown, unknown)
    grpo.sample_answers = fixed

def reward(completions, task, **_):
    "The tasks differ, and one is silent."
    return [0.5 if name == "counting" else len(text[0]["content"]) % 7 / 7 for text, name in zip(completions, task)]

torch.set_num_threads(1)
torch.manual_seed(0)  # of adapters
rank = options.pop("lora_rank", 0)
policy = load_policy(folder / "start", device="cpu", dtype=torch.float32)
settings = {"num_generations": 4, "max_steps": 2, "warmup_steps": 0, "optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0, "max_completion_length": 5, "disable_tqdm": True, **options}
trainer = grpo.VideoGRPOTrainer(policy, reward, grpo.VideoGRPOConfig.demo(str(out), **settings), to_trl_dataset(load_samples(folder / "samples.parquet")),
                                peft_config=adapters(TrainSettings(lora_rank=rank)))
asked = []
def all_ended(self, ended, known=grpo.VideoGRPOTrainer._all_ended):
    asked.append(known(self, ended))
    return asked[-1]
grpo.VideoGRPOTrainer._all_ended = all_ended
kept = []
class Keep(TrainerCallback):
    def on_log(self, *_, logs=None, **__):
        kept.append(trainer.rollouts() if "reward" in (logs or {}) else [])  # of all processes, which all ask
trainer.add_callback(Keep())
trainer.train()
trainer.save_model(str(out))
if trainer.is_world_process_zero():
    engine, zero = str(trainer.accelerator.distributed_type).split(".")[-1], trainer.args.deepspeed_plugin
    about = {"asked": len(asked), "engine": f"ZERO-{zero.zero_stage}" if zero else engine, "parts": sorted({"DTensor" if hasattr(weight, "device_mesh") else "ds" if hasattr(weight, "ds_id") else "whole" for weight in trainer.model.parameters()})}
    (out / "log.json").write_text(json.dumps({"log": trainer.state.log_history, "rollouts": kept, **about, "world": trainer.accelerator.num_processes}))
if torch.distributed.is_initialized():
    leave()
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    videos = demo_videos(4, folder=folder / "demo", progress=False)
    tasks = ("grounding", "jigsaw", "counting", "grounding")
    save_samples([make_sample(task, video, difficulty="demo", index=index) for index, video in enumerate(videos) for task in tasks[:2]]
                 + [make_sample("counting", video, difficulty="demo", index=9) for video in videos], folder / "samples.parquet")  # fmt: skip
    tiny_policy(0).save(folder / "start")
    (folder / "worker.py").write_text(WORKER)
    return folder


def worked(job, environment, name, launcher, **options):
    "Trains in a way of launching; returns weights and log."
    out = job / name
    run_to_end([*launcher, str(job / "worker.py"), str(job), str(out), json.dumps(options)], environment, timeout=900)  # DeepSpeed compiles the first time
    return load_file(out / ("adapter_model.safetensors" if options.get("lora_rank") else "model.safetensors")), json.loads((out / "log.json").read_text())


TWO = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_cpu_threads_per_process", "1"]
WAYS = {
    "plain": [*TWO, "--multi_gpu"],
    "fsdp2": [*TWO, "--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "--fsdp_state_dict_type", "FULL_STATE_DICT",
              "--fsdp_reshard_after_forward", "true"],
    "zero2": [*TWO, "--use_deepspeed", "--zero_stage", "2", "--gradient_accumulation_steps", "1"],
    "zero3": [*TWO, "--use_deepspeed", "--zero_stage", "3", "--zero3_init_flag", "false", "--zero3_save_16bit_model", "true",
              "--gradient_accumulation_steps", "1"],
}  # fmt: skip
ENGINES = {"plain": ("MULTI_CPU", ["whole"]), "fsdp2": ("FSDP", ["DTensor"]), "zero2": ("ZERO-2", ["whole"]), "zero3": ("ZERO-3", ["ds"])}  # and what it makes of the weights


def launcher_of(way):
    "How to start two processes; skips where what they need is not installed."
    if way.startswith("zero"):
        pytest.importorskip("deepspeed", reason='pip install "videossr[deepspeed]"')
    return WAYS.get(way)


@pytest.fixture(scope="module")
def alone(job, environment):
    "One process on the whole batch, with a KL term and without one."
    return {beta: worked(job, environment, f"alone-{beta}", [sys.executable], per_device_train_batch_size=16, beta=beta) for beta in (0.2, 0.0)}


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("beta", [0.2, 0.0])
def test_two_processes_take_the_step_of_one(job, environment, alone, way, beta):
    "Same loss, same change of the weights; without KL, silent groups are left out, however they fall on the processes."
    start = load_file(job / "start" / "model.safetensors")
    weights, log = alone[beta]
    found, other = worked(job, environment, f"{way}-{beta}", launcher_of(way), per_device_train_batch_size=8, beta=beta)
    assert other["world"] == 2 and (other["engine"], other["parts"]) == ENGINES[way]
    assert found.keys() == weights.keys(), "tied weights are kept once"
    for mine, theirs in zip(log["log"][:2], other["log"][:2], strict=True):
        for name in ("loss", "reward", "kl", "frac_reward_zero_std", "grad_norm", "tokens/copied"):
            if name in mine:  # no kl without a KL term
                assert theirs[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-5), name
        assert {name for name in mine if name.startswith("reward/")} == {name for name in theirs if name.startswith("reward/")}
    moved = {name: weight - start[name] for name, weight in weights.items()}
    largest = max(change.norm() for change in moved.values())
    assert largest > 1e-3
    for name, change in moved.items():
        assert (found[name] - weights[name]).norm() <= 1e-4 * change.norm() + 1e-6 * largest, name


@pytest.fixture(scope="module")
def sampled_alone(job, environment):
    return worked(job, environment, "sampled-alone", [sys.executable], per_device_train_batch_size=16, sampled=True, seed_per_prompt=True)


@pytest.mark.parametrize(("n", "passes"), [(2, 2), pytest.param(2, 1, marks=pytest.mark.slow), pytest.param(4, 1, marks=pytest.mark.slow)])
def test_any_number_of_processes_has_the_same_rollouts(job, environment, sampled_alone, n, passes):
    "However they share the prompts of a step, and in how many passes."
    options = {"per_device_train_batch_size": 16 // n // passes, "gradient_accumulation_steps": passes, "sampled": True, "seed_per_prompt": True}
    (weights, log), (found, other) = sampled_alone, worked(job, environment, f"sampled-{n}-{passes}", [*[str(n) if one == "2" else one for one in TWO], "--multi_gpu"], **options)
    replies = [[(group["sample"], group["replies"]) for group in step] for step in log["rollouts"]]
    assert other["world"] == n and [[(group["sample"], group["replies"]) for group in step] for step in other["rollouts"]] == replies
    assert sum(map(len, replies)) == 8 and len({reply for step in replies for _, group in step for reply in group}) > 16
    assert all(torch.allclose(found[name], weight, rtol=1e-4, atol=1e-5) for name, weight in weights.items())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["plain", "fsdp2"])
def test_processes_with_silent_groups_alone_wait_for_nobody(job, environment, way):
    "Counting is silent: where all groups of one process are, and where each replaces as many as the one that lacks most."
    options = {"per_device_train_batch_size": 4, "sampled": True, "refill": 3, "beta": 0.0, "max_steps": 4}
    _, log = worked(job, environment, f"refill-{way}", launcher_of(way), **options)
    steps = [step for step in log["log"] if "reward" in step]
    assert len(steps) == 4 and any(step.get("refilled", 0) for step in steps)


@pytest.mark.slow
def test_another_number_of_processes_goes_on(recipe, environment, tmp_path):
    "With `seed_per_prompt`, to the rollouts of one process that was not interrupted; the log knows who made which step."
    each = ["-p", "options", "seed_per_prompt=true", "-p", "steps", "4"]
    run_to_end(command(recipe, tmp_path / "whole", *each), environment)
    run, whole = runs.Run(tmp_path / "run"), runs.Run(tmp_path / "whole")
    two = [*TWO, "--config_file", str(CONFIGS / "cpu-2.yaml"), "--mixed_precision", "no", "-m", "videossr.launch", *command(recipe, run.folder, *each)[3:]]
    with subprocess.Popen(two, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not run.path("checkpoints", "checkpoint-2", "complete").exists():
            assert process.poll() is None
            time.sleep(0.01)
        family = psutil.Process(process.pid).children(recursive=True)
        for one in [process, *family]:
            os.kill(one.pid, signal.SIGKILL)
        psutil.wait_procs(family, timeout=30)
    run_to_end(command(recipe, run.folder, *each), environment)
    assert [row["processes"] for row in run.log_rows()] == [2, 2, 1, 1] and run.read_json("results.json")["processes"] == [1, 2]
    assert whole.read_json("results.json")["processes"] == [1]
    said = [[(group["step"], group["sample"], group["replies"]) for group in one.rollout_rows()] for one in (run, whole)]
    assert said[0] == said[1]


SOON = {"sampled": True, "seed_per_prompt": True, "max_completion_length": 12, "generation_kwargs": {"eos_token_id": [*range(20, 150)]}}  # answers end after some tokens


@pytest.fixture(scope="module")
def ended_alone(job, environment):
    return worked(job, environment, "ended-alone", [sys.executable], per_device_train_batch_size=16, **SOON)


@pytest.mark.parametrize("way", ["plain", "fsdp2", "zero3"])
def test_processes_sample_and_end_together(job, environment, ended_alone, way):
    "With the real sampler, answers end at different steps in the two processes. Those that share weights compute on together; none waits for ever, and others do not ask each other."
    (weights, log), (found, other) = ended_alone, worked(job, environment, f"ended-{way}", launcher_of(way), per_device_train_batch_size=8, **SOON)
    assert (other["asked"] > 0) == (way != "plain") and other["world"] == 2
    said = [[[(group["sample"], group["replies"]) for group in step] for step in one["rollouts"]] for one in (log, other)]
    assert said[0] == said[1], "the rollouts of one process"
    assert all(torch.allclose(found[name], weight, rtol=1e-4, atol=1e-5) for name, weight in weights.items())


@pytest.fixture(scope="module")
def adapted_alone(job, environment):
    pytest.importorskip("peft", reason="pip install peft")
    return worked(job, environment, "adapted-alone", [sys.executable], per_device_train_batch_size=16, lora_rank=4)


@pytest.mark.slow
@pytest.mark.parametrize("way", sorted(WAYS))
def test_two_processes_train_the_adapters_of_one(job, environment, adapted_alone, way):
    (weights, log), (found, other) = adapted_alone, worked(job, environment, f"adapted-{way}", launcher_of(way), per_device_train_batch_size=8, lora_rank=4)
    assert found.keys() == weights.keys() and other["engine"] == ENGINES[way][0]
    assert [row["loss"] for row in other["log"][:2]] == pytest.approx([row["loss"] for row in log["log"][:2]], rel=1e-4, abs=1e-6)
    second = {name: weight for name, weight in weights.items() if "lora_B" in name}  # zero in the beginning
    assert max(weight.abs().max() for weight in second.values()) > 1e-4
    assert all((found[name] - weight).norm() <= 1e-3 * weight.norm() + 1e-7 for name, weight in weights.items())


def check_kept(run):
    "What was trained is a policy like any other, whoever shared its weights: each once, nothing but the policy beside them, and transformers finds all."
    start, final = (run.path("checkpoints", name) for name in ("start", "final"))
    assert {path.name for path in final.iterdir()} == {path.name for path in start.iterdir()}
    shapes = [{name: weight.shape for name, weight in load_file(folder / "model.safetensors").items()} for folder in (start, final)]
    assert shapes[0] == shapes[1]
    model, found = AutoModelForImageTextToText.from_pretrained(final, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight, "tied"
    ours = load_policy(final, device="cpu").model.state_dict()
    assert all(torch.equal(weight, ours[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("config", "rank"),
    [("cpu-2", 0), ("fsdp2", 0), ("zero2", 0), ("zero3", 0), *(pytest.param(config, 4, marks=pytest.mark.slow) for config in ("cpu-2", "zero2", "zero3"))],
)
def test_a_run_in_two_processes(recipe, environment, tmp_path, config, rank):
    if rank:
        pytest.importorskip("peft", reason="pip install peft")
    launcher_of(config)
    path = ["--config_file", str(CONFIGS / f"{config}.yaml")]
    launcher = [*TWO, *path, "--mixed_precision", "no", "-m", "videossr.launch"]
    run_to_end([*launcher, str(recipe), "-p", "output_dir", str(tmp_path / "run"), "-p", "steps", "2", "-p", "lora_rank", str(rank)], environment)
    run = runs.Run(tmp_path / "run")
    held_out = load_samples(run.path("samples", "held_out.parquet"))
    assert [row["step"] for row in run.log_rows()] == [1, 2]
    assert [group["step"] for group in run.rollout_rows()] == [1, 1, 2, 2], "one line a group, whichever process sampled it"
    for stage in ("before", "after"):
        assert len(read_records(run.path("records", f"{stage}.jsonl"))) == len(held_out) == SMALL["n_held_out"]
    check_kept(run)
    assert run.read_json("results.json")["overall"]["after"]["n"] == SMALL["n_held_out"]
    if rank:
        return
    before, after = (run.path("records", f"{stage}.jsonl") for stage in ("before", "after"))
    kept = before.read_text().replace('"reply": "', '"reply": "as it was ')
    before.write_text(kept)
    after.write_text("".join(after.read_text().splitlines(keepends=True)[:2]))
    run.path("results.json").unlink()
    run_to_end([*launcher, "--run", str(run.folder)], environment)
    assert before.read_text() == kept and kept.count("as it was") == SMALL["n_held_out"], "nobody is asked again"
    assert len(read_records(after)) == SMALL["n_held_out"], "the others are"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_configurations(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= 2
    if path.stem == "fsdp2":
        names = config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"].split(",")
        assert set(names) <= {type(part).__name__ for part in tiny_policy().model.modules()}


STAND_INS = {
    "scontrol": 'test "$1 $2 $3" = "show hostnames node-[a-b]" || exit 1; echo node-a; echo node-b',
    "srun": 'test "$1" = --kill-on-bad-exit=1 || exit 9; shift; echo "$SRUN_CPUS_PER_TASK" >"$SEEN.cpus"; for node in 0 1; do SLURM_NODEID=$node "$@" || exit; done',
    "accelerate": 'printf "%s\\0" "$@" >"$SEEN.$SLURM_NODEID"',
}
JOB = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_GPUS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "64"}
SBATCH = ROOT / "environments" / "slurm" / "train.sbatch"


def submitted(folder, given, stand_ins=STAND_INS, **job):
    "What the Slurm script does where these stand in for Slurm's commands."
    for name, text in stand_ins.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    settings = {name: value for name, value in (JOB | job).items() if value is not None}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SRUN_"))}
    environment = {**kept, **settings, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "SEEN": str(folder / "seen")}
    return subprocess.run(["bash", str(SBATCH), *given], check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("gpus", "n"), [("8", 16), ("h100:4", 8)])
def test_slurm_script_hands_on_its_arguments(tmp_path, gpus, n):
    "To one launcher a node, with all that they hold, of which nothing is run."
    mark = tmp_path / "ran"
    given = ["environments/recipes/paper.yaml", "-p", "video_dir", "my  videos/it's $HOME \"here\"", "-p", "tasks", f"$(touch {mark})", f"`touch {mark}`", f"; touch {mark}", "a\nb", "", "*", "--x=\\"]  # fmt: skip
    done = submitted(tmp_path, given, SLURM_GPUS_PER_NODE=gpus)
    assert done.returncode == 0, done.stderr
    assert not mark.exists() and (tmp_path / "seen.cpus").read_text() == "64\n"
    for node in (0, 1):
        seen = (tmp_path / f"seen.{node}").read_text().split("\0")[:-1]
        assert seen[-len(given) - 2 :] == ["-m", "videossr.launch", *given]
        options = dict(zip(seen[1 : -len(given) - 2 : 2], seen[2 : -len(given) - 2 : 2], strict=True))
        expected = {"num_machines": "2", "num_processes": str(n), "machine_rank": str(node), "main_process_ip": "node-a", "main_process_port": "20007"}
        assert seen[0] == "launch" and {name: options[f"--{name}"] for name in expected} == expected


@pytest.mark.parametrize(
    ("job", "stand_ins", "told"),
    [({}, {"scontrol": "exit 1"}, "scontrol cannot name the nodes of node-[a-b]"), ({}, {"scontrol": "exit 0"}, "scontrol names no node"),
     ({"SLURM_GPUS_PER_NODE": None}, {}, "submit it with --gpus-per-node"), ({"SLURM_GPUS_PER_NODE": "a:2,b:many"}, {}, "submit it with --gpus-per-node"),
     ({"SLURM_JOB_ID": None}, {}, "submit this script with sbatch"), ({}, {"accelerate": "exit 3"}, "")],
)  # fmt: skip
def test_slurm_script_ends_with_an_error(tmp_path, job, stand_ins, told):
    done = submitted(tmp_path, ["x.yaml"], STAND_INS | stand_ins, **job)
    assert done.returncode != 0 and told in done.stderr and not (tmp_path / "seen.0").exists()


@pytest.mark.parametrize("how", ["recipe", "run"])
def test_a_process_takes_its_gpu_before_it_loads_anything(monkeypatch, tmp_path, recipe, how):
    made = open_run({**SMALL, "output_dir": str(tmp_path)})
    runs.release_run(tmp_path)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    events = []

    class Met:
        "Stands for accelerate's state, which sets the device when it is made."

        def __init__(self, cpu, timeout):
            events.append("met")

        def wait_for_everyone(self):
            events.append("waited")

    class Loaded(Exception):
        pass

    def load(*_, **__):
        events.append("loaded")
        raise Loaded

    monkeypatch.setattr(launch, "PartialState", Met)
    monkeypatch.setattr(launch.runs, "make_policy", load)
    monkeypatch.setattr(launch.runs, "make_data", lambda *_: ([], [], []))
    monkeypatch.setattr(launch, "wait_until", lambda *_, **__: None)
    monkeypatch.setattr(launch, "_see", lambda _: None)
    monkeypatch.setattr(launch, "start_watch", lambda: None)
    with pytest.raises(Loaded):
        launch.main(["--run", str(made.folder)] if how == "run" else [str(recipe), "-p", "output_dir", str(tmp_path)])
    assert events[0] == "met" and events[-1] == "loaded"


def test_the_gpu_that_is_taken_is_the_process_s_own(monkeypatch, tmp_path):
    "By accelerate itself, with stand-ins for the GPUs and for the network."
    run, events = runs.Run(tmp_path), []
    run.write_json("config.json", {**asdict(runs.train_settings(grpo="paper", warm_steps=0)), "seed": 0, "video_dir": "", "tasks": ""})
    for name, value in {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)

    class Loaded(Exception):
        pass

    def load(*_, **__):
        raise Loaded

    stand_ins = {
        torch.cuda: {"is_available": lambda: True, "device_count": lambda: 2, "set_device": lambda device: events.append(str(device))},
        torch.distributed: {"init_process_group": lambda **_: events.append("met"), "is_initialized": lambda: "met" in events, "get_world_size": lambda: 4, "get_rank": lambda: 3},
        accelerate.state: {"is_cuda_available": lambda: True, "check_cuda_p2p_ib_support": lambda: True},
        launch: {"start_watch": lambda: None, "wait_until": lambda *_, **__: None},
        launch.runs: {"make_data": lambda *_: events.append("data") or ([], [], []), "make_policy": load},
    }
    for owner, names in stand_ins.items():
        for name, value in names.items():
            monkeypatch.setattr(owner, name, value, raising=False)
    monkeypatch.setattr(accelerate.PartialState, "_shared_state", {})
    with pytest.raises(Loaded):
        launch.train_run(run)
    assert events == ["met", "cuda:1", "data"]


@pytest.mark.parametrize(("engine", "stage", "sharded"), [("FSDP", 0, True), ("DEEPSPEED", 2, False), ("DEEPSPEED", 3, True)])
def test_memory_is_planned_for_what_is_shared(monkeypatch, tmp_path, engine, stage, sharded):
    "ZeRO-2 leaves all weights on each device."
    settings, known, found = runs.train_settings(), runs.grpo_config, []

    def configured(*given, **changes):
        monkeypatch.delenv(f"ACCELERATE_USE_{engine}")  # the configuration would set the engine up
        config = known(*given, **changes)
        monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
        config.deepspeed_plugin = SimpleNamespace(zero_stage=stage) if stage else None
        return config

    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    monkeypatch.setattr(runs, "grpo_config", configured)
    monkeypatch.setattr(runs, "memory_plan", lambda policy, work: found.append(work))
    monkeypatch.setattr(runs, "with_room", lambda *_: None)
    sample = make_sample("counting", demo_videos(1, folder=tmp_path / "demo", progress=False)[0], difficulty="demo", index=0)
    runs.plan_of(runs.Run(tmp_path), tiny_policy(), [sample], settings, 0)
    assert found[0].sharded is sharded
