"""What the trainer relies on in TRL, in each release that is supported, and TRL's own tests of its trainer, run with ours."""

import ast
import inspect
import os
import pydoc
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from packaging.version import Version
from trl import GRPOTrainer

from videossr import grpo
from videossr.data import to_trl_dataset
from videossr.demo import demo_videos
from videossr.grpo import VideoGRPOConfig, VideoGRPOTrainer
from videossr.policy import tiny_policy
from videossr.tasks import make_sample
from videossr._versions import RELIED_ON, declared, installed, must_have

SUITE = os.environ.get("VIDEOSSR_TRL_TESTS")  # a checkout of TRL at the tag of the release that is installed


@pytest.mark.parametrize("place", RELIED_ON)
def test_the_release_has_what_is_relied_on(place):
    must_have(place.partition(".")[0], pydoc.locate(place), RELIED_ON[place])


def test_the_list_is_what_the_trainer_replaces():
    ours = [one for one in VideoGRPOTrainer.__mro__ if one.__module__ == grpo.__name__]
    replaced = {name for one in ours for name, value in vars(one).items() if name.startswith("_") and not name.endswith("__") and inspect.isfunction(value)}
    assert {name for name in replaced if hasattr(GRPOTrainer, name)} == set(RELIED_ON["trl.GRPOTrainer"])


def test_every_attribute_that_the_trainer_reads_is_there(tmp_path):
    "What TRL and transformers set on a trainer has no list: each name that our code reads of itself must be found on a new one."
    videos = demo_videos(1, folder=tmp_path, progress=False)
    trainer = VideoGRPOTrainer(
        str(tiny_policy(0).save(tmp_path / "policy")),
        args=VideoGRPOConfig.demo(str(tmp_path / "run"), per_device_train_batch_size=4, num_generations=4),
        train_dataset=to_trl_dataset([make_sample("grounding", videos[0], difficulty="demo")]),
    )
    bodies = ast.parse(inspect.getsource(grpo)).body
    patched = [node for node in bodies if isinstance(node, ast.FunctionDef) and any("patch" in ast.unparse(mark) for mark in node.decorator_list)]
    whole = [node for node in bodies if isinstance(node, ast.ClassDef) and node.name == "VideoGRPOTrainer"]
    mine = [node for one in patched + whole for node in ast.walk(one) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"]
    reads, sets = ({node.attr for node in mine if isinstance(node.ctx, kind)} for kind in (ast.Load, ast.Store))
    late = {"current_gradient_accumulation_steps"}  # set by transformers once training begins
    assert len(reads) > 20 and {name for name in reads - sets - late if not hasattr(trainer, name)} == set()


def test_the_release_is_one_that_was_declared():
    wanted = declared("trl")
    if wanted is None:
        pytest.skip("videossr is not installed, so nothing is declared")
    assert wanted.specifier.contains(Version(installed("trl")))


@pytest.mark.slow
@pytest.mark.skipif(
    SUITE is None,
    reason=f"TRL ships no tests in its packages: git clone --depth 1 --branch v{installed('trl')} https://github.com/huggingface/trl, and set VIDEOSSR_TRL_TESTS to that folder",
)
def test_trl_s_own_tests_pass_with_this_trainer(tmp_path):
    "Each passes, is refused by the message that `trl_suite.py` names, or is left out there with the reason."
    file, report = Path(SUITE, "tests", "test_grpo_trainer.py").resolve(), tmp_path / "report.xml"
    assert file.exists(), f"no {file.name} in VIDEOSSR_TRL_TESTS ({SUITE}), which must be a checkout of TRL"
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "trl_suite", "-p", "no:cacheprovider", "-W", "ignore", "-c", os.devnull, "--rootdir", SUITE]
    environment = {**os.environ, "PYTHONPATH": paths, "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run([*command, "--junitxml", str(report), str(file)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert report.exists(), done.stdout + done.stderr
    kinds = {"passed": [], "failed": [], "skipped": []}
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        kind = "passed" if outcome is None else "skipped" if outcome.tag == "skipped" else "failed"
        kinds[kind].append((case.get("name"), "" if outcome is None else (outcome.get("message") or "").splitlines()[0]))
    print({kind: len(found) for kind, found in kinds.items()}, *kinds["skipped"], sep="\n")
    assert kinds["failed"] == [] and len(kinds["passed"]) > 50
