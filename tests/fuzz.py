"""`python fuzz.py FOLDER N SEED`: changed files, replies and settings through every door of the kit, in a process that is watched.

Each input is a good one with something changed. It may be read, or refused with a `ValueError` (or a missing file's own error) that names the file.
Nothing else: no other error, no file outside the folder opened, nothing written elsewhere, no process, no connection, no more than two GB and twenty seconds.
Prints one line of JSON: how many were read and refused by door, and what broke a rule."""

import collections
import copy
import json
import os
import random
import resource
import shutil
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from videossr import video
from videossr.answers import ANSWER_REWARDS
from videossr.backends import read_completion
from videossr.benchmarks import BENCHMARKS, load_benchmark, make_example
from videossr.data import build_dataset, find_videos, load_rows, load_samples
from videossr.data.build import load_plan
from videossr.demo import demo_videos
from videossr.evaluate import read_results
from videossr.policy import load_policy, tiny_policy
from videossr.records import make_record, read_records, write_records
from videossr.rewards import score_reply
from videossr.runs import Run, setting_types
from videossr.settings import read_recipe
from videossr.tasks import core, render
from videossr.viewers.live import run_state
from videossr.viewers.rollouts import Rollouts
from videossr.viubench import VIUBench, load_viubench, read_viubench, save_viubench

SECONDS, GIGABYTES = 20, 2.0  # a machine may be busy
FOLDER, N, SEED = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
IN, OUT = FOLDER / "in", FOLDER / "out"
RNG = random.Random(SEED)
SECRET, RAN = OUT / "secret.mp4", OUT / "ran"
CODE = f"__import__('pathlib').Path({str(RAN)!r}).touch()"
VALUES = [
    None, True, False, 0, -1, 1, 3, 10**9, 10**30, -(10**18), 0.5, 1e308, float("nan"), float("inf"), "", " ", "0", "NaN", "a", "A" * 100_000, "9" * 5000, "\x00", "\x1b[31m",
    "\ud800", "\u2028", "<script>alert(1)</script>", CODE, "$(touch ran)", "{{ 9**9**9 }}", "{% for i in range(10**12) %}x{% endfor %}", "%s%n{0.__class__}", "!!python/object/apply:os.system [x]",
    str(SECRET), "../out/secret.mp4", "../../../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/x.mp4", "concat:a|b", "-i", "~", ".", "/dev/zero", "CON",
    [], {}, [[]], [None], {"": ""}, {"__class__": "x"}, [0] * 10_000, {"bytes": None, "path": str(SECRET)}, {"type": "video", "video": str(SECRET)},
]  # fmt: skip


def deep(n: int) -> list:
    made: list = []
    for _ in range(n):
        made = [made]
    return made


def places(value, path=()):
    "The paths to all parts of a document."
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*path, key))


def changed(document):
    "The document with one to three parts replaced, taken away, doubled or added."
    if plain:
        return document
    document = copy.deepcopy(document)
    for _ in range(RNG.choice((1, 1, 1, 2, 3))):
        path = RNG.choice([path for path in places(document)][1:] or [()])
        if not path:
            return RNG.choice(VALUES)
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        value = deep(RNG.choice((5, 400))) if RNG.random() < 0.03 else copy.deepcopy(RNG.choice(VALUES))
        match RNG.choice(("set", "set", "set", "drop", "add", "twice")):
            case "set":
                parent[path[-1]] = value
            case "drop":
                del parent[path[-1]]
            case "add" if isinstance(parent, dict):
                parent[str(RNG.choice(["x", "__proto__", "timeout", "recipe", "video", "frames", "views", "reward", "trust_remote_code", "auto_map"]))] = value
            case _ if isinstance(parent, list):
                parent += [copy.deepcopy(parent[path[-1]])] * RNG.choice((1, 1, 300))
            case _:
                parent[path[-1]] = [parent[path[-1]], value]
    return document


def torn(text: str) -> bytes:
    "The text as bytes, one time in three with something done to the bytes."
    data = text.encode("utf-8", "surrogatepass")
    if plain or RNG.random() < 0.67 or not data:
        return data
    place, more = RNG.randrange(len(data)), RNG.choice([b"\xff", b"\x00", b"\xef\xbb\xbf", b"\r", "\u2028".encode(), b'"', b"[" * 100_000, b"{" * 3000, b"\n", b"'", b"&a ", b"*a"])
    match RNG.choice(("cut", "insert", "insert", "flip", "begin")):
        case "cut":
            return data[:place]
        case "insert":
            return data[:place] + more + data[place:]
        case "flip":
            return data[:place] + bytes([data[place] ^ (1 << RNG.randrange(8))]) + data[place + 1 :]
    return more + data


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in (rows if isinstance(rows, list) else [rows]))


def some_clip(path, n_frames=48, trim=0.05, max_pixels=65536, min_pixels=None, backend=None, times=None, timeout=None):
    "Stands in for decoding, which has tests of its own: any file is a good video."
    if not Path(path).is_file():
        raise video.VideoError(path, "there is no such file")
    with open(path, "rb"):  # seen by the watch
        pass
    return video.Clip.example(n_frames=min(int(n_frames), 48) if times is None else len(times))


# ---------------------------------------------------------------- the doors


def parquet_rows(path: Path, rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.Table.from_pylist([row if isinstance(row, dict) else {"row": str(row)} for row in rows])
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError("no table holds these") from error
    pq.write_table(table, path)


class Doors:
    "One method for each kind of input: writes a changed one, opens it, and says which file should be named."

    def __init__(self):
        self.videos = [shutil.copy(path, IN / f"v{number}.mp4") for number, path in enumerate(demo_videos(3, progress=False))]
        for number in range(2):
            Image.new("RGB", (64, 64)).save(IN / f"f{number}.png")
        self.samples = [core.make_sample(task, self.videos[k % 3], seed=k, difficulty="demo") for k, task in enumerate(["grounding", "counting", "jigsaw"] * 2)]
        self.rows = [json.loads(sample.to_json()) for sample in self.samples]
        build_dataset(self.videos, IN / "built", "demo", 6, held_out=0.34, n_validation=2, near_duplicates=False, workers=1, card=False, progress=False)
        self.plan = json.loads((IN / "built/config.json").read_text())
        save_viubench(VIUBench(tuple(self.samples)), IN / "viubench.jsonl")
        self.bench = [json.loads(line) for line in (IN / "viubench.jsonl").read_text().splitlines()]
        write_records([make_record(sample, "1.0-2.0", name="x") for sample in self.samples], IN / "records.jsonl")
        self.records = [json.loads(line) for line in (IN / "records.jsonl").read_text().splitlines()]
        tiny_policy().save(IN / "policy")
        self.config = json.loads((IN / "policy/config.json").read_text())
        self.benchmarks = {}
        for name in sorted(BENCHMARKS):
            make_example(name, IN / "benchmarks" / name)
        (IN / "run").mkdir()
        self.log = [{"step": step, "seconds": 2.0 * step, "reward": 0.5, "reward/counting": 0.5, "zero_variance/counting": 0.1, "frac_reward_zero_std": 0.1} for step in (1, 2, 3)]
        one = {"step": 1, "sample": "x", "task": "counting", "type": "circles", "video": "v0.mp4", "answer": "3,1,4", "replies": ["3,1,4", "no"], "parsed": [True, False]}
        self.rollouts = [one | {"rewards": [1.0, 0.0], "advantages": [1.0, -1.0]}, one | {"step": 2, "rewards": [1.0, 0.0], "advantages": [1.0, -1.0]}]
        self.own = [{"prompt": "What is it?", "answer": "a ball", "videos": ["v0.mp4"]}, {"prompt": "How many?", "answer": "3", "videos": ["v1.mp4"]}]
        self.completion = {"choices": [{"message": {"role": "assistant", "content": "3"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
        self.recipe = {"model": "tiny-random", "steps": 4, "mix": "demo", "learning_rate": 1e-3, "beta": 0.1, "strict": True}

    def sample_rows(self):
        path = IN / "rows.parquet"
        rows = changed(self.rows)
        parquet_rows(path, [row | {"recipe": json.dumps(row["recipe"])} if isinstance(row, dict) and "recipe" in row else row for row in rows] if isinstance(rows, list) else [rows])
        for sample in load_samples(path, video_dir=IN):
            render(sample)
        return path

    def stored_sample(self):
        core.Sample.from_json(torn(json.dumps(changed(RNG.choice(self.rows)))).decode("utf-8", "surrogateescape"))

    def recipes(self):
        row = json.loads(json.dumps(RNG.choice(self.rows)))
        row["recipe"] = changed(row["recipe"])
        render(core.Sample(**row))

    def plans(self):
        path = IN / "built/config.json"
        path.write_bytes(torn(json.dumps(changed(self.plan))))
        load_plan(IN / "built")
        return path

    def own_rows(self):
        suffix = RNG.choice((".jsonl", ".json", ".csv"))
        path, rows = IN / f"own{suffix}", changed(self.own)
        text = lines(rows) if suffix == ".jsonl" and isinstance(rows, list) else json.dumps(rows)
        if suffix == ".csv":
            text = "prompt,answer,video\n" + "".join(",".join(str(value) for value in (row.values() if isinstance(row, dict) else [row])) + "\n" for row in (rows if isinstance(rows, list) else [rows]))
        path.write_bytes(torn(text))
        load_rows(path, outside=False)
        return path

    def lists(self):
        path = IN / RNG.choice(("list.txt", "list.csv"))
        names = ["v0.mp4"] if plain else [RNG.choice(["v0.mp4", "v1.mp4", *map(str, VALUES)]) for _ in range(3)]
        path.write_bytes(torn("".join(f"{name}\n" for name in (["video", *names] if path.suffix == ".csv" else names))))
        find_videos(path)
        return path

    def record_files(self):
        path = IN / "records.jsonl"
        path.write_bytes(torn(lines(changed(self.records) if plain or RNG.random() < 0.9 else [RNG.choice(VALUES)])))
        read_records(path)
        return path

    def result_files(self):
        path = IN / "results.json"
        path.write_bytes(torn(json.dumps(changed({"tasks": {"counting": {}}, "overall": {"smooth": 0.5}, "seconds": 3.0}))))
        read_results(path)
        return path

    def benchmark_files(self):
        name = RNG.choice(sorted(BENCHMARKS))
        folder = IN / "benchmarks" / name
        path = RNG.choice(sorted(file for file in folder.rglob("*") if file.suffix in (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet")))
        good = path.read_bytes()
        try:
            if path.suffix == ".json":
                path.write_bytes(torn(json.dumps(changed(json.loads(good)))))
            elif path.suffix == ".parquet":
                import pyarrow.parquet as pq

                parquet_rows(path, changed(pq.read_table(path).to_pylist()))
            else:
                rows = good.decode().split("\n")
                rows[RNG.randrange(len(rows))] = rows[0] if plain else str(RNG.choice(VALUES))
                path.write_bytes(torn("\n".join(rows)))
            load_benchmark(name, folder)
        finally:
            path.write_bytes(good)

    def viubench_rows(self):
        path = IN / "published.json"
        rows = [{"question": "When?", "answer": "1.0-2.0", "type": "mirror", "videos": [{"video": ["f0.png", "f1.png"], "max_pixels": 65536}], "problem_type": "grounding"}]
        path.write_bytes(torn(json.dumps(changed(rows))))
        read_viubench(path, IN, key="grounding_mirror")
        return path

    def viubench_files(self):
        path = IN / "viubench.jsonl"
        path.write_bytes(torn(lines(changed(self.bench))))
        load_viubench(path, IN)
        return path

    def recipe_files(self):
        path = IN / "recipe.yaml"
        sys.setrecursionlimit(10_000)
        text = yaml.safe_dump(changed(self.recipe), allow_unicode=True) if plain or RNG.random() < 0.9 else str(RNG.choice(VALUES))
        sys.setrecursionlimit(1000)
        path.write_bytes(torn(text))
        read_recipe(path, setting_types())
        return path

    def model_configs(self):
        path = IN / "policy/config.json"
        config = changed(self.config)
        path.write_bytes(torn(json.dumps(config)))
        load_policy(IN / "policy")
        return path

    def run_folders(self):
        run = Run(IN / "run")
        path = RNG.choice((run.log_path, run.rollouts_path))
        good = {run.log_path: self.log, run.rollouts_path: self.rollouts}
        for file, rows in good.items():
            file.write_bytes(torn(lines(changed(rows))) if file == path else lines(rows).encode())
        kept = Rollouts(run.rollouts_path)
        kept.refresh()
        run_state(run, {}, kept)
        return path

    def replies(self):
        text = torn("".join(str(RNG.choice([*map(str, VALUES), "1.0-2.0", "3,1,4", "312", "<answer>", "</think>", "\\boxed{", "A", ":", "-", "١"])) for _ in range(RNG.randrange(1, 9))))
        reply = text.decode("utf-8", "replace")
        for sample in self.samples[:3]:
            for parse in ("paper", "lenient"):
                score_reply(sample.task, reply, sample.answer, parse=parse)
        for name, answer in (("choice", "A"), ("number", "3"), ("number_exact", "3"), ("interval", "1.0-2.0"), ("exact", "3"), ("auto", "3")):
            ANSWER_REWARDS[name](completions=[reply], answer=[answer], options=[["a ball", "3"]])

    def completions(self):
        read_completion(torn(json.dumps(changed(self.completion))))


def watch(event, arguments):
    "The audit hook: what no input may cause."
    if not armed:
        return
    if event == "open" and isinstance(arguments[0], str | bytes):
        path, writes = os.path.realpath(os.fsdecode(arguments[0])), isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if path.startswith(str(OUT)) or path == "/etc/passwd" or path.startswith("/dev/zero"):
            broken.append(f"opened {path}")
        elif writes and not path.startswith((str(IN), "/dev/null", TEMPORARY)):
            broken.append(f"wrote {path}")
    elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo") and "videossr.policy" not in str(arguments)[:3000]:
        broken.append(f"{event} {str(arguments)[:200]}")


class Late(BaseException):
    "An input took too long."


def late(*_):
    raise Late


armed, plain, broken = False, True, []
TEMPORARY = os.path.realpath(os.environ.get("TMPDIR", "/tmp"))


def main() -> None:
    global armed, plain
    for folder in (IN, OUT):
        folder.mkdir(parents=True)
    SECRET.write_bytes(b"secret")
    warnings.simplefilter("ignore")
    doors = Doors()
    names = [name for name in vars(Doors) if not name.startswith("_") and (len(sys.argv) < 5 or name in sys.argv[4:])]
    core.read_clip, core.read_pictures = some_clip, lambda paths, *_, **__: np.stack([some_clip(path, 1).frames[0] for path in paths])
    outcomes, rules = collections.Counter(), []
    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, late)
    taken = video._taken()
    resource.setrlimit(resource.RLIMIT_AS, (taken + int(GIGABYTES * 1e9),) * 2)
    for door in names:  # what was not changed is read
        getattr(doors, door)()
    plain = False
    for number in range(N):
        door = RNG.choice(names)
        broken.clear()
        signal.alarm(SECONDS)
        armed = True
        try:
            getattr(doors, door)()
            outcomes[f"{door}: read"] += 1
        except (ValueError, OSError) as error:
            outcomes[f"{door}: refused"] += 1
            told = str(error)
            if not told or "\x1b" in told or (len(told) > 4000 and not isinstance(error, OSError)):  # the system's own tell the name, however long
                broken.append(f"told {told[:200]!r} ({len(told)} characters) {type(error).__name__} {error.__cause__!r:.200}")
        except BaseException as error:  # noqa: BLE001  every other end is a finding
            import traceback

            frames = [one for one in traceback.extract_tb(error.__traceback__) if "videossr" in one.filename] or traceback.extract_tb(error.__traceback__)
            frame = frames[-1]
            broken.append(f"{type(error).__name__}: {str(error)[:200]} ({Path(frame.filename).name}:{frame.lineno})")
        finally:
            armed = False
            signal.alarm(0)
        if RAN.exists():
            broken.append("ran a text")
            RAN.unlink()
        rules += [{"number": number, "door": door, "what": what} for what in broken]
    print(json.dumps({"outcomes": dict(sorted(outcomes.items())), "broken": rules}))


if __name__ == "__main__":
    main()
