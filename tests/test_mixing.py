"Rows of one's own beside pretext samples: shares, splits, rewards by source, resume, and what is refused by name."
import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image

from videossr import runs
from videossr.answers import answer_floor
from videossr.data import load_samples
from videossr.demo import demo_videos
from videossr.evaluate import read_records, read_results
from videossr.launch import open_run, read_parameters, settings_in, train_run
from videossr.mixing import RoutedReward, draw_own, grade_own, is_own, load_own, own_reward, question_rows, show_clips, split_sides
from videossr.rows import View
from videossr.runs import Run
from videossr.tasks.core import video_key
from videossr.viewers.rollouts import RolloutBrowser

SMALL = {"steps": 3, "n_train": 12, "n_held_out": 6, "warm_steps": 3, "groups": 4, "group_size": 4, "options": "n_frames=4 max_pixels=4096 save_steps=1"}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    "Eight videos, a copy of one under another name, and files of questions about them."
    folder = tmp_path_factory.mktemp("media")
    painted = demo_videos(8, folder=folder, progress=False)
    shutil.copy(painted[0], folder / "again.mp4")
    names = [path.name for path in painted]
    choice = [{"prompt": "Which grows?", "video": name, "options": ["fence", "hill", "sun"], "answer": "ABC"[number % 3]} for number, name in enumerate(names)]
    number = [{"prompt": [{"role": "system", "content": "Digits only."}, {"role": "user", "content": "How many?"}], "video": name, "answer": str(3 + number)} for number, name in enumerate(names)]
    for name, rows in {"choice": choice, "number": number}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def given(media, **more):
    return {**SMALL, "data": f"{media / 'choice.jsonl'}, {media / 'number.jsonl'}", "output_dir": str(media / "run"), **more}


@pytest.fixture(scope="module")
def finished(media):
    run = open_run(given(media))
    train_run(run, progress=False)
    return run


def samples_of(run):
    return [load_samples(run.path("samples", f"{side}.parquet")) for side in ("train", "held_out")]


# ---------------------------------------------------------------------------------------------------------------- data


@pytest.mark.parametrize(("pretext", "n"), [("0", 0), ("0.25", 3), ("0.5", 6), ("1", 12), ("-1", 6)])
def test_shares(media, tmp_path, pretext, n):
    run = open_run(given(media, pretext=pretext, output_dir=str(tmp_path / "run")))
    train, held_out, _ = runs.make_data(run, *settings_in(run), progress=False)
    assert Counter(map(is_own, train)) == Counter({False: n, True: 12 - n}) - Counter()
    assert any(map(is_own, held_out)), "rows are asked in any case"
    assert any(not is_own(one) for one in held_out) is (n > 0), "and pretext samples where there are some in training"


def test_rows_are_asked_alike_often(media):
    own = load_own(str(media / "choice.jsonl"))
    times = Counter(one.to_json() for one in draw_own(own, 20, seed=3)).values()
    assert sum(times) == 20 and {*times} <= {2, 3} and len(times) == len(own)
    assert draw_own(own, 20, seed=3) == draw_own(own, 20, seed=3) != draw_own(own, 20, seed=4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("folder", [False, True])
def test_no_held_out_video_in_training(media, seed, folder):
    "Whoever brings a video, under whatever name: rows and pretext samples of it stay on one side."
    own = load_own(f"{media / 'choice.jsonl'},{media / 'number.jsonl'}")
    others = demo_videos(12, seed=1, folder=media.parent / "others", progress=False)
    sides = split_sides(own, [media / "again.mp4", *others] if folder else (), share=0.3, seed=seed, groups={str(others[0]): "walk", str(media / "evening-003.mp4"): "walk"})
    keys = [{video_key(path) for path in [*(one.video for one in rows), *videos]} for rows, videos in ((sides.train, sides.train_videos), (sides.held_out, sides.held_out_videos))]
    assert all(keys) and not keys[0] & keys[1]
    assert sides.train and sides.held_out and sides.train_videos and sides.held_out_videos
    if folder:
        assert any(str(others[0]) in part and any(one.video.endswith("evening-003.mp4") for one in rows) for rows, part in ((sides.train, sides.train_videos), (sides.held_out, sides.held_out_videos)))


def test_both_kinds_of_a_run_are_split_alike(finished):
    train, held_out = ({video_key(one.video) for one in side} for side in samples_of(finished))
    assert train and held_out and not train & held_out


def test_sources_that_are_called_like_a_task(media):
    rows = [{"prompt": "Which?", "video": "evening-000.mp4", "source": "jigsaw", "answer": "A", "task": "multiple choice"}]
    (media / "odd.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (one,) = load_own(str(media / "odd.jsonl"))
    assert (one.task, one.type) == ("own-jigsaw", "multiple-choice")


def test_images_frames_and_text(media):
    for number in range(3):
        Image.new("RGB", (64, 64), (80 * number, 0, 0)).save(media / f"{number}.png")
    rows = {"image": {"image": "0.png"}, "frames": {"videos": [["0.png", "1.png", "2.png"]]}, "text": {}}
    for name, shown in rows.items():
        (media / f"{name}.jsonl").write_text(json.dumps({"prompt": "Which?", "answer": "B", **shown}) + "\n")
    clips = {name: show_clips(load_own(str(media / f"{name}.jsonl"))[0], View(n_frames=2)) for name in rows}
    assert {name: [len(clip) for clip in found] for name, found in clips.items()} == {"image": [1], "frames": [2], "text": []}


# ------------------------------------------------------------------------------------------------------------- rewards


def test_each_row_by_its_own_reward(media):
    own = load_own(f"{media / 'choice.jsonl'},{media / 'number.jsonl'}")
    asked, table = [own[1], own[9]], question_rows([own[1], own[9]])
    columns = {name: list(table[name]) for name in ("answer", "scored_by", "options", "task")}
    assert columns["task"] == ["choice.jsonl", "number.jsonl"]
    replies = [[{"role": "assistant", "content": text}] for text in ("(B) hill", "5")]
    assert RoutedReward(own_reward, own=True)(replies, **columns) == [1.0, 0.75]
    assert [grade_own(one, reply[0]["content"])["smooth"] for one, reply in zip(asked, replies)] == [1.0, 0.75]
    with pytest.raises(ValueError, match="row 1: the answer 'x' is no single finite number"):
        own_reward(replies, ["B", "x"], ["choice", "number"], [None, None])


def test_a_reward_of_one_s_own_scores_rows_alone(media, tmp_path):
    seen = []

    def short(completions, task, **columns):
        seen.extend(task)
        return [1 / (1 + len(one[0]["content"])) for one in completions]

    run = open_run(given(media, output_dir=str(tmp_path / "run"), steps=1))
    settings, seed, *_ = settings_in(run)
    train, _, _ = runs.make_data(run, settings, seed, progress=False)
    policy, _ = runs.make_policy(run, settings, train, seed, progress=False)
    runs.train_policy(run, policy, train, settings, seed, progress=False, reward=short)
    assert seen and {*seen} <= {"choice.jsonl", "number.jsonl"}
    assert run.read_json("config.json")["reward_functions"] == ["videossr_reward+short"]
    assert "rewards/videossr_reward+short/mean" in run.log_rows()[0]
    parts, weights = runs._rewards_of(replace(settings, reward="choice*0.5, number"), None)
    assert ([part.__name__ for part in parts], weights) == (["videossr_reward", "choice_reward", "number_reward"], [1.0, 0.5, 1.0])
    again = open_run(given(media, output_dir=str(tmp_path / "run"), steps=1))
    assert again.read_json("config.json")["reward_functions"] == ["videossr_reward+short"]
    shutil.rmtree(run.path("checkpoints", "final"))
    with pytest.raises(ValueError, match="began with reward_functions"):
        runs.train_policy(run, policy, train, settings, seed, progress=False, reward=lambda completions, **_: [0.0] * len(completions))
    with pytest.raises(ValueError, match="pretext=1: no row of your own"):
        runs._rewards_of(replace(settings, pretext=1.0), short)


# ----------------------------------------------------------------------------------------------------------------- run


def test_a_mixed_run_by_source(finished, media):
    config, rows, found = finished.read_json("config.json"), finished.log_rows(), read_results(finished.path("results.json"))
    assert (config["pretext"], set(config["data_digest"])) == (0.5, {str(media / "choice.jsonl"), str(media / "number.jsonl")})
    sources = {"choice.jsonl", "number.jsonl"}
    assert sources < set(found["tasks"]) and {name for row in rows for name in row if name.startswith("reward/")} >= {f"reward/{name}" for name in sources}
    train, held_out = samples_of(finished)
    pool = load_samples(finished.path("samples", "own.parquet"))
    assert {one.to_json() for one in train if is_own(one)} <= {one.to_json() for one in pool}
    for source in sources:
        plain = [[{"answer": one.answer, "options": one.recipe["row"].get("options")} for one in part if one.task == source] for part in (held_out, pool)]
        floor = answer_floor(plain[0], learned=plain[1])[""]
        assert found["tasks"][source]["blind"] == pytest.approx(floor["floor"]) and found["own_floors"][source]["answer"] == floor["answer"]
        assert found["tasks"][source]["before"]["n"] == sum(one.task == source for one in held_out)
    assert "low_level" not in found["overall"], "its players know pretext tasks alone"
    records = read_records(finished.path("records", "after.jsonl"))
    assert [record.task for record in records] and {record.task for record in records} == set(found["tasks"])


def test_pictures(finished):
    curves, _ = runs.draw_run(finished.folder)
    titles = [axes.get_title(loc="left") for axes in curves.axes]
    assert any(title.startswith("choice.jsonl\n(dashed: blind floor") for title in titles), titles
    _, held_out = samples_of(finished)
    assert len(runs.draw_answers(finished, held_out)) == len({one.task for one in held_out})


def test_rollouts_are_read(finished):
    browser = RolloutBrowser(finished)
    groups = browser.kept.groups
    assert len(groups) == 12 and {"choice.jsonl", "number.jsonl"} & {group.task for group in groups}
    place = next(number for number, group in enumerate(groups) if group.task.endswith(".jsonl"))
    browser.opened = place
    assert browser.detail["question"] in ("Which grows?", "How many?") and browser.detail["strip"] and len(browser.detail["replies"]) == 4
    assert len(browser.detail["strip"]["times"][0]) == 4, "as many frames as the run showed"
    browser.play()
    assert "no viewer of its own" in browser.detail["note"]


def test_killed_and_started_again(finished, media, tmp_path, monkeypatch):
    "The same numbers as without the kill, step by step."
    def killed(self, args, state, control, logs=None, **_):
        log(self, args, state, control, logs=logs)
        if state.global_step == 2:
            raise KeyboardInterrupt

    log, run = runs.RunLog.on_log, open_run(given(media, output_dir=str(tmp_path / "run")))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs.RunLog, "on_log", killed)
        train_run(run, progress=False)
    assert not run.path("checkpoints", "final").exists()
    train_run(open_run(given(media, output_dir=str(tmp_path / "run"))), progress=False)
    rewards = [[row["reward"] for row in one.log_rows()] for one in (run, finished)]
    assert rewards[0] == rewards[1] and len(rewards[0]) == 3
    scores = [[(record.id, record.reply) for record in read_records(one.path("records", "after.jsonl"))] for one in (run, finished)]
    assert scores[0] == scores[1]


def test_changed_rows_are_another_run(media, tmp_path):
    data = tmp_path / "mine.jsonl"
    rows = [{"prompt": "Which?", "video": str(media / f"evening-00{number}.mp4"), "answer": "A"} for number in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parameters = {**SMALL, "data": str(data), "output_dir": str(tmp_path / "run")}
    open_run(parameters)
    open_run(parameters)
    data.write_text(data.read_text().replace('"A"', '"B"', 1))
    with pytest.raises(ValueError, match="data_digest is"):
        open_run(parameters)


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"pretext": "0", "video_dir": "videos"}, "video_dir would change nothing with pretext=0"),
        ({"pretext": "0", "tasks": "jigsaw"}, "tasks would change nothing with pretext=0"),
        ({"pretext": "0", "strict": "true"}, "strict would change nothing with pretext=0"),
        ({"pretext": "1", "reward": "choice"}, "reward would change nothing with pretext=1"),
        ({"pretext": "1.5"}, "pretext is 1.5"),
        ({"pretext": "much"}, "pretext should be"),
        ({"answer": "numbr"}, "no answer 'numbr'; choose from choice"),
        ({"answer": "number"}, r"choice.jsonl, question 1: .* is no single finite number"),
        ({"reward": "number"}, r"choice.jsonl, question 1: .* is no single finite number"),
        ({"adaptive": "uniform"}, "adaptive is 'uniform'"),
        ({"data": "nowhere.jsonl"}, "no rows at nowhere.jsonl"),
        ({"data": ""}, "n_frames, max_pixels would change nothing: data is empty"),
        ({"data": "", "options": "", "pretext": "0.5"}, "pretext would change nothing"),
        ({"data": "", "options": "", "answer": "auto"}, "answer would change nothing"),
        ({"data": "", "options": "", "reward": "choice, exact*0.5"}, "reward choice, exact scores rows of your own"),
    ],
)
def test_refused_before_anything_is_made(media, tmp_path, more, said):
    "By the launcher and by train.ipynb alike, which both open the run first."
    parameters = {name: str(value) for name, value in given(media, output_dir=str(tmp_path / "run"), **more).items()} if "output_dir" not in more else more
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        open_run(read_parameters(None, list(parameters.items())))
    assert not (tmp_path / "run").exists()


def test_several_processes_and_a_row_without_pictures(media, tmp_path, monkeypatch):
    (media / "blind.jsonl").write_text(json.dumps({"prompt": "2 + 2?", "answer": "4"}) + "\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="1 rows of .* show no video and no image"):
        runs.check_data(runs.train_settings(data=str(media / "blind.jsonl")))


def test_a_run_without_data_has_no_new_columns(tmp_path):
    "Runs of pretext samples alone are what they were."
    run = Run.create(tmp_path / "run", runs.train_settings(), 0)
    config = run.read_json("config.json")
    assert "data_digest" not in config and (config["data"], config["pretext"]) == ("", None)
    older = {name: value for name, value in config.items() if name not in ("data", "pretext", "answer")}
    run.write_json("config.json", older)
    Run.create(tmp_path / "run", runs.train_settings(), 0)
