"Our scorers against lmms-eval's own functions, where the package is installed (`pip install lmms-eval`); `python tests/test_lmms_eval.py` prints the tables."
import ast
import importlib.util
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from agreement import PEERS, agreement, choice_item, classes, peer_module, peer_verdict, verdicts
from reply_corpus import OPTIONS

from videossr.backends import Budget, LocalBackend, view_times
from videossr.benchmarks.core import BENCHMARKS, Graded, Item, load_benchmark, make_example, score_benchmark
from videossr.benchmarks.grounding import charades_range
from videossr.benchmarks.lmms_eval import lmms_budget, lmms_manifest, save_lmms_task, task_samples
from videossr.benchmarks.reasoning import read_mmmu
from videossr.demo import demo_videos
from videossr.evaluate import evaluate
from videossr.policy import load_policy
from videossr.viubench import build_viubench, score_viubench

PEER = importlib.util.find_spec("lmms_eval")
needs_peer = pytest.mark.skipif(PEER is None, reason="pip install lmms-eval")


def module_of(name):
    module, why = peer_module(name)
    if module is None:
        pytest.skip(f"the task of {name} cannot be imported: {why}")
    return module


def test_every_shared_benchmark_has_the_scorer():
    assert {name for name, bench in BENCHMARKS.items() if "lmms-eval" in bench.scorers} >= set(PEERS)


@pytest.mark.parametrize("name", PEERS)
def test_corpus_tells_scorers_apart(name):
    "Without the package: the corpus is read, and not all scorers say the same of it."
    found = verdicts(name, None, n=60)
    rights = [sum(each.grades[scorer] for each in found) for scorer in ("paper", "official", "lmms-eval")]
    assert min(rights) > 0 and (name in ("vinoground", "vcrbench") or len(set(rights)) > 1)


@needs_peer
@pytest.mark.parametrize("name", PEERS)
def test_verdicts_are_those_of_lmms_eval(name):
    found = verdicts(name, peer_verdict(name, module_of(name)), n=120 if name == "vinoground" else 300)
    assert 0.02 < np.mean([each.grades["peer"] for each in found]) < 0.95
    assert agreement(found, "lmms-eval", "peer") >= 0.995, classes(found, "lmms-eval", "peer")


LETTERS = ["A", "B", "C", "D", "E", "A.", "B:", "(C)", "D)", "**", "a blue sky", " red fox ", "Green", "9", " ", "the answer is ", " option ", "\n", ",", "!", "'", "USA ", "I think that it is ", "Caption ", "yes", "No", "<think>", "</think>", "I choose", "best answer is ", "b. ", "-", ") ", "1,2"]
TIMES = ["The event happens in the ", "starts at ", "ends at ", " - ", "\u2013", " to ", "s", " seconds", " and ", "\n", ". ", "! ", "24.3", "30", "7", "0:24", "00:01:05", "between ", "End: ", "start time: ", "Tomorrow ", "1.2.3", "A specific example is : 20.8 - 30.0 seconds", "<think>", "</think>"]
STEPS = ["1", "2", "3", "1, 2, 3", "2, 1, 3", "Clip ", ", ", ",", ". ", "\n", "**", "<answer>", "</answer>", r"\boxed{", "}", r"\text{", "<think>", "</think>", "<thinking>", "</thinking>", "Correct order: ", "and "]


def soups(pieces, most, n=1500):
    "Of what replies are made of; the same on every machine."
    rng = random.Random(11)
    return ["".join(rng.choice(pieces) for _ in range(rng.randint(1, most))).strip() for _ in range(n)]


def soup_of(name):
    "Replies and the item that they are held against."
    if name == "charades_sta":
        return soups(TIMES, 9), Item("1", ("a.mp4",), "a kite rises", ((24.3, 30.4),))
    if name == "vcrbench":
        return soups(STEPS, 9), Item("1", ("a.mp4",), "Make Tea", (2, 1, 3))
    if name == "tempcompass":
        return soups(LETTERS, 7), choice_item("ABCD", OPTIONS, groups={"kind": ("multi-choice",)})
    return soups(LETTERS, 7, 20 if name == "vinoground" else 1500), choice_item("AB" if name == "vinoground" else "ABCD", ("red fox", "a blue sky", "9", "Green")[: 2 if name == "vinoground" else 4])


@needs_peer
@pytest.mark.parametrize("name", PEERS)
def test_soups(name):
    scorer, theirs, (made, item) = BENCHMARKS[name].scorers["lmms-eval"], peer_verdict(name, module_of(name)), soup_of(name)
    differ = [reply for reply in made if abs((scorer.verdict(reply, item) or 0.0) - theirs(reply, item)) > 1e-6]
    assert len(differ) <= 0.005 * len(made), differ[:5]


# --------------------------------------------------------------------------------------------------- frames and prompts

ASKED = {  # benchmark -> its function, the YAML with what it is given, the row of an item
    "mvbench": ("mvbench_doc_to_text", "mvbench_action_antonym.yaml", lambda item: {"question": item.question, "candidates": list(item.options)}),
    "tvbench": ("tvbench_doc_to_text", "_default_template_yaml", lambda item: {"question": item.question, "candidates": list(item.options)}),
    "tempcompass": ("tempcompass_doc_to_text_multi_choice", "_default_template_yaml", lambda item: {"question": item.question}),
    "videomme": ("videomme_doc_to_text", "videomme.yaml", lambda item: {"question": item.question, "options": [f"{label}. {text}" for label, text in zip(item.labels, item.options, strict=True)]}),
    "lvbench": ("lvbench_doc_to_text", "lvbench.yaml", lambda item: {"question": item.question}),
    "longvideobench": ("longvideobench_doc_to_text", "longvideobench_val_v.yaml", lambda item: {"question": item.question, **{f"option{n}": item.options[n] if n < len(item.options) else "N/A" for n in range(5)}}),
    "cgbench": ("cgbench_doc_to_text", "_default_template_yaml", lambda item: {"question": item.question, "choices": list(item.options)}),
    "charades_sta": ("temporal_grounding_doc_to_text", "charades.yaml", lambda item: {"caption": item.question}),
    "video_mmmu": ("videommmu_doc_to_text_perception_comprehension", "_default_template_yaml", lambda item: {"question": item.question, "options": list(item.options)}),
    "video_tt": ("videott_doc_to_text", "videott_single_mc.yaml", lambda item: dict(zip(("question", "question_prompt"), item.question.rsplit("\n", 1), strict=True))),
    "vcrbench": ("vcrbench_doc_to_text", "_default_template_yaml", lambda item: {"goal": item.question}),
}


@needs_peer
@pytest.mark.parametrize("name", PEERS)
def test_prompts_are_those_of_lmms_eval(name, tmp_path):
    module, questions = module_of(name), load_benchmark(name, make_example(name, tmp_path), **({"question_prompt": "asked"} if name == "video_tt" else {}))
    item = questions[0]
    ours = questions.benchmark.prompts["lmms-eval"](item)
    if name == "vinoground":
        module.textscore_dict = {"0_pos": {"question": item.question}}
        assert ours == module.vinoground_doc_to_text({"index": "0_pos_text"})
        return
    function, file, row = ASKED[name]
    config = importlib.import_module("lmms_eval.utils").load_yaml_config(str(Path(module.__file__).with_name(file)), mode="simple")
    assert ours == getattr(module, function)(row(item), config["lmms_eval_specific_kwargs"]["default"])


@pytest.mark.parametrize(("count", "rate"), [(199, 24.0), (32, 25.0), (750, 25.0), (18001, 29.97), (60, 1.0)])
def test_frames_are_those_of_qwen_vl_utils(count, rate):
    "The package that chooses them for lmms-eval's models, which ask it for 32, or for as many as there are."
    process = pytest.importorskip("qwen_vl_utils.vision_process")
    wanted = process.smart_nframes({"nframes": min(32, count)}, count, rate)
    theirs = torch.linspace(0, count - 1, wanted).round().long().tolist()
    assert (view_times(count / rate, rate, lmms_budget()) * rate).astype(int).tolist() == theirs


# ------------------------------------------------------------------------------------------------- the package itself


def with_local_rows(folder, rows):
    "lmms-eval's own task of Video-MME, on a file of ours."
    task = Path(PEER.submodule_search_locations[0]) / "tasks" / "videomme" / "videomme.yaml"
    lines = [f"include: {task}", "task: videomme_here", "dataset_path: parquet", "dataset_kwargs:", "  data_files:", f"    test: {rows}"]
    folder.mkdir()
    (folder / "videomme_here.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


@needs_peer
def test_a_policy_runs_in_lmms_eval_and_scores_the_same(tmp_path, monkeypatch):
    "The tiny policy on VIUBench and on Video-MME: each reply and each score is the one that it gets here."
    evaluator, tasks = pytest.importorskip("lmms_eval.evaluator"), pytest.importorskip("lmms_eval.tasks")
    from lmms_eval.models import MODEL_REGISTRY_V2

    monkeypatch.setenv("HF_HOME", str(tmp_path))  # where its task looks for videos
    MODEL_REGISTRY_V2.register_manifest(lmms_manifest(), overwrite=True)  # as the entry point does after an install
    bench = build_viubench(demo_videos(9, progress=False), seed=1, per_type=2, budget=Budget(max_pixels=64 * 64), progress=False)
    folder = save_lmms_task(bench, tmp_path / "tasks" / "viubench", max_new_tokens=16)
    mme = make_example("videomme", tmp_path / "videomme")
    with_local_rows(tmp_path / "tasks" / "videomme", next(mme.glob("videomme/*.parquet")))
    manager = tasks.TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    settings = "pretrained=tiny,frames=8,max_pixels=4096,min_pixels=1024"
    made = evaluator.simple_evaluate(model="videossr", model_args=settings, tasks=["viubench", "videomme_here"], task_manager=manager, batch_size=4, device="cpu")
    told = {name: [row["resps"][0][0] for row in sorted(rows, key=lambda row: row["doc_id"])] for name, rows in made["samples"].items()}

    policy = load_policy("tiny", device="cpu")
    records = evaluate(LocalBackend(policy, max_new_tokens=16), task_samples(folder, 4096), tmp_path / "a.jsonl", name="tiny", progress=False)
    assert [record.reply for record in records] == told["viubench"] and len(set(told["viubench"])) > 2
    scores = score_viubench(records)
    assert scores == pytest.approx({name: made["results"]["viubench"][f"{name},none"] for name in scores})
    assert 0 < scores["overall"] < 100

    questions = load_benchmark("videomme", mme)
    samples = questions.samples(lmms_budget(8, 4096, 1024), "lmms-eval")
    records = evaluate(LocalBackend(policy, max_new_tokens=16), samples, tmp_path / "b.jsonl", name="tiny", grade=Graded(questions), progress=False)
    assert [record.reply for record in records] == told["videomme_here"]
    assert score_benchmark(questions, records)["scores"]["lmms-eval"]["all"]["accuracy"] == pytest.approx(made["results"]["videomme_here"]["videomme_perception_score,none"])


# ------------------------------------------------------------------------- rules that older releases of lmms-eval had


def peer(file, name):
    "One function of an installed file, without the rest of it."
    path = Path(PEER.submodule_search_locations[0]) / "tasks" / file
    if not path.exists():
        pytest.skip(f"this lmms-eval has no {file}")
    (found,) = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef) and node.name == name]
    if any(isinstance(node, ast.ImportFrom) for node in ast.walk(found)):
        pytest.skip(f"{name} of this lmms-eval is another rule than that of the benchmark's own evaluation")
    scope = {"re": re, "np": np}
    exec(compile(ast.Module([found], []), str(path), "exec"), scope)
    return scope[name]


@needs_peer
def test_official_charades_sta():
    extract, item = peer("charades_sta/eval_tvg.py", "extract_time"), soup_of("charades_sta")[1]
    if extract("It happens in 3 \u2013 4"):
        pytest.skip("since 0.6 lmms-eval has another rule, which is the scorer `lmms-eval` or close to it")

    def theirs(reply):
        try:
            return next(([float(one) for one in pair] for pair in extract(reply)), None)
        except ValueError:  # of "1..2", which lmms-eval counts as 0
            return None

    assert not [reply for reply in soups(TIMES[:-2], 9) if charades_range(reply, item) != theirs(reply)]


@needs_peer
def test_official_video_mmmu():
    parse, item = peer("videommmu/utils.py", "parse_multi_choice_response"), choice_item("ABCD", ("red fox", "a blue sky", "9", "Green"))
    texts, nothing = dict(zip(item.labels, item.options, strict=True)), ("No Answer Found.", "API Error")
    said = {reply: parse(reply, list(item.labels), texts) for reply in soups(LETTERS[:4] + LETTERS[5:23], 7)}
    assert not [reply for reply, theirs in said.items() if read_mmmu(reply, item) != (None if theirs in nothing else theirs)]


def main(n):
    for name in PEERS:
        module, why = peer_module(name)
        if module is None:
            print(f"{name}: {why}")
            continue
        found = verdicts(name, peer_verdict(name, module), n=min(n, 200) if name == "vinoground" else n)
        shares = {scorer: f"{agreement(found, scorer, 'peer'):.2%}" for scorer in ("paper", "official", "lmms-eval")}
        print(f"{name}: {len(found)} verdicts, the same as lmms-eval's: {shares}")
        for row in classes(found, "lmms-eval", "peer"):
            print("  ", row)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 1000)
