"Grounding and reasoning benchmarks: readers on made-up files, and every scorer on replies that are easy to misread."

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videossr.backends import Budget
from videossr.benchmarks import grounding, reasoning
from videossr.benchmarks.core import BENCHMARKS, Item, benchmark_card, blind_scores, load_benchmark, make_example

NAMES = ["qvhighlights", "activitynet", "charades_sta", "tacos", "video_mmmu", "video_tt", "vcrbench", "cvbench"]
TITLES = ["QVHighlights", "ActivityNet", "CharadesSTA", "TACoS", "VideoMMMU", "Video-TT", "VCRBench", "CVBench"]


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    root = tmp_path_factory.mktemp("examples")
    return {name: make_example(name, root / name) for name in NAMES}


def write(folder, name, rows):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return folder


def verdict(name, scorer, reply, item):
    return BENCHMARKS[name].scorers[scorer].verdict(reply, item)


# ------------------------------------------------------------------------------------------------------------ all eight


@pytest.mark.parametrize("name", NAMES)
def test_example_loads_and_asks(name, examples):
    questions = load_benchmark(name, examples[name])
    assert not questions.missing and not [note for note in questions.notes if note.kind == "bad row"]
    assert questions.benchmark.title == TITLES[NAMES.index(name)] and list(questions.benchmark.scorers)[:2] == ["paper", "official"]
    assert "items" in questions.differences()[0]
    for prompt in questions.benchmark.prompts:
        samples = questions.samples(Budget(8), prompt)
        assert len({sample.question for sample in samples}) > 1
        assert all(item.question in sample.question for item, sample in zip(questions, samples, strict=True))
    assert 0 <= blind_scores(questions)["best"] <= 100
    assert all(note in benchmark_card(questions) for note in questions.benchmark.notes)


@pytest.mark.parametrize("name", NAMES)
def test_each_setting_loads_and_has_facts(name, examples):
    bench = BENCHMARKS[name]
    for setting, values in bench.settings.items():
        for value in values:
            questions = load_benchmark(name, examples[name], **{setting: value})
            assert questions.settings[setting] == value and bench.facts(questions.settings)["items"] >= 280
        with pytest.raises(ValueError, match=f"{setting} is one of"):
            load_benchmark(name, examples[name], **{setting: "none of these"})


@pytest.mark.parametrize("name", NAMES)
def test_missing_file_says_where_to_get_it(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="is to be had from"):
        load_benchmark(name, tmp_path)


FACTS = [
    ("qvhighlights", {"windows": "best"}, 1550),
    ("qvhighlights", {"windows": "single"}, 1550 - 530),
    ("qvhighlights", {"windows": "each"}, 2803),
    ("activitynet", {"file": "val_1"}, 17505),
    ("activitynet", {"file": "val_2"}, 17031),
    ("charades_sta", {}, 3720),
    ("tacos", {"split": "test"}, 4001),
    ("tacos", {"split": "val"}, 4436),
    *[("video_mmmu", {"size": size, "track": "all"}, int(size)) for size in ("879", "880", "882")],
    ("video_mmmu", {"size": "879", "track": "adaptation"}, 279),
    ("video_mmmu", {"size": "879", "track": "perception"}, 300),
    ("video_tt", {}, 1000),
    ("vcrbench", {}, 365),
    ("cvbench", {}, 1000),
]


@pytest.mark.parametrize(("name", "settings", "items"), FACTS)
def test_facts(name, settings, items):
    facts = BENCHMARKS[name].facts(settings)
    assert facts["items"] == items
    assert all(sum(counts.values()) == items for counts in facts.get("groups", {}).values())
    assert sum(facts.get("answers", {"": items}).values()) == items


# ------------------------------------------------------------------------------------------------------------ grounding

MOMENT = Item("1", ("a.mp4",), "a kite rises", ((24.3, 30.4),))

INTERVALS = [  # reply, what the paper reads, what the official script reads, what lmms-eval 0.7.3 reads
    ("The event happens in the 24.3 - 30.4 seonds.", [24.3, 30.4], [24.3, 30.4], [24.3, 30.4]),
    ("30.4-24.3", [24.3, 30.4], [24.3, 30.4], [24.3, 30.4]),
    ("24.3 to 30.4", None, [24.3, 30.4], [24.3, 30.4]),
    ("It happens from 24.3 to 30.4 s", None, [24.3, 30.4], [24.3, 30.4]),
    ("It happens from 24.3s to 30.4s", None, None, [24.3, 30.4]),
    ("It happens from 24.3 seconds to 30.4 seconds", None, None, None),  # no number beside a dash, and one line
    ("It happens at 24.3 \u2013 30.4", None, None, [24.3, 30.4]),
    ("It happens at 24.3 \u2014 30.4", None, None, None),
    ("It happens between 24.3 and 30.4 seconds", None, None, None),
    ("It starts at 24.3 seconds and ends at 30.4 seconds.", None, None, None),
    ("Start: 24.3\nEnd: 30.4", None, [24.3, 30.4], [24.3, 30.4]),
    ("Start: 24.3 or 25.1\nEnd: 30.4 or 31", None, [24.3, 30.4], [24.3, 30.4]),  # the first number of each line
    ("It starts at 00:24\nand ends at 00:30", None, [0, 0], [24, 30]),
    ("It happens at 00:24 - 00:30", [0, 24], [0, 24], [24, 30]),  # 24 - 00, and mm:ss
    ("From 0:24 until 00:00:30", None, None, [24, 30]),
    ("Tomorrow it happens in 2to4", None, [2, 4], [2, 4]),
    ("At 1 - 2 nothing is seen!\nIt happens in 24.3 - 30.4", [1, 2], [1, 2], [24.3, 30.4]),
    ("<think>It happens at 1 - 2.</think>It happens at 24.3 - 30.4", [1, 2], [24.3, 30.4], [1, 2]),  # the rule alone does not cut a thought out
    ("It happens at 1..5 - 3", None, None, [3, 5]),  # no number; and 5 - 3
    ("It happens at 24.3 seconds.", None, None, None),
    ("", None, None, None),
]


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.parametrize(("reply", "paper", "official", "lmms"), INTERVALS)
def test_intervals(name, reply, paper, official, lmms):
    scorers = BENCHMARKS[name].scorers
    assert name != "charades_sta" or scorers["lmms-eval"].read(reply, MOMENT) == lmms
    assert reply.startswith("It happens at 1..") or scorers["paper"].read(reply, MOMENT) == paper
    assert scorers["official"].read(reply, MOMENT) == official


def test_tiou_is_with_the_best_window_and_map_counts_the_others():
    item = Item("1", ("a.mp4",), "it turns", ((0.0, 10.0), (20.0, 60.0)))
    grade = verdict("qvhighlights", "official", "It happens in 20 - 50", item)
    assert grade == pytest.approx(0.75)
    metrics = BENCHMARKS["qvhighlights"].scorers["official"].metrics
    assert metrics["mAP"]([item], [grade]) == pytest.approx(6 / 10 / 2)  # 0.5 to 0.75
    assert (metrics["mAP@0.5"]([item], [grade]), metrics["R@0.7"]([item], [grade]), metrics["mIoU"]([item], [grade])) == (0.5, 1, 0.75)


@pytest.mark.parametrize(
    ("windows", "classes"),
    [([(0, 10)], ("short",)), ([(0, 12)], ("middle",)), ([(0, 30)], ("middle",)), ([(0, 32)], ("long",)), ([(0, 2), (8, 48)], ("short", "long"))],
)
def test_lengths(windows, classes):
    assert grounding.lengths_of(windows) == classes


def test_qvhighlights_windows(examples):
    loaded = {which: load_benchmark("qvhighlights", examples["qvhighlights"], windows=which) for which in ("best", "first", "single", "each")}
    assert [[len(item.answer) for item in questions] for questions in loaded.values()] == [[1, 2, 3], [1, 1, 1], [1], [1] * 6]
    assert len({item.id for item in loaded["each"]}) == 6
    assert loaded["best"][2].videos == ("toyB_0.0_150.0.mp4",) and loaded["best"][2].duration == 140


def test_bad_moments_are_noted(tmp_path):
    good = {"duration": 8.0, "timestamps": [[0, 4], [5, 3]], "sentences": ["a", "b"]}
    data = {"v_1": good, "v_2": {**good, "sentences": ["a"]}, "v_3": "gone", "v_4": {"timestamps": [[0, 1]], "sentences": ["a"]}}
    questions = load_benchmark("activitynet", write(tmp_path, "val_1.json", data))
    assert [item.id for item in questions] == ["v_1/0"]
    assert [note.where for note in questions.notes] == [f"val_1.json, row {number}" for number in (1, 2, 3, 4, 5)]
    assert "v_2 has 2 timestamps and 1 sentences" in questions.notes[1].detail and "duration" in questions.notes[4].detail


def test_activitynet_cuts_ends_and_blanks(examples):
    first, second, _ = load_benchmark("activitynet", examples["activitynet"])
    assert (first.answer, first.duration, second.question) == (((0.5, 8.0),), 8.0, "It moves to the right.")


CHARADES = {
    "charades_sta_test.txt": "TOY 1.0 2.5##it ## turns.\n",
    "charades_test.json": {"TOY": {"duration": 5.0, "timestamps": [[1.0, 2.5]], "sentences": ["it ## turns."]}},
    "data/test-00000-of-00001.parquet": [{"video": "TOY.mp4", "caption": "it ## turns.", "timestamp": [1.0, 2.5]}],
}


@pytest.mark.parametrize("name", CHARADES)
def test_charades_in_three_shapes(name, tmp_path):
    (item,) = load_benchmark("charades_sta", write(tmp_path, name, CHARADES[name]))
    assert (item.id, item.videos, item.question, item.answer) == ("TOY/0", ("TOY.mp4",), "it ## turns.", ((1.0, 2.5),))


@pytest.mark.parametrize("line", ["TOY 1.0##it turns.", "TOY 1.0 2.0 it turns.", "TOY 2.0 1.0##it turns.", "TOY a b##it turns.", ""])
def test_charades_bad_line(line, tmp_path):
    questions = load_benchmark("charades_sta", write(tmp_path, "charades_sta_test.txt", f"TOY 1.0 2.0##it turns.\n{line}\nTOY 1 3##it falls.\n"))
    assert len(questions) == 2 and [note.where for note in questions.notes] == ["charades_sta_test.txt, row 1"]


def test_tacos_converts_frames_and_keeps_twins(tmp_path):
    entry = {"timestamps": [[147, 294]] * 2, "sentences": ["She cut it"] * 2, "fps": 29.4, "num_frames": 588}
    questions = load_benchmark("tacos", write(tmp_path, "test.json", {"s1.avi": entry, "s2.avi": {**entry, "fps": 0}}))
    assert [item.answer for item in questions] == [((5.0, 10.0),)] * 2 and questions[0].duration == pytest.approx(20)
    assert sorted(note.kind for note in questions.notes) == ["bad row", "bad row", "duplicate"]


# ------------------------------------------------------------------------------------------------------------ reasoning

TEN = Item("1", ("a.mp4",), "Which?", 2, ("red", "blue", "dark green", "grey"), ("A", "B", "C", "D"))
FIVE = Item("2", ("a.mp4",), "Which?", 4, ("v", "w", "x", "y", "z"), tuple("ABCDE"))
WORDS = Item("3", ("a.mp4", "b.mp4"), "Both?", 1, ("Yes.", "No."), ("Yes", "No"))
ORDER = Item("4", ("a.mp4",), "Make Tea", (2, 1, 3))

VERDICTS = [
    ("video_mmmu", TEN, "C", {"paper": 1, "official": 1}),
    ("video_mmmu", TEN, " C", {"paper": 0, "official": 1}),
    ("video_mmmu", TEN, "c", {"paper": 0, "official": None}),
    ("video_mmmu", TEN, "The answer is (C).", {"paper": 0, "official": 1}),
    ("video_mmmu", TEN, "(A) is wrong, D too, so (C)", {"paper": 0, "official": 1}),
    ("video_mmmu", TEN, "C, although A", {"paper": 1, "official": 0}),  # the last letter counts
    ("video_mmmu", TEN, "What they show there is Dark Green paint", {"paper": 0, "official": 1}),
    ("video_mmmu", TEN, "dark green", {"paper": 0, "official": None}),  # too short for its words to count
    ("video_mmmu", TEN, "", {"paper": None, "official": None}),
    ("video_mmmu", TEN, "**C**", {"official": None, "lmms-eval": 1}),
    ("video_mmmu", TEN, "C, although A", {"lmms-eval": 1}),  # the first
    ("video_mmmu", TEN, "The answer is C, as A is wrong", {"lmms-eval": 0}),  # the last behind "the answer is"
    ("video_tt", FIVE, "Answer: E", {"official": 1, "lmms-eval": 0}),  # a lead-in that lmms-eval does not cut out
    ("video_tt", FIVE, "E", {"paper": 1, "official": 1}),
    ("video_tt", FIVE, "The best answer is E", {"paper": 0, "official": 1}),
    ("video_tt", FIVE, "As seen, E", {"paper": 0, "official": 0}),
    ("video_tt", FIVE, "", {"paper": None, "official": None}),
    ("vcrbench", ORDER, "Correct order: 2, 1, 3", {"paper": 1, "official": 1, "steps": 1, "lenient": 1}),
    ("vcrbench", ORDER, "**Correct order:** Clip 2, Clip 1, Clip 3", {"paper": 1, "steps": 1, "lenient": 1}),
    ("vcrbench", ORDER, "Clip 1, Clip 2, and Clip 3 show tea.\nCorrect order: 2, 1, 3", {"paper": 0, "official": 0, "steps": 1 / 3, "lenient": 1}),
    ("vcrbench", ORDER, "<think>1, 2, 3</think>\n2, 1, 3", {"paper": 0, "lenient": 1}),
    ("vcrbench", ORDER, "Clip 1, Clip 2, and Clip 3 show tea. <answer>2, 1, 3</answer>", {"official": 0, "lmms-eval": 1}),
    ("vcrbench", ORDER, "<think>2, 1, 3", {"official": None, "lmms-eval": 1}),  # a thought that never ends
    ("vcrbench", ORDER, "2 -> 1 -> 3", {"paper": None, "steps": None, "lenient": 1}),
    ("vcrbench", ORDER, "Clip 2 \u2192 Clip 1 \u2192 Clip 3", {"paper": None, "lenient": 1}),
    ("vcrbench", ORDER, "2 1 3", {"paper": None, "lenient": 1}),
    ("vcrbench", ORDER, "2, 1", {"paper": None, "steps": None, "lenient": None}),
    ("vcrbench", ORDER, "2, 1, 3, 4", {"paper": None, "lenient": None}),
    ("vcrbench", ORDER, "2, 2, 3", {"paper": None, "lenient": None}),
    ("vcrbench", ORDER, "3, 1, 2", {"paper": 0, "steps": 1 / 3}),
    ("cvbench", WORDS, "No", {"paper": 1, "official": 1, "tagged": 1, "lenient": 1}),
    ("cvbench", WORDS, "N", {"paper": 1, "official": None, "tagged": 0}),
    ("cvbench", WORDS, "no", {"paper": 0, "official": 1, "tagged": 0, "lenient": 1}),
    ("cvbench", WORDS, "Yes", {"paper": 0, "official": 0, "tagged": 0, "lenient": 0}),
    ("cvbench", TEN, "C", {"paper": 1, "official": 1, "tagged": 1, "lenient": 1}),
    ("cvbench", TEN, "c.", {"paper": 0, "official": 1, "tagged": 0}),
    ("cvbench", TEN, "Video 1 shows C", {"paper": 0, "official": 0}),  # the d of Video
    ("cvbench", TEN, "<think>A?</think> <answer>C</answer>", {"paper": 0, "official": 0, "tagged": 1, "lenient": 1}),  # A stands first
    ("cvbench", TEN, "", {"paper": None, "official": None, "tagged": 0}),
]


@pytest.mark.parametrize(("name", "item", "reply", "expected"), VERDICTS)
def test_verdicts(name, item, reply, expected):
    found = {scorer: verdict(name, scorer, reply, item) for scorer in expected}
    assert found == pytest.approx(expected)


def test_steps_are_pooled_over_clips():
    long = Item("5", ("a.mp4",), "Make Tea", (2, 1, 4, 3, 6, 5, 7))
    assert reasoning.pooled_steps([ORDER, long], [1.0, 0.0]) == pytest.approx(3 / 10)


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (["A. one", "B. two"], ("one", "two")),
        (["A. one", "B. two", "B. three"], ("A. one", "B. two", "B. three")),
        (["A. one, B. two"], ("A. one, B. two",)),
        (["(A) and (B)", "neither"], ("(A) and (B)", "neither")),
        (["C", "A", "B"], ("C", "A", "B")),
    ],
)
def test_plain_options(options, texts):
    assert reasoning.plain_options(options) == texts


def mmmu(folder, **row):
    full = {"id": "dev_Basic_Medical_Science_1", "question": "Which?", "options": ["C", "B", "A"], "answer": "C", "question_type": "multiple-choice", **row}
    return write(folder, "adaptation_video.json", {"Adaptation": {"0": {**full, "id": "dev_Math_9"}, "1": full}})


def test_mmmu_answer_is_a_place(tmp_path):
    item = load_benchmark("video_mmmu", mmmu(tmp_path), track="adaptation")[1]
    assert (item.gold, item.options[item.answer], item.videos) == ("C", "A", ("Medicine/dev_Basic_Medical_Science_1.mp4",))
    assert {key: value[0] for key, value in item.groups.items()} == {"track": "adaptation", "discipline": "Medicine", "subject": "Basic_Medical_Science"}


@pytest.mark.parametrize(
    ("row", "sizes"),
    [({"question_type": None}, "880 882"), ({"question_type": "open", "options": []}, "882"), ({"question_type": "open", "options": [], "answer": "['24/7', '3.4]"}, "")],
)
def test_mmmu_sizes(row, sizes, tmp_path):
    rows = {"Adaptation": {"0": {"id": "dev_Math_9", "question": "Which?", "options": ["x", "y", "z"], "answer": "C", "question_type": "multiple-choice"}}}
    rows["Adaptation"]["1"] = {**rows["Adaptation"]["0"], "id": "dev_Math_10", **row}
    write(tmp_path, "adaptation_video.json", rows)
    found = [size for size in ("879", "880", "882") if len(load_benchmark("video_mmmu", tmp_path, track="adaptation", size=size)) == 2]
    assert " ".join(found) == sizes


@pytest.mark.parametrize("row", [{"id": "dev_Magic_1"}, {"answer": "Z"}, {"answer": "['24/7', '3.4]"}, {"question": " "}, {"options": "['a', 'b"}])
def test_mmmu_bad_rows(row, tmp_path):
    good = {"id": "dev_Math_9", "question": "Which?", "options": ["x", "y", "z"], "answer": "C"}
    write(tmp_path, "perception_video.json", {"Perception": {"0": good, "1": {**good, **row}}})
    questions = load_benchmark("video_mmmu", tmp_path, track="perception")
    assert len(questions) == 1 and [note.where for note in questions.notes] == ["perception_video.json, row 1"]


def test_mmmu_prompts(examples):
    questions = load_benchmark("video_mmmu", examples["video_mmmu"])
    ask = questions.benchmark.prompts["official"]
    assert ask(questions[0]).endswith("L. shade 11\nPlease ignore the Quiz question in last frame of the video.")
    assert "A. the disc\nB. the square\n" in ask(questions[1])
    assert ask(questions[6]).startswith("You should watch and learn the video content.") and ask(questions[6]).endswith("A. C\nB. B\nC. A")


def test_video_tt_reads_json_and_skips_open_questions(tmp_path):
    rows = [
        {"video_id": "1", "question": "Which?\nA. x\nB. y", "answer": "B"},
        {"video_id": "1", "question": "Why?", "answer": "It rains.", "question_type": "Correctly-led Open-ended Question"},
        {"video_id": "1", "question": "Which?\nA. x\nB. y", "answer": "It rains."},
    ]
    questions = load_benchmark("video_tt", write(tmp_path, "test.json", rows))
    assert [item.gold for item in questions] == ["B"] and len(questions.notes) == 1
    assert questions[0].groups == {"capability": ("not stated",)}


@pytest.mark.parametrize("order", [[1, 2, 3], [0, 0, 1], [0, 2], []])
def test_vcrbench_bad_order(order, tmp_path):
    good = {"qid": "1", "goal": "Make Tea", "video_file": "video_1.mp4", "ground_truth": [1, 0, 2]}
    questions = load_benchmark("vcrbench", write(tmp_path, "data.json", [good, {**good, "qid": "2", "ground_truth": order}]))
    assert [item.answer for item in questions] == [(2, 1, 3)] and questions.notes[0].where == "data.json, row 1"


def test_vcrbench_reads_a_result_file(tmp_path):
    row = {"qid": "7", "question": reasoning.VCR_PROMPT.format(goal="Make Iced Tea"), "answer": [2, 3, 1], "video_file": "video_7.mp4", "pred": ""}
    (item,) = load_benchmark("vcrbench", write(tmp_path, "response_1.json", [row]))
    assert (item.question, item.answer, item.groups) == ("Make Iced Tea", (2, 3, 1), {"goal": ("Make Iced Tea",), "clips": ("3",)})
    assert BENCHMARKS["vcrbench"].prompts["paper"](item) == row["question"]


def test_cvbench_defects_stay_as_written(examples):
    questions = load_benchmark("cvbench", examples["cvbench"])
    assert {note.where: note.kind for note in questions.notes} == dict.fromkeys("345", "known defect")
    paper, official = questions.benchmark.prompts["paper"], questions.benchmark.prompts["official"]
    assert "B. Video 2.\nB. Both.\nB. None.\nAnswer with the option letter directly." in paper(questions[3])
    assert "\nA. Wind, B. Rain, C. Sun, D. Snow\n" in paper(questions[5])
    assert paper(questions[1]).endswith("Yes.\nNo.\nAnswer with Yes or No directly.")
    assert "YES or NO" in official(questions[1]) and "A, B, C, or D" in official(questions[2])  # "Yes. " with its blank
    assert len(questions.samples(Budget(8))[2].recipe["views"]) == 4


def test_cvbench_notes_repeated_questions_and_mends_slashes(tmp_path):
    row = {"id": 1, "task_type": "t", "video_1": "0\\a.mp4", "video_2": "0/b.mp4", "question": "Which?", "options": ["A. x", "B. y"], "answer": "A"}
    rows = [row, {**row, "id": 2, "answer": "B"}, {**row, "id": 3, "question": "Who?", "answer": "E"}]
    questions = load_benchmark("cvbench", write(tmp_path, "CVBench.json", rows))
    assert questions[0].videos == ("0/a.mp4", "0/b.mp4")
    assert [(note.kind, note.where) for note in questions.notes] == [("known defect", "2"), ("bad row", "CVBench.json, row 2")]
