"""Viewers in JupyterLab, in a real browser: played, dragged, driven by keys; what changes on the page and in Python."""
import ast

import nbformat
import pytest
from lab import needs_browser, run_all, shown

pytestmark = needs_browser
MARKUP = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"
SETUP = f"""
import shutil, tempfile
from pathlib import Path
import ipywidgets
from videossr.demo import demo_videos
from videossr.tasks import make_sample
from videossr.viewers import AnomalyViewer, CountingViewer, JigsawBoard

MARKUP = {MARKUP!r}
video = shutil.copy(demo_videos(1)[0], Path(tempfile.mkdtemp()) / "<b onclick=window.hacked=1>bad.mp4")

def watched(viewer, names, **values):
    "What Python holds, and a button with which Python sets traits."
    said, press = ipywidgets.Label(), ipywidgets.Button(description="set from Python")
    said.add_class("python-says")
    def tell(change=None):
        said.value = repr({{name: getattr(viewer, name) for name in names.split()}})
    viewer.observe(tell)
    press.on_click(lambda _: [setattr(viewer, name, value) for name, value in values.items()])
    tell()
    return ipywidgets.HBox([press, said])
"""
CELLS = [
    SETUP,
    "anomaly = AnomalyViewer(make_sample('grounding', video, type='mirror'), {MARKUP: MARKUP, 'after': '1.0-3.0'})\nanomaly",
    "watched(anomaly, 'guess tiou frame', guess=(1.0, 2.0), frame=30)",
    "board = JigsawBoard(make_sample('jigsaw', video), {'before': MARKUP, 'after': '654321'})\nboard",
    "watched(board, 'order reward', order='213456')",
    "counting = CountingViewer(make_sample('counting', video), {'before': MARKUP, 'after': '3,3,3'})\ncounting",
    "watched(counting, 'counts reward', counts=tuple(counting.data['truth']))",
]


@pytest.fixture(scope="module")
def seen(lab, page, tmp_path_factory):
    "The notebook, run once: its page."
    address, notebooks = lab
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    notebook.metadata["kernelspec"] = {"display_name": "python3", "language": "python", "name": "python3"}
    nbformat.write(notebook, notebooks / "viewers-test.ipynb")
    page.broken = []
    page.on("pageerror", lambda error: page.broken.append(str(error)))
    run_all(page, address, "viewers-test.ipynb", tmp_path_factory.mktemp("viewers") / "viewers.png")
    page.wait_for_function("document.querySelectorAll('.vssr-player').length == 3", timeout=20_000)
    assert not shown(page)["errors"]
    return page


def viewer(page, number):
    found = page.locator(".vssr").nth(number)
    found.scroll_into_view_if_needed()
    return found


def told(page, number):
    return page.locator(".python-says").nth(number).inner_text()


def until(page, number, text):
    "Waits until Python holds something."
    page.wait_for_function("([number, text]) => document.querySelectorAll('.python-says')[number].innerText.includes(text)", arg=[number, text], timeout=10_000)


def pixels(found):
    return found.locator("canvas").first.evaluate("canvas => canvas.toDataURL()")


def drag(page, begin, end):
    page.mouse.move(*begin)
    page.mouse.down()
    page.mouse.move(*end, steps=8)
    page.mouse.up()


def test_play_pause_scrub_and_step(seen):
    found = viewer(seen, 0)
    frame = found.get_by_label("Frame", exact=True)
    first = pixels(found)
    found.get_by_role("button", name="Play").click()
    seen.wait_for_function("Number(document.querySelector('.vssr-range').value) >= 3")
    assert "'frame': 0" in told(seen, 0), "playing sends nothing to Python"
    seen.keyboard.press("Space")  # the button has the focus: pause
    found.get_by_role("button", name="Play").wait_for()
    assert pixels(found) != first
    frame.focus()
    seen.keyboard.press("Home")
    for _ in range(5):
        seen.keyboard.press("ArrowRight")
    seen.keyboard.press("ArrowLeft")
    assert frame.input_value() == "4" and frame.get_attribute("aria-valuetext").startswith("frame 5 of 48")
    until(seen, 0, "'frame': 4")  # where it came to rest
    frame.fill("20")
    assert "21/48" in found.locator(".vssr-time").inner_text()
    seen.keyboard.press("End")
    assert frame.input_value() == "47"


def test_interval_by_drag_and_by_keys(seen):
    found = viewer(seen, 0)
    track = found.locator(".vssr-line-guess .vssr-track")
    track.scroll_into_view_if_needed()
    box = track.bounding_box()
    y = box["y"] + box["height"] / 2
    drag(seen, (box["x"] + 0.2 * box["width"], y), (box["x"] + 0.5 * box["width"], y))
    seen.wait_for_function("document.querySelector('.vssr-score b').innerText != '–'")
    score = found.locator(".vssr-score b")
    held = ast.literal_eval(told(seen, 0))
    assert f"{held['tiou']:.2f}" == score.inner_text() and held["guess"][1] > held["guess"][0]
    start = found.get_by_role("slider", name="Your start")
    value = float(start.get_attribute("aria-valuenow"))
    start.focus()
    seen.keyboard.press("ArrowRight")
    seen.keyboard.press("Shift+ArrowLeft")
    until(seen, 0, f"'guess': ({value - 0.9:.1f}, ")
    found.get_by_label("Frame", exact=True).focus()
    seen.keyboard.press("Home")
    seen.keyboard.press("[")
    first = float(found.get_by_role("slider", name="Your start").get_attribute("aria-valuemin"))
    until(seen, 0, f"'guess': ({first:.1f}, ")
    seen.wait_for_function("document.querySelector('.vssr-said').innerText.match(/Your (tIoU|start) is/)")
    found.get_by_role("button", name="Clear").click()
    until(seen, 0, "'guess': None")
    assert score.inner_text() == "–"


def test_python_moves_the_page(seen):
    found = viewer(seen, 0)
    seen.get_by_role("button", name="set from Python").first.click()
    until(seen, 0, "'frame': 30")
    seen.wait_for_function("document.querySelector('.vssr-range').value == '30'")
    assert found.locator(".vssr-line-guess .vssr-note").inner_text() == "1.0–2.0 s"


def test_original_and_difference(seen):
    found = viewer(seen, 0)
    assert not found.locator(".vssr-line-truth").is_visible(), "nobody asked for the truth yet"
    found.get_by_label("Show the truth").check()
    found.get_by_role("radio", name="Beside the original").check()
    start = found.locator(".vssr-bar.vssr-truth").evaluate("bar => parseFloat(bar.style.left)")
    assert found.get_by_label("The original frame").is_visible()
    found.get_by_role("radio", name="Difference").check()
    frame = found.get_by_label("Frame", exact=True)
    brightest = "canvas => Math.max(...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.filter((_, k) => k % 4 < 3))"
    inside = int(48 * start / 100) + 2
    frame.fill(str(inside))
    assert found.locator("canvas").first.evaluate(brightest) > 60
    frame.fill("0" if inside > 4 else "47")
    assert found.locator("canvas").first.evaluate(brightest) == 0
    found.get_by_label("Show the truth").uncheck()
    assert not found.locator(".vssr-line-truth").is_visible()
    found.get_by_role("radio", name="As the model sees it").check()


def test_jigsaw_by_drag_and_by_keys(seen):
    found = viewer(seen, 1)
    tiles = [found.locator(f"[data-clip='{number}']") for number in range(1, 7)]
    tiles[0].scroll_into_view_if_needed()
    moving = tiles[0].locator("canvas").evaluate("canvas => canvas.toDataURL()")
    first, third = tiles[0].bounding_box(), tiles[2].bounding_box()
    drag(seen, (first["x"] + 30, first["y"] + 30), (third["x"] + third["width"] / 2, third["y"] + 30))
    until(seen, 1, "'order': '231456'")
    seen.wait_for_function("([old]) => document.querySelector(\"[data-clip='1'] canvas\").toDataURL() != old", arg=[moving])  # thumbnails play
    tiles[5].focus()
    seen.keyboard.press("Shift+ArrowLeft")
    until(seen, 1, "'order': '231465'")
    seen.keyboard.press("1")
    until(seen, 1, "'order': '623145'")
    assert seen.evaluate("document.activeElement.dataset.clip") == "6"
    seen.keyboard.press("Space")
    seen.keyboard.press("ArrowRight")
    until(seen, 1, "'order': '263145'")
    seen.keyboard.press("Space")
    assert found.locator("[data-clip]").evaluate_all("all => all.map(one => one.dataset.clip).join('')") == "263145"
    found.get_by_role("button", name="Take the order of after").click()
    until(seen, 1, "'order': '654321'")
    found.get_by_role("button", name="True order").click()
    until(seen, 1, "'reward': 1.0")
    found.get_by_label("Mark true places").check()
    assert found.locator(".vssr-right").count() == 6
    seen.get_by_role("button", name="set from Python").nth(1).click()
    until(seen, 1, "'order': '213456'")


def test_counting(seen):
    found = viewer(seen, 2)
    found.get_by_label("Frame", exact=True).focus()
    seen.keyboard.press("Home")
    assert found.locator(".vssr-edge").count() == 0 or found.locator(".vssr-chip").first.get_attribute("data-frame") == "0"
    seen.keyboard.press("n")
    assert found.get_by_label("Frame", exact=True).input_value() == "0" and not found.locator(".vssr-chip").first.is_visible(), "nobody asked for the truth yet"
    found.get_by_label("Show the truth").check()
    found.get_by_label("Frame", exact=True).focus()
    seen.keyboard.press("n")
    assert found.locator(".vssr-edge").count() > 0
    chip = found.locator(".vssr-chip").last
    chip.click()
    assert found.get_by_label("Frame", exact=True).input_value() == chip.get_attribute("data-frame")
    assert chip.get_attribute("aria-current") == "true"
    found.get_by_role("button", name="One more circle").click()
    found.get_by_label("Your count of squares").fill("2")
    seen.keyboard.press("Tab")
    until(seen, 2, "'counts': (1, 2, 0)")
    found.get_by_label("Show the truth").uncheck()
    assert found.locator(".vssr-edge").count() == 0 and not chip.is_visible()
    found.get_by_label("Show the truth").check()
    seen.get_by_role("button", name="set from Python").nth(2).click()
    until(seen, 2, "'reward': 1.0")
    assert found.locator(".vssr-score b").first.inner_text() == "1.00"


def test_keys_stay_in_and_shortcuts_stay_out(seen):
    "Letters typed in a viewer do nothing to the notebook; Tab leaves it; the notebook's own keys work outside."
    cells = seen.locator(".jp-Notebook .jp-CodeCell")
    count = cells.count()
    for place in (viewer(seen, 0).get_by_role("button", name="Play"), viewer(seen, 1).locator("[data-clip]").first, viewer(seen, 2).get_by_label("Frame", exact=True)):
        place.focus()
        for key in ("a", "b", "d", "d", "ArrowDown"):
            seen.keyboard.press(key)
    assert cells.count() == count
    viewer(seen, 0).get_by_label("Frame", exact=True).focus()
    visited = []
    for _ in range(40):
        seen.keyboard.press("Tab")
        visited.append(seen.evaluate("[...document.querySelectorAll('.vssr')].findIndex(one => one.contains(document.activeElement))"))
        if visited[-1] != 0:
            break
    assert visited[-1] != 0, "Tab does not get out"
    cells.first.locator(".jp-InputPrompt").click()
    seen.keyboard.press("b")
    seen.wait_for_function(f"document.querySelectorAll('.jp-Notebook .jp-CodeCell').length == {count + 1}")
    seen.keyboard.press("d")
    seen.keyboard.press("d")
    seen.wait_for_function(f"document.querySelectorAll('.jp-Notebook .jp-CodeCell').length == {count}")


def test_everything_has_a_name(seen):
    "What takes the focus, and every picture, says what it is; nothing is reached in another order than it stands."
    nameless = seen.evaluate(
        """() => [...document.querySelectorAll('.vssr button, .vssr select, .vssr input, .vssr [tabindex], .vssr [role=img]')].filter(one =>
            !(one.getAttribute('aria-label') || one.innerText?.trim() || one.closest('label')?.innerText.trim())).map(one => one.outerHTML.slice(0, 120))"""
    )
    assert not nameless
    assert not seen.evaluate("[...document.querySelectorAll('.vssr [tabindex]')].filter(one => one.tabIndex > 0).length")
    assert seen.locator(".vssr [role=status][aria-live=polite]").count() == 3


def test_markup_is_shown_and_does_nothing(seen):
    for number in range(3):
        found = viewer(seen, number)
        assert MARKUP in found.locator(".vssr-replies").inner_text()
        assert "<b onclick=window.hacked=1>bad.mp4" in found.locator(".vssr-file").inner_text()
        assert found.locator("img, script, b[onclick]").count() == 0
    assert seen.evaluate("window.hacked") is None
    assert not seen.broken


def luminance(color):
    red, green, blue = (int(float(part)) for part in color[color.index("(") + 1 : -1].split(",")[:3])
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_themes(seen, tmp_path):
    "Dark ink on a light ground, and the other way round."

    def theme(name):
        seen.locator(".lm-MenuBar-itemLabel").get_by_text("Settings", exact=True).click()
        seen.locator(".lm-Menu-itemLabel").get_by_text("Theme", exact=True).hover()
        seen.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).click()
        seen.wait_for_function(f"document.body.dataset.jpThemeName == '{name}'")
        seen.wait_for_timeout(700)
        style = viewer(seen, 0).evaluate("one => { const style = getComputedStyle(one); return [style.color, style.backgroundColor]; }")
        for number in range(3):
            viewer(seen, number).screenshot(path=tmp_path / f"{name} {number}.png")
        return [luminance(color) for color in style]

    ink, ground = theme("JupyterLab Dark")
    assert ink > ground + 120
    ink, ground = theme("JupyterLab Light")
    assert ink < ground - 120
