"""Faults at random moments: `kill -9`, a full disk, a folder that cannot be written, a video that vanishes, two runs on one folder. After each
the work goes on from a clear state and ends as one that nothing disturbed. A few of each kind; `pytest -m slow` makes it fifty."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from faults import Jobs
from safetensors.torch import load_file

from videossr import runs
from videossr.data import build_dataset, load_samples, save_samples
from videossr.data.build import load_plan, make_plan, save_plan, write_shard
from videossr.data.load import FrameCache
from videossr.demo import demo_videos
from videossr.evaluate import evaluate
from videossr.records import Journal, lock_file, read_records
from videossr.runs import claim_run, release_run
from videossr.tasks import make_sample

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")

BUILD = """
from videossr.data import build_dataset

def job(videos, folder):
    build_dataset(videos, folder, "demo", 24, held_out=0.25, n_validation=8, shard_size=4, seed=3, workers=1, progress=False)
"""

EVALUATE = """
import time
from videossr.data import load_samples
from videossr.evaluate import evaluate

def answer(policy, batch, **_):
    time.sleep(0.01)
    return [[sample.answer] for sample in batch]

def job(samples, path, retry=False):
    evaluate(None, list(load_samples(samples)), path, name="m", answer=answer, batch_size=2, retry_failed=retry, progress=False)
"""

TRAIN = """
import torch
from videossr.launch import open_run, train_run
torch.set_num_threads(1)

def job(folder, video_dir, **changes):
    small = {"steps": 6, "save_steps": 2, "n_train": 8, "n_held_out": 4, "warm_steps": 2, "groups": 1, "group_size": 4, "rollout_steps": 1}
    train_run(open_run({**small, **changes, "output_dir": folder, "video_dir": video_dir, "tasks": "counting,grounding"}), progress=False)
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    demo_videos(6, folder=folder, progress=False)
    return folder


def jobs_of(program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    jobs = Jobs(folder, program)
    yield jobs
    jobs.close()


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    yield from jobs_of(BUILD, tmp_path_factory)


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    yield from jobs_of(EVALUATE, tmp_path_factory)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    yield from jobs_of(TRAIN, tmp_path_factory)


def few_or_fifty(test):
    "Three faults with every run of the tests, fifty with `-m slow`."
    return pytest.mark.parametrize("faults", [3, pytest.param(50, marks=pytest.mark.slow)])(test)


def family():
    "Processes that were started for a job and are left over: none of them may be."
    return [one for one in psutil.process_iter(["cmdline", "status", "ppid"]) if one.info["ppid"] == 1 and one.info["status"] != psutil.STATUS_ZOMBIE
            and any("videossr" in part for part in one.info["cmdline"] or ())]  # fmt: skip


def kill_until(jobs, faults, seed, begin, check, finish, seconds):
    """Starts `begin(round)`'s job, kills it at random moments up to `seconds`, looks at what is left, and starts it again; each time it comes to
    its end, `finish` compares, and another round begins. Returns how many kills hit."""
    rng, kills, turn, before = np.random.default_rng(seed), 0, 0, {one.pid for one in family()}
    while kills < faults:
        arguments = begin(turn)
        while True:
            done = jobs.run(float(rng.uniform(0, seconds)) if kills < faults else None, **arguments)
            if not done["killed"]:
                assert done["code"] == 0, jobs.said()[-3000:]
                break
            kills += 1
            check(arguments)
        finish(arguments)
        turn += 1
    until = time.monotonic() + 20
    while (left := [one for one in family() if one.pid not in before]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left, left
    return kills


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.name != "log.jsonl"}


# ------------------------------------------------------------------------------------------------------------ building


@pytest.fixture(scope="module")
def built(videos, builds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "dataset"
    done = builds.run(videos=str(videos), folder=str(folder))
    assert done["code"] == 0, builds.said()
    return folder, done["seconds"]


@pytest.mark.slow
@pytest.mark.parametrize("faults", [50])
def test_builds_killed_at_random(videos, builds, built, tmp_path, faults):
    whole, seconds = built

    def check(arguments):
        "What bears a final name is whole, whenever the kill came."
        for path in Path(arguments["folder"]).rglob("*"):
            if path.suffix == ".parquet":
                assert path.read_bytes() == (whole / path.relative_to(arguments["folder"])).read_bytes(), path
            elif path.name in ("config.json", "summary.json"):
                json.loads(path.read_text())

    def finish(arguments):
        assert contents(arguments["folder"]) == contents(whole)

    kill_until(builds, faults, 0, lambda turn: {"videos": str(videos), "folder": str(tmp_path / f"{turn}")}, check, finish, seconds * 1.2)


def test_a_build_killed_before_its_plan_was_written_begins_anew(videos, tmp_path):
    "All that there is then is the list of videos, or half of it."
    plan = make_plan(videos, "demo", {"train": 4})
    for leftover in ("videos.parquet", ".videos.parquet.999999999.part"):
        folder = tmp_path / leftover
        folder.mkdir()
        (folder / leftover).write_bytes(b"PAR1 half of it")
        save_plan(plan, folder)
        assert load_plan(folder).videos == plan.videos
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no dataset"):
        save_plan(plan, tmp_path / "other")


@pytest.mark.slow
def test_builds_on_a_full_disk_go_on_when_there_is_room(videos, built, builds, tmp_path):
    rng, failed = np.random.default_rng(1), 0
    for turn in range(3):
        folder = tmp_path / f"{turn}"
        done = builds.run(limit_bytes=int(rng.integers(500, 12_000)), videos=str(videos), folder=str(folder))
        failed += done["code"] != 0
        assert done["code"] == 0 or "File too large" in builds.said(), builds.said()[-2000:]
        assert builds.run(videos=str(videos), folder=str(folder))["code"] == 0, builds.said()
        assert contents(folder) == contents(built[0])
    assert failed


@pytest.mark.slow
def test_two_builds_of_one_dataset_at_once(videos, built, tmp_path):
    "They do some work twice and disturb each other in nothing."
    code = BUILD + f"job({str(videos)!r}, {str(tmp_path / 'dataset')!r})"
    paths = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    both = [subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors[-2000:]
    assert contents(tmp_path / "dataset") == contents(built[0])


def test_a_video_that_vanishes_while_a_dataset_is_made_costs_itself(videos, tmp_path):
    shutil.copytree(videos, tmp_path / "videos")
    plan = make_plan(tmp_path / "videos", "demo", {"train": 12}, seed=3, shard_size=4)
    save_plan(plan, tmp_path / "dataset")
    gone = plan.videos["train"][0][1]
    (tmp_path / "videos" / gone).unlink()
    for split, shard in plan.shards():
        write_shard(plan, tmp_path / "dataset", split, shard)
    samples = load_samples(tmp_path / "dataset")
    assert len(samples) == 12 and not [sample for sample in samples if sample.video.endswith(gone)]


# ---------------------------------------------------------------------------------------------------------- evaluation


@pytest.fixture(scope="module")
def questions(videos, tmp_path_factory):
    paths = sorted(videos.glob("*.mp4"))
    samples = [make_sample("counting", path, seed=seed, difficulty="demo") for path in paths for seed in range(10)]
    return save_samples(samples, tmp_path_factory.mktemp("questions") / "samples.parquet"), len(samples)


def whole_records(path, n):
    ids = [record.id for record in read_records(path)]
    return len(ids) == len(set(ids)) == n


@few_or_fifty
def test_evaluations_killed_at_random(evaluations, questions, tmp_path, faults):
    path, n = questions
    known = {}

    def check(arguments):
        place = Path(arguments["path"])
        lines = place.read_bytes().split(b"\n")[:-1] if place.exists() else []
        ids = [json.loads(line)["id"] for line in lines]
        assert len(ids) == len(set(ids)) and lines[: len(known.get(place, []))] == known.get(place, []), "a finished line stays"
        known[place] = lines

    def finish(arguments):
        assert whole_records(arguments["path"], n)

    kill_until(evaluations, faults, 2, lambda turn: {"samples": str(path), "path": str(tmp_path / f"{turn}.jsonl")}, check, finish, 0.5)


def test_evaluations_on_a_full_disk_keep_what_they_have(evaluations, questions, tmp_path):
    path, n = questions
    for limit in (300, 5_000, 9_000):
        place = tmp_path / f"{limit}.jsonl"
        done = evaluations.run(limit_bytes=limit, samples=str(path), path=str(place))
        assert done["code"] == 1 and f"{place}" in evaluations.said() and "run again to go on" in evaluations.said(), evaluations.said()
        kept = place.read_bytes().count(b"\n")
        assert kept or limit == 300
        assert evaluations.run(samples=str(path), path=str(place))["code"] == 0
        assert whole_records(place, n)


def test_a_second_evaluation_does_not_touch_the_file_of_the_first(questions, tmp_path):
    "Not even where it is told to begin anew, or to ask failed questions again."
    samples, path = list(load_samples(questions[0])), tmp_path / "r.jsonl"

    def lost(policy, batch, **_):
        return [["?"] for _ in batch]

    evaluate(None, samples[:4], path, name="m", answer=lost, progress=False)
    before = path.read_bytes()
    with Journal(path) as journal:
        for options in ({}, {"resume": False}, {"retry_failed": True}):
            with pytest.raises(RuntimeError, match="another run is writing to"):
                evaluate(None, samples, path, name="m", answer=lost, progress=False, **options)
        assert path.read_bytes() == before
        journal.rewrite(read_records(path)[:2])
        with pytest.raises(RuntimeError, match="another run is writing to"):
            Journal(path)
    assert len(read_records(path)) == 2 and len(evaluate(None, samples[:4], path, name="m", answer=lost, progress=False, resume=False)) == 4


# ------------------------------------------------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def trained(videos, trainings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = trainings.run(folder=str(folder), video_dir=str(videos))
    assert done["code"] == 0, trainings.said()
    return folder, done["seconds"]


def same_run(folder, whole):
    run, other = runs.Run(Path(folder)), runs.Run(whole)
    assert [row["step"] for row in run.log_rows()] == [row["step"] for row in other.log_rows()] == list(range(1, 7))
    assert [row["reward"] for row in run.log_rows()] == [row["reward"] for row in other.log_rows()] and run.rollout_rows() == other.rollout_rows()
    weights, others = (load_file(place / "checkpoints" / "final" / "model.safetensors") for place in (Path(folder), whole))
    assert all((weights[name] == other).all() for name, other in others.items())
    for stage in ("before", "after"):
        replies, wanted = ([(record.id, record.reply) for record in read_records(place / "records" / f"{stage}.jsonl")] for place in (Path(folder), whole))
        assert replies == wanted
    assert json.loads((Path(folder) / "results.json").read_text())["tasks"] and not list(Path(folder).rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("faults", [50])
def test_trainings_killed_at_random(videos, trainings, trained, tmp_path, faults):
    whole, seconds = trained

    def check(arguments):
        folder = Path(arguments["folder"])
        for name in ("config.json", "results.json", "environment.json"):
            if (folder / name).exists():
                json.loads((folder / name).read_text())
        if (folder / "checkpoints" / "final").exists():
            load_file(folder / "checkpoints" / "final" / "model.safetensors")

    kill_until(trainings, faults, 4, lambda turn: {"folder": str(tmp_path / f"{turn}"), "video_dir": str(videos)}, check,
               lambda arguments: same_run(arguments["folder"], whole), seconds)  # fmt: skip


@pytest.mark.slow
def test_training_on_a_full_disk_goes_on_when_there_is_room(videos, trainings, trained, tmp_path):
    for number, limit in enumerate((2_000, 60_000)):
        folder = tmp_path / f"{number}"
        assert trainings.run(limit_bytes=limit, folder=str(folder), video_dir=str(videos))["code"] == 1
        assert "File too large" in trainings.said() or "os error 27" in trainings.said(), trainings.said()[-2000:]
        assert trainings.run(folder=str(folder), video_dir=str(videos))["code"] == 0, trainings.said()[-3000:]
        same_run(folder, trained[0])


@pytest.mark.slow
def test_a_video_that_vanishes_from_a_run_is_named_and_the_run_goes_on_when_it_is_back(videos, trainings, trained, tmp_path):
    shutil.copytree(videos, tmp_path / "videos")
    folder, steps = tmp_path / "run", {"folder": str(tmp_path / "run"), "video_dir": str(tmp_path / "videos")}
    while not (folder / "checkpoints" / "start").exists():
        assert trainings.run(seconds=trained[1] / 4, **steps)["killed"]
    lost = sorted({sample.video for sample in load_samples(folder / "samples" / "train.parquet")})[0]
    os.rename(lost, tmp_path / "elsewhere.mp4")
    assert trainings.run(**steps)["code"] == 1 and f"VideoError: {lost}" in trainings.said()
    os.rename(tmp_path / "elsewhere.mp4", lost)
    assert trainings.run(**steps)["code"] == 0, trainings.said()
    assert [row["step"] for row in runs.Run(folder).log_rows()] == list(range(1, 7))


def test_two_trainings_in_one_folder(tmp_path):
    "The second one says who has the folder and leaves it alone; when the first one ends, by a kill too, the folder is free."
    folder, settings = tmp_path / "run", runs.train_settings("demo")
    paths = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert holder.stdout.readline() == "held\n"
    for resume in (True, False):
        with pytest.raises(RuntimeError, match=f"process {holder.pid} on .* is at work on the run in"):
            runs.Run.create(folder, settings, 0, resume=resume)
    assert {path.name for path in folder.iterdir()} == {".lock"}
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert runs.Run.create(folder, settings, 0).folder == folder and claim_run(folder) is False
    with pytest.raises(ValueError, match="holds another run"):
        runs.Run.create(folder, settings, 1)
    release_run(folder)
    with (folder / ".lock").open("a") as file:
        assert lock_file(file)


HOLD = """
import sys, time
from pathlib import Path
from videossr.runs import claim_run
Path(sys.argv[1]).mkdir()
claim_run(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


# ---------------------------------------------------------------------------------------------------------- the disk


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_folders_that_cannot_be_written(videos, questions):
    "Nobody, not even root, can write here; each says which folder it was."
    with pytest.raises(OSError, match="/proc/nowhere"):
        build_dataset(videos, "/proc/nowhere", "demo", 4, held_out=0, progress=False)
    with pytest.raises(OSError, match="/proc/nowhere"):
        evaluate(None, list(load_samples(questions[0]))[:1], "/proc/nowhere/r.jsonl", name="m", answer=lambda *_, **__: [["?"]], progress=False)
    with pytest.raises(OSError, match="run folder /proc/nowhere.*choose another output_dir"):
        runs.Run.create("/proc/nowhere", runs.train_settings("demo"), 0)


def test_a_frame_cache_that_cannot_grow_costs_time_only(videos, tmp_path, monkeypatch):
    cache = FrameCache(tmp_path / "cache")
    video = str(sorted(videos.glob("*.mp4"))[0])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="frame cache .* cannot be written.*No space left"):
        clip = cache.read(video, n_frames=4)
    monkeypatch.undo()
    assert len(clip) == 4 and not list((tmp_path / "cache").iterdir())
    (tmp_path / "cache" / ".x.npy.999999999.part").write_bytes(b"half")
    np.testing.assert_array_equal(FrameCache(tmp_path / "cache").read(video, n_frames=4).frames, clip.frames)
    assert not list((tmp_path / "cache").glob(".*")), "what a dead process left is gone"
