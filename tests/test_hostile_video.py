"""Damaged files through every decoder path: the right frames, a `VideoError`, or a worker stopped at its time limit; never a hang, a dead
parent or a wrong frame that nobody notices. `pytest -m slow` reads 312 mutants of real clips three times over."""
import collections
import time

import av
import numpy as np
import pytest
from mutants import MUTATIONS, mutants

from videossr import video
from videossr.demo import demo_videos
from videossr.video import VideoError, probe, read_clip

PATHS = (None, "pyav", "decord")
LIMIT = 20.0  # seconds for one file
APART = 8.0  # of 255, mean over a frame: what scaling and colour conversion of two decoders may differ by, and more


def remuxed(source, target):
    "The same packets in another container."
    with av.open(str(source)) as box, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(box.streams.video[0])
        for packet in box.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    return target


def jumps_against_walk(files, folder, monkeypatch):
    "Files of which PyAV, which leaves out what no frame needs, and PyAV from the first packet to the last show other pixels at the same time; and how many both read."
    files, found = list(files), {}
    for way, code in (("jump", video._SERVE), ("walk", "import videossr.video as video; video._jumping = lambda *_: None; video._serve()")):
        monkeypatch.setattr(video, "_SERVE", code)
        video._close_workers()
        for name, data in files:
            (folder / name).write_bytes(data)
            found[way, name] = read(folder / name, "pyav")
            (folder / name).unlink()
    monkeypatch.undo()
    video._close_workers()
    both = [name for name, _ in files if not any(isinstance(found[way, name], str) for way in ("jump", "walk"))]
    return [name for name in both if apart(found["jump", name], found["walk", name]) > 0], len(both)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A few small clips in several containers."
    folder = tmp_path_factory.mktemp("made")
    (whole,) = demo_videos(1, folder=folder, progress=False)
    return [whole, *(remuxed(whole, folder / f"copy.{suffix}") for suffix in ("mkv", "ts", "mov"))]


def read(path, backend):
    "What became of a file: a clip, or the cause in words. Anything else than `VideoError` fails the test."
    begin = time.monotonic()
    try:
        found = read_clip(path, n_frames=12, backend=backend, timeout=LIMIT)
    except VideoError as error:
        assert error.path == str(path) and error.cause and "Traceback" not in error.cause
        found = error.cause
    assert time.monotonic() - begin < 300, "it hangs: two attempts have their time limits, and a new worker needs a while where the machine is busy"
    return found


def apart(one, other):
    "The largest mean difference between frames that two decoders show at the same time."
    times = {round(when, 3): frame for when, frame in zip(other.times.tolist(), other.frames)}
    pairs = [(frame, times[round(when, 3)]) for when, frame in zip(one.times.tolist(), one.frames) if round(when, 3) in times]
    if one.frames.shape[1:] != other.frames.shape[1:]:
        return np.inf
    return max((np.abs(first.astype(int) - second).mean() for first, second in pairs), default=0.0)


def sweep(files, folder):
    "Reads all files by all paths; counts outcomes, and returns the files on which two decoders disagree though neither complained, and those that only decord hung on."
    outcomes, disagree, stopped, slowest = collections.Counter(), [], [], 0.0
    for name, data in files:
        path = folder / name
        path.write_bytes(data)
        found = {}
        for backend in PATHS:
            begin = time.monotonic()
            found[backend] = read(path, backend)
            slowest = max(slowest, time.monotonic() - begin)
            kind = "clip" if not isinstance(found[backend], str) else "stopped" if "was stopped" in found[backend] else "crash" if "crashed" in found[backend] else "error"
            outcomes[f"{backend or 'default'}: {kind}"] += 1
        if not any(isinstance(found[backend], str) for backend in ("pyav", "decord")) and apart(found["decord"], found["pyav"]) > APART:
            disagree.append(name)
        if isinstance(found[None], str) and not isinstance(found["pyav"], str):
            assert "was stopped" in found[None], "what PyAV can read, the default reads"
            stopped.append(name)
        path.unlink()
    return outcomes, disagree, stopped, slowest


def test_mutants_are_many_and_the_same_for_the_same_seed(made):
    files = list(mutants(made, 2 * len(MUTATIONS)))
    assert files == list(mutants(made, 2 * len(MUTATIONS))) != list(mutants(made, 2 * len(MUTATIONS), seed=1))
    assert len({data for _, data in files}) > len(MUTATIONS) and {name.split("-")[1] for name, _ in files} == {one.__name__ for one in MUTATIONS}


def test_mutants_of_made_clips(made, tmp_path):
    pytest.importorskip("decord")
    outcomes, disagree, *_ = sweep(mutants(made, 2 * len(MUTATIONS)), tmp_path)
    assert not disagree and outcomes["default: clip"] and outcomes["default: error"]
    assert len(read_clip(made[0], n_frames=4)) == 4, "the worker lives, or another took its place"


def test_a_damaged_file_gives_the_same_pixels_each_time(made, tmp_path):
    "Several threads patch a damaged picture from whatever they have at the moment."
    damaged = 0
    for name, data in mutants(made, 2 * len(MUTATIONS), seed=4):
        (tmp_path / name).write_bytes(data)
        first, again = (read(tmp_path / name, "pyav") for _ in range(2))
        assert type(first) is type(again) and (isinstance(first, str) or np.array_equal(first.frames, again.frames)), name
        damaged += not isinstance(first, str)
    assert damaged > len(MUTATIONS) / 2


def test_what_is_left_out_changes_no_pixel(made, tmp_path, monkeypatch):
    differ, read_by_both = jumps_against_walk(mutants(made, 2 * len(MUTATIONS), seed=2), tmp_path, monkeypatch)
    assert not differ and read_by_both > len(MUTATIONS) / 2


@pytest.mark.slow
def test_what_is_left_out_changes_no_pixel_of_real_clips(real_videos, tmp_path, monkeypatch, capsys):
    differ, read_by_both = jumps_against_walk(mutants(sorted(real_videos.iterdir()), 312, seed=3), tmp_path, monkeypatch)
    with capsys.disabled():
        print(f"\n{read_by_both} of 312 read by both; differ: {differ}")
    assert not [name for name in differ if not name.endswith("webm")] and len(differ) < 16, "VP8 and VP9 mark no damage: what builds on a damaged picture is a guess"


@pytest.mark.slow
def test_mutants_of_real_clips(real_videos, tmp_path, capsys):
    pytest.importorskip("decord")
    outcomes, disagree, stopped, slowest = sweep(mutants(sorted(real_videos.iterdir()), 312), tmp_path)
    with capsys.disabled():
        print(f"\n{dict(outcomes)}; slowest {slowest:.1f} s; disagree: {disagree}; stopped: {stopped}")
    assert sum(outcomes.values()) == 3 * 312 and len(disagree) <= 3, disagree


def gaps(path, damage):
    "A copy of an H.264 file whose pictures are damaged but whose index is whole."
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = start + int.from_bytes(data[start - 8 : start - 4], "big") - 8
    rng = np.random.default_rng(0)
    for place in rng.integers(start + (end - start) // 3, end, damage):
        data[place] ^= 255
    return bytes(data)


def test_damage_that_only_ffmpeg_notices_is_not_shown(made, tmp_path):
    "decord hands such frames out without a word; what comes back instead is close to the picture before the damage."
    pytest.importorskip("decord")
    path, whole = tmp_path / "damaged.mp4", read_clip(made[0], n_frames=200, trim=0, backend="pyav")
    path.write_bytes(gaps(made[0], 60))
    with pytest.raises(VideoError, match="decord cannot be trusted with it"):
        read_clip(path, n_frames=40, trim=0, backend="decord")
    clip = read_clip(path, n_frames=40, trim=0)
    right = {round(when, 2): frame for when, frame in zip(whole.times.tolist(), whole.frames)}
    off = [np.abs(frame.astype(int) - right[round(when, 2)]).mean() for when, frame in zip(clip.times.tolist(), clip.frames) if round(when, 2) in right]
    assert len(off) >= 12 and max(off) < 2, off


@pytest.mark.parametrize("box", [b"mvhd", b"tkhd"])
def test_a_display_matrix_that_is_none_turns_nothing(made, tmp_path, box):
    "Zero where the width of a pixel should be: no player can draw that."
    data, path = bytearray(made[0].read_bytes()), tmp_path / "flat.mp4"
    start = data.index(b"\0\1\0\0", data.index(box) + 32)  # behind what may look like it: rate and volume, or layer
    data[start : start + 4] = b"\0\0\0\0"
    path.write_bytes(data)
    assert probe(path).rotation == 0
    for backend in PATHS:
        assert np.abs(read_clip(path, n_frames=4, backend=backend).frames.astype(int) - read_clip(made[0], n_frames=4, backend=backend).frames).mean() < 1


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_probe_believes_no_claim(made, tmp_path, kind):
    "A duration in the header that is not the packets' changes nothing, negative and not a number included."
    source = made[0] if kind == "mp4" else made[1]
    data, expected = bytearray(source.read_bytes()), probe(source)
    if kind == "mp4":
        for name, place, size in ((b"mvhd", 16, 4), (b"mdhd", 16, 4), (b"tkhd", 20, 4)):
            at = data.index(name) + 4 + place
            data[at : at + size] = b"\xff" * size
    else:
        at = data.index(b"\x44\x89\x88") + 3
        data[at : at + 8] = np.array([np.nan], ">f8").tobytes()
    path = tmp_path / f"claims.{kind}"
    path.write_bytes(data)
    info = probe(path)
    assert (info.n_frames, info.width, info.height) == (expected.n_frames, expected.width, expected.height)
    assert info.duration == pytest.approx(expected.duration, abs=0.05)
