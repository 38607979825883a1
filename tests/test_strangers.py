"""What strangers write: recipes, replies, files beside the program. Each attack as a test; SECURITY.md has the promises."""

import os
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import videossr.beyond  # noqa: F401  its tasks' readers are asked too
from videossr import video
from videossr.benchmarks import BENCHMARKS, core
from videossr.rewards import MOST_READ, parse_reply, readable, score_reply, temporal_iou
from videossr.tasks import Sample, make_sample, render
from videossr.tasks.core import (
    SampleSource,
    check_reading,
    files_of,
    frames_clip,
)
from videossr.video import open_picture, python_process

N = MOST_READ
MEAN = {
    "digits": "1" * N, "two long numbers": "1" * (N // 2 - 1) + "-" + "1" * (N // 2), "400 digits": "9" * 400 + " - " + "9" * 400, "blanks": " " * N,
    "lines": "\n" * N, "ones": "1 " * (N // 2), "commas": "1," * (N // 2), "ranges": "1-" * (N // 2), "colons": "1:" * (N // 2), "points": "1." * (N // 2),
    "stars": "1*" * (N // 2), "starts": ("start 1 " * N)[:N], "between": ("between 1 " * N)[:N], "tags": ("<answer>" * N)[:N], "thoughts": ("<think" * N)[:N],
    "boxes": ("\\boxed{" * N)[:N], "fences": ("```{" * N)[:N], "letters": "A " * (N // 2), "brackets": "[" * N, "shapes": ("1 circle " * N)[:N],
    "deep JSON": "```json {\"result\": " + "[" * (N - 30) + "}```", "zooms": ("zoom in " * N)[:N], "5,000 digits": "5" * 5000, "TeX": ("\\text{ " * N)[:N], "times in brackets": ("<1 s" * N)[:N], "abouts": ("about the " * N)[:N], "finals": ("final answer: 1 " * N)[:N], "waits": ("\n wait " * N)[:N],
    "denials": ("not \\boxed{1} " * N)[:N], "examples": ("e.g. (A) " * N)[:N], "5,000 digits, tagged": f"<answer>{'5' * 5000}</answer>",
}  # fmt: skip
ANSWERS = {"grounding": "1.0-2.0", "counting": "1,2,3", "jigsaw": "213456", "backwards": "2", "camera": "left 10", "patches": "1,2"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    from videossr.demo import demo_videos

    return demo_videos(2, progress=False)


@pytest.mark.parametrize("program", ["json", "re", "random", "av"])
def test_modules_beside_a_video_are_not_run(clips, tmp_path, program):
    "A dataset's folder is worked in, and holds a file named as a module that decoding needs."
    seen = tmp_path / "ran"
    (tmp_path / f"{program}.py").write_text(f"open({str(seen)!r}, 'w').close()\nraise SystemExit")
    script = f"import os\nfrom videossr.video import read_clip, probe\nos.chdir({str(tmp_path)!r})\nassert len(read_clip({str(clips[0])!r}, 4).frames) == 4"
    home = str(Path(video.__file__).parents[1])
    subprocess.run([sys.executable, "-c", script], check=True, cwd="/", env={**os.environ, "PYTHONPATH": home}, timeout=120)
    assert not seen.exists()


def test_the_working_folder_is_the_last_place_to_look(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger ran')")
    (tmp_path / "only_here.py").write_text("name = 'own'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    command, environment = python_process("import only_here; print(only_here.name, sys.argv[1:])", "one", "two # words")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "own ['one', 'two # words']"


def test_keys_stay_out_of_the_processes_that_decode(monkeypatch):
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "my_password", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("PLAIN", "told")
    command, environment = python_process("import os; print(sorted(name for name, value in os.environ.items() if value in ('hush', 'told')))")
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip() == "['PLAIN']"


@pytest.mark.parametrize(
    "reading", [{"timeout": None}, {"backend": "pyav"}, {"times": [0.0]}, {"min_pixels": 10**11}, {"n_frames": 3 * 10**8}, {"n_frames": "9"}, {"trim": 0.7}, {"n_frames": None}, 7, None, {1: 2}]
)  # fmt: skip
def test_a_recipe_names_frames_trim_and_pixels_alone(clips, reading, monkeypatch):
    monkeypatch.setattr("videossr.tasks.core.read_clip", lambda *_, **__: pytest.fail("it was decoded"))
    sample = make_recipe(clips[0], reading)
    begin = time.perf_counter()
    with pytest.raises(ValueError, match="its recipe reads a video with"):
        render(sample)
    assert time.perf_counter() - begin < 10


def make_recipe(path, reading):
    return Sample("grounding", "mirror", str(path), {"read": reading, "keys": [], "start": 0, "length": 2}, "?", "0.0-1.0")


def test_what_the_kit_makes_passes(clips):
    sample = make_sample("grounding", clips[0], difficulty="demo")
    assert check_reading(sample.recipe["read"], "here") == sample.recipe["read"] and render(sample)
    with pytest.raises(ValueError, match="its recipe reads a video with timeout"):
        SampleSource(str(clips[0]), {"timeout": 5})


def test_every_file_that_a_row_could_open_is_listed(tmp_path):
    outside, view = "/etc/passwd.mp4", {"video": "inside.mp4"}
    plain = Sample("grounding", "mirror", outside, {"read": {}, "views": [view]}, "?", "0.0-1.0", donor="/etc/donor.mp4")
    assert {*files_of(plain)} == {"inside.mp4", outside, "/etc/donor.mp4"}
    assert files_of(replace(plain, recipe={"read": {}, "frames": [["one.png"]]})) == ["one.png"]
    from videossr.data import load_samples
    from videossr.data.mix import save_samples

    save_samples([plain], tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="rows.parquet, row 0: .*lies outside"):
        list(load_samples(tmp_path / "rows.parquet", video_dir=tmp_path))


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PPM"])
def test_pictures_of_other_formats_are_not_opened(tmp_path, form):
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(path, format=form)
    with pytest.raises(video.VideoError, match="cannot be read as a picture"):
        frames_clip([str(path)], 1.0)


def test_a_picture_of_many_pixels_is_not_decoded(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (9000, 9000)).save(path)
    with pytest.raises(ValueError, match="9000 x 9000 pixels are more than"):
        open_picture(path)


@pytest.mark.parametrize("parse", ["paper", "lenient"])
@pytest.mark.parametrize("task", sorted(ANSWERS))
def test_no_reply_keeps_a_reward_busy(task, parse):
    for name, text in MEAN.items():
        begin = time.perf_counter()
        assert 0 <= score_reply(task, text, ANSWERS[task], parse=parse) < 1, name
        parse_reply(task, text, ANSWERS[task], parse=parse)
        assert time.perf_counter() - begin < 10, name  # it took 28 s and more, of some 0.1


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_no_reply_keeps_a_scorer_busy_or_ends_it(name, tmp_path):
    questions = core.load_benchmark(name, core.make_example(name, tmp_path))
    for scorer in questions.benchmark.scorers.values():
        for kind, text in MEAN.items():
            begin = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                verdict = scorer.verdict(text, questions.items[0])
            assert time.perf_counter() - begin < 10, kind
            assert verdict is None or 0 <= verdict <= 1, kind
            assert kind not in ("400 digits", "two long numbers") or "mIoU" not in scorer.metrics or not verdict, kind


def test_infinity_is_no_interval():
    assert temporal_iou((float("inf"), float("inf")), (1.0, 2.0)) == temporal_iou((1.0, 2.0), (float("nan"), 2.0)) == 0
    assert core.first_range("9" * 400 + "-" + "9" * 400, None) is None and core.first_range("3.-1", None) == [1.0, 3.0]
    assert core.first_range("at 1.2.3-4", None) == [2.3, 4.0] and core.first_range("12345 - 6", None) == [6.0, 12345.0]


def test_a_reader_that_fails_on_a_reply_is_no_end():
    def read(reply, item):
        return int(reply)

    class Question:
        id = "q7"

    scorer = core.Scorer(read)
    with pytest.warns(UserWarning, match="a reply to q7 cannot be read: ValueError"):
        assert scorer.said("5" * 5000, Question()) is None


def test_long_thoughts_are_left_out_and_long_answers_are_not_read():
    assert readable("short") == "short" and readable("x" * (N + 1)) is None
    assert readable("<think>" + "x" * N + "</think>A") == "A"
    assert parse_reply("grounding", "<think>" + "x" * N + "</think>1.0-2.0", "1.0-2.0", parse="lenient") is not None


def test_names_in_tables_are_text():
    "A video, a task and a run that are named as markup: no table of the kit lets it through."
    from videossr.evaluate import results_table
    from videossr.floors import floor_table
    from videossr.tables import text_table
    from videossr.viubench import viubench_table

    bad = "<img src=x onerror=alert(1)>[a](javascript:x)|$x$\x1b[2J"
    score = {"mean": 0.5, "low": 0.4, "high": 0.6}
    one = {"before": score, "after": score, "gain": {**score, "n": 3}, "blind": 0.3, "videos": 50}
    made = [
        text_table(["name"], [[bad]]), viubench_table({bad: {}}), results_table({"tasks": {bad: one}, "types": {bad: {bad: one, "b": one}}, "overall": one}),
        floor_table([{"task": bad, "type": name, "n": 1, "blind": 0.1, "low_level": 0.2, "player": bad, "mixture": None} for name in ("", bad)]),
    ]  # fmt: skip
    for text in made:
        assert bad[:4] in text.replace("\\", "")
        assert not {"<img", "](", "|$", "$x", "\x1b"} & {sign for sign in ("<img", "](", "|$", "$x", "\x1b") if sign in text.replace("\\<", "").replace("\\]", "").replace("\\|", "").replace("\\$", "")}
    assert viubench_table({"\\input{x}": {}}, form="latex").count("\\input") == 0 and ",=" not in viubench_table({"=1+1": {}}, form="csv")


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    "A video of a few kilobytes and of frames of 16 million pixels each."
    import av

    path, side = tmp_path_factory.mktemp("bomb") / "small.mp4", 4096
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=10, options={"preset": "ultrafast", "x264-params": "threads=1:keyint=100"})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(side, side, "yuv420p")
        for plane in frame.planes:
            plane.update(b"\x80" * plane.buffer_size)
        for number in range(8):
            frame.pts = number
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    return path


@pytest.mark.parametrize("backend", [None, "pyav"])
def test_memory_that_runs_out_is_no_damage(bomb, monkeypatch, backend):
    "Fewer and fewer bytes: all frames, or an error that says why; never some of the frames."
    whole = video.read_clip(bomb, 8, 0.0, backend=backend)
    told = []
    for gigabytes in (2, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05):
        monkeypatch.setenv("VIDEOSSR_DECODE_GB", str(gigabytes))
        try:
            assert np.array_equal(video.read_clip(bomb, 8, 0.0, backend=backend).frames, whole.frames)
        except video.VideoError as error:
            assert f"more than {gigabytes} GB of memory; the environment variable VIDEOSSR_DECODE_GB allows more" in str(error)
            told.append(gigabytes)
    assert len(whole) == 8 and 0.05 in told and 2 not in told
    monkeypatch.delenv("VIDEOSSR_DECODE_GB")
    assert len(video.read_clip(bomb, 8, 0.0, backend=backend)) == 8  # the next worker starts afresh


def test_more_frames_than_fit_are_not_read(clips, monkeypatch):
    monkeypatch.setattr(video, "_MOST_FRAMES", 10**6)
    monkeypatch.setattr(video, "_decoded", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(video.VideoError, match="8 frames of .* pixels are"):
        video.read_clip(clips[0], 8, max_pixels=2**20, min_pixels=2**20, backend="pyav", timeout=None)


@pytest.mark.parametrize("name, value", [("VIDEOSSR_DECODE_GB", "much"), ("VIDEOSSR_DECODE_GB", "-1"), ("VIDEOSSR_DECODE_SECONDS", "nan"), ("VIDEOSSR_DECODER", "opencv")])
def test_a_bound_that_is_none_is_refused_by_name(clips, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name):
        video.read_clip(clips[0], 4)


def test_the_environment_chooses_the_decoder_and_the_time(clips, monkeypatch):
    asked = []
    isolated = video._isolated
    monkeypatch.setattr(video, "_isolated", lambda path, request, limit: asked.append((request["backend"], limit)) or isolated(path, request, limit))
    size = os.path.getsize(clips[0])
    monkeypatch.setenv("VIDEOSSR_DECODER", "pyav")
    monkeypatch.setenv("VIDEOSSR_DECODE_SECONDS", "30")
    video.read_clip(clips[0], 4)
    video.read_clip(clips[0], 4, timeout=7)
    assert asked == [("pyav", 30 * (1 + size / 2**28)), ("pyav", 7.0)]


@pytest.mark.parametrize("name, text", [
    ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{video}\n#EXT-X-ENDLIST\n"),
    ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{video}\n#EXT-X-ENDLIST\n"),
    ("concat.mp4", "ffconcat version 1.0\nfile '{video}'\n"),
    ("dash.mpd", '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="video/mp4">'
     '<Representation id="1" bandwidth="1"><BaseURL>{video}</BaseURL></Representation></AdaptationSet></Period></MPD>'),
    ("session.sdp", "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"),
])  # fmt: skip
@pytest.mark.parametrize("backend", [None, "pyav", "decord"])
def test_a_list_of_files_is_no_video(clips, tmp_path, monkeypatch, name, text, backend):
    "Local files only is not enough: a playlist inside the folder would show what lies outside."
    (tmp_path / name).write_text(text.format(video=clips[0]))
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, name):
        for timeout in ("auto", None):
            with pytest.raises(video.VideoError, match="cannot be opened: not a video of a kind that is read"):
                video.read_clip(path, 4, backend=backend, timeout=timeout)


def test_a_name_is_a_path_and_no_protocol(clips, tmp_path, monkeypatch):
    "FFmpeg takes what stands before a colon for a protocol."
    monkeypatch.chdir(tmp_path)
    for name in (f"concat:{os.path.basename(clips[0])}", "subfile,,start,0,end,9,,:x.mp4", "-i.mp4", "data:video.mp4"):
        shutil.copy(clips[0], name)
        for backend in (None, "pyav"):
            assert len(video.read_clip(name, 4, backend=backend, timeout=None)) == 4


def test_a_picture_that_takes_all_memory_harms_nobody(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("1", (8000, 8000)).save(path)
    monkeypatch.setenv("VIDEOSSR_DECODE_GB", "0.05")
    with pytest.raises(video.VideoError, match="more than 0.05 GB of memory"):
        frames_clip([str(path)], 1.0)


def test_a_playlist_shows_nothing_outside_its_folder(clips, tmp_path):
    "The kind that FFmpeg does play: of transport streams."
    import av

    secret, inside = tmp_path / "outside.ts", tmp_path / "folder"
    inside.mkdir()
    with av.open(str(clips[0])) as box, av.open(str(secret), "w") as copy:
        stream = copy.add_stream_from_template(box.streams.video[0])
        for packet in box.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    playlist = inside / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:99\n#EXTINF:9,\n../outside.ts\n#EXT-X-ENDLIST\n")
    with av.open(str(playlist), options={"allowed_extensions": "ALL"}) as box:  # this is what would be shown
        assert next(box.decode(video=0)) is not None
    with pytest.raises(video.VideoError, match="not a video of a kind that is read"):
        video.read_clip(playlist, 4)
    assert len(video.read_clip(secret, 4)) == 4
