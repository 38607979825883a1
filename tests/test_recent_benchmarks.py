"What papers on video RL report beside the paper's sixteen: verdicts and scores by hand, official rows that are odd, and the functions of lmms-eval where that is installed."

import ast
import importlib.util
import itertools

import pytest
from test_benchmark_scorers import write

from videossr.backends import Budget
from videossr.benchmarks import BENCHMARKS, benchmark_names, draw_benchmarks, load_benchmark, make_example, recent, stricter
from videossr.benchmarks.core import Item, Scorer, benchmark_card, blind_scores

NAMES = ["vsibench", "mmvu", "video_holmes", "mlvu", "timelens", "videomme_v2", "tomato", "tvbench"]
NUMBER = Item("1", ("a.mp4",), "How many?", 4.0)
FOUR = Item("2", ("a.mp4",), "What?", 1, ("a cup", "a kite", "a boat", "a tree"), tuple("ABCD"))
SIX = Item("3", ("a.mp4",), "Who?", 2, ("he", "she", "they", "it", "no one", "all"), tuple("ABCDEF"))
EIGHT = Item("4", ("a.mp4",), "Where?", 6, tuple(f"place {k}" for k in range(8)), tuple("ABCDEFGH"))
WORDS = Item("5", ("a.mp4",), "Which shot?", "Dolly Zoom")
MOMENT = Item("6", ("a.mp4",), "a kite rises", ((20.0, 30.0),), groups={"source": ("charades",)})


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    root = tmp_path_factory.mktemp("examples")
    return {name: make_example(name, root / name) for name in NAMES}


def test_they_follow_the_papers_sixteen():
    assert list(BENCHMARKS)[16:] == NAMES and benchmark_names("paper") == list(BENCHMARKS)[:16]
    assert [BENCHMARKS[name].title for name in NAMES] == ["VSI-Bench", "MMVU", "Video-Holmes", "MLVU", "TimeLens-Bench", "Video-MME-v2", "TOMATO", "TVBench"]
    assert benchmark_names("PAPER,tomato") == [*benchmark_names("paper"), "tomato"]


@pytest.mark.parametrize("name", NAMES)
def test_example_loads_and_asks(name, examples):
    questions = load_benchmark(name, examples[name])
    assert not questions.missing and not questions.notes
    assert list(questions.benchmark.scorers) == ["paper", "official", "lenient", *["lmms-eval"] * (name == "tvbench")]
    for prompt in questions.benchmark.prompts:
        samples = questions.samples(Budget(8), prompt)
        assert len({sample.question for sample in samples}) > 1
        for item, sample in zip(questions, samples, strict=True):
            assert item.question in sample.question and all(option in sample.question for option in item.options)
    assert 0 <= blind_scores(questions)["best"] <= 100
    assert all(note in benchmark_card(questions) for note in questions.benchmark.notes)
    for setting, values in questions.benchmark.settings.items():
        assert all(len(load_benchmark(name, examples[name], **{setting: value})) for value in values)


VERDICTS = [
    ("vsibench", NUMBER, "4", {"paper": 1, "official": 1, "lenient": 1}),
    ("vsibench", NUMBER, "4.4", {"paper": 0.9, "official": 0.9, "lenient": 0.9}),  # 10 % off: the level 0.9 still passes
    ("vsibench", NUMBER, "3.", {"official": 0.6}),  # 25 % off: 0.5 to 0.75
    ("vsibench", NUMBER, "2 metres", {"official": 0.1}),  # 50 % off: 0.5 alone
    ("vsibench", NUMBER, "9", {"official": 0, "lenient": 0}),
    ("vsibench", NUMBER, "-4", {"official": 0}),
    ("vsibench", NUMBER, "four", {"paper": None, "official": None, "lenient": 1}),
    ("vsibench", NUMBER, "1e999", {"official": None}),
    ("vsibench", FOUR, "B", {"paper": 1, "official": 1, "lenient": 1}),
    ("vsibench", FOUR, "b. a kite", {"paper": 0, "official": 1}),
    ("vsibench", FOUR, "(B)", {"paper": 0, "official": None, "lenient": 1}),
    ("mmvu", FOUR, "Therefore, the final answer is: B", {"paper": 0, "official": 1}),
    ("mmvu", FOUR, "A or B", {"paper": 0, "official": None}),
    ("mmvu", WORDS, "the dolly zoom.", {"paper": 1, "official": 1, "lenient": 1}),
    ("mmvu", WORDS, "Therefore, the final answer is: 'Answer: Dolly Zoom'", {"official": 1}),
    ("mmvu", WORDS, "zoom", {"paper": 0, "official": 0, "lenient": 0}),
    ("mmvu", WORDS, "", {"paper": None, "official": None}),
    ("video_holmes", SIX, "C", {"paper": 1, "official": 1, "lenient": 1}),
    ("video_holmes", SIX, "<think>A: he? B: she?</think><answer>C: they</answer>", {"paper": 0, "official": 1, "lenient": 1}),
    ("video_holmes", SIX, "<answer>A</answer> no, <answer>C</answer>", {"official": 1}),
    ("video_holmes", SIX, "(C) A man", {"official": 0}),  # "A " comes first in the alphabet
    ("video_holmes", SIX, "C. By all", {"official": 0}),  # no letter is marked, and B comes first
    ("video_holmes", SIX, "they", {"official": None, "lenient": 1}),
    ("mlvu", FOUR, "B", {"paper": 1, "official": 1, "lenient": 1}),
    ("mlvu", FOUR, "B) a kite", {"paper": 1, "official": 1, "lenient": 1}),
    ("mlvu", FOUR, "(B)", {"paper": 0, "official": 1, "lenient": 1}),
    ("mlvu", FOUR, "B. a kite", {"paper": 1, "official": None, "lenient": 1}),
    ("mlvu", FOUR, "(A) or (B)", {"official": 0, "lenient": None}),
    ("timelens", MOMENT, "The event happens in 20 - 30 seconds", {"paper": 1, "official": 1, "lenient": 1}),
    ("timelens", MOMENT, "20.4 - 29.6", {"paper": 0.92, "official": 1, "lenient": 0.92}),
    ("timelens", MOMENT, "20.5 - 29.5", {"official": 1}),  # halves to the even one
    ("timelens", MOMENT, "25 to 35", {"paper": None, "official": 1 / 3, "lenient": 1 / 3}),
    ("timelens", MOMENT, "30 - 20", {"paper": 1, "official": 0}),
    ("timelens", MOMENT, "0:20 until 0:30", {"official": 1}),
    ("timelens", MOMENT, "from 0:20", {"official": 0}),  # one clock time: its numbers are 0 and 20
    ("timelens", MOMENT, "at 20 seconds", {"official": None}),
    ("videomme_v2", EIGHT, "G", {"paper": 1, "official": 1, "lenient": 1}),
    ("videomme_v2", EIGHT, "Final Answer: G", {"paper": 0, "official": 1, "lenient": 1}),
    ("videomme_v2", EIGHT, "For place 6: G", {"paper": 0, "official": 0}),  # the F of "For"
    ("videomme_v2", EIGHT, "g", {"official": None}),
    ("tomato", SIX, " c ", {"paper": 0, "official": 1, "lenient": 1}),
    ("tomato", SIX, "Answer is(C)", {"official": 1}),
    ("tomato", SIX, "Answer is: C", {"official": None, "lenient": 1}),
    ("tomato", SIX, "C: they", {"paper": 1, "official": None, "lenient": 1}),
    ("tomato", SIX, "G", {"official": None}),
    ("tvbench", FOUR, "B", {"paper": 1, "official": 1, "lenient": 1, "lmms-eval": 1}),
    ("tvbench", FOUR, "b) a kite", {"paper": 0, "official": 1, "lmms-eval": 1}),
    ("tvbench", FOUR, "a kite", {"official": 0, "lenient": 1, "lmms-eval": 0}),  # its "a" is the letter A
    ("tvbench", FOUR, "Bananas", {"paper": 1, "official": 0, "lmms-eval": 1}),  # its first letter is B
    ("tvbench", FOUR, "", {"paper": None, "official": None, "lmms-eval": None}),
]


@pytest.mark.parametrize(("name", "item", "reply", "expected"), VERDICTS)
def test_verdicts(name, item, reply, expected):
    found = {scorer: BENCHMARKS[name].scorers[scorer].verdict(reply, item) for scorer in expected}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("said", "true", "share"), [(4, 4, 10), (5, 4, 6), (3, 4, 6), (4.5, 4, 8), (6, 4, 1), (6.01, 4, 0), (0, 4, 0), (-4, 4, 0)])
def test_relative_accuracy_counts_levels(said, true, share):
    "Off by e, an answer passes the levels up to 1 - e: of 0.5, 0.55, ... 0.95."
    assert recent.relative_accuracy(said, true) == pytest.approx(share / 10)


def test_vsibench_is_a_mean_of_tasks(examples):
    questions = load_benchmark("vsibench", examples["vsibench"])
    metric = next(iter(questions.benchmark.scorers["official"].metrics.values()))
    one = {"object_counting": 0.5, "object_rel_direction_easy": 1.0, "object_rel_direction_medium": 0.5}
    grades = [one.get(item.groups["type"][0], 0.0) for item in questions]
    assert metric(questions.items, grades) == pytest.approx((0.5 + (1.0 + 0.5 + 0) / 3) / 8)


GROUPS = {  # structure -> right answers -> score, each by the rule of the paper
    "": {"0000": 0, "0100": 1 / 16, "1001": 4 / 16, "1110": 9 / 16, "1111": 1},
    "[1, 2, 3, 4]": {"0111": 0, "1011": 1 / 16, "1101": 4 / 16, "1110": 9 / 16, "1111": 1},
    "[1, [2, 3], 4]": {"0111": 0, "1001": 1 / 12, "1010": 4 / 12, "1011": 4 / 12, "1101": 4 / 12, "1110": 7 / 12, "1111": 1},
    "[[1, 2], 3, 4]": {"0011": 0, "0111": 1 / 10, "1000": 1 / 10, "1101": 2 / 10, "1110": 5 / 10, "1111": 1},
}


@pytest.mark.parametrize(("structure", "right"), [(structure, right) for structure, rows in GROUPS.items() for right in rows])
def test_group_score(structure, right):
    assert stricter.group_score([sign == "1" for sign in right], structure) == pytest.approx(GROUPS[structure][right])


def test_more_right_answers_never_cost_a_group():
    for structure, right in itertools.product(GROUPS, itertools.product((False, True), repeat=4)):
        for place in range(4):
            better = [*right[:place], True, *right[place + 1 :]]
            assert stricter.group_score(better, structure) >= stricter.group_score(right, structure)


def test_a_group_stays_together(examples):
    questions = load_benchmark("videomme_v2", examples["videomme_v2"])
    metric = next(iter(questions.benchmark.scorers["official"].metrics.values()))
    one_wrong = [float(number % 4 != 1) for number in range(16)]  # the second of each four
    assert metric(questions.items, one_wrong) == pytest.approx((9 / 16 + 1 / 16 + 4 / 12 + 1 / 10) / 4)
    assert all(len(questions.first(n)) % 4 == 0 for n in range(1, 17))
    assert {item.groups["level"] for item in questions} == {("3",)}  # of the last question


def test_odd_groups_are_told(tmp_path):
    row = {"video_id": "1", "question_id": "1-1", "group_type": "relevance", "group_structure": None, "level": None, "question": "What?", "options": "A. x\nB. y", "answer": "B"}
    rows = [row, {**row, "video_id": "2", "group_type": "other"}, {**row, "video_id": "3", "group_type": "logic", "group_structure": "[1, [2, 3], 4]"}]
    questions = load_benchmark("videomme_v2", write(tmp_path, "test.jsonl", rows))
    assert [item.pair for item in questions] == ["1", "3"] and "level" not in questions[0].groups
    assert [note.kind for note in questions.notes] == ["known defect"] * 3 + ["bad row"]


def test_mmvu_asks_words_only_on_request(examples):
    kinds = {kind: [isinstance(item.answer, str) for item in load_benchmark("mmvu", examples["mmvu"], questions=kind)] for kind in ("multiple-choice", "open-ended", "all")}
    assert kinds == {"multiple-choice": [False] * 4, "open-ended": [True] * 2, "all": [False, True, False, False, True, False]}
    assert load_benchmark("mmvu", examples["mmvu"])[0].videos == ("Chemistry/0.mp4",)


def test_mlvu_reads_odd_rows_as_its_script_does(tmp_path, examples):
    row = {"video": "v.mp4", "duration": 9, "question": "Where?", "candidates": ["hall", "lounge", "hall"], "answer": "hall", "question_type": "plotQA"}
    questions = load_benchmark("mlvu", write(tmp_path, "1_plotQA.json", [row, {**row, "answer": "yard"}, {**row, "question": ""}]), task="plotQA")
    assert [item.gold for item in questions] == ["C"] and [note.kind for note in questions.notes] == ["bad row"] * 2
    with pytest.raises(ValueError, match="task is one of all, plotQA, .*, not 'summary'"):
        load_benchmark("mlvu", examples["mlvu"], task="summary")


def test_timelens_quotes_the_mean_of_its_sets():
    metrics = BENCHMARKS["timelens"].scorers["official"].metrics
    items = [Item(str(k), ("a.mp4",), "q", ((0.0, 1.0),), groups={"source": (name,)}) for k, name in enumerate(("charades", "charades", "charades", "activitynet"))]
    found = {name: metric(items, [1.0, 0.5, 0.3, 0.0]) for name, metric in metrics.items()}
    assert found == pytest.approx({"mIoU": 0.3, "R@0.3": 0.5, "R@0.5": 1 / 3, "R@0.7": 1 / 6})


@pytest.mark.parametrize("answer", ["", "AB", "G", "a", None])
def test_an_answer_is_one_letter(answer, tmp_path):
    "An empty one is none, and not the first."
    film = {"video ID": "v", "Question ID": 1, "Question Type": "SR", "Question": "Why?", "Options": dict.fromkeys("ABCDEF", "x"), "Answer": "F"}
    questions = load_benchmark("video_holmes", write(tmp_path, "test_Video-Holmes.json", [film, {**film, "Answer": answer}]))
    assert [item.gold for item in questions] == ["F"] and len(questions.notes) == 1
    lecture = {"id": "v1", "video": "x/videos/Art/0.mp4", "question_type": "multiple-choice", "question": "Why?", "choices": dict.fromkeys("ABCDE", "x"), "answer": "E"}
    questions = load_benchmark("mmvu", write(tmp_path, "validation.json", [lecture, {**lecture, "answer": answer}]))
    assert [item.gold for item in questions] == ["E"] and len(questions.notes) == 1


def test_vsibench_needs_a_number(tmp_path):
    row = {"id": 1, "dataset": "scannet", "scene_name": "s", "question_type": "object_counting", "question": "How many?", "ground_truth": "2", "options": None}
    questions = load_benchmark("vsibench", write(tmp_path, "test.jsonl", [row, *({**row, "ground_truth": text} for text in ("0", "-1", "nan", "inf", "two"))]))
    assert len(questions) == 1 and len(questions.notes) == 5


def test_they_are_drawn_below_the_papers_only_where_asked():
    scores = {"scores": {"paper": {"all": {"accuracy": 50.0, "n": 4}}}, "intervals": {"paper": {"low": 30.0, "high": 70.0}}}
    line = {"frames": {"32": scores}, "blind": {"best": 20.0}}
    shown = {name: [axes.get_title(loc="left") for axes in draw_benchmarks(found).axes if axes.axison] for name, found in (("none", {}), ("two", {"tomato": line, "mmvu": line}))}
    assert len(shown["none"]) == 16 and shown["two"] == [*shown["none"], "TOMATO", "MMVU"]


# ---------------------------------------------------------------------------------------------------- beside lmms-eval


@pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="pip install lmms-eval")
def test_readers_agree_with_lmms_eval():
    from test_lmms_eval import TIMES, peer, soups

    extract, overlap = peer("timelens/utils.py", "extract_time"), peer("timelens/utils.py", "iou")
    rounded = Scorer(stricter.timelens_range, stricter.ordered_tiou)
    for reply in soups(TIMES, 9):
        said = extract(reply)
        theirs = overlap([float(round(end)) for end in said[0]], MOMENT.answer[0]) if said else 0.0
        assert (rounded.verdict(reply, MOMENT) or 0.0) == pytest.approx(theirs), reply
    letters = peer("videomme_v2/utils.py", "extract_characters_regex")
    for reply in soups(["A", "G", "H", "I", "Final Answer: ", "Answer:", "The best answer is ", "\n", " a boat", ") "], 6):
        assert (stricter.read_v2(reply, EIGHT) or "") == letters(reply), reply
    relevance, logic = (peer("videomme_v2/utils.py", name) for name in ("cal_relevance", "cal_logic"))
    logic.__globals__["ast"] = ast  # which its file imports
    for structure, right in itertools.product(GROUPS, itertools.product((0, 1), repeat=4)):
        theirs = logic(right, structure) if structure else relevance(right)
        assert 100 * stricter.group_score(right, structure) == pytest.approx(theirs)
