"VIUBench: the right questions, scores that agree with the paper's, guesses that reproduce its random row, prompts that do not drift."
import csv
import io
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from videossr.backends import Budget, clips_of
from videossr.data import load_samples
from videossr.demo import demo_videos
from videossr.records import make_record
from videossr.rewards import counting_reward, grounding_reward, jigsaw_reward
from videossr.tasks import TASKS, Sample, render
from videossr.tasks.grounding import GroundingDifficulty
from videossr.viubench import (
    GROUPS,
    VIUBENCH,
    VIUBench,
    build_viubench,
    compare_viubench,
    draw_viubench,
    key_of,
    load_viubench,
    published_rows,
    random_guess,
    random_guess_error,
    read_viubench,
    save_viubench,
    score_viubench,
    viubench_details,
    viubench_difficulty,
    viubench_floors,
    viubench_intervals,
    viubench_table,
)

SNAPSHOT = Path(__file__).parent / "snapshots" / "prompts_viubench.json"
SMALL = Budget(max_pixels=64 * 64)
MEANS = ("counting", "grounding", "jigsaw", "overall")


@pytest.fixture(scope="module")
def videos():
    return demo_videos(6, progress=False)


@pytest.fixture(scope="module")
def bench(videos):
    return build_viubench(videos, seed=3, per_type=8, budget=SMALL, progress=False)


def answered(samples, reply_of, name="m"):
    return [make_record(sample, reply_of(sample), name=name) for sample in samples]


# ------------------------------------------------------------------------------------------------------ the questions


def test_defaults_are_the_papers():
    "48 frames of at most 512 x 512 pixels, segments of 8 to 20 frames, 6 and 8 clips, up to 3 and 4 frames and instances."
    reading = Budget().reading(60.0)
    levels = {key: viubench_difficulty(key, reading) for key in VIUBENCH}
    assert {(level.n_frames, level.max_pixels) for level in levels.values()} == {(48, 512 * 512)}
    assert [levels[f"jigsaw_{name}"].n_clips for name in ("easy", "hard")] == [6, 8]
    assert [(levels[f"counting_{name}"].max_frames, levels[f"counting_{name}"].max_instances) for name in ("easy", "hard")] == [(3, 3), (4, 4)]
    assert {(level.min_length, level.max_length) for level in levels.values() if isinstance(level, GroundingDifficulty)} == {(8, 20)}
    assert len(VIUBENCH) * 300 == 2700


def test_questions(bench, videos):
    assert bench.counts() == dict.fromkeys(VIUBENCH, 8) and len(bench) == 72
    assert len({sample.to_json() for sample in bench}) == 72
    for sample in bench:
        key, clips = key_of(sample), render(sample)
        assert sum(map(len, clips)) == 48 and all(clip.height * clip.width <= 64 * 64 for clip in clips)
        assert len(clips) == {"jigsaw_easy": 6, "jigsaw_hard": 8}.get(key, 1)
        if sample.task == "grounding":
            assert 8 <= sample.recipe["length"] <= 20 and key == f"grounding_{sample.recipe['type'].replace('_', '')}"


def test_questions_spread_over_videos(bench, videos):
    "Each type takes the same number from each video that can have it, give or take one; so does a small subset."
    for key in VIUBENCH:
        counts = Counter(sample.video for sample in bench if key_of(sample) == key)
        refused = {row["video"] for row in bench.refusals if row["key"] == key}
        assert len(counts) == len(videos) - len(refused - set(counts))
        if not refused:
            assert max(counts.values()) - min(counts.values()) <= 1
    first = bench.first(36)
    assert first.counts() == dict.fromkeys(VIUBENCH, 4)
    for key in VIUBENCH:
        assert len({sample.video for sample in first if key_of(sample) == key}) == 4


def test_same_seed_same_bench(bench, videos, tmp_path):
    assert build_viubench(reversed(videos), seed=3, per_type=8, budget=SMALL, progress=False).samples == bench.samples
    moved = [tmp_path / f"renamed {number}.mp4" for number in range(len(videos))]
    for source, target in zip(videos, moved, strict=True):
        target.write_bytes(Path(source).read_bytes())
    again = build_viubench(tmp_path, seed=3, per_type=8, budget=SMALL, progress=False)
    assert again.version == bench.version and again.samples != bench.samples
    assert build_viubench(videos, seed=4, per_type=1, budget=SMALL, progress=False).version != bench.first(9).version
    assert build_viubench(videos, seed=3, per_type=8, budget=SMALL, progress=False, workers=2).samples == bench.samples


def test_dials(videos):
    short = build_viubench(videos, per_type=3, lengths=(6, 9), budget=Budget(32, max_pixels=64 * 64), progress=False)
    assert {sample.recipe["read"]["n_frames"] for sample in short} == {32}
    # lengths are told for 48 frames; with 32, a segment keeps its share of the clip
    assert {sample.recipe["length"] for sample in short if sample.task == "grounding"} <= {4, 5, 6}
    sparse = build_viubench(videos, per_type=1, budget=Budget(48, fps=5.0, max_pixels=64 * 64), progress=False)
    assert {sample.recipe["read"]["n_frames"] for sample in sparse} < set(range(8, 48))


def test_what_cannot_be_asked_is_told(videos, tmp_path):
    "A broken file is refused with its reason; a type that no video can have stops the build."
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 100)
    some = build_viubench([*videos, broken, tmp_path / "missing.mp4"], per_type=1, budget=SMALL, progress=False)
    assert {Path(row["video"]).name for row in some.refusals if row["reason"] == "unreadable video"} == {"broken.mp4", "missing.mp4"}
    with pytest.raises(ValueError, match="unreadable video: 1"):
        build_viubench([broken], per_type=1, progress=False)


def test_files(bench, tmp_path):
    path = save_viubench(bench, tmp_path / "deep" / "v.jsonl")
    assert load_viubench(path).samples == bench.samples and load_viubench(path).version == bench.version
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], lines[5][:40], *lines[6:]]))
    with pytest.raises(ValueError, match=r"v\.jsonl, line 6: not a sample"):
        load_viubench(path)
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="was changed"):
        load_viubench(path)
    path.write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match="holds no VIUBench"):
        load_viubench(path)


def test_prompt_snapshots(bench):
    "A changed prompt changes scores: change the snapshot only on purpose."
    questions = {key: next(sample.question for sample in bench if key_of(sample) == key) for key in VIUBENCH}
    assert json.loads(SNAPSHOT.read_text(encoding="utf-8")) == questions
    for key in VIUBENCH:
        assert len({sample.question for sample in bench if key_of(sample) == key}) == 1


# ----------------------------------------------------------------------------------------------------- published rows


def verl_row(folder, source, answer, n_clips=1, **extra):
    names = [[f"{source}-{clip}-{frame}.jpg" for frame in range(4)] for clip in range(n_clips)]
    for name in sum(names, []):
        Image.fromarray(np.full((64, 96, 3), 100, np.uint8)).save(folder / name)
    said = "".join(f"Clip {k + 1}: <video>" for k in range(n_clips)) if n_clips > 1 else "<video>"
    return {
        "data_source": source, "prompt": [{"role": "system", "content": "Answer directly."}, {"role": "user", "content": f"{said}What is it?"}],
        "videos": [{"video": one, "sample_fps": 2.0, "max_pixels": 262144, "min_pixels": 16384} for one in names], "ability": "video_understanding",
        "reward_model": {"style": "rule", "ground_truth": answer}, "extra_info": {"split": "test", "index": 0, "video_id": "abc", "answer": answer, **extra},
    }  # fmt: skip


def test_published_rows(tmp_path):
    rows = [
        verl_row(tmp_path, "grounding", "0.5-1.5", perturbation_type="ChannelSwap"),
        verl_row(tmp_path, "grounding", "0.5-1.5", perturbation_type="Shuffle"),
        verl_row(tmp_path, "shuffled", "341562", 6, perturbation_type=""),
        verl_row(tmp_path, "shuffled", "34156278", 8, perturbation_type=""),
        verl_row(tmp_path, "counting", "3,1,4", perturbation_type="counting_hard"),
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.json", "rows.jsonl", "rows.parquet"):
        bench = read_viubench(tmp_path / name, tmp_path)
        assert [key_of(sample) for sample in bench] == ["grounding_channelswap", "grounding_shuffle", "jigsaw_easy", "jigsaw_hard", "counting_hard"]
        assert {sample.question for sample in bench} == {"What is it?"} and {sample.recipe["system"] for sample in bench} == {"Answer directly."}
        assert [len(clips_of(sample)) for sample in bench] == [1, 1, 6, 8, 1]
        assert clips_of(bench[0])[0].times.tolist() == [0, 0.5, 1.0, 1.5]
        assert set(score_viubench(answered(bench, lambda sample: sample.answer)).values()) == {100.0, None}
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 0: ValueError: its type cannot be told; give key="):
        (tmp_path / "rows.jsonl").write_text(json.dumps(verl_row(tmp_path, "counting", "3,1,4")))
        read_viubench(tmp_path / "rows.jsonl", tmp_path)
    assert key_of(read_viubench(tmp_path / "rows.jsonl", tmp_path, key="counting_easy")[0]) == "counting_easy"
    for broken in ({}, {"videos": [], "answer": "1"}, {"video": "nowhere", "answer": "1", "question": "?"}, [], 3):
        (tmp_path / "rows.jsonl").write_text(json.dumps(broken) if broken != [] else "[[]]")
        with pytest.raises(ValueError, match=r"rows\.jsonl, row 0"):
            read_viubench(tmp_path / "rows.jsonl", tmp_path, key="jigsaw_easy")


@pytest.mark.parametrize("limits", [{"max_pixels": 64 * 96, "min_pixels": 32 * 32}, {"max_pixels": 256 * 256, "min_pixels": 128 * 128}, {}])
@pytest.mark.parametrize("size", [(360, 480), (64, 96)])
def test_published_rows_show_the_same_pixels_in_training_and_in_evaluation(tmp_path, limits, size):
    "Loaded as training does, or as a benchmark; rendered by the trainer, or shown to a backend: one budget, one way to resize."
    row = verl_row(tmp_path, "grounding", "0.5-1.5", perturbation_type="Mirror")
    rng = np.random.default_rng(0)
    for name in row["videos"][0]["video"]:
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name, quality=95)
    row["videos"][0] = {"video": row["videos"][0]["video"], "sample_fps": 2.0, **limits}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    trained, evaluated = load_samples(tmp_path / "rows.parquet", video_dir=tmp_path)[0], read_viubench(tmp_path / "rows.json", tmp_path)[0]
    shown = [clip for sample in (trained, evaluated) for show in (render, clips_of) for clip in show(sample)]
    assert len(shown) == 4 and all(np.array_equal(clip.frames, shown[0].frames) and np.array_equal(clip.times, shown[0].times) for clip in shown)
    assert trained.recipe["read"] == evaluated.recipe["read"] and shown[0].height * shown[0].width <= trained.recipe["read"]["max_pixels"]
    # a budget that is given is used, and known
    larger = read_viubench(tmp_path / "rows.json", tmp_path, max_pixels=512 * 512)[0]
    assert larger.recipe["read"]["max_pixels"] == 512 * 512 and read_viubench(tmp_path / "rows.json", tmp_path).version != VIUBench((larger,)).version
    assert size == (64, 96) or clips_of(larger)[0].frames.size > shown[0].frames.size


# ------------------------------------------------------------------------------------------------------------- scores


def test_scores_are_those_of_the_rewards(bench):
    "Grounding by mIoU, counting by the share of exact shapes, jigsaw by exact orders; the means by hand."
    rng = np.random.default_rng(0)
    replies = {"grounding": lambda: "{:.1f}-{:.1f}".format(*sorted(rng.uniform(0, 8, 2))), "counting": lambda: ",".join(map(str, rng.integers(1, 10, 3)))}

    def reply(sample):
        return replies[sample.task]() if sample.task in replies else sample.answer if rng.random() < 0.5 else sample.answer[::-1]

    records = answered(bench, reply)
    found = score_viubench(records)
    by_key = {}
    for record in records:
        reward = {"grounding": grounding_reward, "counting": counting_reward, "jigsaw": jigsaw_reward}[record.task]
        by_key.setdefault(key_of(record), []).append(reward(record.reply, record.answer, strict=record.task != "grounding"))
    types = {key: 100 * np.mean(values) for key, values in by_key.items()}
    for key in VIUBENCH:
        assert found[key] == pytest.approx(types[key])
    for name, keys in GROUPS.items():
        assert found[name] == pytest.approx(np.mean([types[key] for key in keys]))
    assert list(found) == [*VIUBENCH, "counting", "grounding", "jigsaw", "overall", "fine_grained", "spatial", "temporal"]
    assert 0 < found["overall"] < 100


def test_failures_stay_in(bench):
    records = answered(bench, lambda sample: sample.answer)
    half = [make_record(sample, None, name="m", error="gone", fault="video") if sample.index % 2 else record for sample, record in zip(bench, records, strict=True)]
    share = np.mean([sample.index % 2 == 0 for sample in bench if key_of(sample) == "jigsaw_easy"])
    assert score_viubench(half)["jigsaw_easy"] == pytest.approx(100 * share) and share < 1
    assert score_viubench(records[:5])["overall"] is None
    with pytest.raises(ValueError, match="no type of VIUBench"):
        score_viubench([replace(records[0], type="blur")])


def test_intervals_and_gains(bench):
    weak = answered(bench, lambda sample: "1.0-3.0", "weak")
    strong = answered(bench, lambda sample: sample.answer if sample.index % 2 else "1.0-3.0", "strong")
    for records in (weak, strong):
        scores, found = score_viubench(records), viubench_intervals(records)
        for key, line in found.items():
            assert line["mean"] == pytest.approx(scores[key]) and 0 <= line["low"] <= line["mean"] <= line["high"] <= 100
        assert found["overall"]["n"] == 72 and found["jigsaw"]["n"] == 16
    gains = compare_viubench(weak, strong[::-1])
    for key, line in gains.items():
        assert line["mean"] == pytest.approx(score_viubench(strong)[key] - score_viubench(weak)[key])
        assert line["low"] - 1e-9 <= line["mean"] <= line["high"] + 1e-9 and 0 < line["p"] <= 1
    assert gains["overall"]["p"] < 0.05 < compare_viubench(weak, weak)["overall"]["p"]
    for line in compare_viubench(weak, weak).values():
        assert line["mean"] == 0 and line["low"] < 0 < line["high"], "no gain at all is no certain gain of zero"


def test_interval_of_a_mean_of_types_covers():
    "Videos of different difficulty, nine types each: a 95 % interval of the overall score should hold the truth about 95 times in 100."
    rng, hits = np.random.default_rng(1), 0
    template = {key: Sample(task, type if task == "grounding" else key.partition("_")[2], "", {}, "?", "1.0-2.0") for key, (task, type, _) in VIUBENCH.items()}
    blank = {key: make_record(sample, None, name="m") for key, sample in template.items()}
    for _ in range(150):
        records = []
        for video in range(15):
            level = np.clip(0.5 + rng.normal(0, 0.15), 0, 1)
            for key in VIUBENCH:
                value = float(np.clip(level + rng.normal(0, 0.1), 0, 1))
                records.append(replace(blank[key], video=str(video), smooth=value, strict=value))
        line = viubench_intervals(records)["overall"]
        hits += line["low"] <= 50 <= line["high"]
    assert 0.89 <= hits / 150 <= 0.99


# ---------------------------------------------------------------------------------------------------- random guessing


def test_random_guess_reproduces_the_papers_row():
    "Counting 11.1 and 6.3, jigsaw 0.1 and 0.0, grounding 25.4 on average, overall 16.1: each within its sampling error."
    ours, error = random_guess(), random_guess_error(300)
    paper = {"counting_easy": 11.1, "counting_hard": 6.3, "jigsaw_easy": 0.1, "jigsaw_hard": 0.0, "grounding": 25.4, "overall": 16.1}
    for key, value in paper.items():
        assert abs(ours[key] - value) <= error[key] + 0.05, f"{key}: {ours[key]:.2f} against {value}, standard error {error[key]:.2f}"
    assert all(abs(ours[key] - value) <= 2 * error[key] + 0.05 for key, value in published_rows()["Random guess"].items())
    assert abs(random_guess((8, 16))["grounding"] - 25.4) > 4 * error["grounding"], "the training scripts' lengths do not fit"


def test_random_guess_follows_the_definitions(monkeypatch):
    "Other presets, other guesses: nothing is written down."
    assert random_guess()["counting_easy"] == pytest.approx(100 / 9) and random_guess()["jigsaw_easy"] == pytest.approx(100 / 720)
    presets = TASKS["jigsaw"].difficulties
    monkeypatch.setitem(presets, "viubench_easy", replace(presets["viubench_easy"], n_clips=3))
    presets = TASKS["counting"].difficulties
    monkeypatch.setitem(presets, "viubench_hard", replace(presets["viubench_hard"], max_frames=1, max_instances=2))
    assert random_guess()["jigsaw_easy"] == pytest.approx(100 / 6) and random_guess()["counting_hard"] == pytest.approx(50)
    assert random_guess((1, 1), 10)["grounding_mirror"] == pytest.approx(10), "one frame of ten, hit or missed"
    # lengths 1 or 2 of 2 frames: segments 0-1, 1-2 (1/4 each) and 0-2 (1/2)
    assert random_guess((1, 2), 2)["grounding_mirror"] == pytest.approx(100 * (2 / 16 + 1 / 4 + 2 * 2 * 1 / 8 * 1 / 2))


def test_guessing_at_real_questions_lands_there(bench):
    "Guesses drawn like the truths, through parser, reward and scorer."
    rng, records = np.random.default_rng(5), []
    for key, (task, type, preset) in VIUBENCH.items():
        level, own = TASKS[task].difficulty(preset), type if task == "grounding" else key.partition("_")[2]

        def one(task=task, level=level):
            if task == "counting":
                return ",".join(map(str, rng.integers(1, level.max_frames * level.max_instances + 1, 3)))
            if task == "jigsaw":
                return "".join(map(str, rng.permutation(level.n_clips) + 1))
            length = rng.integers(level.min_length, level.max_length + 1)
            start = rng.integers(0, level.n_frames - length + 1)
            return f"{start:.1f}-{start + length:.1f}"

        records += [make_record(Sample(task, own, f"{k}.mp4", {}, "?", one(), index=k), one(), name="guess") for k in range(1000)]
    found, ours, error = score_viubench(records), random_guess(), random_guess_error(1000)
    for key in found:
        # a single hit among a thousand orders of eight clips counts 0.1
        assert abs(found[key] - ours[key]) <= 4 * error[key] + 0.1, key


def test_floors(bench):
    floors = viubench_floors(bench)
    for key in (*VIUBENCH, *GROUPS):
        assert 0 <= floors["random"][key] <= floors["best"][key] <= 100
    constant = max(Counter(sample.answer for sample in bench if key_of(sample) == "jigsaw_hard").values()) / 8
    assert floors["constant"]["jigsaw_hard"] == pytest.approx(100 * constant)


# --------------------------------------------------------------------------------------------------- tables and plots


def test_published_table_adds_up():
    rows = published_rows()
    assert len(rows) == 14 and rows["VideoSSR-8B"]["overall"] == 51.9 and rows["Qwen3-VL-8B"]["overall"] == 19.5
    for name, row in rows.items():
        for mean in MEANS:
            again = np.mean([row[key] for key in (GROUPS[mean])])
            assert abs(again - row[mean]) < 0.11 or (name, mean) == ("Seed1.5-VL", "counting"), (name, mean)


def test_tables(bench):
    weak, strong = answered(bench, lambda sample: "1.0-3.0", "weak"), answered(bench, lambda sample: sample.answer, "strong")
    scores = {"we|ak, 50 %_x": score_viubench(weak), "strong": score_viubench(strong), "partial": score_viubench(weak[:5])}
    rows = list(csv.reader(io.StringIO(viubench_table(scores, form="csv"))))
    assert {len(row) for row in rows} == {17} and [row[0] for row in rows[-3:]] == list(scores)
    assert dict(zip(rows[0], rows[-2], strict=True))["Overall"] == "100.0" and rows[-1][rows[0].index("Overall")] == ""
    assert dict(zip(rows[0], rows[14], strict=True))["Model"] == "VideoSSR-8B (paper)"
    latex = viubench_table(scores, form="latex")
    assert r"50 \%\_x" in latex and {line.count("&") for line in latex.splitlines() if line.endswith(r"\\")} == {16}
    markdown = viubench_table(scores)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines()} == {18}
    details = viubench_details({"weak": weak, "strong": strong}, viubench_floors(bench))
    assert len([line for line in details.splitlines() if line.startswith("|")]) == 2 + 16
    assert "100.0 [" in details and ", 100.0]*" in details and "100.0 [100.0" not in details, "six videos that are all right are no proof"
    assert "few videos (" in details and "p cannot fall below" in details and "few videos" not in viubench_details({"a": weak}, form="csv")
    assert "nan" not in details + markdown + viubench_details({"one": weak[:4]})


@pytest.mark.parametrize("n_runs", [1, 2, 5])
def test_picture(bench, n_runs, tmp_path):
    runs = {f"run {k}": answered(bench, lambda sample, k=k: sample.answer if sample.index % (k + 1) == 0 else "1.0-3.0") for k in range(n_runs)}
    draw_viubench(runs, viubench_floors(bench)).savefig(tmp_path / "v.png")
    assert Image.open(tmp_path / "v.png").size[0] > 400


def test_real_clips(real_videos):
    "The smallest benchmark of real clips, at full size: every question renders within the budget."
    bench = build_viubench(real_videos, per_type=1, progress=False)
    assert bench.counts() == dict.fromkeys(VIUBENCH, 1)
    for sample in bench:
        assert all(clip.height * clip.width <= 512 * 512 for clip in render(sample))
