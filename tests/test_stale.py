"Answers that are shown under a name which meanwhile belongs to something else: other weights, settings, servers; and what is lost on the way."
import json
import os
import threading
import warnings
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from videossr.backends import BackendError, Endpoint, LocalBackend, policy_print, weights_print
from videossr.benchmarks import evaluate_benchmarks, make_example
from videossr.columns import ask_columns
from videossr.evaluate import aside_of, asked_again, claim_name, evaluate, read_runs, record_files, set_aside
from videossr.folders import file_name
from videossr.policy import load_policy, tiny_policy
from videossr.records import Journal, count_ends, ends_note, read_records, write_records
from videossr.tasks import Sample


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    paths = [str(folder / f"{number}.png") for number in range(4)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((32, 32, 3), 60 * number, np.uint8)).save(path)
    return [Sample("grounding", "mirror", f"v{number}", {"frames": [paths], "fps": [2.0]}, f"When? {number}", "1.0-2.0", index=number) for number in range(4)]


class Asked(LocalBackend):
    "A policy that counts what it is asked."
    n = 0

    def answers(self, samples):
        self.n += len(samples)
        yield from super().answers(samples)


def ask(backend, samples, path, name="m", **options):
    "Records, and how many warnings said that something was set aside."
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        records = evaluate(backend, samples, path, name=name, progress=False, **options)
    return records, [str(one.message) for one in told if "set aside" in str(one.message)]


def bare(records):
    return [(record.id, record.reply, record.made) for record in records]


# ------------------------------------------------------------------------------------------------------ in this process


def test_makings_that_alternate_never_get_each_other_s_answers(samples, tmp_path):
    "Any order of two policies and two limits, on growing parts of the questions: each gets what it says alone, is asked nothing twice, and nothing is lost."
    policies, path, rng = [tiny_policy(seed) for seed in (3, 8)], tmp_path / "r.jsonl", np.random.default_rng(5)
    alone = {key: bare(ask(Asked(policies[key[0]], 4, key[1]), samples, tmp_path / f"{key}.jsonl")[0]) for key in [(one, limit) for one in (0, 1) for limit in (3, 5)]}
    assert len({json.dumps(records) for records in alone.values()}) == 4
    known = Counter()
    for key in [tuple(pair) for pair in zip(rng.integers(0, 2, 12).tolist(), rng.choice([3, 5], 12).tolist(), strict=True)]:
        count = int(rng.integers(1, len(samples) + 1))
        backend = Asked(policies[key[0]], 4, key[1])
        records, _ = ask(backend, samples[:count], path)
        assert bare(records) == alone[key][:count] and backend.n == max(0, count - known[key])
        known[key] = max(known[key], count)
        (made,) = {json.dumps(row.made) for row in read_records(path)}
        assert json.loads(made) == records[0].made and bare(read_runs([path])["m"]) == bare(read_records(path))
        everywhere = {(row.id, json.dumps(row.made)) for place in (path, aside_of(path)) if place.exists() for row in read_records(place)}
        assert len(everywhere) == known.total()


def test_weights_trained_anew_in_their_folder(samples, tmp_path):
    "Same path, same size, same date: one number of the weights is another."
    folder = tiny_policy(0).save(tmp_path / "final")
    (file,) = folder.glob("*.safetensors")
    before, about = ask(Asked(load_policy(folder)), samples, tmp_path / "r.jsonl")[0], file.stat()
    again = Asked(load_policy(folder))
    assert bare(ask(again, samples, tmp_path / "r.jsonl")[0]) == bare(before) and not again.n
    other = load_policy(folder)
    with torch.no_grad():
        list(other.model.parameters())[-1].view(-1)[0] += 0.5
    other.save(folder)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert file.stat().st_size == about.st_size
    anew = Asked(load_policy(folder))
    records, told = ask(anew, samples, tmp_path / "r.jsonl")
    assert anew.n == len(samples) and len(told) == 1 and "4 answers of 'm' were made otherwise (4: model)" in told[0]
    assert [row.made["config"] for row in records] == [row.made["config"] for row in before]


@pytest.mark.parametrize("part", range(0, 40, 8))
def test_one_bit_of_any_weight_counts(part):
    policy = tiny_policy(2)
    weights = list(policy.model.state_dict().values())
    weight, before = weights[part % len(weights)].view(-1), weights_print(policy.model)
    place = (part * 7919) % len(weight)
    kept = weight[place].clone()
    weight[place] = torch.nextafter(kept, torch.tensor(9.0))
    assert weights_print(policy.model) != before
    weight[place] = kept
    assert weights_print(policy.model) == before != weights_print(tiny_policy(2).model.to(torch.bfloat16))


def test_what_else_a_reply_depends_on(tmp_path):
    "Config, tokenizer, template, picture sizes and the form of markers; not the place it was loaded from, and not what a call leaves behind."
    policy = tiny_policy(0)
    same = policy_print(policy)
    policy.tokenizer(["a", "long one"], padding=True, truncation=True, max_length=9)
    assert policy_print(policy) == same == policy_print(load_policy(policy.save(tmp_path / "elsewhere")))
    changed = [tiny_policy(0) for _ in range(5)]
    changed[0].model.config.text_config.rms_norm_eps = 1e-5
    changed[1].tokenizer.add_tokens(["<new>"])
    changed[2].processor.chat_template += " "
    changed[3].processor.video_processor.patch_size = 14
    changed[4] = replace(changed[4], allowed_tokens=("<|box_start|>",))
    prints = [policy_print(one) if number != 3 else {**same, "config": _config_alone(one)} for number, one in enumerate(changed)]
    assert all(one["model"] == same["model"] and one["config"] != same["config"] for one in prints) and len({one["config"] for one in prints}) == 5


def _config_alone(policy):
    "The part of `policy_print` that needs no prompt: this policy's patches do not fit its model."
    from videossr import backends

    real = backends.encode
    backends.encode = lambda *_, **__: type("P", (), {"input_ids": torch.zeros(1)})
    try:
        return policy_print(policy)["config"]
    finally:
        backends.encode = real


def test_functions_are_told_apart(samples, tmp_path):
    "Two functions of one name, and one with other arguments."
    from functools import partial

    def says(policy, batch, *, word="1.0-2.0", **_):
        return [[word]] * len(batch)

    for answer, reply in ((lambda policy, batch, **_: [["1.0-1.5"]] * len(batch), "1.0-1.5"), (lambda policy, batch, **_: [["1.0-1.7"]] * len(batch), "1.0-1.7"), (says, "1.0-2.0"), (partial(says, word="?"), "?"), (partial(says, word="!"), "!")):
        assert {record.reply for record in ask(None, samples, tmp_path / "r.jsonl", answer=answer)[0]} == {reply}
    assert len(read_records(aside_of(tmp_path / "r.jsonl"))) == 4 * len(samples)


# ----------------------------------------------------------------------------------------------- old files, and mid-way


def test_records_that_do_not_say_what_made_them(samples, tmp_path):
    "Never shown beside a model; read alone, with a word; and kept."
    path, backend = tmp_path / "r.jsonl", Asked(tiny_policy(0))
    old = [replace(record, made=None, reply="old") for record in ask(backend, samples, tmp_path / "x.jsonl")[0]]
    write_records(old, path)
    assert "made" not in path.read_text()
    with pytest.warns(UserWarning, match="nobody can tell which model"):
        assert read_runs([path])["m"] == old
    backend.n = 0
    records, told = ask(backend, samples[:3], path)
    assert backend.n == 3 and "what made them is not told" in told[0] and not {"old"} & {record.reply for record in read_records(path)}
    assert sorted(record.id for record in read_records(aside_of(path))) == sorted(record.id for record in old)
    write_records([*records, old[3]], path)
    with pytest.raises(ValueError, match="not of one making .what made them is not told"):
        read_runs([path])
    assert asked_again(path)[0]["model"] == "not told"


def test_other_names_in_the_file_stay(samples, tmp_path):
    path = tmp_path / "r.jsonl"
    before = ask(Asked(tiny_policy(0)), samples, path, name="before")[0]
    ask(Asked(tiny_policy(0)), samples, path, name="after")
    ask(Asked(tiny_policy(1)), samples, path, name="after")
    assert bare(row for row in read_records(path) if row.name == "before") == bare(before) and len(read_records(path)) == 8


def test_a_kill_while_answers_are_set_aside(samples, tmp_path, monkeypatch):
    "They are written there before they are taken out here: whenever it stops, none is lost, and the next run is as ever."
    path = tmp_path / "r.jsonl"
    first = ask(Asked(tiny_policy(0)), samples, path)[0]
    real = Journal.rewrite

    def killed(self, records):
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "rewrite", killed)
    with pytest.raises(KeyboardInterrupt):
        ask(Asked(tiny_policy(1)), samples, path)
    assert bare(read_records(path)) == bare(read_records(aside_of(path))) == bare(first)
    monkeypatch.setattr(Journal, "rewrite", real)
    second = Asked(tiny_policy(1))
    assert ask(second, samples, path)[0][0].made == second.made() and second.n == len(samples) == len(read_records(path)) == len(read_records(aside_of(path)))
    back = Asked(tiny_policy(0))
    assert bare(ask(back, samples, path)[0]) == bare(first) and not back.n


def test_a_fresh_start_and_a_folder_s_files(samples, tmp_path):
    "`set_aside` without questions looks at the name alone, in a file that need not be there."
    path, backend = tmp_path / "r.jsonl", Asked(tiny_policy(0))
    assert not set_aside(path, "m", backend.made()) and not path.exists()
    ask(backend, samples, path)
    assert not set_aside(path, "m", backend.made()) and not set_aside(path, "other", {"model": "b"})
    with pytest.warns(UserWarning, match="4 answers of 'm' were made otherwise .4: config; max_new_tokens 32, now None; model ?"):
        assert set_aside(path, "m", {"model": "fedcba9876543210"}).total() == 4
    assert not read_records(path)


# -------------------------------------------------------------------------------------------------------------- columns

COLUMNS = ("full", "one_frame", "text_only")


def ask_all(backend, samples, folder, columns=COLUMNS):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ask_columns(backend, samples, folder / "records" / "m.jsonl", columns, name="m", progress=False)


def test_a_column_s_answers_are_never_another_s(samples, tmp_path):
    "Each column is what the policy says to what it is shown, in any order of asking, also when its records lie in the wrong place."
    backend = Asked(tiny_policy(3), 4, 4)
    asked = ask_all(backend, samples, tmp_path)
    assert backend.n == 3 * len(samples) and len({record.id for records in asked.values() for record in records}) == 3 * len(samples)
    assert [{record.shown for record in records} for records in asked.values()] == [{""}, {"one_frame"}, {"text_only"}]
    assert all(len({record.prompt for record in trio}) == 3 and trio[0].tokens_in > trio[1].tokens_in > trio[2].tokens_in for trio in zip(*asked.values(), strict=True))
    again = Asked(tiny_policy(3), 4, 4)
    assert ask_all(again, samples, tmp_path, COLUMNS[::2]) == {column: asked[column] for column in COLUMNS[::2]} and not again.n
    wrong = tmp_path / "wrong" / "records"
    for place in ("m.jsonl", "one_frame/m.jsonl"):  # the answers to the words alone, where those to videos should be
        write_records(asked["text_only"], wrong / place)
    assert {column: bare(records) for column, records in ask_all(again, samples, tmp_path / "wrong").items()} == {column: bare(records) for column, records in asked.items()}
    assert list(read_runs([tmp_path / "records" / "text_only" / "m.jsonl"])) == ["m text_only"]


def test_columns_go_on_where_they_were_stopped(samples, tmp_path):
    class Dying(Asked):
        def answers(self, asked):
            for number, reply in super().answers(asked):
                if asked[number].recipe.get("shown") == "one_frame" and asked[number].index == 2:
                    raise MemoryError
                yield number, reply

    with pytest.raises(MemoryError):
        ask_all(Dying(tiny_policy(3), 1, 4), samples, tmp_path)
    kept = sum(len(read_records(path)) for path in record_files(tmp_path))
    backend = Asked(tiny_policy(3), 1, 4)
    asked = ask_all(backend, samples, tmp_path)
    assert 4 <= kept < 8 and backend.n == 12 - kept and asked == ask_all(backend, samples, tmp_path)


def test_a_model_trained_anew_loses_all_its_columns(samples, tmp_path):
    "Also those that are not asked this time."
    ask_all(Asked(tiny_policy(0)), samples, tmp_path)
    other = Asked(tiny_policy(1))
    with pytest.warns(UserWarning, match="set aside"):
        claim_name(tmp_path, "m", other, {})
    assert not [record for path in record_files(tmp_path) for record in read_records(path)]
    ask_all(other, samples, tmp_path, ("full",))
    first = Asked(tiny_policy(0))
    ask_all(first, samples, tmp_path)
    assert not first.n, "all of them come back"


def test_a_video_that_is_replaced_is_asked_about_again(tmp_path):
    "Same name, same date, other bytes; and one that was missing."
    place, backend = make_example("charades_sta", tmp_path / "data" / "charades_sta"), Asked(tiny_policy(0), 4, 4)
    dials = {"data_dir": tmp_path / "data", "folder": tmp_path / "run", "name": "m", "frames": (4,), "max_pixels": 64 * 64, "progress": False, "columns": COLUMNS}

    def asked():
        "Items about each video, how many were asked with it, and how many without."
        before, backend.n = backend.n, 0
        found = evaluate_benchmarks(backend, "charades_sta", **dials)["charades_sta"]["frames"]["4"]
        return found["items"], backend.n, found["faults"]

    videos = sorted(path for path in place.rglob("*.mp4"))
    gone = videos[0].rename(tmp_path / "gone.mp4")
    items, n, faults = asked()
    missing = sum(faults.values())
    assert missing and n == 3 * items, "a missing video is a question, too"
    assert asked() == (items, 0, faults)
    gone.rename(videos[0])
    assert asked() == (items, 2 * missing, {}), "full and one frame; the words are what they were"
    about, one = videos[0].stat(), videos[0].read_bytes()
    videos[0].write_bytes(videos[1].read_bytes())
    os.utime(videos[0], ns=(about.st_atime_ns, about.st_mtime_ns))
    assert one != videos[0].read_bytes() and asked() == (items, 2 * missing, {})
    videos[0].write_bytes(one)
    assert asked() == (items, 0, {}), "what was answered about it is still there"


# -------------------------------------------------------------------------------------------------------------- servers


class Server:
    "Answers with what it is told to, and lists one model as it is told to; counts questions."

    def __init__(self):
        self.listed, self.status, self.choice, self.bodies = {}, 200, {"message": {"content": "1.0-2.0"}, "finish_reason": "stop"}, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(outer.status, {"data": [{"id": "q/m", **outer.listed}]})

            def do_POST(self):
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.answer(200, {"choices": [outer.choice]})

            def answer(self, status, value):
                payload = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def endpoint(self, **dials):
        return Endpoint(f"http://127.0.0.1:{self.http.server_port}/v1", "q/m", **{"backoff": 0.01, "retries": 1, "timeout": 5.0, **dials})


@pytest.fixture
def server():
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


CHANGES = [{"max_new_tokens": 7}, {"form": "video"}, {"format": "png"}, {"min_image_pixels": 0}, {"system": "Be brief."}, {"temperature": None}, {"temperature": 0.5}, {"limit_field": "max_completion_tokens"}, {"extra": {"seed": 1}}]


@pytest.mark.parametrize("dials", CHANGES, ids=str)
def test_another_request_is_another_making(server, samples, tmp_path, dials):
    ask(server.endpoint(), samples[:1], tmp_path / "r.jsonl")
    ask(server.endpoint(concurrency=2, timeout=9.0, retries=0), samples[:1], tmp_path / "r.jsonl")
    assert len(server.bodies) == 1, "how patiently one asks changes no answer"
    record = ask(server.endpoint(**dials), samples[:1], tmp_path / "r.jsonl")[0][0]
    assert len(server.bodies) == 2 and record.made["max_new_tokens"] == dials.get("max_new_tokens", 32)
    body = server.bodies[1]
    assert body.get("temperature", None) == dials.get("temperature", 0.0) and dials.get("limit_field", "max_tokens") in body and body.get("seed") == dials.get("extra", {}).get("seed")


def test_what_a_server_says_of_itself(server, samples, tmp_path):
    "Another root, another length: asked again. When it was started, and the order of its words: not."
    path, n = tmp_path / "r.jsonl", []
    for listed in ({"root": "/a", "created": 1}, {"created": 2, "root": "/a", "permission": [{"id": "random"}]}, {"root": "/b"}, {"root": "/b", "max_model_len": 9}, {"root": "/a"}):
        server.listed = listed
        ask(server.endpoint(), samples[:2], path)
        n.append(len(server.bodies))
    assert n == [2, 2, 4, 6, 6], "the first comes back with its answers"
    for status, same in ((404, 8), (405, 8), (501, 8)):  # it has no list: a making of its own, and always the same
        server.status = status
        ask(server.endpoint(), samples[:2], path)
        assert len(server.bodies) == same
    for status in (401, 403, 429, 500, 503):  # who answers is not known now: nothing is asked, nothing set aside
        server.status, before = status, path.read_bytes()
        with pytest.raises(BackendError, match=f"cannot be asked: status {status}"):
            ask(server.endpoint(), samples[:2], path)
        assert path.read_bytes() == before and len(server.bodies) == 8


def test_a_server_is_shown_what_the_column_says(server, samples, tmp_path):
    "A question of words alone has no picture in its message, and the words are those of the others."
    for form, kind, counts in (("images", "image_url", (4, 1, 0)), ("video", "video_url", (1, 1, 0))):
        server.bodies.clear()
        asked = ask_all(server.endpoint(form=form, concurrency=1), samples[:1], tmp_path / form)
        parts = [body["messages"][-1]["content"] for body in server.bodies]
        assert [sum(part["type"] == kind for part in one) for one in parts] == list(counts)
        assert [one[-1]["text"] for one in parts] == [samples[0].question] * 3 and parts[2] == [{"type": "text", "text": samples[0].question}]
        assert ask_all(server.endpoint(form=form), samples[:1], tmp_path / form) == asked and len(server.bodies) == 3
    assert len({json.dumps(record.made) for records in asked.values() for record in records}) == 1, "one model, one request; what differs is the question"


def test_an_address_is_part_of_the_making(server, samples, tmp_path):
    other = Server()
    for one in (server, other, server):
        ask(one.endpoint(), samples[:1], tmp_path / "r.jsonl")
    assert (len(server.bodies), len(other.bodies)) == (1, 1)
    other.http.shutdown()
    other.http.server_close()


@pytest.mark.parametrize(("choice", "reply", "ended"), [
    ({"message": {"content": "1.0-"}, "finish_reason": "length"}, "1.0-", "length"),
    ({"message": {"content": None, "reasoning_content": "First I"}, "finish_reason": "length"}, "", "length"),
    ({"message": {"content": None, "reasoning_content": "It is 1.0-2.0"}, "finish_reason": "stop"}, "", "thought"),
    ({"message": {"content": " ", "reasoning": "It is 1.0-2.0"}}, " ", "thought"),
    ({"message": {"content": "1.0-2.0", "reasoning_content": "So"}, "finish_reason": "stop"}, "1.0-2.0", "stop"),
    ({"message": {"content": None}, "finish_reason": "content_filter"}, "", "content_filter"),
    ({"message": {"content": "1.0-2.0", "reasoning_content": ["odd"]}, "finish_reason": 7}, "1.0-2.0", ""),
])  # fmt: skip
def test_how_a_reply_ended_is_kept_and_counted(server, samples, tmp_path, choice, reply, ended):
    server.choice = choice
    ask(server.endpoint(), samples[:2], tmp_path / "r.jsonl")
    records = read_records(tmp_path / "r.jsonl")
    assert [(record.reply, record.ended, record.error) for record in records] == [(reply, ended, "")] * 2
    counts = count_ends(records)
    assert counts == ({ended: 2} if ended in ("length", "thought") else {})
    assert ("2 of m" in ends_note({"m": counts})) == bool(counts) and ("raise max_new_tokens" in ends_note({"m": counts})) == bool(counts)


def test_a_model_s_name_with_a_slash(server, samples, tmp_path):
    "One cleaned name for files; the model keeps its own."
    name = file_name("Qwen/tiny")
    ask(server.endpoint(), samples[:1], tmp_path / "records" / f"{name}.jsonl", name=name)
    assert list(read_runs([tmp_path])) == [name] and "/" not in name and server.bodies[0]["model"] == "q/m"


# -------------------------------------------------------------------------------------------------------------- notebook


@pytest.mark.slow
def test_the_notebook_never_shows_the_old_policy(tmp_path):
    "A checkpoint trained anew in its folder, a name with a slash, and a config.json that says what made the records."
    from test_evaluate import papermill

    folder, out = tmp_path / "final", tmp_path / "out"
    options = {"model": folder, "name": "Qwen/tiny", "limit": 9, "max_pixels": 64 * 64, "max_new_tokens": 4, "output_dir": out}
    replies, makings = [], []
    for seed in (0, 1, 1):
        tiny_policy(seed).save(folder)
        done = papermill(tmp_path / f"{seed}.ipynb", options)
        assert done.returncode == 0, done.stderr[-3000:]
        records = read_records(out / "records" / "Qwen-tiny.jsonl")
        assert json.loads((out / "config.json").read_text())["answered"] == {"Qwen-tiny": records[0].made} == json.loads((out / "results.json").read_text())["answered"]
        assert {json.dumps(record.made) for record in records} == {json.dumps(records[0].made)} and len(records) == 9
        replies.append([record.reply for record in records])
        makings.append(records[0].made["model"])
    assert replies[0] != replies[1] == replies[2] and makings[0] != makings[1] == makings[2]
    assert len(read_records(aside_of(out / "records" / "Qwen-tiny.jsonl"))) == 9
    assert "replies cut off or empty" in (out / "details.md").read_text()
    assert not Path(out / "records" / "Qwen").exists()
