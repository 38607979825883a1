"Servers that never end, pack, crawl, and say keys back: an answer is bounded in time and memory, and a key stays hidden."
import base64
import gzip
import html
import json
import socket
import threading
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from videossr import backends
from videossr.backends import (
    BackendError,
    Endpoint,
    hide_key,
    read_completion,
    retry_wait,
)
from videossr.evaluate import evaluate
from videossr.records import read_records
from videossr.tasks import Sample

KEY = "sk-Very/secret+0123=456789"
LIMIT = 1.0  # seconds for an answer
GOOD = json.dumps({"choices": [{"message": {"content": "1.0-2.0"}}]}).encode()


def answer(body=GOOD, status="200 OK", head=b""):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n" % (status.encode(), len(body), head) + body


class Raw:
    """Accepts connections; to the first ones it does what `acts` say, to all others it answers well. An act is bytes to send, a function of
    the connection, or several by name, of which the system prompt says one."""

    def __init__(self, *acts):
        self.socket, self.acts, self.asked = socket.create_server(("127.0.0.1", 0)), list(acts), []
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                connection = self.socket.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection, self.models if connection.recv(3, socket.MSG_PEEK) == b"GET" else self.acts.pop(0) if self.acts else answer()), daemon=True).start()

    models = answer(b"", "404 No")  # this server has no list of models

    def serve(self, connection, act):
        with connection:
            try:
                if act is self.models:
                    connection.recv(65536)
                    connection.sendall(act)
                    return
                head, body = read_start(connection)
                self.asked.append(head)
                if isinstance(act, dict):
                    act = next(act[kind] for kind in act if f'"{kind}"'.encode() in body)
                if act is not slow_reader:
                    read_rest(connection, head, body)
                connection.sendall(act) if isinstance(act, bytes) else act(connection)
            except OSError:
                pass  # the client went away


def read_start(connection):
    "Head of a request, and the first of its body."
    head, body = b"", b""
    while len(body) < 100:
        head += connection.recv(65536)
        body = head.partition(b"\r\n\r\n")[2]
    return head.partition(b"\r\n\r\n")[0].decode("latin-1"), body


def read_rest(connection, head, body):
    left = int(next(line for line in head.lower().split("\r\n") if line.startswith("content-length")).split(":")[1]) - len(body)
    while left > 0:
        left -= len(connection.recv(1 << 20))


def drip(first, part, pause=0.02, seconds=8.0):
    "Sends something, and then a part now and then: for ever, as far as the client can tell."
    def act(connection):
        connection.sendall(first)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.sendall(part)
            time.sleep(pause)
    return act


def slow_reader(connection):
    end = time.monotonic() + 8
    while time.monotonic() < end:
        connection.recv(2048)
        time.sleep(0.02)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "status": drip(b"HTTP/1.1 200 ", b"O"), "header": drip(OK + b"X-Long: ", b"x"), "headers": drip(OK, b"X-More: 1\r\n"), "continue": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "hints, fast": drip(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 50_000, 0), "silence": drip(b"", b""), "reader": slow_reader,
    "chunk extension": drip(CHUNKED + b"1;", b"x"), "chunk sizes": drip(CHUNKED, b"0"), "chunks": drip(CHUNKED, b"1\r\n \r\n"), "trailers": drip(CHUNKED + b"1\r\n \r\n0\r\n", b"X-More: 1\r\n"),
    "body": drip(OK + b"Content-Length: 100000\r\n\r\n", b" "), "body without length": drip(OK + b"\r\n", b" "), "refusal": drip(b"HTTP/1.1 500 No\r\n\r\n", b" "),
}  # fmt: skip


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    "A question about four small pictures."
    folder = tmp_path_factory.mktemp("pictures")
    paths = [str(folder / f"{number}.png") for number in range(4)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((32, 32, 3), 60 * number, np.uint8)).save(path)
    return Sample("grounding", "mirror", "v", {"frames": [paths], "fps": [2.0]}, "When?", "1.0-2.0")


@pytest.fixture
def serve():
    servers = []

    def make(*acts):
        servers.append(Raw(*acts))
        return servers[-1]

    yield make
    for server in servers:
        server.socket.close()


def ask(server, sample, **dials):
    "The one reply."
    ((_, reply),) = Endpoint(server.url, "m", **{"timeout": 5.0, "retries": 0, "backoff": 0.01, **dials}).answers([sample])
    return reply


def peak_of(job):
    "What a job gives, and the most bytes that it held."
    tracemalloc.start()
    try:
        return job(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# -------------------------------------------------------------------------------------------------------------- time


@pytest.fixture(scope="module")
def given_up(sample):
    "Each kind of endless answer and what came of it; all at once, which saves time."
    server = Raw(*[ENDLESS] * len(ENDLESS))
    dials = {"timeout": LIMIT, "retries": 0, "concurrency": len(ENDLESS), "patience": 99, "extra": {"padding": "x" * (6 << 20)}}  # more than the system takes for a reader
    replies = dict(Endpoint(server.url, "m", **dials).answers([replace(sample, recipe={**sample.recipe, "system": kind}) for kind in ENDLESS]))
    server.socket.close()
    return {kind: replies[number] for number, kind in enumerate(ENDLESS)}


@pytest.mark.parametrize("kind", sorted(ENDLESS))
def test_an_answer_that_does_not_end_is_given_up(given_up, kind):
    "Whatever drips: each byte is in time, and the whole never is."
    reply = given_up[kind]
    assert reply.seconds < LIMIT + 1.5, "here it would go on for 8 s"
    assert (reply.text, reply.fault) == (None, "server") and f"not complete within {LIMIT:g} s" in reply.error


def test_one_slow_answer_does_not_touch_the_others(serve, sample):
    "Eight questions at once: the watch of one cuts no other connection, and what was given up is asked again."
    def late(connection):
        time.sleep(LIMIT / 2)
        connection.sendall(answer())

    server = serve(ENDLESS["continue"], late, late, late, ENDLESS["chunk extension"], late)
    replies = dict(Endpoint(server.url, "m", timeout=LIMIT, backoff=0.01, concurrency=3).answers([sample] * 8))
    assert [replies[number].text for number in range(8)] == ["1.0-2.0"] * 8 and len(server.asked) == 10


# ------------------------------------------------------------------------------------------------------------ memory


@lru_cache
def packed(layers):
    body = gzip.compress(packed(layers - 1)[0] if layers > 1 else bytes(64 << 20))
    return body, b"Content-Encoding: " + b", ".join([b"gzip"] * layers) + b"\r\n"


FLOODS = {
    "gzip": lambda: answer(packed(1)[0], head=packed(1)[1]), "gzip in gzip": lambda: answer(packed(2)[0], head=packed(2)[1]),
    "body": lambda: drip(OK + b"\r\n", bytes(1 << 16), 0), "headers": lambda: drip(OK, b"X-More: 1\r\n" * 5000, 0), "chunk extension": lambda: drip(CHUNKED + b"1;", b"x" * 65536, 0),
    "chunks of a byte": lambda: drip(CHUNKED, b"1\r\n \r\n" * 300_000, 0), "lists": lambda: answer(b'{"choices": [' + b"[]," * 2_700_000 + b"0]}"), "objects": lambda: answer(b'{"choices": [' + b'{"":0},' * 140_000 + b"0]}"),
    "brackets": lambda: answer(b'{"choices": ' + b"[" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(FLOODS))
def test_an_answer_takes_little_memory(serve, sample, kind):
    act = FLOODS[kind]()
    server = serve(act)
    reply, peak = peak_of(lambda: ask(server, sample, timeout=LIMIT))
    assert reply.seconds < LIMIT + 1.5, "also where much has come that is not read yet"
    assert (reply.text, reply.fault) == (None, "server") and len(reply.error) < 600
    assert peak < 48 << 20, f"{peak >> 20} MB"


def test_packed_answers_are_not_asked_for_and_named(serve, sample):
    server = serve(answer(gzip.compress(GOOD), head=b"Content-Encoding: gzip\r\n"), answer(head=b"Content-Encoding: identity\r\n"))
    assert "packed as 'gzip'" in ask(server, sample).error
    assert ask(server, sample).text == "1.0-2.0"
    assert "accept-encoding: identity" in server.asked[0].lower()
    with pytest.raises(BackendError, match="status 401"):  # packed or not, a wrong key stops at once
        ask(serve(answer(gzip.compress(b"no"), "401 No", b"Content-Encoding: gzip\r\n")), sample, retries=6)


def test_cookies_are_not_kept(serve, sample):
    server = serve(*[answer(head=b"Set-Cookie: a%d=%s\r\n" % (number, b"x" * 2000)) for number in range(3)])
    assert len(dict(Endpoint(server.url, "m", concurrency=1).answers([sample] * 3))) == 3
    assert not [head for head in server.asked if "cookie" in head.lower()]


@pytest.mark.parametrize("told", ["\xb2", "1e999", "9" * 5000, "9" * 5000 + ".5", "Mon, 99 Jan 99999 99:99:99 GMT", "Mon, 01 Jan 0000 00:00:00 GMT", "Mon, 01 Jan 2030 00:00:00 +99999999999", "nan", "-5", "1.2.3", ", , ,"])
def test_no_retry_after_ends_an_evaluation(serve, sample, told):
    assert 0 <= retry_wait(1, {"retry-after": told}, 0.01, 0.1) <= 0.1
    server = serve(answer(b"", "503 No", b"Retry-After: " + told.encode("latin-1") + b"\r\n"))
    assert ask(server, sample, retries=1, max_wait=0.01).text == "1.0-2.0"


# ----------------------------------------------------------------------------------------------------------- the text


@pytest.mark.parametrize("count", [True, -1, 10**4000, 1e300, "7", None, [1], 2**63])
def test_counts_that_are_none_are_not_told(count):
    body = json.dumps({"choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": count, "completion_tokens": 3}})
    assert read_completion(body.encode()) == ("yes", 0, 3, "")


@pytest.mark.parametrize("choices", [7, "abc", {"0": 1}, [], [[]], [7], ["x"], [{"message": 7}], [{"message": []}], [{}], None, [None], True, [{"message": {}}], {}])
def test_choices_that_are_none_are_no_answer(choices):
    try:
        assert read_completion(json.dumps({"choices": choices}).encode()) == ("", 0, 0, "") and choices == [{"message": {}}]
    except ValueError as error:
        assert "no chat completion" in str(error)


@pytest.mark.parametrize("content", [[["a"], 7, None, {"text": ["b"]}, {"text": {"c": "d"}}, {"text": "yes"}], "yes"])
def test_content_in_parts_is_text_alone(content):
    assert read_completion(json.dumps({"choices": [{"message": {"content": content}}]}).encode())[0] == "yes"


TEXTS = ["\x00", "\x1b[2J\x1b]0;evil\x07", "\ud83d", "\udc00 1.0-2.0 \ud800", "\u202e\u2028", "[" * 100_000, '"' * 1000, "9" * 100_000]


def evaluated(server, sample, path, n):
    "Records of as many questions, asked one after the other; all fail or not, and the server answers one more."
    samples = [replace(sample, question=f"When? {number}") for number in range(n + 1)]
    records = evaluate(Endpoint(server.url, "m", retries=0, concurrency=1, patience=n + 1), samples, path, name="m", progress=False)
    assert read_records(path) == records and records[n].reply == "1.0-2.0"
    return records[:n]


def test_any_text_is_recorded(serve, sample, tmp_path):
    "As a reply; and as a refusal, as no protocol at all and as a reason, in errors that can be printed. And the file is read again."
    bodies = [json.dumps({"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 10**30, "completion_tokens": True}}).encode() for text in TEXTS]
    replies = evaluated(serve(*map(answer, bodies)), sample, tmp_path / "replies.jsonl", len(TEXTS))
    for record, text in zip(replies, TEXTS, strict=True):
        assert (record.error, record.tokens_in, record.tokens_out) == ("", 0, 0)
        assert record.reply == "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in text)
    raw = [text.encode(errors="surrogatepass") for text in TEXTS]
    acts = [*(answer(body, status) for body in raw for status in ("400 No", "200 OK")), *(b"HTTP/1.1 400 " + body + b"\r\nContent-Length: 0\r\n\r\n" for body in raw)]
    for record in evaluated(serve(*acts), sample, tmp_path / "errors.jsonl", len(acts)):
        assert record.fault == "server" and record.error.isprintable() and 10 < len(record.error) < 600


# ------------------------------------------------------------------------------------------------------------ the key


def escaped(text):
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


def percent(text):
    return "".join(f"%{ord(letter):02x}" for letter in text)


def based(text, before=""):
    return base64.b64encode((before + text).encode()).decode()


SPELLINGS = {
    "as it is": KEY, "upper": KEY.upper(), "lower": KEY.lower(), "JSON": escaped(KEY), "JSON upper": escaped(KEY).upper().replace("\\U", "\\u"), "JSON twice": json.dumps(escaped(KEY)), "JSON slash": KEY.replace("/", "\\/"),
    "one letter": KEY.replace("V", "\\u0056"), "hexadecimal": "".join(f"\\x{ord(letter):02X}" for letter in KEY), "address": quote(KEY, safe=""), "address lower": quote(KEY, safe="").lower(), "percent": percent(KEY), "percent twice": quote(percent(KEY)),
    "entities": html.escape(KEY), "numbers": "".join(f"&#{ord(letter)};" for letter in KEY), "hexadecimal numbers": "".join(f"&#x{ord(letter):X};" for letter in KEY), "zeros": "".join(f"&#{'0' * 5000}{ord(letter)};" for letter in KEY),
    "names": KEY.replace("/", "&sol;").replace("+", "&plus;").replace("=", "&equals;"), "entities in JSON": "".join(f"\\u0026#{ord(letter)};" for letter in KEY), "entities twice": html.escape("".join(f"&#{ord(letter)};" for letter in KEY)),
    "base64": based(KEY), "base64 of more": based(KEY, "a"), "base64 of much more": based(KEY, "Bearer   "), "base64 for addresses": based(KEY, "~~").replace("+", "-").replace("/", "_"), "base64 in JSON": escaped(based(KEY)), "base16": KEY.encode().hex(), "base16 upper": KEY.encode().hex().upper(),
    "lines": "\n".join(KEY), "JSON lines": "\\n".join(KEY), "zero width": "\u200b".join(KEY), "after a percent sign": "%" + KEY, "in quotes": json.dumps(json.dumps({"Authorization": f"Bearer {KEY}"})), "repr": repr({"key": KEY.encode()}),
}  # fmt: skip


def bare(text):
    "Text with all escapes undone, in the tests' own way."
    for _ in range(4):
        text = html.unescape(text.encode("ascii", "backslashreplace").decode("unicode_escape", "replace") if "\\" in text else text)
    return text


@pytest.mark.parametrize("spelling", sorted(SPELLINGS))
def test_the_key_is_hidden_in_any_spelling(spelling):
    told = f"Wrong key {SPELLINGS[spelling]}, see the manual."
    shown = hide_key(told, KEY, "<OPENAI_API_KEY>")
    assert "<OPENAI_API_KEY>" in shown and shown.startswith("Wrong key ") and shown.endswith(", see the manual.")
    assert len(shown) < 80, "nothing of it stays but what base64 mixes with its neighbours"
    for size in (8, len(KEY)):
        assert KEY[:size].lower() not in shown.lower()


@pytest.mark.parametrize("text", ["1.0-2.0", "a" * 1000, "\\u00e9t\\u00e9 100%25 &amp; <b>", "sk-Very", "%", "\\", "&#;", "&#" + "9" * 5000 + ";", "\\ud83d", "\\u{}", "%zz", "start \n end", base64.b64encode(bytes(range(256))).decode()])
def test_what_holds_no_key_stays_to_the_letter(text):
    assert hide_key(text, KEY, "<OPENAI_API_KEY>") == text


@pytest.mark.parametrize("key", ["1", "EMPTY", "none", "1.0-2.0"])
def test_a_short_key_is_no_secret_and_eats_nothing(key):
    assert hide_key(f"1.0-2.0, empty, EMPTY, none {key}", key, "<OPENAI_API_KEY>") == f"1.0-2.0, empty, EMPTY, none {key}"


@pytest.mark.parametrize("unit", ["s", "sk-", "\\u0073", "%73", "&#115;", "&amp;", "\\", "%25", "s\n", "&#" + "0" * 4000, "sk-Very\u200b"])
def test_hiding_takes_linear_time(unit):
    text = unit * ((1 << 18) // len(unit))
    begin = time.perf_counter()
    hide_key(text, KEY, "<OPENAI_API_KEY>")
    assert time.perf_counter() - begin < 20


@pytest.mark.parametrize("spelling", ["as it is", "JSON", "percent", "base64"])
def test_no_record_or_error_holds_the_key(serve, sample, tmp_path, monkeypatch, capfd, spelling):
    "In a reply, in a refusal wherever it is cut, in what is no protocol, in a reason and a header that errors quote."
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    told = SPELLINGS[spelling]
    in_json = b'{"choices": [{"message": {"content": "%s"}}]}' % told.encode()
    acts = [answer(in_json), *(answer((" " * room + told).encode(), status) for status in ("200 OK", "400 No") for room in (0, 70, 290, 380)),
            answer(b"", "307 No", b"Location: http://h:" + told.encode() + b"/\r\n"), b"HTTP/1.1 " + told.encode() + b"\r\n\r\n", answer(b"", "429 No", b"Retry-After: " + told.encode() + b"\r\n")]  # fmt: skip
    evaluated(serve(*acts), sample, tmp_path / "r.jsonl", len(acts))
    stopped = Endpoint(serve(answer(told.encode(), "401 No")).url, "m", retries=0)
    with pytest.raises(BackendError) as caught:
        list(stopped.answers([sample]))
    seen = capfd.readouterr()
    for text in (*(path.read_text() for path in tmp_path.iterdir()), str(caught.value), repr(stopped), seen.out, seen.err):
        for size in (8, len(KEY)):
            assert KEY[:size].lower() not in text.lower() and KEY[:size].lower() not in bare(text).lower()
            assert based(KEY)[:10] not in text and SPELLINGS[spelling][: 6 * size] not in text


# -------------------------------------------------------------------------------------------------------- the address


@pytest.mark.parametrize("url", [
    f"user:{KEY}@host:80/v1", f"ftp://user:{KEY}@host/v1", f"http://user:{KEY}@host/v1", f"http://{KEY.replace('/', '')}@host/v1", f"https://:{KEY.replace('/', '')}@host", f"https://host/v1?key={KEY}", f"https://host/v1#{KEY}",
    f"https://host/v1/{KEY}", f"https://host/{quote(KEY, safe='')}/v1", f"https://host:{KEY}/v1", f"http://[{KEY}", f"http://user:{KEY.replace('/', '')}@ho\u2100st/v1", f"http://host/v1\n{KEY}", KEY,
])  # fmt: skip
def test_an_address_with_a_key_is_refused_and_not_quoted(url, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ValueError, match="an endpoint is an address|no key in the address") as caught:
        Endpoint(url, "m")
    chain = [caught.value, caught.value.__cause__]
    for part in KEY.replace("/", " ").split():
        assert not any(part in str(error) for error in chain)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def heard(monkeypatch, url, sample, times=1, **dials):
    "The warnings of an endpoint that is asked two questions, so many times."
    monkeypatch.setattr(backends, "_post", lambda *_: (200, {}, GOOD))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = Endpoint(url, "m", **dials)
        for _ in range(times):
            assert len(list(model.answers([sample] * 2))) == 2
    return [str(warning.message) for warning in caught if warning.category is UserWarning]


def test_a_key_in_the_clear_warns_once(sample, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (told,) = heard(monkeypatch, "http://gpu7.example:8000/v1", sample, 2, key_env="MY_KEY")
    assert "gpu7.example" in told and "MY_KEY" in told and "https" in told and KEY not in told
    for url, dials in {"http://gpu7.example/v1": {}, "https://gpu7.example/v1": {"key_env": "MY_KEY"}, "http://127.0.0.1:1/v1": {"key_env": "MY_KEY"},
                       "http://localhost/v1": {"key_env": "MY_KEY"}, "http://[::1]:8000/v1": {"key_env": "MY_KEY"}, "http://127.8.0.1/v1": {"key_env": "MY_KEY"}}.items():  # fmt: skip
        assert not heard(monkeypatch, url, sample, **dials), url


@pytest.mark.parametrize("status", ["302", "308"])
def test_no_redirect_is_followed(serve, sample, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    thief = serve()
    server = serve(answer(b"", f"{status} Go", f"Location: {thief.url}/chat/completions\r\n".encode()))
    assert f"status {status}" in ask(server, sample).error and not thief.asked and "Bearer" in server.asked[0]
