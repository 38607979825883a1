"""Other shapes of the grounding and the counting reward: by hand, at their edges, by name, and what a blind player earns."""

import math
from types import SimpleNamespace

import pytest
from videossr.own_rewards import load_rewards
from videossr.reward_options import joint_counting, wasserstein, wasserstein_grounding
from videossr.rewards import blind_floor


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [((0, 4), (0, 4), 0), ((0, 4), (3, 7), 3), ((2, 4), (0, 6), 1), ((0, 4), (6, 6), 4), ((3, 3), (5, 5), 2), ((0, 4), (1, 3), 0.5), ((0, 3), (1, 2.5), 1.25 / 3)],
)
def test_distances_by_hand(first, second, distance):
    assert wasserstein(first, second) == pytest.approx(distance)
    assert wasserstein(second, first) == pytest.approx(distance)


@pytest.mark.parametrize(
    ("said", "reward"),
    [("2.0-4.0", 1), ("2-4", 1), ("3.0-5.0", 2 / 3), ("0.0-6.0", 1 - 1 / 6), ("4.0-6.0", 1 / 2), ("12.0-14.0", 1 / 6), ("3.0-3.0", 3 / 4), ("6.0-2.0", 0), ("2 to 4", 0), ("", 0)],
)
def test_grounding_by_hand(said, reward):
    assert wasserstein_grounding(said, "2.0-4.0") == pytest.approx(reward)
    assert wasserstein_grounding(said, "2.0-4.0", strict=True) == float(reward == 1)


def test_farther_is_always_less_and_never_outside():
    values = [wasserstein_grounding(f"{at:.1f}-{at + 2:.1f}", "2.0-4.0") for at in (2, 2.5, 3, 4, 5, 9, 90, 9000)]
    assert values == sorted(values, reverse=True) and len(set(values)) == len(values) and 0 < values[-1] < values[0] == 1
    assert wasserstein_grounding("3.0-3.0", "3.0-3.0") == 1 and wasserstein_grounding("5.0-5.0", "3.0-3.0") == 0
    assert wasserstein_grounding("1-" + "9" * 400, "2.0-4.0") == 0
    assert wasserstein_grounding("about 2 to 4 seconds", "2.0-4.0", parse="lenient") == 1


@pytest.mark.parametrize(("said", "reward"), [("3,2,1", 1), ("2,2,1", 2 / 3), ("2,1,1", 1 / 3), ("3,2,2", 0), ("3,2", 0), ("none", 0)])
def test_counting_by_hand(said, reward):
    assert joint_counting(said, "3,2,1") == pytest.approx(reward, abs=1e-6)
    assert joint_counting(said, "3,2,1", strict=True) == float(reward == 1)


def test_a_count_of_zero():
    assert joint_counting("0,2,1", "0,2,1") == 1 and joint_counting("1,2,1", "0,2,1") == 0


@pytest.mark.parametrize(("function", "answer", "match"), [(wasserstein_grounding, "soon", "no interval"), (joint_counting, "3;2", "no list of counts")])
def test_answers_that_are_none_are_refused(function, answer, match):
    with pytest.raises(ValueError, match=match):
        function("1", answer)


def test_by_name_each_task_by_its_own():
    rows = {"completions": ["4.0-6.0", "2,2,1", "132"], "task": ["grounding", "counting", "jigsaw"], "answer": ["2.0-4.0", "3,2,1", "123"], "sample": ["", "", ""]}
    functions, weights = load_rewards(", ".join(f"videossr.reward_options:{name}_reward" for name in ("wasserstein", "joint", "shaped")))
    got = [one(**rows) for one in functions]
    assert [one[0] for one in got] == pytest.approx([1 / 2, 0, 1 / 2]) and [one[1] for one in got] == pytest.approx([8 / 9, 2 / 3, 2 / 3])
    assert len({one[2] for one in got}) == 1 and weights == [1, 1, 1]


def test_floors_by_hand():
    samples = [SimpleNamespace(task="counting", answer=answer) for answer in ("2,2,2", "2,2,2", "1,2,2", "2,2,4")]
    floor = blind_floor(samples, rewards={"counting": joint_counting})["counting"]
    assert floor["answer"] == "2,2,2" and floor["constant"] == pytest.approx((1 + 1 + 0 + 1 / 2) / 4)
    assert blind_floor(samples)["counting"]["constant"] == pytest.approx((1 + 1 + 2 / 3 + 5 / 6) / 4)
    spans = [SimpleNamespace(task="grounding", answer=answer) for answer in ("2.0-4.0", "2.0-4.0", "4.0-6.0")]
    floor = blind_floor(spans, rewards={"grounding": wasserstein_grounding})["grounding"]
    assert floor["constant"] == pytest.approx((1 + 1 + 1 / 2) / 3) and floor["floor"] >= floor["prior"]
    assert math.isclose(floor["prior"], (1 + 1 / 2 + 1 + 1 / 2 + 1 / 2 + 1 / 2) / 6)
