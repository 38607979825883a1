"""Reading videos: odd, broken and hostile files, and a worker that hangs, dies or is forked. All files are made here."""
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import videossr.video as video
from videossr.demo import write_mp4
from videossr.video import Clip, VideoError, VideoInfo, fit_size, probe, read_clip, read_grey

WIDTH, HEIGHT, BITS = 160, 96, 7


def numbered_frame(number, height=HEIGHT, width=WIDTH):
    """A picture with its number in binary across the middle, red at top left, green at bottom right."""
    frame = np.full((height, width, 3), (40, 60, 90), np.uint8)
    frame[: height // 2, : width // 2], frame[height // 2 :, width // 2 :] = (200, 40, 40), (40, 200, 60)
    for bit in range(BITS):
        left, right = round((10 + 20 * bit) / WIDTH * width), round((30 + 20 * bit) / WIDTH * width)
        frame[height // 2 - 10 : height // 2 + 10, left:right] = 255 * (number >> bit & 1)
    return frame


def read_number(frame):
    height, width = frame.shape[:2]
    return sum(int(frame[height // 2, round((20 + 20 * bit) / WIDTH * width)].mean() > 127) << bit for bit in range(BITS))


def numbers(clip):
    return [read_number(frame) for frame in clip.frames]


def make(path, n=40, milliseconds=None, codec="libx264", size=(HEIGHT, WIDTH), pixels="yuv420p", gop=10, options=None, box_options=None, lost=0):
    """Write `n` numbered frames, ten a second unless `milliseconds` says when each appears; the first `lost` packets get lost."""
    with av.open(str(path), "w", options=box_options or {}) as box:
        middle = {"x264-params": "chromaloc=1"} if codec == "libx264" else {}  # where the colour is; decord knows no other place
        stream = box.add_stream(codec, rate=10, options=middle | (options or {}))
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *size, pixels, gop
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(n):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), "rgb24")
            frame.pts, frame.time_base = 100 * number if milliseconds is None else milliseconds[number], Fraction(1, 1000)
            for packet in stream.encode(frame):
                if lost > 0:
                    lost -= 1
                else:
                    box.mux(packet)
        box.mux(stream.encode())
    return Path(path)


def box_at(data, *names):
    """Where the content of a nested mp4 box begins."""
    start, end = 0, len(data)
    for name in names:
        while data[start + 4 : start + 8] != name.encode():
            start += struct.unpack(">I", data[start : start + 4])[0]
            assert start < end, f"no {name} box"
        end, start = start + struct.unpack(">I", data[start : start + 4])[0], start + 8
    return start


def turned(source, target, a, b, c, d):
    """A copy with another display matrix in its track header."""
    data = bytearray(source.read_bytes())
    place = box_at(data, "moov", "trak", "tkhd") + 40
    for offset, value in zip((0, 4, 12, 16), (a, b, c, d)):
        struct.pack_into(">i", data, place + offset, value * 65536)
    target.write_bytes(data)
    return target


def trimmed(source, target, start=0.0, seconds=None):
    """A copy whose edit list shows only `seconds` from `start` on."""
    data = bytearray(source.read_bytes())
    scale = struct.unpack_from(">I", data, box_at(data, "moov", "trak", "mdia", "mdhd") + 12)[0]
    movie_scale = struct.unpack_from(">I", data, box_at(data, "moov", "mvhd") + 12)[0]
    place = box_at(data, "moov", "trak", "edts", "elst") + 8
    duration, begin = struct.unpack_from(">Ii", data, place)
    struct.pack_into(">Ii", data, place, duration if seconds is None else round(seconds * movie_scale), begin + round(start * scale))
    target.write_bytes(data)
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def plain(folder):
    return make(folder / "plain.mp4")


@pytest.fixture
def fresh_workers():
    """No worker is left from before, none is left behind."""
    video._close_workers()
    yield
    video._close_workers()


@pytest.fixture
def serve(monkeypatch, fresh_workers):
    """Replace what workers do by other code."""
    return lambda code: monkeypatch.setattr(video, "_SERVE", code)


# ---------------------------------------------------------------- the right frames


def test_even_sampling_rule(plain):
    clip = read_clip(plain, n_frames=9, trim=0.05)
    middles = 4.0 * (0.05 + 0.9 * (np.arange(9) + 0.5) / 9)
    assert numbers(clip) == [int(middle * 10 + 1e-6) for middle in middles]
    np.testing.assert_allclose(clip.times * 10, numbers(clip), atol=1e-6)
    assert (clip.height, clip.width, clip.source) == (96, 160, str(plain))


@pytest.mark.parametrize("n_frames, trim, count", [(48, 0.0, 40), (48, 0.05, 36), (40, 0.0, 40), (1, 0.05, 1), (7, 0.4, 7)])
def test_never_a_frame_twice(plain, n_frames, trim, count):
    clip = read_clip(plain, n_frames=n_frames, trim=trim)
    assert len(clip) == count == len(set(numbers(clip)))


def test_frames_at_given_times(plain):
    clip = read_clip(plain, times=[0.0, 0.55, 0.59, 2.0, 99.0])
    assert numbers(clip) == [0, 5, 20, 39]
    again = read_clip(plain, times=clip.times.round(3))
    np.testing.assert_array_equal(again.times, clip.times)


READ_RIGHT = {
    "mkv.mkv": {},
    "late.mkv": {"milliseconds": [3000 + 100 * number for number in range(40)]},
    "late.mp4": {"milliseconds": [3000 + 100 * number for number in range(40)]},
    "transport.ts": {},
    "bframes.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "full.mp4": {"pixels": "yuv444p"},
    "fragments.mp4": {"box_options": {"movflags": "frag_keyframe+empty_moov"}},
    "onekey.mp4": {"gop": 250},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8", "b": "1M"}},
}


@pytest.mark.parametrize("backend", [None, "pyav"])
@pytest.mark.parametrize("name", READ_RIGHT)
def test_kinds_of_file(folder, name, backend):
    path = folder / name
    if not path.exists():
        try:
            make(path, **READ_RIGHT[name])
        except (av.FFmpegError, ValueError) as error:
            pytest.skip(f"this FFmpeg cannot write it: {error}")
    clip = read_clip(path, n_frames=20, trim=0.1, backend=backend)
    assert numbers(clip) == [int(4 + (k + 0.5) * 32 / 20) for k in range(20)]
    np.testing.assert_allclose(clip.times * 10, numbers(clip), atol=0.03)


AHEAD = {"avi": {}, "asf": {}, "mpeg": {}, "vob": {}, "h264": {}, "mxf": {"rate": 25}, "mov": {}}


def stored_ahead(path, form, rate=10, n=100, codec="libx264", options={"x264-params": "bframes=3:b-adapt=0:b-pyramid=normal"}):
    """Numbered frames, most of them stored later than the ones shown after them."""
    with av.open(str(path), "w", format=form) as box:
        stream = box.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number in range(n):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    return path


@pytest.mark.parametrize("backend", [None, "pyav"])
@pytest.mark.parametrize("form", AHEAD)
def test_frames_stored_ahead_of_their_turn(folder, form, backend):
    """Formats without times of showing, and one with: the k-th frame comes back at the k-th time, whoever numbered the pieces."""
    path, rate = stored_ahead(folder / f"ahead.{form}", form, **AHEAD[form]), AHEAD[form].get("rate", 10)
    for n_frames in (200, 37):
        clip = read_clip(path, n_frames=n_frames, trim=0.05, backend=backend)
        assert len(clip) == min(90, n_frames)
        np.testing.assert_allclose(clip.times * rate, numbers(clip), atol=0.02)


def test_stored_ahead_with_pieces_missing(folder):
    """Frames that are lost take their times with them; those around the gap may be a few off, all others are not."""
    path = folder / "holed.avi"
    with av.open(str(stored_ahead(folder / "whole.avi", "avi"))) as box, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(box.streams.video[0])
        for number, packet in enumerate(box.demux(video=0)):
            if packet.size and number not in (41, 42, 43):
                packet.stream = stream
                copy.mux(packet)
    clip = read_clip(path, n_frames=200, trim=0)
    away = np.abs(clip.times * 10 - numbers(clip)).round(6)
    assert 80 < len(clip) < 100 and (away > 0).sum() <= 4 and away.max() <= 3 and not away[-40:].any()


def test_slow_clock_stored_ahead(folder):
    """At a frame every two seconds, times that go back by four are no new recording."""
    path = folder / "slow.avi"
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=Fraction(1, 2), options={"x264-params": "bframes=3:b-adapt=0"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), "rgb24")
            frame.pts, frame.time_base = number, Fraction(2, 1)
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    clip = read_clip(path, n_frames=100, trim=0)
    assert numbers(clip) == list(range(60)) and np.allclose(clip.times, 2 * np.arange(60))


def test_transport_stream_under_a_false_name(folder):
    disguised = folder / "disguised.mp4"
    disguised.write_bytes(make(folder / "source.ts").read_bytes())
    clip = read_clip(disguised, n_frames=10)
    np.testing.assert_allclose(clip.times * 10, numbers(clip), atol=0.03)


@pytest.mark.parametrize("name", ["variable.mp4", "variable.mkv"])
def test_variable_rate(folder, name):
    starts = np.cumsum([0] + [40, 200, 40, 900] * 9)
    path = make(folder / name, n=len(starts), milliseconds=[int(start) for start in starts])
    info, clip, other = probe(path), read_clip(path, n_frames=30), read_clip(path, n_frames=30, backend="pyav")
    np.testing.assert_allclose(clip.times * 1000, starts[numbers(clip)], atol=1.1)
    np.testing.assert_array_equal(clip.times, other.times)
    assert info.n_frames == len(starts) and len(set(numbers(clip))) == len(clip) < 30
    looked = info.duration * (0.05 + 0.9 * (np.arange(30) + 0.5) / 30) * 1000
    assert set(numbers(clip)) == {int(np.searchsorted(starts, instant + 1, "right")) - 1 for instant in looked}


def test_one_frame(folder):
    clip = read_clip(make(folder / "one.mp4", n=1))
    assert numbers(clip) == [0] and clip.times.tolist() == [0.0] and clip.step > 0 and probe(folder / "one.mp4").n_frames == 1


@pytest.mark.parametrize("pixels, size", [("yuv444p", (77, 101)), ("yuv420p", (98, 162)), ("yuv420p", (34, 320)), ("yuv420p", (18, 32))])
def test_odd_sizes(folder, pixels, size):
    path = make(folder / f"odd{size[0]}.mkv", size=size, pixels=pixels)
    clip, other = read_clip(path, n_frames=6), read_clip(path, n_frames=6, backend="pyav")
    assert (clip.height, clip.width) == fit_size(*size) == (other.height, other.width)
    assert probe(path).width == size[1] and np.abs(clip.frames.astype(int) - other.frames).mean() < 1.5


@pytest.mark.parametrize("backend", ["decord", "pyav"])
@pytest.mark.parametrize("degrees, matrix", [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))])
def test_rotated(folder, plain, degrees, matrix, backend):
    if backend == "decord":
        pytest.importorskip("decord")
    path = turned(plain, folder / f"turned{degrees}.mp4", *matrix)
    clip, info = read_clip(path, n_frames=5, backend=backend), probe(path)
    upright = read_clip(plain, n_frames=5, backend=backend)
    expected = np.rot90(upright.frames, -degrees // 90, axes=(1, 2))
    assert (info.rotation, clip.frames.shape) == (degrees, expected.shape)
    assert np.abs(clip.frames.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("matrix, expected", [((-1, 0, 0, 1), np.s_[:, :, ::-1]), ((1, 0, 0, -1), np.s_[:, ::-1])])
def test_mirrored(folder, plain, matrix, expected):
    path = turned(plain, folder / "mirrored.mp4", *matrix)
    assert np.abs(read_clip(path, n_frames=5).frames.astype(int) - read_clip(plain, n_frames=5).frames[expected]).mean() < 2


@pytest.mark.parametrize("start, seconds, shown", [(1.25, 2.5, range(13, 38)), (0.0, 2.0, range(20)), (2.0, 1.0, range(20, 30))])
def test_edit_list_hides_what_was_cut(folder, plain, start, seconds, shown):
    path = trimmed(plain, folder / f"cut{start}.mp4", start, seconds)
    clip = read_clip(path, n_frames=100, trim=0)
    assert set(numbers(clip)) <= set(shown) and len(clip) >= len(shown) - 1
    assert clip.times[0] == 0 and np.allclose(np.diff(clip.times), 0.1, atol=2e-3)


def test_begins_between_keyframes(folder):
    # no delay in the encoder, so that its first packets are its first frames
    path = make(folder / "headless.mkv", lost=5, options={"bf": "0", "sc_threshold": "0", "tune": "zerolatency"})
    clip = read_clip(path, n_frames=60, trim=0)
    assert numbers(clip) == list(range(10, 40)) and np.allclose(clip.times, np.arange(30) / 10, atol=2e-3)


def test_clock_that_starts_again(folder):
    """Two recordings glued together: time goes on."""
    path = folder / "glued.ts"
    path.write_bytes(make(folder / "first.ts").read_bytes() + make(folder / "second.ts", n=20).read_bytes())
    clip = read_clip(path, n_frames=200, trim=0)
    assert numbers(clip) == [*range(40), *range(20)] and 5.5 < clip.times[-1] < 6.5


def test_track_that_appears_on_the_way(plain):
    """PyAV's packet iterator then ends with an IndexError; reading goes on."""

    class Stumbling:
        def __init__(self, packets):
            self.left = iter(packets)

        def demux(self, stream):
            for packet in self.left:
                if packet is None:
                    raise IndexError("list index out of range")
                yield packet

    with av.open(str(plain)) as box:
        packets = [packet for packet in box.demux(video=0) if packet.size]
        assert list(video._packets(Stumbling([packets[0], None, None, *packets[1:], None]), None)) == packets


def test_pixels_not_square(folder):
    path = folder / "wide.mp4"
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 240, 160, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for number in range(10):
            box.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(number, 240, 160), "rgb24")))
        box.mux(stream.encode())
    info = probe(path)
    assert (info.width, info.height) == (160, 240) and info.aspect == pytest.approx(4 / 3)
    clip = read_clip(path, n_frames=4)
    assert clip.width / clip.height == pytest.approx(4 / 3, rel=0.1)


def test_change_of_size_on_the_way(folder):
    options = {"deadline": "realtime", "cpu-used": "8"}
    try:
        parts = [make(folder / f"part{k}.webm", n=20, codec="libvpx", size=(96 * k, 160 * k), options=options) for k in (1, 2)]
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this FFmpeg cannot write VP8: {error}")
    path = folder / "grows.webm"
    with av.open(str(parts[0])) as first, av.open(str(parts[1])) as second, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(first.streams.video[0])
        for later, source in ((0, first), (2000, second)):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.pts, packet.stream = packet.pts + later, stream
                    packet.dts = packet.pts
                    target.mux(packet)
    for backend in (None, "pyav"):
        clip = read_clip(path, n_frames=40, trim=0, backend=backend)
        assert len(clip) == 40 and (clip.height, clip.width) == (96, 160)
        assert np.abs(clip.frames[30].astype(int) - clip.frames[12]).mean() < 30  # the same scene at both sizes


def test_same_clip_from_either_backend(plain):
    pytest.importorskip("decord")
    one, other = read_clip(plain, backend="decord"), read_clip(plain, backend="pyav")
    np.testing.assert_array_equal(one.times, other.times)
    assert one.frames.shape == other.frames.shape and np.abs(one.frames.astype(int) - other.frames).mean() < 1


def test_without_decord(plain, monkeypatch):
    expected = read_clip(plain)
    monkeypatch.setitem(sys.modules, "decord", None)
    np.testing.assert_array_equal(read_clip(plain, timeout=None).times, expected.times)
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install decord"):
        read_clip(plain, backend="decord")


# ---------------------------------------------------------------- colour


def symmetric_planes(height, width, first, rng):
    """Brightness and two colours of a picture that is its own mirror image; of colour, every second pixel from `first` on, in pixels."""
    planes = []
    for every, begin in ((1, 0.5), (2, first), (2, first)):
        across, down = (begin + every * np.arange(width // every)) / width - 0.5, np.arange(height // every) / height * every
        waves = [np.outer(np.cos(6.28 * rng.integers(1, 4) * down + rng.uniform(0, 6.28)), np.cos(6.28 * rng.integers(1, 5) * across)) for _ in range(3)]
        planes.append((128 + 25 * sum(waves)).clip(17, 235).round().astype(np.uint8).reshape(-1, width))
    return np.concatenate(planes)


def symmetric_video(path, size, first, codec="libx264", options=None, n=8):
    with av.open(str(path), "w") as box:
        stream = box.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 8_000_000
        rng = np.random.default_rng(size[1])
        for _ in range(n):
            box.mux(stream.encode(av.VideoFrame.from_ndarray(symmetric_planes(*size, first, rng), "yuv420p")))
        box.mux(stream.encode())
    return path


def moved(frames):
    """By how many pixels colour lies to the right of its place: (T,)."""
    colour = frames[..., 0].astype(float) - frames[..., 2]
    odd, even = (colour - colour[:, :, ::-1]) / 2, (colour + colour[:, :, ::-1]) / 2
    slope = np.gradient(even, axis=2)
    return -(odd * slope).sum((1, 2)) / (slope**2).sum((1, 2))


LEFT, FINE = {"crf": "4", "x264-params": "chromaloc=0"}, {"qmin": "1", "qmax": "1"}
PLACES = {  # where a file's colour is, the first sample in pixels, and how it says so
    "h264 says nothing": ("a.mp4", 0.5, {"options": {"crf": "4"}}), "h264 left": ("b.mkv", 0.5, {"options": LEFT}),
    "h264 middle": ("c.mp4", 1.0, {"options": {"crf": "4", "x264-params": "chromaloc=1"}}),
    "mpeg4": ("d.avi", 0.5, {"codec": "mpeg4", "options": FINE}), "mpeg2": ("e.mkv", 0.5, {"codec": "mpeg2video", "options": FINE}),
    "mpeg1": ("f.mkv", 1.0, {"codec": "mpeg1video", "options": FINE}),
}  # fmt: skip


@pytest.mark.parametrize("size", [(352, 500), (96, 128), (64, 96)])  # smaller by 1.7, the same, enlarged
@pytest.mark.parametrize("place", PLACES)
def test_a_symmetric_picture_comes_back_symmetric(folder, place, size):
    """Or mirrored frames could be told by colour beside its place. The wrong place is 0.2 pixels away, 1 in the enlarged one."""
    name, first, how = PLACES[place]
    try:
        path = symmetric_video(folder / f"{size[1]}{name}", size, first, **how)
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this FFmpeg cannot write it: {error}")
    for backend in (None, "pyav"):
        clip = read_clip(path, trim=0, backend=backend, min_pixels=192 * 288 if size[0] == 64 else None)
        assert abs(np.median(moved(clip.frames))) < 0.06, (backend, moved(clip.frames))


def test_written_pictures_come_back_symmetric(folder):
    rng = np.random.default_rng(0)
    half = np.kron(rng.integers(40, 216, (6, 12, 5, 3)), np.ones((1, 20, 20, 1))).astype(np.uint8)
    path = write_mp4(folder / "written.mp4", np.concatenate([half, half[:, :, ::-1]], 2), 10, crf=4)
    for backend in (None, "pyav"):
        for most in (256 * 256, 96 * 96):
            assert np.abs(moved(read_clip(path, trim=0, backend=backend, max_pixels=most).frames)).max() < 0.05


def test_decord_refuses_colour_that_leans(folder):
    pytest.importorskip("decord")
    path = symmetric_video(folder / "leans.mp4", (96, 128), 0.5, options={"crf": "4"})
    with pytest.raises(VideoError, match="leans to the left"):
        read_clip(path, backend="decord")


# ---------------------------------------------------------------- jumps


def check_jumps(path):
    index = video._index(str(path))
    shown = index.info.n_frames
    for n_frames in (1, 2, 5, 11, shown):
        instants = video._instants(index.end, n_frames, 0.05)
        frames, times = video._jumping(index, instants, 96, 160)
        chosen = video._on_screen(index.starts, instants)
        sequence, at = video._with_pyav(replace(index, pieces=None), lambda end: instants, 96, 160)
        assert np.array_equal(frames, sequence) and np.allclose(times, at, atol=1e-6) and len(frames) == len(chosen)
        yield chosen, [read_number(frame) for frame in frames]
    needed = video._needed(index, np.array([shown // 2]))
    assert np.count_nonzero(needed) < 0.4 * len(needed) and (needed == 2).sum() == 1


@pytest.mark.parametrize("codec, suffix, options", [
    *(("libx264", "mp4", options) for options in ({}, {"x264-params": "open-gop=1:bframes=3:b-adapt=0"}, {"bf": "0"}, {"x264-params": "tff=1:bframes=2"})),
    ("libx264", "ts", {"x264-params": "open-gop=1:bframes=3:b-adapt=0"}), ("libx264", "ts", {"bf": "0"}), ("mpeg4", "ts", {"bf": "2"}),
    ("libx265", "ts", {"x265-params": "open-gop=1:bframes=3:log-level=none"}), ("libx265", "mp4", {"x265-params": "log-level=none"}), ("mpeg4", "mkv", {"bf": "2"}),
    ("libvpx-vp9", "webm", {"cpu-used": "8", "deadline": "realtime"}),
])  # fmt: skip
def test_jumps_give_what_a_reading_in_sequence_gives(folder, codec, suffix, options):
    """Packets from one keyframe to the next that no wanted frame needs are not decoded, nor are pictures that nothing builds on."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot write {codec}")
    for chosen, read in check_jumps(make(folder / f"jumps.{suffix}", n=100, gop=12, codec=codec, options=options)):
        assert read == chosen.tolist()


@pytest.mark.parametrize("start, seconds", [(2.5, 5.0), (0.0, 4.0), (3.65, 6.0)])
def test_jumps_keep_to_an_edit_list(folder, start, seconds):
    path = trimmed(make(folder / "jumps.mp4", n=100, gop=12), folder / f"jumps{start}.mp4", start, seconds)
    assert any(video._index(str(path)).pieces[2])
    for chosen, read in check_jumps(path):
        assert np.ptp(np.array(read) - chosen) == 0 and abs(read[0] - chosen[0] - 10 * start) < 1


def test_damage_stops_the_jumps(folder):
    path = make(folder / "jumpy.mp4", n=100, gop=12, options={"bf": "0"})
    with av.open(str(path)) as box:
        spans = [(packet.pos, packet.size) for packet in box.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for begin, size in spans[45:48]:
        data[begin + 8 : begin + size] = bytes(size - 8)
    path.write_bytes(data)
    index = video._index(str(path))
    assert video._jumping(index, np.array([1.0, 4.75]), 96, 160) is None
    clip = read_clip(path, times=[1.0, 4.75], backend="pyav")
    assert numbers(clip) == (clip.times * 10).round().astype(int).tolist() and clip.times[0] == 1.0


# ---------------------------------------------------------------- small and grey


GREY = {**{name: READ_RIGHT[name] for name in ("late.mkv", "transport.ts", "bframes.avi", "full.mp4", "onekey.mp4", "vp8.webm")},
        "deep.mkv": {"pixels": "yuv420p10le"}, "lossless.avi": {"codec": "rawvideo", "pixels": "rgb24"}, "odd.mp4": {"size": (98, 162)}}


@pytest.mark.parametrize("name", GREY)
def test_grey_shows_what_a_clip_shows(folder, name):
    try:
        path = make(folder / f"grey-{name}", **GREY[name])
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this FFmpeg cannot write it: {error}")
    grey, at = read_grey(path, rate=8, longest=3)
    clip = read_clip(path, times=at, backend="pyav")
    assert grey.shape == (24, 64, 64) and grey.dtype == np.uint8 and np.array_equal(at, np.arange(24) / 8)
    assert [read_number(frame[..., None].repeat(3, -1)) for frame in grey] == [int(10 * when + 0.02) for when in at]
    wanted = [clip.frames[np.searchsorted(clip.times, when + 2e-3) - 1] @ [0.299, 0.587, 0.114] for when in at]
    alike = [np.corrcoef(one[8::16, 8::16].ravel(), cells(frame)[8::16, 8::16].ravel())[0, 1] for one, frame in zip(grey, wanted)]
    assert min(alike) > 0.9


def cells(frame, side=64):
    """The nearest pixels on a square grid."""
    rows, columns = (((np.arange(side) + 0.5) * size / side).astype(int) for size in frame.shape)
    return frame[rows][:, columns]


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1)])
def test_grey_is_the_right_way_up(folder, plain, matrix):
    path = turned(plain, folder / "grey-turned.mp4", *matrix)
    shown = cells(read_clip(path, times=[0.0]).frames[0] @ [0.299, 0.587, 0.114])
    grey = read_grey(path, 1)[0][0].astype(float)
    ways = [np.abs(np.corrcoef(turn.ravel(), shown.ravel())[0, 1] - 1) for picture in (grey, grey[:, ::-1]) for turn in map(lambda k: np.rot90(picture, k), range(4))]
    assert np.argmin(ways) == 0 and ways[0] < 0.1


def test_grey_of_files_without_pictures(folder, plain):
    for name, cause in broken_files(folder, plain).items():
        with pytest.raises(VideoError, match=f"{name}: .*{cause}"):
            read_grey(folder / name, 8)


# ---------------------------------------------------------------- the walk


def test_a_file_that_changed_is_walked_through_again(folder):
    path = make(folder / "changing.mp4", n=20)
    first = video._index(str(path))
    assert video._index(str(path)) is first
    make(path, n=30)
    assert video._index(str(path)).info.n_frames == 30 and probe(path).n_frames == 30
    path.unlink()
    with pytest.raises(VideoError, match="no such file"):
        video._index(str(path))


def test_a_long_reading_in_sequence_tells_how_far_it_is(folder, plain, serve, monkeypatch):
    """Words ahead of the answer change nothing in it; what can be sought says none; nothing is drawn where nobody looks."""
    words, real = [], video._moved
    monkeypatch.setattr(video, "_moved", lambda bar, path, walked, of: words.append((walked, of)) or real(bar, path, walked, of))
    path = make(folder / "unsought.avi", n=100)  # H.264 in AVI
    assert video._index(str(path)).pieces is None
    wanted = read_clip(path, n_frames=20, timeout=None)
    serve("import videossr.video as video, time\nvideo._PATIENCE = -1e6\nvideo._serve()")  # as if each frame took a second
    video._close_workers()
    clip = read_clip(path, n_frames=20)
    assert np.array_equal(clip.frames, wanted.frames) and np.array_equal(clip.times, wanted.times)
    assert len(words) > 50 and words == sorted(words) and {of for _, of in words} == {10.0}
    words.clear()
    assert len(read_clip(plain, backend="pyav")) == 36 and not words


def test_the_bar_is_seen_by_who_looks(capfd, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # which another test may have imported
    bar = video._moved(None, "/a/b\x1b[31m.ts", 3.2, 60.0)
    bar.close()
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TQDM_DISABLE", "0")
    bar = video._moved(video._moved(None, "/a/b\x1b[31m.ts", 3.2, 60.0), "", 9.9, 60.0)
    assert bar.n == 10 and bar.total == 60
    bar.close()
    out, told = capfd.readouterr()
    assert not out and "b\\x1b[31m.ts, from its beginning" in told


# ---------------------------------------------------------------- broken files


def test_cut_off_but_readable(folder):
    whole = make(folder / "fast.mp4", box_options={"movflags": "faststart"}).read_bytes()
    for name, data in {"cut.mp4": whole[: len(whole) * 2 // 3], "cut.mkv": make(folder / "w.mkv").read_bytes()[:3300]}.items():
        (folder / name).write_bytes(data)
        clip = read_clip(folder / name, n_frames=60, trim=0)
        missing = set(range(numbers(clip)[-1])) - set(numbers(clip))
        assert numbers(clip) == sorted({*numbers(clip)}) and 5 < len(clip) < 30 and not missing
        np.testing.assert_allclose(clip.times * 10, numbers(clip), atol=0.02)


def test_damaged_in_the_middle(folder):
    data = bytearray(make(folder / "sound.mp4", box_options={"movflags": "faststart"}).read_bytes())
    begin, end = len(data) // 2, len(data) * 6 // 10
    data[begin:end] = np.random.default_rng(0).integers(0, 256, end - begin).astype(np.uint8).tobytes()
    (folder / "damaged.mp4").write_bytes(data)
    clip = read_clip(folder / "damaged.mp4", n_frames=60, trim=0)
    sound = [number == round(10 * when) for number, when in zip(numbers(clip), clip.times)]
    assert sum(sound) >= 20 and sound[0] and sound[-1]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("place", [4, 5, 7, 13])
def test_what_was_sent_before_a_damage_comes_through(folder, suffix, place):
    """One packet of noise that the decoder refuses: all that came before it, also what is shown after it, and all from the next keyframe on."""
    path = make(folder / f"one-damage.{suffix}", n=60, gop=20, options={"x264-params": "bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0:chromaloc=1"})
    whole, data = read_clip(path, n_frames=60, trim=0, backend="pyav"), bytearray(path.read_bytes())
    with av.open(str(path)) as box:
        packets = [(data.index(bytes(packet)), packet.size, packet.is_keyframe, round(float(packet.pts * packet.time_base) * 10)) for packet in box.demux(video=0) if packet.size]
    first = min(number for *_, number in packets)
    begin, size, _, _ = packets[place]
    data[begin + 4 : begin + size] = np.random.default_rng(place).integers(0, 256, size - 4, np.uint8).tobytes()
    path.write_bytes(data)
    clip, after = read_clip(path, n_frames=60, trim=0), next(number for number in range(place, 60) if packets[number][2])
    sent = {number - first for *_, number in packets[:place]}
    assert sent | {number - first for *_, number in packets[after:]} <= set(numbers(clip)) and len(clip) < 60
    for frame, when in zip(clip.frames, clip.times):
        assert np.array_equal(frame, whole.frames[round(10 * when)])


def broken_files(folder, plain):
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is a letter, not a video.\n" * 100)
    (folder / "zeros.mp4").write_bytes(bytes(100_000))
    (folder / "noise.mkv").write_bytes(np.random.default_rng(1).integers(0, 256, 100_000).astype(np.uint8).tobytes())
    (folder / "half.mp4").write_bytes(plain.read_bytes()[:3000])
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    scrambled = bytearray(plain.read_bytes())
    start = scrambled.index(b"mdat") + 4
    scrambled[start : scrambled.index(b"moov") - 4] = bytes(scrambled.index(b"moov") - 4 - start)
    (folder / "scrambled.mp4").write_bytes(scrambled)
    with av.open(str(folder / "sound_only.mp4"), "w") as box:
        stream = box.add_stream("aac", rate=16000)
        for number in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, 1024 * number
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    return {
        "sub": "folder", "missing.mp4": "no such file", "empty.mp4": "empty", "text.mp4": "not a video", "zeros.mp4": "cannot be opened",
        "noise.mkv": "cannot be opened", "half.mp4": "end of the file is missing", "playlist.mp4": "", "scrambled.mp4": "decoded",
        "sound_only.mp4": "no pictures",
    }  # fmt: skip


def test_broken_files_name_file_and_cause(folder, plain):
    for name, cause in broken_files(folder, plain).items():
        for backend in (None, "pyav"):
            start = time.monotonic()
            with pytest.raises(VideoError) as caught:
                read_clip(folder / name, backend=backend)
            assert time.monotonic() - start < 20
            assert caught.value.path == str(folder / name) and str(folder / name) in str(caught.value)
            assert cause in caught.value.cause and "Traceback" not in caught.value.cause, caught.value.cause
    with pytest.raises(VideoError, match="address"):
        read_clip("https://example.org/video.mp4")
    assert not probe(folder / "sound_only.mp4").has_video
    assert len(read_clip(plain)) == 36  # the worker has survived all of them


def test_huge_claim(folder):
    """A raw video that says each of its frames has 3.6 thousand million pixels."""
    path = folder / "huge.avi"
    with av.open(str(path), "w") as box:
        stream = box.add_stream("rawvideo", rate=10)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "bgr24"
        for number in range(3):
            box.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "bgr24")))
        box.mux(stream.encode())
    data = bytearray(path.read_bytes())
    place = data.index(b"strf") + 12  # BITMAPINFOHEADER: width and height follow its size
    struct.pack_into("<ii", data, place, 16000, 16000)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="huge.avi: claims frames of 16000x16000"):
        read_clip(path)


def test_names(folder, plain, monkeypatch):
    """Spaces, colons, percent signs, other alphabets; relative paths after a change of folder; bytes and Path."""
    for name in ("with space.mp4", "colon:%03d.mp4", "видео №1.mp4", "-dash.mp4"):
        (folder / name).write_bytes(plain.read_bytes())
        assert numbers(read_clip(folder / name, n_frames=3)) == numbers(read_clip(plain, n_frames=3))
    read_clip(plain)
    monkeypatch.chdir(folder)
    clip = read_clip("-dash.mp4", n_frames=3)
    assert clip.source == "-dash.mp4" and probe(b"-dash.mp4").path == "-dash.mp4"


@pytest.mark.parametrize("wrong", [{"n_frames": 0}, {"trim": 0.5}, {"trim": -0.1}, {"backend": "opencv"}, {"max_pixels": 100}, {"times": []},
                                   {"times": [1.0, 0.0]}, {"times": [-1.0]}, {"min_pixels": 10**6}])  # fmt: skip
def test_wrong_requests_are_not_the_files_fault(plain, wrong):
    with pytest.raises(ValueError) as caught:
        read_clip(plain, **wrong)
    assert not isinstance(caught.value, VideoError) and next(iter(wrong)) in str(caught.value)


# ---------------------------------------------------------------- the worker

LISTEN = "import os, time, videossr.video as video\n"


def test_hanging_decoder(plain, serve):
    serve(LISTEN + "video._decode = lambda *a, **k: time.sleep(60)\nvideo._serve()")
    start = time.monotonic()
    with pytest.raises(VideoError, match=r"plain.mp4: decoding took more than 0.5 s"):
        read_clip(plain, timeout=0.5)
    assert time.monotonic() - start < 10
    assert probe(plain).n_frames == 40  # by a new worker


def test_crashing_decoder(plain, serve):
    serve(LISTEN + "video._decode = lambda *a, **k: os.abort()\nvideo._serve()")
    with pytest.raises(VideoError, match="plain.mp4: the decoder crashed"):
        read_clip(plain)


def test_pyav_takes_over_when_decord_crashes(plain, serve):
    serve(LISTEN + "video._with_decord = lambda *a, **k: os.abort()\nvideo._serve()")
    assert len(read_clip(plain)) == 36
    with pytest.raises(VideoError, match="crashed"):
        read_clip(plain, backend="decord")


def test_our_own_mistakes_are_not_blamed_on_the_file(plain, serve):
    serve(LISTEN + "video._decode = lambda *a, **k: 1/0\nvideo._serve()")
    with pytest.raises(RuntimeError, match="ZeroDivisionError") as caught:
        read_clip(plain)
    assert not isinstance(caught.value, VideoError)


def test_worker_that_cannot_start(plain, serve, monkeypatch):
    serve("raise SystemExit('no room')")
    with pytest.raises(RuntimeError, match="could not start.*no room.*timeout=None"):
        read_clip(plain)
    assert len(read_clip(plain, timeout=None)) == 36
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(RuntimeError, match="executable"):
        read_clip(plain)


def test_chatter_does_not_reach_the_frames(plain, serve):
    serve(LISTEN + "import sys\nreal = video._decode\ndef chatty(*a, **k):\n    print('frame!' * 1000); os.write(1, b'noise'); return real(*a, **k)\n"
          "video._decode = chatty\nvideo._serve()")
    assert numbers(read_clip(plain, n_frames=3)) == numbers(read_clip(plain, n_frames=3, timeout=None))


def test_worker_is_kept_and_replaced(plain, fresh_workers):
    read_clip(plain)
    (worker,) = video._idle[os.getpid()]
    read_clip(plain)
    assert video._idle[os.getpid()] == [worker]
    worker.process.kill()
    worker.process.wait()
    assert len(read_clip(plain)) == 36 and worker not in video._idle[os.getpid()]


def test_worker_retires(plain, fresh_workers, monkeypatch):
    monkeypatch.setattr(video, "_MOST_CALLS", 3)
    for _ in range(5):
        assert len(read_clip(plain, n_frames=2)) == 2


def test_threads(plain, fresh_workers):
    found, threads = [], []
    for k in range(4):
        threads.append(threading.Thread(target=lambda k=k: found.append(numbers(read_clip(plain, n_frames=k + 1)))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(map(len, found)) == [1, 2, 3, 4]
    assert len(video._idle[os.getpid()]) <= max(1, os.cpu_count())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_children_use_their_own(plain, fresh_workers):
    """Daemonic children, as data loaders have them, may not have children of multiprocessing; ours are plain processes."""
    expected = read_clip(plain).times.tolist()
    (worker,) = video._idle[os.getpid()]
    fork = multiprocessing.get_context("fork")
    with fork.Pool(2) as pool:
        for times in pool.map(_times, [str(plain)] * 4):
            assert times == expected
    assert worker.process.poll() is None
    read_clip(plain)
    assert video._idle[os.getpid()] == [worker]


def _times(path):
    return read_clip(path).times.tolist()


PROGRAM = """
import sys, time, videossr.video as video
video.read_clip(sys.argv[1])
(worker,) = video._idle[video.os.getpid()]
print(worker.process.pid, flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("killed", [False, True])
def test_no_worker_outlives_its_caller(plain, killed):
    search = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(video.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    caller = subprocess.Popen([sys.executable, "-c", PROGRAM, str(plain), "60" if killed else "0"], stdout=subprocess.PIPE, env=search)
    worker = int(caller.stdout.readline())
    if killed:
        caller.kill()
    caller.wait(30)
    caller.stdout.close()
    end = time.monotonic() + 10
    while _alive(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(worker)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # one that waits for a parent to collect it is over
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_worker_costs_little(folder):
    """A clip of the default size comes back through the pipe in a few hundredths of a second."""
    path = make(folder / "large.mp4", n=50, size=(192, 320), options={"preset": "ultrafast"})
    read_clip(path)

    def fastest(**options):
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            read_clip(path, trim=0, **options)
            taken.append(time.perf_counter() - start)
        return min(taken)

    assert fastest() < fastest(timeout=None) + 0.15


# ---------------------------------------------------------------- clips and sizes


def test_clip_checks_itself():
    clip = Clip.example(6, 32, 64)
    assert (clip.n_frames, clip.height, clip.width, clip.fps, clip.step, clip.duration) == (6, 32, 64, 2.0, 0.5, 3.0)
    assert clip[1:3].times.tolist() == [0.5, 1.0] and clip[::2].step == 1.0 and "base64" in clip._repr_html_()
    assert clip.with_frames(clip.frames[:, ::-1]).times is clip.times
    np.testing.assert_array_equal(Clip.example(seed=3).frames, Clip.example(seed=3).frames)
    for frames, times in [(clip.frames, clip.times[:-1]), (clip.frames, clip.times[::-1]), (clip.frames / 2, clip.times),
                          (clip.frames[:0], clip.times[:0]), (clip.frames[0], clip.times), (clip.frames, clip.times * np.nan)]:  # fmt: skip
        with pytest.raises(ValueError):
            Clip(frames, times)
    with pytest.raises(TypeError):
        clip[0]


def test_errors_and_clips_travel():
    """Between processes, as data loaders need it."""
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "torn")))
    assert (error.path, error.cause, str(error)) == ("a.mp4", "torn", "a.mp4: torn")
    clip = pickle.loads(pickle.dumps(Clip.example()))
    assert clip.source == "example" and VideoInfo("a.mp3", False).n_frames == 0


def test_fit_size_is_the_best_pair():
    rng = np.random.default_rng(0)
    for height, width in [(1080, 1920), (16, 16), (1, 4000), (4000, 1), (2160, 3840), *rng.integers(20, 2500, (60, 2)).tolist()]:
        for most, least in ((256 * 256, None), (64 * 64, None), (1024, None), (512 * 512, 128 * 128), (256 * 256, 256 * 256)):
            rows, columns = (side // 32 for side in fit_size(height, width, most, least))
            native = max(1, int(height / 32 + 0.5)) * max(1, int(width / 32 + 0.5))
            budget = min(most // 1024, max(native, -(-(least or 0) // 1024)))

            def cost(r, c):
                return abs(np.log(c / r * height / width)) + np.log(budget / (r * c)) / 4

            assert min(rows, columns) >= 1 and rows * columns <= most // 1024
            best = min(cost(r, c) for r in range(1, budget + 1) for c in range(1, budget // r + 1))
            assert cost(rows, columns) <= best + 1e-9


# ---------------------------------------------------------------- real videos

REAL = sorted(Path(os.environ["VIDEOSSR_TEST_VIDEOS"]).iterdir()) if os.environ.get("VIDEOSSR_TEST_VIDEOS") else []


@pytest.mark.skipif(not REAL, reason="VIDEOSSR_TEST_VIDEOS names no folder")
def test_real_videos_are_read():
    for path in REAL:
        clip, index = read_clip(path, n_frames=12), video._index(str(path))
        assert len(clip) == 12 and clip.height * clip.width <= 256 * 256, path
        due = index.starts[video._on_screen(index.starts, video._instants(index.end, 12, 0.05))]
        np.testing.assert_allclose(clip.times, due, atol=2e-3, err_msg=str(path))


@pytest.mark.skipif(not REAL, reason="VIDEOSSR_TEST_VIDEOS names no folder")
def test_real_videos_against_a_full_decode():
    """The smallest files, frame by frame: what came back is the frame that a sequential decode shows at that time."""
    for path in sorted(REAL, key=lambda path: path.stat().st_size)[:6]:
        clip = read_clip(path, n_frames=24)
        times, reference = [], []
        with av.open(str(path)) as box:
            stream = box.streams.best("video")
            for packet in box.demux(stream):
                for frame in packet.decode() if packet.size or packet.dts is None else []:
                    times.append(float(frame.pts * frame.time_base))
                    reference.append(frame)
        times = np.array(times) - times[0]
        for when, pixels in zip(clip.times, clip.frames):
            frame = reference[int(np.abs(times - when).argmin())]
            assert np.abs(times - when).min() < 2e-3
            expected = frame.reformat(clip.width, clip.height, "rgb24", interpolation="BILINEAR").to_ndarray()
            assert np.abs(expected.astype(int) - pixels).mean() < 2, (path, when)
