"Servers that fail, stall, refuse and die; keys that must not leak; batches that must not change an answer."
import base64
import importlib.util
import io
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from videossr import backends
from videossr.backends import (
    BackendError,
    Budget,
    Endpoint,
    LocalBackend,
    chat_content,
    clips_of,
    encode_image,
    image_size,
    plan_batches,
    prompt_hash,
    read_view,
    view_times,
)
from videossr.data.export import resize_clip
from videossr.demo import demo_videos
from videossr.evaluate import evaluate
from videossr.policy import tiny_policy
from videossr.records import read_records
from videossr.tasks import Sample, core, make_sample
from videossr.video import Clip, VideoError, fit_size, probe

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOT = Path(__file__).parent / "snapshots" / "prompts_chat.json"
RELEASED = {"shortest_edge": 65_536, "longest_edge": 16_777_216}  # `size` of the image processor of a published Qwen3-VL
KEY = "sk-very-secret-0123456789"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    "Twelve questions about two videos, of prompts of several lengths."
    os.environ.setdefault("VIDEOSSR_CACHE", str(tmp_path_factory.mktemp("cache")))
    videos = demo_videos(2, progress=False)
    drawn = [make_sample(task, video, difficulty="demo", seed=seed) for video in videos for task in ("grounding", "jigsaw", "counting") for seed in range(9)]
    different = list({(sample.video, sample.question, json.dumps(sample.recipe)): sample for sample in drawn}.values())  # chance can ask a thing twice
    chosen = [[one for one in different if (one.video, one.task) == key][:2] for key in dict.fromkeys((one.video, one.task) for one in different)]
    return [sample for pair in zip(*chosen, strict=True) for sample in pair]


class Server:
    "Speaks the protocol; `act(number of the request, body)` returns status, headers, payload, or does worse to the connection."

    def __init__(self, act=None, port=0):
        self.act, self.lock = act, threading.Lock()
        self.requests, self.questions, self.keys, self.at_once, self.most = 0, [], [], 0, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.serve(self)

            def log_message(self, *_):
                pass

        ThreadingHTTPServer.daemon_threads = True
        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.handle_error = lambda *_: None  # clients go away on purpose here
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def serve(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.requests += 1
            number = self.requests
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            self.keys.append(handler.headers.get("Authorization"))
        try:
            done = self.act(number, body) if self.act else None
            status, headers, payload = done or (200, {}, good(body))
            if status is None:  # hang up
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            if status == 200:
                with self.lock:
                    self.questions.append(fingerprint(body))
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(payload)), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            for part in payload if isinstance(payload, list) else [payload]:
                handler.wfile.write(part)
                handler.wfile.flush()
                if isinstance(payload, list):
                    time.sleep(0.05)
        except OSError:
            pass  # the client went away
        finally:
            with self.lock:
                self.at_once -= 1

    def close(self):
        self.http.shutdown()
        self.http.server_close()  # twice does no harm


def fingerprint(body):
    "What was asked, by the bytes of the request."
    return prompt_hash([], json.dumps(body["messages"]))


def good(body, text=None):
    question = body["messages"][-1]["content"][-1]["text"]
    text = text or ("1.0-2.0" if "start-end" in question else "123" if "digits" in question else "1,1,1")
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()


@pytest.fixture
def serve():
    servers = []

    def make(act=None, port=0):
        servers.append(Server(act, port))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def endpoint(server, **dials):
    return Endpoint(f"http://127.0.0.1:{server.port}/v1", "m", **{"backoff": 0.01, "timeout": 5.0, "concurrency": 3, **dials})


def ask(server, samples, path, name="m", **dials):
    return evaluate(endpoint(server, **dials), samples, path, name=name, progress=False)


# ---------------------------------------------------------------------------------------------------- a healthy server


def test_records_hold_what_was_asked_and_said(serve, samples, tmp_path):
    server = serve(lambda number, body: time.sleep(0.2))
    records = ask(server, samples, tmp_path / "r.jsonl")
    assert [record.reply for record in records] == ["1.0-2.0", "123", "1,1,1"] * 4
    assert all(record.said is not None and (record.tokens_in, record.tokens_out, record.error) == (7, 3, "") for record in records)
    assert [record.prompt for record in records] == [prompt_hash(clips_of(sample), sample.question) for sample in samples]
    assert read_records(tmp_path / "r.jsonl") != [] and server.requests == len(samples)
    assert 2 <= server.most <= 3, "as many requests at once as allowed, no more"


def test_the_request(samples):
    body = Endpoint("http://127.0.0.1:1/v1", "m", system="Be brief.", extra={"max_tokens": None, "max_completion_tokens": 9, "seed": 1}).body(clips_of(samples[0]), "When?", "Be brief.")
    assert {key: body[key] for key in body if key != "messages"} == {"model": "m", "temperature": 0, "max_completion_tokens": 9, "seed": 1}
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


def pictures_of(parts):
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def test_pictures_hold_the_frames_with_one_encoder(samples):
    "A perturbed frame must not be told by its compression: same format, tables and sampling for all."
    clip = clips_of(samples[0])[0]
    pictures = pictures_of(chat_content([clip], "?", min_image_pixels=0))
    assert len({(picture.format, str(picture.quantization), str(picture.layer)) for picture in pictures}) == 1
    for picture, frame in zip(pictures, clip.frames, strict=True):
        assert np.abs(np.asarray(picture).astype(int) - frame).mean() < 4
    exact = Image.open(io.BytesIO(base64.b64decode(encode_image(clip.frames[0], "png").partition(",")[2])))
    assert (np.asarray(exact) == clip.frames[0]).all()


def test_a_released_processor_leaves_pictures_as_they_are_sent(samples):
    processor = Qwen2VLImageProcessor(size=RELEASED, patch_size=16, merge_size=2, temporal_patch_size=2)
    for sample in samples:
        clips = clips_of(sample)
        parts = Endpoint("http://127.0.0.1:1/v1", "m", format="png").body(clips, "?")["messages"][-1]["content"]
        pictures, frames = pictures_of(parts), [frame for clip in clips for frame in resize_clip(clip, *image_size(clip.height, clip.width)).frames]
        assert all((np.asarray(picture) == frame).all() for picture, frame in zip(pictures, frames, strict=True)), "resized once, and lost nothing"
        grid = processor(images=pictures, return_tensors="pt")["image_grid_thw"]
        assert [(16 * rows, 16 * columns) for _, rows, columns in grid.tolist()] == [(picture.height, picture.width) for picture in pictures]


def test_sizes_of_pictures_are_stable_small_and_shaped_alike():
    "Over all sizes of the kit: what a server keeps, with the fewest tokens that any such size has, and never more than it would have made."
    sizes = {fit_size(height, width, pixels) for pixels in (256 * 256, 512 * 512) for height in range(40, 800, 50) for width in range(40, 800, 50)}
    most = math.log(9 / 8) + 1e-9
    for height, width in sizes:
        tall, wide = image_size(height, width)
        assert smart_resize(tall, wide, 32, RELEASED["shortest_edge"], RELEASED["longest_edge"]) == (tall, wide)
        stretch = abs(math.log(wide / tall * height / width))
        made = smart_resize(height, width, 32, RELEASED["shortest_edge"], RELEASED["longest_edge"])
        if height * width >= 65_536:
            assert (tall, wide) == (height, width) == made
            continue
        pairs = [(rows, columns) for rows in range(1, 80) for columns in range(1, 80) if rows * columns >= 64]
        near = [rows * columns for rows, columns in pairs if abs(math.log(columns / rows * height / width)) <= most]
        assert tall * wide == 32 * 32 * min(near) and stretch <= most
        if abs(math.log(made[1] / made[0] * height / width)) <= most:
            assert tall * wide <= made[0] * made[1]


def test_frames_go_as_they_are_where_they_should():
    clip = Clip(np.zeros((2, 50, 70, 3), np.uint8), np.arange(2.0))
    assert {picture.size for picture in pictures_of(chat_content([clip], "?", min_image_pixels=0))} == {(70, 50)}
    assert {picture.size for picture in pictures_of(Endpoint("http://a/v1", "m", min_image_pixels=0).body([clip], "?")["messages"][-1]["content"])} == {(70, 50)}
    with pytest.raises(ValueError, match="min_image_pixels=-1 cannot be"):
        Endpoint("http://a/v1", "m", min_image_pixels=-1)
    with pytest.raises(ValueError, match="min_image_pixels=-5 cannot be"):
        chat_content([clip], "?", min_image_pixels=-5)


def test_prompt_snapshots():
    "A changed prompt changes scores: change the snapshot only on purpose."
    clip = Clip(np.zeros((3, 32, 32, 3), np.uint8), np.array([1.25, 2.5, 3.75]))
    shown = {}
    for form in backends.FORMS:
        for name, clips in {"one clip": [clip], "two clips": [clip, clip]}.items():
            parts = chat_content(clips, "When?", form)
            shown[f"{form}, {name}"] = [part["text"] if part["type"] == "text" else f"[{part['type']}]" for part in parts]
    assert json.loads(SNAPSHOT.read_text(encoding="utf-8")) == shown


# ------------------------------------------------------------------------------------------------------ a sick server


def test_failures_of_the_moment_are_asked_again(serve, samples, tmp_path):
    kinds = [(500, {}, b"oops"), (503, {}, b""), (200, {}, b"<html>"), (200, {}, b'{"choices": []}'), (None, {}, b""), (200, {"Content-Length": "500"}, b"cut"), (408, {}, b"")]
    server = serve(lambda number, body: kinds[number - 1] if number <= len(kinds) else None)
    records = ask(server, samples, tmp_path / "r.jsonl", timeout=1.0)
    assert not [record.error for record in records if record.error]
    assert server.requests == len(samples) + len(kinds)


def test_a_stalled_request_is_given_up_and_asked_again(serve, samples, tmp_path):
    def act(number, body):
        if number == 1:
            time.sleep(1.5)
        elif number == 2:  # a byte now and then, forever
            return 200, {"Content-Length": "100000"}, [b" "] * 60

    server = serve(act)
    records = ask(server, samples, tmp_path / "r.jsonl", timeout=0.5)
    assert not [record.error for record in records if record.error]
    assert server.requests == len(samples) + 2


def test_rate_limit_makes_all_requests_wait(serve, samples, tmp_path):
    served = []

    def act(number, body):
        served.append(time.monotonic())
        if number == 1:
            return 429, {"Retry-After": "0.6"}, b"slow down"
        time.sleep(0.05)

    server = serve(act)
    records = ask(server, samples, tmp_path / "r.jsonl", concurrency=2)
    assert not [record.error for record in records if record.error] and server.requests == len(samples) + 1
    quiet = [moment - served[0] for moment in served[1:]]
    # one request may have been under way already
    assert sum(wait < 0.55 for wait in quiet) <= 2


def test_a_question_that_always_fails_is_a_record(serve, samples, tmp_path):
    "The server lives, so it is the question: score 0, reason kept, not asked again unless told."
    bad = fingerprint(Endpoint("http://127.0.0.1:1/v1", "m").body(clips_of(samples[4]), samples[4].question))
    server = serve(lambda number, body: (400, {}, b"too many pictures") if fingerprint(body) == bad else None)
    records = ask(server, samples, tmp_path / "r.jsonl")
    lost = [record for record in records if record.error]
    assert [(record.id, record.fault, record.smooth, record.parsed) for record in lost] == [(records[4].id, "server", 0.0, False)]
    assert "400: too many pictures" in lost[0].error and server.requests == len(samples), "status 400 is not sent again"
    assert ask(server, samples, tmp_path / "r.jsonl") == records and server.requests == len(samples)
    server.act = None
    again = evaluate(endpoint(server), samples, tmp_path / "r.jsonl", name="m", progress=False, retry_failed=True)
    assert not [record for record in again if record.error] and server.requests == len(samples) + 1
    assert len(read_records(tmp_path / "r.jsonl")) == len(samples)


def test_a_server_that_only_fails_is_given_up_without_records(serve, samples, tmp_path):
    server = serve(lambda number, body: (500, {}, b"broken") if number > 4 else None)
    with pytest.raises(BackendError, match="failed 3 questions in a row.*status 500: broken.*Run again"):
        ask(server, samples, tmp_path / "r.jsonl", retries=1, patience=3, concurrency=1)
    kept = read_records(tmp_path / "r.jsonl")
    assert len(kept) == 4 and not [record for record in kept if record.error]
    server.act = None
    assert not [record for record in ask(server, samples, tmp_path / "r.jsonl") if record.error]
    assert len(server.questions) == len(set(server.questions)) == len(samples), "answered once each"


@pytest.mark.parametrize("lives", [True, False])
def test_failures_at_the_end_are_whose(serve, samples, tmp_path, lives):
    "No answer comes after them that would tell, so the server is asked something plain."
    def act(number, body):
        if number > 9 and not (lives and len(body["messages"][-1]["content"]) == 1):
            return 500, {}, b"broken"

    server = serve(act)
    if lives:
        faults = [record.fault for record in ask(server, samples, tmp_path / "r.jsonl", retries=0, concurrency=1)]
        assert sorted(faults) == [""] * 9 + ["server"] * 3
    else:
        with pytest.raises(BackendError, match="failed the last 3 questions and then one without pictures: status 500"):
            ask(server, samples, tmp_path / "r.jsonl", retries=0, concurrency=1)
        assert len(read_records(tmp_path / "r.jsonl")) == 9
    assert server.requests == len(samples) + 1


def test_a_server_that_dies_half_way(serve, samples, tmp_path):
    "Stops with a reason; started again, it is asked the rest."
    server = serve()

    def act(number, body):
        if number == 6:
            server.close()
        if number >= 6:  # also on connections that are still open
            return None, {}, b""

    server.act = act
    with pytest.raises(BackendError, match="cannot be asked.*Connect.*run again"):
        ask(server, samples, tmp_path / "r.jsonl", retries=2, concurrency=2)
    kept = read_records(tmp_path / "r.jsonl")
    assert 0 < len(kept) < len(samples) and not [record for record in kept if record.error]
    second = serve(port=server.port)
    records = ask(second, samples, tmp_path / "r.jsonl")
    assert len(records) == len(read_records(tmp_path / "r.jsonl")) == len(samples)
    assert second.requests == len(samples) - len(kept), "nothing is asked twice"
    assert {record.id for record in records} >= {record.id for record in kept}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_stops_at_once(serve, samples, tmp_path, status):
    server = serve(lambda number, body: (status, {}, b"no"))
    with pytest.raises(BackendError, match=f"status {status}"):
        ask(server, samples, tmp_path / "r.jsonl", concurrency=1)
    assert server.requests <= 2 and not read_records(tmp_path / "r.jsonl")


def test_no_answer_without_end(serve, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "_LARGEST", 10_000)
    server = serve(lambda number, body: (200, {}, b" " * 50_000) if number == 1 else None)
    records = ask(server, samples[:2], tmp_path / "r.jsonl", concurrency=1)
    assert not [record.error for record in records if record.error] and server.requests == 3


# ------------------------------------------------------------------------------------------------------------ the key


def test_the_key_is_sent_and_never_shown(serve, samples, tmp_path, monkeypatch, capfd):
    "Not in records, errors, reprs or output, even where the server says it back."
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def act(number, body):
        if number == 1:
            return 200, {}, good(body, f"your key is {KEY}")
        if number == 2:
            return 400, {}, f"Incorrect API key provided: {KEY}".encode()

    server = serve(act)
    records = evaluate(endpoint(server, concurrency=1), samples, tmp_path / "r.jsonl", name="m")
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert "<OPENAI_API_KEY>" in records[0].reply and [record for record in records if "<OPENAI_API_KEY>" in record.error]
    server.act = lambda number, body: (401, {}, f"bad key {KEY}".encode())
    with pytest.raises(BackendError) as stopped:
        ask(server, samples, tmp_path / "other.jsonl")
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    seen = capfd.readouterr()
    for text in (written, str(stopped.value), repr(endpoint(server)), seen.out, seen.err, str(endpoint(server).body([], "?"))):
        assert KEY not in text


def test_the_key_does_not_follow_a_redirect(serve, samples, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    thief = serve()
    server = serve(lambda number, body: (307, {"Location": f"http://127.0.0.1:{thief.port}/v1/chat/completions"}, b""))
    with pytest.raises(BackendError, match="one without pictures: status 307"):
        ask(server, samples[:1], tmp_path / "r.jsonl")
    assert thief.requests == 0 and server.requests == 2


def test_another_variable_holds_the_key(serve, samples, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = serve()
    ask(server, samples[:1], tmp_path / "one.jsonl", key_env="MY_KEY")
    ask(server, samples[:1], tmp_path / "two.jsonl")
    assert server.keys == [f"Bearer {KEY}", None]


# ----------------------------------------------------------------------------------------------------- kill and resume

KILLED = """
import json, sys
from videossr.backends import Endpoint
from videossr.evaluate import evaluate
from videossr.tasks import Sample
samples = [Sample.from_json(line) for line in open(sys.argv[1], encoding="utf-8")]
evaluate(Endpoint(sys.argv[2], "m", concurrency=2, backoff=0.01), samples, sys.argv[3], name="m", progress=False)
"""


def test_kill_and_resume(serve, samples, tmp_path):
    "kill -9 while requests are under way: no record lost or doubled, no recorded question asked again."
    many = [replace(sample, question=f"{sample.question} ({number})") for number in range(5) for sample in samples]
    (tmp_path / "samples.jsonl").write_text("".join(sample.to_json() + "\n" for sample in many), encoding="utf-8")

    def act(number, body):
        time.sleep(0.02)

    server, path = serve(act), tmp_path / "r.jsonl"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "samples.jsonl"), f"http://127.0.0.1:{server.port}/v1", str(path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    kept = 0
    for enough in (7, 23):
        process = subprocess.Popen(command, env=env)
        while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < enough):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        lines = path.read_bytes()
        assert lines.count(b"\n") >= enough > kept
        kept = lines.count(b"\n")
        with path.open("ab") as file:  # as if the disk had been cut off in a line
            file.write(b'{"id": "half a rec')
        before = list(server.questions)
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    records = read_records(path)
    assert len(records) == len({record.id for record in records}) == len(many)
    assert len(server.questions) - len(before) <= len(many) - kept, "what has a record was not asked again"
    assert len(server.questions) <= len(many) + 2 * 2, "only what was under way at a kill was asked twice"


# ----------------------------------------------------------------------------------------------- a model in this process


def test_batched_or_one_by_one_the_same_answers(samples):
    torch.set_num_threads(1)
    for seed in range(2):
        policy = tiny_policy(seed)
        one, some, all_of_them = (dict(LocalBackend(policy, size, 10).answers(samples)) for size in (1, 5, 12))
        for number in range(len(samples)):
            assert one[number].text == some[number].text == all_of_them[number].text
            assert one[number].tokens_out == some[number].tokens_out
            assert one[number].tokens_in == all_of_them[number].tokens_in
    assert len({reply.tokens_in for reply in one.values()}) > 2, "the lengths differ, so that there was padding"


def test_batches_hold_each_prompt_once_and_keep_their_bounds():
    rng = np.random.default_rng(0)
    for _ in range(200):
        lengths = rng.integers(1, 1000, rng.integers(0, 40)).tolist()
        size, most = int(rng.integers(1, 9)), int(rng.integers(1, 4000))
        batches = plan_batches(lengths, size, most)
        assert sorted(sum(batches, [])) == list(range(len(lengths)))
        assert all(len(batch) <= size and (len(batch) == 1 or max(lengths[k] for k in batch) * len(batch) <= most) for batch in batches)


def test_a_batch_that_does_not_fit_is_halved(samples, monkeypatch):
    sizes, whole = [], LocalBackend._generate

    def generate(self, prompts):
        sizes.append(len(prompts))
        if len(prompts) > 3:
            raise torch.OutOfMemoryError("not enough memory")
        return whole(self, prompts)

    policy = tiny_policy(0)
    plain = dict(LocalBackend(policy, 12, 8).answers(samples))
    monkeypatch.setattr(LocalBackend, "_generate", generate)
    halved = dict(LocalBackend(policy, 12, 8).answers(samples))
    assert sizes == [12, 6, 3, 3, 6, 3, 3]
    assert {number: reply.text for number, reply in halved.items()} == {number: reply.text for number, reply in plain.items()}


def test_a_window_bounds_the_pixels_in_memory(samples):
    "With room for one prompt only, each is answered before the next is encoded."
    policy, order = tiny_policy(0), []
    for number, _ in LocalBackend(policy, 4, 4, window_bytes=1).answers(samples[:4]):
        order.append(number)
    assert order == [0, 1, 2, 3]


def test_each_clip_is_decoded_once(samples, tmp_path, monkeypatch):
    "However the questions are mixed: those on one clip are asked together."
    reads, read = [], core.read_clip
    monkeypatch.setattr(core, "CLIP_CACHE", core.ClipCache(max_bytes=1))
    monkeypatch.setattr(core, "read_clip", lambda path, **reading: reads.append((path, str(reading))) or read(path, **reading))
    mixed = [samples[number] for number in np.random.default_rng(0).permutation(len(samples))]
    evaluate(LocalBackend(tiny_policy(0), 4, 4), mixed, tmp_path / "r.jsonl", name="m", progress=False)
    assert len(reads) == len(set(reads)) < len(samples)


def test_a_bad_video_fails_alone(samples, tmp_path):
    gone = replace(samples[0], video=str(tmp_path / "gone.mp4"))
    records = evaluate(LocalBackend(tiny_policy(0), 4, 4), [samples[1], gone, samples[2]], tmp_path / "r.jsonl", name="m", progress=False)
    assert [record.fault for record in records] == ["", "video", ""] and "gone.mp4" in records[1].error


def test_frames_on_disk(tmp_path):
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((100, 130, 3), 40 * number, np.uint8)).save(paths[-1])
    recipe = {"frames": [list(map(str, paths))], "fps": [2.0]}
    (clip,) = clips_of(Sample("grounding", "mirror", "v", {**recipe, "read": {"max_pixels": 64 * 96}}, "?", "0.5-1.0"))
    assert clip.frames.shape[0] == 3 and clip.height * clip.width <= 64 * 96 and clip.height % 32 == clip.width % 32 == 0
    assert clip.times.tolist() == [0.0, 0.5, 1.0] and [int(frame[0, 0, 0]) for frame in clip.frames] == [0, 40, 80]
    sample = Sample("grounding", "mirror", "v", recipe, "?", "0.5-1.0")
    assert clips_of(sample)[0].n_frames == 3
    paths[1].write_bytes(b"no picture")
    with pytest.raises(VideoError, match=r"1\.png: cannot be read as a picture"):
        clips_of(sample)


@pytest.mark.parametrize("span", [None, (0.9, 3.3)])
@pytest.mark.parametrize("frames", [3, 4, 8, 31, 32, 64])
def test_views_have_an_even_number_of_frames(tmp_path, frames, span):
    "Also of a video that holds some frames for long, where several of the moments meet in one frame."
    path, rng = tmp_path / "uneven.mp4", np.random.default_rng(frames)
    shown = np.cumsum([0, *rng.choice([20, 40, 160, 900], 30)])  # ms
    with av.open(str(path), "w") as box:
        stream = box.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, start in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * number, np.uint8), "rgb24")
            frame.pts, frame.time_base = int(start), Fraction(1, 1000)
            box.mux(stream.encode(frame))
        box.mux(stream.encode())
    info = probe(path)
    for fps in (None, 2.0):
        budget = Budget(frames, fps, 64 * 64, 0.0)
        clip, times = read_view(path, budget, span), view_times(info.duration, info.fps, budget, span)
        seen = np.unique(np.searchsorted(shown / 1000, times + 1e-3, side="right"))
        assert len(times) % 2 == 0 and len(clip) == len(seen) - len(seen) % 2, "as many frames as differ, or one less"
        first_and_last = shown[np.searchsorted(shown / 1000, times[[0, -1]] + 1e-3, side="right") - 1] / 1000
        assert clip.times[[0, -1]] == pytest.approx(first_and_last, abs=2e-3)


def test_views_of_folders_have_an_even_number_of_frames(tmp_path):
    for number in range(33):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(tmp_path / f"{number:02}.png")
    rng = np.random.default_rng(0)
    for _ in range(60):
        start, end = sorted(rng.uniform(0, 11, 2))
        if end - start > 1:
            clip = read_view(tmp_path, Budget(int(rng.integers(2, 40)), [None, 2.0][rng.integers(2)], 64 * 64, 0.0), (start, end))
            assert len(clip) % 2 == 0


def test_budget():
    assert [Budget(frames, 2.0, trim=0.0).reading(20.0)["n_frames"] for frames in (32, 48, 64)] == [32, 40, 40]
    assert Budget(64).reading(1.0) == {"n_frames": 64, "trim": 0.05, "max_pixels": 512 * 512}


# ------------------------------------------------------------------------------------------------ transformers serve


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Serving:
    "`transformers serve` with a saved policy, in a process of its own."

    def __init__(self, folder, port):
        script = "from transformers.cli.transformers import main; main()"
        command = [sys.executable, "-c", script, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        self.log = (folder / "serve.log").open("a")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        end = time.monotonic() + 180
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.2)
        self.close()
        raise RuntimeError((folder / "serve.log").read_text()[-3000:])

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


def through_transformers(policy, clips, question, max_new_tokens):
    "The same conversation, without any server."
    parts = []
    for part in chat_content(clips, question, format="png"):
        if part["type"] == "text":
            parts.append(part)
        else:
            parts.append({"type": "image", "image": Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition(",")[2])))})
    inputs = policy.processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    tokens = policy.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)[0, inputs["input_ids"].shape[1] :]
    return policy.tokenizer.decode(tokens, skip_special_tokens=True), inputs["input_ids"].shape[1]


@pytest.mark.skipif(not all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "openai")), reason="pip install 'transformers[serving]'")
def test_transformers_serve(samples, tmp_path):
    "A server that others maintain, killed half-way and started again: the answers are those of the model behind it."
    policy, port, few = tiny_policy(3), free_port(), samples[:6]
    folder = policy.save(tmp_path / "policy")
    backend = Endpoint(f"http://127.0.0.1:{port}/v1", str(folder), format="png", concurrency=2, max_new_tokens=8, retries=1, backoff=0.1)
    first, answered = Serving(folder, port), []
    try:
        for number, reply in backend.answers(few):
            answered.append(number)
            if len(answered) == 2:
                break
        records = evaluate(backend, few[:3], tmp_path / "r.jsonl", name="m", progress=False)
    finally:
        first.close()
    with pytest.raises(BackendError, match="cannot be asked"):
        evaluate(backend, few, tmp_path / "r.jsonl", name="m", progress=False)
    assert len(read_records(tmp_path / "r.jsonl")) == 3
    second = Serving(folder, port)
    try:
        records = evaluate(backend, few, tmp_path / "r.jsonl", name="m", progress=False)
    finally:
        second.close()
    for sample, record in zip(few, records, strict=True):
        text, tokens = through_transformers(policy, clips_of(sample), sample.question, 8)
        assert (record.error, record.tokens_in) == ("", tokens)
        assert re.sub(r"\s", "", record.reply) == re.sub(r"\s", "", text)
