"""The curriculum: dials that leave their ladder or do not follow the rewards, plans that are not repeatable, runs that a kill changes."""

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PrinterCallback, ProgressCallback

from videossr import runs
from videossr.adaptive import HARDNESS, Staircase, curriculum_of, hardness, ladder, mix_ladder, rung_floors
from videossr.data import MIXES, build_samples, to_trl_dataset
from videossr.demo import demo_videos
from videossr.grpo import VideoGRPOConfig, VideoGRPOTrainer, warm_start
from videossr.policy import encode_sample, load_policy, tiny_policy
from videossr.prefetch import WorkerPool
from videossr.tasks.core import find_task
from videossr.tasks.jigsaw import JigsawDifficulty

N_RUNGS = 4


def stairs_of(kind="adaptive", n_each=3, **changes):
    "Two tasks with a few rows on each of four rungs."
    places = [(task, rung) for task in ("one", "two") for rung in range(N_RUNGS) for _ in range(n_each)]
    tasks, rungs = zip(*places)
    return Staircase(tasks, rungs, {"one": [0.5, 0.4, 0.3, 0.2], "two": [0.0] * N_RUNGS}, kind, **changes)


def feed(stairs, score, n=8, task="one"):
    "So many groups of a task whose mean lies at a score between the blind floor and 1."
    row = stairs.tasks.index(task)
    floor = stairs.floors[task][stairs.rungs[row]]
    stairs.observe([row] * n, [[floor + score * (1 - floor)] * 2] * n)


# -------------------------------------------------------------------------------------------------------------- ladders


@pytest.mark.parametrize("preset", ["demo", "train", "viubench"])
@pytest.mark.parametrize("task", ["grounding", "jigsaw", "counting"])
def test_ladders_go_one_way_around_the_preset(task, preset):
    if preset not in find_task(task).difficulties:
        pytest.skip("no such preset")
    base, (easy, *_, hard) = find_task(task).difficulty(preset), ladder(task, preset)
    dials = {"grounding": ("min_length", "max_length"), "jigsaw": ("n_clips",), "counting": ("max_frames", "max_instances")}[task]
    sign = -1 if task == "grounding" else 1  # shorter segments are harder
    for dial in dials:
        values = [sign * getattr(rung, dial) for rung in ladder(task, preset)]
        assert values == sorted(values) and values[0] <= sign * getattr(base, dial) <= values[-1], dial
    assert easy != hard and {rung.n_frames for rung in ladder(task, preset)} == {base.n_frames}


def test_a_task_of_one_s_own_gets_a_ladder():
    try:
        hardness("own")(lambda base, hard: base)
        assert "own" in HARDNESS
    finally:
        HARDNESS.pop("own")


def test_every_rung_of_the_demo_gives_samples(tmp_path):
    videos = demo_videos(3, folder=tmp_path, progress=False)
    for rung, mix in enumerate(mix_ladder(MIXES["demo"], N_RUNGS)):
        samples, _ = build_samples(videos, mix, 7, progress=False)
        assert len(samples) == 7
        lengths = {sample.recipe["n_clips"] for sample in samples if sample.task == "jigsaw"}
        assert lengths == {2 + rung} and mix.rows[2].difficulty.gap == (1, 1, 1, 0)[rung]
    assert mix_ladder(MIXES["plain"], N_RUNGS)[2].rows[2].difficulty == JigsawDifficulty(n_frames=12, max_pixels=64 * 64, n_clips=4)


# ------------------------------------------------------------------------------------------------------------ staircase


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=4), max_size=80), st.integers(0, 99))
def test_dials_stay_on_the_ladder_and_plans_on_the_dial(rewards, seed):
    stairs = stairs_of(every=4)
    for step, group in enumerate(rewards):
        rows = stairs.draw(3, [seed, step])
        assert rows == stairs.draw(3, [seed, step]), "the same state and seed, the same plan"
        assert all(abs(stairs.rungs[row] - stairs.dials[stairs.tasks[row]]) < 1 for row in rows)
        stairs.observe(rows, [group] * 3)
        assert all(0 <= dial <= N_RUNGS - 1 for dial in stairs.dials.values())


def test_the_dial_follows_the_rewards():
    stairs = stairs_of()
    for expected in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0):
        feed(stairs, 1.0)
        assert stairs.dials == {"one": expected, "two": 0.0}
    for expected in (2.5, 2.0):
        feed(stairs, -0.1)
        assert stairs.dials["one"] == expected
    for score in (0.21, 0.35, 0.49):
        feed(stairs, score)
        assert stairs.dials["one"] == 2.0
    feed(stairs, 1.0, n=7)
    assert stairs.dials["one"] == 2.0
    feed(stairs, 1.0, n=1)
    assert stairs.dials["one"] == 2.5


def test_the_order_of_tasks_does_not_matter():
    "A set of names has another order in every process."
    stairs = stairs_of()
    other = Staircase(stairs.tasks, stairs.rungs, dict(reversed(stairs.floors.items())))
    assert [stairs.draw(9, [step]) for step in range(5)] == [other.draw(9, [step]) for step in range(5)]


def test_uniform_draws_every_rung_alike_and_does_not_move():
    stairs = stairs_of("uniform")
    rows = stairs.draw(4000, [0])
    for rung in range(N_RUNGS):
        assert 0.22 < sum(stairs.rungs[row] == rung for row in rows) / 4000 < 0.28
    feed(stairs, 1.0)
    assert stairs.metrics() == {} and stairs.draw(4000, [0]) == rows


def test_silent_tasks_become_rarer_but_not_extinct():
    stairs = stairs_of(mix=True)
    feed(stairs, 1.0, n=200)  # both rollouts alike
    assert stairs.shares()["one"] == pytest.approx(0.2 / 1.2, abs=1e-3)
    assert stairs_of(mix=False).shares() == {"one": 0.5, "two": 0.5}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 39))
def test_a_state_is_json_and_goes_on_where_it_was(scores, at):
    whole, first, second = stairs_of(every=3, mix=True), stairs_of(every=3, mix=True), stairs_of(every=3, mix=True)
    for step, score in enumerate(scores):
        if step == at:
            second.restore(json.loads(json.dumps(first.state())))
            first = second
        for stairs in (whole, first):
            stairs.observe(stairs.draw(2, [step]), [[score, score / 2], [0.0, 0.0]])
    assert whole.state() == first.state() and whole.draw(9, [7]) == first.draw(9, [7])


# -------------------------------------------------------------------------------------------------------------- trainer


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    "Samples of all rungs, and where each stands."
    videos = demo_videos(3, folder=tmp_path_factory.mktemp("demo"), progress=False)
    made = [build_samples(videos, mix, 7, progress=False)[0] for mix in mix_ladder(MIXES["demo"], N_RUNGS)]
    return [sample for samples in made for sample in samples], [rung for rung, samples in enumerate(made) for _ in samples]


@pytest.fixture(scope="module")
def start(tmp_path_factory, pool):
    policy, samples = tiny_policy(0), pool[0][::3]
    warm_start(policy, samples, [encode_sample(policy, sample) for sample in samples], steps=12, n_answers=8, progress=False)
    return policy.save(tmp_path_factory.mktemp("start"))


def trained(start, pool, folder, curriculum, resume=None, **changes):
    policy = load_policy(start, device="cpu")
    options = {"per_device_train_batch_size": 8, "num_generations": 4, "max_steps": 4, "warmup_steps": 0, "max_completion_length": 8,
               "disable_tqdm": True, "save_strategy": "steps", "save_steps": 1, "save_total_limit": None, **changes}  # fmt: skip
    more = {"curriculum": curriculum} if curriculum else {}
    trainer = VideoGRPOTrainer(policy, args=VideoGRPOConfig.demo(str(folder), **options), train_dataset=to_trl_dataset(pool[0]), **more)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train(resume_from_checkpoint=resume)
    return policy.model.state_dict(), trainer


class Watched(Staircase):
    "Notes its plans, and moves often."

    def draw(self, n, seed):
        rows = super().draw(n, seed)
        self.__dict__.setdefault("plans", []).append((list(seed), rows, dict(self.dials)))
        return rows


def watched(pool, kind="adaptive"):
    tasks = [sample.task for sample in pool[0]]
    return Watched(tasks, pool[1], rung_floors(*pool), kind, every=1, low=-9.0, high=-5.0, mix=True)  # always up


def test_a_resumed_run_has_the_dials_plans_and_weights_of_an_uninterrupted_one(start, pool, tmp_path):
    options = {"gradient_accumulation_steps": 2, "refill": 1, "beta": 0.0}
    whole, first = trained(start, pool, tmp_path, watched(pool), **options)
    dials = [row["dial/jigsaw"] for row in first.state.log_history if "dial/jigsaw" in row]
    assert len(dials) == 4 and sum(first.curriculum.dials.values()) > 0, "the dials moved, and the log shows where they were"
    for step in (3, 4):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    again, second = trained(start, pool, tmp_path, watched(pool), resume=True, **options)
    assert all(torch.equal(weight, again[name]) for name, weight in whole.items())
    assert first.curriculum.state() == second.curriculum.state()
    assert second.curriculum.plans == [plan for plan in first.curriculum.plans if plan[0][1] >= 2]
    for _, rows, places in first.curriculum.plans:
        assert all(abs(pool[1][row] - places[pool[0][row].task]) < 1 for row in rows)


def test_the_policy_is_asked_what_the_plan_says(start, pool, tmp_path):
    curriculum = watched(pool, "uniform")
    _, trainer = trained(start, pool, tmp_path, curriculum, max_steps=1, save_strategy="no")
    [(seed, rows, _)] = curriculum.plans
    groups = trainer.rollouts()
    asked = [group["sample"] for group in groups]
    assert asked == [pool[0][row].to_json() for row in rows] and len(asked) == 2 and seed == [42, 0, 0]
    expected = watched(pool, "uniform")
    expected.observe(rows, [group["rewards"] for group in groups])
    assert (curriculum.live, curriculum.dials) == (expected.live, expected.dials), "the rewards of these groups were seen"


def test_each_process_takes_its_part_of_one_plan(pool):
    "Two processes with equal state, each of which makes the whole plan."
    parts = []
    for rank in (0, 1):
        trainer = VideoGRPOTrainer.__new__(VideoGRPOTrainer)
        trainer.curriculum, trainer.train_dataset = curriculum_of(*pool, "uniform"), to_trl_dataset(pool[0])
        trainer.accelerator = type("Accelerator", (), {"process_index": rank, "num_processes": 2})()
        trainer.args, trainer.state = type("Args", (), {"seed": 3, "steps_per_generation": 2})(), type("State", (), {"global_step": 5})()
        trainer.num_generations, trainer.model, trainer._step, trainer.num_iterations = 2, torch.nn.Linear(1, 1), 12, 1
        trainer._pool = WorkerPool(str)
        rows = trainer._chosen(3)
        assert len(rows) == 6 and rows[0] == rows[1]
        parts += [row["sample"] for row in rows[::2]]
    plan = curriculum_of(*pool, "uniform").draw(6, [3, 6, 0])  # the sixth generation
    assert parts == [pool[0][row].to_json() for row in plan] and trainer._plan == plan


def test_a_checkpoint_without_a_curriculum_is_refused(start, pool, tmp_path):
    trained(start, pool, tmp_path, None, max_steps=1)
    with pytest.raises(FileNotFoundError, match="curriculum.json"):
        trained(start, pool, tmp_path, watched(pool), resume=True, max_steps=2)


# ----------------------------------------------------------------------------------------------------------------- runs


SMALL = {"steps": 2, "n_train": 8, "n_held_out": 6, "warm_steps": 3, "groups": 2, "group_size": 4}


def test_off_by_default_and_on_by_a_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOSSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runs, "demo_videos", lambda progress: demo_videos(4, progress=progress))
    found = {}
    for kind in ("", "adaptive"):
        settings = runs.train_settings(adaptive=kind, **SMALL)
        run = runs.Run.create(tmp_path / f"run-{kind}", settings, 0)
        train, held_out, _ = runs.make_data(run, settings, 0, progress=False)
        assert runs.make_data(run, settings, 0, progress=False)[0] == train
        found[kind] = train, held_out
        if kind:
            rungs = run.read_json("samples/rungs.json")
            assert len(rungs) == len(train) == 4 * SMALL["n_train"] and rungs == sorted(rungs)
            policy, _ = runs.make_policy(run, settings, train, 0, progress=False)
            runs.train_policy(run, policy, train, settings, 0, progress=False)
            assert all("dial/jigsaw" in row for row in run.log_rows()) and run.path("checkpoints", "final").exists()
        else:
            assert not run.path("samples", "rungs.json").exists() and len(train) == SMALL["n_train"]
    assert found[""][1] == found["adaptive"][1], "held-out questions are the same, whatever is trained on"
    with pytest.raises(ValueError, match="choose from adaptive, adaptive-mix, uniform"):
        curriculum_of(train, rungs, "random")
