"Rows for other trainers: what is written can be read back as it was meant, and no frame tells that it was touched."
import asyncio
import json
import os
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from videossr.data import Mix, MixRow, build_dataset, export, export_easyr1, export_swift, export_verl, exported_answer, load_samples
from videossr.data.export import FrameFiles, VideoFiles, jpeg
from videossr.demo import demo_videos
from videossr.policy import encode_sample, tiny_policy
from videossr.rewards import score_reply
from videossr.tasks import Sample, render
from videossr.video import Clip, read_clip

TYPES = ("channel_swap", "mirror", "rotate180", "zoom_out")
EXPORTS = {"verl": export_verl, "swift": export_swift, "easyr1": export_easyr1}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    demo_videos(4, folder=folder / "videos", progress=False)
    mix = Mix((*(MixRow("grounding", kind, "demo") for kind in TYPES), MixRow("jigsaw", "order", "demo"), MixRow("counting", "shapes", "demo")))
    build_dataset(folder / "videos", folder / "dataset", mix, 18, held_out=0, one_task=False, workers=1, card=False, progress=False)
    return load_samples(folder / "dataset")


@pytest.fixture(scope="module")
def written(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verl")
    return export_verl(samples, folder, system="Answer directly.", shard_size=7, progress=False)


def rows_of(paths):
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_verl_rows_have_every_key_and_no_hole(written):
    assert [path.name for path in written] == ["train-00000.parquet", "train-00001.parquet", "train-00002.parquet"]
    assert len({pq.read_schema(path) for path in written}) == 1
    for number, row in enumerate(rows_of(written)):
        assert list(row) == ["data_source", "prompt", "videos", "ability", "reward_model", "extra_info"]
        assert row["extra_info"]["index"] == number and row["ability"] == "video_understanding"
        assert None not in [*row.values(), *row["extra_info"].values(), *row["reward_model"].values()]
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert row["prompt"][1]["content"].count("<video>") == len(row["videos"])
        assert all(Path(path).is_absolute() and Path(path).exists() for video in row["videos"] for path in video["video"])


def test_frames_and_answers_are_those_of_the_sample(samples, written):
    for row, sample in zip(rows_of(written), samples, strict=True):
        clips = render(sample)
        for video, clip in zip(row["videos"], clips, strict=True):
            stored = np.stack([np.asarray(Image.open(path)) for path in video["video"]])
            assert stored.shape == clip.frames.shape and np.abs(stored.astype(int) - clip.frames).mean() < 4
            assert video["sample_fps"] == pytest.approx(clip.fps)
            assert video["min_pixels"] <= clip.height * clip.width <= video["max_pixels"], "no frame is resized again"
        truth = row["reward_model"]["ground_truth"]
        if sample.task == "grounding":
            start, length = sample.recipe["start"], sample.recipe["length"]
            assert truth == f"{start / clips[0].fps:.1f}-{(start + length) / clips[0].fps:.1f}"
            assert (row["extra_info"]["start_frame_index"], row["extra_info"]["perturbed_frames_count"]) == (start, length)
        else:
            assert truth == sample.answer


def test_rows_read_back_train_as_they_are(samples, written):
    policy = tiny_policy()
    for path in written:
        for back in load_samples(path):
            sample = samples[back.index]
            assert (back.task, back.type, back.question) == (sample.task, sample.type, sample.question)
            assert back.recipe["system"] == "Answer directly."
            ours, theirs = encode_sample(policy, sample), encode_sample(policy, back)
            assert ours.video_grid_thw.tolist() == theirs.video_grid_thw.tolist()
            assert (ours.pixel_values_videos - theirs.pixel_values_videos).abs().mean() < 0.05
            assert score_reply(back.task, exported_answer(sample, render(sample)), back.answer) == 1.0


def test_all_frames_have_one_encoder_and_quality(written):
    "Header, tables and subsampling of every file are the same; only the entropy-coded part differs."
    heads = set()
    for row in rows_of(written):
        for video in row["videos"]:
            for path in video["video"]:
                picture = Image.open(path)
                heads.add((picture.format, picture.size, str(picture.quantization), str(picture.layer), str(sorted(picture.info))))
    assert len({head[2:] for head in heads}) == 1


def test_a_file_is_what_its_pixels_give_whether_touched_or_not(samples, written):
    "No frame went through an encoder twice: encoding the rendered pixels afresh gives the very bytes."
    for row, sample in zip(rows_of(written), samples, strict=True):
        for video, clip in zip(row["videos"], render(sample), strict=True):
            for path, frame in zip(video["video"], clip.frames, strict=True):
                assert Path(path).read_bytes() == jpeg(frame)


@pytest.mark.parametrize("kind", sorted(EXPORTS))
def test_an_interrupted_export_is_finished(samples, tmp_path, kind, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    paths = EXPORTS[kind](samples, whole, shard_size=6, progress=False)
    calls = []

    def stop(sample):
        calls.append(sample)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return render(sample)

    monkeypatch.setattr(export, "render", stop)
    with pytest.raises(KeyboardInterrupt):
        EXPORTS[kind](samples, broken, shard_size=6, progress=False)
    monkeypatch.undo()
    assert len(list((broken / "train").glob("train-*"))) == 1
    EXPORTS[kind](samples, broken, shard_size=6, progress=False)
    one, two = contents(whole), contents(broken)
    assert set(one) == set(two) and len(paths) == 3
    assert all(one[name] == two[name] for name in one if name.endswith((".jpg", ".mp4", ".py")))
    with pytest.raises(ValueError, match="holds another export: samples, digest differ"):
        EXPORTS[kind](samples[:3], broken, shard_size=6, progress=False)


def test_swift_rows(samples, tmp_path):
    [path] = export_swift(samples, tmp_path, system="Be brief.", progress=False)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, sample in zip(rows, samples, strict=True):
        assert set(row) == {"messages", "videos", "solution", "task", "answer"}
        assert [message["role"] for message in row["messages"]] == ["system", "user"]
        assert row["messages"][1]["content"].count("<video>") == len(row["videos"]) == (3 if sample.task == "jigsaw" else 1)
        assert score_reply(row["task"], row["solution"], row["answer"]) == 1.0


def test_easyr1_rows_and_reward(samples, tmp_path):
    [path] = export_easyr1(samples, tmp_path, progress=False)
    reward: dict = {}
    exec((tmp_path / "reward.py").read_text(), reward)
    for row, sample in zip(pq.read_table(path).to_pylist(), samples, strict=True):
        assert row["problem"].count("<video>") == len(row["videos"]) and row["answer"].startswith(sample.task + " ")
        entry = {"response": row["answer"].split(" ")[1], "response_length": 4, "ground_truth": row["answer"]}
        assert reward["compute_score"]([entry, {**entry, "response": "none"}])[0]["overall"] == 1.0
        assert reward["compute_score"](entry)["overall"] == 1.0
    assert pq.read_schema(path).names == ["problem", "answer", "videos"]


@pytest.mark.parametrize("fps", [0.4, 1.0, 2.222222, 29.97])
def test_videos_keep_frames_and_times(tmp_path, fps):
    clip = read_clip(demo_videos(1, folder=tmp_path / "v", progress=False)[0], n_frames=16, max_pixels=96 * 96)
    clip = Clip(clip.frames, np.arange(len(clip)) / fps)
    path = VideoFiles(tmp_path).write(clip, "a/0")
    back = read_clip(path, n_frames=len(clip), trim=0.0, max_pixels=96 * 96)
    assert len(back) == len(clip) and np.allclose(back.times, clip.times, atol=2e-3 / fps + 1e-3)
    assert np.abs(back.frames.astype(int) - clip.frames).mean() < 3
    with av.open(path) as box:
        assert {packet.is_keyframe for packet in box.demux(video=0) if packet.size} == {True}


def test_equal_frames_are_one_file(tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    clip = Clip(np.concatenate([frames, frames]), np.arange(8.0))
    paths = FrameFiles(tmp_path).write(clip[:4], "a") + FrameFiles(tmp_path).write(clip[:4], "b")
    assert len({os.stat(path).st_ino for path in paths}) == 8, "two writers know nothing of each other"
    files = FrameFiles(tmp_path / "linked", most=2)
    paths = files.write(clip[:4], "a") + files.write(clip[:4], "b")
    assert len({os.stat(path).st_ino for path in paths}) <= 6 and len(files.known) == 2
    monkeypatch.setattr(export.os, "link", lambda *paths: (_ for _ in ()).throw(OSError("no links here")))
    files = FrameFiles(tmp_path / "copied")
    assert [Path(path).read_bytes() for path in files.write(clip, "a")] == [jpeg(frame) for frame in clip.frames]


def test_answers_of_unknown_recipes_move_with_the_clock():
    clip = Clip(np.zeros((10, 32, 32, 3), np.uint8), 5 + np.arange(10) * 0.5)
    sample = Sample("grounding", "own", "a.mp4", {}, "?", "6.0-7.5")
    assert exported_answer(sample, [clip]) == "1.0-2.5"
    assert exported_answer(Sample("counting", "shapes", "a.mp4", {}, "?", "1,2,3"), [clip]) == "1,2,3"


# --------------------------------------------------------------------------------------------------------- verl itself


@pytest.fixture(scope="module")
def verl():
    "verl is no dependency: it is tested against where it is installed."
    how = "pip install --no-deps verl tensordict torchdata codetiming qwen-vl-utils pyvers && pip install hydra-core ray"
    pytest.importorskip("verl", reason=how)
    pytest.importorskip("qwen_vl_utils", reason=how)


def test_verls_own_dataset_reads_the_rows(verl, samples, written):
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    policy = tiny_policy()
    config = OmegaConf.create({"video_key": "videos", "reward_fn_key": "data_source", "image_patch_size": 16, "max_prompt_length": 4096,
                               "filter_overlong_prompts": True, "cache_dir": str(written[0].parent / "cache")})  # fmt: skip
    dataset = RLHFDataset([str(path) for path in written], policy.tokenizer, config, policy.processor)
    assert len(dataset) == len(samples)
    for number, sample in enumerate(samples):
        row, clips = dataset[number], render(sample)
        assert row["index"] == number and row["data_source"] == sample.task
        _, videos = asyncio.run(RLHFDataset.process_vision_info(row["raw_prompt"], 16, config))
        assert len(videos) == len(clips)
        for (pixels, metadata), clip in zip(videos, clips, strict=True):
            seen = pixels.permute(0, 2, 3, 1).numpy()[: len(clip)]
            assert seen.shape == clip.frames.shape and np.abs(seen - clip.frames).mean() < 4
            assert metadata["fps"] == pytest.approx(clip.fps)


def test_verls_own_loader_loads_the_reward(verl, written):
    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import get_custom_reward_fn

    path = written[0].parent.parent / "reward.py"
    config = OmegaConf.create({"reward": {"custom_reward_function": {"path": str(path), "name": "compute_score"}}})
    reward = get_custom_reward_fn(config)
    for row in rows_of(written):
        truth = row["reward_model"]["ground_truth"]
        score = reward(data_source=row["data_source"], solution_str=truth, ground_truth=truth, extra_info=row["extra_info"])
        assert score == 1.0
        assert reward(data_source=row["data_source"], solution_str="", ground_truth=truth, extra_info=row["extra_info"]) == 0.0
