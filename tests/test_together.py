"""Processes of one run on several machines: one that fails, is killed or sees another folder ends all of them, and none outlives who started it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from videossr import runs
from videossr.launch import open_run

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"steps": 6, "save_steps": 2, "n_train": 12, "n_held_out": 6, "warm_steps": 6, "groups": 2, "group_size": 4}
SILENCE = 6  # seconds


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    cache = os.environ.get("VIDEOSSR_CACHE") or str(tmp_path_factory.mktemp("cache"))
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "VIDEOSSR_CACHE": cache, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "VIDEOSSR_SILENCE_SECONDS": str(SILENCE)}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Machine:
    "A launcher with one process, as one of two machines has it; machine 0 keeps the store."

    def __init__(self, number, port, folder, environment, *given):
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"machine-{number}.log"
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2", "--num_processes", "2", "--machine_rank", str(number),
                   "--main_process_ip", "127.0.0.1", "--main_process_port", str(port), "--num_cpu_threads_per_process", "1", "--mixed_precision", "no",
                   "-m", "videossr.launch", *given]  # fmt: skip
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)

    def family(self):
        here = psutil.Process(self.process.pid)
        return [here, *here.children(recursive=True)]

    def kill(self):
        "As when the power fails."
        for one in self.family():
            one.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self, seconds):
        "Its exit status, and what it said."
        try:
            status = self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.kill()
        return status, self.log.read_text()


def both(environment, folders, *given):
    port = free_port()
    return [Machine(number, port, folder, environment, *given) for number, folder in enumerate(folders)]


def wait_for(ready, seconds=120):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.mark.parametrize("how", ["recipe", pytest.param("run", marks=pytest.mark.slow)])
def test_a_folder_that_one_machine_does_not_see_is_named(recipe, environment, tmp_path, how):
    "Before anything is made; each of the two looks in its own working directory."
    places = [tmp_path / "a", tmp_path / "b"]
    if how == "run":
        open_run({**SMALL, "output_dir": str(places[0] / "run")})
        runs.release_run(places[0] / "run")
    given = [str(recipe), "-p", "output_dir", "run"] if how == "recipe" else ["--run", "run"]
    ends = [machine.end(90) for machine in both(environment, places, *given)]
    for status, said in ends:
        assert status == 1
        assert "output_dir on a disk that they share" in said if how == "recipe" else "no run in run" in said
    assert not (places[0] / "run" / "samples" / "train.parquet").exists()


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_machine_that_dies_ends_the_other(recipe, environment, tmp_path, number):
    run = runs.Run(tmp_path / "run")
    machines = both(environment, [tmp_path, tmp_path], str(recipe), "-p", "output_dir", "run", "-p", "steps", "2000", "-p", "n_train", "60")
    wait_for(lambda: run.path("samples", "train.parquet").exists() if number else run.log_path.exists())  # the other waits by files, or for its sums
    machines[number].kill()
    begun = time.monotonic()
    status, said = machines[1 - number].end(120)
    assert status == 1, said
    assert time.monotonic() - begun < 90
    assert any(words in said for words in ("the first process of the run is gone", f"nothing was heard of process {number}", "onnection closed by peer", "onnection reset"))


@pytest.mark.slow
def test_two_machines_train_as_one_does(recipe, environment, tmp_path):
    "The same weights to the bit, also where one machine died on the way."
    one = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_cpu_threads_per_process", "1", "--mixed_precision", "no"]
    port = ["--main_process_port", str(free_port())]
    subprocess.run([sys.executable, *one, *port, "-m", "videossr.launch", str(recipe), "-p", "output_dir", str(tmp_path / "whole")], check=True, env=environment, cwd=ROOT)
    given = [str(recipe), "-p", "output_dir", "run"]
    machines = both(environment, [tmp_path, tmp_path], *given)
    wait_for((tmp_path / "run" / "checkpoints" / "checkpoint-4" / "complete").exists)
    machines[1].kill()
    assert machines[0].end(120)[0] == 1 and not (tmp_path / "run" / "results.json").exists()
    assert [machine.end(300)[0] for machine in both(environment, [tmp_path, tmp_path], *given)] == [0, 0]
    whole, found = (load_file(tmp_path / name / "checkpoints" / "final" / "model.safetensors") for name in ("whole", "run"))
    assert whole.keys() == found.keys() and all(torch.equal(weight, found[name]) for name, weight in whole.items())
    assert runs.Run(tmp_path / "run").rollout_rows() == runs.Run(tmp_path / "whole").rollout_rows()


NOTEBOOK = """
import sys, yaml
from pathlib import Path
from videossr.launch import launch, open_run

launch(open_run({**yaml.safe_load(Path(sys.argv[1]).read_text()), "steps": 2000, "n_train": 60, "output_dir": sys.argv[2]}), sys.argv[3], progress=False)
"""


@pytest.mark.parametrize("who", ["kernel", pytest.param("launcher", marks=pytest.mark.slow)])
def test_no_process_trains_on_when_who_started_it_is_gone(recipe, environment, tmp_path, who):
    "And as long as one is there, nobody else gets the run."
    run, config = runs.Run(tmp_path / "run"), str(ROOT / "environments" / "accelerate" / "cpu-2.yaml")
    given = {**environment, "MASTER_PORT": str(free_port())}
    with subprocess.Popen([sys.executable, "-c", NOTEBOOK, str(recipe), str(run.folder), config], env=given, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as kernel:
        wait_for(lambda: len(run.log_rows()) >= 1)
        family = psutil.Process(kernel.pid).children(recursive=True)
        assert len(family) >= 3, "a launcher and two processes"
        victim = kernel if who == "kernel" else next(one for one in family if one.ppid() == kernel.pid)
        os.kill(victim.pid, signal.SIGKILL)
        if who == "kernel" and any(one.is_running() for one in family):
            with pytest.raises(RuntimeError, match="is at work on the run"):
                runs.claim_run(run.folder)
        _, alive = psutil.wait_procs(family, timeout=60)
        for one in alive:
            one.kill()
        assert not alive
        kernel.wait(60)
    assert runs.claim_run(run.folder)
    runs.release_run(run.folder)
