"Records on disk, intervals that hold what they promise, and results that add up."
import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from videossr.evaluate import (
    Record,
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
from videossr.records import _student
from videossr.rewards import counting_reward, grounding_reward, jigsaw_reward
from videossr.tasks import Sample
from videossr.video import VideoError

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


def test_interval_agrees_with_theory_for_many_clusters():
    "For the mean of many videos the interval is mean +- 1.96 standard errors, taken over the means of videos."
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (400, 1)) + rng.normal(0, 0.5, (400, 4))
    found = clustered_interval(values.ravel(), np.repeat(np.arange(400), 4).astype(str), n_boot=20_000)
    error = 1.96 * values.mean(1).std(ddof=1) / 20
    assert found["mean"] == pytest.approx(values.mean())
    assert found["high"] - found["mean"] == pytest.approx(error, rel=0.05)
    assert found["mean"] - found["low"] == pytest.approx(error, rel=0.05)


def test_interval_of_two_videos_by_hand():
    "Two videos with means 0 and 1: the resamples are 0, 1/2 and 1 with chances 1/4, 1/2 and 1/4, so any 95 % interval is [0, 1]."
    found = clustered_interval([0, 0, 1, 1], ["a", "a", "b", "b"])
    assert (found["mean"], found["low"], found["high"], found["n"]) == (0.5, 0, 1, 4)


def test_videos_weigh_by_their_questions():
    "The resampled statistic is the mean over questions: with sizes 3 and 1, drawing both videos gives 3/4."
    found = clustered_interval([1, 1, 1, 0], ["a", "a", "a", "b"], level=1e-9, n_boot=20_000)
    assert found["mean"] == 0.75 and found["low"] == pytest.approx(0.75) and found["high"] == pytest.approx(0.75)


@pytest.mark.parametrize(("n_videos", "low", "high"), [(5, 0.87, 0.985), (24, 0.925, 0.975)])
def test_coverage(n_videos, low, high):
    rng, hits = np.random.default_rng(3), 0
    for _ in range(500):
        values = 0.5 + rng.normal(0, 0.2, (n_videos, 1)) + rng.normal(0, 0.2, (n_videos, 3))
        found = clustered_interval(values.ravel(), np.repeat(np.arange(n_videos), 3).astype(str), n_boot=1000)
        hits += found["low"] <= 0.5 <= found["high"]
    assert low <= hits / 500 <= high


def test_interval_edges():
    assert clustered_interval([0.4, 0.6], ["a", "a"]) == {"mean": 0.5, "low": 0.0, "high": 1.0, "n": 2}
    same = clustered_interval([0.25] * 9, list("aaabbbccc"))
    assert (same["low"], same["high"]) == (0.25, 0.25)
    one, two = (clustered_interval(np.arange(30) / 30, [str(k % 7) for k in range(30)], seed=seed) for seed in (0, 0))
    assert one == two != clustered_interval(np.arange(30) / 30, [str(k % 7) for k in range(30)], seed=1)
    with pytest.raises(ValueError, match="no records"):
        score([])


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
    # equal records gain nothing, without any doubt
    assert compare(before, before, by=())["overall"] == {"mean": 0, "low": 0, "high": 0, "n": 36}
    for other in (after[1:], [*after[1:], after[1]]):
        with pytest.raises(ValueError, match="the same samples"):
            compare(before, other)


def test_results_add_up_and_survive_the_disk(tmp_path):
    before, after = make_pair(tmp_path)
    floors = {"grounding": {"floor": 0.3, "constant": 0.3}, "counting": 0.6, "jigsaw": 0.36, "grounding type 0": 0.31}
    found = results(before, after, floors, seconds=1.5, note="a")
    assert set(found) == {"tasks", "types", "overall", "seconds", "peak_rss_gb", "note"}
    for line in [*found["tasks"].values(), found["overall"], *found["types"]["grounding"].values()]:
        assert set(line) == {"blind", "before", "after", "gain"} and set(line["gain"]) == {"mean", "low", "high", "n"}
        assert line["gain"]["mean"] == pytest.approx(line["after"]["mean"] - line["before"]["mean"])
    assert found["overall"]["blind"] == pytest.approx((0.3 + 0.6 + 0.36) / 3)
    assert found["types"]["grounding"]["type 0"]["blind"] == 0.31 and found["types"]["grounding"]["type 1"]["blind"] is None
    assert found["overall"]["before"]["mean"] == pytest.approx(np.mean([record.smooth for record in before]))
    assert read_results(write_results(found, tmp_path / "new" / "results.json")) == json.loads(json.dumps(found))
    table = results_table(found)
    assert table.count("\n") == 2 + 3 * 3 + 1 - 1 and "| **overall** | 36 |" in table


def test_results_refuse_nan_and_foreign_files(tmp_path):
    with pytest.raises(ValueError):
        write_results({"tasks": {}, "overall": math.nan, "seconds": 1}, tmp_path / "r.json")
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(ValueError, match="r.json is not a results file"):
        read_results(tmp_path / "r.json")
    assert 0.01 < peak_rss_gb() < 500
