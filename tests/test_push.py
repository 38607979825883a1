"Datasets and policies pushed by the real client to a server on loopback that speaks the Hub's protocol: what arrives, what is refused, and that then nothing was sent."
import base64
import json
import re
import shutil
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from hypothesis import given
from hypothesis import strategies as st

from videossr import push, runs
from videossr.data import build_dataset, load_samples
from videossr.demo import demo_videos
from videossr.evaluate import results, write_results
from videossr.policy import load_policy, tiny_policy
from videossr.records import Record

TOKEN = "hf_" + "x" * 20


class Hub(BaseHTTPRequestHandler):
    "The few calls of the Hub that a push makes; the state is the server's."

    def answer(self, status, values, **headers):
        body = json.dumps(values).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"warnings": [], "errors": []})
        kind, repo, action = re.match(r"/api/(model|dataset)s/([^/]+/[^/?]+)/?(\w*)", self.path).groups()
        if self.command == "GET":
            return self.answer(200, {"id": repo, "private": self.server.repos[kind, repo], "siblings": []})
        if action == "preupload":
            return self.answer(200, {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]})
        assert action == "commit", self.path
        lines = [json.loads(line) for line in body.splitlines()]
        self.server.files[kind, repo] = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
        return self.answer(200, {"commitUrl": f"http://{self.headers['Host']}/{repo}/commit/1", "commitOid": "1" * 40})

    do_GET = do_POST = handle_any

    def create(self, asked):
        key = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
        url = f"http://{self.headers['Host']}/{'datasets/' * (key[0] == 'dataset')}{key[1]}"
        if key in self.server.repos:
            return self.answer(409, {"error": "You already created this repo", "url": url})
        self.server.repos[key] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return self.answer(200, {"url": url})

    def log_message(self, *_):
        "Nothing for the terminal."


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests, server.repos, server.files = [], {}, {}
    server.api = HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token=TOKEN)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    demo_videos(6, folder=folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def built(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "data"
    build_dataset(films, folder, "demo", 8, held_out=0.3, n_validation=3, workers=1, progress=False)
    return folder


@pytest.fixture
def dataset(built, tmp_path):
    "A small dataset of its own for each test."
    return Path(shutil.copytree(built, tmp_path / "data"))


def record(number, name, score, task="grounding"):
    return Record(f"{number:016x}", name, task, "mirror", f"{number % 20}.mp4", "1", "1", True, score, score, "paper", 0.0)


def finished_run(folder, policy, task="grounding", **settings):
    "A run's folder as a run leaves it, without the training."
    settings = runs.train_settings(**settings)
    run = runs.Run.create(folder, settings, seed=3)
    runs.release_run(folder)
    runs.note_policy(run, policy, settings)
    policy.save(run.path("checkpoints", "final"))
    before, after = ([record(number, name, score, task) for number in range(60)] for name, score in (("before", 0.25), ("after", 0.75)))
    write_results(results(before, after, {task: 0.4375}, seconds=90.0), run.path("results.json"))
    return run


def parts(card):
    "Front matter and text."
    head, _, text = card.removeprefix("---\n").partition("\n---\n")
    return yaml.safe_load(head), text


# ------------------------------------------------------------------------------------------------------------ datasets


def test_a_dataset_arrives(hub, dataset, films, tmp_path):
    (dataset / "notes.txt").write_text("mine")
    with pytest.warns(UserWarning, match="not pushed.*notes.txt"):
        url = push.push_dataset(dataset, "me/evenings", api=hub.api)
    assert url == f"{hub.api.endpoint}/datasets/me/evenings" and hub.repos == {("dataset", "me/evenings"): True}
    files = hub.files["dataset", "me/evenings"]
    assert {"README.md", "config.json", "summary.json", "videos.parquet", "refusals.csv", "samples/train-00000.parquet"} <= set(files)
    assert not [name for name in files if name.endswith((".mp4", ".txt")) or name.startswith("build")]
    assert files["README.md"] == (dataset / "README.md").read_bytes()
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content or TOKEN.encode() in content]
    for name, content in files.items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(content)
    theirs = load_samples(tmp_path / "copy", video_dir=films)
    assert [one.to_json() for one in theirs] == [one.to_json() for one in load_samples(dataset)]


def drop(name):
    return lambda folder: (folder / name).unlink()


def strange_config(folder):
    (folder / "config.json").write_text('{"model": "tiny", "mix": "demo"}')


def absolute_row(folder):
    place = folder / "samples" / "train-00000.parquet"
    table = pq.read_table(place)
    videos = table["video"].to_pylist()
    videos[2] = "/films/evening.mp4"
    pq.write_table(table.set_column(table.column_names.index("video"), "video", [videos]), place)


def home_in_the_card(folder):
    with (folder / "README.md").open("a") as file:
        file.write(f"\nThe films are in {folder.resolve()}.\n")


@pytest.mark.parametrize(
    "fault, told",
    [
        (drop("config.json"), "is no dataset: it has no config.json"),
        (strange_config, "is no dataset: its config.json is of something else"),
        (drop("samples/train-00000.parquet"), "is not finished: 1 shards"),
        (drop("summary.json"), "has no summary.json: run build_dataset again"),
        (drop("README.md"), "has no README.md.*write_card"),
        (absolute_row, r"train-00000.parquet, row 2: video '/films/evening.mp4' is a path of this machine"),
        (home_in_the_card, "README.md names .*, a folder of this machine; nothing was sent"),
    ],
)
def test_a_wrong_dataset_is_refused_before_anything_is_sent(hub, dataset, fault, told):
    fault(dataset)
    with pytest.raises(ValueError, match=told):
        push.push_dataset(dataset, "me/evenings", api=hub.api)
    assert hub.requests == []


# ------------------------------------------------------------------------------------------------------------ policies


def test_a_policy_arrives_with_the_card_of_its_run(hub, tmp_path):
    run = finished_run(tmp_path / "run", tiny_policy(1), steps=7, warm_steps=0, learning_rate=1e-4)
    policy = load_policy(run.path("checkpoints", "final"))
    policy.push("me/looks", datasets=["me/evenings"], api=hub.api)
    files = hub.files["model", "me/looks"]
    head, text = parts(files["README.md"].decode())
    assert head["library_name"] == "transformers" and head["datasets"] == ["me/evenings"] and "qwen3-vl" in head["tags"]
    assert "base_model" not in head, "a toy is nobody's model"
    line = next(line for line in text.splitlines() if line.startswith("| **grounding** |"))
    found = run.read_json("results.json")["tasks"]["grounding"]
    assert {f"{found['blind']:.3f}"} < {*line.split(" | ")} and f"{found['after']['mean']:.3f} [{found['after']['low']:.3f}, {found['after']['high']:.3f}]" in line
    assert "| steps | 7 |" in text and r"| warm\_steps | 0 |" in text and "| seed | 3 |" in text and "No better than a floor" not in text
    assert "transformers 5" in text
    for name, content in files.items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(content)
    for name, value in load_policy(tmp_path / "copy").model.state_dict().items():
        assert torch.equal(value, policy.model.state_dict()[name]), name


def test_a_policy_without_a_run_says_so(hub):
    tiny_policy(0).push("me/tiny", api=hub.api)
    _, text = parts(hub.files["model", "me/tiny"]["README.md"].decode())
    assert "Not known" in text and "[0." not in text


def test_a_card_is_not_lent_to_other_weights(hub, tmp_path):
    run = finished_run(tmp_path / "run", tiny_policy(1))
    policy = load_policy(run.path("checkpoints", "final"))
    with torch.no_grad():
        next(policy.model.parameters())[0] += 1
    with pytest.raises(ValueError, match="1 tensors of this policy are not those"):
        policy.push("me/looks", run=run.folder, api=hub.api)
    assert hub.requests == []
    with pytest.warns(UserWarning, match="the card says that its run is not known"):
        policy.push("me/looks", api=hub.api)
    assert b"Not known" in hub.files["model", "me/looks"]["README.md"]


@pytest.mark.parametrize("missing, told", [("results.json", "is no finished run: it has no results.json"), ("config.json", "is no finished run: it has no config.json")])
def test_an_unfinished_run_is_refused(hub, tmp_path, missing, told):
    run = finished_run(tmp_path / "run", tiny_policy(1))
    run.path(missing).unlink()
    with pytest.raises(ValueError, match=told):
        load_policy(run.path("checkpoints", "final")).push("me/looks", run=run.folder, api=hub.api)
    assert hub.requests == []


def test_a_score_at_its_floor_is_named(tmp_path):
    run = finished_run(tmp_path / "run", tiny_policy(1))
    found = run.read_json("results.json")
    found["tasks"]["grounding"]["blind"] = found["tasks"]["grounding"]["after"]["low"]
    write_results(found, run.path("results.json"))
    assert "**No better than a floor**, as far as the intervals tell: grounding" in push.model_card("me/looks", run.folder)


def test_a_card_is_plain_whatever_stands_in_the_run(tmp_path):
    evil = "gro|und](https://evil.example) <img src=x> $1$ `a`"
    run = finished_run(tmp_path / "run", tiny_policy(1), task=evil)
    config = run.read_json("config.json") | {"model": str(tmp_path), "mix": str(tmp_path / "mix.csv"), "reward": "m:f*0.5, m:g_h", "options": {"logging_dir": str(tmp_path)}}
    run.write_json("config.json", config)
    head, text = parts(push.model_card("me/looks", run.folder))
    assert "base_model" not in head and str(tmp_path) not in text
    assert not re.search(r"(?<!\\)(\]\(https://evil|<img|\$1|`a)", text)
    rows = [line for line in text.splitlines() if "evil" in line and line.startswith("|")]
    assert rows and {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {len(re.findall(r"(?<!\\)\|", next(line for line in text.splitlines() if "blind floor |" in line)))}
    assert not [row for row in rows if r"\\" in row], "escaped twice"
    assert r"m:f\*0.5, m:g\_h" in text, "the reward that it was trained with"
    run.write_json("config.json", config | {"model": "Qwen/Qwen3-VL-2B-Instruct", "data": f"{tmp_path}/mine.jsonl, me/rows"})
    text = push.model_card("me/looks", run.folder)
    assert "trained with GRPO on rows of a file, me/rows" in text and str(tmp_path) not in text
    assert parts(push.model_card("me/looks", run.folder))[0]["base_model"] == "Qwen/Qwen3-VL-2B-Instruct"


@given(st.text())
def test_plain_text_loses_nothing_but_blanks(text):
    plain = push.plain_text(text)
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", plain) == " ".join(text.split())
    assert not re.search(r"[`*_\[\]<>|~#$&!]", re.sub(r"\\.", "", plain))


# ---------------------------------------------------------------------------------------------------------- the way there


def test_what_everyone_can_read_is_not_pushed_to_by_accident(hub):
    hub.repos["model", "me/open"] = False
    with pytest.raises(ValueError, match="me/open is there already and everyone can read it; nothing was sent"):
        tiny_policy(0).push("me/open", api=hub.api)
    assert hub.files == {}
    tiny_policy(0).push("me/open", private=False, api=hub.api)
    assert "model.safetensors" in hub.files["model", "me/open"]


def test_a_public_repository_has_to_be_asked_for(hub):
    tiny_policy(0).push("me/public", private=False, api=hub.api)
    assert hub.repos["model", "me/public"] is False
    hub.repos["model", "me/closed"] = True
    with pytest.warns(UserWarning, match="me/closed is private and stays so"):
        tiny_policy(0).push("me/closed", private=False, api=hub.api)


def test_a_wrong_token_is_the_hub_s_error(hub):
    with pytest.raises(HfHubHTTPError, match="401"):
        tiny_policy(0).push("me/x", api=HfApi(endpoint=hub.api.endpoint, token="hf_" + "y" * 20))
    assert hub.files == {} and hub.repos == {}


def test_a_name_that_is_none_is_refused(hub):
    with pytest.raises(ValueError, match="me/a/b"):
        tiny_policy(0).push("me/a/b", api=hub.api)
    assert hub.requests == []


def test_offline_and_without_a_token(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        tiny_policy(0).push("me/x")
    with pytest.raises(OfflineModeIsEnabled, match="HF_HUB_OFFLINE"), warnings.catch_warnings():
        tiny_policy(0).push("me/x", api=HfApi(endpoint="http://127.0.0.1:9", token=TOKEN))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(push, "get_token", lambda: None)
    with pytest.raises(PermissionError, match="hf auth login"):
        tiny_policy(0).push("me/x")


def test_importing_connects_to_nothing():
    code = (
        "import socket\n"
        "def no(*_, **__): raise AssertionError('a connection')\n"
        "socket.socket.connect = socket.getaddrinfo = no\n"
        "import videossr.push"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
