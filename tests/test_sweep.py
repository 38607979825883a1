"Sweeps: the same table from one process and from two, nothing done twice, and what fails is named."
import hashlib

import pandas as pd
import pytest

from videossr.data import get_mix
from videossr.demo import demo_videos
from videossr.runs import train_settings
from videossr.sweep import Arm, Sweep, read_sweep, run_sweep, task_arms

SMALL = train_settings(n_train=6, n_held_out=4, warm_steps=2, steps=2, groups=2, groups_at_once=2, group_size=2, max_new_tokens=4)
ARMS = task_arms(get_mix("demo"), together=False, strict=(False,))[:2]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return demo_videos(6, folder=tmp_path_factory.mktemp("videos"), progress=False)[0].parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory, videos):
    sweep = Sweep(tmp_path_factory.mktemp("sweep"), SMALL, str(videos))
    return sweep, run_sweep(sweep, ARMS, seeds=(0,), progress=False)


def weights_of(run):
    return hashlib.sha256(run.path("checkpoints", "final", "model.safetensors").read_bytes()).hexdigest()


def test_two_workers_give_the_same(whole, videos, tmp_path):
    sweep, table = whole
    other = Sweep(tmp_path, SMALL, str(videos))
    pd.testing.assert_frame_equal(run_sweep(other, ARMS, seeds=(0,), workers=2, progress=False), table)
    for arm in ARMS:
        assert weights_of(other.run(arm, 0)) == weights_of(sweep.run(arm, 0))


def test_only_what_is_missing_is_run(whole, monkeypatch):
    sweep, table = whole
    called = []
    monkeypatch.setattr("videossr.sweep.train_run", lambda run, **_: called.append(run.folder.name))
    lost = sweep.run(ARMS[1], 0).path("results.json")
    kept = lost.read_bytes()
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=ARMS[1].folder):
        read_sweep(sweep, ARMS, (0,))
    with pytest.raises(FileNotFoundError):  # the stand-in trains nothing
        run_sweep(sweep, ARMS, seeds=(0,), progress=False)
    assert called == [ARMS[1].folder]
    lost.write_bytes(kept)
    pd.testing.assert_frame_equal(run_sweep(sweep, ARMS, seeds=(0,), progress=False), table)


def test_a_failure_is_named_and_the_rest_is_done(videos, tmp_path, monkeypatch):
    sweep = Sweep(tmp_path, SMALL, str(videos))
    done = []

    def train(run, **_):
        if run.folder.name == "bad":
            raise MemoryError("no room")
        done.append(run.folder.name)

    monkeypatch.setattr("videossr.sweep.train_run", train)
    arms = [Arm("bad", ARMS[0].mix), ARMS[1]]
    with pytest.raises(RuntimeError, match=r"1 runs of .* failed.*(\n.*)*bad, seed 0: MemoryError: no room"):
        run_sweep(sweep, arms, seeds=(0,), progress=False)
    assert done == [ARMS[1].folder]


def test_another_setting_in_the_same_folder_is_refused(whole):
    sweep, _ = whole
    other = Sweep(sweep.folder, train_settings(**{**SMALL.__dict__, "steps": 3}), sweep.video_dir)
    with pytest.raises(RuntimeError, match="steps is 2 there, 3 here"):
        run_sweep(other, ARMS, seeds=(0,), progress=False)
