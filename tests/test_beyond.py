"The tasks beyond the paper's: truths from pixels alone, refusals, rewards, floors, and that nothing but the cue tells."
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videossr.beyond.backwards import BackwardsDifficulty, backwards_part, chain_cost, one_backwards, turn_cost
from videossr.beyond.camera import MOTIONS, CameraDifficulty, moved, reach, registered, start_pose
from videossr.beyond.motion import WAYS, MotionDifficulty, along, centers, ends_reached, meeting
from videossr.beyond.pairs import CHANGES, PairsDifficulty, changed_way
from videossr.beyond.patches import PatchesDifficulty, cell_span, exchange, seam_gains
from videossr.beyond.segments import SegmentsDifficulty, read_segments, set_iou
from videossr.data import MIXES, build_samples, count_refusals
from videossr.data.export import exported_answer
from videossr.demo import demo_videos, write_mp4
from videossr.records import make_record
from videossr.rewards import REWARDS, blind_floor, compute_score, make_reward, parse_interval, parse_reply, score_reply, videossr_reward
from videossr.show import show_sample
from videossr.tasks import TASKS, Sample, Unsolvable, make_sample, render
from videossr.tasks.core import preferred
from videossr.video import Clip, read_clip
from videossr.viubench import (
    BEYOND,
    VIUBENCH,
    Budget,
    build_viubench,
    compare_viubench,
    draw_viubench,
    load_viubench,
    save_viubench,
    score_viubench,
    viubench_details,
    viubench_floors,
    viubench_intervals,
)

NAMES = {"backwards": ("clip", "segment"), "camera": ("motion",), "patches": ("swap",), "segments": ("channel_swap", "mirror", "zoom_out", "rotate180"), "motion": ("direction", "speed"), "pairs": ("mirror", "flip", "backwards", "colors")}
SOLVED = ("backwards", "camera", "patches")  # by players that compare seams or pictures; these are in VIUBench's form too
KINDS = [(task, type) for task, types in NAMES.items() for type in types]
SMALL = {
    "backwards": BackwardsDifficulty(n_frames=16, max_pixels=64 * 64, n_clips=4, min_length=4, max_length=6),
    "camera": CameraDifficulty(n_frames=6, max_pixels=64 * 64),
    "patches": PatchesDifficulty(n_frames=4, max_pixels=96 * 96),
    "segments": SegmentsDifficulty(n_frames=16, max_pixels=64 * 64, min_length=2, max_length=3),
    "motion": MotionDifficulty(n_frames=13, max_pixels=96 * 96, ways=tuple(WAYS), passes=(1, 2, 3, 5)),
    "pairs": PairsDifficulty(n_frames=13, max_pixels=96 * 96, ways=tuple(WAYS), passes=(1, 2)),
}
ANSWERS = {"backwards clip": "3", "backwards segment": "2.0-4.5", "camera": "left 20", "patches": "2,6", "segments": "2.0-4.5, 12.5-17.0", "motion direction": "left", "motion speed": "4", "pairs": "left,right"}
each_kind = pytest.mark.parametrize(("task", "type"), KINDS, ids=[" ".join(kind) for kind in KINDS])


@pytest.fixture(scope="module")
def videos():
    return demo_videos(6, progress=False)


@pytest.fixture(scope="module")
def samples(videos):
    "Some of each kind, at a preset and at dials of this file."
    return {
        (task, type): [
            make_sample(task, video, type=type, seed=seed, difficulty=level) for seed, level in enumerate(["demo", SMALL[task]]) for video in videos
        ]
        for task, type in KINDS
    }


def original(sample):
    return read_clip(sample.video, **sample.recipe["read"])


# -------------------------------------------------------------------------------------------------------- all of them


def test_import_registers_them_without_the_rest():
    code = "import sys, json, videossr.beyond; from videossr.tasks import TASKS; from videossr.rewards import REWARDS; print(json.dumps([list(TASKS), sorted(REWARDS), 'torch' in sys.modules]))"
    tasks, rewards, torch = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert set(tasks) == {"grounding", "counting", "jigsaw", *NAMES} == set(rewards) and not torch
    assert {name: TASKS[name].types for name in NAMES} == NAMES and set(NAMES) <= set(REWARDS)


@each_kind
def test_same_seed_same_sample_and_pixels(task, type, videos, samples):
    for sample in samples[task, type][:3]:
        again = make_sample(task, sample.video, type=type, difficulty="demo")
        assert again == sample == Sample.from_json(sample.to_json())
        assert all(np.array_equal(one.frames, two.frames) and np.array_equal(one.times, two.times) for one, two in zip(render(sample), render(again), strict=True))
    assert len({make_sample(task, videos[0], type=type, seed=seed, difficulty="demo").to_json() for seed in range(4)}) > 1


@each_kind
def test_source_is_left_alone_and_sizes_do_not_tell(task, type, samples):
    for sample in samples[task, type]:
        before = original(sample)
        clips = render(sample)
        assert np.array_equal(before.frames, original(sample).frames)
        assert {clip.frames.dtype for clip in clips} == {np.dtype(np.uint8)} and len({clip.frames.shape for clip in clips}) == 1
        assert clips[0].height % 32 == clips[0].width % 32 == 0
        if type == "clip":
            assert all(np.allclose(clip.times, np.arange(clip.n_frames) * before.step) for clip in clips)
        else:
            assert np.array_equal(clips[0].times, before.times)


@each_kind
def test_presets_make_samples_with_few_refusals(task, type, videos):
    dials = {"backwards": {"min_length": 3, "max_length": 6}, "segments": {"min_length": 2, "max_length": 2, "most": 2, "decoys": 0, "fade": 0}}
    for name, level in TASKS[task].difficulties.items():
        frames, lengths = min(level.n_frames, 16), dials.get(task, {})
        small = replace(level, n_frames=frames, max_pixels=64 * 64 if name == "demo" else 128 * 128, **lengths)
        sample = make_sample(task, videos[0], type=type, difficulty=small)
        assert score_reply(task, sample.answer, sample.answer) == 1.0
        assert len(sample.question) < 300


def test_mixes(videos):
    built, refusals = build_samples(videos, "beyond", 30, progress=False)
    assert Counter((sample.task, sample.type) for sample in built) == dict.fromkeys([("backwards", "clip"), ("camera", "motion"), ("patches", "swap")], 10)
    assert sum(count_refusals(refusals).values()) <= 3
    assert {row.task for row in MIXES["all-six"].rows} == {"grounding", "counting", "jigsaw", *SOLVED}
    assert MIXES["all-six"].only(["camera"]).counts(7) == [7]
    for name in ("beyond", "all-six", "segments", "motion", "pairs"):
        MIXES[name].check()


@pytest.mark.parametrize(("task", "type"), [kind for kind in KINDS if kind != ("segments", "zoom_out") and kind[0] not in ("motion", "pairs")])  # those show on grey
def test_a_still_grey_film_is_refused(task, type, tmp_path):
    grey = write_mp4(tmp_path / "grey.mp4", np.full((48, 96, 128, 3), 90, np.uint8))
    with pytest.raises(Unsolvable) as refusal:
        make_sample(task, grey, type=type, difficulty=SMALL[task])
    assert refusal.value.reason in {"no direction", "still scene", "moves look alike", "patches look alike", "grey video", "symmetric"}


@each_kind
def test_blind_floors_are_low_and_a_truth_teller_is_far_above(task, type, samples):
    mine = samples[task, type][6:]
    floor = blind_floor(samples[task, type], priors=mine)[task]
    assert 0 < floor["random"] <= floor["floor"] < 0.7 and blind_floor(mine, strict=True)[task]["random"] < 0.5


def test_floors_of_both_types_are_their_mean(samples):
    clips, segments = samples["backwards", "clip"], samples["backwards", "segment"]
    one, two, both = (blind_floor(part)["backwards"] for part in (clips, segments, clips + segments))
    assert both["random"] == pytest.approx((one["random"] + two["random"]) / 2)
    assert one["random"] == pytest.approx(1 / len({sample.answer for sample in clips}))
    as_grounding = blind_floor([replace(sample, task="grounding") for sample in segments])["grounding"]
    assert two["answer"] == as_grounding["answer"]
    assert all(two[name] == pytest.approx(as_grounding[name]) for name in ("constant", "random", "prior", "floor"))


@each_kind
def test_pictures(task, type, samples):
    sample = samples[task, type][0]
    said = parse_reply(task, sample.answer, sample.answer)
    assert show_sample(sample, render(sample), sample.answer, 1.0, predicted=said).axes


# ------------------------------------------------------------------------------------------------------------ rewards


@pytest.mark.parametrize("kind", ANSWERS)
@given(st.one_of(st.text(max_size=30), st.from_regex(r"(left|right|in|out|up)( \d{1,3})?|(left|up),(right|down)|\d{1,2},\d{1,2}|\d|\d\.\d-\d\.\d", fullmatch=True)))
@settings(max_examples=60, deadline=None)
def test_reward_is_a_share_and_one_on_the_truth_only(kind, reply):
    task, truth = kind.partition(" ")[0], ANSWERS[kind]
    smooth, strict, lenient = (score_reply(task, reply, truth, **how) for how in ({}, {"strict": True}, {"parse": "lenient"}))
    assert 0 <= strict <= smooth <= lenient <= 1
    assert (parse_reply(task, reply, truth) is not None) or smooth == 0
    same = parse_reply(task, reply, truth) == parse_reply(task, truth, truth)
    assert (strict == 1) == (smooth == 1) == same


@given(st.integers(1, 99), st.integers(1, 99), st.sampled_from(sorted(MOTIONS)), st.sampled_from(sorted(MOTIONS)))
def test_camera_reward_is_symmetric_and_falls_with_the_distance(one, two, first, second):
    here, there = f"{first} {one}", f"{second} {two}"
    assert score_reply("camera", here, there) == score_reply("camera", there, here)
    assert (score_reply("camera", here, there) >= 0.5) == (first == second)
    assert score_reply("camera", f"{first} {one}", f"{first} {one + 10}") > score_reply("camera", f"{first} {one}", f"{first} {one + 20}")


@given(st.lists(st.integers(1, 25), min_size=4, max_size=4))
def test_patches_reward_is_the_jaccard_index(cells):
    one, two = cells[:2], cells[2:]
    if one[0] == one[1] or two[0] == two[1]:
        return
    expected = len({*one} & {*two}) / len({*one} | {*two})
    for pair in (one, one[::-1]):
        assert score_reply("patches", ",".join(map(str, pair)), ",".join(map(str, two))) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "reply"), [
    ("backwards clip", "clip 3"), ("backwards clip", "The answer is 3."), ("backwards segment", "from 2 to 4.5 seconds"),
    ("camera", "The camera pans left by 20%."), ("camera", "LEFT 20"), ("patches", "6 and 2"), ("patches", "The answer is 2 and 6."),
    ("segments", "[[2.0, 4.5], [12.5, 17.0]]"), ("segments", "From 2.0 to 4.5 seconds and from 12.5 to 17.0 seconds."),
    ("motion direction", "It moves to the left."), ("motion direction", "The answer is **left**."), ("motion speed", "4 times"), ("motion speed", "The answer is 4."),
    ("pairs", "left and right"), ("pairs", "Clip 1: left, clip 2: right"), ("pairs", "<answer>left, right</answer>"),
])  # fmt: skip
def test_lenient_reads_more(kind, reply):
    task, truth = kind.partition(" ")[0], ANSWERS[kind]
    assert (score_reply(task, reply, truth), score_reply(task, reply, truth, parse="lenient")) == (0.0, 1.0)


@pytest.mark.parametrize(("kind", "reply"), [
    ("backwards clip", "3 or 2"), ("backwards clip", "the third"), ("backwards clip", "1, 2, 3"), ("backwards clip", "not clip 3"), ("backwards clip", "33"),
    ("camera", "left or right 20"), ("camera", "left 20, right 20"), ("camera", "20"), ("camera", "left 20.5"), ("camera", "left -20"),
    ("patches", "2,6 or 1,3"), ("patches", "1,2,3,4,5,6"), ("patches", "6,6"), ("patches", "not 2 and 6"), ("patches", "-2,6"),
    ("segments", "2.0-4.5 or 12.5-17.0"), ("segments", "not 2.0-4.5, 12.5-17.0"), ("segments", ", ".join(["2.0-4.5"] * 31)),
    ("motion direction", "left or right"), ("motion direction", "left, right"), ("motion direction", "not left"), ("motion direction", "upleft"), ("motion direction", "4"),
    ("motion speed", "4 or 2"), ("motion speed", "left"), ("motion speed", "-4"), ("motion speed", "1, 2, 4"), ("motion speed", "at least 4"),
    ("pairs", "left or right"), ("pairs", "left,right,up"), ("pairs", "left"), ("pairs", "not left,right"), ("pairs", "clip 2: left, clip 1: right"),
])  # fmt: skip
def test_hedging_pays_nothing(kind, reply):
    for parse in ("paper", "lenient"):
        assert score_reply(kind.partition(" ")[0], reply, ANSWERS[kind], parse=parse) == 0.0


def test_trainers_signatures_know_them():
    tasks = [kind.partition(" ")[0] for kind in ANSWERS]
    truths = list(ANSWERS.values())
    assert videossr_reward(truths, task=tasks, answer=truths) == make_reward(strict=True, parse="lenient")(truths, task=tasks, answer=truths) == [1.0] * len(truths)
    assert [compute_score(task, truth, truth) for task, truth in zip(tasks, truths, strict=True)] == [1.0] * len(truths)


# ---------------------------------------------------------------------------------------------------------- backwards


def test_backward_clip_is_found_among_shuffled_pieces(samples):
    for sample in samples["backwards", "clip"]:
        before, clips = original(sample).frames, render(sample)
        length = clips[0].n_frames
        pieces = [before[first : first + length] for first in range(0, length * len(clips), length)]
        run = [[k for k, piece in enumerate(pieces) if np.array_equal(clip.frames, piece)] for clip in clips]
        back = [[k for k, piece in enumerate(pieces) if np.array_equal(clip.frames[::-1], piece)] for clip in clips]
        (place,) = [k for k, found in enumerate(run) if not found]
        assert str(place + 1) == sample.answer and sorted(sum(run, []) + back[place]) == list(range(len(clips)))


def test_backward_segment_is_found_and_the_rest_untouched(samples):
    for sample in samples["backwards", "segment"]:
        before, after = original(sample), render(sample)[0]
        differ = np.flatnonzero((before.frames != after.frames).any(axis=(1, 2, 3)))
        first, last = differ[0], differ[-1]
        assert np.array_equal(after.frames[first : last + 1], before.frames[first : last + 1][::-1])
        low, high = parse_interval(sample.answer)
        after_it = before.times[last + 1] if last + 1 < before.n_frames else before.times[last] + before.step
        assert low == pytest.approx(before.times[first], abs=0.051) and high == pytest.approx(after_it, abs=0.051)
        clock = parse_interval(exported_answer(sample, [after]))
        assert clock == pytest.approx((first * after.step, (last + 1) * after.step), abs=0.051)


def test_places_are_even(videos):
    task, clip, level, rng = TASKS["backwards"], Clip.example(n_frames=12), TASKS["backwards"].difficulty("demo"), np.random.default_rng(0)
    drawn = [task.propose(clip, "clip", level, rng) for _ in range(900)]
    counts = Counter((recipe["place"], recipe["order"][recipe["place"]]) for recipe in drawn)
    assert len(counts) == 9 and min(counts.values()) > 60  # which part it is tells nothing about where it is shown


@given(st.integers(2, 5), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_turning_twice_is_nothing(n_clips, seed):
    rng = np.random.default_rng(seed)
    clip = Clip.example(n_frames=4 * n_clips)
    order, place = rng.permutation(n_clips).tolist(), int(rng.integers(n_clips))
    clips = one_backwards(clip, order, place)
    clips[place] = backwards_part(clips[place], 0, clips[place].n_frames)
    assert np.array_equal(np.concatenate([clips[position].frames for position in np.argsort(order)]), clip.frames)
    assert turn_cost(clip.frames, n_clips).shape == (n_clips,)


# ------------------------------------------------------------------------------------------------------------- camera


def test_camera_motion_is_measured_from_the_shown_pictures(samples):
    for sample in samples["camera", "motion"]:
        found = registered(render(sample)[0], sample.recipe["motions"], sample.recipe["amounts"])
        assert "{} {}".format(*found) == sample.answer


@given(st.sampled_from(sorted(MOTIONS)), st.integers(1, 50), st.integers(0, 2**31), st.sampled_from([(128, 160), (160, 128), (96, 96)]))
@settings(max_examples=80, deadline=None)
def test_camera_stays_in_the_frame_all_the_way(motion, amount, seed, frame):
    size = (64, 64) if frame[0] == frame[1] else (frame[0] // 2, frame[1] // 2)
    try:
        first = start_pose(frame, size, motion, amount, np.random.default_rng(seed))
    except Unsolvable:
        assert amount > 30
        return
    for pose in np.linspace(first, moved(first, motion, amount, size), 7):
        far, (x, y) = reach(pose, size), pose[:2]
        assert (far <= (x + 0.01, y + 0.01)).all() and (x + far[0] <= frame[1] + 0.01) and (y + far[1] <= frame[0] + 0.01)


def test_first_picture_does_not_tell_the_motion():
    "How near the camera is to begin with overlaps widely between zooming in and out and the rest."
    rng = np.random.default_rng(0)
    scales = {motion: [start_pose((128, 160), (64, 64), motion, 20, rng)[2] for _ in range(300)] for motion in ("in", "out", "left")}
    spans = {motion: (min(found), max(found)) for motion, found in scales.items()}
    assert max(low for low, _ in spans.values()) < min(high for _, high in spans.values())


# ------------------------------------------------------------------------------------------------------------ patches


def test_swapped_cells_are_found_and_the_rest_untouched(samples):
    for sample in samples["patches", "swap"]:
        before, after = original(sample).frames, render(sample)[0].frames
        grid = sample.recipe["rows"], sample.recipe["columns"]
        cells = [int(number) - 1 for number in sample.answer.split(",")]
        assert np.array_equal(exchange(after, cells, grid), before)
        outside = np.ones(after.shape[1:3], bool)
        for cell in cells:
            down, right = cell_span(cell, after.shape[1:3], grid)
            outside[down, right] = False
            assert (after[:, down, right] != before[:, down, right]).any(axis=(1, 2, 3)).all()
        assert np.array_equal(after[:, outside], before[:, outside])
        gains = seam_gains(after, grid)
        assert max(gains, key=gains.get) == tuple(cells)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_exchange_is_its_own_inverse_and_loses_nothing(rows, columns, seed):
    if rows * columns < 2:
        return
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (2, 33, 47, 3), dtype=np.uint8)
    cells = rng.choice(rows * columns, 2, replace=False).tolist()
    swapped = exchange(frames, cells, (rows, columns))
    assert np.array_equal(exchange(swapped, cells, (rows, columns)), frames)
    assert np.array_equal(np.sort(swapped, axis=None), np.sort(frames, axis=None))


# ----------------------------------------------------------------------------------------------------------- VIUBench


def test_types_of_their_own_beside_viubench(videos, tmp_path):
    bench = build_viubench(videos, seed=2, per_type=2, types=BEYOND, budget=Budget(16, max_pixels=64 * 64), progress=False)
    assert bench.counts() == dict.fromkeys(BEYOND, 2) and not {*BEYOND} & {*VIUBENCH}
    told, silent = ([make_record(sample, reply(sample), name="m") for sample in bench] for reply in (lambda sample: sample.answer, lambda sample: ""))
    assert score_viubench(told, BEYOND) == dict.fromkeys([*BEYOND, *SOLVED], 100.0)
    assert set(score_viubench(silent, BEYOND).values()) == {0.0}
    assert score_viubench(told[:1], BEYOND)["patches"] is None
    assert all(0 <= score < 100 for score in viubench_floors(bench, BEYOND)["best"].values())
    with pytest.raises(ValueError, match="no type of VIUBench"):
        score_viubench(told)
    path = save_viubench(bench, tmp_path / "beyond.jsonl")
    assert load_viubench(path, types=BEYOND).samples == bench.samples == bench.first(100).samples
    assert bench.first(6).counts() == dict.fromkeys(BEYOND, 1)


def test_beyond_types_are_compared_listed_and_drawn(videos, tmp_path):
    "In lines of their own, outside the paper's overall score; alone, and in one run with the paper's nine."
    beyond = build_viubench(videos, seed=2, per_type=2, types=BEYOND, budget=Budget(16, max_pixels=64 * 64), progress=False)
    nine = build_viubench(videos, seed=2, per_type=2, budget=Budget(max_pixels=64 * 64), progress=False)
    ask = lambda bench, reply, name: [make_record(sample, reply(sample), name=name) for sample in bench]
    before, after = ask(beyond, lambda sample: "", "before"), ask(beyond, lambda sample: sample.answer, "after")
    gains = compare_viubench(before, after)
    assert list(gains) == [*BEYOND, *SOLVED] and all(line["mean"] == 100 and line["low"] < 100 and 0 < line["p"] <= 1 for line in gains.values())
    assert gains == compare_viubench(before, after, types=BEYOND) and not {"overall", "temporal"} & set(gains)
    floors = viubench_floors(beyond, BEYOND)
    lines = [line for line in viubench_details({"before": before, "after": after}, floors).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(BEYOND) + len(SOLVED) and all(line.count("|") == lines[0].count("|") for line in lines)
    draw_viubench({"before": before, "after": after}, floors).savefig(tmp_path / "beyond.png")
    paper = ask(nine, lambda sample: sample.answer if sample.index % 2 else "", "after")
    both, alone = viubench_intervals([*paper, *after]), viubench_intervals(paper)
    assert {key: both[key] for key in alone} == alone and set(both) == {*alone, *BEYOND, *SOLVED}
    assert "| Overall | 18 |" in viubench_details({"both": [*paper, *after]}) and "| Camera, easy | 2 |" in viubench_details({"both": [*paper, *after]})
    draw_viubench({"both": [*paper, *after]}).savefig(tmp_path / "both.png")
    with pytest.raises(ValueError, match="no type of VIUBench"):
        compare_viubench(before, after, types=VIUBENCH)
    with pytest.raises(ValueError, match="of no known task"):
        viubench_intervals([replace(after[0], task="sorting")])


# ------------------------------------------------------------------------------- players that understand nothing


BEST = {"backwards": "fits when turned", "camera": "registered", "patches": "seams"}


@pytest.mark.parametrize(("task", "type"), [kind for kind in KINDS if kind[0] in SOLVED])
def test_players_read_pixels_and_the_question_alone(samples, task, type):
    "Their replies are all that could be said, so also the truth, and the one that compares seams or pictures finds it: these tasks do not resist."
    right = 0
    for sample in samples[task, type]:
        replies, likings = TASKS[task].low_level(render(sample), sample.question)
        assert sample.answer in replies and all(score_reply(task, reply, reply) == 1 for reply in replies)
        assert all(liking.shape == (len(replies),) and np.isfinite(liking).all() for liking in likings.values())
        right += score_reply(task, preferred(replies, likings)[BEST[task]], sample.answer)
    assert right / len(samples[task, type]) > 0.9


def test_players_name_sets_of_stretches(samples):
    "Each names one set of its own; without decoys the one that counts jumps is often right, with one it is not."
    shares = []
    for level in (SegmentsDifficulty(n_frames=16, max_pixels=64 * 64, min_length=2, max_length=3), "demo"):
        made = [make_sample("segments", sample.video, type=type, difficulty=level) for type in TASKS["segments"].types for sample in samples["segments", type][:6]]
        right = []
        for sample in made:
            replies, likings = TASKS["segments"].low_level(render(sample), sample.question)
            assert len(replies) == len(likings) and all(read_segments(reply) for reply in replies)
            right.append(score_reply("segments", preferred(replies, likings)["between jumps"], sample.answer))
        shares.append(np.mean(right))
    assert shares[0] > 0.6 > shares[1] + 0.1


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=4), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=4))
def test_iou_of_sets_is_that_of_their_tenths(first, second):
    cells = [{k for low, high in spans for k in range(low, high)} for spans in (first, second)]
    expected = len(cells[0] & cells[1]) / len(cells[0] | cells[1]) if cells[0] | cells[1] else 0.0
    assert set_iou(first, second) == pytest.approx(expected) == set_iou(second, first)


def test_no_constant_beats_the_blind_floor_of_segments(samples):
    mine = [sample for type in TASKS["segments"].types for sample in samples["segments", type]]
    floor = blind_floor(mine)["segments"]
    constants = [f"{low / 2}-{high / 2}" for low in range(20) for high in range(low + 1, 20)] + [sample.answer for sample in mine]
    best = max(np.mean([score_reply("segments", reply, sample.answer) for sample in mine]) for reply in constants)
    assert best <= floor["floor"] + 0.02 and floor["prior"] <= floor["constant"]


# ------------------------------------------------------------------------------------------------------------- motion


@given(st.integers(4, 60), st.integers(1, 9), st.integers(0, 60))
def test_no_frame_of_a_line_is_like_another_and_no_end_is_missed(n_frames, passes, phase):
    n_places = n_frames - n_frames % 2 - 1
    if passes >= n_places:
        return
    places = along(n_frames, passes, phase % n_places)
    assert ends_reached(places) == passes and places[0] == places[-1] == phase % n_places
    if np.gcd(passes, n_places) == 1:
        assert sorted(places[:n_places]) == list(range(n_places))  # the mean picture of any speed and of either way is the same
    elsewhere = [along(n_frames, passes, other)[n_frames // 2] for other in range(n_places)]
    assert sorted(elsewhere) == list(range(n_places))  # in one frame every place is as likely as another


def test_pieces_are_what_differs_and_they_cross(samples):
    for sample in (one for type in NAMES["motion"] for one in samples["motion", type]):
        before, after = original(sample).frames, render(sample)[0].frames
        one, two = sample.recipe["pieces"]
        assert {one["shape"], two["shape"]} == {"round", "square"} and one["passes"] != two["passes"]
        assert np.dot(WAYS[one["way"]], WAYS[two["way"]]) == 0 and meeting((one, two), len(before)) <= 0.25
        near = np.zeros(before.shape[:3], bool)
        for piece in (one, two):
            for frame, (right, down), seen in zip(near, *centers(piece, len(before)), strict=True):
                reach = piece["radius"]
                assert reach <= right < frame.shape[1] - reach and reach <= down < frame.shape[0] - reach  # whole in every frame
                frame[down - reach : down + reach + 1, right - reach : right + reach + 1] |= seen > 0
        assert not (before != after).any(-1)[~near].any()
        asked = one if one["shape"] == sample.recipe["asked"] else two
        assert sample.answer == str(asked["way" if sample.type == "direction" else "passes"]) and f"the {asked['shape']} one" in sample.question


def test_players_of_motion_know_the_choices_and_do_not_solve_it(samples):
    right = {}
    for type in NAMES["motion"]:
        for sample in samples["motion", type]:
            replies, likings = TASKS["motion"].low_level(render(sample), sample.question)
            assert replies == [*map(str, sample.recipe["choices"])] and sample.answer in replies
            assert all(liking.shape == (len(replies),) and np.isfinite(liking).all() for liking in likings.values())
            for player, reply in preferred(replies, likings).items():
                right.setdefault(player, []).append(reply == sample.answer)
    assert 0.2 < max(map(np.mean, right.values())) < 0.85  # flow tells one of the two ways that there are


# -------------------------------------------------------------------------------------------------------------- pairs


def test_one_clip_is_made_of_the_other_and_the_answer_follows(samples):
    for type in NAMES["pairs"]:
        firsts = set()
        for sample in samples["pairs", type]:
            first, second = render(sample)
            assert np.array_equal(CHANGES[type].edit(first.frames), second.frames) and np.array_equal(first.times, second.times)
            one, two = sample.answer.split(",")
            assert changed_way(one, type) == two and changed_way(two, type) == one
            firsts.add(sample.recipe["changed"])
            assert not any(word in sample.question for word in CHANGES)  # what was done is not said
        assert firsts == {0, 1}


@given(st.sampled_from(sorted(CHANGES)), st.sampled_from(sorted(CHANGES)), st.sampled_from(sorted(WAYS)))
def test_changes_undo_themselves_and_commute(one, two, way):
    frames = Clip.example(n_frames=4).frames
    both = [CHANGES[last].edit(CHANGES[first].edit(frames)) for first, last in ((one, two), (two, one))]
    assert np.array_equal(*both) and np.array_equal(CHANGES[one].edit(CHANGES[one].edit(frames)), frames)
    assert changed_way(changed_way(way, one), two) == changed_way(changed_way(way, two), one)


def test_a_constant_pair_earns_less_than_a_constant_answer():
    "Over all ways and changes alike: 3/16 at best, where one question of four ways would pay 1/4; right about the first clip alone pays a quarter."
    ways = ["left", "right", "up", "down"]
    truths = [f"{way},{changed_way(way, change)}" for way in ways for change in CHANGES]
    best = max(np.mean([score_reply("pairs", f"{one},{two}", truth) for truth in truths]) for one in ways for two in ways)
    assert best == pytest.approx(3 / 16)
    seen = np.mean([score_reply("pairs", f"{truth.partition(',')[0]},left", truth) for truth in truths])  # the first clip is seen, the second guessed
    same = np.mean([score_reply("pairs", ",".join([truth.partition(",")[0]] * 2), truth) for truth in truths])  # said again
    assert (seen, same) == (pytest.approx(0.25 + 0.75 / 4), pytest.approx(0.25 + 0.75 / 2))


def test_the_cheapest_chain_of_clips():
    line = np.abs(np.arange(5)[:, None] - np.arange(5)).astype(float)
    mixed = np.random.default_rng(0).permutation(5)
    assert chain_cost(line[mixed][:, mixed]) == 4  # from one end to the other
    assert chain_cost(np.array([[9.0, 1, 9], [9, 9, 9], [2, 9, 9]])) == 3  # 2, 0, 1: how the column follows the row
