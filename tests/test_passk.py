"""Pass@k: values by hand, resuming, refusals, many answers that are not asked twice."""

import json

import numpy as np
import pandas as pd
import pytest
from videossr import passk
from videossr.demo import demo_videos
from videossr.passk import ask_often, draw_pass, guess_chances, pass_at_k, pass_curve
from videossr.policy import tiny_policy
from videossr.tasks import make_sample

SHORT = {"n": 5, "max_new_tokens": 3, "at_once": 2, "batch_size": 2, "progress": False}


@pytest.fixture(scope="module")
def policy():
    return tiny_policy(0)


@pytest.fixture(scope="module")
def samples():
    return [make_sample("jigsaw", video, difficulty="demo", index=k) for video in demo_videos(3, progress=False) for k in range(2)]


@pytest.fixture
def calls(monkeypatch):
    "How many rows each call of the sampler was asked for."
    found, sample = [], passk.sample_answers

    def counted(policy, batch, n, **how):
        found.append(len(batch["input_ids"]) * n)
        return sample(policy, batch, n, **how)

    monkeypatch.setattr(passk, "sample_answers", counted)
    return found


def made_up(right, n=4):
    return pd.DataFrame({"id": [*map(str, range(len(right)))], "video": [f"v{k}" for k in range(len(right))], "rewards": [[1.0] * c + [0.6] * (n - c) for c in right]})


@pytest.mark.parametrize(("n", "right", "k", "value"), [(4, 1, 1, 1 / 4), (4, 1, 2, 1 / 2), (4, 2, 2, 5 / 6), (5, 2, 3, 9 / 10), (4, 0, 4, 0), (4, 1, 4, 1), (10, 3, 2, 8 / 15)])
def test_values_by_hand(n, right, k, value):
    assert pass_at_k(n, right, k) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(("n", "right", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5), (0, 0, 1)])
def test_numbers_that_cannot_be(n, right, k):
    with pytest.raises(ValueError, match="right should be"):
        pass_at_k(n, right, k)


def test_the_curve_by_hand():
    table = pass_curve(made_up([1, 0, 2]), made_up([2, 0, 2]), [0.5, 0.0, 0.25])
    assert [*table.index] == [1, 2, 4]
    assert [*table["base"]] == pytest.approx([(1 / 4 + 2 / 4) / 3, (1 / 2 + 5 / 6) / 3, 2 / 3])
    assert [*table["gain"]] == pytest.approx([1 / 12, (5 / 6 - 1 / 2) / 3, 0])
    assert [*table["guess"]] == pytest.approx([0.25, (0.75 + 1 - 0.75**2) / 3, (1 - 0.5**4 + 1 - 0.75**4) / 3])
    assert (table["base low"] <= table["base"]).all() and (table["base"] <= table["base high"]).all()
    assert [*pass_curve(made_up([1, 0, 2]), made_up([2, 0, 2]), [0] * 3, least=0.6)["gain"]] == [0, 0, 0]
    assert len(draw_pass({"jigsaw": table}).axes) == 1


def test_many_questions_on_one_video_do_not_narrow_the_interval():
    def width(copies):
        tables = [pd.concat([made_up(right)] * copies) for right in ([0, 1, 2, 4, 1, 3], [1, 3, 2, 4, 2, 4])]
        line = pass_curve(*tables, [0] * 6 * copies).loc[1]
        return line["gain high"] - line["gain low"]

    assert width(8) == pytest.approx(width(1), rel=1e-6)


def test_curves_of_other_questions_are_refused():
    one = made_up([1, 2])
    for base, trained, chances in [(one, one.iloc[::-1], [0, 0]), (one, one, [0]), (one.iloc[:0], one.iloc[:0], [])]:
        with pytest.raises(ValueError, match="the same questions"):
            pass_curve(base, trained, chances)


def test_a_guesser_draws_from_other_videos(samples):
    for one, chance in zip(samples, guess_chances(samples), strict=True):
        assert chance == np.mean([other.answer == one.answer for other in samples if other.video != one.video])
    assert guess_chances(samples[:2]) == [0, 0]  # one video alone


def test_what_is_known_is_not_asked_again(policy, samples, tmp_path, calls):
    path = tmp_path / "deep" / "base.jsonl"
    table = ask_often(policy, samples[:2], path, **SHORT)
    assert calls == [4, 4, 2]  # 5 answers to 2 questions, 2 at a time
    assert ask_often(policy, samples[:2], path, **SHORT).equals(table) and len(calls) == 3
    more = ask_often(policy, [*samples[:4], samples[0]], path, **SHORT)
    assert sum(calls) == 4 * 5 and len(path.read_text().splitlines()) == 4
    assert more.iloc[:2].equals(table) and more.iloc[4]["rewards"] == more.iloc[0]["rewards"]


def test_a_cut_line_resumes_and_neighbours_change_nothing(policy, samples, tmp_path):
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    whole = ask_often(policy, samples, one, **SHORT)
    text = one.read_text()
    one.write_text(text[: len(text) * 2 // 3])
    assert ask_often(policy, samples, one, **SHORT).equals(whole) and one.read_text() == text
    alone = ask_often(policy, samples[::-1], other, **{**SHORT, "batch_size": 5})
    assert [*alone["rewards"]] == [*whole["rewards"]][::-1]


@pytest.mark.parametrize("other", [{"n": 6}, {"temperature": 0.5}, {"max_new_tokens": 4}, {"seed": 1}, {"at_once": 5}, {"parse": "lenient"}, {"generation": {"top_p": 0.9}}])
def test_lines_of_another_making_are_refused_and_kept(policy, samples, tmp_path, calls, other):
    path = tmp_path / "base.jsonl"
    ask_often(policy, samples[:1], path, **SHORT)
    kept, asked = path.read_text(), len(calls)
    with pytest.raises(ValueError, match=rf"base.jsonl, line 1 was made otherwise \({next(iter(other))} "):
        ask_often(policy, samples, path, **{**SHORT, **other})
    assert path.read_text() == kept and len(calls) == asked


def test_other_weights_and_foreign_lines_are_refused(policy, samples, tmp_path):
    path = tmp_path / "base.jsonl"
    ask_often(policy, samples[:1], path, **SHORT)
    with pytest.raises(ValueError, match="was made otherwise .model"):
        ask_often(tiny_policy(1), samples, path, **SHORT)
    path.write_text(json.dumps({"id": "x", "rewards": [1.0]}) + "\n")
    with pytest.raises(ValueError, match="line 1 was made otherwise"):
        ask_often(policy, samples, path, **SHORT)


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"n": 0}, {"at_once": 0}, {"batch_size": 0}])
def test_settings_without_chance_are_refused(policy, samples, tmp_path, wrong):
    with pytest.raises(ValueError, match="give a temperature above 0"):
        ask_often(policy, samples, tmp_path / "x.jsonl", **{**SHORT, **wrong})


def test_generation_settings_are_honoured(policy, samples, tmp_path):
    "With top_k of 1 all answers of a question are alike."
    table = ask_often(policy, samples[:2], tmp_path / "x.jsonl", **SHORT, generation={"top_k": 1})
    assert all(len(set(rewards)) == 1 for rewards in table["rewards"])
    with pytest.raises(ValueError, match="top_q"):
        ask_often(policy, samples[:2], tmp_path / "y.jsonl", **SHORT, generation={"top_q": 1})
