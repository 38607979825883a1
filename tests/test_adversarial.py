"""Policies that do not look: whatever they say, always or by a rule that reads the question alone, no task pays them above its blind floor."""
import itertools
import re

import numpy as np
import pytest
from hostile import hostile_replies

from videossr.demo import demo_videos
from videossr.rewards import REWARDS, blind_floor, score_reply
from videossr.tasks import TASKS, Unsolvable, make_sample

OTHER_DIGITS = ["٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "零一二三四五六七八九", "ⅠⅡⅢⅣⅤⅥⅦⅧⅨⅩ", "⁰¹²³⁴⁵⁶⁷⁸⁹"]
SHOTGUN = [
    " ".join(map(str, range(100))), ",".join(map(str, range(100))), "\n".join(f"{k}-{k + 10}" for k in range(100)), "".join(map(str, range(10))) * 50,
    "0-100", "0.0-999999", "0-1e9", "1,1,1,2,2,2,3,3,3", ",".join("".join(order) for order in itertools.islice(itertools.permutations("123456"), 200)),
    "1 circle, 2 circles, 3 circles, 1 square, 1 triangle", "123456 or 654321", "<answer>1-2</answer><answer>3-4</answer>", "all of the above", "0,0,0", "99,99,99", "9" * 5000,
]  # fmt: skip
PLACEHOLDERS = ["<start>-<end>", "start-end", "X-Y", "{start}-{end}", "<video>", "<|video_pad|>" * 100, "circles,squares,triangles", "[n],[n],[n]", "___", "...", "N/A", "null"]
EMPTY = ["", " ", "\n" * 1000, "\x00", "\u200b" * 50, "<think>", "<think></think>", "<answer></answer>", "\\boxed{}"]


def constants():
    "Replies that are the same for every question."
    yield from EMPTY + PLACEHOLDERS + SHOTGUN
    for digits in OTHER_DIGITS:
        yield from (f"{digits[1]}{digits[2]}-{digits[3]}{digits[4]}", f"{digits[3]},{digits[1]},{digits[4]}", "".join(digits[k] for k in (3, 4, 1, 5, 6, 2)), digits)
    yield from (str(number) for number in range(100))
    yield from (f"{start}-{stop}" for start, stop in itertools.combinations(range(0, 14, 2), 2))
    yield from (",".join([str(number)] * 3) for number in range(12))
    yield from ("123456", "654321", "321", "123", "231", "12345678")


def last_number(question):
    return (re.findall(r"\d+(?:\.\d+)?", question) or [""])[-1]


READERS = {
    "the question itself": lambda question: question,
    "its last line": lambda question: question.strip().split("\n")[-1],
    "its example": lambda question: (re.findall(r"example,? ([\w.,-]*\w)", question) or [""])[-1],
    "all its numbers": lambda question: " ".join(re.findall(r"\d+(?:\.\d+)?", question)),
    "an answer as long as it can be": lambda question: f"0-{last_number(question)}",
    "its numbers in tags": lambda question: f"<answer>{last_number(question)}</answer>",
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    "Twenty questions of each task about four videos."
    videos = demo_videos(4, folder=tmp_path_factory.mktemp("videos"), progress=False)
    found = {}
    for task in sorted(set(TASKS) & set(REWARDS)):
        easiest = "demo" if "demo" in TASKS[task].difficulties else next(iter(TASKS[task].difficulties))
        for number in range(20):
            try:
                found.setdefault(task, []).append(make_sample(task, videos[number % 4], seed=number, difficulty=easiest, donor=videos[(number + 1) % 4]))
            except Unsolvable:
                continue
    assert all(len(some) >= 8 for some in found.values()) and {"grounding", "counting", "jigsaw"} <= set(found)
    return found


def gains(samples, answer, strict, parse):
    "How far above its task's floor a policy that sees the question alone comes, by task."
    found = {}
    for task, mine in samples.items():
        floor = blind_floor(mine, strict=strict, parse=parse)[task]["floor"]
        scores = [score_reply(task, answer(sample.question), sample.answer, strict=strict, parse=parse) for sample in mine]
        found[task] = float(np.mean(scores)) - floor
    return found


# The best constant is searched on a grid of tenths for intervals, so another one may be better by a hair.
HAIR = 0.01


@pytest.mark.parametrize("parse", ["paper", "lenient"])
@pytest.mark.parametrize("strict", [False, True])
def test_no_constant_reply_beats_the_floor(samples, strict, parse):
    floors = {task: blind_floor(mine, strict=strict, parse=parse)[task]["floor"] for task, mine in samples.items()}
    for reply in {*constants(), *(hostile_replies(150, seed=7) if parse == "paper" else hostile_replies(20, seed=8))}:
        for task, mine in samples.items():
            score = float(np.mean([score_reply(task, reply, sample.answer, strict=strict, parse=parse) for sample in mine]))
            assert score <= floors[task] + HAIR, (task, reply[:80], score, floors[task])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("parse", ["paper", "lenient"])
def test_no_reader_of_the_question_beats_the_floor(samples, reader, parse):
    for strict in (False, True):
        found = gains(samples, READERS[reader], strict, parse)
        assert max(found.values()) <= HAIR, found


@pytest.mark.parametrize("reply", [*EMPTY, *PLACEHOLDERS, *SHOTGUN[:4]])
def test_what_says_nothing_or_everything_earns_nothing(samples, reply):
    for task, mine in samples.items():
        assert {score_reply(task, reply, sample.answer, parse=parse) for sample in mine for parse in ("paper", "lenient")} == {0.0}


def test_endless_replies_end(samples):
    for reply in ("1" * 200_000, "1," * 100_000, "1-" * 100_000, "<answer>" * 25_000, "<think>" * 25_000, "(" * 200_000, "12.5-17.0 " * 20_000):
        for task, mine in samples.items():
            assert score_reply(task, reply, mine[0].answer) in (0.0, 1.0) or task not in ("grounding", "jigsaw")
