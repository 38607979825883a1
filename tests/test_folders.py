"""Names, links and caches: what strangers write into data and folders leads to no file outside. SECURITY.md has the promises."""

import ast
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from videossr import folders, runs
from videossr.data import build_dataset, export_swift, export_verl, load_samples
from videossr.data.load import FrameCache
from videossr.data.mix import read_samples, save_samples
from videossr.demo import demo_videos
from videossr.evaluate import write_results
from videossr.records import Journal, Record, make_record, write_records
from videossr.tasks import make_sample

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["../../x", "a/b", "a\\b", "..", ".", "", "x" * 300, "影" * 300, "a\0b", "-rf", ".hidden", "con", "a b", "A B", "\udcff", "$(touch x)", "C:\\x", "/etc/passwd"]


def seen(folder):
    "All files below a folder with their content, and where links lead."
    return {str(path): os.readlink(path) if path.is_symlink() else path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_symlink() or path.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    build_dataset(demo_videos(6, folder=folder / "videos", progress=False), folder / "dataset", "demo", 6, held_out=0, near_duplicates=False, workers=1, progress=False, card=False)
    return folder


@pytest.fixture
def victim(tmp_path):
    "A folder of somebody else's, with a file: both stay as they are."
    place = tmp_path / "victim"
    place.mkdir()
    (place / "file").write_text("mine")
    yield place
    assert [path.name for path in place.iterdir()] == ["file"] and (place / "file").read_text() == "mine"


# ---------------------------------------------------------------------------------------------------- names


def test_any_text_becomes_a_name_of_one_file(tmp_path):
    rng, made = random.Random(0), []
    texts = NAMES + ["".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x20, 0xD7FF)])) for _ in range(rng.randrange(200))) for _ in range(500)]
    for text in texts * 2:
        made.append(folders.file_name(text, made))
        assert folders.file_name(folders.file_name(text)) == folders.file_name(text)
    assert len({name.casefold() for name in made}) == len(texts) * 2
    for name in made[:100]:
        (tmp_path / f"{name}-00000.parquet.part").write_text("")
    assert len(list(tmp_path.iterdir())) == 100 and not [name for name in made if name.startswith((".", "-"))]


def test_a_card_of_any_types_stays_in_its_folder(dataset, tmp_path):
    from videossr.data.card import write_card

    shutil.copytree(dataset / "dataset", tmp_path / "deep" / "dataset")
    place = next((tmp_path / "deep" / "dataset" / "samples").glob("train-*"))
    samples = read_samples(place)
    kinds = ["../../x", "a/b", "a-b", "x" * 300, "../../../y", "](javascript:x)"]
    save_samples([replace(sample, type=kind) for sample, kind in zip(samples, kinds)], place)
    text = write_card(tmp_path / "deep" / "dataset").read_text()
    outside = [path for path in seen(tmp_path) if not path.startswith(str(tmp_path / "deep" / "dataset"))]
    figures = sorted(path.name for path in (tmp_path / "deep" / "dataset" / "figures").iterdir())
    assert not outside and len(figures) == 1 + len(kinds) == text.count(".png)") and "](javascript" not in text.replace("\\]", "")


def test_a_split_and_a_key_are_names(dataset, tmp_path):
    from videossr.data.build import load_plan

    shutil.copytree(dataset / "dataset", tmp_path / "dataset")
    config = json.loads((tmp_path / "dataset" / "config.json").read_text())
    (tmp_path / "dataset" / "config.json").write_text(json.dumps({**config, "n": {"train": 6, "../../x": 3}}))
    with pytest.raises(ValueError, match="calls a split '../../x'"):
        load_plan(tmp_path / "dataset")


def test_an_arm_and_a_figure_are_names(tmp_path):
    from videossr.data import Mix
    from videossr.sweep import Arm, Sweep, distinct

    sweep = Sweep(tmp_path / "sweep", runs.train_settings("demo"))
    for name in NAMES:
        assert sweep.run(Arm(name, Mix(())), 0).folder.parent == tmp_path / "sweep" / "seed-0"
    with pytest.raises(ValueError, match="two different arms"):
        distinct([Arm("a b", Mix(())), Arm("a/b", Mix(()))])
    from matplotlib.figure import Figure

    run = runs.Run(tmp_path / "deep" / "run")
    for name in NAMES:
        run.draw(f"after-{name}-0", Figure(figsize=(1, 1)))
    assert {path.parent for path in tmp_path.rglob("*.png")} == {tmp_path / "deep" / "run" / "figures"}


def test_a_model_has_one_name_in_the_evaluation_notebook(tmp_path, monkeypatch):
    "`-p name Qwen/tiny` answered everything and then failed."
    monkeypatch.chdir(tmp_path)
    cells = ["".join(cell["source"]) for cell in json.loads((ROOT / "nbs" / "evaluate.ipynb").read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    space = {}
    exec(cells[0], space)
    exec(next(cell for cell in cells if "runs/evaluate-" in cell and "import json" in cell), space | (given := {"name": "../Qwen/tiny", "model": ""}) | {"__name__": "x"}, found := dict(given))
    assert found["name"] == "Qwen-tiny" and found["folder"] == Path("runs/evaluate-Qwen-tiny") and [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert json.loads((found["folder"] / "config.json").read_text())["name"] == "Qwen-tiny"


# ---------------------------------------------------------------------------------------------------- links


def a_record():
    return Record.from_json(make_record(make_sample("grounding", demo_videos(1, progress=False)[0], difficulty="demo"), "1.0-2.0", name="x").to_json())


WRITERS = {
    "records": lambda path: write_records([a_record()], path),
    "results": lambda path: write_results({"tasks": {}}, path),
    "a run's JSON": lambda path: runs.Run(path.parent).write_json(path.name, {}),
    "rows": lambda path: save_samples([make_sample("grounding", demo_videos(1, progress=False)[0], difficulty="demo")], path),
}


@pytest.mark.parametrize("writer", sorted(WRITERS))
def test_a_whole_file_is_written_through_no_link(tmp_path, victim, writer):
    "At its place, or at a name that can be guessed."
    (tmp_path / "own").mkdir()
    for name in ("file.json", "file.json.part", f".file.json.{os.getpid()}.part"):
        (tmp_path / "own" / name).symlink_to(victim / "file")
    WRITERS[writer](tmp_path / "own" / "file.json")
    assert (tmp_path / "own" / "file.json").stat().st_size and not (tmp_path / "own" / "file.json").is_symlink()


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="no"), folders.whole_file(tmp_path / "file") as partial:
        partial.write_text("half")
        raise ValueError("no")
    assert not list(tmp_path.iterdir())
    assert folders.write_whole(tmp_path / "file", "ä").read_bytes() == "ä".encode() and (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    os.umask(found := os.umask(0))
    return found


def test_records_are_appended_to_no_link(tmp_path, victim):
    (tmp_path / "records.jsonl").symlink_to(victim / "file")
    with pytest.raises(OSError, match="records.jsonl is a link"):
        Journal(tmp_path / "records.jsonl")


LINKS = {  # in a run folder -> where it leads
    ".lock": "file", "config.json": "file", "log.jsonl": "file", "samples": "", "records": "", "checkpoints": "", "checkpoints/final.part": "", "records/before.jsonl": "file",
    "figures/reward.png": "file", "config.json.part": "file", "checkpoints/checkpoint-1/complete": "file", "tensorboard": "",
}  # fmt: skip


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("link", sorted(LINKS))
def test_a_run_with_a_planted_link_is_refused(tmp_path, victim, link, resume):
    place = tmp_path / "run" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(victim / LINKS[link])
    with pytest.raises(OSError, match=f"{place} is a link that leads out of"):
        runs.Run.create(tmp_path / "run", runs.train_settings("demo"), 0, resume=resume)


def test_a_run_folder_may_be_a_link_and_hold_links_to_itself(tmp_path):
    (tmp_path / "disk" / "records").mkdir(parents=True)
    (tmp_path / "disk" / "latest").symlink_to("records")
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    run = runs.Run.create(tmp_path / "run", runs.train_settings("demo"), 0)
    runs.release_run(run.folder)
    assert (tmp_path / "disk" / "config.json").exists()


def test_deleting_follows_no_link(tmp_path, victim):
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / "samples" / "deep").symlink_to(victim)
    (tmp_path / "run" / "link").symlink_to(victim)
    folders.remove(tmp_path / "run" / "link")
    folders.remove(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("link", "end"), [("figures", ""), ("README.md", "file"), ("build", ""), ("samples/x.parquet", "file")])
def test_a_dataset_with_a_planted_link_is_refused(dataset, tmp_path, victim, link, end):
    from videossr.data.card import write_card
    from videossr.push import push_dataset

    place = tmp_path / "dataset"
    shutil.copytree(dataset / "dataset", place)
    folders.remove(place / link)
    (place / link).symlink_to(victim / end)
    with pytest.raises(OSError, match=f"{place / link} is a link that leads out of"):
        write_card(place)
    with pytest.raises(OSError, match=f"{place / link} is a link that leads out of"):
        build_dataset(dataset / "videos", place, "demo", 6, held_out=0, near_duplicates=False, workers=1, progress=False)
    with pytest.raises(OSError, match=f"{place / link} is a link that leads out of"):
        push_dataset(place, "me/data", api=object())  # it would be sent to the Hub


@pytest.mark.parametrize(("export", "link"), [(export_verl, "train/frames/000000-0"), (export_swift, "train/videos"), (export_swift, "train/.train-00000.jsonl.part")])
def test_an_export_with_a_planted_link_is_refused(dataset, tmp_path, victim, export, link):
    samples = load_samples(dataset / "dataset")[:1]
    export(samples, tmp_path / "export", progress=False)
    for path in (tmp_path / "export" / "train").iterdir():
        if path.name != "export.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (tmp_path / "export" / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "export" / link).symlink_to(victim / "file" if link.endswith(".part") else victim)
    with pytest.raises(OSError, match="is a link that leads out of"):
        export(samples, tmp_path / "export", progress=False)


def test_a_policy_is_saved_through_no_link(tmp_path, victim):
    from videossr.policy import tiny_policy

    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").symlink_to(victim / "file")
    with pytest.raises(OSError, match="config.json is a link that leads out of"):
        tiny_policy(0).save(tmp_path / "policy")


def test_a_model_of_a_stranger_brings_no_file_of_yours_along(tmp_path):
    from videossr.checkpoints import dress_as_published

    for name in ("theirs", "trained"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "netrc").write_text("password")
    (tmp_path / "theirs" / "notes.txt").symlink_to(tmp_path / "netrc")
    with pytest.warns(UserWarning, match="notes.txt is a link that leads out of"):
        assert dress_as_published(tmp_path / "trained", tmp_path / "theirs", "bfloat16") == ["config.json"]
    hub = tmp_path / "models--a--b"
    for name in ("blobs", "snapshots/1"):
        (hub / name).mkdir(parents=True)
    (hub / "blobs" / "abc").write_text("{}")
    (hub / "snapshots" / "1" / "config.json").symlink_to("../../blobs/abc")
    assert dress_as_published(tmp_path / "trained", hub / "snapshots" / "1", "bfloat16") == ["config.json"]


# ---------------------------------------------------------------------------------------------------- caches


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOSSR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_cache_is_made_for_nobody_else(cache, tmp_path):
    demo_videos(1, progress=False)
    FrameCache(tmp_path / "frames")
    for place in (cache, tmp_path / "frames"):
        assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("how", ["others write", "group writes", "somebody else's", "a link of somebody else"])
def test_a_cache_that_others_can_plant_in_is_not_used(cache, tmp_path, how, monkeypatch):
    cache.mkdir(mode=0o700)
    planted = cache / demo_videos(1, progress=False)[0].relative_to(cache)
    planted.write_text("planted")
    if "write" in how:
        cache.chmod(0o777 if how == "others write" else 0o770)
    elif how == "somebody else's":
        monkeypatch.setattr(os, "getuid", lambda: os.stat(cache).st_uid + 1)
        if not os.stat(cache).st_uid:
            os.chown(cache, 4242, 4242)
    else:
        if os.getuid():
            pytest.skip("only root can make a link of somebody else")
        cache.rename(tmp_path / "yours")
        cache.symlink_to(tmp_path / "yours")
        os.chown(cache, 4242, 4242, follow_symlinks=False)
    with pytest.warns(UserWarning, match="the cache is not used.*(others can write to|belongs to somebody else)"):
        found = demo_videos(1, progress=False)[0]
    assert found.read_bytes() != b"planted" and found.parents[1] != cache and found.parents[1].stat().st_mode & 0o777 == 0o700
    with pytest.raises(PermissionError, match="plant files there"):
        FrameCache(cache)


# ---------------------------------------------------------------------------------------------------- nobody else writes

ELSEWHERE = {  # modules that write without the chapter, and why they may
    "folders": {"*"},
    "data/mix": {"unlink"},  # sweep: removes what is left of whole_file, links themselves
    "data/load": {"unlink"},  # drops files of a cache that is nobody else's
    "data/export": {"unlink"},  # a frame, before a hard link takes its place; the folder was looked at
    "evaluate": {"unlink"},  # records of single processes, opened as no link before
    "checkpoints": {"unlink", "copyfile"},  # of a folder that was looked at
    "runs": {"unlink"},  # adapters, in a folder that was just made
    "released": {"write_text"},  # into a folder that was looked at
    "push": {"write_text", "copyfile", "symlink_to"},  # into a temporary folder
    "sweep": {"copytree", "copyfile"},  # into what whole_file and whole_folder gave
    "benchmarks/core": {"write_text", "copyfile"},  # made-up examples, into a folder that was looked at
    **dict.fromkeys(("benchmarks/general", "benchmarks/reasoning", "benchmarks/grounding", "benchmarks/recent"), {"write_text"}),  # the same
}
CALLS = {"write_text", "write_bytes", "rmtree", "unlink", "rename", "copyfile", "copytree", "copy", "copy2", "move", "symlink_to", "touch"}


def written(tree):
    "Names of calls that write or delete files by their path."
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if node.func.attr in CALLS and not (node.func.attr in ("copy", "move") and owner != "shutil"):
                yield node.func.attr
            elif owner == "os" and node.func.attr in ("replace", "remove"):
                yield f"os.{node.func.attr}"
        modes = [one.value for one in (*getattr(node, "args", ()),) if isinstance(one, ast.Constant) and isinstance(one.value, str)] if isinstance(node, ast.Call) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open" and any(mode[:1] in ("w", "a", "x") for mode in modes[-1:]):
            yield "open"


def test_the_package_writes_through_one_chapter():
    package = ROOT / "videossr"
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).with_suffix("").as_posix()
        allowed = ELSEWHERE.get(name, set())
        assert "*" in allowed or {*written(ast.parse(path.read_text(encoding="utf-8")))} <= allowed, name
