"Samples from folders of videos: found, split without leaks, the same anywhere, and nothing lost silently."
import json
import random
import shutil
import warnings
from collections import Counter

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videossr.data import mix as data
from videossr.data import MIXES, Mix, MixRow, build_samples, count_refusals, find_videos, load_samples, save_samples, split_videos, to_trl_dataset
from videossr.tasks import Sample, render
from videossr.video import VideoError


def write_video(path, seed, n_frames=40, moving=True):
    "A coloured scene, lighter at the top, in which a ball rolls ever faster and leaves a trail."
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:64, :96]
    scene = np.stack([60 + 1.5 * cols, 200 - 2.2 * rows, 40 + rng.uniform(0, 60) + rows], -1)
    scene += np.kron(rng.normal(0, 14, (8, 12, 1)), np.ones((8, 8, 3)))
    color = rng.uniform(60, 255, 3)
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for k in range(n_frames):
            done = (k / n_frames) ** 1.3 if moving else 0
            near = (cols - 96 * done) ** 2 + (rows - 20 - 30 * done) ** 2 < 90
            frame = np.where(near[..., None], color, scene + 50 * done).clip(0, 255)
            scene = np.where(near[..., None], 0.75 * scene, scene)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint8), "rgb24")):
                box.mux(packet)
        for packet in stream.encode():
            box.mux(packet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "deep").mkdir()
    for k in range(5):
        write_video(folder / ("deep" if k > 2 else "") / f"{k}.mp4", k)
    return folder


@pytest.fixture(scope="module")
def samples(folder):
    return build_samples(find_videos(folder), "demo", 30, seed=3, progress=False)[0]


def test_find_looks_deep_and_skips_what_is_no_video(tmp_path):
    for name in ("b.MP4", "a.webm", "deep/er/c.mov", "notes.txt", "._a.mp4", "deep/.hidden.mkv", "mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    assert [path.name for path in find_videos(tmp_path)] == ["a.webm", "b.MP4", "c.mov"]


def test_find_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="no video files in .*looked for .mp4"):
        find_videos(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_videos(tmp_path / "absent")
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match="is a file"):
        find_videos(tmp_path / "a.mp4")


@pytest.mark.parametrize("n", [2, 3, 10, 48])
@pytest.mark.parametrize("held_out", [0.01, 0.25, 0.99])
def test_split_is_disjoint_complete_and_blind_to_order_and_place(tmp_path, n, held_out):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for k in range(n):
            (tmp_path / place / f"{k if place == 'here' else n - k}.mp4").write_bytes(b"video %d" % k)
    here, there = ([*(tmp_path / place).iterdir()] for place in ("here", "there"))
    train, held = split_videos(here, held_out, seed=5)
    assert sorted(train + held) == sorted(here) and not set(train) & set(held)
    assert len(held) == min(max(round(held_out * n), 1), n - 1)
    random.Random(0).shuffle(there)
    contents = [{path.read_bytes() for path in side} for side in split_videos(there, held_out, seed=5)]
    assert contents == [{path.read_bytes() for path in side} for side in (train, held)]


def test_split_keeps_copies_together_and_depends_on_the_seed(tmp_path):
    for k in range(12):
        for copy in ("a", "b"):
            (tmp_path / f"{k}{copy}.mp4").write_bytes(b"video %d" % k)
    splits = [split_videos(tmp_path.iterdir(), 0.5, seed) for seed in range(4)]
    for train, held in splits:
        assert not {path.read_bytes() for path in train} & {path.read_bytes() for path in held}
    assert len({tuple(held) for _, held in splits}) > 1
    with pytest.raises(ValueError, match="at least two different videos"):
        split_videos([tmp_path / "1a.mp4", tmp_path / "1b.mp4"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_videos(tmp_path.iterdir(), 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_mix_never_strays_by_more_than_a_few_samples(seed):
    rng = np.random.default_rng(seed)
    mix = Mix(tuple(MixRow("grounding", share=int(share), difficulty=str(k)) for k, share in enumerate(rng.integers(1, 9, 6))))
    total = sum(row.share for row in mix.rows)
    counts = Counter()
    for n, row in enumerate(mix.order(3 * total), 1):
        counts[row] += 1
        assert all(abs(counts[one] - n * one.share / total) < len(mix.rows) for one in mix.rows)
    assert all(counts[row] == 3 * row.share for row in mix.rows)


def test_paper_mix():
    counts = Counter(row.task for row in MIXES["VideoSSR-30K"].order(30_000))
    assert counts == {"grounding": 12_000, "jigsaw": 12_000, "counting": 6_000}
    MIXES["VideoSSR-30K"].check()
    assert {row.task for row in MIXES["demo"].only(["jigsaw"]).rows} == {"jigsaw"}


@pytest.mark.parametrize(("row", "message"), [
    (MixRow("speed"), "no task 'speed'; choose from"),
    (MixRow("grounding", "upside down"), "no type 'upside down'; choose from"),
    (MixRow("grounding", difficulty="extreme"), "no difficulty 'extreme'; choose from"),
    (MixRow("grounding", share=0), "every share above 0"),
])
def test_a_wrong_mix_is_refused_before_any_work(row, message):
    with pytest.raises(ValueError, match=message):
        build_samples(["absent.mp4"], Mix((MixRow("jigsaw"), row)), 4)


def test_samples_do_not_depend_on_order_place_or_number(folder, samples, tmp_path):
    videos = find_videos(folder)
    random.Random(1).shuffle(videos)
    assert build_samples(videos, "demo", 30, seed=3, progress=False)[0] == samples
    assert build_samples(videos, "demo", 11, seed=3, progress=False)[0] == samples[:11]
    copied = shutil.copytree(folder, tmp_path / "copy")
    moved = build_samples(find_videos(copied), "demo", 30, seed=3, progress=False)[0]
    assert [(one.recipe, one.answer, one.question) for one in moved] == [(one.recipe, one.answer, one.question) for one in samples]
    assert build_samples(videos, "demo", 30, seed=4, progress=False)[0] != samples


def test_samples_keep_the_mix_use_all_videos_and_render(folder, samples):
    assert Counter(sample.task for sample in samples) == Counter(row.task for row in MIXES["demo"].order(30))
    uses = Counter(sample.video for sample in samples)
    assert len(uses) == 5 and max(uses.values()) <= 3 * min(uses.values())
    assert len({sample.to_json() for sample in samples}) == len(samples)
    for sample in samples[:6]:
        assert all(clip.frames.size for clip in render(sample))


def test_a_broken_video_is_a_row_and_the_work_goes_on(folder, samples, tmp_path):
    bad = [tmp_path / name for name in ("text.mp4", "cut.mp4", "empty.mp4", "absent.mp4")]
    bad[0].write_text("not a video")
    bad[1].write_bytes((folder / "0.mp4").read_bytes()[:700])
    bad[2].touch()
    made, refusals = build_samples([*find_videos(folder), *bad], "demo", 30, seed=3, progress=False)
    assert len(made) == 30 and not {sample.video for sample in made} & set(map(str, bad))
    broken = [row for row in refusals if row["reason"] == "unreadable video"]
    assert sorted(row["video"] for row in broken) == sorted(map(str, bad))
    assert all(set(row) == {"video", "task", "type", "reason", "detail"} and row["detail"] for row in refusals)


def test_a_still_video_is_refused_for_the_jigsaw_alone(folder, tmp_path):
    write_video(tmp_path / "still.mp4", 9, moving=False)
    mix = Mix((MixRow("jigsaw", difficulty="demo"), MixRow("counting", difficulty="demo")))
    made, refusals = build_samples([*find_videos(folder), tmp_path / "still.mp4"], mix, 24, progress=False)
    assert len(made) == 24
    assert {sample.task for sample in made if "still" in sample.video} == {"counting"}
    assert any("still" in row["video"] and row["task"] == "jigsaw" for row in refusals)


def test_too_few_samples_are_reported_and_none_is_an_error(folder, tmp_path):
    write_video(tmp_path / "still.mp4", 9, moving=False)
    mix = Mix((MixRow("jigsaw", difficulty="demo"), MixRow("counting", difficulty="demo")))
    with pytest.warns(UserWarning, match="made 3 of 6 samples.*jigsaw"):
        assert len(build_samples([tmp_path / "still.mp4"], mix, 6, progress=False)[0]) == 3
    with pytest.raises(ValueError, match="no sample could be made from 1 videos. Reasons: jigsaw"):
        build_samples([tmp_path / "still.mp4"], mix.only(["jigsaw"]), 4, progress=False)
    with pytest.raises(ValueError, match="there are no videos"):
        build_samples([], "demo", 4, progress=False)


def test_a_type_that_needs_a_second_video_gets_one(folder):
    mix = Mix((MixRow("grounding", "swap", "demo"),))
    videos = find_videos(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made, _ = build_samples(videos, mix, 5, progress=False)
    assert made and all(sample.donor in map(str, videos) and sample.donor != sample.video for sample in made)
    with pytest.raises(ValueError, match="no donor"):
        build_samples(videos[:1], mix, 2, progress=False)


def test_a_fault_of_the_program_is_not_a_refusal(folder, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyError("a bug")

    monkeypatch.setattr(data, "make_sample", fail)
    with pytest.raises(KeyError):
        build_samples(find_videos(folder), "demo", 3, progress=False)


def test_a_broken_donor_is_passed_over(monkeypatch, folder, samples):
    videos = list(map(str, find_videos(folder)))
    tried = []

    def make(task, video, *, donor, **dials):
        tried.append(donor)
        if donor is None:
            raise data.Unsolvable("no donor")
        if donor != videos[-1]:
            raise VideoError(donor, "broken")
        return samples[0]

    monkeypatch.setattr(data, "make_sample", make)
    made, refusals = build_samples(videos, Mix((MixRow("grounding"),)), 1, progress=False)
    assert made == samples[:1] and tried[-1] == videos[-1]
    assert {row["reason"] for row in refusals} <= {"unreadable video"}


def test_count_refusals():
    row = {"video": "a", "task": "jigsaw", "type": "order", "reason": "still scene", "detail": ""}
    assert count_refusals([row, row, {**row, "task": "", "type": "", "reason": "unreadable video"}]) == {"jigsaw order, still scene": 2, "unreadable video": 1}


def test_parquet_returns_what_was_saved(samples, tmp_path):
    odd = Sample("grounding", "mirror", "/a b/ü.mp4", {"x": [1, 2.5, None, {"y": True}], "π": "ß"}, 'a "quote"\nand $', "1.0-2.0", 2**40, 7, "d.mp4")
    path = save_samples([*samples, odd], tmp_path / "deep" / "samples.parquet")
    assert load_samples(path) == [*samples, odd]
    assert [one.to_json() for one in load_samples(path)] == [one.to_json() for one in [*samples, odd]]
    assert [file.name for file in path.parent.iterdir()] == ["samples.parquet"]


@pytest.mark.parametrize(("column", "value"), [("recipe", "{half"), ("recipe", "[1]"), ("recipe", None), ("task", None), ("answer", None)])
def test_a_bad_row_is_named(samples, tmp_path, column, value):
    path = save_samples(samples, tmp_path / "samples.parquet")
    rows = pq.read_table(path).to_pylist()
    rows[4][column] = value
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(ValueError, match="samples.parquet, row 4"):
        list(load_samples(path))


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="notes.txt is not a parquet file"):
        load_samples(tmp_path / "notes.txt")
    pq.write_table(pa.table({"task": ["jigsaw"]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="other.parquet holds no samples: it has no column type"):
        load_samples(tmp_path / "other.parquet")


def test_trl_dataset(samples):
    rows = to_trl_dataset(samples)
    assert rows.column_names == ["prompt", "task", "type", "answer", "sample"]
    for row, sample in zip(rows, samples, strict=True):
        assert row["prompt"] == [{"role": "user", "content": sample.question}]
        assert Sample(**json.loads(row["sample"])) == sample and row["answer"] == sample.answer
    with pytest.raises(ValueError, match="no samples"):
        to_trl_dataset([])
