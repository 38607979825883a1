"Files, names, values and surroundings as people have them: read as they are meant, or refused by name."
import ast
import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from videossr import files, runs
from videossr.benchmarks import load_benchmark, make_example
from videossr.benchmarks.core import Source, _locate
from videossr.data.build import build_dataset, make_plan
from videossr.data.load import Samples, load_samples
from videossr.data.mix import build_samples, find_videos, get_mix, listed_groups, listed_videos, save_samples, split_videos, to_trl_dataset
from videossr.data.sources import RowError, load_rows
from videossr.demo import demo_videos
from videossr.evaluate import read_results, write_results
from videossr.prefetch import WorkerPool
from videossr.records import Record, read_records, write_records
from videossr.rows import check_rows, see_video
from videossr.settings import read_recipe
from videossr.tasks import Sample
from videossr.viewers.dataset import read_split
from videossr.viewers.rollouts import Rollouts
from videossr.viubench import VIUBench, load_viubench, read_viubench, save_viubench

PACKAGE = Path(files.__file__).parent
MARK = b"\xef\xbb\xbf"  # which editors of Windows put first
ODD = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei 'j' \"k\" \U0001f600 é"  # every place where Python ends a line, and JSON does not
PLAIN = Sample("counting", "shapes", f"{ODD}.mp4", {"note": ODD}, f"How many? {ODD}", "1,2,3")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return demo_videos(5, folder=tmp_path_factory.mktemp("videos"), progress=False)


# ------------------------------------------------------------------------------------------------------ kind 2: text


def record(reply=ODD):
    return Record("0" * 16, "m", "counting", "shapes", "a.mp4", "1,2,3", reply, False, 0.0, 0.0, "paper", 0.1)


def group():
    row = {"step": 3, "sample": "x", "task": "counting", "type": "shapes", "answer": "1,2,3", "video": f"{ODD}.mp4"}
    return json.dumps({**row, "replies": ["1,2,3", "no"], "rewards": [1.0, 0.0], "parsed": [True, False]}, ensure_ascii=False) + "\n"


def read_rollouts(path):
    rollouts = Rollouts(path)
    rollouts.refresh()
    return [one.video for one in rollouts.groups] + [rollouts.row(one)["video"] for one in rollouts.groups]


def json_text(value):
    return json.dumps(value, ensure_ascii=False) + "\n"


def csv_text(**columns):
    return pd.DataFrame(columns).to_csv(index=False)


ROW = {"prompt": ODD, "answer": "4"}
FOUND = {**dict.fromkeys(("tasks", "overall"), {}), "seconds": 1.0, "note": ODD}
DOORS = {  # a text as it was written without any trouble; how it is read; what should come out
    "a list of videos": (f"{ODD}.mp4\nb.mp4\n", "list.txt", lambda path: {one.name for one in listed_videos(path)}, {f"{ODD}.mp4", "b.mp4"}),
    "a table of videos": (csv_text(video=[f"{ODD}.mp4"], group=[ODD]), "list.csv", lambda path: list(listed_groups(path).values()), [ODD]),
    "rows": (json_text(ROW) * 2, "set.jsonl", lambda path: load_rows(path)["prompt"], [ODD, ODD]),
    "rows in a list": (json_text([ROW]), "set.json", lambda path: load_rows(path)["prompt"], [ODD]),
    "rows in a table": (csv_text(prompt=[ODD], answer=[4]), "set.csv", lambda path: load_rows(path)["prompt"], [ODD]),
    "records": (record().to_json() + "\n" + record("b").to_json() + "\n", "records.jsonl", read_records, [record(), record("b")]),
    "questions of a benchmark": (json_text({"q": ODD}) * 2, "questions.jsonl", lambda path: Source(path.parent, {}, "").rows(path), [{"q": ODD}] * 2),
    "a benchmark's list": (json_text([{"q": ODD}]), "questions.json", lambda path: Source(path.parent, {}, "").rows(path), [{"q": ODD}]),
    "the log of a run": (json_text({"step": 1, "note": ODD}), "log.jsonl", lambda path: runs.Run(path.parent).log_rows(), [{"step": 1, "note": ODD}]),
    "the rollouts of a run": (group(), "rollouts.jsonl", lambda path: [row["video"] for row in runs.Run(path.parent).rollout_rows()], [f"{ODD}.mp4"]),
    "the rollouts in a viewer": (group() * 2, "rollouts.jsonl", read_rollouts, [f"{ODD}.mp4"] * 4),
    "settings of a run": (json_text({"note": ODD}), "config.json", lambda path: runs.Run(path.parent).read_json("config.json"), {"note": ODD}),
    "results": (json_text(FOUND), "results.json", read_results, FOUND),
    "a recipe": ("steps: 7\nnote: é\n", "recipe.yaml", lambda path: read_recipe(path, {"steps": int, "note": str}), {"steps": 7, "note": "é"}),
    "a mix": (csv_text(task=["jigsaw", "counting"], share=["1/2", "1"]), "mix.csv", lambda path: [row.share for row in get_mix(path).rows], [1, 2]),
}
each_door = pytest.mark.parametrize("door", DOORS)


def opened(door, folder, change):
    text, name, read, wanted = DOORS[door]
    (folder / name).write_bytes(change(text))
    return read(folder / name), wanted


@each_door
@pytest.mark.parametrize("mark", [b"", MARK], ids=["plain", "marked"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_text_is_read_as_it_was_written(door, mark, end, tmp_path):
    found, wanted = opened(door, tmp_path, lambda text: mark + text.replace("\n", end).encode())
    assert found == wanted


@each_door
def test_a_byte_that_is_not_text_is_named(door, tmp_path):
    "Official files of benchmarks cannot be mended by who has them: there it becomes a mark."
    change = lambda text: text.encode().replace("é".encode(), b"\xe9") if "é" in text else text.encode().replace(b"jigsaw", b"jigs\xe9w")
    if "benchmark" in door:
        found, wanted = opened(door, tmp_path, change)
        assert found == json.loads(json.dumps(wanted).replace("\\u00e9", "\\ufffd"))
        return
    with pytest.raises(ValueError, match=rf"{DOORS[door][1]}.*(not UTF-8|the line).*0xe9|line 1.*0xe9"):
        opened(door, tmp_path, change)


@pytest.mark.parametrize("door", [door for door in DOORS if "benchmark" not in door])
def test_utf16_is_told(door, tmp_path):
    with pytest.raises(ValueError, match="UTF-16|0xff"):
        opened(door, tmp_path, lambda text: text.encode("utf-16"))


@pytest.mark.parametrize("door", [door for door in DOORS if not DOORS[door][1].endswith((".txt", ".csv"))])
def test_a_hundred_thousand_brackets_are_an_error(door, tmp_path):
    "Never a `RecursionError`, which nobody catches."
    name = DOORS[door][1]
    with pytest.raises(ValueError, match=name):
        opened(door, tmp_path, lambda text: b"[" * (5_000 if name == "recipe.yaml" else 100_000) + b"\n" + text.encode())  # YAML is read slowly


@pytest.mark.parametrize("door", [door for door in DOORS if DOORS[door][1].endswith(".jsonl") and "viewer" not in door])
def test_a_bad_line_is_named_by_its_number(door, tmp_path):
    with pytest.raises(ValueError, match=rf"{DOORS[door][1]}, (line|row) 3: "):
        opened(door, tmp_path, lambda text: text[: text.index("\n") + 1].encode() + b"\n{half\n" + text.encode())


def test_a_name_that_stands_twice_is_named(tmp_path):
    (tmp_path / "set.jsonl").write_text('{"prompt": "a", "answer": "1", "id": {"x": 1, "y": 2, "x": 3}}\n')
    with pytest.raises(RowError, match="row 1: not JSON .the name 'x' stands twice"):
        load_rows(tmp_path / "set.jsonl")
    (tmp_path / "official.json").write_text('{"a": 1, "a": 2}')  # as the official scripts read it
    assert Source(tmp_path, {}, "").rows(tmp_path / "official.json") == {"a": 2}


@pytest.mark.parametrize("cut", range(1, 24, 3))
def test_a_line_that_a_kill_cut_short_costs_itself_alone(cut, tmp_path):
    "In the middle of a character, too."
    run, line = runs.Run(tmp_path), json_text({"step": 2, "note": "ééééé\U0001f600"}).encode()
    run.log_path.write_bytes(json_text({"step": 1, "note": ODD}).encode() + line[:-cut])
    assert run.log_rows() == [{"step": 1, "note": ODD}]
    run.rewind(run.log_path, 5)
    assert run.log_path.read_text(encoding="utf-8") == json_text({"step": 1, "note": ODD})
    path, last = tmp_path / "r.jsonl", record("ééé\U0001f600").to_json().encode()
    path.write_bytes(record().to_json().encode() + b"\n" + last[: last.index(b"\xc3\xa9") + cut])
    with pytest.warns(UserWarning, match="the last line is unfinished"):
        assert read_records(path) == [record()]


def test_a_training_folder_starts_again_whatever_its_videos_are_called(tmp_path):
    run, settings = runs.Run(tmp_path), runs.train_settings("demo", groups=1)
    for name in ("train", "held_out"):
        save_samples([PLAIN], run.path("samples", f"{name}.parquet"))
    refusal = {"video": f"{ODD}.mp4", "task": "", "type": "", "reason": "still scene", "detail": ODD}
    run.path("samples", "refusals.jsonl").write_bytes(json_text(refusal).encode())
    assert runs.make_data(run, settings, 0) == ([PLAIN], [PLAIN], [refusal])
    assert read_split(tmp_path, "train").refusals.to_dict("records") == [refusal]


def test_what_the_kit_writes_it_reads(tmp_path):
    path = save_viubench(VIUBench((PLAIN, PLAIN)), tmp_path / "bench.jsonl")
    assert load_viubench(path).samples == (PLAIN, PLAIN)
    path.write_bytes(MARK + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_viubench(path).samples == (PLAIN, PLAIN)
    assert read_records(write_records([record(), record("")], tmp_path / "r.jsonl")) == [record(), record("")]
    assert load_samples(save_samples([PLAIN], tmp_path / "s.parquet")) == [PLAIN] == [Sample.from_json(PLAIN.to_json())]
    assert read_results(write_results(FOUND, tmp_path / "results.json")) == FOUND
    for deep in ("bench.jsonl", "rows.json"):
        (tmp_path / deep).write_text("[" * 100_000)
        with pytest.raises(ValueError, match=deep):
            (load_viubench if deep == "bench.jsonl" else read_viubench)(tmp_path / deep)


def test_files_are_read_in_one_place():
    "A chapter that splits lines, parses a file's JSON or lets pandas guess by itself is found here; messages between processes are no files."
    messages = {
        ("json.loads", "data/build.py"): 4, ("json.loads", "video.py"): 2, ("json.loads", "backends.py"): 1, ("json.loads", "released.py"): 2, ("json.loads", "memory.py"): 2,
        ("json.loads", "runs.py"): 1, ("json.loads", "mixing.py"): 1, ("json.loads", "data/mix.py"): 1,  # values made JSON and read back
        ("read_text", "viewers/core.py"): 1, ("read_text", "released.py"): 1, ("read_text", "memory.py"): 3, ("read_text", "launch.py"): 1,  # of packages, of the system, of a child
    }  # fmt: skip
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = node.func.attr
                name = f"{node.func.value.id}.{name}" if name == "loads" and isinstance(node.func.value, ast.Name) else name
                if name in ("json.loads", "read_text", "read_csv", "read_parquet") and path.name != "files.py":
                    key = (name, path.relative_to(PACKAGE).as_posix())
                    found[key] = found.get(key, 0) + 1
    assert {key: count for key, count in found.items() if count > messages.get(key, 0)} == {}


# ----------------------------------------------------------------------------------------------------- kind 3: names


@pytest.fixture
def crowd(videos, tmp_path):
    "Videos with good names, and one whose name is Latin-1."
    for number, path in enumerate(videos[:4]):
        (tmp_path / f"{number} ü #%.MP4").symlink_to(path)
    odd = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    try:
        Path(os.fsdecode(odd)).symlink_to(videos[4])
    except OSError:
        pytest.skip("this system takes no such names")
    return tmp_path


def test_a_name_that_is_not_utf8_does_not_stop_a_build(crowd, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "set"
    built = build_dataset(crowd, out, "demo", 4, held_out=0, workers=1, card=False, progress=False, near_duplicates=False)
    assert built.summary["splits"]["train"]["made"] == 4 and built.summary["refused videos"] == {"unreadable video": 1}
    line = next(line for line in (out / "refusals.csv").read_text().splitlines() if "caf" in line)
    assert r"caf\xe9.mp4" in line and "not UTF-8" in line and "rename it" in line
    assert make_plan(crowd, "demo", {"train": 2}, near_duplicates=True).unreadable[0][0] == r"caf\xe9.mp4"


def test_a_name_that_is_not_utf8_is_rejected_by_name_everywhere(crowd, tmp_path):
    found = find_videos(crowd)
    assert len(found) == 5
    with pytest.warns(UserWarning, match=r"1 files are left out: .*caf\\xe9.mp4: its name is not UTF-8"):
        train, held = split_videos(found, near_duplicates=False)
    assert len(train) + len(held) == 4
    _, refusals = build_samples(found, "demo", 2, near_duplicates=False, progress=False)
    assert [row["reason"] for row in refusals if row["video"].endswith(r"caf\xe9.mp4")] == ["unreadable video"]
    assert json.dumps(refusals, ensure_ascii=False).encode()  # can be written


def test_linked_folders_are_searched_once(videos, tmp_path):
    store, place = tmp_path / "store" / "deep", tmp_path / "place"
    store.mkdir(parents=True)
    place.mkdir()
    for number, path in enumerate(videos[:3]):
        (store / f"{number}.mp4").symlink_to(path)
    (place / "linked").symlink_to(store.parent)
    (place / "again").symlink_to(store)
    (place / "round").symlink_to(tmp_path)
    (store / "back").symlink_to(place)
    (place / "nowhere").symlink_to(tmp_path / "gone")
    assert sorted(path.name for path in find_videos(place)) == ["0.mp4", "1.mp4", "2.mp4"]
    assert all(path.is_file() for path in find_videos(place))
    save_samples([PLAIN], store / "train.parquet")
    assert len(load_samples(place)) == 1
    (store / "set.jsonl").write_text(json_text(ROW))
    assert len(load_rows(store / "set.jsonl")) == 1


@pytest.mark.parametrize("suffix", files.VIDEO_SUFFIXES)
def test_every_suffix_is_a_video_in_any_case(suffix, tmp_path):
    names = {f"{number}{form}" for number, form in enumerate({suffix, suffix.upper(), suffix.title()})}
    for name in {*names, f".hidden{suffix}", f"x{suffix}.part"}:
        (tmp_path / name).touch()
    assert {path.name for path in find_videos(tmp_path)} == {path.name for path in find_videos(f"{tmp_path}/*")} == names
    listed = {}
    for name in names:
        stem = name.partition(".")[0]
        assert _locate(tmp_path, ("nowhere", ""), f"{stem}.mp4", listed) == _locate(tmp_path, ("",), stem, listed) == tmp_path / name


def test_a_benchmark_finds_videos_by_any_suffix_and_through_links(tmp_path):
    folder = make_example("activitynet", tmp_path / "set")
    place = next(path for path in folder.iterdir() if path.is_dir())
    moved = tmp_path / "elsewhere"
    place.rename(moved)
    for path, suffix in zip(sorted(moved.iterdir()), (".WEBM", ".M4V", ".MOV"), strict=False):
        path.rename(path.with_suffix(suffix))
    place.symlink_to(moved)
    found = load_benchmark("activitynet", folder)
    assert found.paths and all(path is not None and path.is_file() for path in found.paths.values())


# ---------------------------------------------------------------------------------------------------- kind 4: tables

IDS = ["007", "1.50", "1e5", "NA", "null", "nan", "None", "true", "2024-01-02", " x "]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".CSV", ".jsonl", ".parquet", ".arrow"])
def test_texts_stay_texts(suffix, tmp_path):
    path, rows = tmp_path / f"set{suffix}", [{"prompt": "?", "answer": text, "id": text} for text in IDS]
    if suffix == ".jsonl":
        path.write_text("".join(map(json_text, rows)))
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, pa.Table.from_pylist(rows).schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows))
    else:
        pd.DataFrame(rows).to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    found = load_rows(path)
    assert found["id"] == found["answer"] == IDS


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_names_and_groups_stay_texts(suffix, tmp_path):
    table, path = pd.DataFrame({"video": IDS, "group": IDS}), tmp_path / f"list{suffix}"
    table.to_parquet(path) if suffix == ".parquet" else table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    assert {one.name for one in listed_videos(path)} == set(IDS)
    assert {Path(one).name: name for one, name in listed_groups(path).items()} == {name: name for name in IDS}


def column(values, kind=None):
    return pa.table({"video": pa.array(values, kind)})


A_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # Hugging Face's Video, Audio and Image
GOOD = {
    "texts": column(["a.mp4", None, "b.mp4"]),
    "long texts": column(["a.mp4", "b.mp4"], pa.large_string()),
    "categories": column(["a.mp4", "b.mp4", "a.mp4"]).set_column(0, "video", pa.array(["a.mp4", "b.mp4", "a.mp4"]).dictionary_encode()),
    "Hugging Face's column": column([{"bytes": None, "path": "a.mp4"}, {"bytes": None, "path": "b.mp4"}, None], A_FILE),
}
BAD = {
    "lists": (column([["a.mp4"]]), "column 'video' holds list<.*>, not paths"),
    "numbers": (column([7]), "column 'video' holds int64, not paths"),
    "other objects": (column([{"name": "a.mp4"}]), "column 'video' holds struct<name.*>, not paths"),
    "bytes": (column([{"bytes": b"\0\1", "path": "a.mp4"}], A_FILE), "column 'video' holds bytes instead of a path"),
    "times": (column([0], pa.timestamp("s")), "column 'video' holds timestamp"),
    "nothing": (column([None, None], pa.string()), "lists no videos"),
}


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_columns_that_hold_paths_are_read(kind, suffix, tmp_path):
    path = tmp_path / f"list{suffix}"
    pq.write_table(GOOD[kind], path) if suffix == ".parquet" else GOOD[kind].to_pandas().to_csv(path)
    assert [one.name for one in listed_videos(path)] == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("kind", BAD)
def test_columns_that_hold_none_are_refused_as_a_whole(kind, tmp_path):
    table, message = BAD[kind]
    pq.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=f"list.parquet.*{message}"):
        listed_videos(tmp_path / "list.parquet")


def test_rows_with_hugging_faces_columns(videos, tmp_path):
    cell = {"bytes": None, "path": str(videos[0])}
    assert see_video(cell).frames.shape == see_video(videos[0]).frames.shape
    assert check_rows("mine", [{"prompt": "?", "video": cell}, {"prompt": "?", "image": {"bytes": b"x", "path": None}}]) == 0
    with pytest.raises(ValueError, match="row 0 of mine: column 'video': there is no file gone.mp4"):
        check_rows("mine", [{"prompt": "?", "video": {"bytes": None, "path": "gone.mp4"}}])
    with pytest.raises(ValueError, match="column 'videos' holds bytes instead of a path"):
        check_rows("mine", [{"prompt": "?", "videos": [{"bytes": b"x", "path": "a.mp4"}]}])
    Image.new("RGB", (32, 32)).save(tmp_path / "[1] a.png")
    rows = [{"prompt": "?", "answer": 1, "video": cell, "image": "[1] a.png"}, {"prompt": "?", "answer": 1, "video": f"['{videos[0]}']", "image": '["[1] a.png"]'}]
    pd.DataFrame(rows).to_csv(tmp_path / "set.csv", index=False)  # objects and lists as Python's texts
    found = load_rows(tmp_path / "set.csv")
    assert found["videos"] == [[str(videos[0])]] * 2 and found["images"] == [[str(tmp_path / "[1] a.png")]] * 2


# ---------------------------------------------------------------------------------------------- kind 5: surroundings

WORK = """
import warnings
from pathlib import Path
from videossr.data import build_dataset, load_samples
from videossr.demo import demo_videos
from videossr.video import read_clip
built = build_dataset("clips", "out #1 %20", "demo", 2, held_out=0, workers=1, progress=False, card=False, near_duplicates=False)
assert built.summary["splits"]["train"]["made"] == 2 and len(list(load_samples("out #1 %20"))) == 2
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    assert demo_videos(1, progress=False)[0].exists()
assert all("set VIDEOSSR_CACHE" in str(one.message) for one in told if "cache is not used" in str(one.message))
print(len(told))
"""


@pytest.mark.parametrize(
    "change",
    [
        {"HOME": __file__, "TMPDIR": "/nowhere/tmp"},
        pytest.param({"HOME": None}, marks=pytest.mark.slow),
        pytest.param({"HOME": "/proc/self/nowhere"}, marks=pytest.mark.slow),
    ],
    ids=["no homes", "unset", "missing"],
)
def test_work_in_odd_surroundings(change, videos, tmp_path):
    "A home that is none, in a folder with blanks and marks; what cannot be written names its variable."
    place = tmp_path / "a b #c %41 ü'"
    (place / "clips").mkdir(parents=True)
    for path in videos[:2]:
        (place / "clips" / path.name).symlink_to(path)
    kept = {name: value for name, value in os.environ.items() if name not in {*change, "XDG_CACHE_HOME", "VIDEOSSR_CACHE"}}
    environment = {**kept, "PYTHONPATH": str(PACKAGE.parent), "MPLCONFIGDIR": str(tmp_path), **{name: value for name, value in change.items() if value}}
    done = subprocess.run([sys.executable, "-c", WORK], check=False, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOENT, errno.EROFS])
def test_a_temporary_folder_without_room_names_its_variable(number, videos, tmp_path, monkeypatch):
    def none(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    with pytest.raises(OSError, match="set TMPDIR to a folder that can be written and has room") as told:
        build_dataset(videos[0].parent, tmp_path / "set", "demo", 2, held_out=0, workers=1, card=False, progress=False, near_duplicates=False)
    assert told.value.errno == number
    with pytest.raises(OSError, match="set TMPDIR"):
        WorkerPool(len, 1).map([(), ()])


@pytest.mark.parametrize("load", [load_rows, load_samples])
def test_a_cache_that_cannot_be_written_names_its_variable(load, monkeypatch):
    def none(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "its/huggingface")

    monkeypatch.setattr("datasets.load_dataset", none)
    with pytest.raises(PermissionError, match=r"Permission denied \(its/huggingface\); set HF_HOME"):
        load("someone/rows")


# ----------------------------------------------------------------------------------------------------- lazy and public


def test_samples_are_made_when_they_are_asked_for(tmp_path, monkeypatch):
    made, whole = [], Sample.__init__
    kept = [Sample("counting", "shapes", f"{k}.mp4", {"k": k}, "?", "1,2,3", index=k) for k in range(2500)]
    path = save_samples(kept, tmp_path / "s.parquet")
    monkeypatch.setattr(Sample, "__init__", lambda self, *given, **named: (made.append(1), whole(self, *given, **named))[1])
    samples = load_samples(path)
    assert isinstance(samples, Samples) and len(samples) == 2500 and not made
    assert samples[-1].index == 2499 and len(made) == 1
    assert [one.index for one in samples[3:6]] == [3, 4, 5] and len(made) == 4
    assert next(iter(samples)) == kept[0] and len(made) == 5
    assert samples == kept and list(samples.part(1, 3)) == kept[833:1666]
    made.clear()
    assert to_trl_dataset(samples)["answer"][2499] == "1,2,3" and len(made) == 2500
