"""Grounding: the segment is where the answer says, the rest is untouched, and what nobody could find is refused."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from videossr.tasks import TASKS, Sample, Unsolvable, make_sample, render
from videossr.tasks.grounding import (
    PERTURBATIONS,
    GroundingDifficulty,
    ask,
    check_edges,
    check_shots,
    interval,
    mirror,
    perturbation,
    shuffle,
    spoil,
    stutter_hold,
    zoom_out,
)
from videossr.video import Clip, VideoError, read_clip

SNAPSHOT = Path(__file__).parent / "snapshots" / "prompts_grounding.json"
TYPES = tuple(PERTURBATIONS)
TIMED = ("slow", "fast")  # these read the source at other times
COLOUR = {"saturation", "grayscale", "channel_swap", "tint"}
MOTION = {"shuffle", "stutter_hold", "slow", "fast"}
SMALL = GroundingDifficulty(n_frames=24, max_pixels=96 * 128, min_length=4, max_length=8)


def scene(n_frames: int, height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    "A coloured floor with a block in one corner, and a two-coloured bar that moves from left to right."
    rng = np.random.default_rng(seed)
    floor = np.kron(rng.integers(30, 220, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    floor[: height // 3, : width // 3] = (200, 60, 40)
    frames = np.repeat(floor[None], n_frames, 0)
    for index, frame in enumerate(frames):
        left = int(index / n_frames * (width - 24))
        frame[height // 2 :, left : left + 12], frame[height // 2 :, left + 12 : left + 24] = (250, 220, 30), (20, 30, 160)
    return frames


def write(path: Path, frames: np.ndarray, fps: int = 12) -> Path:
    "A real H.264 file."
    with av.open(str(path), "w") as box:
        # from RGB, colour comes to lie in the middle of two by two pixels; a file that says nothing means their left edge
        stream = box.add_stream("libx264", rate=fps, options={"crf": "12", "x264-params": "chromaloc=1"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            box.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        box.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The good video, a donor of another shape, and four in which something is missing."
    path = tmp_path_factory.mktemp("grounding")
    good = scene(100)
    half = scene(100, width=64)
    grey = np.rint(good @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None].repeat(3, -1)
    write(path / "good.mp4", good)
    write(path / "donor.mp4", scene(90, height=128, width=96, seed=9), fps=30)
    write(path / "grey.mp4", grey)
    write(path / "black.mp4", good // 60)
    write(path / "still.mp4", good[:1].repeat(100, 0))
    write(path / "symmetric.mp4", np.concatenate([half, half[:, :, ::-1]], 2))
    return path


def make(folder: Path, type: str, index: int = 0, name: str = "good.mp4", difficulty=SMALL) -> Sample:
    return make_sample("grounding", folder / name, type=type, index=index, difficulty=difficulty, donor=folder / "donor.mp4")


def plain(sample: Sample) -> Clip:
    "The video as sampled, before any perturbation."
    return read_clip(sample.video, **sample.recipe["read"])


def test_all_types_are_there():
    assert len(TYPES) == 20 and TASKS["grounding"].types == TYPES
    assert TASKS["grounding"].train_types == ("channel_swap", "mirror", "zoom_out", "rotate180")
    assert set(TASKS["grounding"].difficulties) >= {"easy", "hard", "train", "demo"}


@pytest.mark.parametrize("type", TYPES)
def test_same_seed_same_sample_and_pixels(folder: Path, tmp_path: Path, type: str):
    sample = make(folder, type)
    assert make(folder, type) == sample
    copy = shutil.copy(folder / "good.mp4", tmp_path / "elsewhere.mp4")
    moved = make_sample("grounding", copy, type=type, difficulty=SMALL, donor=folder / "donor.mp4")
    assert replace(moved, video=sample.video) == sample
    assert (sample.donor is None) == (type != "swap")  # a donor that is not needed is not kept
    stored = Sample.from_json(sample.to_json())
    assert stored == sample
    assert np.array_equal(render(stored)[0].frames, render(moved)[0].frames)


@pytest.mark.parametrize("type", TYPES)
def test_answer_can_be_read_off_the_pixels(folder: Path, type: str):
    for index in range(3):
        sample = make(folder, type, index)
        before, (after,) = plain(sample), render(sample)
        assert after.frames.shape == before.frames.shape and after.frames.dtype == np.uint8
        assert np.array_equal(after.times, before.times)
        start, end = (float(second) for second in sample.answer.split("-"))
        first, last = (int(np.abs(before.times - second).argmin()) for second in (start, end - before.step))
        inside = (before.times >= before.times[first]) & (before.times <= before.times[last])
        if type in TIMED:
            pace = np.abs(np.diff(after.frames.astype(int), axis=0)).mean((1, 2, 3))
            within, outside = pace[inside[:-1] & inside[1:]].mean(), pace[~inside[:-1]].mean()
            assert within < outside / 1.25 if type == "slow" else within > outside * 1.25
            continue
        changed = np.flatnonzero((after.frames != before.frames).any((1, 2, 3)))
        assert inside[changed].all()  # nothing outside changes by one bit
        if type not in ("shuffle", "stutter_hold"):  # which may leave a frame in its place
            assert np.array_equal(changed, np.flatnonzero(inside))
        if type == "shuffle":
            assert (changed[0], changed[-1]) == (np.flatnonzero(inside)[0], np.flatnonzero(inside)[-1])


@pytest.mark.parametrize("type", [name for name in TYPES if PERTURBATIONS[name].needs != "times"])
def test_editing_is_pure(type: str):
    entry, frames = PERTURBATIONS[type], scene(8)
    params = {key: draw(np.random.default_rng(0), 8) for key, draw in entry.dials.items()}
    extra = (scene(8, height=64, width=160, seed=3),) if entry.needs else ()
    inputs = [frames, *extra]
    copies = [array.copy() for array in inputs]
    first, second = entry.edit(*inputs, **params), entry.edit(*inputs, **params)
    assert np.array_equal(first, second) and first.shape == frames.shape and first.dtype == np.uint8
    assert all(np.array_equal(array, copy) for array, copy in zip(inputs, copies))


@pytest.mark.parametrize("shape", [(96, 128), (128, 96), (64, 64), (32, 224)])
@pytest.mark.parametrize("type", [name for name in TYPES if PERTURBATIONS[name].needs != "times"])
def test_one_size_whatever_the_shape(type: str, shape: tuple[int, int]):
    entry, frames = PERTURBATIONS[type], scene(6, *shape)
    params = {key: draw(np.random.default_rng(0), 6) for key, draw in entry.dials.items()}
    extra = (scene(6, 96, 64),) if entry.needs else ()
    assert entry.edit(frames, *extra, **params).shape == frames.shape


def test_strength_is_drawn_once():
    frames = scene(1).repeat(6, 0)
    shrunk = zoom_out(frames, 1.3)
    assert (shrunk == shrunk[:1]).all()  # no flicker where nothing moves
    noisy = PERTURBATIONS["noise"].edit(np.full((6, 64, 64, 3), 128, np.uint8), sigma=40.0, seed=1)
    strength = noisy.std((1, 2, 3))
    assert np.ptp(strength) < 2.0 and abs(strength.mean() - 40) < 1.5
    assert not np.array_equal(noisy[0], noisy[1])


@pytest.mark.parametrize(
    ("name", "types", "reason"),
    [
        ("grey.mp4", COLOUR, "grey video"),
        ("still.mp4", MOTION, "still scene"),
        ("symmetric.mp4", {"mirror"}, "symmetric"),
        ("black.mp4", set(TYPES) - {"invert", "noise", "swap"}, "dark"),
    ],
)
def test_what_cannot_be_found_is_refused(folder: Path, name: str, types: set[str], reason: str):
    refused = {}
    for type in TYPES:
        try:
            make(folder, type, name=name)
        except Unsolvable as error:
            refused[type] = error.reason
    assert {type for type, why in refused.items() if why == reason} == types
    assert set(refused.values()) == {reason}


def test_cuts_at_both_edges_hide_a_mirror():
    frames = scene(24)
    frames[8:] = frames[8:, :, ::-1]
    after = frames.copy()
    after[8:16] = mirror(frames[8:16])
    check_edges(frames, after, 8, 8)  # the other edge shows
    frames[16:] = frames[16:, :, ::-1]
    after = frames.copy()
    after[8:16] = mirror(frames[8:16])
    with pytest.raises(Unsolvable, match="cut at the edge"):
        check_edges(frames, after, 8, 8)
    full = np.concatenate([scene(4, seed=seed) for seed in range(6)])
    swapped = full.copy()
    swapped[10:16] = scene(6, seed=7)
    with pytest.raises(Unsolvable, match="full of cuts"):
        check_shots(full, swapped, 10, 6)


def test_shuffle_moves_both_ends_and_stutter_holds_every_frame():
    draw = PERTURBATIONS["shuffle"].dials["order"]
    for seed in range(200):
        order = draw(np.random.default_rng(seed), 4 + seed % 13)
        assert sorted(order) == list(range(len(order))) and order[0] != 0 and order[-1] != len(order) - 1
    frames = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    for length in range(4, 21):
        for seed in range(8):
            keep = PERTURBATIONS["stutter_hold"].dials["keep"](np.random.default_rng(seed), length)
            shown, counts = np.unique(stutter_hold(frames[:length], keep)[:, 0, 0, 0], return_counts=True)
            assert 2 <= len(shown) == keep <= 5 and counts.min() >= 2 and np.ptp(counts) <= 1 and shown[0] == 0
    assert shuffle(frames[:3], [2, 0, 1])[:, 0, 0, 0].tolist() == [2, 0, 1]


@pytest.mark.parametrize(("type", "factor"), [("slow", 0.5), ("fast", 2.0)])
def test_speed_bends_time_without_a_jump(type: str, factor: float):
    times = 3 + np.arange(48) * 0.4
    for start, length in [(0, 8), (20, 16), (40, 8)]:
        moments = PERTURBATIONS[type].edit(times, start, length, factor)
        steps = np.diff(moments)
        within = np.zeros(47, bool)
        within[start : start + length] = True
        assert np.allclose(moments[[0, -1]], times[[0, -1]]) and (steps > 0).all()
        assert np.allclose(steps[within], factor * steps[~within][0]) and np.ptp(steps[~within]) < 1e-9


@pytest.mark.parametrize("preset", ["train", "hard", "demo"])
def test_lengths_and_places_fill_the_range(folder: Path, preset: str):
    dials = TASKS["grounding"].difficulty(preset)
    clip, rng = Clip.example(n_frames=dials.n_frames), np.random.default_rng(0)
    recipes = [TASKS["grounding"].propose(clip, "mirror", dials, rng) for _ in range(1500)]
    assert {recipe["length"] for recipe in recipes} == set(range(dials.min_length, dials.max_length + 1))
    assert all(0 <= recipe["start"] <= dials.n_frames - recipe["length"] for recipe in recipes)
    longest = [recipe["start"] for recipe in recipes if recipe["length"] == dials.max_length]
    assert {0, dials.n_frames - dials.max_length} <= set(longest)


def test_short_videos_get_short_segments(tmp_path: Path):
    short = write(tmp_path / "short.mp4", scene(20))
    sample = make_sample("grounding", short, type="mirror")
    assert sample.recipe["n_frames"] <= 20 and 2 <= sample.recipe["length"] <= 8
    tiny = write(tmp_path / "tiny.mp4", scene(5))
    with pytest.raises(Unsolvable, match="too few frames"):
        make_sample("grounding", tiny, type="mirror")
    with pytest.raises(Unsolvable, match="too few frames"):  # half the speed needs twice the frames
        make_sample("grounding", write(tmp_path / "coarse.mp4", scene(50)), type="slow")


def test_prompts_are_pinned():
    prompts = {name: ask(name) for name in TYPES}
    assert all(len(prompt.split()) < 60 for prompt in prompts.values())
    assert len(set(prompts.values())) == 20
    assert prompts == json.loads(SNAPSHOT.read_text()), "a prompt drifted: scores before and after do not compare"


def test_answer_is_in_true_seconds():
    clip = replace(Clip.example(n_frames=16), times=2.0 + 0.25 * np.arange(16))
    assert interval(clip, 4, 6) == "3.0-4.5"
    assert interval(clip, 12, 4) == "5.0-6.0"


def test_errors_name_the_cause(folder: Path, tmp_path: Path):
    with pytest.raises(Unsolvable, match="no donor"):
        make_sample("grounding", folder / "good.mp4", type="swap", difficulty=SMALL)
    with pytest.raises(ValueError, match="choose from saturation"):
        make(folder, "smell")
    with pytest.raises(ValueError, match="exists already"):
        perturbation("another one")(type("other", (), {"__name__": "mirror", "__module__": "elsewhere"})())
    sample = make(folder, "mirror")
    with pytest.raises(ValueError, match="24"):
        spoil(plain(sample)[:20], sample.recipe, None)
    with pytest.raises(VideoError, match="another video"):
        render(replace(sample, video=str(folder / "still.mp4")))
    with pytest.raises(VideoError, match="gone.mp4"):
        render(replace(sample, video=str(tmp_path / "gone.mp4")))


def test_cached_frames_cannot_be_spoilt(folder: Path):
    sample = make(folder, "invert")
    first = render(sample)[0].frames
    first[:] = 0  # what render returns belongs to the caller
    assert render(sample)[0].frames.max() > 0


@pytest.mark.parametrize(("preset", "decoys"), [("plain", set()), ("demo", {"weak decoy: grey video", "ambiguous decoy"})])
@pytest.mark.skipif("VIDEOSSR_TEST_VIDEOS" not in os.environ, reason="set VIDEOSSR_TEST_VIDEOS to a folder of real clips")
def test_training_types_on_real_clips(preset: str, decoys: set[str]):
    "Most real clips serve the training types, and every refusal has a known reason."
    videos = sorted(path for path in Path(os.environ["VIDEOSSR_TEST_VIDEOS"]).rglob("*") if path.suffix in (".mp4", ".webm", ".mkv"))[:12]
    made, reasons = 0, []
    for video in videos:
        for type in TASKS["grounding"].train_types:
            try:
                sample = make_sample("grounding", video, type=type, difficulty=preset)
            except Unsolvable as error:
                reasons.append(error.reason)
                continue
            made += 1
            assert render(sample)[0].n_frames == sample.recipe["n_frames"]
    assert set(reasons) <= {"grey video", "symmetric", "dark", "no visible change", "cut at the edge", "dark border", "too few frames"} | decoys
    assert made > len(reasons)
