"""Notebooks in JupyterLab, in a real browser: opened from nbs/, run from the menu, looked at like a reader would."""
import nbformat
import pytest
from lab import ROOT, needs_browser, run_all, shown

pytestmark = needs_browser
SMALL = {"steps": 2, "n_train": 12, "n_held_out": 9, "warm_steps": 5, "groups": 2, "group_size": 4}


def test_tour_in_jupyterlab(lab, page, tmp_path):
    run_all(page, lab[0], "index.ipynb", tmp_path / "tour.png")
    found = shown(page)
    assert not found["errors"]
    assert len(found["pictures"]) >= 3 and min(found["pictures"]) > 200
    assert "at dusk" in found["text"]
    assert (tmp_path / "tour.png").stat().st_size > 20_000


def test_training_in_jupyterlab(lab, page, tmp_path):
    "With small numbers typed into the parameters cell; the run folder lands beside the notebook."
    address, notebooks = lab
    notebook = nbformat.read(notebooks / "train.ipynb", 4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in SMALL.items())
    nbformat.write(notebook, notebooks / "train-small.ipynb")
    run_all(page, address, "train-small.ipynb", tmp_path / "train.png")
    found = shown(page)
    assert not found["errors"]
    assert len(found["pictures"]) >= 8 and min(found["pictures"]) > 200
    assert found["widgets"], "progress bars are widgets in JupyterLab"
    assert "run folder: runs/train-demo-0" in found["text"]
    assert (notebooks / "runs" / "train-demo-0" / "results.json").exists()


CHAPTERS = sorted(str(path.relative_to(ROOT / "nbs")) for path in (ROOT / "nbs").rglob("[0-9]*.ipynb") if ".ipynb_checkpoints" not in path.parts)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAPTERS)
def test_every_chapter_in_jupyterlab(lab, page, tmp_path, name):
    run_all(page, lab[0], name, tmp_path / "chapter.png", seconds=400)
    found = shown(page)
    assert not found["errors"]
    assert found["text"].strip() and (not found["pictures"] or min(found["pictures"]) > 50)
