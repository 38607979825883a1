"The trained tiny policy and what taught it: pretext questions, perturbations or clips among its lessons; weights that are not those of the card."

import json
import re
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from videossr.beyond import backwards, camera, patches  # noqa: F401, their tasks are among the pretext tasks
from videossr.checkpoints import shipped
from videossr.demo import paint_evening
from videossr.memory import Workload, memory_plan
from videossr.perception import EVENTS, KEYS, World, draw_marks, finish_lessons, many_clips, one_clip, place_marks
from videossr.policy import load_policy, tiny_policy
from videossr.pretrain import Course, blank_policy, gates
from videossr.tasks import TASKS
from videossr.tasks.grounding import PERTURBATIONS, ask
from videossr.viubench import BEYOND, VIUBENCH

ROOT = Path(__file__).resolve().parent.parent
FOLDER = shipped("tiny")


@pytest.fixture(scope="module")
def lessons():
    "A few hundred lessons, with all questions that they give."
    world, rng = World(1000, n_evenings=2, n_frames=16), np.random.default_rng(0)
    made = [one_clip(world, rng, int(rng.choice([2, 4, 8, 16]))) for _ in range(150)]
    made += [many_clips(world, rng, int(rng.choice([2, 3, 4]))) for _ in range(150)]
    finish_lessons(made, rng, most=99)
    return made


def words(text):
    return re.sub(r"[\d.,-]+", " ", text.lower()).split()


def sentences(text):
    "The sentences of a question, without numbers and without those about the form of the answer."
    return {" ".join(words(one)) for one in re.split(r"(?<=[.?!]) ", text) if not one.startswith("Answer")}


def test_no_pretext_question_is_asked(lessons):
    asked = {sentence for lesson in lessons for _, question, _ in lesson.asked for sentence in sentences(question)}
    assert {key for lesson in lessons for key, _, _ in lesson.asked} == set(KEYS), "some question was never made, so it was not looked at"
    theirs = {sentence for kind in PERTURBATIONS for sentence in sentences(ask(kind, decoys=2))}
    for folder in ("tasks", "beyond"):
        for path in (ROOT / "videossr" / folder).glob("*.py"):
            theirs |= {" ".join(words(text)) for text in re.findall(r'"([^"\n]{20,}[.?]) ?"', path.read_text(encoding="utf-8"))}
    assert len(theirs) > 40
    assert not asked & theirs


def test_no_perturbation_and_no_type_of_an_evaluation_is_an_event():
    names = set(EVENTS)
    types = {part for _, kind, _ in [*VIUBENCH.values(), *BEYOND.values()] for part in (kind, kind.replace("_", ""))}
    assert not names & (set(PERTURBATIONS) | types | set(TASKS))
    clauses = " ".join(entry.text for entry in PERTURBATIONS.values())
    assert not [name for name in names if re.search(rf"\b{name}\b", clauses)]


def test_no_demo_video_is_in_the_world():
    course = Course()
    assert course.world_seed >= 100, "seeds below are for demo videos"
    with pytest.raises(ValueError, match="small seeds"):
        World(7)
    ours = World(course.world_seed, n_evenings=2, n_frames=2).evenings.astype(int)
    for seed in range(3):
        theirs = paint_evening(np.random.default_rng([seed, 0]))[0, ::2, :: 160 // 64][:64, :64].astype(int)
        assert np.abs(ours[:, 0] - theirs).mean((1, 2, 3)).min() > 3


def test_labels_agree_with_marks():
    "Every mark that is counted covers its middle; nothing else is labelled as its kind."
    rng = np.random.default_rng(1)
    marks = place_marks(rng, np.full(200, 3), hard=1.0, others=0.4)
    labels = draw_marks(np.full((200, 64, 64, 3), 90, np.float32), marks, rng)
    for kind in range(3):
        has = np.zeros(200, bool)
        has[marks.frame[marks.kind == kind]] = True
        assert (((labels == kind + 1).sum((1, 2)) > 40) == has).all()


def test_answers_that_can_be_read_off_the_frames(lessons):
    "Events: outside of its span a frame is as it would be without; the stamps of start and end are of the first and last pair that has it."
    for lesson in lessons:
        for key, _, answer in lesson.asked:
            name, _, what = key.partition(" ")
            if name in EVENTS and what in ("start", "end", "when"):
                pairs = np.flatnonzero((lesson.event[0] == 1 + EVENTS.index(name)).reshape(-1, 2).any(1))
                start, end = lesson.stamps[pairs[0]], lesson.stamps[pairs[-1]]
                assert answer == {"start": start, "end": end, "when": f"{start}-{end}"}[what]


# ------------------------------------------------------------------------------------------------- what ships


def test_weights_are_light_and_declared():
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118, it is no dictionary
    if sys.version_info >= (3, 11):
        import tomllib

        patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["videossr"]
        inside = [path.relative_to(ROOT / "videossr").as_posix() for path in files]
        assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in inside)


def test_weights_load_by_name():
    load_policy("tiny")  # imports
    started = time.process_time()
    policy = load_policy("tiny", device="cpu")
    assert time.process_time() - started < 20, "a second on an idle machine"
    assert policy.model.dtype == torch.float32
    other = tiny_policy(0)
    assert policy.tokenizer.get_vocab() == other.tokenizer.get_vocab()
    assert policy.processor.chat_template == other.processor.chat_template


def test_a_folder_of_that_name_is_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_policy(3).save("tiny")
    assert load_policy("tiny", device="cpu").n_parameters == tiny_policy(3).n_parameters != load_policy("tiny-trained", device="cpu").n_parameters


def test_card_says_what_made_the_weights():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    policy = load_policy("tiny", device="cpu")
    assert f"{policy.n_parameters:,} weights" in card
    for part in ("Licence", "painted frames alone", "No footage", "seed", "minutes of one", "Chance", "What it cannot do"):
        assert part in card, part
    course = Course(**json.loads(re.search(r"Course\*\*: `(.+)`", card).group(1)))
    assert f"[{course.world_seed}, 0]" in card


def test_trained_weights_see():
    "Better than the most frequent answer, and than random weights, where the card says so."
    rows = {(row["what"], row["frames"]): row for row in gates(load_policy("tiny", device="cpu"), n=24)}
    blank = {(row["what"], row["frames"]): row for row in gates(blank_policy(), n=4)}
    for place in (("count a kind, plain", 2), ("count a kind, plain", 16), ("event start", 4), ("event start", 16), ("event end", 8), ("event which", 4), ("shapes which, plain", 4)):
        assert rows[place]["right"] > rows[place]["chance"] + 0.25, place
        assert blank[place]["right"] < rows[place]["right"], place


def test_a_run_of_it_can_be_planned():
    "Its tower merges four by four patches: a token is 16 of them."
    policy = load_policy("tiny", device="cpu")
    work = Workload(prompt_tokens=200, patches=16 * 32, answer_tokens=8, groups=2, groups_at_once=2, beta=0.2, bf16=False, on_cpu=True)
    assert memory_plan(policy, work).total > 4 * policy.n_parameters
