"Recipes for other trainers: what the preset says stands in them, what cannot be honoured is refused, and the peers' own parsers take them."
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from videossr import peers
from videossr.data import build_dataset, export_easyr1, export_swift, export_verl, load_samples
from videossr.demo import demo_videos
from videossr.grpo import VideoGRPOConfig
from videossr.peers import PEERS, easyr1_settings, override_text, read_export, recipe_settings, swift_settings, verl_settings, write_recipe
from videossr.released import write_release
from videossr.runs import PRESETS, TrainSettings

EXPORTS = {"verl": export_verl, "swift": export_swift, "easyr1": export_easyr1}
MAKE = {"verl": verl_settings, "swift": swift_settings, "easyr1": easyr1_settings}
PAPER = PRESETS["paper"]
AT = {  # where a setting stands in each recipe
    "learning_rate": ("actor_rollout_ref.actor.optim.lr", "learning_rate", "worker.actor.optim.lr"),
    "beta": ("actor_rollout_ref.actor.kl_loss_coef", "beta", "algorithm.kl_coef"),
    "group_size": ("actor_rollout_ref.rollout.n", "num_generations", "worker.rollout.n"),
    "max_new_tokens": ("data.max_response_length", "max_completion_length", "data.max_response_length"),
    "steps": ("trainer.total_training_steps", "max_steps", "trainer.max_steps"),
    "save_steps": ("trainer.save_freq", "save_steps", "trainer.save_freq"),
    "model": ("actor_rollout_ref.model.path", "model", "worker.actor.model.model_path"),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "Exports by kind, under a path with blanks, quotes and letters that are not ASCII."
    folder = tmp_path_factory.mktemp("data") / "my \"rows\", é's = 1"
    demo_videos(4, folder=folder / "videos", progress=False)
    build_dataset(folder / "videos", folder / "dataset", "demo", 80, held_out=0.25, n_validation=6, one_task=False, workers=1, card=False, progress=False)
    for kind, write in EXPORTS.items():
        for split in ("train", "validation"):
            write(load_samples(folder / "dataset", split), folder / kind, split, shard_size=50, progress=False)
    return {kind: folder / kind for kind in EXPORTS}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A small stand-in for Qwen3-VL-8B: no parser has to download one."
    return write_release(tmp_path_factory.mktemp("models") / "a model", "Qwen3-VL-8B", vocabulary="small", tied=False)


def made(exported, kind, validation="validation", **changes):
    return MAKE[kind](peers.Recipe(read_export(exported[kind]), *recipe_settings(kind, **changes), validation=validation))


def at(tree, name):
    for part in [name] if name in tree else name.split("."):
        tree = tree[part]
    return tree


@pytest.mark.parametrize("kind", PEERS)
@pytest.mark.parametrize("setting", AT)
def test_settings_come_from_the_preset_and_follow_changes(exported, kind, setting):
    key, usual = AT[setting][list(PEERS).index(kind)], getattr(PAPER, setting)
    assert at(made(exported, kind), key) == usual
    other = usual + "-Thinking" if isinstance(usual, str) else usual * 2
    assert at(made(exported, kind, **{setting: other}), key) == other


@pytest.mark.parametrize("kind", PEERS)
def test_every_setting_is_honoured_or_refused(exported, kind):
    "A change of any field changes the recipe, or is refused with its name."
    others = {"optim": "adafactor", "dtype": "bfloat16", "parse": "lenient", "markers": "installed", "final_dtype": "bfloat16", "device": "cpu", "adaptive": "adaptive", "grpo": "demo",
              "reward": "my_module:f", "data": "rows.jsonl", "answer": "choice", "mix": "demo", "difficulty": "easy", "pretext": 0.25, "strict": True,
              "options": {"weight_decay": 0.5}, "model": "Qwen/Qwen3-VL-4B-Instruct"}  # fmt: skip
    usual = made(exported, kind)
    for name, one in TrainSettings.__dataclass_fields__.items():
        value = others.get(name, getattr(PAPER, name) * 2 if getattr(PAPER, name) else 1)
        try:
            assert made(exported, kind, **{name: value}) != usual, f"{name} is dropped"
        except ValueError as error:
            assert name in str(error) or one.name in ("data", "pretext", "answer", "reward", "adaptive"), f"{name}: {error}"


@pytest.mark.parametrize("kind", PEERS)
def test_every_option_is_honoured_or_refused(exported, kind):
    usual = made(exported, kind, options={"lr_scheduler_type": "constant_with_warmup"})
    values = {"lr_scheduler_type": "cosine", "loss_type": "dapo", "scale_rewards": "none", "importance_sampling_level": "sequence", "gradient_checkpointing": False, "top_k": 5,
              "num_iterations": 3, "save_total_limit": 7, "warmup_steps": 7}  # fmt: skip
    known = peers._OPTIONS[kind].split()
    for name in known:
        options = {"lr_scheduler_type": "constant_with_warmup", name: values.get(name, 0.37)}
        try:
            assert made(exported, kind, options=options) != usual, f"{name} is dropped"
        except ValueError as error:
            assert name in str(error)
    for name in set(VideoGRPOConfig.__dataclass_fields__) - set(known):
        with pytest.raises(ValueError, match=rf"\b{name}\b"):
            recipe_settings(kind, options={name: 1})


@pytest.mark.parametrize("kind", PEERS)
@pytest.mark.parametrize("nodes, gpus", [(1, 1), (1, 8), (2, 4), (4, 8)])
def test_rollouts_are_shared_out_whole(exported, kind, nodes, gpus):
    recipe = peers.Recipe(read_export(exported[kind]), *recipe_settings(kind), nodes=nodes, gpus=gpus)
    settings = MAKE[kind](recipe)
    assert recipe.at_once * recipe.devices <= recipe.rollouts == 512 and recipe.rollouts % (recipe.at_once * recipe.devices) == 0
    if kind == "swift":
        assert settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"] * nodes * gpus == recipe.rollouts
        assert settings["ENV"]["NPROC_PER_NODE"] == gpus and settings["ENV"]["OMP_NUM_THREADS"] == 1
    else:
        assert (at(settings, "trainer.nnodes"), at(settings, "trainer.n_gpus_per_node")) == (nodes, gpus)


@pytest.mark.parametrize("kind", PEERS)
def test_a_script_hands_on_what_was_written(exported, kind, tmp_path):
    "With stand-ins on the path that print what they hear: any folder to start from, blanks, threads, further settings."
    script = write_recipe(exported[kind], validation="validation", steps=20)
    for name in ("python", "swift"):
        (tmp_path / name).write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$0" "$OMP_NUM_THREADS" "$@"\n')
        (tmp_path / name).chmod(0o755)
    surroundings = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = lambda **more: subprocess.run([script, "more=a b"], env={**surroundings, **more}, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    heard = run()
    assert heard[1] == "1" and heard[-1] == "more=a b" and run(OMP_NUM_THREADS="4")[1] == "4"
    if kind == "verl":
        wanted = made(exported, kind, steps=20)
        assert heard[2:4] == ["-m", "verl.trainer.main_ppo"] and heard[4:-1] == [f"{name}={override_text(value)}" for name, value in wanted.items()]
    else:
        [config] = [word.removeprefix("config=") for word in heard if word.endswith("config.yaml")]
        assert yaml.safe_load(Path(config).read_text()) == made(exported, kind, steps=20)
    for path in (exported[kind] / "reward.py", *read_export(exported[kind]).files["train"]):
        assert path.exists()


def test_several_nodes_of_swift_want_their_number(exported, tmp_path):
    script = write_recipe(exported["swift"], nodes=2, gpus=4)
    lost = subprocess.run(["bash", script], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    assert lost.returncode and "NODE_RANK: number of this node" in lost.stderr


@pytest.mark.parametrize("kind", PEERS)
def test_the_page_says_what_is_otherwise(exported, kind):
    page = write_recipe(exported[kind], strict=True, parse="lenient").with_name("README.md").read_text()
    assert "strict, replies read as 'lenient'" in page and "No rows are held out" in page and peers.TRIED[kind] in page
    assert "merge them" in write_recipe(exported[kind], lora_rank=8).with_name("README.md").read_text()
    assert "No rows are held out" not in write_recipe(exported[kind], validation="validation").with_name("README.md").read_text()


def test_strict_and_lenient_reach_the_reward(exported):
    reward: dict = {}
    exec((exported["easyr1"] / "reward.py").read_text(), reward)
    one = {"response": "It is 3,1,5.", "ground_truth": "counting 3,1,4"}
    score = lambda **options: reward["compute_score"]([one], **options)[0]["overall"]
    given = [made(exported, "easyr1", **changes)["worker"]["reward"]["reward_function_kwargs"] for changes in ({}, {"strict": True})]
    assert score(**given[0]) > score(**given[1]) > 0


def test_the_reward_needs_no_trainer():
    "It runs beside another TRL, or none: nothing of ours that is heavy is imported."
    code = "import sys, videossr.beyond, videossr.rewards; print([name for name in ('torch', 'transformers', 'trl', 'datasets') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------------- the parsers themselves


def test_verls_own_configuration_takes_the_recipe(exported):
    "Composed as on its command line: every override arrives as it was meant, and verl's checks pass."
    how = "pip install --no-deps verl tensordict torchdata codetiming pyvers && pip install hydra-core ray"
    pytest.importorskip("verl", reason=how)
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    for changes in ({}, {"dtype": "bfloat16", "lora_rank": 16, "parse": "lenient", "options": {"epsilon_high": 0.28, "loss_type": "dapo", "lr_scheduler_type": "cosine"}}):
        script = write_recipe(exported["verl"], validation="validation", **changes)
        words = shlex.split(script.read_text().split("settings=(\n")[1].split(")\nexec")[0])
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose("ppo_trainer", overrides=words)
        for name, value in made(exported, "verl", **changes).items():
            found = OmegaConf.select(config, name.lstrip("+"))
            assert (OmegaConf.to_container(found) if OmegaConf.is_config(found) else found) == value
        assert need_reference_policy(config) and not need_critic(config)
        if not changes.get("lora_rank"):  # whose check asks vLLM
            validate_config(config, need_reference_policy(config), need_critic(config))
        actor, rollout, algorithm = (omega_conf_to_dataclass(OmegaConf.select(config, part)) for part in ("actor_rollout_ref.actor", "actor_rollout_ref.rollout", "algorithm"))
        assert actor.optim.lr == PAPER.learning_rate and rollout.n == PAPER.group_size and str(algorithm.adv_estimator) == "grpo"


_SWIFT = """
import json, os, sys
from swift.cli.main import parse_yaml_args
words = [sys.argv[1]]
parse_yaml_args(words)
from swift.arguments import RLHFArguments
from swift.dataset import load_dataset
from swift.rewards import orms
from swift.utils import parse_args
args, rest = parse_args(RLHFArguments, words + ["--use_cpu", "true"])
assert not rest, rest
rows = load_dataset(args.dataset, **args.get_dataset_kwargs())[0]
row = rows[0]
reward = orms[args.reward_funcs[0]](args=None)([row["answer"], "?"], **{name: [row[name]] * 2 for name in ("task", "answer", "solution")})
kept = {name: getattr(args.training_args, name) for name in ("learning_rate", "weight_decay", "adam_beta2", "beta", "num_generations", "max_steps", "loss_type", "temperature")}
schedule = args.training_args.lr_scheduler_type
print(json.dumps({**kept, "schedule": str(getattr(schedule, "value", schedule)), "rows": len(rows), "reward": reward, "freeze_vit": args.freeze_vit, "tuner": args.tuner_type}))
"""


@pytest.mark.parametrize("rank", [0, 16])
def test_ms_swifts_own_parser_takes_the_recipe(exported, model, rank):
    "In an environment of its own, for it wants another TRL: its arguments, its training arguments, its rows and its reward."
    python = os.environ.get("VIDEOSSR_SWIFT_PYTHON")
    if not python:
        pytest.skip("VIDEOSSR_SWIFT_PYTHON names no Python with ms-swift: uv venv swift && uv pip install -p swift ms-swift deepspeed qwen-vl-utils && uv pip install -p swift --no-deps -e .")
    config = write_recipe(exported["swift"], gpus=1, model=str(model), validation="validation", lora_rank=rank).with_name("config.yaml")
    from lab import free_port

    surroundings = {**os.environ, "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "MASTER_PORT": str(free_port())}
    told = subprocess.run([python, "-c", _SWIFT, config], env=surroundings, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    found = json.loads(told.stdout.splitlines()[-1])
    usual = {"learning_rate": PAPER.learning_rate, "weight_decay": 0.0, "adam_beta2": 0.999, "beta": PAPER.beta, "num_generations": PAPER.group_size, "max_steps": PAPER.steps,
             "loss_type": "grpo", "temperature": 1.0, "schedule": "constant", "rows": 80, "reward": [1.0, 0.0], "tuner": "lora" if rank else "full"}  # fmt: skip
    assert {name: found[name] for name in usual} == usual and (rank or found["freeze_vit"] is False)


_EASYR1 = """
import sys
from unittest.mock import MagicMock
for name in ("vllm", "vllm.lora", "vllm.lora.request", "vllm.lora.models", "vllm.lora.utils", "vllm.lora.worker_manager", "vllm.distributed", "msgspec"):
    sys.modules.setdefault(name, MagicMock())  # its configuration lies behind imports of the engine
sys.path.insert(0, sys.argv[1])
from omegaconf import OmegaConf
from verl.trainer.config import PPOConfig
config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PPOConfig()), OmegaConf.load(sys.argv[2])))
config.deep_post_init()
actor = config.worker.actor
print([config.worker.reward.reward_function, actor.optim.lr, actor.use_kl_loss, actor.kl_coef, config.worker.rollout.response_length, config.data.train_files, actor.model.lora.rank])
"""


@pytest.mark.parametrize("rank", [0, 16])
def test_easyr1s_own_configuration_takes_the_recipe(exported, rank):
    checkout = os.environ.get("VIDEOSSR_EASYR1")
    if not checkout:
        pytest.skip("VIDEOSSR_EASYR1 names no checkout of github.com/hiyouga/EasyR1; its imports want (in this Python, or in that of VIDEOSSR_EASYR1_PYTHON): pip install omegaconf codetiming ray tensordict torchdata qwen-vl-utils")
    config = write_recipe(exported["easyr1"], validation="validation", lora_rank=rank).with_name("config.yaml")
    told = subprocess.run([os.environ.get("VIDEOSSR_EASYR1_PYTHON") or sys.executable, "-c", _EASYR1, checkout, config], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    wanted = [str(exported["easyr1"] / "reward.py"), PAPER.learning_rate, True, PAPER.beta, PAPER.max_new_tokens, str(exported["easyr1"] / "train" / "rows"), rank]
    assert told.stdout.splitlines()[-1] == str(wanted)
