"A GPU image without decoders and notebooks is enough: what does not need a package does not import it."
import json
import subprocess
import sys
from pathlib import Path

import pytest

import videossr

# By the names that they are imported by. The first are of no use without a screen or a video file; the others fit in a few megabytes.
HEAVY = ("av", "decord", "bitsandbytes", "torchao", "anywidget", "ipywidgets", "psygnal", "traitlets", "IPython", "ipykernel", "jupyterlab", "papermill",
         "nbclient", "nbformat", "jupyter_client", "zmq", "tornado", "pydantic", "pydantic_core", "nbdev", "execnb", "playwright", "ray", "httpx")  # fmt: skip
CARRIED = ("trl", "fastcore", "datasets", "dill", "multiprocess", "xxhash")

# As if these had never been installed: neither modules nor what pip knows of them.
WITHOUT = """
import importlib, importlib.metadata, json, sys
from importlib.machinery import PathFinder
names, code = json.loads(sys.argv[1])

class Without:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in names else PathFinder.find_spec(name, path, target)

    def find_distributions(self, context):
        return (one for one in PathFinder.find_distributions(context) if one.metadata["Name"].lower() not in map(str.lower, names))

sys.meta_path[sys.meta_path.index(PathFinder)] = Without()
exec(code)
"""
IMPORT_ALL = """
for module in {modules}:
    try:
        importlib.import_module(module)
    except Exception as error:
        print(f"{{module}}: {{type(error).__name__}}: {{error}}")
"""


def without(names: tuple[str, ...], code: str) -> str:
    "What code prints on a machine that lacks these packages."
    command = [sys.executable, "-c", WITHOUT, json.dumps([names, code])]
    root = str(Path(videossr.__file__).parents[1])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root)
    return done.stdout + "".join(done.stderr.splitlines(keepends=True)[-1:] if done.returncode else "")


def _module(path: Path) -> str:
    parts = ["videossr", *path.relative_to(Path(videossr.__file__).parent).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(_module(path) for path in Path(videossr.__file__).parent.rglob("*.py") if path.stem not in ("_modidx",))
SHOWN = [module for module in MODULES if module.startswith("videossr.viewers")]  # widgets
TRAINED = ["videossr.grpo", "videossr.memory", "videossr.reliance", "videossr.runs", "videossr.launch", "videossr.sweep", "videossr.first_gpu", "videossr.push", "videossr.peers"]  # these stand on TRL


def test_the_blocker_blocks():
    assert without(("numpy",), "import numpy").startswith("ModuleNotFoundError: No module named 'numpy'")
    assert "PackageNotFoundError" in without(("numpy",), "importlib.metadata.version('numpy')")
    assert "traitlets" in without(HEAVY, IMPORT_ALL.format(modules=SHOWN[:1]))


@pytest.mark.parametrize(("absent", "modules"), [
    (HEAVY, [module for module in MODULES if module not in SHOWN]),
    (HEAVY + CARRIED, [module for module in MODULES if module not in SHOWN + TRAINED]),
], ids=["without decoders and widgets", "and without TRL"])  # fmt: skip
def test_imports_are_light(absent, modules):
    assert without(absent, IMPORT_ALL.format(modules=modules)) == ""


NEED_PYAV = """
import tempfile
from videossr.demo import demo_videos
from videossr.video import read_clip
for call in (lambda: read_clip("README.md"), lambda: read_clip("README.md", timeout=None), lambda: demo_videos(1, folder=tempfile.mkdtemp())):
    try:
        call()
    except ImportError as error:
        print(error)
"""


def test_what_needs_a_decoder_says_so():
    assert without(("av",), NEED_PYAV).splitlines() == ["reading and writing videos needs PyAV: pip install av"] * 3


@pytest.mark.parametrize(("absent", "says"), [
    ("trl", "trl is not installed; videossr was made for trl"),
    ("dill", "trl needs dill, which is not installed: pip install dill"),  # what a carried wheel needs, two levels down
])  # fmt: skip
def test_what_the_trainer_lacks_is_named(absent, says):
    assert without((absent,), "import videossr.grpo").startswith(f"ImportError: {says}")


def test_the_first_gpu_hour_needs_nothing_else(tmp_path):
    out = tmp_path / "first.json"
    argv = ["--size", "tiny", "--device", "cpu", "--repeats", "1", "--parts", "lora,trainer", "--out", str(out)]
    without(HEAVY, f"from videossr.first_gpu import main; main({argv})")
    parts = json.loads(out.read_text())["parts"]
    assert set(parts) == {"lora", "trainer"} and not any("error" in found or "skipped" in found for found in parts.values()), parts
