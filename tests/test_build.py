"Datasets in shards: the same bytes whatever the workers, interrupts and deaths on the way; one bad video costs one video."
import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from videossr.data import MixRow, build, build_dataset, get_mix, load_samples
from videossr.data.build import Deal, Plan, Verdicts, load_plan, make_plan, make_shard, missing_shards, save_plan, shard_path, shard_work, write_shard
from videossr.demo import demo_videos, write_mp4
from videossr.tasks import TASKS, render
from videossr.tasks.core import video_key

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"mix": "demo", "n": 70, "held_out": 0.25, "n_validation": 20, "shard_size": 16, "seed": 3}
SLOW_TASK = """
import os, time
from pathlib import Path
from videossr.tasks import TASKS, register

class Slow(type(TASKS["counting"])):
    "Counting that takes its time, and dies or hangs over videos whose names say so."
    name = "slow"
    def check(self, clip, *rest):
        time.sleep(0.03)
        if "deadly" in clip.source: os.kill(os.getpid(), 9)
        if "endless" in clip.source: time.sleep(1e6)
        super().check(clip, *rest)

register(Slow())
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    demo_videos(8, folder=folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory):
    "The dataset from one uninterrupted build with one worker."
    folder = tmp_path_factory.mktemp("whole") / "dataset"
    build_dataset(videos, folder, **SETTINGS, workers=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    "A folder on the path with a module that registers a slow task."
    folder = tmp_path_factory.mktemp("module")
    (folder / "slow_task.py").write_text(SLOW_TASK)
    sys.path.append(str(folder))
    known = {*TASKS}
    yield folder
    sys.path.remove(str(folder))
    for name in {*TASKS} - known:
        del TASKS[name]


def contents(folder):
    "Every file but the log, which holds times."
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.name != "log.jsonl"}


def test_the_folder_is_complete(whole):
    names = set(contents(whole))
    assert names >= {"config.json", "videos.parquet", "summary.json", "refusals.csv"}
    assert {name for name in names if name.startswith("samples")} == {
        *(f"samples/train-{k:05d}.parquet" for k in range(5)), *(f"samples/validation-{k:05d}.parquet" for k in range(2))
    }  # fmt: skip
    assert not [name for name in names if name.endswith(".part")]
    summary = json.loads((whole / "summary.json").read_text())
    assert {split: entry["made"] for split, entry in summary["splits"].items()} == {"train": 70, "validation": 20}


def test_samples_keep_the_mix_are_split_by_video_and_render(whole):
    train, held = load_samples(whole), load_samples(whole, "validation")
    assert [sample.index for sample in train] == list(range(70))
    assert [sample.task for sample in train] == [row.task for row in get_mix("demo").order(70)]
    assert not {sample.video for sample in train} & {sample.video for sample in held}
    assert len({sample.to_json() for sample in [*train, *held]}) == 90
    for sample in train[:8]:
        assert all(clip.frames.size for clip in render(sample))


@pytest.mark.parametrize("workers", [2, 3])
def test_the_bytes_do_not_depend_on_workers(videos, whole, tmp_path, workers):
    build_dataset(videos, tmp_path / "dataset", **SETTINGS, workers=workers, progress=False)
    assert contents(tmp_path / "dataset") == contents(whole)


def test_the_bytes_do_not_depend_on_order_and_place(videos, whole, tmp_path):
    for path in sorted(videos.iterdir()):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        os.link(path, tmp_path / "elsewhere" / path.name)
    build_dataset(list((tmp_path / "elsewhere").iterdir())[::-1], tmp_path / "dataset", **SETTINGS, progress=False)
    here, there = contents(whole), contents(tmp_path / "dataset")
    assert {name for name in here if here[name] != there[name]} == {"config.json"}  # it holds the folder of the videos
    differing = [json.loads(one["config.json"]) | {"root": ""} for one in (here, there)]
    assert differing[0] == differing[1]


def test_a_copy_of_a_file_changes_no_sample_and_is_reported(videos, whole, tmp_path):
    there = shutil.copytree(videos, tmp_path / "there")
    copied = sorted(there.iterdir())[2]
    shutil.copy(copied, there / "zz-copy.mp4")
    built = build_dataset(there, tmp_path / "dataset", **SETTINGS, progress=False)
    here, now = contents(whole), contents(tmp_path / "dataset")
    assert {name for name in here if here[name] != now[name]} == {"config.json", "videos.parquet", "refusals.csv", "summary.json", "README.md"}
    assert built.summary["refused videos"] == {**json.loads(here["summary.json"])["refused videos"], "same file": 1}
    told = pd.read_csv(tmp_path / "dataset" / "refusals.csv").set_index("video").loc["zz-copy.mp4"]
    assert (told["reason"], told["detail"]) == ("same file", f"as {copied.name}")
    assert load_plan(tmp_path / "dataset").copies == (("zz-copy.mp4", video_key(copied)),)


def test_shards_can_be_made_in_any_order(videos, whole, tmp_path):
    numbers = {"train": SETTINGS["n"], "validation": SETTINGS["n_validation"]}
    plan = make_plan(videos, "demo", numbers, 0.25, seed=3, shard_size=16)
    save_plan(plan, tmp_path)
    for split, shard in plan.shards()[::-1]:
        write_shard(plan, tmp_path, split, shard)
    assert missing_shards(plan, tmp_path) == []
    for kind in ("samples", "refusals"):
        for split, shard in plan.shards():
            assert shard_path(tmp_path, split, shard, kind).read_bytes() == shard_path(whole, split, shard, kind).read_bytes()


def test_another_seed_gives_other_samples(videos, whole, tmp_path):
    build_dataset(videos, tmp_path / "dataset", **{**SETTINGS, "seed": 4}, progress=False)
    assert load_samples(tmp_path / "dataset") != load_samples(whole)


def command(videos, folder, module, n=100):
    "A build in a process of its own."
    code = (
        "from videossr.data import build_dataset\n"
        f"build_dataset({str(videos)!r}, {str(folder)!r}, [{{'task': 'slow', 'difficulty': 'demo'}}], {n}, held_out=0,"
        " shard_size=20, workers=2, imports=['slow_task'], progress=False)"
    )
    paths = os.pathsep.join([str(ROOT), str(module), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def slow_whole(videos, module, tmp_path_factory):
    folder = tmp_path_factory.mktemp("slow") / "dataset"
    process = command(videos, folder, module)
    assert process.wait(120) == 0, process.stderr.read()
    return folder


@pytest.mark.parametrize("how", [signal.SIGKILL, *(pytest.param(how, marks=pytest.mark.slow) for how in (signal.SIGINT, signal.SIGTERM))])
def test_a_killed_build_is_finished_by_the_next(videos, module, slow_whole, tmp_path, how):
    folder = tmp_path / "dataset"
    process = command(videos, folder, module)
    wait_for(lambda: len(list(folder.glob("samples/*.parquet"))) >= 1)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(how)
    process.wait(60)
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "samples").glob("*.parquet")}
    assert 1 <= len(kept) <= 5, "on a busy machine the last shard may be there before the signal is"
    assert not psutil.wait_procs(family, timeout=20)[1], "builders and decoders end with their parent"
    again = command(videos, folder, module)
    assert again.wait(120) == 0, again.stderr.read()
    assert contents(folder) == contents(slow_whole)
    assert all((folder / "samples" / name).stat().st_mtime_ns == time for name, time in kept.items()), "finished shards are not made again"


def test_a_killed_builder_is_replaced(videos, module, slow_whole, tmp_path):
    folder = tmp_path / "dataset"
    process = command(videos, folder, module)
    wait_for(lambda: len(list(folder.glob("samples/*.parquet"))) >= 1)
    psutil.Process(process.pid).children()[0].kill()
    assert process.wait(120) == 0, process.stderr.read()
    assert contents(folder) == contents(slow_whole)


@pytest.mark.parametrize(("name", "reason"), [("deadly", "crash"), ("endless", "time limit")])
def test_a_video_that_takes_builders_down_costs_itself(videos, module, tmp_path, monkeypatch, name, reason):
    if name == "endless":
        monkeypatch.setenv("VIDEOSSR_DECODE_SECONDS", "3")  # of which the limit of a sample follows
    for number, path in enumerate(sorted(videos.iterdir())[:5]):
        (tmp_path / "videos").mkdir(exist_ok=True)
        os.link(path, tmp_path / "videos" / (f"{name}.mp4" if number == 1 else path.name))
    settings = {"mix": [{"task": "slow", "difficulty": "demo"}], "n": 24, "held_out": 0, "shard_size": 8, "time_limit": "auto" if name == "endless" else 60, "imports": ["slow_task"]}
    built = build_dataset(tmp_path / "videos", tmp_path / "two", **settings, workers=2, progress=False)
    assert built.summary["refused videos"] == {reason: 1} and built.summary["splits"]["train"]["made"] == 24
    assert {Path(sample.video).stem for sample in load_samples(tmp_path / "two")}.isdisjoint({name})
    rows = (tmp_path / "two" / "refusals.csv").read_text().splitlines()
    assert len(rows) == 2 and f"{name}.mp4" in rows[1] and reason in rows[1]
    if name == "endless":
        return
    build_dataset(tmp_path / "videos", tmp_path / "one", **settings, workers=1, progress=False)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert {key: value for key, value in one.items() if key.startswith("samples")} == {key: value for key, value in two.items() if key.startswith("samples")}


def test_the_limit_grows_with_the_files_unless_it_is_told(videos, tmp_path, monkeypatch):
    shutil.copytree(videos, tmp_path / "videos")
    plan = make_plan(tmp_path / "videos", "demo", {"train": 8}, near_duplicates=False)
    save_plan(plan, tmp_path / "dataset")
    (small, _), (large, name), *_ = plan.videos["train"]
    os.truncate(tmp_path / "videos" / name, 2**30)  # holes
    limit = build._Crew(tmp_path / "dataset", [], 1, "auto").limit
    assert [round(limit(keys)) for keys in ([small], [large], [small, large], [""])] == [120, 600, 720, 0]
    monkeypatch.setenv("VIDEOSSR_DECODE_SECONDS", "7")
    assert round(limit([large])) == 70
    assert {build._Crew(tmp_path / "dataset", [], 1, 1.5).limit(keys) for keys in ([small], [large], [small, large], [""])} == {1.5}
    for wrong in ("long", 0, -1, float("nan")):
        with pytest.raises(ValueError, match="time_limit=.* must be seconds, more than 0, or 'auto'"):
            build_dataset(videos, tmp_path / "other", "demo", 8, time_limit=wrong)


def test_bad_files_are_rows_and_the_work_goes_on(videos, whole, tmp_path):
    bad = {"text.mp4": b"not a video", "cut.mp4": (videos / "evening-000.mp4").read_bytes()[:900], "empty.mp4": b""}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    files = [*videos.iterdir(), *(tmp_path / name for name in bad), tmp_path / "absent.mp4"]
    built = build_dataset(files, tmp_path / "dataset", **SETTINGS, one_task=False, progress=False)
    assert all(entry["made"] == entry["wanted"] for entry in built.summary["splits"].values())
    assert built.summary["refused videos"]["unreadable video"] == 4 == built.summary["unreadable videos"]
    rows = (tmp_path / "dataset" / "refusals.csv").read_text()
    assert all(name in rows for name in [*bad, "absent.mp4"])


def test_a_fault_of_the_program_stops_the_build_and_keeps_what_is_done(videos, module, tmp_path):
    (module / "faulty_task.py").write_text(SLOW_TASK.replace("time.sleep(0.03)", "rest[1]['shapes'][0]['frame'] == 0 and {}['a bug']").replace("slow", "faulty"))
    with pytest.raises(RuntimeError, match="(?s)could not be made; finished shards are kept.*a bug"):
        build_dataset(videos, tmp_path / "dataset", [{"task": "faulty", "difficulty": "demo"}], 60, held_out=0, imports=["faulty_task"], progress=False)


def test_too_few_samples_are_reported(tmp_path):
    still = write_mp4(tmp_path / "still.mp4", np.full((40, 64, 96, 3), 90, np.uint8))
    rows = [{"task": "jigsaw", "difficulty": "demo"}, {"task": "counting", "difficulty": "demo"}]
    with pytest.warns(UserWarning, match="made 3 of 6 samples.*jigsaw"):
        built = build_dataset([still], tmp_path / "dataset", rows, 6, held_out=0, progress=False)
    assert [sample.index for sample in load_samples(built.folder)] == [1, 3, 5]
    with pytest.raises(ValueError, match="no sample could be made. Videos refused: jigsaw, still scene: 1"):
        build_dataset([still], tmp_path / "none", rows[:1], 4, held_out=0, progress=False)


def test_a_type_with_a_donor(videos, tmp_path):
    build_dataset(videos, tmp_path / "dataset", [{"task": "grounding", "type": "swap", "difficulty": "demo"}], 12, held_out=0.25, shard_size=5, progress=False)
    train = load_samples(tmp_path / "dataset")
    held = load_samples(tmp_path / "dataset", "validation")
    assert all(sample.donor and sample.donor != sample.video for sample in train)
    assert not {sample.donor for sample in train} & {sample.video for sample in held}
    assert len(render(train[0])) == 1


def test_another_dataset_in_the_folder_is_left_alone(videos, whole, tmp_path):
    before = contents(whole)
    for change in ({"seed": 9}, {"n": 71}, {"shard_size": 8}, {"mix": "VideoSSR-30K"}, {"one_task": False}):
        with pytest.raises(ValueError, match=f"holds another dataset: {next(iter(change))} differ"):
            build_dataset(videos, whole, **{**SETTINGS, **change}, progress=False)
    with pytest.raises(ValueError, match="videos differ"):
        build_dataset(sorted(videos.iterdir())[:7], whole, **SETTINGS, progress=False)
    (tmp_path / "mine.txt").write_text("my notes")
    with pytest.raises(ValueError, match="is not empty"):
        build_dataset(videos, tmp_path, **SETTINGS, progress=False)
    assert contents(whole) == before


def test_what_a_dead_process_left_is_swept(videos, whole, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = tmp_path / "dataset"
    build_dataset(videos, folder, **SETTINGS, progress=False)
    shard_path(folder, "train", 1).unlink()
    (folder / "samples" / f".train-00001.parquet.{dead.pid}.part").write_bytes(b"half")
    build_dataset(videos, folder, **SETTINGS, progress=False)
    assert contents(folder) == contents(whole)


# ------------------------------------------------------------------------------------------------------------ planning


def fake_plan(n_videos, n, shard_size=500, mix="VideoSSR-30K", one_task=True):
    return Plan(get_mix(mix), {"train": n}, {"train": [(f"{k:x}", f"{k}.mp4") for k in range(n_videos)]}, "", shard_size=shard_size, one_task=one_task)


@pytest.mark.parametrize("one_task", [True, False])
@pytest.mark.parametrize(("n_videos", "n"), [(1, 30), (3, 1000), (27, 3000), (400, 3000), (3000, 3000), (9000, 3000)])
def test_plan_serves_every_sample_once_and_videos_evenly(n_videos, n, one_task):
    plan = fake_plan(n_videos, n, 250, one_task=one_task)
    deal = Deal.make(plan.mix, plan.groups_of("train"), one_task)
    indices, uses, rows = [], Counter(), {}
    for split, shard in plan.shards():
        for work in shard_work(plan, deal, split, shard):
            video = deal.own[work.row][work.place]
            indices.append(work.index)
            uses[video, work.row] += 1
            rows.setdefault(video, set()).add(work.row)
    assert sorted(indices) == list(range(n))
    assert len(rows) == min(n_videos, n) or not one_task
    if one_task and n_videos >= len(plan.mix.rows) * 2:
        assert all(len(of_video) == 1 for of_video in rows.values()), "one task a video"
    if n_videos >= n and one_task:
        assert max(uses.values()) == 1
    for row in range(len(plan.mix.rows)):
        counts = [uses[video, row] for video in deal.own[row]]
        assert max(counts) <= 3 * max(1, sum(counts) / len(counts))


def test_every_candidate_comes_once():
    deal = Deal.make(get_mix("VideoSSR-30K"), [*map(str, range(23))], True)
    for row in range(6):
        found = list(deal.candidates(row, len(deal.own[row]) - 1))
        assert sorted(found) == list(range(23)) and found[0] == deal.own[row][-1]
        assert set(found[: len(deal.own[row])]) == set(deal.own[row])


def test_a_refused_video_is_asked_once_a_shard(videos, tmp_path, monkeypatch):
    asked = Counter()

    def refuse(task, path, **settings):
        asked[path] += 1
        raise build.Unsolvable("still scene")

    monkeypatch.setattr(build, "make_sample", refuse)
    plan = make_plan(videos, [{"task": "counting", "difficulty": "demo"}], {"train": 40}, shard_size=40)
    samples, refusals = make_shard(plan, "train", 0, Verdicts(tmp_path))
    assert samples == [] and len(refusals) == 8 and set(asked.values()) == {1}


def test_a_verdict_holds_for_all_shards(videos, tmp_path, monkeypatch):
    read = Counter()

    def unreadable(task, path, **settings):
        read[path] += 1
        raise build.VideoError(path, "broken")

    monkeypatch.setattr(build, "make_sample", unreadable)
    plan = make_plan(videos, [MixRow("counting").__dict__], {"train": 40}, shard_size=10)
    made = [make_shard(plan, "train", shard, Verdicts(tmp_path)) for shard in (0, 1, 0)]
    assert made[0] == made[2] and set(read.values()) == {1}
    assert {row["reason"] for _, refusals in made for row in refusals} == {"unreadable video"}


def test_a_video_that_no_draw_makes_fit_is_measured_once(videos, tmp_path, monkeypatch):
    measured = Counter()

    def unfit(task, path, **settings):
        measured[path] += 1
        raise build.Unsolvable("still scene", "no two frames differ", final=settings["type"] == "order")

    monkeypatch.setattr(build, "make_sample", unfit)
    for row, least in (({"task": "jigsaw", "type": "order"}, 1), ({"task": "counting", "type": "shapes"}, 2), ({"task": "grounding"}, 2)):
        plan = make_plan(videos, [row], {"train": 20}, shard_size=10)
        measured.clear()
        told = [make_shard(plan, "train", shard, Verdicts(tmp_path / row["task"])) for shard in (0, 1)]
        assert max(measured.values()) == least, row
        assert told == [make_shard(plan, "train", shard, Verdicts(tmp_path / f"{row['task']}-{shard}")) for shard in (0, 1)], "the same refusals without a memory"


def test_parquet_opens_elsewhere(whole):
    table = pq.read_table(whole / "samples" / "train-00000.parquet")
    assert table.column_names == ["task", "type", "video", "recipe", "question", "answer", "seed", "index", "donor", "group"]
    assert not any(Path(path).is_absolute() for path in table["video"].to_pylist())


def test_cluster_says_what_there_is(videos, tmp_path):
    with pytest.raises(ValueError, match="choose None for this machine or 'ray'"):
        build_dataset(videos, tmp_path / "dataset", **SETTINGS, cluster="slurm", progress=False)


# --------------------------------------------------------------------------------------------------------- the notebook


def parameters():
    "Names, types and defaults of the notebook's parameters cell."
    cells = json.loads((ROOT / "nbs" / "build_dataset.ipynb").read_text(encoding="utf-8"))["cells"]
    source = next("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
    nodes = ast.parse(source).body
    assert len(nodes) == len([line for line in source.splitlines() if re.match(r"\w+: (str|int|float|bool) = .+?  # \S", line)])
    return {node.target.id: (node.annotation.id, ast.literal_eval(node.value)) for node in nodes}


def test_papermill_builds_and_finishes(videos, tmp_path):
    settings = {"videos": videos, "output_dir": tmp_path / "dataset", "n": 40, "shard_size": 15, "workers": 1, "export": "verl"}
    command = [sys.executable, "-m", "papermill", "nbs/build_dataset.ipynb", str(tmp_path / "out.ipynb"), "--no-progress-bar"]
    command += [part for name, value in settings.items() for part in ("-p", name, str(value))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    kept = None
    for _ in range(2):
        done = subprocess.run(command, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        now = {path.name: path.read_bytes() for path in (tmp_path / "dataset" / "samples").iterdir()}
        assert kept in (None, now)
        kept = now
        next((tmp_path / "dataset" / "samples").iterdir()).unlink()
    took = json.loads((tmp_path / "dataset" / "took.json").read_text())
    assert took["samples"] == 44 and took["unreadable videos"] == 0
    assert len(pq.read_table(tmp_path / "dataset" / "verl" / "train" / "train-00000.parquet")) == 40
    assert "| jigsaw | order |" in (tmp_path / "dataset" / "README.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "environments" / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_parameters_of_the_notebook(path):
    recipe, known = yaml.safe_load(path.read_text(encoding="utf-8")), parameters()
    types = {"str": str, "int": int, "float": float, "bool": bool}
    assert recipe and set(recipe) <= set(known)
    assert all(type(value) is types[known[name][0]] for name, value in recipe.items())
    get_mix(recipe["mix"]).check()
