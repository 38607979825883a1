"All sixteen public benchmarks from files of the official shape to the table, with the tiny policy; traps of general questions and long video."
import json
import shutil
from dataclasses import replace

import pytest

from videossr.backends import LocalBackend, Reply
from videossr.benchmarks import BENCHMARKS, benchmarks_table, evaluate_benchmarks, load_benchmark, make_example, published_scores
from videossr.benchmarks.core import Item, write_rows
from videossr.benchmarks.tables import ask_benchmark, public_budget
from videossr.policy import tiny_policy
from videossr.records import read_records

DIALS = {"frames": (4,), "max_pixels": 64 * 64, "limit": 4, "name": "tiny", "progress": False}


class Answers:
    "A model that says what it is told to, and counts what it is asked."

    def __init__(self, say):
        self.say, self.asked = say, 0

    def answers(self, samples):
        for number, sample in enumerate(samples):
            self.asked += 1
            yield number, Reply(self.say(sample))


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    for name in BENCHMARKS:
        make_example(name, folder / name)
    return folder


@pytest.fixture(scope="module")
def found(examples, tmp_path_factory):
    backend = LocalBackend(tiny_policy(0), max_new_tokens=8)
    return evaluate_benchmarks(backend, "all", examples, tmp_path_factory.mktemp("run"), **DIALS)


def test_all_sixteen_run_end_to_end(found):
    assert list(found) == list(BENCHMARKS) == list(published_scores()["VideoSSR-8B"])
    for name, line in found.items():
        one = line["frames"]["4"]
        assert one["items"] > 0 and not one["faults"], name
        assert {"paper", "official"} <= set(one["scores"]), name
        for kinds in one["scores"].values():
            assert set(kinds) == {"all", "videos present", "parsed"}
            assert all(0 <= value <= 100 for kind in kinds.values() for key, value in kind.items() if key != "n" and value is not None)
    lines = benchmarks_table(found).splitlines()
    assert len(lines) == 18 and all("| paper" not in line for line in lines[2:])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_truth_scores_100_and_is_asked_once(name, examples, tmp_path):
    questions = load_benchmark(name, examples / name)
    golds = {str(item.id): item for item in questions}

    def truth(sample):
        item = golds[sample.recipe["item"]]
        if isinstance(item.answer, int):
            return item.gold if item.gold in item.labels else item.labels[item.answer]
        if isinstance(item.answer[0], int):
            return f"Correct order: {item.gold.replace(',', ', ')}"
        return item.gold.split("; ")[0]

    model = Answers(truth)
    options = {"name": "oracle", "budget": public_budget(4, 64 * 64), "progress": False}
    scores = ask_benchmark(model, questions, tmp_path, **options)
    for scorer in ("paper", "official"):
        first = next(value for key, value in scores["scores"][scorer]["all"].items() if key != "n")
        assert first == pytest.approx(100), scorer
    assert model.asked == len(questions)
    records = read_records(next((tmp_path / "records").iterdir()))
    assert len({record.id for record in records}) == len(questions), "rows that are equal in everything are questions of their own"
    again = Answers(truth)
    assert ask_benchmark(again, questions, tmp_path, **options) == scores and not again.asked


@pytest.mark.parametrize("name", BENCHMARKS)
def test_silence_and_nonsense_score_0(name, examples, tmp_path):
    questions = load_benchmark(name, examples / name)
    for text in ("", "\U0001f600", "%%%\n" * 200):
        for kind, scorer in BENCHMARKS[name].scorers.items():
            verdicts = [scorer.verdict(text, item) for item in questions]
            assert all(not verdict for verdict in verdicts), (kind, text[:10])


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_files_and_videos_are_told(name, examples, tmp_path):
    with pytest.raises(FileNotFoundError, match="is to be had from"):
        load_benchmark(name, tmp_path)
    copy = shutil.copytree(examples / name, tmp_path / name)
    videos = [path for path in copy.rglob("*") if path.suffix in (".mp4", ".avi", ".webm", ".mkv")]
    for path in videos:
        path.unlink()
    questions = load_benchmark(name, copy)
    assert len(questions.missing) == len(questions.paths)
    model = LocalBackend(tiny_policy(0), max_new_tokens=4)
    scores = ask_benchmark(model, questions.first(2), tmp_path / "run", name="x", budget=public_budget(4, 64 * 64), progress=False)
    assert scores["faults"] == {"video": scores["items"]}
    assert all(value == 0 for key, value in scores["scores"]["paper"]["all"].items() if key != "n")
    assert scores["scores"]["paper"]["videos present"]["n"] == 0


def test_a_killed_run_asks_only_the_rest(examples, tmp_path):
    questions = load_benchmark("videomme", examples / "videomme")

    class Dies(Answers):
        def answers(self, samples):
            for number, reply in super().answers(samples):
                if self.asked > 4:
                    raise KeyboardInterrupt
                yield number, reply

    options = {"name": "x", "budget": public_budget(4), "progress": False}
    with pytest.raises(KeyboardInterrupt):
        ask_benchmark(Dies(lambda sample: "A"), questions, tmp_path, **options)
    rest = Answers(lambda sample: "A")
    ask_benchmark(rest, questions, tmp_path, **options)
    assert rest.asked == len(questions) - 4


def test_paths_stay_below_the_folder(tmp_path):
    make_example("videomme", tmp_path)
    names = ["../../secret", "/etc/passwd", "C:\\secret", "a/../../b"]
    rows = [{"question_id": name, "videoID": name, "question": "What?", "options": ["A. x", "B. y"], "answer": "A"} for name in [*names, "fine"]]
    write_rows(tmp_path / "videomme" / "test-00000-of-00001.parquet", rows)
    questions = load_benchmark("videomme", tmp_path)
    assert [item.id for item in questions] == ["fine"] and len(questions.notes) == 4


def test_counts_of_a_full_file_are_checked(tmp_path):
    make_example("mvbench", tmp_path)
    tasks = BENCHMARKS["mvbench"].facts({"videos": "whole"})["groups"]["task"]
    for task in tasks:
        row = {"video": "a.mp4", "question": "What?", "candidates": ["x", "y"], "answer": "x"}
        write_rows(tmp_path / "json" / f"{task}.json", [{**row, "question": f"What {number}?"} for number in range(200)])
    differences = load_benchmark("mvbench", tmp_path).differences()
    assert "options 4: 0, not 2376" in differences and "answers A: 4000, not 1189" in differences
    assert not [line for line in differences if line.startswith("task")]


LETTER = Item("1", ("a.mp4",), "What?", 2, ("a cup", "a kite", "a boat", "a tree"), tuple("ABCD"))
TABLE = {  # benchmark -> reply -> (paper, official)
    "mvbench": {"C": (1, 1), "(C)": (0, 1), "c": (0, 1), "The answer is C": (0, 0), "C. a boat": (1, 1), "D": (0, 0), " C": (0, None)},
    "aotbench": {"C": (1, 1), "(C)": (0, 0), "The answer is C": (0, 0), "": (None, None)},
    "vinoground": {"C": (1, 1), "c.": (0, 1), "The answer is C": (0, 0), "(C)": (0, 0)},
    "videomme": {"C": (1, 1), "(C)": (0, 1), "The answer is C": (0, 1), "The best answer is: C": (0, 1), "c": (0, None), "A boat, so C": (0, 0)},
    "lvbench": {"C": (1, 1), "(C)": (0, 1), "(C) a boat": (0, 1), "c": (0, 1), "D)": (0, 0)},
    "longvideobench": {"C": (1, 1), "Answer: C": (0, 1), "none of them": (0, None), "E": (0, 0)},
    "cgbench": {"C": (1, 1), '```json\n{"result": "C"}\n```': (0, 1), "B or C": (0, 1), "B": (0, 0), '```json\n{"result": "D"}\n``` C': (0, 0)},
}


@pytest.mark.parametrize(("name", "reply"), [(name, reply) for name, rows in TABLE.items() for reply in rows])
def test_verdicts(name, reply):
    scorers = BENCHMARKS[name].scorers
    assert tuple(scorers[kind].verdict(reply, LETTER) for kind in ("paper", "official")) == TABLE[name][reply]


@pytest.mark.parametrize(
    ("kind", "reply", "verdict"),
    [("multi-choice", "C", 1), ("multi-choice", "C) a boat", 1), ("multi-choice", "The answer is C", None), ("multi-choice", "c", None), ("multi-choice", "D.", 0)],
)
def test_tempcompass(kind, reply, verdict):
    item = replace(LETTER, groups={"kind": (kind,), "dimension": ("order",)}, inline=True)
    assert BENCHMARKS["tempcompass"].scorers["official"].verdict(reply, item) == verdict


def test_results_are_json(found):
    assert json.loads(json.dumps(found, allow_nan=False)) == found
