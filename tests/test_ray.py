"The same dataset as tasks of Ray: a local Ray of two workers, one of which is killed half-way."
import contextlib
import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from videossr.data import build_dataset
from videossr.demo import demo_videos

ray = pytest.importorskip("ray", reason='pip install "videossr[ray]"')
SETTINGS = {"mix": "demo", "n": 150, "held_out": 0.25, "n_validation": 20, "shard_size": 15, "card": False, "progress": False}


@pytest.fixture(scope="module")
def cluster():
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return demo_videos(8, folder=tmp_path_factory.mktemp("videos"), progress=False)


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory):
    "What one machine makes of it."
    folder = tmp_path_factory.mktemp("one") / "dataset"
    build_dataset(videos, folder, **SETTINGS, workers=1)
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.name != "log.jsonl"}


def builders(folder):
    "Processes that make shards of this dataset, with the Ray workers that started them."
    for process in psutil.process_iter(["cmdline"]):
        if "_serve" in " ".join(process.info["cmdline"] or ()) and str(folder) in (process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):  # it may end while we look
                yield process, process.parent()


def kill_one(folder, killed):
    "Kills a Ray worker as soon as two shards are there and it is at work on a third."
    end = time.monotonic() + 120
    while time.monotonic() < end and not killed:
        if len(list(folder.glob("samples/*.parquet"))) >= 2:
            for _, worker in builders(folder):
                if worker is not None and worker.pid != os.getpid() and worker.is_running():
                    worker.kill()
                    killed.append(worker.pid)
                    return
        time.sleep(0.002)


def test_a_ray_job_with_a_killed_worker_gives_the_same_dataset(cluster, videos, whole, tmp_path):
    folder, killed = (tmp_path / "dataset").resolve(), []
    killer = threading.Thread(target=kill_one, args=(folder, killed))
    killer.start()
    build_dataset(videos, folder, **SETTINGS, cluster="ray", workers=2)
    killer.join()
    assert killed, "no worker was killed: the build was over too soon"
    assert contents(folder) == contents(whole)
    assert len((folder / "build" / "log.jsonl").read_text().splitlines()) == 12


def test_a_ray_job_finishes_what_was_begun_here(cluster, videos, whole, tmp_path):
    folder = tmp_path / "dataset"
    build_dataset(videos, folder, **SETTINGS, workers=1)
    for path in sorted((folder / "samples").iterdir())[::3]:
        path.unlink()
    build_dataset(videos, folder, **SETTINGS, cluster="ray")
    assert contents(folder) == contents(whole)
