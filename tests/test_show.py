"Pictures: nothing overlaps or leaves the page, bars lie under the frames they mean, and no global state is touched."
import base64
import io
from itertools import combinations
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from videossr import show
from videossr.show import PALETTE, before_after, color_of, filmstrip, reward_curve, show_sample
from videossr.video import Clip

QUESTION = "This video was sampled at even intervals. In one stretch of it the picture is mirrored; the rest is as it was. " * 5


def sample(task, answer, question=QUESTION, **recipe):
    return SimpleNamespace(task=task, type="a type", question=question, answer=answer, recipe=recipe)


def boxes(figure):
    "The texts that are really drawn, with their places; ticks outside of the view are not."
    canvas, drawn, draw = FigureCanvasAgg(figure), [], Text.draw

    def note(text, renderer, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            drawn.append((text.get_text(), text.get_window_extent(renderer)))
        return draw(text, renderer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", note)
        canvas.draw()
    return drawn


def assert_tidy(figure):
    "No two texts overlap, and all of them are on the page."
    found = boxes(figure)
    page = figure.bbox
    for text, box in found:
        assert box.x0 >= -1 and box.x1 <= page.width + 1 and box.y0 >= -1 and box.y1 <= page.height + 1, text
    for (one, first), (two, second) in combinations(found, 2):
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        high = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert wide <= 0.5 or high <= 0.5, (one, two)


def texts(figure):
    return " ".join(text for text, _ in boxes(figure))


@pytest.mark.parametrize("size", [(96, 64), (32, 352)])
@pytest.mark.parametrize("n_frames", [1, 7, 48])
def test_filmstrip_is_tidy_for_any_shape(n_frames, size):
    clip = Clip.example(n_frames=n_frames, height=size[0], width=size[1])
    end = clip.times[-1] + clip.step
    spans = {"truth": (0.2 * end, 0.5 * end), "prediction": (0.9 * end, end)}
    assert_tidy(filmstrip(clip, spans=spans, title=QUESTION, caption=QUESTION))
    assert_tidy(filmstrip(clip, spans={"truth": (0.0, end), "prediction": (-5.0, 0.001), "another": (end, 9 * end), "none": None}))
    assert_tidy(filmstrip(clip, n=20))


@pytest.mark.parametrize("reply", [None, "", "3.0-4.0", "word " * 500, "line\n" * 200, r"$\frac{1}{$ \alpha_$", "x" * 2000])
def test_any_question_and_reply_are_shown_as_text(reply):
    clip = Clip.example(n_frames=16)
    figure = show_sample(sample("grounding", "1.0-2.0", QUESTION + r" It costs $5, or $\alpha$."), [clip], reply, 0.25)
    assert_tidy(figure)
    assert r"$5, or $\alpha$" in texts(figure).replace("\n", " ")


def test_bars_lie_under_the_frames_they_mean():
    # uneven times: a linear axis would put the bar under other frames
    times = np.array([0, 1, 2, 10, 11, 12.0])
    clip = Clip(np.zeros((6, 32, 32, 3), np.uint8), times)
    bar = filmstrip(clip, spans={"truth": (2.0, 11.0)}).axes[1].patches[0]
    assert (bar.get_x(), bar.get_x() + bar.get_width()) == pytest.approx((2, 4))


@pytest.mark.parametrize(("n_frames", "columns"), [(8, 8), (16, 8), (32, 8), (48, 12), (50, 10)])
def test_the_axis_of_an_even_clip_is_linear(n_frames, columns):
    clip = Clip.example(n_frames=n_frames)
    axes = filmstrip(clip, spans={"truth": (1.0, 2.0)}).axes[1]
    assert axes.get_xlim() == (0, columns)
    bar, whole = axes.patches[0], columns / (clip.times[-1] + clip.step - clip.times[0])
    assert (bar.get_x(), bar.get_width()) == pytest.approx(((1.0 - clip.times[0]) * whole, whole))


def test_without_a_bar_each_frame_says_its_own_time():
    clip = Clip.example(n_frames=48)
    axes = filmstrip(clip, n=6, marks={frame: [(4, 4, 2)] for frame in (0, 1, 40)}).axes[1]
    chosen = show._pick(48, 6, [0, 1, 40])
    assert [label.get_text().removesuffix(" s") for label in axes.get_xticklabels()] == [f"{clip.times[frame]:.1f}" for frame in chosen]
    assert axes.get_xticks() == pytest.approx(np.arange(6) + 0.5)


def test_shown_frames_lie_in_their_columns():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n_frames, n = int(rng.integers(1, 60)), int(rng.integers(1, 15))
        keep = rng.choice(n_frames, size=rng.integers(0, min(n, n_frames) + 1), replace=False).tolist()
        clip = Clip(np.zeros((n_frames, 2, 2, 3), np.uint8), np.cumsum(rng.uniform(0.1, 1, n_frames)))
        chosen = show._pick(n_frames, n, keep)
        edges = show._edge_times(clip, chosen)
        assert set(keep) <= set(chosen) and len(chosen) == len(set(chosen)) <= max(n, 1)
        assert chosen == sorted(chosen) and (np.diff(edges) > 0).all()
        assert (edges[:-1] <= clip.times[chosen]).all() and (clip.times[chosen] < edges[1:]).all()


@pytest.mark.parametrize("n_clips", [2, 3, 6, 9])
def test_jigsaw_shows_places(n_clips):
    order = "".join(map(str, np.random.default_rng(n_clips).permutation(n_clips) + 1))
    clips = [Clip.example(n_frames=5)] * n_clips
    figure = show_sample(sample("jigsaw", order), clips, order[::-1], 0.4, predicted=order[::-1])
    assert_tidy(figure)
    shown = [text for text, _ in boxes(figure) if text.isdigit()]
    truth = [str(order.index(str(k)) + 1) for k in range(1, n_clips + 1)]
    assert shown[0::2] == truth and shown[1::2] == [str(n_clips + 1 - int(place)) for place in truth]


def test_counting_draws_every_frame_with_a_shape():
    frames = [0, 1, 2, 13, 14, 15, 30, 31, 47]
    shapes = [{"frame": frame, "x": 10, "y": 12, "size": 8} for frame in frames for _ in range(2)]
    figure = show_sample(sample("counting", "3,1,4", shapes=shapes), [Clip.example(n_frames=48)], "3,1,4", 1.0, predicted=(3, 1, 4), n=6)
    rings = [patch for patch in figure.axes[0].patches if isinstance(patch, matplotlib.patches.Circle)]
    assert len(rings) == 2 * len(shapes)  # a white and a coloured line each
    assert_tidy(figure)


def test_a_task_of_tomorrow_is_drawn_too():
    clip = Clip.example()
    assert_tidy(show_sample(sample("speed", "fast"), [clip], "slow", 0.0))
    assert_tidy(show_sample(sample("pairs", "12"), [clip, clip], "21", 0.0))


def test_plots_of_a_run_are_tidy():
    rows = [{"step": k, **{f"reward/{task}": k / 50 for task in ("grounding", "counting", "jigsaw")}} for k in range(50)]
    assert_tidy(reward_curve(rows, {"grounding": 0.3}))
    assert_tidy(reward_curve(rows[:1]))
    edge = {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 3000}
    line = {"blind": 1.0, "before": edge, "after": edge, "gain": {**edge, "mean": -1.0}}
    results = {"tasks": {"grounding": line, "counting": line}, "types": {"grounding": {"rotate180": line, "channelswap": line}}, "overall": {**line, "blind": None}}
    assert_tidy(before_after(results))


def test_no_global_state():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = filmstrip(Clip.example())
    assert plt.get_fignums() == before
    assert set(figure._repr_mimebundle_()) == {"image/png", "text/plain"}


def test_a_shown_picture_keeps_the_colors_that_have_a_meaning():
    clip = Clip(np.random.default_rng(0).integers(0, 256, (8, 64, 96, 3), dtype=np.uint8), np.arange(8.0))
    figure = filmstrip(clip, spans={"truth": (1.0, 3.0), "prediction": (2.0, 4.0)})
    shown = Image.open(io.BytesIO(base64.b64decode(figure._repr_mimebundle_()["image/png"]))).convert("RGB")
    colors = {"#{:02x}{:02x}{:02x}".format(*color) for _, color in shown.getcolors(256)}
    assert {"#ffffff", PALETTE["truth"], PALETTE["prediction"]} <= colors


def test_roles_differ_in_lightness_or_hue():
    colors = [tuple(int(color_of(name)[k : k + 2], 16) for k in (1, 3, 5)) for name in ("truth", "prediction", "grounding", "counting", "jigsaw")]
    for one, two in combinations(colors, 2):
        assert np.abs(np.subtract(one, two)).max() > 60
    assert color_of("unheard of") not in PALETTE.values()
