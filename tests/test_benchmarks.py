"All public benchmarks from files of the official shape to the table, with the tiny policy; traps of general questions and long video."
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from videossr.backends import LocalBackend, Reply
from videossr.benchmarks import BENCHMARKS, benchmarks_table, evaluate_benchmarks, load_benchmark, make_example, published_scores
from videossr.benchmarks.core import Item, _clusters, _interval, begin_alike, blind_scores, mean_grade, score_benchmark, write_rows
from videossr.benchmarks.tables import ask_benchmark, public_budget
from videossr.policy import tiny_policy
from videossr.records import Record, few_note, read_records, sample_id

DIALS = {"frames": (4,), "max_pixels": 64 * 64, "limit": 4, "name": "tiny", "progress": False}


class Answers:
    "A model that says what it is told to, and counts what it is asked."

    def __init__(self, say):
        self.say, self.asked = say, 0

    def made(self):
        return {"model": "says what it is told"}

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


def test_all_run_end_to_end(found):
    assert list(found) == list(BENCHMARKS) and list(BENCHMARKS)[:16] == list(published_scores()["VideoSSR-8B"])
    for name, line in found.items():
        one = line["frames"]["4"]
        assert one["items"] > 0 and not one["faults"], name
        assert {"paper", "official"} <= set(one["scores"]), name
        for kinds in one["scores"].values():
            assert set(kinds) == {"all", "videos present", "parsed"}
            assert all(0 <= value <= 100 for kind in kinds.values() for key, value in kind.items() if key != "n" and value is not None)
    lines = benchmarks_table(found).splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + len(BENCHMARKS) and all("| paper" not in line for line in lines[2:])
    assert lines[-1] == few_note(line["frames"]["4"]["intervals"]["paper"]["videos"] for line in found.values()) != ""


@pytest.mark.parametrize("name", BENCHMARKS)
def test_truth_scores_100_and_is_asked_once(name, examples, tmp_path):
    questions = load_benchmark(name, examples / name)
    golds = {str(item.id): item for item in questions}

    def truth(sample):
        return truth_of(golds[sample.recipe["item"]])

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


# ------------------------------------------------------------------------------------------------------------ intervals


def many(questions, copies):
    "The items several times over, each time about other videos."
    return [
        replace(item, id=f"{item.id}-{k}", videos=tuple(f"{k}/{video}" for video in item.videos), pair=item.pair and f"{item.pair}-{k}")
        for k in range(copies) for item in questions
    ]  # fmt: skip


CASES = [(name, scorer, metric) for name, bench in BENCHMARKS.items() for scorer in bench.scorers for metric in bench.scorers[scorer].metrics]


@pytest.mark.parametrize(("name", "scorer", "metric"), CASES)
def test_an_interval_is_that_of_the_number_beside_it(name, scorer, metric, examples):
    "Of every metric: the interval's value is the metric itself, and lies within; where all videos say the same, leaving any out changes nothing."
    rng, own = np.random.default_rng(0), BENCHMARKS[name].scorers[scorer].metrics[metric]
    items = many(load_benchmark(name, examples / name), 4)
    for grades in (rng.random(len(items)), rng.integers(0, 2, len(items)).astype(float), np.zeros(len(items)), np.ones(len(items))):
        found = _interval(items, grades, own)
        assert found["mean"] == pytest.approx(100 * own(items, grades)) and found["n"] == len(items)
        assert 0 <= found["low"] <= found["mean"] <= found["high"] <= 100 and found["low"] < found["high"]
    alike = [replace(item, videos=(f"{k // (len(items) // 4)}.mp4",)) for k, item in enumerate(items)]  # four videos with the same questions
    grades = np.tile(rng.random(len(items) // 4), 4)
    found, unlike = _interval(alike, grades, own), 1 - 0.05 ** (1 / 4)
    assert found["videos"] == 4 and found["low"] == pytest.approx(100 * own(alike, grades) * (1 - unlike))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_printed_scores_and_intervals_agree(name, examples):
    "Through records and scorers, for replies that are right now and then."
    questions, rng = load_benchmark(name, examples / name), np.random.default_rng(3)
    samples = questions.samples(public_budget(4))
    replies = [reply if rng.random() < 0.6 else "nothing" for reply in (truth_of(item) for item in questions)]
    about = {"name": "m", "type": "", "parsed": True, "smooth": 0.0, "strict": 0.0, "parse": "paper", "seconds": 0.0}
    records = [Record(sample_id(sample), task=name, video=sample.video, answer="", reply=reply, **about) for sample, reply in zip(samples, replies, strict=True)]
    found = score_benchmark(questions, records)
    for scorer, line in found["intervals"].items():
        quoted = next(value for key, value in found["scores"][scorer]["all"].items() if key != "n")
        assert line["mean"] == pytest.approx(quoted) and line["low"] <= quoted <= line["high"], scorer


def test_clusters_are_what_shares_a_video_or_a_pair():
    items = [replace(LETTER, id=str(k), videos=videos, pair=pair) for k, (videos, pair) in enumerate([(("a",), ""), (("b",), "1"), (("c",), "1"), (("c", "d"), ""), (("d",), ""), (("1",), "")])]
    assert _clusters(items) == [0, 1, 1, 1, 1, 2]
    # a pair is never cut: half right in every pair, so no pair counts, whoever is left out
    vino = BENCHMARKS["vinoground"].scorers["paper"].metrics["score"]
    pairs = [replace(LETTER, id=f"{k}{side}", videos=(f"{k}{side}",), pair=str(k)) for k in range(6) for side in "ab"]
    assert _interval(pairs, [1.0, 0.0] * 6, vino)["mean"] == 0 and _interval(pairs, [1.0, 0.0] * 6, vino)["videos"] == 6
    assert _interval(pairs, [1.0, 0.0] * 6, mean_grade)["mean"] == 50


# ------------------------------------------------------------------------------------------------------- ids and limits


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_larger_limit_keeps_what_was_asked(name, examples, tmp_path):
    whole = load_benchmark(name, examples / name)
    ids = {sample.recipe["item"]: sample_id(sample) for sample in whole.samples(public_budget(4))}
    assert len(set(ids.values())) == len(whole)
    smaller: set[str] = set()
    for limit in range(1, len(whole) + 1):
        part = load_benchmark(name, examples / name, limit=limit)
        mine = {sample.recipe["item"]: sample_id(sample) for sample in part.samples(public_budget(4))}
        assert smaller <= set(mine) and mine.items() <= ids.items(), limit
        smaller = set(mine)
    options = {"name": "x", "budget": public_budget(4), "progress": False}
    first, second = (Answers(lambda sample: "A") for _ in range(2))
    part = whole.first(2)
    ask_benchmark(first, part, tmp_path, **options)
    assert ask_benchmark(second, whole, tmp_path, **options) and first.asked == len(part) and second.asked == len(whole) - len(part)


# ------------------------------------------------------------------------------------------------------ right and wrong


def truth_of(item):
    "The right answer, as the paper's scorer reads it."
    if isinstance(item.answer, int | float | str):
        return item.gold
    return f"Correct order: {item.gold.replace(',', ', ')}" if isinstance(item.answer[0], int) else item.gold.split("; ")[0]


@pytest.mark.parametrize("name", [name for name, bench in BENCHMARKS.items() if bench.domain != "Temporal grounding"])
def test_every_scorer_tells_right_from_wrong(name, examples):
    "With every choice of settings: the right label scores 1, every other one 0."
    bench = BENCHMARKS[name]
    for settings in [{}, *({key: value} for key, values in bench.settings.items() for value in values)]:
        try:
            questions = load_benchmark(name, examples / name, **settings)
        except FileNotFoundError:
            continue  # the example has the files of the default only
        for item in questions:
            for label in item.labels if isinstance(item.answer, int) else ():
                said = label[0].upper() + label[1:]  # the paper's rule goes by the case
                verdicts = {kind: scorer.verdict(said, item) or 0 for kind, scorer in bench.scorers.items() if kind in ("paper", "lenient")}
                assert set(verdicts.values()) == {float(label == item.labels[item.answer])}, (settings, item.id, label, verdicts)


def test_captions_that_begin_alike_are_told_apart(examples, tmp_path):
    "TempCompass: all right, all wrong and blind answers scored the same by the first character of \"Caption A\"."
    questions = load_benchmark("tempcompass", examples / "tempcompass", tasks="caption_matching")
    assert all(map(begin_alike, questions))
    golds = {item.id: item for item in questions}
    says = {"right": lambda item: item.gold, "wrong": lambda item: item.labels[1 - item.answer], "blind": lambda item: item.labels[0]}
    found = {}
    for name, say in says.items():
        model = Answers(lambda sample, say=say: say(golds[sample.recipe["item"]]))
        found[name] = ask_benchmark(model, questions, tmp_path / name, name=name, budget=public_budget(4), progress=False)
    scores = {name: one["scores"]["paper"]["all"]["accuracy"] for name, one in found.items()}
    assert scores["right"] == 100 and scores["wrong"] == 0 and 0 < scores["blind"] < 100
    assert 0 < blind_scores(questions)["best"] < 100 and found["right"]["begin_alike"] == len(questions)
    line = {"title": "TempCompass", "blind": blind_scores(questions), "frames": {"4": found["right"]}}
    table = benchmarks_table({"tempcompass": line})
    assert "| 100.0† |" in table and f"cannot tell the options apart: read by the official rule ({len(questions)} of {len(questions)} items of TempCompass)" in table
    for tasks, alike in (("multi-choice", 0), ("yes_no", 0), ("all", len(questions))):
        assert sum(map(begin_alike, load_benchmark("tempcompass", examples / "tempcompass", tasks=tasks))) == alike


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
    "mvbench": {"C": (1, 1), "(C)": (0, 1), "c": (0, 1), "The answer is C": (0, 0), "C. a boat": (1, 1), "D": (0, 0), " C": (0, 1)},
    "aotbench": {"C": (1, 1), "(C)": (0, 0), "The answer is C": (0, 0), "": (None, None)},
    "vinoground": {"C": (1, 1), "c.": (0, 1), "The answer is C": (0, 0), "(C)": (0, 0)},
    "videomme": {"C": (1, 1), "(C)": (0, 1), "The answer is C": (0, 1), "The best answer is: C": (0, 1), "c": (0, None), "A boat, so C": (0, 0)},
    "lvbench": {"C": (1, 1), "(C)": (0, 1), "(C) a boat": (0, 1), "c": (0, 0), "D)": (0, 0)},
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
