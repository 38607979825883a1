"""Every reader of replies against a corpus whose meaning is known by how it was made (`reply_corpus.py`): how much is read, and that nothing is made up.
`python tests/test_replies.py` prints the table of verdicts."""
from functools import cache

import pytest
from oracle import oracle_counts, oracle_interval, oracle_order
from reply_corpus import CONTEXTS, KINDS, OPTIONS, OWN, reply_corpus

from videossr.answers import read_number, read_option
from videossr.benchmarks import grounding, reasoning
from videossr.benchmarks.core import Item, Scorer, first_character, first_range, read_choice
from videossr.rewards import parse_counts, parse_interval, parse_order

CHOICE = Item("1", ("a.mp4",), "Which?", 0, OPTIONS, tuple("ABCD"))
ORDER = Item("2", ("a.mp4",), "Make Tea", (1, 2, 3, 4, 5, 6))


def scored(read, item=CHOICE, meaning=lambda said: said):
    "A benchmark's reader, as its scorer calls it."

    def said(reply):
        found = Scorer(read).said(reply, item)
        return None if found is None else meaning(found)

    return said


READERS = {  # kind of reply and reader -> what it makes of a text
    ("interval", "paper"): parse_interval, ("interval", "lenient"): lambda text: parse_interval(text, parse="lenient"),
    ("moment", "paper"): scored(first_range, meaning=tuple), ("moment", "lenient"): scored(grounding.one_range, meaning=tuple),
    ("counts", "paper"): parse_counts, ("counts", "lenient"): lambda text: parse_counts(text, parse="lenient"),
    ("order", "paper"): parse_order, ("order", "lenient"): lambda text: parse_order(text, parse="lenient"),
    ("order", "benchmark"): scored(reasoning.one_order, ORDER, lambda said: "".join(map(str, said))),
    ("choice", "paper"): scored(first_character), ("choice", "lenient"): lambda text: read_option(text, OPTIONS), ("choice", "benchmark"): scored(read_choice),
    ("number", "lenient"): read_number,
}  # fmt: skip
LENIENT = [key for key in READERS if key[1] != "paper"]
# Left unread, each for a reason: which of two answers a correction means cannot be marked by a word; "1 min 4 s" is a time in two units, and "1. Clip 3" a list in a list;
# of words before a letter, or of scales, a reward for training reads none.
UNREAD = {
    "interval": {"correction", "minutes in words"}, "moment": {"correction", "minutes in words"}, "counts": {"correction"}, "order": {"correction", "numbered lines"},
    "choice": {"correction", "hedge", "one of two", "explained"}, "number": {"correction", "scale"},
}  # fmt: skip
LEAST = {"interval": 0.85, "moment": 0.85, "counts": 0.9, "order": 0.75, "choice": 0.85, "number": 0.85}  # shares of the answers that are read


@cache
def corpus(seed=0):
    return reply_corpus(2000, seed)


@cache
def verdicts(kind, reader, seed=0):
    "Each reply of a kind with what is read."
    return [(reply, READERS[kind, reader](reply.text)) for reply in corpus(seed) if reply.kind == kind]


def wrong(kind, reader, seed=0):
    "Replies that something is read out of that they do not mean."
    return [(reply, said) for reply, said in verdicts(kind, reader, seed) if said is not None and said != reply.meaning]


def test_the_corpus_is_the_same_each_time_and_meets_every_form_and_context():
    replies = corpus()
    assert len(replies) == 2000 == len({(reply.kind, reply.text) for reply in replies}) and replies == reply_corpus(2000, 0)
    assert {reply.text for reply in corpus(1)} != {reply.text for reply in replies}
    for kind, forms in KINDS.items():
        mine = [reply for reply in replies if reply.kind == kind]
        assert {reply.form for reply in mine if reply.form} == {*forms} and {reply.context for reply in mine} >= {*CONTEXTS, *OWN[kind]}
        assert 0.2 < sum(reply.meaning is None for reply in mine) / len(mine) < 0.5


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("kind", "reader"), LENIENT)
def test_nothing_is_made_up(kind, reader, seed):
    assert [(reply.context, reply.text, said) for reply, said in wrong(kind, reader, seed)] == []


@pytest.mark.parametrize(("kind", "reader"), LENIENT)
def test_answers_are_read_but_for_named_classes(kind, reader):
    missed = [reply for reply, said in verdicts(kind, reader) if said is None and reply.meaning is not None]
    assert {(reply.context, reply.form, reply.text) for reply in missed if not {reply.context, reply.form} & UNREAD[kind]} == set()
    answers = sum(reply.meaning is not None for reply, _ in verdicts(kind, reader))
    assert 1 - len(missed) / answers >= LEAST[kind]


# What the paper's own rules make of replies that mean something else or nothing, of 2,000: pinned, classes and all, since the rules are the paper's.
PAPER_WRONG = {
    "interval": (0, set()), "order": (0, set()),
    # three runs of digits, wherever they stand and whatever is said of them; shapes in another order
    "counts": (87, {"tag", "negation", "marked negation", "question", "taken back", "refusal", "bounds", "no counts", "example", "truncated"}),
    # the first two numbers with a hyphen between, in any order and unit
    "moment": (29, {"several", "refusal", "markdown", "negation", "whole video", "other units", "no interval", "marked correction", "marked negation", "several marked", "bare", "correction", "taken back", "example",
                    "marked among several", "question"}),
    "choice": (318, {*CONTEXTS, *OWN["choice"]}),  # the first character of anything is an answer
}  # fmt: skip


@pytest.mark.parametrize("kind", PAPER_WRONG)
def test_the_papers_rules_stay_what_they_are(kind):
    made_up = wrong(kind, "paper")
    assert (len(made_up), {reply.context for reply, _ in made_up}) == PAPER_WRONG[kind]


@pytest.mark.parametrize("seed", [0, 1])
def test_paper_parsing_is_the_papers_on_every_kind_of_reply(seed):
    for reply in corpus(seed):
        assert (parse_interval(reply.text), parse_counts(reply.text), parse_order(reply.text)) == (oracle_interval(reply.text), oracle_counts(reply.text, 3), oracle_order(reply.text, 6)), reply.text


NAMED = {  # the forms that people have sent, and what they mean
    "<24.3 seconds> - <30.4 seconds>": (24.3, 30.4), "from 4 seconds until about 9": (4, 9), "from 4 seconds until about 9 seconds": (4, 9), "２４．３－３０．４": (24.3, 30.4), "00:24 - 00:30": (24, 30), r"\boxed{24.3-30.4}": (24.3, 30.4),
    "<0.0 seconds> - <2.0 seconds> shows nothing. The answer is <4.0 seconds> - <9.0 seconds>": (4, 9), "1-2 or 4-9? Final answer: 4-9": (4, 9), "Final answer: <4.0 seconds> - <9.0 seconds>": (4, 9),
    "not 4-9": None, "4-9, no, wait: 5-10": None, "4-9 or 5-10": None, "<4 s>, <9 s>": None, "at <4 s> and at <9 s>": None, "-<4 s> - <9 s>": None, "4:05 until about 9": None, "about 4 to about 9 minutes": None, "from about 4 until the end": None,
    r"\boxed{4-9} is wrong": None, r"\boxed{4-9} or 5-10": None, "<answer>4-9</answer>? No.": None, "<answer>4-9</answer>\nNo, 5-10.": None, r"I doubt it is \boxed{4-9}": None, "For example, <answer>4-9</answer>": None, r"e.g. \boxed{4-9}": None,
    r"If the answer were \boxed{4-9}": None, "I cannot give a final answer: 4-9 is a guess": None, "Final answer: <start> - <end>, e.g. 4-9": None, "Final answer: 4-9\n\nI was wrong with 1-2": None, "1-2. Wait, no. Final answer: 4-9": (4, 9),
}  # fmt: skip


@pytest.mark.parametrize("reply", NAMED)
def test_forms_by_hand(reply):
    assert parse_interval(reply, parse="lenient") == NAMED[reply] and (parse_interval(reply) is None)
    assert grounding.one_range(reply, CHOICE) == (NAMED[reply] and list(NAMED[reply]))


LETTERS = {
    "Ｂ": "BB", "（Ｂ）": "BB", r"\boxed{B}": "BB", r"\boxed{\text{B}}": "BB", r"$\boxed{(B)}$": "BB", "**Answer**: B": "BB", "Answer：Ｂ": "BB", "A or B? Final answer: B": "BB", "the answer is a cup": "AA", "I'd go with B.": "-B", "B\n\nExplanation: option A shows a cup.": "BB",
    "B and D": "--", "The answer: B and D": "--", "Final answer: B or C": "--", r"Not \boxed{B} but \boxed{C}": "--", r"\boxed{B} is wrong": "--", "It is not B.": "--", "The options are A. a cup, B. a kite": "--", "B?": "--", "All options are wrong except B": "--", "none": "--",
}  # fmt: skip


@pytest.mark.parametrize("reply", LETTERS)
def test_options_by_hand(reply):
    "As the reward for training and as the benchmarks' tolerant scorer read them."
    assert "".join(letter or "-" for letter in (read_option(reply, OPTIONS), Scorer(read_choice).said(reply, CHOICE))) == LETTERS[reply]


if __name__ == "__main__":
    print(f"{'kind':9} {'reader':10} {'answers':>8} {'read':>6} {'share':>6} {'none':>6} {'wrong':>6}")
    for kind, reader in READERS:
        found = verdicts(kind, reader)
        right, answers = sum(said is not None and said == reply.meaning for reply, said in found), sum(reply.meaning is not None for reply, _ in found)
        print(f"{kind:9} {reader:10} {answers:8} {right:6} {right / answers:6.3f} {len(found) - answers:6} {len(wrong(kind, reader)):6}")
