"""Long work: memory flat, no process or file handle left, speed steady. A short run of it with every run of the tests; `pytest -m slow` reads
2,000 videos and trains 500 steps."""
import gc
import os
import statistics
import struct
import time
from pathlib import Path

import psutil
import pytest
from torch.utils.data import DataLoader

from videossr import launch, runs
from videossr.data import Rendered, build_dataset, load_samples
from videossr.demo import demo_videos
from videossr.tasks import core
from videossr.video import read_clip


def state():
    "MB of this process and its children, its file handles, its children."
    gc.collect()
    here = psutil.Process()
    family = here.children(recursive=True)
    return sum(one.memory_info().rss for one in [here, *family]) / 2**20, here.num_fds() if hasattr(here, "num_fds") else 0, len(family)


@pytest.mark.parametrize(("n", "most_mb"), [(60, 60), pytest.param(2000, 120, marks=pytest.mark.slow)])
def test_many_videos(tmp_path, monkeypatch, capsys, n, most_mb):
    "Every path is a file of its own: nothing may be remembered of it but what the bounded cache holds."
    sources = demo_videos(4, folder=tmp_path / "sources", progress=False)
    monkeypatch.setattr(core, "CLIP_CACHE", core.ClipCache(max_bytes=8 * 2**20))
    rows = []
    for number in range(n):
        path = tmp_path / f"{number}.mp4"
        os.link(sources[number % 4], path)
        begin = time.perf_counter()
        core.CLIP_CACHE.read(str(path), n_frames=8)
        rows.append(time.perf_counter() - begin)
        if number == n // 4:
            before = state()
        path.unlink()
    after = state()
    early, late = statistics.median(rows[n // 4 : n // 2]), statistics.median(rows[-n // 4 :])
    with capsys.disabled():
        print(f"\n{n} videos: MB, handles, children {before} -> {after}; seconds a video {early:.4f} -> {late:.4f}") if n > 100 else None
    assert after[0] - before[0] < most_mb and after[1] - before[1] <= 4 and after[2] <= max(before[2], os.cpu_count() or 1)
    assert len(read_clip(sources[0], n_frames=2)) == 2


def different_videos(folder, n, sources):
    "Files of different bytes: each ends with an mp4 box of its own that decoders skip."
    folder.mkdir()
    for number in range(n):
        content = sources[number % len(sources)].read_bytes()
        (folder / f"{number:05d}.mp4").write_bytes(content + struct.pack(">I4sQ", 16, b"free", number))


@pytest.mark.parametrize(("n", "most_mb"), [(40, 100), pytest.param(2000, 150, marks=pytest.mark.slow)])
def test_many_videos_from_build_to_batches(tmp_path, capsys, n, most_mb):
    "A dataset of them, read twice by two workers that share a cache of frames with room for a fifth."
    different_videos(tmp_path / "videos", n, [Path(path) for path in demo_videos(4, folder=tmp_path / "sources", progress=False)])
    before, begin = state(), time.perf_counter()
    built = build_dataset(tmp_path / "videos", tmp_path / "dataset", "demo", n, held_out=0, shard_size=max(10, n // 20), workers=2, card=False, progress=False)
    samples, seconds = load_samples(built.folder), time.perf_counter() - begin
    assert len(samples) == n and state()[1] - before[1] <= 4 and state()[2] <= before[2] + 1
    room = n // 5 * 16 * 64 * 64 * 3
    rendered = Rendered(samples, tmp_path / "cache", max_bytes=room, in_memory=2**20)
    loader = DataLoader(rendered, batch_size=10, num_workers=2, collate_fn=list, persistent_workers=True)
    rows = []
    for _ in range(2):
        for batch in loader:
            assert all(clips and all(len(clip) for clip in clips) for _, clips in batch)
            rows.append((time.perf_counter(), *state()))
    del loader
    quarter = len(rows) // 4
    early, late = ((rows[at + quarter - 1][0] - rows[at][0]) / quarter / 10 for at in (quarter, len(rows) - quarter))
    with capsys.disabled():
        print(f"\n{n} videos, {seconds:.0f} s to build; MB, handles, children {rows[quarter][1:]} -> {rows[-1][1:]}; seconds a video {early:.4f} -> {late:.4f}") if n > 100 else None
    assert rows[-1][1] - rows[quarter][1] < most_mb and rows[-1][2] - rows[quarter][2] <= 4 and rows[-1][3] <= rows[quarter][3]
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= room * 1.1


@pytest.mark.slow
def test_many_steps(tmp_path, monkeypatch, capsys):
    "500 steps of the tiny policy; the first fifth warms up."
    marks = []
    log = runs.RunLog.on_log

    def watch(self, args, step, control, logs=None, **more):
        log(self, args, step, control, logs=logs, **more)
        if logs and "reward" in logs and step.global_step % 50 == 0:
            marks.append((step.global_step, *state(), time.perf_counter()))

    monkeypatch.setattr(runs.RunLog, "on_log", watch)
    demo_videos(4, folder=tmp_path / "videos", progress=False)
    small = {"steps": 500, "save_steps": 250, "n_train": 16, "n_held_out": 4, "warm_steps": 2, "groups": 1, "group_size": 4, "rollout_steps": 50, "tasks": "counting"}
    launch.train_run(launch.open_run({**small, "output_dir": str(tmp_path / "run"), "video_dir": str(tmp_path / "videos")}), progress=False)
    with capsys.disabled():
        print(f"\nstep, MB, handles, children, seconds: {[tuple(round(value, 1) for value in row) for row in marks]}")
    first, last = marks[1], marks[-1]
    assert last[0] == 500 and last[1] - first[1] < 150 and last[2] - first[2] <= 8 and last[3] <= first[3] + 1
