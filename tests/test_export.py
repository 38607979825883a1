"Rows for other trainers: what is written can be read back as it was meant, and no frame tells that it was touched."
import asyncio
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

import videossr.beyond  # noqa: F401  its tasks are exported too
from videossr.data import (
    Mix,
    MixRow,
    build_dataset,
    export,
    export_easyr1,
    export_swift,
    export_verl,
    exported_answer,
    load_samples,
)
from videossr.data.export import (
    FrameFiles,
    VideoFiles,
    export_size,
    fit_clip,
    frame_sides,
    jpeg,
)
from videossr.demo import demo_videos, paint_evening, write_mp4
from videossr.policy import encode_sample, tiny_policy
from videossr.rewards import score_reply
from videossr.tasks import TASKS, Sample, make_sample, render
from videossr.video import Clip, fit_size, read_clip

TYPES = ("channel_swap", "mirror", "rotate180", "zoom_out")
EXPORTS = {"verl": export_verl, "swift": export_swift, "easyr1": export_easyr1}
SHAPES = {"4 to 3": (240, 320), "tall": (320, 214), "small": (60, 106)}  # height, width; none gives frames that a reader of lists would leave alone


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


@pytest.fixture(scope="module")
def shaped(tmp_path_factory):
    "A sample of every task of videos of each shape, at the paper's number of pixels."
    folder, drawn = tmp_path_factory.mktemp("shapes"), []
    frames = paint_evening(np.random.default_rng(0))
    for height, width in SHAPES.values():
        pictures = [np.asarray(Image.fromarray(frame).resize((width, height))) for frame in frames]
        video = write_mp4(folder / f"{height}x{width}.mp4", np.stack(pictures))
        ours = {task: maker for task, maker in TASKS.items() if type(maker).__module__.startswith("videossr.")}  # other tests register some
        for task, maker in ours.items():
            drawn.append(make_sample(task, video, difficulty=replace(maker.difficulty("demo"), max_pixels=256 * 256)))
    return drawn


@pytest.fixture(scope="module", params=[16, 14])
def sized(request, shaped, tmp_path_factory):
    "The patch size and the row files."
    return request.param, export_verl(shaped, tmp_path_factory.mktemp("sized"), patch_size=request.param, progress=False)


def rows_of(paths):
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def stored_frames(video):
    return np.stack([np.asarray(Image.open(path)) for path in video["video"]])


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
            stored = stored_frames(video)
            assert stored.shape == clip.frames.shape and np.abs(stored.astype(int) - clip.frames).mean() < 4
            assert video["sample_fps"] == pytest.approx(clip.fps)
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


def test_sides_survive_both_steps_of_a_reader_of_lists(sized):
    "Limits of the row in hand, each picture is resized for patches twice as large, then the video for those of the model."
    patch, paths = sized
    assert {len(row["videos"]) for row in rows_of(paths) if row["data_source"] == "jigsaw"} == {3}
    for row in rows_of(paths):
        for video in row["videos"]:
            height, width = stored_frames(video).shape[1:3]
            assert (height, width) == (row["extra_info"]["frame_height"], row["extra_info"]["frame_width"])
            for factor in (4 * patch, 2 * patch):
                assert smart_resize(height, width, factor, video["min_pixels"], video["max_pixels"]) == (height, width)


def test_frames_are_resized_once_and_the_export_says_to_what(shaped, sized):
    patch, paths = sized
    told = {(*line["rendered"], *line["written"]): line for line in json.loads((paths[0].parent / "sides.json").read_text())}
    assert list(told.values()) == frame_sides(paths) and sum(line["rows"] for line in told.values()) == len(shaped)
    for row, sample in zip(rows_of(paths), shaped, strict=True):
        for video, clip in zip(row["videos"], render(sample), strict=True):
            fitted = fit_clip(clip, 4 * patch)
            assert [Path(path).read_bytes() for path in video["video"]] == [jpeg(frame) for frame in fitted.frames]
            line = told[clip.height, clip.width, fitted.height, fitted.width]
            stretch = (fitted.width / fitted.height) / (clip.width / clip.height)
            assert line["shape_off"] == pytest.approx(max(stretch, 1 / stretch) - 1, abs=1e-3)
            assert line["pixels"] == pytest.approx(fitted.height * fitted.width / (clip.height * clip.width), abs=0.01)
    assert {line["shape_off"] for line in told.values()} != {0.0}, "some shapes have to give"


def test_sides_stay_within_reason():
    "Of all sizes of the kit: the shape hardly changes, no more than the budget or four times the pixels, few pixels lost."
    sizes = {fit_size(height, width, most) for most in (256 * 256, 512 * 512) for height in range(40, 800, 30) for width in range(40, 800, 30)}
    sizes = [(height, width) for height, width in sizes if max(height, width) <= 2.5 * min(height, width)]
    for multiple in (64, 56):
        stretched = []
        for height, width in sizes:
            tall, wide = export_size(height, width, multiple)
            assert tall % multiple == wide % multiple == 0
            assert 0.6 * height * width < tall * wide <= min(max(256 * 256, height * width), 4 * height * width)
            stretched.append(math.exp(abs(math.log(wide / tall * height / width))) - 1)
        assert np.mean(stretched) < 0.05 and max(stretched) <= 0.2 + 1e-9
    assert export_size(192, 320, 64) == (192, 320) and export_size(32, 32, 64) == (64, 64)


@pytest.mark.parametrize("patch", [16, 14])
def test_files_bring_limits_that_leave_them_alone(shaped, tmp_path, patch):
    [path] = export_swift(shaped, tmp_path / "swift", patch_size=patch, progress=False)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        for video in row["videos"]:
            with av.open(video) as box:
                size = box.streams.video[0].height, box.streams.video[0].width
            assert smart_resize(*size, 2 * patch, **row["chat_template_kwargs"]) == size


def test_what_easyr1_does_to_sides():
    "It resizes for patches of 14 whatever the model: a Qwen3-VL's processor then finds the multiples of 32 again."
    for height, width in {fit_size(height, width) for height in range(40, 800, 30) for width in range(40, 800, 30)}:
        once = smart_resize(height, width, 28, 784, 602_112)
        assert smart_resize(*once, 32, 4096 // 4, 602_112) == (height, width), "4,096 pixels of a whole video at least, so of four frames"
        fitted = export_size(height, width, 28)
        assert smart_resize(*fitted, 28, 784, 602_112) == fitted


def test_models_that_nobody_knows_are_refused(samples, tmp_path):
    for kind, write in EXPORTS.items():
        with pytest.raises(ValueError, match="patch_size=15 fits no model"):
            write(samples, tmp_path / kind, patch_size=15, progress=False)
        assert not (tmp_path / kind).exists()


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
    assert sum((broken / path.relative_to(whole)).exists() for path in paths) == 1
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
        assert set(row) == {"messages", "videos", "solution", "task", "answer", "chat_template_kwargs"}
        assert [message["role"] for message in row["messages"]] == ["system", "user"]
        assert row["messages"][1]["content"].count("<video>") == len(row["videos"]) == (3 if sample.task == "jigsaw" else 1)
        assert score_reply(row["task"], row["solution"], row["answer"]) == 1.0


def test_easyr1_rows_and_reward(samples, tmp_path):
    [path] = export_easyr1(samples, tmp_path, progress=False)
    assert list(path.parent.iterdir()) == [path], "a folder of nothing but rows can be trained on"
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


# ---------------------------------------------------------------------------------------------------- the readers themselves


@pytest.fixture
def reader():
    return pytest.importorskip("qwen_vl_utils", reason="pip install --no-deps qwen-vl-utils==0.0.14")


def test_qwen_vl_utils_leaves_every_frame_alone(reader, sized):
    "As verl calls it: the very pixels of the files arrive, of every task and shape."
    patch, paths = sized
    for row in rows_of(paths):
        content = [{"type": "video", **video} for video in row["videos"]]
        _, videos = reader.process_vision_info([{"role": "user", "content": content}], image_patch_size=patch, return_video_metadata=True)
        for (pixels, metadata), video in zip(videos, row["videos"], strict=True):
            stored = stored_frames(video)
            assert (pixels.permute(0, 2, 3, 1).numpy()[: len(stored)] == stored).all()
            assert metadata["fps"] == pytest.approx(video["sample_fps"])


def test_qwen_vl_utils_would_have_resized_them(reader, shaped, tmp_path):
    "Frames as rendered, with the limits of the published rows: what the sides are chosen for. One day a release may leave them alone."
    changed = []
    for number, sample in enumerate(shaped):
        clip = render(sample)[0]
        entry = {"video": FrameFiles(tmp_path).write(clip, str(number)), "sample_fps": clip.fps, "max_pixels": 256 * 256, "min_pixels": 1024}
        changed.append(tuple(reader.fetch_video(entry, image_patch_size=16).shape[2:]) != clip.frames.shape[1:3])
    assert all(changed)


@pytest.mark.parametrize("patch", [16, 14])
def test_qwen_vl_utils_leaves_files_alone(reader, shaped, tmp_path, patch):
    "As ms-swift and, for Qwen2.5-VL, EasyR1 call it."
    [lines] = export_swift(shaped, tmp_path / "swift", patch_size=patch, progress=False)
    [table] = export_easyr1(shaped, tmp_path / "easyr1", patch_size=patch, progress=False)
    files = [(file, patch, row["chat_template_kwargs"]) for row in map(json.loads, lines.read_text().splitlines()) for file in row["videos"]]
    if patch == 14:
        files += [(file, 14, {"min_pixels": 784, "max_pixels": 4_194_304}) for row in rows_of([table]) for file in row["videos"]]
    for file, size, limits in files:
        with av.open(file) as box:
            sides = box.streams.video[0].height, box.streams.video[0].width
        assert tuple(reader.fetch_video({"video": file, "fps": 60.0, **limits}, image_patch_size=size).shape[2:]) == sides


@pytest.fixture(scope="module")
def verl():
    "verl is no dependency: it is tested against where it is installed."
    how = "pip install --no-deps verl tensordict torchdata codetiming qwen-vl-utils pyvers && pip install hydra-core ray"
    pytest.importorskip("verl", reason=how)
    pytest.importorskip("qwen_vl_utils", reason=how)


@pytest.mark.parametrize("kind", ["as rendered", "resized"])
def test_verls_own_dataset_reads_the_rows(verl, samples, written, shaped, sized, kind):
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    policy = tiny_policy()
    patch = 16
    if kind == "resized":
        (patch, written), samples = sized, shaped
    config = OmegaConf.create({"video_key": "videos", "reward_fn_key": "data_source", "image_patch_size": 16, "max_prompt_length": 4096,
                               "filter_overlong_prompts": True, "cache_dir": str(written[0].parent / "cache")})  # fmt: skip
    dataset = RLHFDataset([str(path) for path in written], policy.tokenizer, config, policy.processor)
    assert len(dataset) == len(samples)
    for number, sample in enumerate(samples):
        row, clips = dataset[number], [fit_clip(clip, 4 * patch) for clip in render(sample)]
        assert row["index"] == number and row["data_source"] == sample.task
        _, videos = asyncio.run(RLHFDataset.process_vision_info(row["raw_prompt"], patch, config))
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
