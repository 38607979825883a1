"""Properties over many cases: paper parsing against its written rules (20,000 strings; a million with `-m slow`), lenient parsing against
meanings that are known because the replies are written from them, rewards, and rendering."""
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import oracle_counts, oracle_interval, oracle_order

import videossr.beyond  # noqa: F401 (its tasks too)
from videossr.demo import demo_videos, paint_evening, write_mp4
from videossr.rewards import REWARDS, counting_reward, grounding_reward, jigsaw_reward, parse_counts, parse_interval, parse_order
from videossr.tasks import TASKS, Sample, Unsolvable, core, grounding, jigsaw, make_sample, render

# ------------------------------------------------------------------------------------------------------- paper parsing

LETTERS = {
    "interval": ["0123456789", ".", "-", " \t\n", "\x1c\u3000\u200b\u00a0", "–−+eE_,s:", "٣५３", "½²Ⅷ"],
    "counts": ["0123456789", ",", " \n", "-.;", "٣५３", "½²Ⅷ①", "abcté"],
    "order": ["123456", "789", "0", " \n\t", ",.", "１２３٣"],
}
SHARES = {"interval": [8, 3, 3, 2, 0.3, 0.7, 0.3, 0.2], "counts": [6, 4, 2, 1, 0.4, 0.3, 0.6], "order": [12, 0.5, 0.2, 0.6, 0.3, 0.2]}


def soup(kind, rng, n):
    "`n` strings of the letters that matter to a parser, and of look-alikes; half of them a true answer with up to three places changed."
    letters = LETTERS[kind]
    shares = np.array(SHARES[kind]) / sum(SHARES[kind])
    lengths, groups, places = rng.integers(0, 14, n), rng.choice(len(letters), (n, 14), p=shares), rng.random((n, 14))
    for row in range(n):
        text = "".join(letters[group][int(place * len(letters[group]))] for group, place in zip(groups[row], places[row]))
        if row % 2:
            yield text[: lengths[row]]
            continue
        start, end = np.round(rng.uniform(0, 99, 2), rng.integers(0, 3))
        true = {"interval": f"{start:g}-{end:g}", "counts": ",".join(map(str, rng.integers(0, 20, 3))), "order": "".join(rng.permutation(list("123456")))}[kind]
        for letter in text[: lengths[row] % 4]:
            place = int(rng.integers(len(true) + 1))
            true = true[:place] + letter + true[place + int(rng.integers(2)) :]
        yield true


def disagreements(n, seed):
    "Strings that a parser reads otherwise than the written rules say, and how many of the others meant something."
    rules = {
        "interval": (parse_interval, oracle_interval, ()), "counts": (parse_counts, oracle_counts, (3,)), "order": (parse_order, oracle_order, (6,)),
    }  # fmt: skip
    found, read = [], dict.fromkeys(rules, 0)
    for number, (kind, (parser, oracle, size)) in enumerate(rules.items()):
        for text in soup(kind, np.random.default_rng([seed, number]), -(-n // 3)):
            wanted = oracle(text, *size)
            read[kind] += wanted is not None
            if parser(text, *size) != wanted:
                found.append((kind, text))
    return found, read


def test_paper_parsing_on_20_000_strings():
    found, read = disagreements(20_000, seed=0)
    assert not found, found[:5]
    assert min(read.values()) > 500, "enough of them mean something"


@pytest.mark.slow
def test_paper_parsing_on_a_million_strings(capsys):
    read = {}
    for part in range(10):
        found, some = disagreements(100_000, seed=1 + part)
        assert not found, found[:5]
        read = {kind: read.get(kind, 0) + count for kind, count in some.items()}
    with capsys.disabled():
        print(f"\nof a million strings these mean something: {read}")


# ----------------------------------------------------------------------------------------------------- lenient parsing

BEFORE = ["", "I looked at 48 frames. ", "Sure! ", "<think>Perhaps {other}. No.</think>", "Let me see.\n\n", "The video has 2 scenes. ", "**", "In clip number 7, look: ", "Step 1: compare. "]
FRAMES = ["{said}", "The answer is {said}.", "Answer: {said}", "<answer>{said}</answer>", "\\boxed{{{said}}}", "I think it is {said}.", "**{said}**", "So, {said}", "Final answer: {said}"]
AFTER = ["", " I am sure.", "\nThe rest of the 60 seconds is normal.", " Confidence: 0.9", "<|im_end|>", "**", " (about 12 %)", " That is all."]
TAKEN_BACK = ["not {said}", "{said} is wrong", "{said} or {other}", "If it were {said}, ", "e.g. {said}", "{said}? I cannot tell.", "neither {said} nor {other}", "{said}. Wait, no."]

TIMES = st.integers(0, 999).map(lambda tenths: tenths / 10)
MEANINGS = {
    "grounding": st.tuples(TIMES, TIMES).map(sorted).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: f"{pair[0]:.1f}-{pair[1]:.1f}"),
    "counting": st.tuples(*[st.integers(0, 20)] * 3).map(lambda counts: ",".join(map(str, counts))),
    "jigsaw": st.permutations("123456").map("".join),
}
WAYS = {
    "grounding": [lambda a: a, lambda a: a.replace("-", " to ") + " s", lambda a: "from {} until {} seconds".format(*a.split("-")), lambda a: a.replace("-", " – ")],
    "counting": [lambda a: a, lambda a: a.replace(",", ", "), lambda a: "{} circles, {} squares and {} triangles".format(*a.split(",")),
                 lambda a: "triangles: {2}, circles: {0}, squares: {1}".format(*a.split(","))],
    "jigsaw": [lambda a: a, lambda a: ", ".join(a), lambda a: " → ".join(f"Clip {k}" for k in a), lambda a: "-".join(a)],
}  # fmt: skip


@st.composite
def replies(draw, task, frames=FRAMES):
    "A reply written from a meaning: (reply, meaning)."
    said, other = draw(MEANINGS[task]), draw(MEANINGS[task])
    way = draw(st.sampled_from(WAYS[task]))
    text = draw(st.sampled_from(BEFORE)) + draw(st.sampled_from(frames)) + draw(st.sampled_from(AFTER))
    return text.format(said=way(said), other=way(other)), said


@pytest.mark.parametrize("task", sorted(MEANINGS))
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_reply_scores_what_its_meaning_deserves_or_nothing(task, data):
    reply, meaning = data.draw(replies(task))
    truth = data.draw(MEANINGS[task])
    assert REWARDS[task](reply, truth, parse="lenient") in (0.0, REWARDS[task](meaning, truth)), reply
    assert REWARDS[task](reply, truth, parse="lenient", strict=True) <= REWARDS[task](meaning, truth, strict=True)
    assert REWARDS[task](reply, truth) in (0.0, REWARDS[task](meaning, truth)) or task == "counting", "any three numbers are counts to the paper's script"


@pytest.mark.parametrize("task", sorted(MEANINGS))
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_an_answer_taken_back_earns_nothing(task, data):
    reply, meaning = data.draw(replies(task, TAKEN_BACK))
    assert REWARDS[task](reply, meaning, parse="lenient") == 0.0, reply


# ------------------------------------------------------------------------------------------------------------- rewards


@settings(max_examples=150, deadline=None)
@given(MEANINGS["grounding"], MEANINGS["grounding"], st.integers(0, 500).map(lambda tenths: tenths / 10))
def test_intervals_that_move_together_keep_their_score(guess, truth, shift):
    def moved(text):
        return "{:.1f}-{:.1f}".format(*(float(time) + shift for time in text.split("-")))

    assert grounding_reward(moved(guess), moved(truth)) == pytest.approx(grounding_reward(guess, truth), abs=1e-9)
    assert grounding_reward(guess, truth) == grounding_reward(truth, guess)


@settings(max_examples=150, deadline=None)
@given(MEANINGS["jigsaw"], MEANINGS["jigsaw"], st.permutations("123456"))
def test_clips_that_change_names_keep_their_score(guess, truth, names):
    table = str.maketrans("123456", "".join(names))
    assert jigsaw_reward(guess.translate(table), truth.translate(table)) == jigsaw_reward(guess, truth) == jigsaw_reward(truth, guess)


@settings(max_examples=150, deadline=None)
@given(MEANINGS["counting"], MEANINGS["counting"], st.permutations(range(3)))
def test_shapes_that_change_places_keep_their_score(guess, truth, order):
    def turned(text):
        return ",".join(text.split(",")[place] for place in order)

    assert counting_reward(turned(guess), turned(truth)) == pytest.approx(counting_reward(guess, truth), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(MEANINGS["jigsaw"], st.integers(0, 4))
def test_one_swap_of_neighbours_costs_the_least(truth, place):
    swapped = truth[:place] + truth[place + 1] + truth[place] + truth[place + 2 :]
    assert jigsaw_reward(swapped, truth) == pytest.approx(1 - 2 / 18)


# ----------------------------------------------------------------------------------------------------------- rendering


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return demo_videos(2, folder=tmp_path_factory.mktemp("videos"), progress=False)


def digest(clips):
    found = hashlib.blake2b(digest_size=8)
    for clip in clips:
        found.update(str(clip.frames.shape).encode() + clip.times.tobytes() + np.ascontiguousarray(clip.frames).tobytes())
    return found.hexdigest()


def some_samples(videos):
    "A sample of every task and type, where these videos allow it."
    for task in sorted(name for name, task in TASKS.items() if type(task).__module__.startswith("videossr.")):  # not what other tests registered
        for type_ in TASKS[task].types:
            try:
                yield make_sample(task, videos[0], type=type_, seed=5, difficulty=next(iter(TASKS[task].difficulties)), donor=videos[1])
            except Unsolvable:
                continue


# ------------------------------------------------------------------------------------------------- pixels by channel


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, most) for most in (4, 40, 60)]), st.sampled_from([2, 40, 256]))
@settings(max_examples=150, deadline=None)
def test_measures_by_channel_are_numpys_to_the_bit(seed, shape, levels):
    rng = np.random.default_rng(seed)
    before, after = rng.integers(256 - levels, 256, (2, *shape, 3), dtype=np.uint8)
    before = before[:, ::-1] if seed % 2 else before  # a view, not in the order of memory
    gap, factors = np.abs(before.astype(int) - after), rng.uniform(0, 2, 3).astype(rng.choice([np.float32, np.float64]))
    block = max(1, min(shape[1:]) // 16)
    down, across = shape[1] // block, shape[2] // block
    blocks = before[:, : down * block, : across * block].reshape(shape[0], down, block, across, block, 3)
    luma = np.asarray(before @ grounding.LUMA)[..., None]
    pairs = {
        "any_channel": (core.any_channel(before > 200), (before > 200).any(-1)),
        "packed": (core.packed(before[:, :, ::-1]), np.ascontiguousarray(before[:, :, ::-1])),
        "channel_means": (core.channel_means(before), before.mean((0, 1, 2))),
        "scaled": (core.scaled(before, factors), np.rint(before * factors).clip(0, 255).astype(np.uint8)),
        "thumbnails": (core.thumbnails(before), blocks.mean(axis=(2, 4), dtype=np.float32)),
        "changed_share": (grounding.changed_share(before, after), (gap.max(-1) >= 16).mean((1, 2))),
        "mean_change": (grounding.mean_change(before, after), gap.mean((1, 2, 3))),
        "saturation": (grounding.saturation(before, 2.0), np.rint(luma + 2.0 * (before - luma)).clip(0, 255).astype(np.uint8)),
        "grayscale": (grounding.grayscale(before), np.repeat(np.rint(luma).astype(np.uint8), 3, -1)),
    }
    for name, (ours, theirs) in pairs.items():
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), name


@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_frame_distances_are_those_of_all_pairs(seed, n_frames):
    frames = np.random.default_rng(seed).integers(0, 256, (n_frames, 40, 70, 3), dtype=np.uint8)
    small = core.thumbnails(frames)
    change = np.abs(small[:, None] - small[None]).max(axis=-1).reshape(n_frames, n_frames, -1)
    for ours, theirs in zip(jigsaw.frame_distances(frames), (np.quantile(change, 0.98, axis=-1), change.mean(axis=-1)), strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def outcome(task, video, **settings):
    "A sample, or why there is none."
    try:
        return make_sample(task, video, **settings)
    except Unsolvable as error:
        return error.reason, str(error)


@pytest.fixture(scope="module")
def hard_videos(tmp_path_factory):
    "One that begins in the dark, one without colours, one with a dark rim that is the same on both sides."
    folder, evening = tmp_path_factory.mktemp("hard"), paint_evening(np.random.default_rng(8))
    ramp = np.linspace(0, 1, len(evening))[:, None, None, None]
    rim = np.ones((*evening.shape[1:3], 1))
    rim[16:-16, 16:-16] = 0
    mirrored = np.concatenate([evening[:, :, :80], evening[:, :, 79::-1]], 2)
    kinds = {"dark": evening * ramp**2, "grey": evening.mean(-1, keepdims=True).repeat(3, -1), "rim": mirrored * np.where(rim, ramp / 4, 1)}
    return [write_mp4(folder / f"{name}.mp4", frames.astype(np.uint8)) for name, frames in kinds.items()]


def test_a_trial_decides_as_apply_and_check_do(videos, hard_videos, monkeypatch):
    "A task may look at less than all frames while it draws; the sample or the rejection is the one that looking at all gives."
    fading = grounding.GroundingDifficulty(n_frames=16, max_pixels=64 * 64, min_length=3, max_length=4, decoys=1, fade=2, at_cuts=True)
    cases = [(name, type, level) for name, task in TASKS.items() for type in task.types for level in ("demo", "plain") if level in task.difficulties]
    cases += [("grounding", type, fading) for type in TASKS["grounding"].types if grounding.PERTURBATIONS[type].cue not in ("order", "hold", "speed")]

    def outcomes():
        return [
            outcome(task, video, type=type, difficulty=level, index=index, donor=videos[1], seed=5)
            for video in (videos[0], *hard_videos) for task, type, level in cases for index in range(2)
        ]  # fmt: skip

    made = outcomes()
    for task in TASKS.values():
        monkeypatch.setattr(type(task), "trial", core.Task.trial)
    core._MEASURED.clear()
    assert outcomes() == made
    kinds = [type(one) for one in made]
    assert min(kinds.count(Sample), kinds.count(tuple)) > len(kinds) / 10, "both samples and rejections were compared"
    assert len({one[0] for one in made if isinstance(one, tuple)}) > 5, "of many reasons"


FRESH = """
import json, sys
import videossr.beyond
from test_properties import digest
from videossr.tasks import Sample, render
print(json.dumps([digest(render(Sample.from_json(line))) for line in sys.stdin.read().split("\\n")]))
"""


def test_rendering_is_pure_and_deterministic(videos):
    "The same bytes again, with a cold cache, from the sample's JSON, in any order and in another process; nothing it reads is changed."
    samples = list(some_samples(videos))
    assert len(samples) >= 8 and {"grounding", "counting", "jigsaw"} <= {sample.task for sample in samples}
    state, before = np.random.get_state()[1].copy(), [sample.to_json() for sample in samples]  # noqa: NPY002 (the global state must stay as it is)
    first = [digest(render(sample)) for sample in samples]
    source = {sample.video: digest([core.CLIP_CACHE.read(sample.video, **sample.recipe["read"])]) for sample in samples}
    again = [digest(render(Sample.from_json(line))) for line in before[::-1]][::-1]
    core.CLIP_CACHE.clips.clear()
    core.CLIP_CACHE.n_bytes = 0
    cold = [digest(render(sample)) for sample in samples]
    assert first == again == cold and [sample.to_json() for sample in samples] == before
    assert source == {sample.video: digest([core.CLIP_CACHE.read(sample.video, **sample.recipe["read"])]) for sample in samples}
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run([sys.executable, "-c", FRESH], input="\n".join(before), env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "7"},
                          capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0 and json.loads(done.stdout) == first, done.stderr[-2000:]
