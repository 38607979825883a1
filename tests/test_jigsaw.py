"""Jigsaw: the answer puts the video together again, nothing but the pixels tells the order, and what has no order is refused."""

from __future__ import annotations

import json
import os
from collections import Counter
from itertools import permutations
from pathlib import Path

import av
import numpy as np
import pytest

from videossr.tasks.core import TASKS, Sample, Unsolvable, make_sample, render
from videossr.tasks.jigsaw import JigsawDifficulty, check_order, cut, findability, play_order, seam_order
from videossr.video import Clip, read_clip

SNAPSHOT = Path(__file__).parent / "snapshots" / "prompts_jigsaw.json"


def scene(n_frames: int, height: int = 128, width: int = 224) -> np.ndarray:
    "A disc crosses a gradient once, and the light fades: (T, H, W, 3) uint8."
    down, right = np.mgrid[:height, :width]
    frames = np.empty((n_frames, height, width, 3), np.uint8)
    for index, share in enumerate(np.linspace(0, 1, n_frames)):
        light = 1 - 0.4 * share
        frames[index] = np.stack([200 * down / height, 180 * right / width, 90 + 0 * down], axis=-1) * light
        frames[index][np.hypot(down - height * (0.3 + 0.4 * share), right - width * share) < 25] = (230, 150, 60)
    return frames


def write(path: Path, frames: np.ndarray) -> Path:
    "A real mp4 file at 24 fps."
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                box.mux(packet)
        for packet in stream.encode():
            box.mux(packet)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("jigsaw") / "disc.mp4", scene(72))


@pytest.mark.parametrize("n_clips", [2, 3, 4, 5])
def test_play_order_against_brute_force(n_clips: int):
    "The answer is the only order of the shown clips that gives the video back."
    clip = Clip.example(n_frames=2 * n_clips)
    for order in permutations(range(n_clips)):
        shown = cut(clip, n_clips, order)
        right = [
            "".join(str(position + 1) for position in tried)
            for tried in permutations(range(n_clips))
            if (np.concatenate([shown[position].frames for position in tried]) == clip.frames).all()
        ]
        assert right == [play_order(order)]


def test_answer_is_the_inverse_and_not_the_order_itself():
    assert play_order([2, 0, 1]) == "231"
    assert play_order([5, 2, 0, 1, 4, 3]) == "342651"
    assert play_order(range(9)) == "123456789"


@pytest.mark.parametrize("preset", ["train", "hard", "demo"])
def test_same_seed_same_sample(video: Path, preset: str):
    one, two = (make_sample("jigsaw", video, difficulty=preset, seed=3, index=1) for _ in range(2))
    assert one.to_json() == two.to_json()
    again = render(Sample.from_json(one.to_json()))
    assert all((first.frames == second.frames).all() for first, second in zip(render(one), again, strict=True))
    assert len({make_sample("jigsaw", video, difficulty=preset, seed=seed).answer for seed in range(12)}) > 2


@pytest.mark.parametrize("n_clips", range(2, 10))
def test_answer_puts_the_video_together(video: Path, n_clips: int):
    sample = make_sample("jigsaw", video, difficulty=JigsawDifficulty(n_clips=n_clips, max_pixels=96 * 96))
    clip, shown = read_clip(video, **sample.recipe["read"]), render(sample)
    length = clip.n_frames // n_clips
    assert len(shown) == n_clips and sorted(sample.answer) == [str(digit + 1) for digit in range(n_clips)]
    played = np.concatenate([shown[int(digit) - 1].frames for digit in sample.answer])
    assert (played == clip.frames[: n_clips * length]).all()
    assert seam_order(shown) == sample.answer


@pytest.mark.parametrize("seed", range(5))
def test_nothing_but_the_pixels_tells_the_order(video: Path, seed: int):
    shown = render(make_sample("jigsaw", video, seed=seed, difficulty="demo"))
    first = shown[0]
    for other in shown:
        assert other.times[0] == 0 and (other.times == first.times).all()
        assert np.allclose(np.diff(other.times), other.step)
        assert other.frames.shape == first.frames.shape and other.source == first.source


def test_all_orders_are_equally_likely():
    clip, dials = Clip.example(n_frames=12), TASKS["jigsaw"].difficulty("demo")
    rng = np.random.default_rng(0)
    orders = Counter(tuple(TASKS["jigsaw"].propose(clip, "order", dials, rng)["order"]) for _ in range(1200))
    assert set(orders) == set(permutations(range(3)))
    assert min(orders.values()) > 150


def blocks(n_frames: int, seed: int = 0) -> np.ndarray:
    "Pictures that have nothing in common, (T, 64, 96, 3) uint8."
    small = np.random.default_rng(seed).integers(0, 256, (n_frames, 4, 6, 3), dtype=np.uint8)
    return np.repeat(np.repeat(small, 16, axis=1), 16, axis=2)


def steps() -> np.ndarray:
    "Brighter by a step with each clip of four, with a flicker between: no way to tell forward from backward."
    levels = 40 + 20 * np.repeat(np.arange(6), 4) + np.tile([0, 4, 4, 0], 6)
    return np.broadcast_to(levels[:, None, None, None], (24, 64, 96, 3)).astype(np.uint8)


def grain() -> np.ndarray:
    "A still scene with the grain of a cheap camera."
    noise = np.random.default_rng(0).normal(0, 6, (24, 64, 96, 3))
    return (scene(1, 64, 96) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (np.repeat(scene(1, 64, 96), 24, axis=0), "still scene"),
        (np.zeros((24, 64, 96, 3), np.uint8), "still scene"),
        (grain(), "still scene"),
        (np.concatenate([scene(4, 64, 96)] * 6), "clips look alike"),
        (np.concatenate([scene(16, 64, 96), *[scene(16, 64, 96)[-1:]] * 8]), "clips look alike"),
        (blocks(24), "no continuity"),
        (np.repeat(blocks(6), 4, axis=0), "no continuity"),
        (steps(), "no direction"),
    ],
    ids=["one frame", "black", "grain", "loop", "freezes", "noise", "slides", "steps"],
)
def test_what_has_no_order_is_refused(frames: np.ndarray, reason: str):
    with pytest.raises(Unsolvable) as error:
        check_order(frames, JigsawDifficulty())
    assert error.value.reason == reason


def test_what_has_an_order_is_taken():
    for n_clips in range(2, 10):
        check_order(scene(48, 64, 96), JigsawDifficulty(n_clips=n_clips))


def test_reverse_motion_swaps_the_direction():
    frames = scene(24, 64, 96)
    forward, backward = findability(frames, 6), findability(frames[::-1], 6)
    assert np.isclose(forward.change, backward.change) and np.isclose(forward.continuity, backward.continuity)


def test_refusals_reach_the_caller(video: Path, tmp_path: Path):
    still = write(tmp_path / "still.mp4", np.repeat(scene(1), 48, axis=0))
    with pytest.raises(Unsolvable) as error:
        make_sample("jigsaw", still)
    assert error.value.reason == "still scene"
    with pytest.raises(Unsolvable) as error:
        make_sample("jigsaw", video, difficulty=JigsawDifficulty(n_frames=11))
    assert error.value.reason == "too few frames"
    for n_clips in (1, 10):
        with pytest.raises(ValueError, match="one digit"):
            JigsawDifficulty(n_clips=n_clips)


def test_prompt_snapshots():
    "A changed prompt changes scores: change the snapshots only on purpose."
    task = TASKS["jigsaw"]
    questions = {f"{n_clips} clips": task.question({"n_clips": n_clips}, []) for n_clips in range(2, 10)}
    assert json.loads(SNAPSHOT.read_text()) == questions
    for n_clips, question in zip(range(2, 10), questions.values(), strict=True):
        example = question.rstrip(".").split()[-1]
        assert sorted(example) == [str(digit + 1) for digit in range(n_clips)]
        assert len(question.split()) < 60


@pytest.mark.skipif("VIDEOSSR_TEST_VIDEOS" not in os.environ, reason="needs a folder of real clips in VIDEOSSR_TEST_VIDEOS")
def test_real_clips():
    folder = Path(os.environ["VIDEOSSR_TEST_VIDEOS"])
    known = {"mdn_flower.mp4": "", "zamba_trap_1fps.mp4": "clips look alike", "spyder_matplotlib.webm": "clips look alike"}
    for name, reason in known.items():
        if not (folder / name).exists():
            continue
        try:
            make_sample("jigsaw", folder / name)
            assert not reason, f"{name} was taken"
        except Unsolvable as error:
            assert error.reason == reason, name
