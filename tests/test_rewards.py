"""Rewards: paper parsing against an oracle written without regular expressions, lenient parsing by table and by property,
the smooth rewards' properties, blind floors against brute force, and what trainers need (pickling, threads, errors)."""

import itertools
import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from oracle import oracle_counts, oracle_interval, oracle_order

from videossr import rewards
from videossr.rewards import (
    REWARDS,
    RewardError,
    blind_floor,
    completion_text,
    compute_score,
    counting_reward,
    grounding_reward,
    jigsaw_reward,
    make_reward,
    parse_counts,
    parse_interval,
    parse_order,
    parse_reply,
    reward_for,
    score_reply,
    temporal_iou,
    videossr_reward,
)

FEW = settings(max_examples=40, deadline=None)
MANY = settings(max_examples=250, deadline=None)

# Strings made of what the parsers care about, with the look-alikes that could fool them.
GROUNDING_SOUP = st.text(alphabet="0123456789..--- \t\n\x1c\u3000\u200b–−+eE_٣５,s", max_size=14)
COUNTING_SOUP = st.text(alphabet="0123456789,,  -.٣५²½Ⅷab\n", max_size=14)
TIMES = st.integers(0, 9999).map(lambda tenths: tenths / 10)
INTERVALS = st.tuples(TIMES, TIMES).map(sorted).map(tuple).filter(lambda pair: pair[0] < pair[1])
COUNTS = st.tuples(*[st.integers(1, 16)] * 3)
ORDERS = st.integers(2, 9).flatmap(lambda size: st.permutations("123456789"[:size])).map("".join)


def written(pair):
    return f"{pair[0]:.1f}-{pair[1]:.1f}"


# --- paper parsing -------------------------------------------------------------------------------------------------


@MANY
@given(GROUNDING_SOUP)
@example("1.2.3-4")
@example(".-.")
@example("1-2-3")
@example("5--6")
@example(" 1. - .5e1")
def test_paper_interval_agrees_with_oracle(text):
    assert parse_interval(text) == oracle_interval(text)


@MANY
@given(TIMES, TIMES, st.sampled_from(["-", " - ", "\t-\n", "- ", "\u3000-"]), st.sampled_from(["", " ", "\n", "\x1c"]))
def test_paper_interval_reads_the_format(start, end, hyphen, space):
    text = f"{space}{start}{hyphen}{end:.2f}{space}"
    assert parse_interval(text) == oracle_interval(text) == ((start, end) if start <= end else None)


@MANY
@given(COUNTING_SOUP, st.integers(1, 4))
def test_paper_counts_agree_with_oracle(text, size):
    assert parse_counts(text, size) == oracle_counts(text, size)


@MANY
@given(st.text(alphabet="123456 \n.,", max_size=9), st.integers(1, 6))
@example(" 341562\n", 6)
def test_paper_order_agrees_with_oracle(text, size):
    assert parse_order(text, size) == oracle_order(text, size)


@pytest.mark.parametrize(
    "task, truth, reply, score",
    [
        ("grounding", "14.5-26.2", "14.5-26.2", 1),
        ("grounding", "14.5-26.2", "14.5-26.2 seconds", 0),
        ("grounding", "14.5-26.2", "<14.5-26.2>", 0),
        ("grounding", "14.5-26.2", "14.5 to 26.2", 0),
        ("grounding", "14.5-26.2", "14.5–26.2", 0),
        ("grounding", "14.5-26.2", "26.2-14.5", 0),
        ("grounding", "14.5-26.2", "-14.5-26.2", 0),
        ("grounding", "14.5-26.2", "1e1-26.2", 0),
        ("grounding", "14.5-26.2", "", 0),
        ("grounding", "14.5-26.2", "9" * 400 + "-" + "9" * 400, 0),
        ("grounding", "14.5-26.2", "0-" + "9" * 400, 0),
        ("grounding", "14.0-26.0", "014.-26.00", 1),
        ("counting", "3,1,4", "-3,-1,-4", 1),
        ("counting", "3,1,4", "3.0,1.0,4.0", 0),
        ("counting", "3,1,4", "03 01 04", 1),
        ("counting", "3,1,4", "3,1", 0),
        ("counting", "3,1,4", "3,1," + "9" * 5000, 2 / 3),
        ("counting", "0,1,4", "0,1,4", 1),
        ("counting", "0,1,4", "1,1,4", 2 / 3),
        ("jigsaw", "341562", "\t341562 ", 1),
        ("jigsaw", "341562", "341562.", 0),
        ("jigsaw", "341562", "3,4,1,5,6,2", 0),
        ("jigsaw", "341562", "34156", 0),
        ("jigsaw", "341562", "３４１５６２", 0),
    ],
)
def test_paper_table(task, truth, reply, score):
    assert REWARDS[task](reply, truth) == pytest.approx(score, abs=1e-9)


# --- lenient parsing -----------------------------------------------------------------------------------------------

READ_INTERVALS = [
    "{a}-{b}", "{a} to {b} s", "{a} - {b} seconds", "{a}–{b}", "{a} — {b}", "{a}−{b}", "<{a}-{b}>", "<answer>{a}-{b}</answer>", "from {a}s until {b}s", "between {a} and {b} seconds",
    "**{a} – {b}** s", r"\boxed{{{a}-{b}}}", "The answer is {a}-{b}.", "Final answer: {a} to {b} seconds.", "In 48 frames of a 60.5 s clip, 3 things change. The answer is {a}-{b} s",
    "{a}-{b}. Red and blue are swapped there.", "It starts at {a} s and ends at {b} s.", '{{"start": {a}, "end": {b}}}', "[{a}, {b}]", "<think>perhaps 1.0-2.0</think>{a}-{b}", "{a} s to {b} s, so {a}-{b}.",
    "The segment is {a}-{b} seconds.", "{a}-{b}<|im_end|>", "`{a}-{b}`", "＄{a}－{b}".replace("＄", ""),
]  # fmt: skip
LEFT_INTERVALS = [
    "-{a} to {b}", "- {a}-{b} s", "{a} to -{b}", "{a} - -{b}", "not {a}-{b}", "{a}-{b} is wrong", "{a}-{b}?", "{a}-{b} or 0.0-9999.0", "{a}-{b}, 0.0-9999.0", "e.g. {a}-{b}", "{a}-{b} minutes", "{a}-{b} frames",
    "{a}-{b} ms", "{a}-{b}%", "The video runs from {a} to {b} s.", "The clip lasts {a} to {b} s", "{a}-{b}-9999.0", "<think>{a}-{b}", "{a}", "{a} {b}", "<answer>{a}-{b}</answer><answer>0.0-9999.0</answer>",
    "The answer is {a}-{b}. Wait, it is not.", "The answer is {a}-{b}. No, the answer is 0.0-9999.0", "x{a}-{b}", "{a}e3-{b}e3", "The frames are from {a} to {b} s.", "if {a}-{b}", "{a}-{b}½", "I can't tell {a}-{b}",
    "0:12 to {b} s",
]  # fmt: skip
READ_COUNTS = [
    "{c},{s},{t}", "({c}, {s}, {t})", "{c}, {s} and {t}", "{c}.0,{s}.0,{t}.0", "{c} circles, {s} squares, {t} triangles", "{t} triangles, {c} circles and {s} rectangles", "There are {c} circles, {s} squares, and {t} triangles.",
    "Circles: {c}\nSquares: {s}\nTriangles: {t}", "- circles: {c}\n- squares: {s}\n- triangles: {t}", "**Squares**: {s}, **Circles**: {c}, **Triangles**: {t}", '{{"triangles": {t}, "circles": {c}, "squares": {s}}}',
    "I looked at 48 frames. The answer is {c},{s},{t}", "<answer>{c} {s} {t}</answer>", "{c},{s},{t} ({c} circles, {s} squares, {t} triangles)", "circles, squares, triangles = {c},{s},{t}",
]  # fmt: skip
LEFT_COUNTS = [
    "-{c},-{s},-{t}", "-{c}, {s}, {t}", "{c}.5,{s},{t}", "{c},{s},{t},1", "{c},{s}", "{c} circles, {t} triangles", "{c} circles, 99 circles, {s} squares, {t} triangles", "{c} or 99 circles, {s} squares, {t} triangles",
    "triangles, squares, circles: {t},{s},{c}", "{c},{s},{t} or 99,99,99", "at most {c} circles, {s} squares, {t} triangles", "{c} circles, {s} squares, {t} triangles per frame", "{c} circles, {s} squares, {t} triangles in 77 frames",
    "not {c},{s},{t}!", "e.g. {c},{s},{t}", "circles: -{c}, squares: {s}, triangles: {t}", "{c}-{s}-{t}", "{c},{s},{t} hundred", "minus {c} circles, {s} squares, {t} triangles", "{c} circles, {s} squares, {t} triangles?",
    "<answer>{c},{s},{t}</answer> <answer>99,99,99</answer>", "thirty {c},{s},{t}", "{c},{s},{t},...",
]  # fmt: skip
READ_ORDERS = [
    "{o}", "{o}.", "{comma}", "[{comma}]", "{dash}", "{space}", "{clips}", "{arrows}", "<answer>{comma}</answer>", "**{o}**", "The answer is {o}", "The 77 clips are shuffled. The correct order is {comma}.", r"\boxed{{{o}}}",
    "{comma}, that is {o}", "Order: {o}\nThe man walks in first.",
]  # fmt: skip
LEFT_ORDERS = [
    "-{o}", "-{comma}", "{o}0", "{o} or {other}", "{o}, {other}", "{other} then {o}", "The clips are shown in the order {o}.", "The reverse order is {o}", "not {o}", "{o} of 77 clips", "{comma}, 1", "{o}?", "e.g. {o}",
    "There are {comma}", "<think>{o}", "The order is {o}. Actually {other}.", "{o}.5", "x{o}", "{o}%",
]  # fmt: skip


@pytest.mark.parametrize("template", READ_INTERVALS)
@settings(max_examples=15, deadline=None)
@given(pair=INTERVALS)
def test_lenient_reads_intervals(template, pair):
    text = template.format(a=f"{pair[0]:.1f}", b=f"{pair[1]:.1f}")
    assert parse_interval(text, parse="lenient") == pair
    assert grounding_reward(text, written(pair), parse="lenient", strict=True) == 1


@pytest.mark.parametrize("template", LEFT_INTERVALS)
@settings(max_examples=15, deadline=None)
@given(pair=INTERVALS)
def test_lenient_leaves_what_is_no_interval(template, pair):
    assert parse_interval(template.format(a=f"{pair[0]:.1f}", b=f"{pair[1]:.1f}"), parse="lenient") is None


@FEW
@given(st.integers(0, 3 * 3600), st.integers(1, 3600), st.sampled_from(["-", " to ", " – ", " until "]))
def test_lenient_reads_clock_times(start, length, link):
    def clock(second, hours):
        minutes = f"{second // 60 % 60:02d}:{second % 60:02d}.5"
        return f"{second // 3600}:{minutes}" if hours else f"{second // 60}:{second % 60:02d}.5"

    for hours in (False, True):
        text = clock(start, hours) + link + clock(start + length, hours)
        assert parse_interval(text, parse="lenient") == (start + 0.5, start + length + 0.5)


@pytest.mark.parametrize("template", READ_COUNTS)
@settings(max_examples=15, deadline=None)
@given(counts=COUNTS)
def test_lenient_reads_counts(template, counts):
    text = template.format(**dict(zip("cst", counts)))
    assert parse_counts(text, parse="lenient") == counts


@pytest.mark.parametrize("template", LEFT_COUNTS)
@settings(max_examples=15, deadline=None)
@given(counts=COUNTS)
def test_lenient_leaves_what_is_no_count(template, counts):
    assert parse_counts(template.format(**dict(zip("cst", counts))), parse="lenient") is None


@pytest.mark.parametrize("number", range(21))
def test_lenient_reads_number_words(number):
    word = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()[number]
    assert parse_counts(f"{word} circles, a square and no triangles", parse="lenient") == (number, 1, 0)
    assert parse_counts(f"{word.title()}, one, two", parse="lenient") == (number, 1, 2)
    assert parse_counts(f"a {word}, circles, squares", parse="lenient") is None


def spelled(order):
    other = order[::-1]
    return {
        "o": order, "other": other, "comma": ", ".join(order), "dash": "-".join(order), "space": " ".join(order),
        "clips": ", ".join(f"Clip {clip}" for clip in order), "arrows": " → ".join(f"clip {clip}" for clip in order),
    }  # fmt: skip


@pytest.mark.parametrize("template", READ_ORDERS)
@settings(max_examples=15, deadline=None)
@given(order=ORDERS.filter(lambda order: len(order) > 2))
def test_lenient_reads_orders(template, order):
    assert parse_order(template.format(**spelled(order)), len(order), parse="lenient") == order


@pytest.mark.parametrize("template", LEFT_ORDERS)
@settings(max_examples=15, deadline=None)
@given(order=ORDERS.filter(lambda order: len(order) > 2))
def test_lenient_leaves_what_is_no_order(template, order):
    assert parse_order(template.format(**spelled(order)), len(order), parse="lenient") is None


TOKENS = st.lists(
    st.sampled_from(["3", "1", "4", "12.5", "20", "-", "–", ",", " ", " ", " to ", "and", "circles", "square", "triangles", "a", "two", "no", "s", ".", "?", ":", "answer is", "<answer>", "</answer>", "\n", "frames", "not", "["]),
    max_size=12,
).map("".join)  # fmt: skip


@MANY
@given(TOKENS)
def test_lenient_on_soup_never_invents(text):
    "Whatever is read stands in the text, and a text in the exact format reads the same in both ways."
    interval, counts = parse_interval(text, parse="lenient"), parse_counts(text, parse="lenient")
    if interval is not None:
        assert all(f"{time:g}" in text for time in interval) and interval[0] <= interval[1]
    if counts is not None:
        words = {"two": "2", "a": "1", "no": "0", "square": "1"}
        said = text + "".join(value for word, value in words.items() if word in text)
        assert all(str(count) in said for count in counts)
        assert not text.strip().startswith("-")
    if parse_interval(text) is not None:
        assert interval == parse_interval(text)


@FEW
@given(INTERVALS, INTERVALS, st.sampled_from([" and ", " or ", "\n", ". ", " <answer>", "; "]))
def test_two_different_answers_are_none(first, second, link):
    assume(first != second)
    text = written(first) + link + written(second)
    found = parse_interval(text, parse="lenient")
    assert found is None or (link == " <answer>" and found == second)


@FEW
@given(st.text(alphabet=st.characters(max_codepoint=0x2FFF), max_size=60))
def test_any_text_gets_a_reward(text):
    for task, truth in {"grounding": "14.5-26.2", "counting": "3,1,4", "jigsaw": "341562"}.items():
        for strict, parse in itertools.product((False, True), ("paper", "lenient")):
            assert 0 <= REWARDS[task](text, truth, strict=strict, parse=parse) <= 1
            if parse_reply(task, text, truth, parse=parse) is None:
                assert REWARDS[task](text, truth, strict=strict, parse=parse) == 0


# --- the rewards themselves ----------------------------------------------------------------------------------------


@MANY
@given(INTERVALS, INTERVALS)
def test_tiou(first, second):
    score = temporal_iou(first, second)
    assert 0 <= score <= 1
    assert score == temporal_iou(second, first)
    assert temporal_iou(first, first) == 1
    shared = max(Fraction(0), min(Fraction(first[1]), Fraction(second[1])) - max(Fraction(first[0]), Fraction(second[0])))
    union = Fraction(first[1]) - Fraction(first[0]) + Fraction(second[1]) - Fraction(second[0]) - shared
    assert score == pytest.approx(float(shared / union), abs=1e-12)
    assert (score == 1) == (first == second)


def test_tiou_of_next_to_nothing():
    assert [temporal_iou((0, 1e-10), (0, 2e-10)), temporal_iou((3, 3), (3, 3)), temporal_iou((0, 1e-10), (2e-10, 3e-10))] == [1, 0, 0]
    assert grounding_reward("5-5", "4.0-6.0") == 0


@FEW
@given(INTERVALS, TIMES, TIMES)
def test_tiou_falls_as_the_end_moves_away(truth, near, far):
    near, far = sorted((truth[1] + near, truth[1] + far))
    assert temporal_iou((truth[0], far), truth) <= temporal_iou((truth[0], near), truth) + 1e-12


@FEW
@given(INTERVALS)
def test_truth_scores_one_in_any_float_format(pair):
    for text in [written(pair), f"{pair[0]:.3f} - {pair[1]:.2f}", f"{pair[0]:08.1f}-{pair[1]:.1f}"]:
        assert grounding_reward(text, written(pair)) == grounding_reward(text, written(pair), strict=True) == 1


@FEW
@given(COUNTS, COUNTS)
def test_counting_properties(guess, truth):
    text, answer = ",".join(map(str, guess)), ",".join(map(str, truth))
    score = counting_reward(text, answer)
    assert 0 <= counting_reward(text, answer, strict=True) <= score <= 1
    assert (score == 1) == (guess == truth)
    assert score == sum(max(0, 1 - abs(p - g) / (g + 1e-9)) for p, g in zip(guess, truth)) / 3
    further = ",".join(str(p + (p >= g)) for p, g in zip(guess, truth))
    assert counting_reward(further, answer) <= score


@FEW
@given(st.integers(2, 9).flatmap(lambda size: st.tuples(st.permutations("123456789"[:size]), st.permutations("123456789"[:size]))))
def test_jigsaw_properties(orders):
    guess, truth = map("".join, orders)
    score = jigsaw_reward(guess, truth)
    places = {clip: place for place, clip in enumerate(truth)}
    assert score == 1 - sum(abs(place - places[clip]) for place, clip in enumerate(guess)) / (len(truth) ** 2 // 2)
    assert 0 <= score <= 1 and score == jigsaw_reward(truth, guess)
    assert (score == 1) == (guess == truth) == (jigsaw_reward(guess, truth, strict=True) == 1)
    assert jigsaw_reward(truth[::-1], truth) == 0


@pytest.mark.parametrize(
    "task, truth", [("grounding", t) for t in ("", "5", "5-4", "-1-2", "a-b")] + [("counting", t) for t in ("", "3,x,4", "3,-1,4", "1.5,2,3")] + [("jigsaw", t) for t in ("", "122", "124", "3,1,2")]
)
def test_a_bad_truth_is_an_error_not_a_zero(task, truth):
    for parse in ("paper", "lenient"):
        with pytest.raises(ValueError, match="true answer"):
            REWARDS[task]("1", truth, parse=parse)


# --- for trainers --------------------------------------------------------------------------------------------------

BATCH = {
    "completions": ["3,1,5", [{"role": "assistant", "content": "341562"}], [{"role": "assistant", "content": [{"type": "text", "text": "10-20"}]}], "?"],
    "task": ["counting", "jigsaw", "grounding", "jigsaw"],
    "answer": ["3,1,4", "341562", "10.0-30.0", "21"],
}


def test_trl_signature():
    expected = [(1 + 1 + 0.75) / 3, 1, 0.5, 0]
    assert videossr_reward(**BATCH, prompts=[""] * 4, completion_ids=[[1]] * 4, trainer_state=None) == pytest.approx(expected)
    assert make_reward()(**BATCH, prompts=[""] * 4) == videossr_reward(**BATCH)
    assert make_reward(strict=True)(**BATCH) == pytest.approx([2 / 3, 1, 0, 0])
    assert videossr_reward(completions=[], task=[], answer=[]) == []
    assert all(type(value) is float for value in videossr_reward(**BATCH))


def test_rewards_pickle_and_have_names():
    names = set()
    for strict, parse in itertools.product((False, True), ("paper", "lenient")):
        reward = make_reward(strict, parse)
        again = pickle.loads(pickle.dumps(reward))
        assert again == reward and again(**BATCH) == reward(**BATCH) and hash(again) == hash(reward)
        names.add(again.__name__)
    assert len(names) == 4 and videossr_reward.__name__ in names
    assert pickle.loads(pickle.dumps(videossr_reward)) is videossr_reward
    error = pickle.loads(pickle.dumps(RewardError("why", "jigsaw", 3)))
    assert (str(error), error.task, error.row) == ("why", "jigsaw", 3)


def test_a_pickled_reward_works_in_a_fresh_process_without_torch():
    code = (
        "import pickle, sys; reward = pickle.loads(bytes.fromhex(sys.argv[1])); "
        "print(reward(['3, 1, 4.'], task=['counting'], answer=['3,1,4']), reward.__name__, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, pickle.dumps(make_reward(parse="lenient")).hex()], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[1.0] videossr_reward_lenient False", done.stderr


def test_verl_signature_and_threads():
    rng = np.random.default_rng(0)
    calls = []
    for _ in range(200):
        start, length = rng.uniform(0, 50), rng.uniform(1, 10)
        order = "".join(map(str, rng.permutation(6) + 1))
        calls.append({"data_source": "grounding", "solution_str": f"{start:.1f} to {start + length:.1f} s", "ground_truth": f"{start:.1f}-{start + length + 1:.1f}", "parse": "lenient"})
        calls.append({"data_source": "shuffled", "solution_str": order, "ground_truth": "123456", "extra_info": {"index": 0}, "reward_router_address": None})
        calls.append({"data_source": "counting", "solution_str": f"{start:.0f},1,2", "ground_truth": "3,1,2", "strict": bool(length > 5)})
    serial = [compute_score(**call) for call in calls]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda call: compute_score(**call), calls)) == serial
    assert compute_score("jigsaw", "132", "123") == compute_score(data_source="shuffled", solution_str="132", ground_truth="123") == 0.5


@pytest.mark.parametrize(
    "change, message",
    [
        ({"answer": ["3,1,4", "341562", "nothing", "21"]}, "task 'grounding', row 2: ValueError: the true answer 'nothing'"),
        ({"task": ["counting", "jigsaw", "riddle", "jigsaw"]}, "task 'riddle', row 2: no such task"),
        ({"completions": ["1", "2", "3", 4]}, "row 3: a completion is a string or a list"),
        ({"completions": ["1", "2", "3", [{"content": 4}]]}, "row 3: a message's content"),
        ({"answer": ["3,1,4"]}, "one length"),
    ],
)
def test_errors_name_task_and_row(change, message):
    with pytest.raises(ValueError, match=message):
        videossr_reward(**{**BATCH, **change})


def test_a_reward_that_breaks_its_promise_is_an_error():
    @reward_for("promise")
    def promise_reward(text, answer, *, strict=False, parse="paper"):
        return {"big": 2.0, "nan": math.nan}.get(text) or 1 / 0

    try:
        for text, message in {"big": "2.0 is not between", "nan": "nan is not between", "x": "ZeroDivisionError: "}.items():
            with pytest.raises(RewardError, match=f"task 'promise'.*{message}") as caught:
                score_reply("promise", text, "")
            assert caught.value.task == "promise"
        assert reward_for("promise")(promise_reward) is promise_reward
        with pytest.raises(ValueError, match="has a reward already"):
            reward_for("promise")(jigsaw_reward)
        assert parse_reply("promise", " a ", "") == "a" and parse_reply("promise", " ", "") is None
    finally:
        del REWARDS["promise"]


def test_completion_text_takes_the_last_message():
    assert completion_text([{"role": "assistant", "content": "1"}, {"role": "assistant", "content": ["2", {"text": "3"}, {"type": "image"}]}]) == "23"
    assert [completion_text(empty) for empty in ("", [], [{"role": "assistant"}], [{"content": None}])] == [""] * 4


@pytest.mark.parametrize("call", [lambda **way: parse_interval("1-2", **way), lambda **way: parse_counts("1", 1, **way), lambda **way: parse_order("1", 1, **way), lambda **way: blind_floor([], **way), make_reward])
def test_unknown_way_of_reading(call):
    with pytest.raises(ValueError, match="paper, lenient"):
        call(parse="strict")


# --- blind floors --------------------------------------------------------------------------------------------------


def sample(task, answer, **recipe):
    return SimpleNamespace(task=task, type="", answer=answer, recipe=recipe)


def brute_prior(task, answers, strict):
    pairs = [REWARDS[task](a, b, strict=strict) for i, a in enumerate(answers) for j, b in enumerate(answers) if i != j]
    return float(np.mean(pairs))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=8), st.booleans())
def test_counting_floor_is_exact(truths, strict):
    answers = [",".join(map(str, truth)) for truth in truths]
    floor = blind_floor([sample("counting", answer) for answer in answers], strict=strict)["counting"]
    top = max(map(max, truths))
    valid = {",".join(map(str, guess)): None for guess in itertools.product(range(1, top + 1), repeat=2)}
    means = {guess: np.mean([counting_reward(guess, answer, strict=strict) for answer in answers]) for guess in valid}
    assert floor["constant"] == pytest.approx(max(means.values()), abs=1e-6)
    assert means[floor["answer"]] == pytest.approx(floor["constant"], abs=1e-6)
    assert floor["random"] == pytest.approx(np.mean(list(means.values())), abs=1e-6)
    assert floor["prior"] == pytest.approx(brute_prior("counting", answers, strict), abs=1e-6)
    assert floor["floor"] == max(floor["constant"], floor["random"], floor["prior"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.permutations("1234").map("".join), min_size=2, max_size=8), st.booleans())
def test_jigsaw_floor_is_exact(answers, strict):
    floor = blind_floor([sample("jigsaw", answer) for answer in answers], strict=strict)["jigsaw"]
    means = {"".join(guess): np.mean([jigsaw_reward("".join(guess), answer, strict=strict) for answer in answers]) for guess in itertools.permutations("1234")}
    assert floor["constant"] == pytest.approx(max(means.values()), abs=1e-9) == pytest.approx(means[floor["answer"]], abs=1e-9)
    assert floor["random"] == pytest.approx(np.mean(list(means.values())), abs=1e-9)
    assert floor["prior"] == pytest.approx(brute_prior("jigsaw", answers, strict), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6)), min_size=2, max_size=8), st.booleans())
def test_grounding_floor_in_frames_is_exact(spans, strict):
    # a frame lasts one second, so frames and seconds score alike
    samples = [sample("grounding", f"{start:.1f}-{start + length:.1f}", start=start, length=length, n_frames=16) for start, length in spans]
    floor = blind_floor(samples, strict=strict)["grounding"]
    means = [np.mean([grounding_reward(f"{a}-{b}", one.answer, strict=strict) for one in samples]) for a in range(16) for b in range(a + 1, 17)]
    assert floor["constant"] >= max(means) - 1e-9
    assert floor["constant"] <= max(means) + (0.05 if not strict else 1e-9)
    assert floor["random"] == pytest.approx(np.mean(means), abs=1e-9)
    assert floor["prior"] == pytest.approx(brute_prior("grounding", [one.answer for one in samples], strict), abs=1e-9)


def test_grounding_floor_without_recipes_can_be_played():
    rng = np.random.default_rng(0)
    starts, lengths = rng.uniform(0, 40, 200), rng.uniform(5, 15, 200)
    samples = [sample("grounding", f"{start:.1f}-{start + length:.1f}") for start, length in zip(starts, lengths)]
    floor = blind_floor(samples)["grounding"]
    played = np.mean([grounding_reward(floor["answer"], one.answer) for one in samples])
    assert floor["constant"] == pytest.approx(played, abs=1e-9)
    guesses = [f"{a}-{b}" for a in range(0, 55, 3) for b in range(a + 1, 56, 3)]
    assert played >= max(np.mean([grounding_reward(guess, one.answer) for one in samples]) for guess in guesses)
    assert blind_floor(samples) == {"grounding": floor}


def test_floors_learned_elsewhere_and_by_size():
    train = [sample("jigsaw", order) for order in ("123", "123", "4321", "4321", "1234")]
    held = [sample("jigsaw", order) for order in ("321", "4321", "12")]
    floor = blind_floor(held, priors=train)["jigsaw"]
    assert floor["answer"] == "12; 123; 4321"
    assert floor["constant"] == pytest.approx((1 + 0 + 1) / 3)
    assert blind_floor([]) == {}
    alone = blind_floor([sample("counting", "3,1,4")])["counting"]
    assert (alone["constant"], alone["prior"]) == (1, 0)


def test_floor_of_a_new_task_and_of_a_task_with_its_own_blind_player():
    def reward(text, answer, *, strict=False, parse="paper"):
        return max(0.0, 1 - abs(float(text) - float(answer)))

    def blind(scored, learned, strict, rng):
        return {"constant": 0.25, "answer": "x", "random": 0.5, "prior": float(len(learned) == 2)}

    samples = [sample("number", answer) for answer in ("0.0", "0.5", "0.5", "1.0")]
    try:
        reward_for("number")(reward)
        floor = blind_floor(samples)["number"]
        assert floor["answer"] == "0.5" and floor["constant"] == 0.75 and floor["random"] == pytest.approx((0.5 + 0.75 + 0.5) / 3)
        assert floor["prior"] == pytest.approx(np.mean([reward(a.answer, b.answer) for i, a in enumerate(samples) for j, b in enumerate(samples) if i != j]))
        reward_for("number", blind=blind)(reward)
        assert blind_floor(samples, priors=samples[:2])["number"] == {"constant": 0.25, "random": 0.5, "prior": 1.0, "floor": 1.0, "answer": "x"}
    finally:
        del REWARDS["number"]
        rewards._BLIND.pop("number", None)


def test_paper_floors():
    "The floors that were measured on the paper's own scripts follow from the tasks' definitions."
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(2000):
        length = int(rng.integers(8, 17))
        start = int(rng.integers(0, 49 - length))
        samples.append(sample("grounding", f"{start}.0-{start + length}.0", start=start, length=length, n_frames=48))
        samples.append(sample("counting", ",".join(str(rng.integers(1, 4, rng.integers(1, 4)).sum()) for _ in range(3))))
    floors = blind_floor(samples)
    assert floors["grounding"]["constant"] == pytest.approx(0.306, abs=0.015)
    assert floors["grounding"]["prior"] == pytest.approx(0.215, abs=0.01)
    assert floors["counting"]["answer"] == "3,3,3"
    assert floors["counting"]["constant"] == pytest.approx(0.584, abs=0.015)
    for answer, score in {"123456": 0.352, "12345678": 0.344}.items():
        assert blind_floor([sample("jigsaw", answer)])["jigsaw"]["random"] == pytest.approx(score, abs=5e-4)


def test_a_reward_takes_another_s_place_and_is_known(monkeypatch):
    for table in ("REWARDS", "_PARSERS", "_BLIND", "_REPLACED"):
        monkeypatch.setattr(rewards, table, dict(getattr(rewards, table)))

    def half(text, answer, *, strict=False, parse="paper"):
        return 0.5

    with pytest.raises(ValueError, match="no reward to replace"):
        reward_for("groundings", replace=True)
    before = parse_reply("grounding", "1.0-2.0", "1.0-2.0")
    reward_for("grounding", replace=True)(half)
    assert score_reply("grounding", "1.0-2.0", "1.0-2.0") == 0.5 and parse_reply("grounding", "1.0-2.0", "1.0-2.0") == before
    assert rewards.replaced_rewards() == {"grounding": f"{__name__}.{half.__qualname__}"} and "grounding" not in rewards._BLIND
