"""Weights of strangers: what configs, adapters, checkpoints and chat templates may not do. SECURITY.md has the promises."""

import json
import pickle
import shutil
import time
from pathlib import Path

import pytest
import torch
from hostile import Trap
from transformers import PrinterCallback
from transformers.integrations import hub_kernels

from videossr import checkpoints, grpo
from videossr.checkpoints import config_fault
from videossr.data import to_trl_dataset
from videossr.demo import demo_videos
from videossr.policy import load_policy, tiny_policy
from videossr.tasks import make_sample


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return tiny_policy(0).save(tmp_path_factory.mktemp("start"))


@pytest.fixture
def changed(start, tmp_path):
    "A copy of a policy's folder with another config.json."

    def make(**change):
        folder = tmp_path / "policy"
        shutil.copytree(start, folder)
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | change))
        return folder

    return make


@pytest.mark.parametrize(
    "change",
    [{"_attn_implementation": "evil/kernel:run"}, {"_attn_implementation": "kernels-community/flash-attn2"}, {"_attn_implementation": {"": "evil/kernel"}},
     {"experts_implementation": "sonicmoe"}, {"_experts_implementation": "deepgemm"}, {"transformers_weights": "adapter_model.bin"}],
)  # fmt: skip
def test_a_config_chooses_no_program_and_no_pickle(changed, tmp_path, change, monkeypatch):
    fetched = []
    for name in ("get_kernel", "lazy_load_kernel", "load_and_register_attn_kernel"):
        if hasattr(hub_kernels, name):
            monkeypatch.setattr(hub_kernels, name, lambda *names, **_: fetched.append(names))
    folder = changed(**change)
    torch.save({"lm_head.weight": Trap(tmp_path / "ran")}, folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="its config.json (chooses|says that the weights)"):
        load_policy(folder, device="cpu")
    assert not fetched and not (tmp_path / "ran").exists()


def test_a_kernel_that_a_config_names_is_not_planned_with(changed):
    from videossr.memory import model_config

    assert model_config(changed(_attn_implementation="evil/kernel:run"))._attn_implementation is None


ADAPTERS = {
    "itself as base": ({}, "leads back to"), "another kind": ({"peft_type": "XLORA", "adapters": {"0": "evil/x"}, "hidden_size": 8}, "adapters of the kind XLORA"),
    "a module": ({"megatron_config": {"a": 1}, "megatron_core": "evil_module"}, "a module of Megatron"), "a huge rank": ({"r": 10**9}, "a rank of 1000000000"),
    "a slow pattern": ({"target_modules": "(([a-z_.0-9]+)+)+!"}, "could take for ever"), "many repeats": ({"rank_pattern": {".*.*.*.*.*.*!": 4}}, "could take for ever"),
}  # fmt: skip


@pytest.fixture(scope="module")
def adapters(start, tmp_path_factory):
    peft = pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapters") / "made"
    peft.get_peft_model(load_policy(start, device="cpu").model, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a model"])
@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_adapters_say_what_is_adapted_and_no_more(adapters, start, tmp_path, monkeypatch, name, beside):
    change, told = ADAPTERS[name]
    if beside and name == "itself as base":
        pytest.skip("beside a model no base is looked for")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    folder = shutil.copytree(adapters, tmp_path / "adapters")
    if beside:
        shutil.copytree(start, folder, dirs_exist_ok=True)
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(values | {"base_model_name_or_path": str(folder if name == "itself as base" else start)} | change))
    torch.save({"weight": Trap(tmp_path / "ran")}, folder / "adapter_model.bin")
    begin = time.perf_counter()
    with pytest.raises(OSError, match=told):
        load_policy(folder, device="cpu")
    assert time.perf_counter() - begin < 10 and not (tmp_path / "ran").exists()


def test_plain_adapters_load(adapters):
    assert load_policy(adapters, device="cpu").n_parameters


STATES = {"optimizer": ["optimizer.pt"], "others": ["training_args.bin", "pytorch_model.bin", "scaler.pt", "rng_state.pth"], "scheduler": ["scheduler.pt"]}


@pytest.fixture(scope="module")
def trained(start, tmp_path_factory):
    "How to make a trainer, and a folder in which it has a checkpoint."
    folder = tmp_path_factory.mktemp("trained")
    video = demo_videos(1, folder=folder / "demo", progress=False)[0]
    rows = to_trl_dataset([make_sample("jigsaw", video, difficulty="demo", index=index) for index in range(2)])

    def make(place, steps):
        dials = {"per_device_train_batch_size": 2, "num_generations": 2, "max_completion_length": 2, "warmup_steps": 0, "beta": 0.0, "save_strategy": "steps", "save_steps": 1}
        config = grpo.VideoGRPOConfig.demo(str(place), max_steps=steps, disable_tqdm=True, **dials)
        trainer = grpo.VideoGRPOTrainer(load_policy(start, device="cpu"), lambda completions, **_: [len(one[0]["content"]) % 5 / 5 for one in completions], config, rows)
        trainer.remove_callback(PrinterCallback)
        return trainer

    make(folder / "run", 1).train()
    return make, folder / "run"


@pytest.mark.parametrize("name", ["optimizer", pytest.param("others", marks=pytest.mark.slow), pytest.param("scheduler", marks=pytest.mark.slow)])
def test_a_checkpoint_of_one_process_runs_nothing(trained, tmp_path, name):
    "States are read as weights only; of the pickles beside them some are not read at all."
    make, folder = trained
    shutil.copytree(folder, tmp_path / "run")
    for file in STATES[name]:
        torch.save({"state": Trap(tmp_path / "ran")}, tmp_path / "run" / "checkpoint-1" / file)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        make(tmp_path / "run", 2).train(resume_from_checkpoint=True)
    assert not (tmp_path / "ran").exists()


TEMPLATES = {
    "no end": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "a power": "{{ 7 ** (7 ** (7 ** 7)) }}",
    "long": "{{ 'a' * 3000000 }}", "memory": "{{ 'a' * 10 ** 11 }}", "many bytes": "{# " + "x" * 100_000 + " #}",
    "doubling": "{% set n = namespace(x='a') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "after a system prompt": "{% if messages[0].role == 'system' %}{{ 7 ** (7 ** (7 ** 7)) }}{% endif %}",
}  # fmt: skip


@pytest.mark.parametrize("name", [name if name in ("after a system prompt", "many bytes") else pytest.param(name, marks=pytest.mark.slow) for name in sorted(TEMPLATES)])
def test_a_chat_template_comes_to_an_end(start, tmp_path, monkeypatch, name):
    monkeypatch.setenv("VIDEOSSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(checkpoints._ROOM, "seconds", 2)
    folder = shutil.copytree(start, tmp_path / "policy")
    (folder / "chat_template.jinja").write_text(TEMPLATES[name])
    begin = time.perf_counter()
    with pytest.raises(ValueError, match="its chat template (comes to no end|cannot be used|has 100,0)"):
        load_policy(folder, device="cpu")
    assert time.perf_counter() - begin < 30


def test_a_chat_template_is_tried_once(start, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOSSR_CACHE", str(tmp_path / "cache"))
    folder = shutil.copytree(start, tmp_path / "policy")
    (folder / "chat_template.jinja").write_text("{% for one in messages %}{{ one.role }}{% endfor %}")
    load_policy(folder, device="cpu")
    monkeypatch.setattr(checkpoints.subprocess, "run", lambda *_, **__: pytest.fail("it was tried again"))
    assert load_policy(folder, device="cpu").thought == ""


@pytest.mark.parametrize("change, said", [({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers"), ({"vision_config": {"hidden_size": 10**8}}, "hidden_size"), ({"auto_map": None}, "levels of nesting")])
def test_a_config_of_a_size_that_no_model_has_is_refused(change, said):
    "transformers makes the model before it looks at the weights, and never comes back from lists within lists."
    if said == "levels of nesting":
        for _ in range(400):
            change = {"auto_map": [change["auto_map"]]}
    assert said in config_fault(change, "sdpa")
    assert config_fault({"text_config": {"num_hidden_layers": 94, "hidden_size": 4096, "vocab_size": 151936, "rope_parameters": {"mrope_section": [24, 20, 20]}}}, "sdpa") is None
