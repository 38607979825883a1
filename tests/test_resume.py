"Checkpoints of the trainer: whole before older ones go, and what goes on from them is what nothing had interrupted."

import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

from videossr import grpo
from videossr.data import to_trl_dataset
from videossr.demo import demo_videos
from videossr.policy import load_policy, tiny_policy
from videossr.tasks import make_sample


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    video = demo_videos(1, folder=tmp_path_factory.mktemp("demo"), progress=False)[0]
    return to_trl_dataset([make_sample("jigsaw", video, difficulty="demo", index=index) for index in range(6)])


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return tiny_policy(0).save(tmp_path_factory.mktemp("start"))


@pytest.fixture
def trainer_of(start, rows, tmp_path):
    "Makes trainers, on the first `n` prompts."

    def make(folder="run", n=6, callbacks=(), more=None, **settings):
        torch.manual_seed(0)
        torch.set_num_threads(1)
        dials = {"per_device_train_batch_size": 2, "num_generations": 2, "max_completion_length": 3, "warmup_steps": 0, "beta": 0.0,
                 "save_strategy": "steps", "disable_tqdm": True, **settings}  # fmt: skip
        config = grpo.VideoGRPOConfig.demo(str(tmp_path / folder), **dials)
        made = grpo.VideoGRPOTrainer(load_policy(start, device="cpu"), lambda completions, **_: [len(one[0]["content"]) % 5 / 5 for one in completions], config,
                                     rows.select(range(n)), callbacks=[*callbacks], **(more or {}))  # fmt: skip
        made.remove_callback(PrinterCallback)
        return made

    return make


class Killed(Exception):
    "Stands for a `kill -9`."


def die(*_, **__):
    raise Killed


def steps_in(folder):
    return {path.name: (path / "complete").exists() for path in sorted(Path(folder).glob("checkpoint-*"))}


@pytest.mark.parametrize("moment", ["in the new checkpoint", "before it is marked", "after an older one went"])
def test_a_kill_while_saving_leaves_a_whole_checkpoint(trainer_of, monkeypatch, tmp_path, moment):
    "Also where only one is kept."
    settings = {"max_steps": 4, "save_steps": 2, "save_total_limit": 1}
    trainer, remove = trainer_of(**settings, callbacks=[after := Waits()]), shutil.rmtree

    def remove_and_die(path, **options):
        remove(path, **options)
        if Path(path).name == "checkpoint-2":
            raise Killed

    place, name, then = {"in the new checkpoint": (trainer, "_save_rng_state", die), "before it is marked": (type(trainer.state), "save_to_json", die),
                         "after an older one went": (shutil, "rmtree", remove_and_die)}[moment]  # fmt: skip
    after.then = lambda: monkeypatch.setattr(place, name, then)
    with pytest.raises(Killed):
        trainer.train()
    monkeypatch.undo()
    left = {"checkpoint-4": True} if moment == "after an older one went" else {"checkpoint-2": True, "checkpoint-4": False}
    assert steps_in(tmp_path / "run") == left
    again = trainer_of(**settings, callbacks=[first := First()])
    again.train(resume_from_checkpoint=True)
    assert steps_in(tmp_path / "run") == {"checkpoint-4": True} and again.state.global_step == 4
    assert first.step == (None if len(left) == 1 else 2)


class First(TrainerCallback):
    "Notes at which step training began."

    step = None

    def on_step_begin(self, args, state, control, **_):
        self.step = state.global_step if self.step is None else self.step


class Waits(TrainerCallback):
    "Calls `then` once two steps are done and saved."

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 2:
            self.then()


def test_a_rewritten_checkpoint_is_not_complete_before_it_is(trainer_of, monkeypatch, tmp_path):
    "And holds nothing of the one that had its name."
    trainer_of(max_steps=2, save_steps=2).train()
    (tmp_path / "run" / "checkpoint-2" / "left-over").touch()
    trainer = trainer_of(max_steps=2, save_steps=2)
    monkeypatch.setattr(trainer, "_save_rng_state", die)
    with pytest.raises(Killed):
        trainer.train()
    assert steps_in(tmp_path / "run") == {"checkpoint-2": False} and not (tmp_path / "run" / "checkpoint-2" / "left-over").exists()


def test_a_resume_says_that_no_checkpoint_is_whole(trainer_of, tmp_path):
    (tmp_path / "run" / "checkpoint-7").mkdir(parents=True)
    trainer = trainer_of(max_steps=1, save_strategy="no")
    with pytest.warns(UserWarning, match="none of checkpoint-7 in .* was written to its end: training starts at step 0"):
        trainer.train(resume_from_checkpoint=True)
    shutil.rmtree(tmp_path / "run" / "checkpoint-7")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer_of(max_steps=1, save_strategy="no").train(resume_from_checkpoint=True)


class Kept(TrainerCallback):
    "What was answered in each step."

    def __init__(self):
        self.rollouts, self.passes = {}, []

    def on_step_end(self, args, state, control, **_):
        self.rollouts[state.global_step] = [(group["sample"], group["replies"]) for group in self.trainer.rollouts()]
        self.passes.append(self.trainer._step)


def test_a_resume_behind_a_short_accumulation(trainer_of, tmp_path):
    "An epoch of three passes in steps of two: the second step has one, and a rollout serves three. Resumed, a worker process encodes."
    settings = {"n": 3, "steps_per_generation": 3, "gradient_accumulation_steps": 2, "max_steps": 6, "save_steps": 2}
    whole = trainer_of(**settings, callbacks=[kept := Kept()])
    kept.trainer = whole
    whole.train()
    assert kept.passes == [2, 3, 5, 6, 8, 9]
    again = trainer_of(**settings, dataloader_num_workers=1, callbacks=[resumed := Kept()])
    resumed.trainer = again
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.passes == [5, 6, 8, 9] and resumed.rollouts == {step: kept.rollouts[step] for step in range(3, 7)}
    for mine, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_checkpoints_between_two_rollouts_are_refused_and_others_are_not(trainer_of):
    trainer_of(n=2, steps_per_generation=1, gradient_accumulation_steps=3, save_steps=1)  # a third of a step, no whole number
    trainer_of(n=6, steps_per_generation=6, gradient_accumulation_steps=2, save_steps=3)
    with pytest.raises(ValueError, match=r"save_steps \(2\) a multiple of 3"):
        trainer_of(n=6, steps_per_generation=6, gradient_accumulation_steps=2, save_steps=2)
    with pytest.raises(ValueError, match=r"save_steps \(3\) a multiple of 2"):  # where an epoch ends in a short accumulation
        trainer_of(n=3, steps_per_generation=3, gradient_accumulation_steps=2, save_steps=3)


def test_fewer_prompts_than_a_generation_batch_are_refused(trainer_of):
    trainer_of(n=4, gradient_accumulation_steps=4, save_strategy="no")
    with pytest.raises(ValueError, match="3 prompts are fewer than the 4 of"):
        trainer_of(n=3, gradient_accumulation_steps=4, save_strategy="no")


class Checkpointed(TrainerCallback):
    "How many layers are checkpointed, and with what settings."

    def __init__(self):
        self.seen = []

    def look(self, args, state, control, model, **_):
        parts = [part for part in model.modules() if getattr(part, "gradient_checkpointing", False)]
        self.seen.append((len(parts), {str(part._gradient_checkpointing_func) for part in parts}))

    on_train_begin = on_step_end = look


def test_settings_of_gradient_checkpointing_outlive_a_rollout(trainer_of):
    found = Checkpointed()
    wanted = {"use_reentrant": False, "preserve_rng_state": False}
    trainer_of(max_steps=2, save_strategy="no", gradient_checkpointing=True, gradient_checkpointing_kwargs=wanted, callbacks=[found]).train()
    assert found.seen[0][0] > 1 and found.seen == [found.seen[0]] * 3
    if hasattr(PreTrainedModel, "activation_checkpointing_enable"):  # transformers that can leave layers out
        found = Checkpointed()
        trainer_of(max_steps=2, save_strategy="no", gradient_checkpointing=True, gradient_checkpointing_kwargs={"every_n_layers": 2}, callbacks=[found]).train()
        assert found.seen == [found.seen[0]] * 3, "a layer in two, as before the rollout"


class Backwards:
    "A curriculum that takes the last rows of the set."

    def __init__(self, size):
        self.size, self.drawn = size, 0

    def draw(self, n, seed):
        self.drawn += n
        return [(self.size - 1 - index) % self.size for index in range(n)]

    def observe(self, rows, rewards):
        assert len(rows) == len(rewards)

    def state(self):
        return {"drawn": self.drawn}

    def restore(self, state):
        self.drawn = state["drawn"]

    def metrics(self):
        return {}


def test_prompts_that_a_curriculum_leaves_out_are_not_encoded(trainer_of):
    trainer = trainer_of(max_steps=3, gradient_accumulation_steps=2, save_strategy="no", more={"curriculum": Backwards(6)})
    submit, asked = trainer._pool.submit, []
    trainer._pool.submit = lambda item: asked.append(item) or submit(item)
    trainer.train()
    assert len(asked) == trainer.curriculum.drawn == 3 * 2


@pytest.mark.slow
def test_all_ways_to_prompts_are_the_same_with_worker_processes(trainer_of, rows):
    "Training, refill, a curriculum and evaluation."
    found = []
    for workers in (0, 2):
        for curriculum in (None, Backwards(6)):
            settings = {"refill": 1, "max_steps": 3, "save_strategy": "no", "gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
            more = {"eval_dataset": rows.select(range(4)), "curriculum": curriculum}
            trainer = trainer_of(**settings, per_device_eval_batch_size=4, dataloader_num_workers=workers, callbacks=[kept := Kept()], more=more)
            kept.trainer = trainer
            trainer.train()
            log = [{name: value for name, value in row.items() if not re.search("time|runtime|per_second|wait", name)} for row in trainer.state.log_history]
            found.append(repr((kept.rollouts, log)))
    assert found[:2] == found[2:] and found[0] != found[1]
