"""Replies of models that think: what stands in a thought never scores before the thought has ended, whatever reads the reply:
every pretext task under lenient parsing, every scorer of every benchmark."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import videossr.beyond  # noqa: F401 (registers its tasks)
from videossr.backends import Budget
from videossr.benchmarks import BENCHMARKS, grounding, load_benchmark, make_example, reasoning
from videossr.benchmarks.core import Graded, Item, read_choice
from videossr.records import LONGEST, make_record, rescore
from videossr.rewards import REWARDS, RewardError, answer_of, make_reward, parse_reply, reward_for, score_reply
from videossr.tasks import TASKS, Sample
from videossr.viewers.core import read_replies

TRUE = {"grounding": "14.5-26.2", "counting": "3,1,4", "jigsaw": "341562", "backwards": "2", "camera": "left 20", "patches": "2,6", "segments": "2.0-4.5, 12.5-17.0", "motion": "left", "pairs": "left,right"}
UNCLOSED = [
    "<think>\n{a}", "<Think>{a}", "<THINK>\n{a}", "<thinking>{a}", "< think >{a}", "<think>\n<answer>{a}</answer>", "<think>\nThe answer is {a}.",
    "<think>x</think>{a}<think>{a}", "<think>x</think><think>{a}", "<thinking>x</thinking>\n<Thinking>\n{a}",
    "<think>{a}\n\n{a}</thin", "<think>{a}</answer>",
]  # fmt: skip
CLOSED = [
    "<think>\nx</think>\n\n{a}", "<Think>x</Think>{a}", "<thinking>\n7 or 9</thinking>\n{a}", "<think>\n<think>\nx</think>\n\n{a}",
    "x 1-2</think>\n\n{a}", "<think>x</think>y<think>z</think>{a}", "<think></think>{a}", "< think>x</ THINKING >{a}",
]  # fmt: skip


def cuts(reply):
    "The reply, cut off at each place behind its opening tag and before the end of its last closing one."
    return [reply[:end] for end in range(reply.index(">") + 1, reply.rindex("</think>") + len("</think>"))]


# ------------------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize("form", UNCLOSED)
def test_an_unclosed_thought_has_no_answer(form):
    assert answer_of(form.format(a="B")) is None


@pytest.mark.parametrize("form", CLOSED)
def test_the_answer_follows_the_last_closing_tag(form):
    assert answer_of(form.format(a="B\nor C ")) == "B\nor C "


PIECES = ["<think>", "</think>", "<Thinking>", "</thinking>", "<", "<thin", "</think", "B", " ", "\n", "3"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_rule_on_soup(text):
    small = text.lower()
    behind = max(small.rfind(tag) + len(tag) if tag in small else 0 for tag in ("</think>", "</thinking>"))
    answer = answer_of(text)
    assert answer == (None if "<think" in small[behind:] else text[behind:].lstrip() if behind else text)
    assert answer is None or answer_of(answer) == answer


# --------------------------------------------------------------------------------------------------------- pretext tasks


def test_all_pretext_tasks_are_here():
    assert {*TRUE} == {name for name, task in TASKS.items() if type(task).__module__.startswith("videossr.")}


def sample_of(task):
    return Sample(task, "", "a.mp4", {}, "What?", TRUE[task])


@pytest.mark.parametrize("task", TRUE)
@pytest.mark.parametrize("form", UNCLOSED)
def test_a_right_answer_in_an_unclosed_thought_scores_0(task, form):
    reply = form.format(a=TRUE[task])
    assert parse_reply(task, reply, TRUE[task], parse="lenient") is None
    assert [score_reply(task, reply, TRUE[task], strict=strict, parse="lenient") for strict in (False, True)] == [0, 0]
    assert make_reward(parse="lenient")([reply], task=[task], answer=[TRUE[task]]) == [0]
    assert REWARDS[task](reply, TRUE[task], parse="lenient") == 0


@pytest.mark.parametrize("task", TRUE)
@pytest.mark.parametrize("form", CLOSED)
def test_a_right_answer_after_a_thought_scores_1(task, form):
    reply = form.format(a=TRUE[task])
    assert [score_reply(task, reply, TRUE[task], strict=strict, parse="lenient") for strict in (False, True)] == [1, 1]
    assert parse_reply(task, reply, TRUE[task], parse="lenient") == parse_reply(task, TRUE[task], TRUE[task])
    (row,) = read_replies(sample_of(task), reply, "lenient")
    assert (row["reward"], row["value"]) == (1, parse_reply(task, TRUE[task], TRUE[task])), "what viewers show"


WORDS = ["{a}", "{a}.", "The answer is {a}.", "<answer>{a}</answer>", "\n\n", "so", "<think>", "\\boxed{{{a}}}", "wait", "7"]


@pytest.mark.parametrize("task", TRUE)
@settings(max_examples=20, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=6))
def test_a_reply_cut_off_in_its_thought_never_scores(task, words):
    reply = "<think>\n" + " ".join(words).format(a=TRUE[task]) + f"</think>\n\n{TRUE[task]}"
    assert score_reply(task, reply, TRUE[task], parse="lenient") == 1
    for cut in cuts(reply):
        assert score_reply(task, cut, TRUE[task], parse="lenient") == 0 and parse_reply(task, cut, TRUE[task], parse="lenient") is None


@pytest.mark.parametrize("task", TRUE)
def test_records_of_long_thoughts(task):
    long = "hm, 7 or 9? " * LONGEST
    forms = {f"<think>{long}</think>\n\n{{a}}": 1, f"<thinking>{long}</Thinking>{{a}}": 1}
    forms |= {f"<think>{long}{{a}}": 0, f"<think>{long}</think><think>{{a}}": 0}
    for form, score in forms.items():
        record = make_record(sample_of(task), form.format(a=TRUE[task]), name="x", parse="lenient")
        assert (record.smooth, record.strict, record.parsed) == (score, score, bool(score))
        assert rescore(rescore([record], "paper"), "lenient") == [record]


@pytest.fixture
def brevity():
    "A task without a parser, whose reward likes short replies."
    reward_for("brevity")(lambda text, answer, *, strict=False, parse="paper": check(answer) and 1 / (1 + len(text)))
    yield "brevity"
    del REWARDS["brevity"]


def check(answer):
    if not answer:
        raise ValueError("no true answer")
    return True


def test_tasks_to_come_need_not_know_of_thoughts(brevity):
    assert score_reply(brevity, "<think>long</think>\n\nB", "B", parse="lenient") == 1 / 2
    assert score_reply(brevity, "<think>B", "B", parse="lenient") == 0 and parse_reply(brevity, "<think>B", "B", parse="lenient") is None
    assert parse_reply(brevity, "<think>long</think>\n\nB", "B", parse="lenient") == "B"
    with pytest.raises(RewardError, match="no true answer"):
        score_reply(brevity, "<think>B", "", parse="lenient")


@pytest.mark.parametrize("task", TRUE)
def test_paper_parsing_knows_no_thoughts(task):
    "It reproduces scripts that do not, oddities included."
    reply = f"<think>\n{TRUE[task]}"
    assert score_reply(task, reply, TRUE[task]) == (task == "counting"), "three runs of digits, wherever they stand"
    assert score_reply(task, f"<think></think>{TRUE[task]}", TRUE[task]) == (task == "counting")


# ------------------------------------------------------------------------------------------------------------ benchmarks


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    root = tmp_path_factory.mktemp("thoughts")
    return {name: load_benchmark(name, make_example(name, root / name)) for name in BENCHMARKS}


def truths(item):
    "The right answer in a few words."
    if isinstance(item.answer, int):
        label, words = item.labels[item.answer], [item.options[item.answer]] if item.options else []
        return [label, f"({label})", f"The answer is {label}", f"<answer>{label}</answer>", f'```json\n{{"result": "{label}"}}\n```', *words]
    if isinstance(item.answer, float | str):
        return [item.gold, f"The answer is {item.gold}", f"<answer>{item.gold}</answer>"]
    if isinstance(item.answer[0], int):
        return ["Correct order: " + ", ".join(map(str, item.answer)), " -> ".join(map(str, item.answer))]
    start, end = item.answer[0]
    return [f"{start} - {end}", f"from {start} s to {end} s", f"Start: {start}, end: {end}"]


def test_all_are_here():
    assert len(BENCHMARKS) == 24


def ours(name):
    "All scorers but the one that reads thoughts because lmms-eval does."
    return [scorer for key, scorer in BENCHMARKS[name].scorers.items() if key != "lmms-eval"]


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("form", UNCLOSED)
def test_no_scorer_reads_an_unclosed_thought(name, form, questions):
    for item, sample in zip(questions[name], questions[name].samples(Budget(8)), strict=True):
        for text in truths(item):
            reply = form.replace("{a}", text)
            assert {scorer.verdict(reply, item) for scorer in ours(name)} == {None}, reply
            assert Graded(questions[name])(sample, reply) == {"parsed": False, "said": None, "smooth": 0, "strict": 0}


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("form", CLOSED)
def test_the_tolerant_scorer_reads_what_follows_a_thought(name, form, questions):
    scorers = BENCHMARKS[name].scorers
    tolerant = scorers["lenient"]
    assert [item.id for item in questions[name] if tolerant.verdict(form.replace("{a}", truths(item)[0]), item) != 1] == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_scorer_reads_a_reply_cut_off_in_its_thought(name, questions):
    for item in questions[name]:
        thought = "\n".join(["So.", *truths(item), "It must be"])
        for cut in cuts(f"<think>\n{thought}\n</think>\n\n{truths(item)[0]}"):
            assert {scorer.verdict(cut, item) for scorer in ours(name)} == {None}, cut


def test_readers_alone_hold_to_it_too():
    letters = Item("1", ("a.mp4",), "Which?", 1, ("red", "blue"), ("A", "B"))
    for read, item, text in (
        (read_choice, letters, "B"),
        (grounding.charades_range, Item("2", ("a.mp4",), "it turns", ((2.0, 4.0),)), "it happens in 2 - 4"),
        (reasoning.one_order, Item("3", ("a.mp4",), "Make Tea", (2, 1, 3)), "2, 1, 3"),
    ):
        assert read(text, item) is not None
        assert [read(form.replace("{a}", text), item) for form in CLOSED] == [read(text, item)] * len(CLOSED)
        assert [read(form.replace("{a}", text), item) for form in UNCLOSED] == [None] * len(UNCLOSED)
