"""train.ipynb as its readers run it: by papermill from the top, cell by cell from nbs/, on painted, real and broken files."""
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from PIL import Image

from videossr import runs
from videossr.data import load_samples
from videossr.demo import demo_videos
from videossr.evaluate import compare, read_records, read_results, results, sample_id, score
from videossr.policy import load_policy
from videossr.rewards import score_reply

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ROOT / "nbs" / "train.ipynb"
SMALL = {"steps": 2, "n_train": 12, "n_held_out": 9, "warm_steps": 5, "groups": 2, "group_size": 4}
TASKS = {"grounding", "jigsaw", "counting"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    "Demo videos are painted once for all runs, into a cache of the tests' own."
    cache = os.environ.get("VIDEOSSR_CACHE") or str(tmp_path_factory.mktemp("cache"))
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "VIDEOSSR_CACHE": cache, "PYTHONPATH": paths}


def papermill(notebook, output, parameters, env, cwd=ROOT, recipe=None, timeout=600):
    "Runs a notebook in a process of its own, the way the README says."
    command = [sys.executable, "-m", "papermill", str(notebook), str(output), "--no-progress-bar"]
    command += ["-p", "recipe", str(recipe)] if recipe else []
    command += [part for name, value in parameters.items() for part in ("-p", name, str(value))]
    return subprocess.run(command, check=False, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)


def printed(notebook):
    "All that the cells wrote as text."
    outputs = [output for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def pictures(notebook):
    "PNG pictures shown in a notebook's outputs."
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, environment):
    "A run by papermill from the top of the checkout: (run folder, executed notebook)."
    folder = tmp_path_factory.mktemp("papermill")
    recipe = folder / "small.yaml"
    recipe.write_text(yaml.safe_dump(SMALL))
    done = papermill("nbs/train.ipynb", folder / "out.ipynb", {"output_dir": folder / "run"}, environment, recipe=recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", folder / "out.ipynb"


def test_run_folder_is_complete(finished):
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} >= {
        "config.json", "environment.json", "samples", "log.jsonl", "checkpoints", "records", "figures", "results.json",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert {name: config[name] for name in SMALL} == SMALL
    assert set(config) >= set(asdict(runs.train_settings())) | {"seed", "video_dir"}
    versions = json.loads((folder / "environment.json").read_text())
    assert versions["seed"] == 0 and {"torch", "transformers", "trl"} <= set(versions["packages"])
    assert [row["step"] for row in runs.Run(folder).log_rows()] == [1, 2]
    assert all(0 <= row["reward"] <= 1 for row in runs.Run(folder).log_rows())
    for name in ("start", "final"):
        assert load_policy(folder / "checkpoints" / name).n_parameters > 0
    for path in (folder / "figures").glob("*.png"):
        assert min(Image.open(path).size) > 100
    assert {path.stem for path in (folder / "figures").glob("*.png")} >= {"reward", "before-after"}
    assert len(list((folder / "figures").glob("after-*.png"))) >= len(TASKS)


def test_samples_are_split_by_video(finished):
    folder, _ = finished
    train, held_out = (load_samples(folder / "samples" / f"{name}.parquet") for name in ("train", "held_out"))
    assert (len(train), len(held_out)) == (SMALL["n_train"], SMALL["n_held_out"])
    assert not {sample.video for sample in train} & {sample.video for sample in held_out}
    assert {sample.task for sample in held_out} == TASKS


def test_every_held_out_sample_has_a_record(finished):
    folder, _ = finished
    held_out = load_samples(folder / "samples" / "held_out.parquet")
    for stage in ("before", "after"):
        records = {record.id: record for record in read_records(folder / "records" / f"{stage}.jsonl")}
        assert set(records) == {sample_id(sample) for sample in held_out}
        for sample in held_out:
            record = records[sample_id(sample)]
            assert record.smooth == score_reply(sample.task, record.reply, sample.answer, strict=False, parse=record.parse)
            assert (record.answer, record.video, record.error) == (sample.answer, sample.video, "")


def test_results_follow_from_the_records(finished):
    folder, _ = finished
    found = read_results(folder / "results.json")
    before, after = (read_records(folder / "records" / f"{stage}.jsonl") for stage in ("before", "after"))
    train, held_out = (load_samples(folder / "samples" / f"{name}.parquet") for name in ("train", "held_out"))
    players = read_records(folder / "floors.jsonl")
    again = results(before, after, runs.floors_of(train, held_out), seconds=found["seconds"], players=players)
    assert set(found["tasks"]) == TASKS
    for name, line in [*found["tasks"].items(), ("overall", found["overall"])]:
        assert set(line) == {"blind", "low_level", "player", "above_low_level", "mixture", "before", "after", "gain", "videos", "turned"}
        assert line == (again["overall"] if name == "overall" else again["tasks"][name])
        assert all(set(line[key]) == {"mean", "low", "high", "n", "least"} for key in ("before", "after", "gain"))
        assert line["gain"]["mean"] == pytest.approx(line["after"]["mean"] - line["before"]["mean"])
    plain = sum(record.smooth for record in after) / len(after)
    assert found["overall"]["after"]["mean"] == pytest.approx(plain)
    assert found["overall"]["after"] == score(after, by=())["overall"]
    assert found["overall"]["gain"]["mean"] == compare(before, after, by=())["overall"]["mean"]
    assert 0 < found["seconds"] < 600 and 0.1 < found["peak_rss_gb"] < 6


def test_notebook_shows_what_was_done(finished):
    folder, output = finished
    notebook = nbformat.read(output, 4)
    assert len(pictures(notebook)) >= len(TASKS) + 2 + len(TASKS)
    text = printed(output)
    assert str(folder) in text and " weights on " in text
    table = [output.data["text/markdown"] for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs if "text/markdown" in output.get("data", {})]
    assert len(table) == 1 and all(task in table[0] for task in TASKS)


def test_run_can_be_drawn_again_without_the_model(finished, tmp_path):
    folder, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoints", "figures"))
    (copy / "figures").mkdir()
    runs.draw_run(copy)
    for name in ("reward", "before-after"):
        assert (copy / "figures" / f"{name}.png").read_bytes() == (folder / "figures" / f"{name}.png").read_bytes()


def stepped(parameters, cwd):
    "Executes train.ipynb cell by cell in a folder, as JupyterLab does, with the values typed into the parameters cell."
    notebook = nbformat.read(TRAIN, 4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    return NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(cwd)}}).execute()


def test_stepping_from_nbs_gives_the_same_run(finished, environment, tmp_path, monkeypatch):
    for name in ("VIDEOSSR_CACHE", "PYTHONPATH"):
        monkeypatch.setenv(name, environment[name])
    notebook = stepped({**SMALL, "output_dir": str(tmp_path / "run")}, ROOT / "nbs")
    assert len(pictures(notebook)) >= 2 * len(TASKS) + 2
    one, other = (read_results(folder / "results.json") for folder in (finished[0], tmp_path / "run"))
    assert (one["tasks"], one["overall"]) == (other["tasks"], other["overall"]), "same seed, same run, wherever it is started"


@pytest.mark.slow
def test_another_seed_is_another_run(finished, environment, tmp_path):
    done = papermill(TRAIN, tmp_path / "out.ipynb", {**SMALL, "seed": 1, "tasks": "grounding", "output_dir": tmp_path / "run"}, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = ({sample_id(sample) for sample in load_samples(folder / "samples" / "held_out.parquet")} for folder in (finished[0], tmp_path / "run"))
    assert not one & other
    assert set(read_results(tmp_path / "run" / "results.json")["tasks"]) == {"grounding"}


def test_broken_files_among_good_ones(environment, tmp_path, monkeypatch):
    "The run goes on without them and says so, in the notebook and in the run folder."
    monkeypatch.setenv("VIDEOSSR_CACHE", environment["VIDEOSSR_CACHE"])
    videos = tmp_path / "my videos"
    (videos / "deeper").mkdir(parents=True)
    for number, path in enumerate(demo_videos(8, progress=False)):
        shutil.copy(path, videos / ("deeper" if number % 2 else ".") / path.name)
    whole = demo_videos(8, progress=False)[0].read_bytes()
    (videos / "cut short.mp4").write_bytes(whole[: len(whole) // 3])
    (videos / "noise.mp4").write_bytes(bytes(range(256)) * 200)
    (videos / "nothing.webm").touch()
    (videos / "notes.txt").write_text("not a video, and no matter")
    parameters = {**SMALL, "n_train": 36, "n_held_out": 12, "video_dir": videos, "output_dir": tmp_path / "run"}
    done = papermill(TRAIN, tmp_path / "out.ipynb", parameters, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    refused = [json.loads(line) for line in (tmp_path / "run" / "samples" / "refusals.jsonl").read_text().splitlines()]
    broken = {Path(row["video"]).name for row in refused if row["reason"] == "unreadable video"}
    assert broken == {"cut short.mp4", "noise.mp4", "nothing.webm"}
    text = printed(tmp_path / "out.ipynb")
    assert all(f"left out {videos / name}" in text for name in broken)
    held_out = load_samples(tmp_path / "run" / "samples" / "held_out.parquet")
    assert len(held_out) == 12 == read_results(tmp_path / "run" / "results.json")["overall"]["after"]["n"]
    assert not broken & {Path(sample.video).name for sample in held_out}


def mistakes(folder):
    "Parameters that cannot work, and what the reader is told."
    (folder / "empty").mkdir()
    (folder / "a file").write_text("in the way")
    run = {"output_dir": folder / "run"}
    return {
        "empty folder": ({**run, "video_dir": folder / "empty"}, [f"no video files in {folder / 'empty'}", "looked for .mp4"]),
        "preset": ({**run, "preset": "huge"}, ["no preset 'huge'", "choose from demo, paper"]),
        "output": ({"output_dir": folder / "a file" / "run"}, [f"cannot write to the run folder {folder / 'a file' / 'run'}", "choose another output_dir"]),
    }


@pytest.mark.parametrize("name", ["empty folder", "preset", "output"])
def test_mistakes_are_explained(name, environment, tmp_path):
    parameters, told = mistakes(tmp_path)[name]
    done = papermill(TRAIN, tmp_path / "out.ipynb", {**SMALL, **parameters}, environment, timeout=300)
    assert done.returncode != 0
    last = done.stderr.rstrip()[-1500:]
    assert all(part in last for part in told), last
    assert not (tmp_path / "run" / "results.json").exists()


def test_real_clips(real_videos, environment, tmp_path):
    "The same job on real clips: whatever is refused is listed, and the numbers are there."
    done = papermill(TRAIN, tmp_path / "out.ipynb", {**SMALL, "video_dir": real_videos, "output_dir": tmp_path / "run"}, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = read_results(tmp_path / "run" / "results.json")
    assert found["overall"]["after"]["n"] == SMALL["n_held_out"]
    held_out = load_samples(tmp_path / "run" / "samples" / "held_out.parquet")
    assert all(Path(sample.video).is_relative_to(real_videos) for sample in held_out)
    assert len(pictures(nbformat.read(tmp_path / "out.ipynb", 4))) >= 2 * len(found["tasks"]) + 2


def test_shortcuts(environment, tmp_path):
    "Few videos: that it runs to its end, with its three tables."
    done = papermill(ROOT / "nbs" / "experiments" / "shortcuts.ipynb", tmp_path / "out.ipynb", {"n_videos": 3, "n_each": 1}, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out.ipynb").read_text().count("trained mixture |") >= 3


def test_ablations(environment, tmp_path):
    "Every experiment, with as little of each as shows its pictures and tables."
    small = {"seeds": "0", "types": "mirror", "sizes": "6", "scaled": "jigsaw", "longer": "", "mix": "demo", "transfer_mix": "demo", "n_train": 8, "n_held_out": 6, "warm_steps": 2,
             "steps": 1, "transfer_steps": 1, "groups": 1, "groups_at_once": 1, "group_size": 2, "max_new_tokens": 3, "experiments": "figure1,figure5,transfer"}  # fmt: skip
    done = papermill(ROOT / "nbs" / "experiments" / "ablations.ipynb", tmp_path / "out.ipynb", {**small, "output_dir": tmp_path / "runs"}, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(pictures(nbformat.read(tmp_path / "out.ipynb", 4))) == 5, "three tasks sampled, one task scaled, one matrix"
    assert len(list((tmp_path / "runs").rglob("results.json"))) == 4 + 4


@pytest.mark.slow
def test_controls(environment, tmp_path):
    "Every control of one seed with a single step: a line for each arm, and a claim for each task and true reward."
    small = {"seeds": "0", "n_train": 8, "n_held_out": 6, "steps": 1, "options": "groups=1 groups_at_once=1 group_size=2 max_new_tokens=3", "output_dir": tmp_path / "runs"}
    done = papermill(ROOT / "nbs" / "experiments" / "controls.ipynb", tmp_path / "out.ipynb", small, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    arms = {path.parent.name for path in (tmp_path / "runs").rglob("results.json")}
    assert arms == {"true-smooth", "true-strict", "random-reward", "format-reward", "shuffled-answers", "blank", "frozen-vision"}
    assert (tmp_path / "out.ipynb").read_text().count("cannot tell") >= 6, "one seed tells nothing"


@pytest.mark.slow
def test_transfer(environment, tmp_path):
    "Every arm of one seed, and four domains of downstream questions about painted shores."
    small = {"seeds": "0", "n_train": 8, "n_held_out": 6, "steps": 1, "n_lessons": 4, "options": "groups=1 groups_at_once=1 group_size=2 max_new_tokens=3", "output_dir": tmp_path / "runs"}
    done = papermill(ROOT / "nbs" / "experiments" / "transfer.ipynb", tmp_path / "out.ipynb", small, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "runs").rglob("results.json"))) == len(list((tmp_path / "runs").rglob("downstream-shores-*.parquet"))) - 1 == 7
    assert "reasoning" in (tmp_path / "out.ipynb").read_text()


@pytest.mark.slow
def test_own_and_pretext(environment, tmp_path):
    "The arms of one seed on few videos: a table with both kinds, a gain of each, and the curves by source."
    small = {"seeds": "0", "n_videos": 12, "n_train": 12, "n_held_out": 8, "warm_steps": 2, "steps": 2, "groups": 2, "group_size": 4, "output_dir": tmp_path / "runs"}
    done = papermill(ROOT / "nbs" / "experiments" / "own_and_pretext.ipynb", tmp_path / "out.ipynb", small, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {path.parent.name: read_results(path) for path in (tmp_path / "runs").rglob("results.json")}
    assert set(found) == {"own-questions", "pretext-samples", "both", "both,-twice-the-steps"}
    sizes = {name: {task: line["before"]["n"] for task, line in one["tasks"].items()} for name, one in found.items()}
    assert len({json.dumps(one, sort_keys=True) for one in sizes.values()}) == 1 and sizes["both"]["questions.jsonl"] == 8, "all arms are asked the same"
    assert len(pictures(nbformat.read(tmp_path / "out.ipynb", 4))) == 2 + 2 + 1


def test_questions_of_one_s_own(environment, tmp_path):
    "train.ipynb with a file of rows, as the README has it: a line for the source in the table, and a picture."
    names = [path.name for path in demo_videos(6, folder=tmp_path, progress=False)]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps({"prompt": "What grows?", "video": name, "options": ["sun", "fence"], "answer": "B"}) + "\n" for name in names))
    parameters = {**SMALL, "data": tmp_path / "my.jsonl", "options": "pretext=0.5 n_frames=4 max_pixels=4096", "output_dir": tmp_path / "run"}
    done = papermill(TRAIN, tmp_path / "out.ipynb", parameters, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(read_results(tmp_path / "run" / "results.json")["tasks"]) == TASKS | {"my.jsonl"}
    assert "**my.jsonl**" in (tmp_path / "out.ipynb").read_text()
    assert (tmp_path / "run" / "figures" / "after-my.jsonl-0.png").exists()
