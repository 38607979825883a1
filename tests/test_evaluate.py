"Records on disk, intervals that hold what they promise, and results that add up."
import json
import math
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from hostile import ANSWERS as ANSWERS_OF_ALL
from hostile import hostile_replies

from videossr.benchmarks import make_example
from videossr.evaluate import (
    Record,
    by_clip,
    clustered_interval,
    compare,
    evaluate,
    make_record,
    peak_rss_gb,
    read_records,
    read_results,
    results,
    results_table,
    sample_id,
    score,
    write_results,
)
from videossr.records import (
    COVERAGE,
    FEW,
    Journal,
    _student,
    count_videos,
    denominators,
    few_mark,
    few_note,
    least_p,
    metric_interval,
    p_note,
    p_values,
    rescore,
    seed_interval,
    sign_flip,
    write_records,
)
from videossr.rewards import counting_reward, grounding_reward, jigsaw_reward
from videossr.tasks import Sample
from videossr.video import VideoError
from videossr.viubench import load_viubench, score_viubench

ROOT = Path(__file__).resolve().parent.parent
ANSWERS = {"grounding": "1.0-3.0", "counting": "3,1,4", "jigsaw": "312"}


def make_samples(n=12):
    tasks = list(ANSWERS)
    return [Sample(tasks[k % 3], f"type {k % 2}", f"{k // 3}.mp4", {"k": k}, "?", ANSWERS[tasks[k % 3]], index=k) for k in range(n)]


class Answerer:
    "Stands where a policy's `generate_answers` would: says what it is told and keeps count."

    def __init__(self, replies=None, broken=(), stop_after=None):
        self.replies, self.broken, self.stop_after, self.batches = replies or {}, broken, stop_after, []

    def __call__(self, policy, samples, *, n=1, temperature=0.0, max_new_tokens=32):
        assert temperature == 0.0 and n == 1
        if self.stop_after is not None and len(self.batches) >= self.stop_after:
            raise RuntimeError("out of memory")
        self.batches.append([sample.index for sample in samples])
        for sample in samples:
            if sample.video in self.broken:
                raise VideoError(sample.video, "broken")
        return [[self.replies.get(sample.index, sample.answer)] for sample in samples]


def run(samples, path, answerer, name="before", **dials):
    return evaluate(None, samples, path, name=name, answer=answerer, progress=False, **dials)


def test_records_score_as_the_rewards_do():
    replies = {0: "2.0-4.0", 1: "3,1,3", 2: "321"}
    rewards = (grounding_reward, counting_reward, jigsaw_reward)
    for sample, reward in zip(make_samples(3), rewards, strict=True):
        record = make_record(sample, replies[sample.index], name="x")
        assert (record.smooth, record.strict) == (reward(record.reply, sample.answer), reward(record.reply, sample.answer, strict=True))
        assert record.parsed and Record.from_json(record.to_json()) == record
        lost = make_record(sample, "I cannot tell", name="x")
        assert (lost.smooth, lost.strict, lost.parsed) == (0, 0, False)


def test_parse_mode_is_passed_on():
    sample = make_samples(1)[0]
    assert make_record(sample, "from 1.0 to 3.0 s", name="x").smooth == 0
    assert make_record(sample, "from 1.0 to 3.0 s", name="x", parse="lenient").smooth == 1


def test_id_depends_on_content_only():
    one, two = make_samples(2)
    assert sample_id(one) == sample_id(Sample.from_json(one.to_json())) != sample_id(two)
    assert len({sample_id(replace(one, index=k)) for k in range(1000)}) == 1000


def test_evaluate_writes_one_line_a_sample_in_batches(tmp_path):
    samples, answerer = make_samples(), Answerer()
    records = run(samples, tmp_path / "deep" / "r.jsonl", answerer, batch_size=5)
    assert [len(batch) for batch in answerer.batches] == [5, 5, 2]
    assert [record.id for record in records] == [sample_id(sample) for sample in samples]
    assert read_records(tmp_path / "deep" / "r.jsonl") == records
    assert all(record.smooth == record.strict == 1 for record in records)


def test_a_stopped_run_keeps_its_batches_and_goes_on(tmp_path):
    samples, path = make_samples(), tmp_path / "r.jsonl"
    with pytest.raises(RuntimeError, match="out of memory"):
        run(samples, path, Answerer(stop_after=2), batch_size=4)
    assert len(read_records(path)) == 8
    answerer = Answerer()
    records = run(samples, path, answerer, batch_size=4)
    assert answerer.batches == [[8, 9, 10, 11]] and len(records) == len(read_records(path)) == 12


@pytest.mark.parametrize("cut", [1, 2, 20, 10_000])
def test_resume_after_a_line_cut_off(tmp_path, cut):
    samples, path = make_samples(), tmp_path / "r.jsonl"
    whole = run(samples, path, Answerer({3: "a reply with ü and \u2028 in it\n"}), batch_size=4)
    text = path.read_bytes()
    path.write_bytes(text[: max(0, len(text) - cut)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = run(samples, path, Answerer({3: "a reply with ü and \u2028 in it\n"}), batch_size=4)
    assert [replace(record, seconds=0) for record in again] == [replace(record, seconds=0) for record in whole]
    # the file itself is whole again: each line a record, none twice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sorted(record.id for record in read_records(path)) == sorted(record.id for record in whole)


def test_a_cut_line_warns_and_a_bad_line_elsewhere_is_an_error(tmp_path):
    samples, path = make_samples(4), tmp_path / "r.jsonl"
    run(samples, path, Answerer())
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines)[:-9])
    with pytest.warns(UserWarning, match="unfinished"):
        assert len(read_records(path)) == 3
    path.write_text("\n".join([lines[0], lines[1][:30], *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match="r.jsonl, line 2: not a record"):
        run(samples, path, Answerer())
    path.write_text("\n".join(lines) + '\n{"id": "no more"}\n')
    with pytest.raises(ValueError, match="line 5"):
        read_records(path)


def test_two_policies_share_a_file_and_a_fresh_start_forgets(tmp_path):
    samples, path = make_samples(6), tmp_path / "r.jsonl"
    run(samples, path, Answerer({k: "?" for k in range(6)}), name="before")
    after = run(samples, path, Answerer(), name="after")
    assert len(read_records(path)) == 12 and {record.smooth for record in after} == {1.0}
    answerer = Answerer()
    run(samples, path, answerer, name="after", resume=False)
    assert len(read_records(path)) == 6 and sum(map(len, answerer.batches)) == 6
    with pytest.raises(ValueError, match="give another path"):
        run(samples, path, Answerer(), name="after", parse="lenient")


def test_a_broken_video_fails_alone_and_counts(tmp_path):
    samples = make_samples()
    records = run(samples, tmp_path / "r.jsonl", Answerer(broken=("1.mp4",)), batch_size=8)
    lost = [record for record in records if record.error]
    assert {record.video for record in lost} == {"1.mp4"} and len(lost) == 3
    assert all(record.smooth == 0 and not record.parsed and "1.mp4: broken" in record.error for record in lost)
    assert score(records, by=())["overall"]["mean"] == pytest.approx(9 / 12)
    answerer = Answerer()
    run(samples, tmp_path / "r.jsonl", answerer)
    assert not answerer.batches  # a failure is known, too


def test_student_quantiles():
    known = {3: 3.1824, 4: 2.7764, 5: 2.5706, 8: 2.3060, 11: 2.2010, 20: 2.0860, 60: 2.0003}
    for freedom, value in known.items():
        assert _student(0.975, freedom) == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize(("freedom", "value"), [(1.0, 12.7062), (1.5, 6.0167), (2.5, 3.5747), (3.5, 2.9401)])
def test_student_quantiles_between_whole_numbers(freedom, value):
    assert _student(0.975, freedom) == pytest.approx(value, rel=0.03)


def test_interval_agrees_with_theory_for_many_clusters():
    "For the mean of many videos, far from the ends of the range, the interval is mean +- 1.96 standard errors, taken over the means of videos."
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (400, 1)) + rng.normal(0, 0.5, (400, 4))
    found = clustered_interval(values.ravel(), np.repeat(np.arange(400), 4).astype(str), span=(-100.0, 100.0))
    error = 1.96 * values.mean(1).std(ddof=1) / 20
    assert found["mean"] == pytest.approx(values.mean())
    assert found["high"] - found["mean"] == pytest.approx(error, rel=0.1)  # 200 parts of two videos are left out: its own chance is 5 %
    assert found["mean"] - found["low"] == pytest.approx(error, rel=0.1)


def test_interval_of_two_videos_by_hand():
    "Two videos with means 0 and 1: the standard error is 1/2, one degree of freedom, and Wilson's interval 1/2 +- t / (2 sqrt(1 + t^2))."
    found = clustered_interval([0, 0, 1, 1], ["a", "a", "b", "b"])
    reach = math.sin(math.pi * 0.475) / 2
    assert [found[key] for key in ("mean", "low", "high", "n")] == pytest.approx([0.5, 0.5 - reach, 0.5 + reach, 4])


def test_interval_is_that_of_independent_questions_where_every_question_has_its_video():
    "80 of 100 right: the jackknife error of a share is the textbook one with n - 1, and the interval Wilson's."
    found = clustered_interval([1.0] * 80 + [0.0] * 20, [str(k) for k in range(100)])
    reach, per = 1.9842, 1 / 99  # Student's, 99 degrees of freedom
    middle, half = 0.8 + reach**2 * per / 2, reach * math.sqrt(0.16 * per + (reach * per / 2) ** 2)
    assert (found["low"], found["high"]) == pytest.approx(((middle - half) / (1 + reach**2 * per), (middle + half) / (1 + reach**2 * per)), abs=1e-3)


@pytest.mark.parametrize("metric", [np.mean, lambda values: (np.mean(values[: len(values) // 3 + 1]) + values[-1]) / 2, np.max])
def test_the_interval_is_that_of_the_metric(metric):
    "Whatever is printed: the value is the metric's own, and within its interval."
    rng = np.random.default_rng(1)
    for n_videos in (2, 3, 7, 30, 300):
        videos = np.sort(rng.integers(0, n_videos, 2 * n_videos + 5)).astype(str)
        values = rng.random(len(videos)).round(1)
        found = metric_interval(lambda rows, values=values: float(metric(values[rows])), videos)
        assert found["mean"] == pytest.approx(metric(values)) and found["n"] == len(values)
        assert 0 <= found["low"] <= found["mean"] <= found["high"] <= 1


def test_videos_of_different_size_weigh_by_their_questions():
    "One video with most of the questions stands for hardly more than one video: the interval is wide."
    even = clustered_interval([1, 0, 1, 0] * 4, list("aabbccddeeffgghh"))
    values, videos = [1, 0] * 8, ["a"] * 9 + list("bcdefgh")
    uneven = clustered_interval(values, videos)
    assert even["mean"] == uneven["mean"] == 0.5
    assert clustered_interval([1, 1, 1, 0], ["a", "a", "a", "b"])["mean"] == 0.75
    sizes = np.array([9] + [1] * 7)
    assert uneven["high"] - uneven["low"] > 0.3 and sizes.sum() ** 2 / (sizes**2).sum() < 3


@pytest.mark.parametrize(("n_videos", "low", "high"), [(5, 0.93, 1.0), (24, 0.925, 0.975)])
def test_coverage(n_videos, low, high):
    rng, hits = np.random.default_rng(3), 0
    for _ in range(500):
        values = np.clip(0.5 + rng.normal(0, 0.2, (n_videos, 1)) + rng.normal(0, 0.2, (n_videos, 3)), 0, 1)
        found = clustered_interval(values.ravel(), np.repeat(np.arange(n_videos), 3).astype(str))
        hits += found["low"] <= 0.5 <= found["high"]
    assert low <= hits / 500 <= high


@pytest.mark.parametrize("n_videos", [3, 5, 10, 30])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.9])
def test_coverage_near_the_ends(n_videos, share):
    "Shares near 0 and 1, where symmetric intervals and percentiles fail with few videos; all-wrong samples have an interval, too."
    rng, hits = np.random.default_rng(int(1000 * share) + n_videos), 0
    for _ in range(400):
        values = (rng.random((n_videos, 4)) < share).astype(float)
        found = clustered_interval(values.ravel(), np.repeat(np.arange(n_videos), 4).astype(str))
        hits += found["low"] <= share <= found["high"]
        assert found["low"] < found["high"]
    assert hits / 400 >= 0.91


def test_interval_edges():
    assert clustered_interval([0.4, 0.6], ["a", "a"]) == {"mean": 0.5, "low": 0.0, "high": 1.0, "n": 2, "least": 1.0}
    same = clustered_interval([0.25] * 9, list("aaabbbccc"))
    unlike = 1 - 0.05 ** (1 / 3)  # as many videos could be unlike these three
    assert (same["low"], same["high"]) == pytest.approx((0.25 - 0.25 * unlike, 0.25 + 0.75 * unlike))
    assert clustered_interval([0.0] * 60, [str(k) for k in range(60)])["high"] == pytest.approx(3 / 60, rel=0.03), "the rule of three"
    values, videos = np.arange(30) / 30, [str(k % 7) for k in range(30)]
    assert clustered_interval(values, videos) == pytest.approx(clustered_interval(values[::-1], videos[::-1])), "no order, no seed"
    wide, narrow = (clustered_interval(values, videos, level=level) for level in (0.99, 0.5))
    assert wide["low"] < narrow["low"] < narrow["mean"] < narrow["high"] < wide["high"]
    with pytest.raises(ValueError, match="no records"):
        score([])
    with pytest.raises(ValueError, match="a score of -0.3 is not between 0 and 1"):
        clustered_interval([-0.1, -0.5], ["a", "b"])


def test_few_videos_are_told():
    assert few_note([]) == few_note([FEW, 400]) == "" and few_mark(FEW) == "" and few_mark(FEW - 1) == "*"
    assert "few videos (7):" in few_note([7, 7, 18]) and "(5 to 12)" in few_note([12, 5]) and "whole range" in few_note([1])
    assert all(0 < worst <= best <= 100 for worst, best in COVERAGE.values())
    records = [make_record(sample, "1.0-3.0", name="x") for sample in make_samples(24)]
    assert count_videos(records, by=()) == {"overall": len({record.video for record in records})}


def test_equal_seeds_are_no_certainty():
    assert seed_interval([0.2, 0.2, 0.2]) == (-math.inf, math.inf)
    low, high = seed_interval([0.2, 0.2, 0.3])
    assert -math.inf < low < high < math.inf


def make_pair(tmp_path):
    samples = make_samples(36)
    weak = {k: ("?", "2.0-4.0", "2,1,4", "123")[int(v)] for k, v in enumerate(np.random.default_rng(0).integers(0, 4, 36))}
    before = run(samples, tmp_path / "r.jsonl", Answerer(weak), name="before")
    return before, run(samples, tmp_path / "r.jsonl", Answerer({k: v for k, v in weak.items() if k % 2}), name="after")


def test_gain_is_paired_by_sample(tmp_path):
    before, after = make_pair(tmp_path)
    gains = compare(before, after[::-1])
    first, second = score(before), score(after)
    for task in ANSWERS:
        assert gains[task]["mean"] == pytest.approx(second[task]["mean"] - first[task]["mean"])
        assert gains[task]["n"] == 12 and -1 <= gains[task]["low"] <= gains[task]["mean"] <= gains[task]["high"] <= 1
    # equal records gain nothing; that videos not seen would gain nothing either is not certain
    none = compare(before, before, by=())["overall"]
    assert none["mean"] == 0 and none["n"] == 36 and none["low"] == pytest.approx(-none["high"]) and 0 < none["high"] < 1
    for other in (after[1:], [*after[1:], after[1]]):
        with pytest.raises(ValueError, match="the same samples"):
            compare(before, other)


def test_results_add_up_and_survive_the_disk(tmp_path):
    before, after = make_pair(tmp_path)
    floors = {"grounding": {"floor": 0.3, "constant": 0.3}, "counting": 0.6, "jigsaw": 0.36, "grounding type 0": 0.31}
    found = results(before, after, floors, seconds=1.5, note="a")
    assert set(found) == {"tasks", "types", "overall", "seconds", "peak_rss_gb", "ends", "note"}
    for line in [*found["tasks"].values(), found["overall"], *found["types"]["grounding"].values()]:
        assert set(line) == {"blind", "before", "after", "gain", "videos", "turned"} and set(line["gain"]) == {"mean", "low", "high", "n", "least"}
        assert line["gain"]["mean"] == pytest.approx(line["after"]["mean"] - line["before"]["mean"])
    assert found["overall"]["blind"] == pytest.approx((0.3 + 0.6 + 0.36) / 3)
    assert found["types"]["grounding"]["type 0"]["blind"] == 0.31 and found["types"]["grounding"]["type 1"]["blind"] is None
    assert found["overall"]["before"]["mean"] == pytest.approx(np.mean([record.smooth for record in before]))
    assert read_results(write_results(found, tmp_path / "new" / "results.json")) == json.loads(json.dumps(found))
    table = results_table(found)
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 2 + 3 * 3 + 1 and "| **overall** | 36 |" in table
    few = {line["videos"] for line in [*found["tasks"].values(), found["overall"]]}
    assert max(few) < FEW and table.endswith(few_note([*few, *(line["videos"] for types in found["types"].values() for line in types.values())]))
    older = json.loads(json.dumps(found).replace('"videos"', '"vanished"'))
    assert "*" not in results_table(older).replace("**", ""), "a run that does not tell is not guessed at"


def test_results_refuse_nan_and_foreign_files(tmp_path):
    with pytest.raises(ValueError):
        write_results({"tasks": {}, "overall": math.nan, "seconds": 1}, tmp_path / "r.json")
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(ValueError, match="r.json is not a results file"):
        read_results(tmp_path / "r.json")
    assert 0.01 < peak_rss_gb() < 500


# -------------------------------------------------------------------------------------------------- replies of all kinds


@pytest.mark.parametrize("n", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_ten_thousand_hostile_replies(n):
    "Through every parser: a score in [0, 1] or a plain 'not parsed', never an exception, and a line that comes back as it went."
    seen = {"read": 0, "unread": 0}
    for reply in hostile_replies(n):
        for task, answer in ANSWERS_OF_ALL.items():
            paper = make_record(Sample(task, "x", "v", {}, "?", answer), reply, name="h")
            for record in (paper, *rescore([paper], "lenient")):
                assert 0 <= record.smooth <= 1 and 0 <= record.strict <= 1
                assert record.parsed == (record.said is not None) and (record.parsed or record.smooth == record.strict == 0)
                seen["read" if record.parsed else "unread"] += 1
            if task == "jigsaw":
                assert Record.from_json(paper.to_json()) == paper and "\n" not in paper.to_json()
    assert seen["read"] > n / 20 and seen["unread"] > 5 * n, "some of them must be answers, or nothing was tested"


def test_a_reply_without_end_is_not_weighed():
    "Lenient reading takes time with the square of the length; what is longer than anyone answers is unparsable."
    sample = make_samples(1)[0]
    assert not make_record(sample, "1.0-3.0, that is " * 100_000, name="x", parse="lenient").parsed
    assert make_record(sample, "let me see " * 100_000 + "</think>from 1.0 to 3.0 s", name="x", parse="lenient").smooth == 1
    assert make_record(sample, " " * 100_000 + "1.0-3.0", name="x").smooth == 1, "paper parsing takes any length"


def test_hostile_records_survive_the_disk(tmp_path):
    samples, replies = make_samples(300), hostile_replies(300, seed=1)
    records = run(samples, tmp_path / "r.jsonl", Answerer(dict(enumerate(replies))))
    assert read_records(tmp_path / "r.jsonl") == records
    nobody = Answerer()
    assert run(samples, tmp_path / "r.jsonl", nobody) == records and not nobody.batches, "asked again"


def test_another_way_of_reading_needs_no_model(tmp_path):
    samples = make_samples(6)
    records = run(samples, tmp_path / "r.jsonl", Answerer({0: "from 1.0 to 3.0 s", 1: "3 circles, 1 square and 4 triangles", 2: "3, 1, 2"}, broken=("1.mp4",)))
    assert [record.smooth for record in records[:3]] == [0, 1, 0]  # paper parsing takes any three numbers
    again = rescore(records, "lenient")
    assert [record.smooth for record in again[:3]] == [1, 1, 1] and {record.parse for record in again} == {"lenient"}
    assert [record.error for record in again] == [record.error for record in records] and [record.smooth for record in again[3:]] == [0, 0, 0]
    assert [record.reply for record in again] == [record.reply for record in records]


# ------------------------------------------------------------------------------------------------------------ statistics


def test_denominators(tmp_path):
    records = run(make_samples(), tmp_path / "r.jsonl", Answerer({0: "no idea"}, broken=("1.mp4",)))
    found = denominators(records, by=())["overall"]
    assert {kind: line["n"] for kind, line in found.items()} == {"all": 12, "videos present": 9, "parsed": 8}
    assert [line["mean"] for line in found.values()] == pytest.approx([8 / 12, 8 / 9, 1])
    assert denominators([replace(records[3])], by=())["overall"]["parsed"] == {"mean": None, "n": 0}


def test_p_values_by_hand_and_in_the_long_run():
    assert sign_flip([1, 1, 1, 1]) == 2 / 16 and sign_flip([3, -3]) == 1 and sign_flip([5]) == 1
    rng = np.random.default_rng(0)
    assert sign_flip(rng.normal(3, 1, 30)) == pytest.approx(1 / 10_001)
    exact = rng.normal(0.3, 1, 13)
    many = np.concatenate([exact, np.zeros(1)])  # a video without any gain changes nothing, but random signs are drawn
    assert sign_flip(exact) == pytest.approx(sign_flip(many), abs=0.02)


@pytest.mark.parametrize("n_videos", [1, 2, 5, 13, 14, 40])
def test_no_p_value_is_smaller_than_the_least(n_videos):
    gains = np.random.default_rng(n_videos).random(n_videos) + 0.5  # all gain
    assert sign_flip(gains) >= least_p(n_videos) - 1e-12
    assert n_videos > 13 or sign_flip(gains) == least_p(n_videos)
    assert bool(p_note([n_videos])) == (least_p(n_videos) > 0.01) and "0.0625 (5)" in p_note([5])


def test_p_values_agree_with_intervals(tmp_path):
    before, after = make_pair(tmp_path)
    gains, chances = compare(before, after), p_values(before, after[::-1])
    assert set(gains) == set(chances) and all((gains[task]["low"] > 0) >= (chances[task] < 0.01) for task in gains)
    assert p_values(before, before, by=()) == {"overall": 1.0}


# -------------------------------------------------------------------------------------------------------------- on disk


def test_two_runs_on_one_file(tmp_path):
    samples, path = make_samples(), tmp_path / "r.jsonl"
    with Journal(path), pytest.raises(RuntimeError, match="another run is writing to .*r.jsonl"):
        run(samples, path, Answerer())
    assert len(run(samples, path, Answerer())) == 12


def test_failed_answers_are_asked_again_on_request(tmp_path):
    samples, path = make_samples(), tmp_path / "r.jsonl"
    run(samples, path, Answerer(broken=("1.mp4",)))
    run(samples, path, Answerer({0: "?"}), name="other")
    answerer = Answerer()
    records = run(samples, path, answerer, retry_failed=True)
    assert sorted(sum(answerer.batches, [])) == [3, 4, 5] and not [record for record in records if record.error]
    assert len(read_records(path)) == 24, "one line a question and policy, as before"


def test_questions_on_one_clip_are_asked_together():
    samples = make_samples(12)
    mixed = [samples[k] for k in np.random.default_rng(0).permutation(12)]
    videos = [mixed[k].video for k in by_clip(mixed)]
    assert sorted(by_clip(mixed)) == list(range(12)) and sum(one != two for one, two in zip(videos, videos[1:], strict=False)) == 3


TOGETHER = """
import sys
from videossr.evaluate import evaluate
from videossr.tasks import Sample
samples = [Sample("counting", "shapes", f"{k // 4}.mp4", {"k": k}, "?", "3,1,4", index=k) for k in range(20)]
def answer(policy, batch, **_):
    with open(f"{sys.argv[1]}.asked", "a") as file:
        file.write("".join(f"{sample.index}\\n" for sample in batch))
    return [["3,1,4"]] * len(batch)
records = evaluate(None, samples[: int(sys.argv[2])], sys.argv[1], name="m", batch_size=2, answer=answer, together=True, progress=False)
assert [record.id for record in records] and all(record.smooth == 1 for record in records) and len(records) == int(sys.argv[2])
"""


def test_two_processes_share_the_questions(tmp_path):
    "Each asks its own, all get all records, one file remains; a second run asks only what is new."
    script, path = tmp_path / "script.py", tmp_path / "r.jsonl"
    script.write_text(TOGETHER)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1"}
    for count in (12, 20):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone", str(script), str(path), str(count)]
        done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(read_records(path)) == count and not list(tmp_path.glob("*.process*"))
    asked = (tmp_path / "r.jsonl.asked").read_text().split()
    assert sorted(map(int, asked)) == list(range(20))


# -------------------------------------------------------------------------------------------------------------- notebook

NOTEBOOK, PUBLIC = ROOT / "nbs" / "evaluate.ipynb", ROOT / "nbs" / "evaluate_public.ipynb"


def papermill(output, parameters, notebook=NOTEBOOK):
    command = [sys.executable, "-m", "papermill", str(notebook), str(output), "--no-progress-bar"]
    command += [part for name, value in parameters.items() for part in ("-p", name, str(value))]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, check=False, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("notebook", [NOTEBOOK, PUBLIC], ids=lambda path: path.name)
def test_notebook_parameters_are_typed_and_explained(notebook):
    cell = next(cell for cell in nbformat.read(notebook, 4).cells if "parameters" in cell.metadata.get("tags", ()))
    for line in cell.source.splitlines():
        assert re.match(r"\w+: (str|int|float|bool) = .+?  # \S", line), line


def test_notebook_from_questions_to_comparison(tmp_path):
    "Two models on one small VIUBench, then both in one picture without asking anybody; other questions in the same folder are refused."
    small = {"limit": 18, "max_pixels": 64 * 64, "max_new_tokens": 6}
    done = papermill(tmp_path / "one.ipynb", {**small, "name": "one", "output_dir": tmp_path / "one", "columns": "text_only,full"})
    assert done.returncode == 0, done.stderr[-3000:]
    kept = tmp_path / "one" / "samples" / "viubench.jsonl"
    records = read_records(tmp_path / "one" / "records" / "one.jsonl")
    assert len(records) == len(load_viubench(kept)) == 18
    found = json.loads((tmp_path / "one" / "results.json").read_text())
    assert found["scores"]["one"] == score_viubench(records) and found["benchmark"] == f"viubench {load_viubench(kept).version}"
    columns = json.loads((tmp_path / "one" / "results.json").read_text())["columns"]["overall"]
    assert columns["columns"]["full"]["mean"] == pytest.approx(found["scores"]["one"]["overall"]) and [columns["needs"][part]["n"] for part in ("wrong", "right")] == [18, 0]
    assert "| Overall | 18 |" in (tmp_path / "one" / "columns.md").read_text() and len(read_records(tmp_path / "one" / "records" / "text_only" / "one.jsonl")) == 18
    copy = tmp_path / "two" / "records" / "two.jsonl"
    write_records([make_record(sample, sample.answer, name="two") for sample in load_viubench(kept)], copy)
    both = {**small, "benchmark": kept, "model": "", "compare": f"{tmp_path / 'one'},{tmp_path / 'two'}", "output_dir": tmp_path / "both"}
    done = papermill(tmp_path / "both.ipynb", both)
    assert done.returncode == 0, done.stderr[-3000:]
    details = (tmp_path / "both" / "details.md").read_text()
    assert "| one | two | gain | p | least | turned |" in details and "/ 0 (" in details and ", 100.0]*" in details and "few videos" in details and "p cannot fall below" in details
    assert (tmp_path / "both" / "figures" / "viubench.png").stat().st_size > 5000
    for suffix, mark in (("md", "| VideoSSR-8B (paper) |"), ("tex", r"\begin{tabular}"), ("csv", "Model,")):
        assert mark in (tmp_path / "both" / f"table.{suffix}").read_text()
    done = papermill(tmp_path / "more.ipynb", {**small, "limit": 27, "name": "one", "output_dir": tmp_path / "one"})
    assert done.returncode == 0, done.stderr[-3000:]
    more = read_records(tmp_path / "one" / "records" / "one.jsonl")
    assert len(more) == len(load_viubench(kept)) == 27 and more[:18] == records, "only what is new was asked"
    assert json.loads((tmp_path / "one" / "results.json").read_text())["budgets"][0]["max_pixels"] == 64 * 64
    done = papermill(tmp_path / "again.ipynb", {**both, "limit": 9})
    assert done.returncode != 0 and "holds answers to other questions (limit changed)" in done.stderr


def test_public_notebook_columns_and_a_second_run(tmp_path):
    "Three columns of a benchmark with pairs and one of intervals; then another model beside the first, on the same files."
    for bench in ("charades_sta", "vinoground"):
        make_example(bench, tmp_path / "data" / bench)
    small = {"benchmark": "charades_sta,vinoground", "data_dir": tmp_path / "data", "public_frames": "4", "max_pixels": 64 * 64, "limit": 8}
    done = papermill(tmp_path / "one.ipynb", {**small, "max_new_tokens": 4, "name": "one", "output_dir": tmp_path / "one", "columns": "full,one_frame,text_only"}, PUBLIC)
    assert done.returncode == 0, done.stderr[-3000:]
    first = json.loads((tmp_path / "one" / "results.json").read_text())
    assert [*first["benchmarks"]] == ["vinoground", "charades_sta"] and not first["compared"]
    for line in first["benchmarks"].values():
        columns = line["frames"]["4"]["columns"]
        assert [*columns["columns"]] == ["full", "one_frame", "text_only"] and columns["columns"]["full"] == line["frames"]["4"]["intervals"]["paper"]
    assert "full over text only" in (tmp_path / "one" / "columns.md").read_text() and "replies cut off" in (tmp_path / "one" / "table.md").read_text().lower()
    done = papermill(tmp_path / "two.ipynb", {**small, "max_new_tokens": 6, "name": "two", "output_dir": tmp_path / "two", "compare": tmp_path / "one"}, PUBLIC)
    assert done.returncode == 0, done.stderr[-3000:]
    second = json.loads((tmp_path / "two" / "results.json").read_text())
    assert [(row["title"], row["run"], row["n"]) for row in second["compared"]] == [("VinoGround", "one (one)", 8), ("CharadesSTA", "one (one)", first["benchmarks"]["charades_sta"]["frames"]["4"]["items"])]
    assert all("max_new_tokens 4 (one (one)), 6 (two)" in row["note"] for row in second["compared"])
    assert not (tmp_path / "two" / "records" / "text_only").exists()
