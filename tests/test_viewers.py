"""Viewers without a browser: what a page and a notebook are sent, still pictures, hostile texts, samples of all kinds."""
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import traitlets
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from matplotlib.patches import Circle
from matplotlib.text import Text
from PIL import Image

from videossr.demo import demo_videos
from videossr.rewards import counting_reward, grounding_reward, jigsaw_reward
from videossr.show import PALETTE
from videossr.tasks import make_sample, render
from videossr.video import Clip, VideoError
from videossr.viewers import AnomalyViewer, CountingViewer, JigsawBoard
from videossr.viewers.core import MAX_REEL, pack, plain, state_bytes
from videossr.viubench import VIUBENCH

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "videossr" / "viewers" / "static"
VIEWERS = {"grounding": AnomalyViewer, "counting": CountingViewer, "jigsaw": JigsawBoard}
REPLIES = {"grounding": "1.0-3.0", "counting": "3,3,3", "jigsaw": "213456"}
HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>$\\frac{1}{0}$ \u202eabc\ud800"


@pytest.fixture(scope="module")
def video():
    return demo_videos(1)[0]


@pytest.fixture(scope="module")
def samples(video):
    return {task: make_sample(task, video) for task in VIEWERS}


def open_viewer(sample, *args, **kwargs):
    return VIEWERS[sample.task](sample, *args, **kwargs)


@pytest.mark.parametrize("task", VIEWERS)
def test_output_of_a_cell(samples, task):
    "A widget for JupyterLab, a picture for everybody else, together below 3 MB."
    viewer = open_viewer(samples[task], REPLIES[task])
    data, _ = DisplayFormatter().format(viewer)
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == viewer.model_id
    with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as picture:
        assert picture.width > 500
    assert len(json.dumps(data)) + state_bytes(viewer) < 3_000_000


def test_page_made_by_nbconvert_shows_the_picture(samples):
    exporters = pytest.importorskip("nbconvert.exporters")
    data, metadata = DisplayFormatter().format(open_viewer(samples["counting"]))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("viewer")])
    notebook.cells[0].outputs = [nbformat.v4.new_output("execute_result", data, execution_count=1, metadata=metadata)]
    page, _ = exporters.HTMLExporter().from_notebook_node(notebook)
    assert data["image/png"][:200] in page.replace("\n", "")


@pytest.mark.parametrize("key", VIUBENCH)
def test_types_of_viubench(video, key):
    task, kind, preset = VIUBENCH[key]
    sample = make_sample(task, video, type=kind, difficulty=preset)
    viewer = open_viewer(sample, sample.answer)
    assert viewer.rows[0]["reward"] == pytest.approx(1.0) and viewer.rows[0]["strict"] == 1.0
    assert len(viewer.data["times"]) == sum(clip.n_frames for clip in render(sample))
    assert viewer.picture().axes


@pytest.mark.parametrize("size", [(256, 256), (512, 512)])
def test_budget_holds_for_the_worst_pixels(size):
    noise = np.random.default_rng(0).integers(0, 256, (48, *size, 3), dtype=np.uint8)
    assert len(pack({"seen": noise, "original": 255 - noise}).data) <= MAX_REEL


def test_tracks_show_the_frames_they_were_given():
    frames = Clip.example(n_frames=6, height=32, width=48).frames
    twice = np.concatenate([frames, frames[::-1]])
    reel = pack({"there": twice, "dark": 0 * frames})
    assert len(reel.sizes) == 7 and reel.tracks["dark"] == (6,) * 6
    ends = np.cumsum([0, *reel.sizes])
    for place, frame in zip(reel.tracks["there"], twice, strict=True):
        shown = np.asarray(Image.open(io.BytesIO(reel.data[ends[place] : ends[place + 1]])))
        assert np.abs(shown.astype(int) - frame).mean() < 8


@pytest.mark.parametrize("task", VIEWERS)
def test_hostile_texts_stay_text(video, tmp_path, task):
    "File names, replies and the names of models reach the page as they are, valid, and the picture is still drawn."
    bad = tmp_path / "<img src=x onerror=alert(1)> $x$ 'q' \u202e.mp4"
    shutil.copy(video, bad)
    viewer = open_viewer(make_sample(task, bad), {HOSTILE: HOSTILE, "long": "9" * 100_000})
    sent = json.dumps({key: value for key, value in viewer.data.items() if key != "reel"}, ensure_ascii=False).encode()
    assert len(sent) < 30_000
    assert viewer.data["file"] == bad.name
    assert viewer.data["rows"][0]["text"] == plain(HOSTILE)
    assert DisplayFormatter().format(viewer)[0]["image/png"]


def test_file_name_that_is_no_text(video, tmp_path):
    odd = os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4")
    try:
        shutil.copy(os.fsencode(video), odd)
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(VideoError, match=r"caf\\xe9\.mp4: its name is not UTF-8"):
        AnomalyViewer(make_sample("grounding", os.fsdecode(odd)))


@pytest.mark.parametrize("task", VIEWERS)
def test_video_that_is_gone(samples, tmp_path, task):
    with pytest.raises(VideoError, match="gone.mp4"):
        open_viewer(replace(samples[task], video=str(tmp_path / "gone.mp4")))


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_scripts_never_write_markup(path):
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|srcdoc|DOMParser|createContextualFragment", source)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|\bimport\b", source), "a viewer needs nothing but itself"


def test_finished_frames_have_no_original(tmp_path):
    "As in rows of a published dataset: pictures in files, no recipe."
    clip = Clip.example(n_frames=12, height=64, width=96)
    paths = [str(tmp_path / f"{k}.png") for k in range(clip.n_frames)]
    for path, frame in zip(paths, clip.frames, strict=True):
        Image.fromarray(frame).save(path)
    made = make_sample("grounding", demo_videos(1)[0])
    sample = replace(made, recipe={"frames": [paths], "fps": [2.0], "read": {}}, answer="1.0-3.0")
    viewer = AnomalyViewer(sample)
    assert set(viewer.data["reel"]["tracks"]) == {"seen"} and viewer.view == "seen"
    viewer.guess = (1.0, 3.0)
    assert viewer.tiou == 1.0


@pytest.fixture(scope="module")
def grounding(samples):
    return AnomalyViewer(samples["grounding"])


@settings(max_examples=60, deadline=None)
@given(pair=st.tuples(st.floats(0, 60), st.floats(0, 60)).map(sorted))
def test_tiou_is_the_reward_of_that_reply(grounding, pair):
    grounding.guess = tuple(pair)
    assert grounding.tiou == grounding_reward("{:.1f}-{:.1f}".format(*pair), grounding.sample.answer)


@pytest.mark.parametrize("guess", [(2.0, 1.0), (-1.0, 2.0), (float("nan"), 2.0), (1.0, float("inf")), (1.0,), "1-2"])
def test_guess_that_is_no_interval(samples, guess):
    viewer = AnomalyViewer(samples["grounding"])
    with pytest.raises(traitlets.TraitError):
        viewer.guess = guess
    assert viewer.guess is None and viewer.tiou is None


def test_counts_and_orders_are_scored_as_replies(samples):
    counting, jigsaw = CountingViewer(samples["counting"]), JigsawBoard(samples["jigsaw"])
    for counts in [(0, 0, 0), (1, 2, 3), (9, 9, 9)]:
        counting.counts = counts
        assert counting.reward == counting_reward(",".join(map(str, counts)), samples["counting"].answer)
    for order in ["654321", "213456", samples["jigsaw"].answer]:
        jigsaw.order = order
        assert (jigsaw.reward, jigsaw.strict) == tuple(jigsaw_reward(order, samples["jigsaw"].answer, strict=strict) for strict in (False, True))


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("task", VIEWERS)
def test_truth_is_hidden_until_asked_for(samples, task):
    "In the picture that stands for the viewer, too: the answer is in no text, and nothing is marked."
    viewer = open_viewer(samples[task])
    assert viewer.show_truth is False
    answer, words = samples[task].answer, ("truth", "true answer", "true place")
    hidden = texts_of(viewer.picture())
    assert not any(answer in text or any(word in text for word in words) for text in hidden)
    assert not viewer.picture().findobj(Circle)
    viewer.show_truth = True
    assert any(word in text for text in texts_of(viewer.picture()) for word in words)


def test_models_are_orange_and_the_order_on_the_board_is_yours(samples):
    figure = AnomalyViewer(samples["grounding"], {"before": "1.0-2.0", "mine v2": "1.0-3.0"}).picture()
    for name in ("before", "mine v2"):
        found = [text for text in figure.findobj(Text) if text.get_text() == name]
        assert [text.get_color() for text in found] == [PALETTE["prediction"]]
    board = texts_of(JigsawBoard(samples["jigsaw"]).picture())
    assert "your order" in board and "predicted" not in board


def test_installed_package_holds_scripts_and_styles(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "videossr", tmp_path / "videossr", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "build_py", "--build-lib", "built"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    built = {path.name for path in (tmp_path / "built" / "videossr" / "viewers" / "static").iterdir()}
    assert built == {path.name for path in STATIC.iterdir()}
