"Samples come as they were built, by number, as a stream, from the Hub or with stored frames; nothing is decoded twice or kept without bound."
import json
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from videossr.data import FrameCache, Rendered, Samples, build_dataset, find_videos, get_mix, load, load_samples, sample_of_verl, save_samples, to_trl_dataset, use_frame_cache
from videossr.demo import demo_videos
from videossr.grpo import VideoGRPOConfig, VideoGRPOTrainer
from videossr.policy import load_policy, tiny_policy
from videossr.tasks import core, render
from videossr.video import VideoError, read_clip


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    demo_videos(5, folder=folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def dataset(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "dataset"
    build_dataset(videos, folder, "demo", 44, held_out=0.2, n_validation=6, shard_size=10, workers=1, card=False, progress=False)
    return folder


@pytest.fixture
def fresh():
    "An empty cache in memory, and none on disk afterwards."
    most = core.CLIP_CACHE.max_bytes
    core.CLIP_CACHE.clips.clear()
    core.CLIP_CACHE.n_bytes = 0
    yield
    use_frame_cache(None, in_memory=most)
    core.CLIP_CACHE.clips.clear()
    core.CLIP_CACHE.n_bytes = 0


# ------------------------------------------------------------------------------------------------------- whose samples


def test_any_order_of_reading_gives_the_same(dataset):
    samples = load_samples(dataset)
    assert isinstance(samples, Samples) and len(samples) == 44
    whole = list(samples)
    assert [samples[k] for k in range(43, -1, -1)] == whole[::-1] and samples[-44] == whole[0]
    assert samples[3:40:7] == whole[3:40:7] and samples == whole and whole == samples
    assert list(load_samples(dataset, streaming=True)) == whole
    assert [sample for part in range(4) for sample in samples.part(part, 4)] == whole
    assert samples.part(1, 2).part(1, 2)[-1] == whole[-1]
    assert samples != whole[:-1] and samples != whole[::-1]


def test_few_tables_are_in_memory(dataset):
    samples = load_samples(dataset)
    samples.rows.keep = 2
    for number in np.random.default_rng(0).permutation(44):
        assert samples[int(number)].index == number
        assert len(samples.rows.tables) <= 2


def test_a_moved_dataset_finds_its_videos(dataset, videos, tmp_path):
    there = load_samples(dataset)[0]
    os.link(there.video, tmp_path / Path(there.video).name)
    here = load_samples(dataset, video_dir=tmp_path)[0]
    assert Path(here.video).parent == tmp_path and Path(there.video).parent == videos
    assert all(np.array_equal(one.frames, two.frames) for one, two in zip(render(here), render(there), strict=True))


def test_a_folder_of_plain_files(dataset, tmp_path):
    samples = list(load_samples(dataset))
    for number in range(2):
        save_samples(samples[number * 5 : number * 5 + 5], tmp_path / f"{number}.parquet")
    assert list(load_samples(tmp_path)) == samples[:10]
    with pytest.raises(ValueError, match="no parquet files of the split 'validation'; there are 0.parquet, 1.parquet"):
        load_samples(tmp_path, "validation")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_name_on_the_hub_goes_to_datasets(dataset, monkeypatch, streaming):
    from datasets import load_dataset

    asked = []

    def local(name, split, streaming):
        asked.append((name, split, streaming))
        files = {split: sorted(map(str, (dataset / "samples").glob(f"{split}-*")))}
        return load_dataset("parquet", data_files=files, split=split, streaming=streaming)

    monkeypatch.setattr("datasets.load_dataset", local)
    found = load_samples("someone/VideoSSR-30K", "validation", video_dir="clips", streaming=streaming)
    expected = list(load_samples(dataset, "validation", video_dir="clips"))
    assert list(found) == expected and asked == [("someone/VideoSSR-30K", "validation", streaming)]


def test_a_bad_row_is_named_when_it_is_read(dataset, tmp_path):
    rows = pq.read_table(dataset / "samples" / "train-00000.parquet").to_pandas()
    rows.loc[4, "recipe"] = "{half"
    (tmp_path / "a").mkdir()
    rows.to_parquet(tmp_path / "a" / "train-00000.parquet")
    samples = load_samples(tmp_path / "a")
    assert samples[3].index == 3
    with pytest.raises(ValueError, match="train-00000.parquet, row 4: the recipe is not JSON"):
        samples[4]


def test_lists_globs_and_mixes_from_files(videos, tmp_path):
    names = sorted(path.name for path in videos.iterdir())
    pd.DataFrame({"path": [str(videos / name) for name in names[:3]]}).to_parquet(tmp_path / "list.parquet")
    (tmp_path / "list.txt").write_text("\n".join(str(videos / name) for name in names[2:]) + "\n\n")
    assert [path.name for path in find_videos(tmp_path / "list.parquet")] == names[:3]
    assert [path.name for path in find_videos(tmp_path / "list.txt")] == names[2:]
    assert [path.name for path in find_videos(videos / "*-00[13].*")] == ["evening-001.mp4", "evening-003.mp4"]
    with pytest.raises(ValueError, match="no video files"):
        find_videos(videos / "*.mov")
    (tmp_path / "mix.csv").write_text("task,type,difficulty,share\ngrounding,mirror,demo,0.4\njigsaw,,demo,0.6\n")
    mix = get_mix(tmp_path / "mix.csv")
    assert [(row.task, row.type, row.share) for row in mix.rows] == [("grounding", "mirror", 2), ("jigsaw", None, 3)]
    for wrong, message in (("0", "must be above 0"), ("-1", "must be above 0"), ("x", "not a number")):
        with pytest.raises(ValueError, match=message):
            get_mix([{"task": "jigsaw", "share": wrong}])
    with pytest.raises(ValueError, match="row 0 of the mix"):
        get_mix([{"kind": "jigsaw"}])


# ------------------------------------------------------------------------------------------------------ published rows


def published_row(folder, index, source, parts, truth, text, **extra):
    "A row as VideoSSR-30K has them, with pictures in a folder."
    lists = []
    for number, frames in enumerate(parts):
        paths = [folder / f"{index}-{number}" / f"{k:03d}.jpg" for k in range(len(frames))]
        paths[0].parent.mkdir(parents=True)
        for path, frame in zip(paths, frames, strict=True):
            Image.fromarray(frame).save(path, quality=95)
        lists.append({"video": [str(path.relative_to(folder)) for path in paths], "sample_fps": 1.5, "max_pixels": 256 * 256, "min_pixels": 32 * 32})
    prompt = [{"role": "system", "content": "Answer directly."}, {"role": "user", "content": text}]
    return {"data_source": source, "prompt": prompt, "videos": lists, "ability": "video_understanding", "reward_model": {"style": "rule", "ground_truth": truth},
            "extra_info": {"split": "train", "index": 0, "video_id": f"v{index}", "perturbation_type": None, **extra}}  # fmt: skip


@pytest.fixture(scope="module")
def published(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    frames = read_clip(videos / "evening-001.mp4", n_frames=12, max_pixels=64 * 64).frames
    spoiled = np.where((np.arange(12) // 4 == 1)[:, None, None, None], frames[:, :, ::-1], frames)
    rows = [
        published_row(folder, 0, "grounding", [spoiled], "2.7-5.3", "<video>\nWhen is it mirrored?", perturbation_type="Mirror", start_frame_index=4, perturbed_frames_count=4),
        published_row(folder, 1, "shuffled", [frames[8:], frames[:4], frames[4:8]], "231", "Clip 1: <video>\nClip 2: <video>\nClip 3: <video>\nWhich order?"),
        published_row(folder, 2, "counting", [frames], "1,2,3", "<video>How many?"),
    ]
    pd.DataFrame(rows).to_parquet(folder / "train.parquet")
    return folder


def test_published_rows_become_samples(published):
    samples = load_samples(published / "train.parquet", video_dir=published)
    assert [(one.task, one.type, one.answer, one.question) for one in samples] == [
        ("grounding", "mirror", "2.7-5.3", "When is it mirrored?"), ("jigsaw", "order", "231", "Which order?"), ("counting", "shapes", "1,2,3", "How many?"),
    ]  # fmt: skip
    assert samples[0].recipe["start"] == 4 and [len(render(one)) for one in samples] == [1, 3, 1]
    clip = render(samples[0])[0]
    assert clip.times.tolist() == [k / 1.5 for k in range(12)] and clip.frames.shape[0] == 12
    assert len({one.video for one in samples}) == 3


def test_published_rows_train_as_they_are(published, tmp_path):
    samples = load_samples(published / "train.parquet", video_dir=published)
    config = VideoGRPOConfig.demo(str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_steps=2, warmup_steps=0, max_completion_length=4,
                                  disable_tqdm=True, gradient_accumulation_steps=1)  # fmt: skip
    policy = load_policy(tiny_policy().save(tmp_path / "start"), device="cpu")
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    seen = []

    def uneven(completions, task, answer, **columns):  # a new policy's answers all score 0, and equal rewards teach nothing
        seen.extend(zip(task, answer, strict=True))
        return [float(number % 2) for number in range(len(completions))]

    trainer = VideoGRPOTrainer(model=policy.model, reward_funcs=[uneven], args=config, train_dataset=to_trl_dataset(samples), processing_class=policy.processor)
    trainer.train()
    assert trainer.state.global_step == 2 and set(seen) <= {(sample.task, sample.answer) for sample in samples}
    assert any(not np.array_equal(before[name].numpy(), value.numpy()) for name, value in policy.model.state_dict().items())


@pytest.mark.parametrize("spoil", [
    lambda row: row.pop("videos"), lambda row: row.update(videos=[{"video": "a.mp4", "sample_fps": 1.0}]), lambda row: row["videos"][0].pop("sample_fps"),
    lambda row: row.update(prompt=[{"role": "system", "content": "x"}]), lambda row: row.update(reward_model={}), lambda row: row.update(videos=[]),
])  # fmt: skip
def test_a_row_of_another_form_is_named(published, spoil):
    row = pq.read_table(published / "train.parquet").to_pylist()[0]
    spoil(row)
    with pytest.raises(ValueError, match="train.parquet, row 7: not a row with frame lists"):
        sample_of_verl(row, "train.parquet, row 7")


def test_a_lost_frame_is_named(published):
    sample = load_samples(published / "train.parquet", video_dir=published / "elsewhere")[0]
    with pytest.raises(VideoError, match="000.jpg: there is no such file"):
        render(sample)


# --------------------------------------------------------------------------------------------------------------- cache


def test_nothing_is_decoded_twice(dataset, fresh, tmp_path, monkeypatch):
    samples, decoded = load_samples(dataset)[:12], []
    plain = [render(sample) for sample in samples]
    monkeypatch.setattr(load, "read_clip", lambda path, **reading: decoded.append(path) or read_clip(path, **reading))
    for _ in range(3):  # epochs of processes that remember nothing
        core.CLIP_CACHE.clips.clear()
        cache = use_frame_cache(tmp_path / "cache")
        for sample, expected in zip(samples, plain, strict=True):
            assert all(np.array_equal(one.frames, two.frames) and np.array_equal(one.times, two.times) for one, two in zip(render(sample), expected, strict=True))
    assert cache.misses == 0 and len(decoded) == len({(sample.video, json.dumps(sample.recipe["read"])) for sample in samples})


def test_a_changed_video_is_decoded_again(videos, tmp_path):
    cache, path = FrameCache(tmp_path / "cache"), tmp_path / "a.mp4"
    path.write_bytes((videos / "evening-000.mp4").read_bytes())
    first = cache.read(str(path), n_frames=4).frames.copy()
    path.write_bytes((videos / "evening-001.mp4").read_bytes())
    assert not np.array_equal(cache.read(str(path), n_frames=4).frames, first) and cache.misses == 2


def test_the_cache_is_bounded_and_drops_the_oldest(videos, tmp_path):
    one = read_clip(videos / "evening-000.mp4", n_frames=6, max_pixels=64 * 64).frames.nbytes
    cache = FrameCache(tmp_path / "cache", max_bytes=3 * one + 2000)
    paths = [str(path) for path in sorted(videos.iterdir())]
    for number, path in enumerate(paths):
        cache.read(path, n_frames=6, max_pixels=64 * 64)
        cache.read(paths[0], n_frames=6, max_pixels=64 * 64)  # used all the time, so it stays
        os.utime(next(iter(cache.folder.glob("*[0-9a-f].npy"))))
        assert sum(file.stat().st_size for file in cache.folder.glob("*[0-9a-f].npy")) <= cache.max_bytes, number
    assert len(list(cache.folder.iterdir())) <= 6 and not list(cache.folder.glob("*.part"))


def test_a_damaged_or_missing_file_of_the_cache_is_a_miss(videos, tmp_path):
    cache, path = FrameCache(tmp_path), str(videos / "evening-002.mp4")
    expected = cache.read(path, n_frames=5).frames.copy()
    [file] = tmp_path.glob("*[0-9a-f].npy")
    file.write_bytes(b"half")
    assert np.array_equal(cache.read(path, n_frames=5).frames, expected)
    file.unlink()
    assert np.array_equal(cache.read(path, n_frames=5).frames, expected) and cache.misses == 3


def test_many_readers_share_a_cache(videos, tmp_path):
    paths, errors = [str(path) for path in sorted(videos.iterdir())], []
    expected = {path: read_clip(path, n_frames=4, max_pixels=64 * 64).frames for path in paths}

    def read(seed):
        cache = FrameCache(tmp_path, max_bytes=2 * expected[paths[0]].nbytes + 1000)
        for number in np.random.default_rng(seed).integers(0, len(paths), 15):
            if not np.array_equal(cache.read(paths[number], n_frames=4, max_pixels=64 * 64).frames, expected[paths[number]]):
                errors.append(paths[number])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_renders_in_its_workers(dataset, fresh, tmp_path, workers):
    samples = load_samples(dataset)
    loader = DataLoader(Rendered(samples, tmp_path / "cache", in_memory=2**20), batch_size=5, num_workers=workers, collate_fn=list, shuffle=False)
    items = [item for batch in loader for item in batch]
    assert [sample for sample, _ in items] == list(samples)
    assert list((tmp_path / "cache").glob("*.npy"))
    for sample, clips in items[::11]:
        assert all(np.array_equal(one.frames, two.frames) for one, two in zip(clips, render(sample), strict=True))
