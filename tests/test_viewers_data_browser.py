"""RolloutBrowser, DatasetExplorer and LiveView in JupyterLab: used as a reader would, in light and dark, with hostile texts in them."""
import json

import nbformat
import pytest
from lab import needs_browser, run_all, shown
from test_viewers_data import GONE, MARKUP, dataset, run_folder, write_log

pytestmark = needs_browser
CODE = """
from videossr.viewers import DatasetExplorer, LiveView, RolloutBrowser
browser = RolloutBrowser("run")
browser
---
explorer = DatasetExplorer("data")
explorer
---
view = LiveView("live", every=0.2, beside="first")
view
---
import time, pathlib
held = sum(pathlib.Path("hold").exists() and time.sleep(0.25) is None for _ in range(120))  # a kernel at work
print("held", held > 0)
"""


def notebook(path, cells):
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells], metadata=kernel), path)


@pytest.fixture(scope="module")
def opened(lab, page, tmp_path_factory):
    "The notebook with the three viewers, run up to the cell that keeps the kernel busy."
    address, notebooks = lab
    place = notebooks / "viewers-data"
    place.mkdir()
    run_folder(place / "run")
    dataset(place / "data")
    run_folder(place / "live", steps=0)
    write_log(place / "live", range(1, 6))
    run_folder(place / "first", steps=0)
    write_log(place / "first", range(1, 8))
    notebook(place / "viewers.ipynb", CODE.split("---"))
    pictures = tmp_path_factory.mktemp("pictures")
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog opened: {dialog.message}"))
    run_all(page, address, "viewers-data/viewers.ipynb", pictures / "first.png")
    page.wait_for_selector(".vssr[aria-label='Training run']")
    assert not shown(page)["errors"]
    return page, place, pictures


def part(page, name):
    return page.locator(f".vssr[aria-label='{name}']")


def steps(box):
    return box.locator("tbody .vssr-open").all_inner_texts()


def nothing_ran(page):
    assert page.evaluate("window.hacked") is None
    assert page.locator(".vssr script, .vssr img, .vssr iframe, .vssr b.evil").count() == 0


def theme(page, name):
    page.locator(".lm-MenuBar-itemLabel").get_by_text("Settings", exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text("Theme", exact=True).hover()
    page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).click()
    page.wait_for_function("dark => document.body.dataset.jpThemeLight === String(!dark)", arg=name.endswith("Dark"))
    page.wait_for_timeout(300)


def test_rollouts_are_filtered_sorted_and_opened(opened):
    page, _, pictures = opened
    box = part(page, "Rollout browser")
    assert steps(box)[0] == "12"
    box.get_by_label("Sort by", exact=True).select_option("oldest")
    page.wait_for_function("document.querySelector(\".vssr[aria-label='Rollout browser'] .vssr-open\").innerText === '1'")
    box.get_by_label("Show", exact=True).select_option("zero variance")
    box.locator(".vssr-badge").get_by_text("zero variance").first.wait_for()
    page.wait_for_function("[...document.querySelectorAll(\".vssr[aria-label='Rollout browser'] tbody tr\")].every(row => row.innerText.includes('zero variance'))")
    box.get_by_label("Show", exact=True).select_option("unreadable")
    box.locator(".vssr-badge").get_by_text("unreadable").first.wait_for()
    box.locator(".vssr-open").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("[...document.querySelectorAll(\".vssr[aria-label='Rollout browser'] .vssr-open\")].indexOf(document.activeElement)") == 1
    page.keyboard.press("Enter")
    box.locator(".vssr-rollouts tbody tr").first.wait_for()
    assert box.locator(".vssr-rollouts tbody tr").count() == 6
    assert box.locator(".vssr-film canvas").count() >= 6
    assert MARKUP in box.locator(".vssr-rollouts").inner_text()
    assert box.locator(".vssr-open[aria-expanded=true]").count() == 1
    box.screenshot(path=pictures / "rollouts.png")
    nothing_ran(page)


def test_a_stretch_of_steps_is_chosen_with_the_pointer_and_by_numbers(opened):
    page, *_ = opened
    box = part(page, "Rollout browser")
    box.get_by_role("button", name="Close").click()
    box.get_by_label("Show", exact=True).select_option("all")
    box.locator(".vssr-timeline").scroll_into_view_if_needed()
    line = box.locator(".vssr-timeline").bounding_box()
    page.mouse.move(line["x"] + 0.55 * line["width"], line["y"] + 20)
    page.mouse.down()
    page.mouse.move(line["x"] + 0.99 * line["width"], line["y"] + 20)
    page.mouse.up()
    page.wait_for_function("document.querySelector(\"input[aria-label='First step']\").value === '7'")
    page.wait_for_function("document.querySelector(\".vssr[aria-label='Rollout browser'] .vssr-open\").innerText === '7'")
    box.get_by_label("Last step").fill("8")
    box.get_by_label("Last step").press("Tab")
    page.wait_for_function("[...document.querySelectorAll(\".vssr[aria-label='Rollout browser'] .vssr-open\")].every(one => ['7', '8'].includes(one.innerText))")
    box.get_by_role("button", name="All steps").click()


def test_new_rollouts_appear_while_the_run_goes_on(opened):
    page, place, _ = opened
    box = part(page, "Rollout browser")
    box.get_by_label("Sort by", exact=True).select_option("newest")
    row = json.loads((place / "run" / "rollouts.jsonl").read_text().splitlines()[-1])
    with (place / "run" / "rollouts.jsonl").open("a") as file:
        file.write(json.dumps({**row, "step": 13}) + "\n")
    page.wait_for_function("document.querySelector(\".vssr[aria-label='Rollout browser'] .vssr-open\").innerText === '13'", timeout=15_000)


def test_rows_of_a_dataset(opened):
    page, _, pictures = opened
    box = part(page, "Dataset explorer")
    total = len(steps(box))
    box.get_by_label("Task", exact=True).select_option("jigsaw")
    page.wait_for_function("[...document.querySelectorAll(\".vssr[aria-label='Dataset explorer'] tbody .vssr-name\")].every(one => one.innerText === 'jigsaw')")
    assert 0 < len(steps(box)) < total
    box.locator(".vssr-open").first.focus()
    page.keyboard.press("Enter")
    box.locator(".vssr-detail h3").wait_for()
    page.wait_for_function("document.querySelectorAll(\".vssr[aria-label='Dataset explorer'] canvas\").length > 2")
    answers = box.locator("tbody .vssr-mono").all_inner_texts() + box.locator(".vssr-detail .vssr-mono").all_inner_texts()
    assert set(answers) == {"hidden"}, "one may answer here: nobody asked for the truth yet"
    box.get_by_label("Show true answers").check()
    page.wait_for_function("!document.querySelector(\".vssr[aria-label='Dataset explorer']\").innerText.includes('hidden')")
    box.get_by_text("Recipe").click()
    assert '"read"' in box.locator(".vssr-recipe pre").inner_text()
    box.screenshot(path=pictures / "dataset.png")
    box.get_by_role("button", name="Close", exact=True).last.click()
    box.get_by_label("Task", exact=True).select_option("")
    box.get_by_label("Find", exact=True).fill("gone")
    page.wait_for_function("document.querySelectorAll(\".vssr[aria-label='Dataset explorer'] tbody .vssr-open\").length === 1")
    box.locator("tbody .vssr-open").click()
    box.locator(".vssr-note").wait_for()
    assert GONE in box.locator(".vssr-note").inner_text()
    box.get_by_role("radio", name="Refusals").check()
    box.get_by_role("table", name="Refusals").wait_for()
    box.get_by_label("Find", exact=True).fill("")
    page.wait_for_function("document.querySelector(\"table[aria-label='Refusals']\").innerText.includes('still scene')")
    assert MARKUP in box.inner_text()
    nothing_ran(page)


def test_training_is_seen_from_another_process_and_while_the_kernel_works(opened):
    page, place, pictures = opened
    box = part(page, "Training run")
    assert box.locator(".vssr-other").count() == 3 and "Thin dark line: the run first." in box.inner_text()
    assert "5 of 12 steps" in box.inner_text().replace("\n", " ")
    write_log(place / "live", range(6, 9))
    page.wait_for_function("document.querySelector(\".vssr[aria-label='Training run'] [role=progressbar]\").getAttribute('aria-valuenow') === '8'", timeout=10_000)
    (place / "hold").touch()
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").last.click()
    page.keyboard.press("Control+Enter")
    prompt = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").last
    prompt.get_by_text("[*]:").wait_for()
    write_log(place / "live", range(9, 12))
    page.wait_for_function("document.querySelector(\".vssr[aria-label='Training run'] [role=progressbar]\").getAttribute('aria-valuenow') === '11'", timeout=10_000)
    assert prompt.inner_text() == "[*]:", "the kernel was at work all the time"
    (place / "hold").unlink()
    page.get_by_text("held True").wait_for()
    assert box.locator(".vssr-chart svg").count() == 3
    assert MARKUP in box.inner_text()
    box.screenshot(path=pictures / "live.png")
    nothing_ran(page)


def test_dark_theme_changes_the_colours(opened):
    page, _, pictures = opened
    ground = "getComputedStyle(document.querySelector('.vssr')).backgroundColor"
    light = page.evaluate(ground)
    theme(page, "JupyterLab Dark")
    assert page.evaluate(ground) != light
    for name in ("Rollout browser", "Dataset explorer", "Training run"):
        part(page, name).screenshot(path=pictures / f"dark-{name.split()[0].lower()}.png")
    theme(page, "JupyterLab Light")
