"Ready rewards: figures by hand, replies that say everything, and blind players against their floor."
import itertools
import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videossr.answers import (
    ANSWER_REWARDS,
    LETTERS,
    answer_floor,
    answer_places,
    auto_reward,
    choice_reward,
    exact_reward,
    interval_reward,
    number_exact_reward,
    number_reward,
    plain_text,
    read_number,
    read_option,
    reward_by_name,
    reward_of_row,
    row_options,
)
from videossr.rewards import RewardError

OPTIONS = ("a cup", "a kite", "nothing", "both of them")
PIECES = st.sampled_from([
    "A", "B", "C", "D", "(A)", "(B)", "b", "A.", "C)", "a cup", "a kite", "nothing", "A. a cup", "B. a cup", "The answer is ", "<answer>", "</answer>", r"\boxed{", "}", "<think>", "</think>",
    "or ", ", ", "not ", "\n", " ", "Option ", "?", "3", "4", "-", "1.5-3.5", "[2, 4]", ".", "yes", "no",
])  # fmt: skip
ASKED = [{"answer": letter, "options": OPTIONS} for letter in "AABBBCD"] + [
    {"answer": "B", "options": ["yes", "no"]}, {"answer": "A", "options": ["no", "yes"]}, {"answer": "A", "options": ["3", "4", "nothing"]},
]  # fmt: skip
RAMBLES = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=40)


@pytest.mark.parametrize("form", ["{}", "({})", "{}.", "{})", "**{}**", "[{}]", "Option {}", "The answer is {}", "The answer is: {}.", "Answer: ({})", r"\boxed{{{}}}", "<answer>{}</answer>",
                                  "<answer>\n{}.\n</answer>", "<think>A, B, C or D?</think>{}", "The correct answer is {}. It is seen twice.", "{}, because it is so", "{} since it is so", "{}: whatever it is"])
def test_a_letter_in_every_usual_form(form):
    for truth in "ABCD":
        said = [form.format(letter) for letter in "ABCD"]
        assert choice_reward(said, [truth] * 4, [OPTIONS] * 4) == [float(letter == truth) for letter in "ABCD"]
        assert choice_reward(said, [truth] * 4) == [float(letter == truth) for letter in "ABCD"], "without the options in a column"


@pytest.mark.parametrize("form", ["{}", "{}.", "It is {}.", "The answer is {}.", "<answer>{}</answer>", "  {} \n"])
def test_the_text_of_an_option(form):
    for letter, text in zip("ABCD", OPTIONS, strict=True):
        assert read_option(form.format(text), OPTIONS) == letter
        assert read_option(form.format(text.upper()), OPTIONS) == letter
        assert read_option(f"{letter}. {text}", OPTIONS) == letter


@pytest.mark.parametrize("reply", ["A, B, C, D", "A B C D", "A\nB\nC\nD", "(A) (B) (C) (D)", "ABCD", "A. B. C. D.", "A or B", "A and B", "not A", "a cup, a kite, nothing, both of them", "A. a kite", "B. a cup",
                                   "The answer is A. The answer is B.", "<answer>A</answer><answer>B</answer>", "<answer>A<answer>B</answer></answer>", r"\boxed{A}\boxed{B}", "<think>A", "", "E", "A?", "The answer is A or B", "А", "Ⓐ"])
def test_several_options_or_none_are_no_answer(reply):
    assert choice_reward([reply] * 4, list("ABCD"), [OPTIONS] * 4) == [0.0] * 4


def test_thoughts_are_not_read():
    assert choice_reward(["<think>The answer is B</think>", "<think>B", "<think>A</think><answer>B</answer>"], ["B"] * 3, [OPTIONS] * 3) == [0.0, 0.0, 1.0]


@settings(max_examples=150, deadline=None)
@given(RAMBLES)
def test_no_constant_reply_beats_the_best_option(reply):
    "Whatever is said, one reply to everything earns no more than the most frequent letter or the most frequent text."
    score = np.mean(choice_reward([reply] * len(ASKED), [row["answer"] for row in ASKED], [row["options"] for row in ASKED]))
    assert score <= answer_floor(ASKED, "choice")[""]["constant"]


@pytest.mark.parametrize("between", [" ", ", ", "\n", " or ", ". ", "; ", " The answer is ", "</answer><answer>"])
def test_no_list_of_options_beats_the_best_option(between):
    "Each question has other options, so a list of right answers to several of them would name one option of each."
    parts = ["B", "A", "a kite", "no", "3", "nothing"]
    floor = answer_floor(ASKED, "choice")[""]["constant"]
    for size in (2, 3, 4):
        for chosen in itertools.permutations(parts, size):
            reply = between.join(chosen)
            assert np.mean(choice_reward([reply] * len(ASKED), [row["answer"] for row in ASKED], [row["options"] for row in ASKED])) <= floor, reply


TRUTHS = st.lists(st.integers(-20, 200) | st.floats(-1e6, 1e6).map(lambda value: round(value, 2)), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(TRUTHS, st.floats(-1e7, 1e7) | RAMBLES | st.integers(-300, 300))
def test_no_constant_number_beats_the_floor(truths, guess):
    rows, reply = [{"answer": str(truth)} for truth in truths], str(guess)
    for name in ("number", "number_exact"):
        score = np.mean(reward_by_name(name)([reply] * len(rows), [row["answer"] for row in rows]))
        assert score <= answer_floor(rows, name)[""]["constant"] + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), min_size=1, max_size=6), st.integers(0, 60), st.integers(0, 40))
def test_no_constant_interval_beats_the_floor(spans, start, length):
    rows = [{"answer": f"{first:.1f}-{first + more:.1f}"} for first, more in spans]
    score = np.mean(interval_reward([f"{start / 2}-{(start + length) / 2}"] * len(rows), [row["answer"] for row in rows]))
    assert score <= answer_floor(rows, "interval")[""]["constant"] + 1e-9


@pytest.mark.parametrize("reply, value", [
    ("12", 12), ("-3.5", -3.5), ("+7", 7), (".5", 0.5), ("1,234", 1234), ("1,234,567.5", 1234567.5), ("2e3", 2000), ("twelve", 12), ("12 apples", 12), ("$12", 12), ("12%", 12), ("−4", -4), ("１２", 12),
    ("The answer is 12.", 12), ("The answer is 12. It was 3 before.", 12), ("<answer>12</answer>", 12), (r"\boxed{12}", 12), ("I count 3 and 9. <answer>12</answer>", 12), ("<think>3</think>12", 12),
])  # fmt: skip
def test_numbers_that_are_read(reply, value):
    assert read_number(reply) == value


@pytest.mark.parametrize("reply", ["", "many", "3 4", "3, 4", "3-4", "3 to 4", "1.2.3", "1:30", "nan", "inf", "-inf", "Infinity", "1e999", "9" * 400, "9" * 10_000, "٣", "²", "½", "Ⅳ", "1,2", "not 3", "3?", "3 or so",
                                   "<answer>3</answer><answer>4</answer>", "<think>3", "--3", "a3", "3/4", "0x10", "1_000"])
def test_numbers_that_are_not(reply):
    assert read_number(reply) is None
    assert number_reward([reply], ["3"]) == [0.0] == number_exact_reward([reply], ["3"])


def test_numbers_by_hand():
    assert number_reward(["50", "40", "75", "100", "101", "-50"], ["50"] * 6) == pytest.approx([1, 0.8, 0.5, 0, 0, 0])
    assert number_reward(["-40", "40", "0"], ["-50", "-50", "-50"]) == pytest.approx([0.8, 0, 0])
    assert number_reward(["0", "0.001"], ["0", "0"]) == [1.0, 0.0]
    assert number_exact_reward(["50.0", "49.999"], ["50", "50"]) == [1.0, 0.0]


@pytest.mark.parametrize("truth", ["15.0-25.0", "[15, 25]", "from 15 to 25 s", "0:15 - 0:25", "15s to 25s"])
@pytest.mark.parametrize("reply, score", [("from 10 to 20 s", 1 / 3), ("[10, 20]", 1 / 3), ("0:10 to 0:20", 1 / 3), ("15-25", 1), ("<answer>15-20</answer>", 1 / 2), ("40-50", 0), ("10-20 or 15-25", 0), ("20", 0)])
def test_intervals_by_hand(truth, reply, score):
    assert interval_reward([reply], [truth]) == pytest.approx([score])


def test_exact_text():
    truths = ["The red car"] * 5
    assert exact_reward(["red car", "A RED car!", "the answer is: red car.", "<answer>red car</answer>", "red cars"], truths) == [1, 1, 1, 1, 0]
    assert exact_reward(["5", "35", "3.5", "-3.5"], ["-5", "3.5", "3.5", "3.5"]) == [0, 0, 1, 0]
    assert exact_reward(["red car blue car", "red car</answer><answer>blue car"], ["red car"] * 2) == [0, 0]
    assert exact_reward(["café", "cafe\u0301"], ["café"] * 2) == [1, 1], "composed or not"
    assert exact_reward(["A", "The"], ["A", "A"]) == [1, 0], "an article alone is a word"


@given(st.text(max_size=60))
def test_plain_text_is_idempotent(text):
    assert plain_text(plain_text(text)) == plain_text(text)


def test_rouge_by_hand():
    pytest.importorskip("rouge_score")
    rouge = reward_by_name("rouge")
    assert rouge(["a man opens a door", "a man", "", "<think>a man opens a door"], ["a man opens a door"] * 4) == pytest.approx([1, 4 / 7, 0, 0])
    with pytest.raises(RewardError, match="no Latin letter or digit"):
        rouge(["猫"], ["猫"])


def test_rouge_says_what_to_install(monkeypatch):
    import builtins

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda name, *rest, **more: (_ for _ in ()).throw(ImportError(name)) if name.startswith("rouge_score") else real(name, *rest, **more))
    import videossr.answers as answers

    answers._rouge.cache_clear()
    with pytest.raises(ImportError, match=r"pip install rouge-score, or videossr\[text\]"):
        reward_by_name("rouge")(["a"], ["a"])


def test_auto_picks_or_refuses():
    picked = {"B": "choice", "(C)": "choice", "12": "number", "-1.5": "number", "1,200": "number", "[1.2, 3.4]": "interval", "1.2-3.4": "interval", "from 1 to 3 s": "interval", "0:10-0:20": "interval"}
    assert {answer: reward_of_row(answer) for answer in picked} == picked
    assert reward_of_row("a kite", OPTIONS) == reward_of_row("a kite", json.dumps(OPTIONS)) == "choice"
    assert [reward_of_row("5", None, task) for task in ("numerical", "regression", "OCR", "free-form", "Multiple Choice")] == ["number_exact", "number", "exact", "rouge", "choice"]
    for unclear in ("a red car", "3-5", "yes", "1 2"):
        with pytest.raises(ValueError, match="could be scored by"):
            reward_of_row(unclear)
    assert auto_reward(["B", "8"], ["B", "10"], task=["mcq", None]) == pytest.approx([1.0, 0.8])
    with pytest.raises(RewardError, match="row 1") as failed:
        auto_reward(["B", "red"], ["B", "red"])
    assert failed.value.row == 1


@pytest.mark.parametrize("name", sorted(set(ANSWER_REWARDS) - {"rouge"}))
def test_rewards_take_what_a_trainer_gives(name):
    answer = {"choice": "B", "interval": "1.0-2.0", "auto": "B"}.get(name, "3")
    reward = reward_by_name(name)
    talk = [[{"role": "assistant", "content": f"<think>?</think>{answer}"}], [{"role": "assistant", "content": None}]]
    assert reward(prompts=["?"] * 2, completions=talk, answer=[answer] * 2, videos=[[]] * 2, source=["x"] * 2, trainer_state=None) == [1.0, 0.0]
    for wrong in (None, "", 3):
        with pytest.raises(RewardError, match="row 0"):
            reward(["x"], [wrong])
    with pytest.raises(ValueError, match="lists of one length"):
        reward(["x", "y"], [answer])


@pytest.mark.parametrize("name, answer, options", [("choice", "E", OPTIONS), ("choice", "red", None), ("choice", "AB", None), ("choice", "A", "A. x"), ("choice", "A", {"A": "x", "C": "y"}), ("number", "inf", None), ("number", "1-2", None), ("interval", "soon", None)])
def test_a_true_answer_that_cannot_be_true(name, answer, options):
    with pytest.raises(RewardError, match=f"reward '{name}', row 0"):
        reward_by_name(name)(["A"], [answer], options=[options])


def test_options_in_every_form():
    texts = ("cup", "kite")
    for given_options in (["cup", "kite"], ["A. cup", "B. kite"], ["(A) cup", "(B) kite"], {"A": "cup", "B": "kite"}, '["A) cup", "B) kite"]', {"A": "cup", "B": "kite", "C": None}):
        assert row_options(given_options) == texts
    assert choice_reward(["kite"] * 2, ["kite", "B"], [list(texts), {"B": "kite", "A": "cup"}]) == [1.0, 1.0]


@settings(max_examples=80, deadline=None)
@given(RAMBLES, st.sampled_from(["choice", "number", "number_exact", "interval", "exact"]))
def test_rewards_are_finite_shares(reply, name):
    answer = {"choice": "B", "interval": "1.0-2.0"}.get(name, "3")
    [score] = reward_by_name(name)([reply], [answer])
    assert math.isfinite(score) and 0 <= score <= 1


@pytest.mark.parametrize("unit", ["A ", "(A)", "A.", "9", "1,234,", "1:", "-", " ", "\n", "a kite ", "<answer>", "<answer>A", "</answer>", "<think>", "</think>", "the answer is ", "answer:", r"\boxed{", "{", "}", "*", "e", "1e", "½", ". ", "The answer is A. "])
def test_long_replies_are_read_quickly(unit):
    reply = (unit * 10_000)[:10_000]
    begun = time.perf_counter()
    for name, answer in (("choice", "B"), ("number", "3"), ("interval", "1.0-2.0"), ("exact", "kite")):
        assert reward_by_name(name)([reply], [answer], options=[OPTIONS] if name == "choice" else None) == [0.0]
    assert time.perf_counter() - begun < 20


def test_floor_is_chosen_on_other_rows():
    learned = [{"answer": letter, "options": OPTIONS, "task": "mcq"} for letter in "BBBA"]
    scored = [{"answer": letter, "options": OPTIONS, "task": "mcq"} for letter in "ADDB"]
    floor = answer_floor(scored, learned=learned)["mcq"]
    assert (floor["answer"], floor["letter"], floor["constant"], floor["random"]) == ("B", "B", 0.25, 0.25)
    assert floor["prior"] == pytest.approx(0.75 * 0.25 + 0.25 * 0.25)
    assert answer_floor(scored)["mcq"]["constant"] == 0.5, "in hindsight D"


def test_floor_knows_texts_behind_letters():
    "The letters are even, but the text 'yes' is right three times of four."
    rows = [{"answer": LETTERS[place], "options": ["no", "yes"] if place else ["yes", "no"]} for place in (0, 1, 0)] + [{"answer": "A", "options": ["no", "yes"]}]
    floor = answer_floor(rows + rows, "choice")[""]
    assert (floor["answer"], floor["constant"]) in {("yes", 0.75), ("A", 0.75)}
    assert choice_reward(["yes"] * 4, [row["answer"] for row in rows], [row["options"] for row in rows]) == [1, 1, 1, 0]


def test_floor_of_any_function():
    rows = [{"answer": word, "prompt": [{"role": "user", "content": "?"}], "length": length} for word, length in (("up", 2), ("down", 4), ("up", 2))]

    def counted(completions, length, **columns):
        return [float(len(one[0]["content"]) == wanted) for one, wanted in zip(completions, length, strict=True)]

    floor = answer_floor(rows, counted)[""]
    assert (floor["answer"], floor["letter"]) == ("up", None) and floor["constant"] == pytest.approx(2 / 3)


def test_places():
    assert answer_places("I see a cat.\n\nThe answer is a kite.\nIt flies.") == ["a kite"]
    assert answer_places("The answer is a kite.", cues=False) == ["The answer is a kite."]


@pytest.mark.parametrize("answer", ["B", "(B)", "B.", "B. a kite", "a kite", "A kite.", "Answer: (B) a kite."])
def test_the_truth_in_every_usual_form(answer):
    assert choice_reward(["B", "A"], [answer] * 2, [OPTIONS] * 2) == [1.0, 0.0]
    assert answer_floor([{"answer": answer, "options": OPTIONS}], "choice")[""]["letter"] == "B"
