"Looks at what a policy owes to the video: they change no step, are asked once, by processes together; and a run that is to stop stays stopped."

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from videossr import runs
from videossr.grpo import VideoGRPOTrainer
from videossr.policy import load_policy
from videossr.reliance import COLUMNS, clips_in, read_looks, strangers
from videossr.tasks import render

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"steps": 4, "save_steps": 2, "n_train": 12, "n_held_out": 12, "warm_steps": 6, "groups": 2, "groups_at_once": 2, "group_size": 4}
LOOKING = {**SMALL, "reliance_every": 2, "reliance_samples": 2}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "A run with its samples and the policy it starts from."
    torch.set_num_threads(1)
    settings = runs.train_settings("demo", **SMALL)
    run = runs.Run.create(tmp_path_factory.mktemp("base") / "run", settings, 0, video_dir="", tasks="")
    train, held_out, _ = runs.make_data(run, settings, 0, progress=False)
    runs.make_policy(run, settings, train, 0, progress=False)
    return run, train, held_out


@pytest.fixture
def trained(base, tmp_path):
    "Trains from that policy, in a folder of its own, or goes on there."

    def train(name, **changes):
        first, samples, held_out = base
        settings = runs.train_settings("demo", **{**SMALL, **changes})
        run = runs.Run.create(tmp_path / name, settings, 0)
        runs.save_samples(held_out, run.path("samples", "held_out.parquet"))
        runs.train_policy(run, load_policy(first.path("checkpoints", "start")), samples, settings, 0, progress=False)
        return run

    return train


@pytest.fixture
def asked(monkeypatch):
    "Steps at which the policy was asked."
    steps, answers_to = [], VideoGRPOTrainer.answers_to
    monkeypatch.setattr(VideoGRPOTrainer, "answers_to", lambda self, *given: steps.append(self.state.global_step) or answers_to(self, *given))
    return steps


def rewards(run):
    return [row["reward"] for row in run.log_rows()]


def test_looks_change_no_step_and_stand_in_the_log(trained, asked):
    plain, run = trained("plain"), trained("looking", reliance_every=2, reliance_samples=2)
    assert rewards(run) == rewards(plain) and run.rollout_rows() == plain.rollout_rows()
    looks = read_looks(run.path(runs.LOOKS_FILE))
    assert [row["step"] for row in looks] == asked == [0, 2, 4]
    for row in run.log_rows():
        assert ("reliance/full" in row) == (row["step"] % 2 == 0)
    last = run.log_rows()[-1]
    for task, line in looks[-1]["tasks"].items():
        assert {name: last[f"reliance/{task}/{name}"] for name in COLUMNS} == {name: line["columns"][name]["mean"] for name in COLUMNS}
    assert not plain.path(runs.LOOKS_FILE).exists()
    assert any("reliance" in path.read_bytes().decode("latin-1") for path in run.path("tensorboard").rglob("events*"))


def test_a_run_that_is_killed_asks_nothing_twice_and_forgets_no_look(trained, asked, monkeypatch):
    whole = trained("whole", reliance_every=1, reliance_samples=2)
    expected, write = read_looks(whole.path(runs.LOOKS_FILE)), runs.RunLog.on_log

    def dies(self, args, state, control, logs=None, **more):
        write(self, args, state, control, logs, **more)
        if state.global_step == 3:
            raise KeyboardInterrupt  # behind the look of step 3, which the checkpoint of step 2 does not know

    asked.clear()
    monkeypatch.setattr(runs.RunLog, "on_log", dies)
    with pytest.raises(KeyboardInterrupt):
        trained("killed", reliance_every=1, reliance_samples=2)
    monkeypatch.setattr(runs.RunLog, "on_log", write)
    run = trained("killed", reliance_every=1, reliance_samples=2)
    assert asked == [0, 1, 2, 3, 3, 4]
    assert read_looks(run.path(runs.LOOKS_FILE)) == expected and rewards(run) == rewards(whole)


def test_a_run_that_stopped_stays_stopped(trained, asked):
    "At a plateau; before the weights are kept, as if it had been killed there, and after."
    stop = {"reliance_every": 1, "reliance_samples": 2, "plateau": 1, "learning_rate": 1e-12, "save_steps": 1}
    run = trained("stopped", **stop)
    assert [row["step"] for row in run.log_rows()] == [1] and "a plateau" in read_looks(run.path(runs.LOOKS_FILE))[-1]["stop"]
    runs.remove(run.path("checkpoints", "final"))
    trained("stopped", **stop)
    assert [row["step"] for row in run.log_rows()] == [1] and asked == [0, 1]
    assert run.path("checkpoints", "final").exists()
    assert [row["step"] for row in trained("on", **{**stop, "plateau": 0}).log_rows()] == [1, 2, 3, 4]


def test_the_other_video_is_another_one_at_the_same_times(base):
    held_out = base[2]
    for sample, other in zip(held_out, strangers(held_out), strict=True):
        own, shown = render(sample), clips_in(sample, "another", other)
        assert other.video != sample.video and other.task == sample.task
        assert all(np.array_equal(one.times, two.times) and one.frames.shape == two.frames.shape for one, two in zip(own, shown, strict=True))
        assert not all(np.array_equal(one.frames, two.frames) for one, two in zip(own, shown, strict=True))


TWO = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_cpu_threads_per_process", "1", "--mixed_precision", "no"]
FSDP = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "--fsdp_state_dict_type", "FULL_STATE_DICT"]


@pytest.mark.parametrize("way", ["plain", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_processes_look_together(base, tmp_path, way):
    "An odd number of questions, shared by two: the looks are those of one process, and each is told once."
    first, _, held_out = base
    folders = {name: tmp_path / name for name in ("one", "two")}
    cache = os.environ.get("VIDEOSSR_CACHE") or str(tmp_path / "cache")
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "VIDEOSSR_CACHE": cache, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    for name, folder in folders.items():
        settings = runs.train_settings("demo", **{**LOOKING, "groups_at_once": 1, "options": {"seed_per_prompt": True}})
        run = runs.Run.create(folder, settings, 0, video_dir="", tasks="")
        for part in ("train", "held_out"):
            runs.save_samples([*runs.load_samples(first.path("samples", f"{part}.parquet"))], run.path("samples", f"{part}.parquet"))
        run.path("samples", "refusals.jsonl").write_text("")
        runs.release_run(folder)
        launcher = [sys.executable] if name == "one" else [*TWO, *(FSDP if way == "fsdp2" else ["--multi_gpu"])]
        done = subprocess.run([*launcher, "-m", "videossr.launch", "--run", str(folder)], check=False, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    one, two = (read_looks(folder / runs.LOOKS_FILE) for folder in folders.values())
    assert [row["step"] for row in two] == [0, 2, 4] and {row["processes"] for row in runs.Run(folders["two"]).log_rows()} == {2}
    assert one[0] == two[0], "the same policy, the same replies"
    assert two[1]["grades"].keys() == one[1]["grades"].keys() and len(two[2]["grades"]["full"]) == len(one[2]["grades"]["full"])
