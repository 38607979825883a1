"Rows of each form, each kind of bad row, round trips of the exports, and splits that keep videos together."
import json
import os
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from videossr.answers import reward_by_name
from videossr.data.build import build_dataset
from videossr.data.export import export_easyr1, export_swift, export_verl
from videossr.data.load import load_samples
from videossr.data.sources import (
    FORMS,
    RowError,
    find_form,
    load_rows,
    row_files,
    split_rows,
)
from videossr.demo import demo_videos
from videossr.grpo import VideoGRPOConfig, VideoGRPOTrainer
from videossr.policy import tiny_policy
from videossr.rows import View, encode_row
from videossr.tasks.core import video_key

OPTIONS = ["A. stirring", "B. slicing", "C. waiting"]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    "A folder with videos a.mp4, sub/b.mp4, c.mp4 and pictures."
    folder = tmp_path_factory.mktemp("media")
    painted = demo_videos(3, folder=folder / "painted", progress=False)
    (folder / "sub").mkdir()
    for path, name in zip(painted, ("a.mp4", "sub/b.mp4", "c.mp4"), strict=True):
        shutil.move(path, folder / name)
    for n in range(4):
        Image.new("RGB", (32, 32), (60 * n, 0, 0)).save(folder / f"{n}.png")
    return folder


def fixtures():
    "Rows as each project has them, and what should come out: prompt, videos, images, answer, task."
    user = lambda text: {"role": "user", "content": text}
    return {
        "plain": ({"prompt": "What?", "video": "a.mp4", "answer": "B", "task": "choice"}, ("What?", ["a.mp4"], [], "B", "choice")),
        "plain text only": ({"prompt": "2 + 2?", "answer": 4}, ("2 + 2?", [], [], "4", None)),
        "plain, parts": (
            {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What?"}]}], "answer": [1.5, 3]},
            ([{"role": "system", "content": "Be brief."}, user("What?")], ["a.mp4"], [], "[1.5, 3]", None),
        ),
        "video-r1": (
            {"problem_id": 12, "problem": "What does the cook do first?", "data_type": "video", "problem_type": "multiple choice", "options": OPTIONS,
             "solution": "<answer>B</answer>", "path": "./sub/b.mp4", "data_source": "kitchen"},
            ("What does the cook do first?\nA. stirring\nB. slicing\nC. waiting", ["sub/b.mp4"], [], "B", "multiple choice"),
        ),
        "video-r1, image": (
            {"problem_id": 13, "problem": "How many red squares?", "data_type": "image", "problem_type": "numerical", "options": [], "solution": "<think>One.</think> <answer> 1 </answer>", "path": "0.png", "data_source": "x"},
            ("How many red squares?", [], ["0.png"], "1", "numerical"),
        ),
        "easyr1": ({"problem": "<video>When does it rise?", "answer": "3.2-5.0", "videos": ["a.mp4"]}, ("When does it rise?", ["a.mp4"], [], "3.2-5.0", None)),
        "easyr1, places": (
            {"problem": "First <image>, then <image>: what changed?", "answer": "colour", "images": ["0.png", "1.png"]},
            ("First <image>, then <image>: what changed?", [], ["0.png", "1.png"], "colour", None),
        ),
        "ms-swift": (
            {"messages": [{"role": "system", "content": "You watch."}, user("<video>How often?")], "videos": ["a.mp4"], "solution": "<answer>3</answer>"},
            ([{"role": "system", "content": "You watch."}, user("How often?")], ["a.mp4"], [], "3", None),
        ),
        "ms-swift, no solution": ({"messages": [user("<image><image>Same?"), {"role": "assistant", "content": "No."}], "images": ["0.png", "1.png"]}, ([user("Same?")], [], ["0.png", "1.png"], "No.", None)),
        "verl": (
            {"data_source": "kitchen", "prompt": [user("<video>What next?")], "videos": [{"video": "a.mp4", "fps": 2.0, "video_start": 1.0, "video_end": 4.5}], "ability": "video",
             "reward_model": {"style": "rule", "ground_truth": "C"}, "extra_info": {"split": "train", "index": 0}},
            ([user("What next?")], ["a.mp4"], [], "C", "kitchen"),
        ),
        "llava": (
            {"id": "k-1", "video": "c.mp4", "conversations": [{"from": "human", "value": "<video>\nIs it day?"}, {"from": "gpt", "value": "No, evening."}]},
            ([user("Is it day?")], ["c.mp4"], [], "No, evening.", None),
        ),
        "llava, <image> for a video, two turns": (
            {"id": "k-2", "video": "c.mp4", "data_source": "0_30_s", "conversations": [{"from": "human", "value": "<image>\nIs it day?"}, {"from": "gpt", "value": "No."}, {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]},
            ([user("Is it day?"), {"role": "assistant", "content": "No."}, user("Sure?")], ["c.mp4"], [], "Yes.", None),
        ),
    }  # fmt: skip


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        pd.DataFrame(rows).to_csv(path, index=False)
    return path


def as_tuple(row, media):
    "A row's own columns, with relative paths."
    relative = [[os.path.relpath(path, media) for path in row[kind]] for kind in ("videos", "images")]
    return row["prompt"], *relative, row["answer"], row.get("task")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("name", fixtures())
def test_each_form_is_read(name, suffix, media, tmp_path):
    row, wanted = fixtures()[name]
    if suffix == ".parquet" and name == "plain, parts":
        pytest.skip("a column of texts and parts does not fit into parquet")
    rows = load_rows(write(tmp_path / f"set{suffix}", [row, row]), videos=media)
    assert find_form(row) == name.split(",")[0].removesuffix(" text only")
    assert [as_tuple(one, media) for one in rows] == [wanted, wanted]
    assert rows["source"] == [f"set{suffix}"] * 2
    assert all(os.path.isabs(path) for one in rows for kind in ("videos", "images") for path in one[kind])


@pytest.mark.parametrize("name", fixtures())
def test_no_column_is_lost(name, media, tmp_path):
    "What a form does not understand is kept as it is."
    row, _ = fixtures()[name]
    consumed = {"prompt", "video", "videos", "image", "images", "answer", "task", "problem", "solution", "path", "data_type", "problem_type", "messages", "conversations", "reward_model"}
    made = load_rows(write(tmp_path / "set.jsonl", [{**row, "note": {"by": "me"}}]), videos=media)[0]
    assert made["note"] == {"by": "me"}
    assert {key: made[key] for key in row if key not in consumed and row[key] != []} == {key: row[key] for key in row if key not in consumed and row[key] != []}


def test_verl_entries_are_honoured(media, tmp_path):
    row, _ = fixtures()["verl"]
    made = load_rows(write(tmp_path / "set.jsonl", [row]), videos=media)[0]
    assert (made["start"], made["end"], json.loads(made["video_settings"])) == (1.0, 4.5, [{"fps": 2.0}])
    two = {**row, "videos": [{"video": "a.mp4", "video_start": 1.0}, {"video": "c.mp4"}], "prompt": "Which?"}
    with pytest.raises(RowError, match="the videos differ in start"):
        load_rows(write(tmp_path / "two.jsonl", [two]), videos=media)


def test_csv_with_lists_and_blanks(media, tmp_path):
    rows = [{"prompt": "One, or two?", "videos": '["a.mp4", "c.mp4"]', "answer": "2", "start": "", "level": "7"}, {"prompt": "<video>One?", "videos": "a.mp4", "answer": "1", "start": "1.5", "level": ""}]
    made = load_rows(write(tmp_path / "set.csv", rows), videos=media)
    assert [as_tuple(one, media)[1] for one in made] == [["a.mp4", "c.mp4"], ["a.mp4"]]
    assert (made["start"], made["prompt"]) == ([None, 1.5], ["One, or two?", "One?"])


def test_one_form_in_the_whole_set(media, tmp_path):
    rows = [fixtures()["plain"][0], {**fixtures()["plain, parts"][0], "note": 3, "more": {"a": 1}}, {"prompt": "?", "answer": True, "note": "three", "more": {"b": 1}}]
    made = load_rows(write(tmp_path / "set.jsonl", rows), videos=media)
    assert [[one["role"] for one in talk] for talk in made["prompt"]] == [["user"], ["system", "user"], ["user"]]
    assert (made["note"], made["answer"][2]) == ([None, "3", "three"], "true")
    assert [more and json.loads(more) for more in made["more"]] == [None, {"a": 1}, {"b": 1}]


@pytest.mark.parametrize("value, kept", [(2**70, str(2**70)), ([1, "a"], '[1, "a"]'), ([[1], []], [[1], []]), ("x", "x"), (True, True), (None, None), ({}, "{}"), ({"a": 1}, {"a": 1})])
def test_odd_columns(value, kept, media, tmp_path):
    made = load_rows(write(tmp_path / "set.jsonl", [{"prompt": "?", "answer": "1", "odd": value}, {"prompt": "?", "answer": "1", "odd": value}]))
    assert made["odd"] == [kept, kept]


@pytest.mark.parametrize("text, places, wanted", [
    ("<video>What?", 1, "What?"), ("<video>\n<video>\nWhich?", 2, "Which?"), (" <video> <video>Which?", 2, "Which?"), ("Before <video> after <video>?", 2, "Before <video> after <video>?"),
    ("<video>first, <video>second", 2, "<video>first, <video>second"), ("What?", 2, "What?"), ("What is <b>?", 1, "What is <b>?"),
])  # fmt: skip
def test_places(text, places, wanted, media, tmp_path):
    made = load_rows(write(tmp_path / "set.jsonl", [{"prompt": text, "videos": ["a.mp4", "c.mp4"][:places], "answer": "1"}]), videos=media)
    assert made["prompt"] == [wanted]


def test_places_in_other_orders_stay(media, tmp_path):
    row = {"problem": "<image><video>What?", "answer": "1", "videos": ["a.mp4"], "images": ["0.png"]}
    assert load_rows(write(tmp_path / "a.jsonl", [row]), videos=media)["prompt"] == ["<image><video>What?"]
    assert load_rows(write(tmp_path / "b.jsonl", [{**row, "problem": "<video><image>What?"}]), videos=media)["prompt"] == ["What?"]


GOOD = {"prompt": "What?", "video": "a.mp4", "answer": "B"}
R1, SWIFT, VERL, LLAVA = (fixtures()[name][0] for name in ("video-r1", "ms-swift", "verl", "llava"))
BAD = {
    "no file": ({**GOOD, "video": "gone.mp4"}, "column 'videos' is 'gone.mp4': the file is not there"),
    "a folder": ({**GOOD, "video": "sub"}, "column 'videos' is 'sub': the file is a folder"),
    "outside and not there": ({**GOOD, "video": "../../../gone.mp4"}, "the file is not there"),
    "absolute and not there": ({**GOOD, "video": "/nowhere/gone.mp4"}, "the file is not there"),
    "an address": ({**GOOD, "video": "https://example.org/a.mp4"}, "an address is not fetched"),
    "NUL": ({**GOOD, "video": "a\0.mp4"}, "the file is not there"),
    "a path too long": ({**GOOD, "video": "a" * 5000}, "the file is not there"),
    "no path": ({**GOOD, "video": 7}, "column 'videos' is 7: it should be a path"),
    "bytes": ({**GOOD, "image": {"bytes": "x", "path": None}}, "bytes inside of the row"),
    "a broken list": ({**GOOD, "video": '["a.mp4"'}, "it begins as a list and is none"),
    "both": ({**GOOD, "videos": ["a.mp4"]}, "the row has both 'video' and 'videos'"),
    "no answer": ({**GOOD, "answer": None}, "column 'answer': there is none"),
    "an empty answer": ({**GOOD, "answer": "  "}, "column 'answer' is '  ': it is empty"),
    "NaN for an answer": ({**GOOD, "answer": float("nan")}, "column 'answer' is nan: it is empty"),
    "no question": ({**GOOD, "prompt": "<video>"}, "nothing is asked"),
    "too many places": ({**GOOD, "prompt": "<video><video>What?"}, "2 places <video> in the text, and 1 videos"),
    "a place for nothing": ({**GOOD, "prompt": "<video><image>What?"}, "1 places <image> in the text, and 0 images"),
    "no messages": ({**GOOD, "prompt": []}, "it should be a list of messages"),
    "another role": ({**GOOD, "prompt": [{"role": "robot", "content": "What?"}]}, "column 'prompt' is 'robot'"),
    "another part": ({**GOOD, "prompt": [{"role": "user", "content": [{"type": "audio"}]}]}, "a part of a message is text, video or image"),
    "the last word": ({**GOOD, "prompt": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}, "must end with a message of the user"),
    "the end first": ({**GOOD, "start": 3, "end": 2}, "the end is not behind the start"),
    "no time": ({**GOOD, "start": "soon"}, "column 'start' is 'soon': it should be seconds"),
    "before the start": ({**GOOD, "start": -1}, "column 'start' is -1"),
    "a trainer's name": ({**GOOD, "completions": "x"}, "column 'completions' is 'x'"),
    "a sample's name": ({**GOOD, "sample": "x"}, "column 'sample' is 'x'"),
    "no path of Video-R1": ({**R1, "path": None}, "column 'path': there is none"),
    "another kind of data": ({**R1, "data_type": "audio"}, "column 'data_type' is 'audio'"),
    "options that are none": ({**R1, "options": {"A": "x", "C": "y"}}, "column 'options'"),
    "no solution": ({**SWIFT, "solution": None}, "column 'solution': there is none"),
    "two answers": ({**SWIFT, "answer": "4"}, "column 'answer' is '4'"),
    "no truth": ({**VERL, "reward_model": {"style": "rule", "ground_truth": None}}, "there is no ground_truth"),
    "a list in a list": ({**GOOD, "video": None, "images": [["0.png"]]}, "a list inside of the list"),
    "no frames": ({**VERL, "videos": [{"video": []}]}, "of at least one frame"),
    "no rate": ({**VERL, "videos": [{"video": ["0.png"], "sample_fps": 0}]}, "sample_fps should be a number"),
    "no model": ({**VERL, "reward_model": "rule"}, "column 'reward_model' is 'rule'"),
    "no reply": ({**LLAVA, "conversations": LLAVA["conversations"][:1]}, "it should end with the answer of 'gpt'"),
    "no object": (["What?"], "a row is an object with named columns"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named(name, media, tmp_path):
    bad, message = BAD[name]
    good = next(row for row in (GOOD, R1, SWIFT, VERL, LLAVA) if isinstance(bad, list) or find_form(row) == find_form({**row, **bad}) and set(FORMS[find_form(row)].keys) <= set(bad))
    path = write(tmp_path / "set.jsonl", [good, bad, good])
    with pytest.raises(RowError) as failed:
        load_rows(path, videos=media)
    assert str(failed.value).startswith(f"{path}, row 2: ") and message in str(failed.value)
    assert len(str(failed.value)) < 700


@pytest.mark.parametrize("content, message", [
    (b'{"prompt": "a"\n', "row 1: not JSON"), (b'\n\n{"prompt": "\xff"}\n', "line 3: not UTF-8: byte 0xff at position 13"), (b"[" * 100_000 + b"\n", "row 1: not JSON"), (b"\x00\x01\n", "row 1: not"), (b"\n", "holds no rows"),
    (b'{"prompt": "\\ud800", "answer": "1"}\n', "row 1: not JSON .*surrogates not allowed"), (b'{"prompt": "\\uD83D", "answer": "1"}\n', "row 1: not JSON .*surrogates not allowed"),
])  # fmt: skip
def test_broken_lines(content, message, tmp_path):
    (tmp_path / "set.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_rows(tmp_path / "set.jsonl")


@pytest.mark.parametrize("name, content, message", [
    ("set.json", b'{"prompt": "a"}', "must hold a list of rows, not dict"), ("set.json", b'["a"', "not JSON"), ("set.parquet", b"PAR1", "not a parquet file"), ("set.csv", b"prompt,answer\na,b,c\n", "row 1: 1 cells more than columns"),
    ("set.csv", b'prompt,answer\n"a,b\n', "row 1: not CSV"), ("set.csv", b"prompt,answer\n\xff,b\n", "not UTF-8"), ("set.csv", b"prompt,answer\na\n", "row 1: column 'answer': there is none"), ("set.pkl", b"x", "is none of .jsonl"), ("set.csv", b"prompt,answer\n", "holds no rows"),
])  # fmt: skip
def test_broken_files(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_rows(tmp_path / name)


def test_unknown_keys_say_what_to_do(tmp_path):
    path = write(tmp_path / "set.jsonl", [{"question": "What?", "label": "B"}])
    with pytest.raises(RowError) as failed:
        load_rows(path)
    assert all(part in str(failed.value) for part in ("row 1", "question, label", "columns={'prompt': 'question'", *FORMS))


def test_columns_are_mapped(media, tmp_path):
    path = write(tmp_path / "set.jsonl", [{"question": "What?", "label": 3, "file": "a.mp4", "kind": "counting", "answer": "an old one"}])
    [made] = load_rows(path, columns={"prompt": "question", "answer": "label", "video": "file", "task": "kind"}, videos=media)
    assert as_tuple(made, media) == ("What?", ["a.mp4"], [], "3", "counting")
    assert "label" not in made and "question" not in made
    with pytest.raises(RowError, match="column 'lable': there is none; the row has question, label"):
        load_rows(path, columns={"answer": "lable"}, videos=media)


def test_settings_are_checked(media, tmp_path):
    path = write(tmp_path / "set.jsonl", [GOOD])
    with pytest.raises(ValueError, match="no form 'sharegpt'; choose auto or one of"):
        load_rows(path, form="sharegpt")
    with pytest.raises(ValueError, match="is no folder"):
        load_rows(path, videos=tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="no rows at"):
        load_rows(tmp_path / "gone.jsonl")
    with pytest.raises(RowError, match="column 'messages': there is none"):
        load_rows(path, form="ms-swift", videos=media)


def test_paths_may_lead_out_where_they_exist(media, tmp_path):
    rows = [{**GOOD, "video": str(media / "a.mp4")}, {**GOOD, "video": f"../{media.name}/c.mp4"}, {**GOOD, "video": f"file://{media}/sub/b.mp4"}]
    made = load_rows(write(tmp_path / "set.jsonl", rows), videos=media / "sub" / "..")
    assert [as_tuple(one, media)[1] for one in made] == [["a.mp4"], ["c.mp4"], ["sub/b.mp4"]]


def test_paths_count_from_the_file(media, tmp_path):
    shutil.copytree(media, tmp_path / "here")
    made = load_rows(write(tmp_path / "here" / "set.jsonl", [GOOD]))
    assert made[0]["videos"] == [str(tmp_path / "here" / "a.mp4")]


def test_folders(media, tmp_path):
    for name, n in (("train-0.jsonl", 2), ("train-1.jsonl", 1), ("test-0.jsonl", 4)):
        write(tmp_path / name, [GOOD] * n)
    (tmp_path / "settings.json").write_text("{}")
    rows = load_rows(tmp_path, videos=media)
    assert rows["source"] == ["train-0.jsonl", "train-0.jsonl", "train-1.jsonl"]
    assert len(load_rows(tmp_path, split="test", videos=media)) == 4
    with pytest.raises(ValueError, match="no file of the split 'validation'"):
        load_rows(tmp_path, split="validation", videos=media)
    write(tmp_path / "train.csv", [GOOD])
    with pytest.raises(ValueError, match=".csv and .jsonl"):
        row_files(tmp_path)


def test_mixed_forms_in_a_folder(media, tmp_path):
    write(tmp_path / "a.jsonl", [fixtures()["video-r1"][0]])
    write(tmp_path / "b.jsonl", [fixtures()["llava"][0]])
    made = load_rows(tmp_path, videos=media)
    assert [as_tuple(one, media)[3:] for one in made] == [("B", "multiple choice"), ("No, evening.", None)]
    assert {type(one["prompt"]) for one in made} == {list}


def test_datasets_on_disk(media, tmp_path):
    rows = Dataset.from_list([{**GOOD, "video": str(media / "a.mp4")}] * 3)
    rows.save_to_disk(tmp_path / "one")
    DatasetDict(train=rows, test=rows.select([0])).save_to_disk(tmp_path / "two")
    assert [len(load_rows(tmp_path / "one")), len(load_rows(tmp_path / "two")), len(load_rows(tmp_path / "two", split="test"))] == [3, 3, 1]
    with pytest.raises(ValueError, match="no split 'dev'; there are train, test"):
        load_rows(tmp_path / "two", split="dev")


def test_a_name_on_the_hub_is_loaded_by_datasets(media, monkeypatch):
    import datasets

    asked = {}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: asked.update(name=name, **options) or Dataset.from_list([{**GOOD, "video": str(media / "a.mp4")}]))
    [made] = load_rows("someone/questions", split="dev")
    assert asked == {"name": "someone/questions", "split": "dev"}, "no remote code"
    assert made["source"] == "someone/questions"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    demo_videos(3, folder=folder / "evenings", progress=False)
    build_dataset(folder / "evenings", folder / "dataset", "demo", 6, held_out=0, one_task=False, card=False, progress=False)
    samples = load_samples(folder / "dataset")
    for name, export in (("swift", export_swift), ("easyr1", export_easyr1), ("verl", export_verl)):
        export(samples, folder / name, progress=False)
    return samples, {name: load_rows(folder / name / "train") for name in ("swift", "easyr1", "verl")}


@pytest.mark.parametrize("name", ["swift", "easyr1", "verl"])
def test_own_exports_are_read_back(name, exported):
    samples, back = exported
    rows = back[name]
    assert (rows["task"], len(rows)) == ([sample.task for sample in samples], len(samples))
    for row, sample in zip(rows, samples, strict=True):
        text = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
        assert text.endswith(sample.question)
        assert text.count("<video>") in (0, len(row["videos"])) and len(row["videos"]) == (3 if sample.task == "jigsaw" else 1)
        if sample.task != "grounding":  # whose times move into the clock of the file
            assert row["answer"] == sample.answer
    assert rows["answer"] == back["swift"]["answer"]


def test_lists_of_frames_keep_their_rate(exported):
    rows = exported[1]["verl"]
    assert all(os.path.isfile(frame) for row in rows for clip in row["videos"] for frame in clip)
    assert rows["fps"] == pytest.approx([row["extra_info"]["sampling_fps"] for row in rows])


def test_an_answer_with_two_words_is_no_task(media, tmp_path):
    rows = [{"problem": "?", "answer": answer} for answer in ("counting sheep", "grounding 3", "red car", "counting 3,1,4")]
    made = load_rows(write(tmp_path / "set.jsonl", rows))
    assert list(zip(made["task"], made["answer"], strict=True)) == [(None, "counting sheep"), (None, "grounding 3"), (None, "red car"), ("counting", "3,1,4")]


def test_no_video_on_both_sides(media, tmp_path):
    shutil.copyfile(media / "a.mp4", tmp_path / "other name.mp4")
    paths = {"a": media / "a.mp4", "a again": tmp_path / "other name.mp4", "b": media / "sub" / "b.mp4", "c": media / "c.mp4"}
    rows = [{"prompt": f"{name} {n}", "videos": [str(path)], "answer": "1"} for name, path in paths.items() for n in range(3)]
    rows += [{"prompt": "text", "answer": str(n)} for n in range(5)] + [{"prompt": "other text", "answer": "1"}]
    made = load_rows(write(tmp_path / "set.jsonl", rows))
    for seed in range(8):
        train, held = split_rows(made, 0.4, seed, near_duplicates=False)
        keys = [{video_key(path) for row in side for path in row["videos"]} for side in (train, held)]
        texts = [{row["prompt"] for row in side if not row["videos"]} for side in (train, held)]
        assert not keys[0] & keys[1] and not texts[0] & texts[1]
        assert len(train) + len(held) == len(rows) and len(train) and len(held)
        again = split_rows(made, 0.4, seed, near_duplicates=False)
        assert (again[0]["answer"], again[1]["prompt"]) == (train["answer"], held["prompt"])
    assert len({tuple(split_rows(made, 0.4, seed, near_duplicates=False)[1]["prompt"]) for seed in range(8)}) > 1


def test_rows_that_share_one_of_two_videos_stay_together(media):
    rows = [{"prompt": "1", "videos": [str(media / "a.mp4"), str(media / "c.mp4")]}, {"prompt": "2", "videos": [str(media / "c.mp4")]}, {"prompt": "3", "video": str(media / "sub" / "b.mp4")}]
    for seed in range(4):
        sides = [[row["prompt"] for row in side] for side in split_rows(rows, 0.5, seed, near_duplicates=False)]
        assert sorted(sides) == [["1", "2"], ["3"]]
    with pytest.raises(ValueError, match="at least two different videos"):
        split_rows(rows[:2], 0.5, near_duplicates=False)


def test_frames_of_one_video_stay_together(exported):
    back = exported[1]
    train, held = split_rows(back["verl"], 0.34, near_duplicates=False)
    assert not set(row["extra_info"]["video_id"] for row in train) & set(row["extra_info"]["video_id"] for row in held)


def step(rows, folder, reward):
    "One step of GRPO on rows; the trainer's log."
    settings = {"max_steps": 1, "num_generations": 2, "per_device_train_batch_size": 2 * len(rows), "max_completion_length": 4, "n_frames": 2, "disable_tqdm": True, "logging_steps": 1}
    trainer = VideoGRPOTrainer(tiny_policy(0), reward, VideoGRPOConfig.demo(str(folder), **settings), rows)
    trainer.train()
    return trainer.state.log_history[0]


def test_all_forms_are_trained_in_one_set(media, tmp_path):
    seen = {}

    def spy(completions, answer, **columns):
        seen.update(zip(answer, columns["source"], strict=True))
        return reward_by_name("exact")(completions, answer, **columns)

    for number, (row, _) in enumerate(fixtures().values()):
        write(tmp_path / f"{number:02d}.jsonl", [row])
    rows = load_rows(tmp_path, videos=media)
    log = step(rows, tmp_path / "run", spy)
    assert seen == dict(zip(rows["answer"], rows["source"], strict=True))
    assert {"reward/kitchen", "reward/multiple choice"} <= set(log)


def test_places_reach_the_policy(media, tmp_path):
    "A picture stands where the text has its place."
    made = load_rows(write(tmp_path / "set.jsonl", [fixtures()["easyr1, places"][0]]), videos=media)
    policy = tiny_policy(0)
    text = policy.tokenizer.decode(encode_row(policy, made[0], View()).input_ids)
    assert [text.index(word) < text.index("<|image_pad|>") for word in ("First", "changed")] == [True, False]
    assert text.count("<|vision_start|>") == 2


def test_lists_of_frames_are_trained(exported, tmp_path):
    step(exported[1]["verl"].select(range(2)), tmp_path / "run", reward_by_name("exact"))


@pytest.mark.parametrize("problem, added", [("How many?", True), ("How many of 123?", True), ("How many?\nA. 1\nB. 2\nC. 3", False), ("How many? (A) 1 (B) 2 (C) 3", False), ("How many?\nA) 1\nB) 2", True)])
def test_options_are_shown_once(problem, added, media, tmp_path):
    row = {**R1, "problem": problem, "options": ["1", "2", "3"]}
    [made] = load_rows(write(tmp_path / "set.jsonl", [row]), videos=media)
    assert made["prompt"] == problem + "\nA. 1\nB. 2\nC. 3" * added
    assert made["options"] == ["A. 1", "B. 2", "C. 3"]


JUNK = st.sampled_from([
    None, "", 0, -1, 1.5, True, float("nan"), float("inf"), 10**40, "a.mp4", ["a.mp4"], [["0.png"]], [[]], {}, [], [None], [{}], {"path": "a.mp4"}, {"a": {"b": [1, "x"]}}, "<video>", "<image>x", "[", "[1]", '{"A": 1}',
    {"role": "user"}, [{"role": "user", "content": None}], [{"role": "user", "content": [None]}], [{"role": "user", "content": [{"type": []}]}], [{"role": [], "content": "x"}], [{"from": "human", "value": 3}],
    [{"video": None}], [{"video": {}}], [{"video": ["0.png"], "sample_fps": [1]}], [{"video": ["0.png", "1.png"], "sample_fps": 2}], {"ground_truth": {}}, {"style": 1, "ground_truth": "C", "x": []},
])  # fmt: skip
COLUMNS = ["prompt", "answer", "video", "videos", "image", "images", "options", "task", "source", "start", "end", "fps", "problem", "solution", "path", "data_type", "problem_type", "messages", "conversations", "reward_model", "extra_info", "note"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(fixtures())), junk=st.dictionaries(st.sampled_from(COLUMNS), JUNK, min_size=1, max_size=3))
def test_a_garbled_row_is_read_or_named(name, junk, media, tmp_path):
    path = write(tmp_path / "set.jsonl", [{**fixtures()[name][0], **junk}])
    try:
        rows = load_rows(path, videos=media)
    except RowError as error:
        assert str(error).startswith(f"{path}, row 1: ")
    else:
        assert len(rows) == 1 and isinstance(rows[0]["answer"], str) and rows[0]["answer"].strip() and rows[0]["prompt"]


def test_a_number_that_cannot_be_stored_is_told(tmp_path, media):
    rows = [{"prompt": "?", "video": str(media / "a.mp4"), "answer": "1", "weight": weight} for weight in (1, 10**30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match="column 'weight' is kept as JSON texts"):
        table = load_rows(tmp_path / "rows.jsonl")
    assert list(table["weight"]) == ["1", str(10**30)]
