"Our readers of replies against the functions of the scripts that they follow, where those are installed (`pip install lmms-eval`); nothing of it is imported but the functions themselves."
import ast
import importlib.util
import random
import re
from pathlib import Path

import numpy as np
import pytest

from videossr.benchmarks.core import Item
from videossr.benchmarks.general import read_tempcompass
from videossr.benchmarks.grounding import charades_range, lmms_range
from videossr.benchmarks.reasoning import read_mmmu

PEER = importlib.util.find_spec("lmms_eval")
pytestmark = pytest.mark.skipif(PEER is None, reason="pip install lmms-eval")


def peer(file, name):
    "One function of an installed file, without the rest of it."
    path = Path(PEER.submodule_search_locations[0]) / "tasks" / file
    if not path.exists():
        pytest.skip(f"this lmms-eval has no {file}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if any(isinstance(node, ast.ImportFrom) for node in ast.walk(found)):
        pytest.skip(f"{name} of this lmms-eval is another rule than that of the benchmark's own evaluation")
    scope = {"re": re, "np": np}
    exec(compile(ast.Module([found], []), str(path), "exec"), scope)
    return scope[name]


def replies(pieces, most, n=5000):
    "Soups of what replies are made of; each is drawn anew on every machine in the same way."
    rng = random.Random(11)
    return ["".join(rng.choice(pieces) for _ in range(rng.randint(1, most))).strip() for _ in range(n)]


def check(made, ours, theirs, least):
    "Verdict by verdict; so many of them are readable at least, or the soup is too thin to tell."
    pairs = [(reply, ours(reply), theirs(reply)) for reply in made]
    assert not [pair for pair in pairs if pair[1] != pair[2]][:5]
    assert sum(pair[2] is not None for pair in pairs) > least * len(pairs)


TIMES = ["The event happens in the ", "starts at ", "ends at ", " - ", "\u2013", " to ", "s", " seconds", " and ", "\n", ". ", "! ", "24.3", "30", "7", "0:24", "00:01:05", "between ", "End: ", "start time: ", "Tomorrow ", "1.2.3", "A specific example is : 20.8 - 30.0 seconds"]


def test_charades_sta():
    extract = peer("charades_sta/eval_tvg.py", "extract_time")
    item = Item("1", ("a.mp4",), "a kite rises", ((24.3, 30.4),))
    newer = extract("It happens in 3 \u2013 4") != []  # since lmms-eval 0.6

    def theirs(reply):
        try:
            return next(([float(one) for one in pair] for pair in extract(reply)), None)
        except ValueError:  # of "1..2", which lmms-eval counts as 0
            return None

    check(replies(TIMES, 9), lambda reply: (lmms_range if newer else charades_range)(reply, item), theirs, 0.02)


SENTENCES = ("The sun goes left.", "The sun goes right.", "No (real) sun")
MARKS = ["A", "B", "C", ".", ") ", ")", "(", "Caption ", "Option ", ": ", *SENTENCES, "The sun goes right", " ", "1", "the ", "D", "b", "**"]


@pytest.mark.parametrize("answer", range(3))
def test_tempcompass_captions(answer):
    rule, labels = peer("tempcompass/utils.py", "eval_rule"), ("Caption A", "Caption B", "Caption C")
    lines = [f"{label}: {sentence}" for label, sentence in zip(labels, SENTENCES, strict=True)]
    item = Item("1", ("a.mp4",), "\n".join(["Which fits?", *lines]), answer, SENTENCES, labels, True, groups={"kind": ("caption_matching",)})

    def ours(reply):
        said = read_tempcompass(reply, item)
        return None if said is None else int(said == labels[answer])

    def theirs(reply):
        rating = rule(reply, item.question, lines[answer])
        return None if rating == "fail" else rating

    check(replies(MARKS, 4), ours, theirs, 0.05)


LETTERS = ["A", "B", "C", "D", "A.", "B:", "(C)", "D)", "**", "a blue sky", " red fox ", "Green", "9", " ", "the answer is ", " option ", "\n", ",", "!", "'", "USA ", "I think that it is "]


def test_video_mmmu():
    parse, labels, options = peer("videommmu/utils.py", "parse_multi_choice_response"), tuple("ABCD"), ("red fox", "a blue sky", "9", "Green")
    item = Item("1", ("a.mp4",), "What?", 0, options, labels)
    nothing = ("No Answer Found.", "API Error")
    check(replies(LETTERS, 7), lambda reply: read_mmmu(reply, item), lambda reply: None if (said := parse(reply, list(labels), dict(zip(labels, options, strict=True)))) in nothing else said, 0.3)
