"""RolloutBrowser, DatasetExplorer and LiveView without a browser: files that grow, go back, are broken or hostile; sizes; what opens."""
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import hostile_replies
from matplotlib.backends.backend_agg import FigureCanvasAgg

from videossr.data import save_samples
from videossr.demo import demo_videos
from videossr.records import sample_id
from videossr.rewards import parse_reply, score_reply
from videossr.runs import Run
from videossr.tasks import make_sample
from videossr.viewers import DatasetExplorer, LiveView, RolloutBrowser
from videossr.viewers.core import state_bytes
from videossr.viewers.dataset import choose_rows, read_split, splits_of
from videossr.viewers.live import curve, run_state, task_floors
from videossr.viewers.rollouts import Rollouts, choose_groups, timeline

MARKUP = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>"
GONE = f"gone {MARKUP.replace('/', '')}.mp4"


def some_samples(n=2):
    return [make_sample(task, video, difficulty="demo", index=index) for task in ("grounding", "jigsaw", "counting") for video in demo_videos(2, progress=False) for index in range(n)]


def group_row(sample, step, replies):
    rewards = [score_reply(sample.task, reply, sample.answer, strict=False, parse="paper") for reply in replies]
    advantages = ((np.array(rewards) - np.mean(rewards)) / (np.std(rewards) + 1e-4)).round(4).tolist()
    about = {"step": step, "sample": sample_id(sample), "task": sample.task, "type": sample.type, "video": sample.video, "answer": sample.answer}
    parsed = [parse_reply(sample.task, reply, sample.answer) is not None for reply in replies]
    return {**about, "replies": replies, "parsed": parsed, "rewards": rewards, "advantages": advantages}


def run_folder(folder, steps=12, size=6):
    "A run's folder with samples and rollouts: markup among the replies, every third step without variance."
    run, samples = Run(Path(folder)), some_samples()
    run.path("samples").mkdir(parents=True)
    for name in ("train", "held_out"):
        save_samples(samples, run.path("samples", f"{name}.parquet"))
    run.write_json("config.json", {"steps": 12, "parse": "paper", "rollout_steps": 1})
    rows = []
    for step in range(1, steps + 1):
        for place in range(3):
            sample = samples[(step + 4 * place) % len(samples)]
            wrong = [other.answer for other in samples if other.task == sample.task and other.answer != sample.answer]
            right = [sample.answer] * (size if step % 3 == 0 else min(size - 2, step // 2 + 1))
            rows.append(group_row(sample, step, (right + [MARKUP] + wrong * size)[:size]))
    run.rollouts_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def write_log(folder, steps):
    run, samples = Run(Path(folder)), some_samples(1)
    with run.log_path.open("a") as log, run.rollouts_path.open("a") as kept:
        for step in steps:
            numbers = {f"{name}/{task}": value + 0.05 * step for task in ("grounding", "jigsaw", "counting") for name, value in (("reward", 0.2), ("zero_variance", 0.1))}
            kept.write(json.dumps(group_row(samples[step % 6], step, [samples[step % 6].answer, MARKUP])) + "\n")
            log.write(json.dumps({"step": step, "seconds": 0.5 * step, "reward": 0.2 + 0.05 * step, "frac_reward_zero_std": 0.2, **numbers}) + "\n")


def dataset(folder):
    "A dataset's folder with a row whose video is gone, under a hostile name, and a refusal of it."
    folder, samples = Path(folder), some_samples()
    (folder / "samples").mkdir(parents=True)
    (folder / "refusals").mkdir()
    save_samples([*samples, replace(samples[0], video=str(folder / GONE), question=f"{MARKUP} When?")], folder / "samples" / "train-00000.parquet")
    refused = [{"video": GONE, "task": "jigsaw", "type": "order", "reason": "still scene", "detail": MARKUP}]
    pq.write_table(pa.Table.from_pylist(refused), folder / "refusals" / "train-00000.parquet")
    (folder / "config.json").write_text(json.dumps({"root": "/", "n": {"train": 13}}))
    return folder


@pytest.fixture
def run(tmp_path):
    return run_folder(tmp_path / "run")


# ---------------------------------------------------------------------------------------------------------- rollouts


def test_a_growing_file_is_read_once_and_whole_lines_only(run):
    kept = Rollouts(run.rollouts_path)
    whole, kept_rows = run.rollouts_path.read_bytes(), run.rollout_rows()
    for end in (0, 10, len(whole) // 2, len(whole) - 1, len(whole)):
        with run.rollouts_path.open("r+b") as file:  # the same file, as an append leaves it
            file.truncate(0)
            file.write(whole[:end])
        kept.refresh()
        assert len(kept.groups) == whole[:end].count(b"\n")
    assert [kept.row(group) for group in kept.groups] == kept_rows


def test_a_run_that_goes_back_is_read_anew(run):
    kept = Rollouts(run.rollouts_path)
    kept.refresh()
    last = kept.groups[-1]
    run.rewind(run.rollouts_path, 5)
    with pytest.raises(ValueError, match="refresh"):
        kept.row(last)
    assert kept.refresh() and kept.groups[-1].step == 5
    run.rollouts_path.unlink()
    assert kept.refresh() and not kept.groups and not kept.refresh()


def test_filters_and_orders_agree_with_the_rows(run):
    kept = Rollouts(run.rollouts_path)
    kept.refresh()
    rows = run.rollout_rows()
    silent = [number for number, row in enumerate(rows) if len(set(row["rewards"])) == 1]
    assert sorted(choose_groups(kept.groups, show="zero variance")) == silent and silent
    assert sorted(choose_groups(kept.groups, show="unreadable")) == [number for number, row in enumerate(rows) if not all(row["parsed"])]
    means = [np.mean(rows[number]["rewards"]) for number in choose_groups(kept.groups, sort="best")]
    assert means == sorted(means, reverse=True)
    assert {rows[number]["task"] for number in choose_groups(kept.groups, task="jigsaw", steps=(2, 4))} == {"jigsaw"}
    assert len(timeline(kept.groups, most=5)) == 4 and timeline([]) == []


def test_no_text_of_a_picture_runs_over_its_edge(tmp_path):
    folder = dataset(tmp_path / "data")
    explorer = DatasetExplorer(folder, show_truth=True)
    for what in ("samples", "refusals"):
        explorer.what = what
        figure = explorer.picture()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.texts]
        assert len(boxes) > 3 and max(box.x1 for box in boxes) <= figure.bbox.x1


def test_browser_shows_hostile_replies_as_text_and_stays_small(run):
    samples = some_samples(1)
    replies = [*hostile_replies(400, seed=1), "<b>" * 100_000, MARKUP]
    with run.rollouts_path.open("a") as file:
        file.writelines(json.dumps(group_row(samples[at % 6], 13 + at, replies[at::12])) + "\n" for at in range(12))
    browser = RolloutBrowser(run)
    for number in browser.numbers[:12]:
        browser.opened = number
        json.dumps(browser.detail["replies"], ensure_ascii=False, allow_nan=False).encode()  # as it goes to the page
        assert len(browser.detail["replies"]) == len(browser.group["replies"])
        assert state_bytes(browser) < 1_000_000
    assert "image/png" in browser._repr_mimebundle_()[0]


def test_browser_without_videos_or_samples_still_shows_the_texts(run):
    rows = run.rollout_rows()
    rows[0] |= {"video": GONE, "sample": "0" * 16}
    lost = replace(next(iter(RolloutBrowser(run).samples.values())), video=GONE)
    save_samples([lost], run.path("samples", "train.parquet"))
    rows[1] |= {"video": GONE, "sample": sample_id(lost), "task": lost.task, "answer": lost.answer}
    rows[2]["task"] = "chess"  # a task that only the training knew
    run.rollouts_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    browser = RolloutBrowser(run, sort="oldest")
    for number, told in ((0, "does not hold this sample"), (1, "gone"), (2, "does not hold this sample")):
        browser.opened = number
        assert told in browser.detail["note"] and len(browser.detail["replies"]) == 6
        browser.play()
    assert browser.task == "" and "chess" in browser.view["tasks"]


def test_page_and_open_group_follow_the_traits(run):
    browser = RolloutBrowser(run, page_size=5, sort="oldest")
    browser.page = 2
    assert [row["number"] for row in browser.view["rows"]] == [10, 11, 12, 13, 14]
    browser.text = MARKUP
    assert browser.page == 0 and browser.view["total"] == 0 and browser.view["pages"] == 1
    browser.text, browser.opened = "", 3
    assert browser.group == run.rollout_rows()[3]
    browser.opened = -1
    assert browser.group is None and browser.detail == {}


# ------------------------------------------------------------------------------------------------------------ dataset


def test_dataset_folder_run_folder_file_and_list_show_the_same_rows(run, tmp_path):
    samples = some_samples()
    for source, split in ((dataset(tmp_path / "data"), "train"), (run.folder, "held_out"), (run.path("samples", "train.parquet"), "train"), (samples, "samples")):
        assert split in splits_of(source)
        table = read_split(source, split).table
        assert list(table.answer[:12]) == [sample.answer for sample in samples]


def test_refusals_of_a_run_and_of_a_dataset(run, tmp_path):
    run.path("samples", "refusals.jsonl").write_text(json.dumps({"video": "a.mp4", "task": "jigsaw", "reason": "still scene", "detail": "0.1"}) + "\n")
    assert read_split(run.folder, "train").refusals.reason.tolist() == ["still scene"]
    explorer = DatasetExplorer(dataset(tmp_path / "data"), what="refusals")
    assert explorer.view["rows"][0]["reason"] == "still scene" and explorer.view["rows"][0]["file"] == GONE
    explorer.reason = "something else"
    assert explorer.view["total"] == 0


def test_each_row_opens_and_a_gone_video_is_told(tmp_path):
    explorer = DatasetExplorer(dataset(tmp_path / "data"))
    for number in (0, 4, 8, 12):
        explorer.opened = number
        assert explorer.sample.answer == explorer.detail["answer"]
        assert state_bytes(explorer) < 3_000_000
        assert (explorer.inside is not None or explorer.detail["strip"]) if number < 12 else GONE in explorer.detail["note"]
    assert choose_rows(explorer.read.table, explorer.read.words["samples"], "<IMG").tolist() == [12]
    assert "image/png" in explorer._repr_mimebundle_()[0]


# --------------------------------------------------------------------------------------------------------------- live


def test_curves_leave_out_what_is_no_number():
    rows = [{"step": 1, "reward": 0.5}, {"step": 2, "reward": float("nan")}, {"step": 3, "reward": None}, {"step": 4}, {"step": 5, "reward": 1}]
    assert curve(rows, "reward") == [[1, 0.5], [5, 1.0]]


def test_live_view_sees_steps_in_the_order_they_are_written(tmp_path):
    folder = run_folder(tmp_path / "run", steps=0).folder
    view = LiveView(folder, every=0.01)
    seen = []
    view.observe(lambda change: seen.append(change["new"]["step"]), "state")
    for step in range(1, 6):
        write_log(folder, [step])
        until = time.monotonic() + 30
        while view.state["step"] < step and time.monotonic() < until:
            time.sleep(0.005)
    assert view.state["step"] == 5 and seen == sorted(seen)
    threads = threading.active_count()
    view.close()
    until = time.monotonic() + 30
    while threading.active_count() >= threads and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() < threads, "its thread has ended"


def test_live_view_of_a_finished_run_takes_its_floors(run):
    write_log(run.folder, range(1, 13))
    assert set(task_floors(run)["blind"]) == {"grounding", "jigsaw", "counting"}
    line = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    tasks = {"jigsaw": {"blind": 0.25, "low_level": 0.5, "before": line, "after": line, "gain": line}}
    run.write_json("results.json", {"tasks": tasks, "overall": tasks["jigsaw"], "seconds": 1, "peak_rss_gb": 1})
    view = LiveView(run)
    assert view.state["final"] and view.floors == {"blind": {"jigsaw": 0.25}, "low_level": {"jigsaw": 0.5}}
    state = run_state(run, view.floors, view.kept)
    assert [(task["floor"], task["low"]) for task in state["tasks"]] == [(None, None), (None, None), (0.25, 0.5)]
    json.dumps(state, allow_nan=False)
    assert state_bytes(view) < 100_000
