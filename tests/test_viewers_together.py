"""All six viewers on one page of JupyterLab, some inside others: styles stay in their viewer, nothing overlaps, nothing is cut."""
import re
import sys

import nbformat
import pytest
from lab import needs_browser, run_all, shown
from test_viewers_data import dataset, run_folder, write_log

from videossr import viewers

CODE = """
from videossr.demo import demo_videos
from videossr.tasks import make_sample
from videossr.viewers import AnomalyViewer, CountingViewer, DatasetExplorer, JigsawBoard, LiveView, RolloutBrowser
video = demo_videos(1)[0]
THOUGHT = "<think>" + "It may be early, or late. " * 30 + "</think>"
AnomalyViewer(make_sample("grounding", video, type="mirror"), {"before": "no idea", "after": THOUGHT + "1.0-3.0"})
---
JigsawBoard(make_sample("jigsaw", video), {"before": "no idea", "after": "654321"})
---
CountingViewer(make_sample("counting", video), {"before": "no idea", "after": "3,3,3"})
---
explorer = DatasetExplorer("data", task="grounding")
explorer.opened = explorer.view["rows"][0]["number"]
explorer
---
browser = RolloutBrowser("run", task="grounding")
browser.opened = next(number for number in browser.numbers if len(set(browser.kept.row(browser.kept.groups[number])["replies"])) > 2)
browser.play()
browser
---
LiveView("live", watch=False)
"""
NAMES = ["Anomaly viewer", "Jigsaw board", "Counting viewer", "Dataset explorer", "Rollout browser", "Training run"]
# Siblings that overlap, and what sticks out of the viewer; a hidden or floating element and what scrolls counts as neither.
FAULTS = """root => {
    const seen = one => one.checkVisibility() && one.getClientRects().length && !['absolute', 'fixed'].includes(getComputedStyle(one).position);
    const solid = one => seen(one) && !getComputedStyle(one).display.startsWith('inline');
    const name = one => `${one.tagName} ${one.getAttribute('class') ?? ''}`;
    const frame = root.getBoundingClientRect(), found = [];
    for (const one of [root, ...root.querySelectorAll(':not(svg *)')]) {
        const kids = [...one.children].filter(solid).map(kid => [kid, kid.getBoundingClientRect()]);
        kids.forEach(([kid, box], at) => {
            for (const [other, there] of kids.slice(at + 1)) {
                const wide = Math.min(box.right, there.right) - Math.max(box.left, there.left), high = Math.min(box.bottom, there.bottom) - Math.max(box.top, there.top);
                if (wide > 1.5 && high > 1.5) found.push(`${name(kid)} overlaps ${name(other)} by ${wide.toFixed()} x ${high.toFixed()}`);
            }
            if (!kid.closest('.vssr-wide') && (box.right > frame.right + 1 || box.left < frame.left - 1)) found.push(`${name(kid)} sticks out`);
            if (!kid.closest('.vssr-wide') && (box.bottom > frame.bottom + 1)) found.push(`${name(kid)} hangs out below`);
        });
    }
    return found;
}"""
LANES = """root => {
    const box = one => one.getBoundingClientRect(), line = root.querySelector('.vssr-timeline'), frame = box(line);
    const inside = one => box(one).top >= frame.top - 4 && box(one).bottom <= frame.bottom + 1;
    const lanes = [...line.querySelectorAll('.vssr-line:not([hidden])')];
    return { lanes: lanes.length, tall: lanes.every(one => box(one).height >= 18), inside: lanes.every(inside), head: inside(line.querySelector('.vssr-playhead')) };
}"""
ROWS = """root => {
    const table = root.querySelector('.vssr-replies'), rows = [...table.querySelectorAll('tbody tr')], end = root.getBoundingClientRect().bottom;
    return rows.filter(row => row.getBoundingClientRect().height > 14 && row.getBoundingClientRect().bottom <= end && row.checkVisibility()).length;
}"""


def every_viewer(kind=viewers.Viewer):
    return [kind, *(each for child in kind.__subclasses__() for each in every_viewer(child))]


def test_no_rule_reaches_out_of_its_viewer():
    "A viewer's whole style sheet is one @scope that ends at the next viewer, and no two viewers of the package share one."
    mine = {kind for kind in every_viewer() if kind is not viewers.Viewer and kind is getattr(sys.modules[kind.__module__], kind.__name__, None)}  # no trait's own copies
    mine = sorted((kind for kind in mine if kind.__module__.startswith("videossr.")), key=lambda kind: kind.__name__)
    assert len(mine) == 6
    roots = []
    for kind in mine:
        css = re.sub(r"/\*.*?\*/", "", str(kind._css), flags=re.S).strip()
        begin = re.match(r"@scope \(\.(vssr-[a-z]+-viewer)\) to \(:scope \.vssr\) \{", css)
        assert begin, f"{kind.__name__} has a style sheet that `style` did not make"
        depths = [css[:at].count("{") - css[:at].count("}") for at in (match.end() for match in re.finditer(r"\}", css))]
        assert min(depths[:-1]) > 0 == depths[-1], f"{kind.__name__}: a rule stands after its scope"
        assert not re.search(r"\.vssr(?![-\w])", css[begin.end() :]), f"{kind.__name__}: its root is :scope, and .vssr would be any viewer's"
        assert f'const ROOT = "{begin[1]}";' in str(kind._esm)
        roots.append(begin[1])
    assert len(set(roots)) == 6


def write_notebook(place):
    run_folder(place / "run")
    dataset(place / "data")
    run_folder(place / "live", steps=0)
    write_log(place / "live", range(1, 6))
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    cells = [nbformat.v4.new_code_cell(cell.strip()) for cell in CODE.split("---\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), place / "together.ipynb")


@pytest.fixture(scope="module")
def together(lab, page, tmp_path_factory):
    address, notebooks = lab
    place = notebooks / "viewers-together"
    place.mkdir()
    write_notebook(place)
    pictures = tmp_path_factory.mktemp("together")
    run_all(page, address, "viewers-together/together.ipynb", pictures / "all.png")
    page.wait_for_function("document.querySelectorAll('.vssr-player').length == 5", timeout=30_000)  # two of them inside of others
    assert not shown(page)["errors"]
    return page, pictures


def outer(page):
    return {name: page.locator(f".jp-Notebook .vssr[aria-label='{name}']").and_(page.locator(".vssr:not(.vssr .vssr)")) for name in NAMES}


@needs_browser
@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_with_all_six_on_the_page(together, name):
    page, pictures = together
    box = outer(page)[name]
    assert box.count() == 1
    box.scroll_into_view_if_needed()
    box.screenshot(path=pictures / f"{name}.png")
    assert box.evaluate(FAULTS) == []


@needs_browser
def test_lanes_and_replies_stand_in_every_anomaly_viewer(together):
    page, pictures = together
    found = page.locator(".vssr[aria-label='Anomaly viewer']")
    assert found.count() == 3
    for number in range(3):
        box = found.nth(number)
        box.scroll_into_view_if_needed()
        lanes = box.evaluate(LANES)
        replies = box.locator(".vssr-replies tbody tr").count()
        assert lanes.pop("lanes") >= 1 + replies and all(lanes.values()), lanes
        if replies:
            assert box.evaluate(ROWS) == replies
    assert page.locator(".vssr .vssr .vssr-replies tbody tr").count() > 2  # opened from the browser, with all of its replies


@needs_browser
def test_thoughts_are_folded(together):
    page, _ = together
    box = outer(page)["Anomaly viewer"]
    reply, thought = box.locator(".vssr-replies tbody tr").nth(1), box.locator(".vssr-thought")
    assert "thought, 180 words" in reply.inner_text() and "1.0-3.0" in reply.inner_text() and "It may be early" not in reply.inner_text()
    thought.locator("summary").click()
    assert "It may be early" in reply.inner_text()
    thought.locator("summary").click()


@needs_browser
@pytest.mark.parametrize("name", ["Dataset explorer", "Rollout browser"])
def test_an_opened_row_comes_into_view(together, name):
    page, _ = together
    box = outer(page)[name]
    box.get_by_role("button", name="Close", exact=True).click()
    row = box.locator("tbody .vssr-open").first
    row.evaluate("one => one.scrollIntoView({ block: 'end' })")  # at the lower edge of the page: what opens stands below it
    row.click()
    head = box.locator(".vssr-detail h3")
    head.wait_for()
    page.wait_for_timeout(1200)  # it scrolls smoothly
    top = head.bounding_box()["y"]
    assert 0 < top < 0.6 * page.viewport_size["height"]


@needs_browser
@pytest.mark.parametrize("name", ["Training run", "Rollout browser"])
def test_charts_say_what_they_draw(together, name):
    "Names of both axes, and ticks that stand where their values are drawn."
    page, _ = together
    plots = outer(page)[name].locator(".vssr-plot")
    assert plots.count() == {"Training run": 3, "Rollout browser": 1}[name]
    for number in range(plots.count()):
        plot = plots.nth(number)
        assert plot.locator(".vssr-upname").inner_text() == "mean reward" and plot.locator(".vssr-alongname").inner_text() == "step"
        assert plot.locator(".vssr-up").all_inner_texts() == ["1", "0.5", "0"]
        steps = [int(text) for text in plot.locator(".vssr-along").all_inner_texts()]
        assert len(steps) >= 2 and steps == sorted(steps) and steps[-1] <= 12
        texts = plot.locator("span").evaluate_all("all => all.map(one => one.getBoundingClientRect().toJSON())")
        for at, one in enumerate(texts):
            for other in texts[at + 1 :]:
                wide = min(one["right"], other["right"]) - max(one["left"], other["left"])
                assert wide <= 0 or min(one["bottom"], other["bottom"]) <= max(one["top"], other["top"])
    if name == "Training run":  # the last tick, step 5, stands where the curve ends
        end, tick = plots.first.locator(".vssr-mean").bounding_box(), plots.first.locator(".vssr-along").last.bounding_box()
        assert end["x"] + end["width"] == pytest.approx(tick["x"] + tick["width"] / 2, abs=3)


@needs_browser
def test_narrow_page_scrolls_its_tables(together):
    "Last, for it changes the page: a phone's width, with nothing cut and nothing squeezed."
    page, pictures = together
    page.set_viewport_size({"width": 560, "height": 1000})
    page.locator(".lm-MenuBar-itemLabel").get_by_text("View", exact=True).wait_for()
    page.keyboard.press("Control+b")  # the file browser goes
    page.wait_for_timeout(800)
    for name, box in outer(page).items():
        box.scroll_into_view_if_needed()
        box.screenshot(path=pictures / f"narrow {name}.png")
        assert box.evaluate("root => root.getBoundingClientRect().width") < 560
        assert box.evaluate(FAULTS) == [], name
        assert box.evaluate("root => [...root.querySelectorAll('.vssr-wide')].every(one => one.scrollWidth > one.clientWidth)"), name
        assert box.evaluate("root => root.scrollWidth <= root.clientWidth + 1"), name
