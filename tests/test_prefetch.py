"Work done ahead in other processes: the same results in the same order, errors whole, nothing left behind."

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from videossr.demo import demo_videos
from videossr.prefetch import Ahead, WorkerPool
from videossr.tasks import TASKS, make_sample
from videossr.video import VideoError

WORK = """
import os, time
import torch
from videossr.tasks import render

def do(job):
    name, item = job
    return globals()[name](item)

def slow(item):
    "Later items are done sooner."
    time.sleep(0.02 * (10 - item % 10))
    return item, torch.arange(item), os.environ["CUDA_VISIBLE_DEVICES"], torch.get_num_threads()

def noted(item):
    "Leaves a note of what it was asked."
    path, number = item
    with open(path, "a") as file:
        file.write(f"{number}\\n")
    return number

def picky(item):
    if item == "odd":
        raise Odd(1, 2)
    print("a library that prints")
    return item

class Odd(Exception):
    "Cannot be pickled and back: it takes two arguments and hands one on."
    def __init__(self, one, two):
        super().__init__(one)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "worked_on.py").write_text(WORK)
    sys.path.append(str(folder))
    import worked_on

    yield worked_on
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def pool(work):
    "Two processes for all tests: they take seconds to start."
    pool = WorkerPool(work.do, 2)
    yield pool
    pool.close()


def test_results_come_in_the_order_of_the_tickets(pool):
    found = pool.map(("slow", number) for number in range(20))
    assert [(number, values.tolist()) for number, values, *_ in found] == [(number, list(range(number))) for number in range(20)]
    assert all((gpus, threads) == ("", 1) for _, _, gpus, threads in found)
    assert pool.waited > 0


def test_an_error_is_told_as_in_this_process(work, pool, tmp_path):
    video = demo_videos(1, folder=tmp_path, progress=False)[0]
    sample = make_sample("grounding", video, difficulty="demo")
    Path(video).write_bytes(Path(video).read_bytes()[:100])
    told = []
    for one in (WorkerPool(work.do), pool):
        with pytest.raises(VideoError) as caught:
            one.map([("render", sample)])
        told.append((type(caught.value), str(caught.value), caught.value.path, caught.value.cause))
    assert told[0] == told[1] and str(video) in told[0][1]


def test_an_error_that_does_not_travel_is_told_in_words(pool):
    with pytest.raises(RuntimeError, match="Odd: 1"):
        pool.map([("picky", "odd")])
    assert pool.map([("picky", "even")]) == ["even"], "the pool goes on, and what is printed does not get between the answers"


def test_a_module_that_cannot_be_imported_there_stops_only_its_own_tasks(work, monkeypatch):
    gone = type("Gone", (), {"__module__": "long_gone"})
    monkeypatch.setitem(TASKS, "gone", gone())
    pool = WorkerPool(work.do, 1)
    try:
        assert pool.map([("picky", "even")]) == ["even"]
        with pytest.raises(RuntimeError, match="Odd: 1") as caught:
            pool.map([("picky", "odd")])
        assert "could not import long_gone (No module named 'long_gone')" in str(caught.value.__cause__)
    finally:
        pool.close()


def test_closing_drops_what_is_waiting_and_leaves_no_process(pool):
    pool.map([("slow", 9)] * 2)
    workers = [child for child in psutil.Process().children() if "prefetch" in " ".join(child.cmdline())]
    mine = [*workers, *(child for worker in workers for child in worker.children())]
    tickets = [pool.submit(("slow", 0)) for _ in range(2000)]
    begun = time.monotonic()
    pool.close()
    assert len(workers) == 2 and not psutil.wait_procs(mine, timeout=20)[1] and time.monotonic() - begun < 20
    assert tickets[-1].cancelled()
    assert pool.map([("slow", 3)])[0][0] == 3, "and it can be used again"


PARENT = """
import os, sys, time
import psutil
from videossr.demo import demo_videos
from videossr.prefetch import WorkerPool
from videossr.tasks import make_sample, render

if __name__ == "__main__":
    video = demo_videos(1, folder=sys.argv[1], progress=False)[0]
    pool = WorkerPool(render, 2)
    pool.map([make_sample("grounding", video, difficulty="demo", index=index) for index in range(4)])
    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    if sys.argv[2] == "end":
        sys.exit()
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["kill", "end"])
def test_no_process_outlives_the_one_that_started_it(tmp_path, how):
    "Nor do the decoders that the workers have started."
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path), how], stdout=subprocess.PIPE, text=True) as process:
        pids = {int(pid) for pid in process.stdout.readline().split()}
        family = [one for one in psutil.process_iter() if one.pid in pids]  # with "end" some may be gone by now
        if how == "kill":
            assert len(family) >= 3, "two workers, and a decoder at least"
            os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
    assert not psutil.wait_procs(family, timeout=10)[1]


@pytest.mark.parametrize("number", [0, 2])
def test_repeats_and_skipped_batches_are_not_worked_on(work, pool, tmp_path, number):
    note = str(tmp_path / "asked")
    rows = [{"sample": ("noted", (note, index))} for index in range(12)]
    keys = [[key for index in (first, first + 1) for key in ([index, ~index][turn],) * 2] for first in range(0, 12, 2) for turn in range(2)]
    pool = pool if number else WorkerPool(work.do)
    loader = prepare_data_loader(DataLoader(Ahead(rows, pool), batch_sampler=keys, collate_fn=list), put_on_device=False)
    found = [[row["encoded"].result() if "encoded" in row else None for row in batch] for batch in skip_first_batches(loader, 6)]
    assert found == [[6, 6, 7, 7], [None] * 4, [8, 8, 9, 9], [None] * 4, [10, 10, 11, 11], [None] * 4]
    assert sorted(map(int, Path(note).read_text().split())) == [6, 7, 8, 9, 10, 11], "each once"


def test_one_batch_is_made_ahead_and_no_more(pool, tmp_path):
    note = tmp_path / "asked"
    rows = [{"sample": ("noted", (str(note), index))} for index in range(40)]
    loader = iter(prepare_data_loader(DataLoader(Ahead(rows, pool), batch_size=4, collate_fn=list), put_on_device=False))
    for step in range(1, 4):
        pool.take([row["encoded"] for row in next(loader)])
        pool.map([("noted", (str(tmp_path / "other"), 0))] * 2)  # behind all that was handed out, so that is done
        time.sleep(0.1)
        assert len(note.read_text().split()) == 4 * (step + 1)


def test_tensors_arrive_as_they_were(pool):
    value = {"a": torch.randn(3, 4).bfloat16(), "b": [torch.tensor(5), torch.zeros(0, 3)], "c": json.dumps({})}
    (again,) = pool.map([("picky", value)])
    assert torch.equal(again["a"], value["a"]) and again["b"][0].item() == 5 and again["b"][1].shape == (0, 3) and again["c"] == "{}"
    again["a"] += 1
