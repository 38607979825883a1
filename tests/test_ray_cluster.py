"Several nodes: raylets of a cluster on this machine, one of which is killed, or has folders of its own. They share a machine, so what is tried is Ray's and ours, not a network."
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_ray import SETTINGS, contents

from videossr.data import build, build_dataset
from videossr.demo import demo_videos

ray = pytest.importorskip("ray", reason='pip install "videossr[ray]"')
pytestmark = pytest.mark.slow


def patiently(start):
    "Ray gives a raylet thirty seconds to start, which a busy machine may need twice."
    for _ in range(3):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


@pytest.fixture
def cluster():
    "A first node without CPUs for shards, to which others are added; its object stores are as small as Ray allows."
    from ray.cluster_utils import Cluster

    made = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False}))
    ray.init(address=made.address, log_to_driver=False, logging_level="error")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return demo_videos(8, folder=tmp_path_factory.mktemp("videos"), progress=False)


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "dataset"
    build_dataset(videos, folder, **SETTINGS, workers=1)
    return folder


def add(cluster):
    return patiently(lambda: cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20))


def when_there_are(folder, n, act):
    "Calls `act` in a thread of its own once n shards are there."

    def wait():
        until = time.monotonic() + 120
        while len(list(folder.glob("samples/*.parquet"))) < n and time.monotonic() < until:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_lost_node_costs_nothing_but_time(cluster, videos, whole, tmp_path):
    nodes, folder = [add(cluster), add(cluster)], tmp_path / "dataset"
    killer = when_there_are(folder, 2, lambda: cluster.remove_node(nodes[0], allow_graceful=False))
    build_dataset(videos, folder, **SETTINGS, cluster="ray")
    killer.join()
    assert sum(node["Alive"] for node in ray.nodes()) == 2, "no node was lost"
    assert contents(folder) == contents(whole)


def test_when_all_nodes_are_lost_it_says_so_and_goes_on_later(cluster, videos, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_RAY_PAUSE", 2.0)
    node, folder = add(cluster), tmp_path / "dataset"
    killer = when_there_are(folder, 2, lambda: cluster.remove_node(node, allow_graceful=False))
    with pytest.raises(RuntimeError, match="no node of the cluster that has a CPU is left; .* run the same command again"):
        build_dataset(videos, folder, **SETTINGS, cluster="ray")
    killer.join()
    add(cluster)
    build_dataset(videos, folder, **SETTINGS, cluster="ray")
    assert contents(folder) == contents(whole)


def test_nothing_large_goes_through_the_object_store(cluster, videos, tmp_path):
    add(cluster)
    build_dataset(videos, tmp_path / "dataset", **SETTINGS, cluster="ray")
    shown = subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "memory", "--address", cluster.address, "--stats-only"], capture_output=True, text=True, check=True).stdout
    assert "Spilled" not in shown and "Plasma memory usage 0 MiB" in shown, shown


def can_hide():
    return shutil.which("unshare") and not subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode


@pytest.mark.skipif(not can_hide(), reason="hiding a folder from a node takes the right to make name spaces (unshare -m)")
@pytest.mark.parametrize("hidden", ["dataset", "videos"])
def test_a_node_that_does_not_share_a_folder_is_named_before_the_first_shard(cluster, tmp_path, monkeypatch, hidden):
    monkeypatch.setattr(build._check_nodes, "__defaults__", (2.0,))
    add(cluster)
    (tmp_path / "dataset").mkdir()
    demo_videos(8, folder=tmp_path / "videos", progress=False)
    start = f"mount -t tmpfs none '{tmp_path / hidden}' && exec {sys.executable} -m ray.scripts.scripts start --address={cluster.address} --num-cpus=1 --block"
    node = subprocess.Popen(["unshare", "-m", "sh", "-c", start], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        until = time.monotonic() + 180
        while sum(bool(one["Alive"]) for one in ray.nodes()) < 3:
            assert node.poll() is None and time.monotonic() < until, "the second node did not start"
            time.sleep(0.2)
        what = f"does not share the dataset's folder {tmp_path / 'dataset'}" if hidden == "dataset" else "does not share the videos: it has no "
        with pytest.raises(OSError, match=rf"1 of 2 nodes cannot make shards: node \S+ \(\S+\) {what}"):
            build_dataset(tmp_path / "videos", tmp_path / "dataset", **SETTINGS, cluster="ray")
        assert not list(Path(tmp_path / "dataset").glob("samples/*.parquet")) and not list((tmp_path / "dataset" / "build").glob("shared-*"))
    finally:
        os.killpg(node.pid, 15)
        node.wait(30)
