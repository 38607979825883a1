"""The scorer `official` against functions of the official scripts, where their repositories lie in the folder VIDEOSSR_OFFICIAL_SCRIPTS, each under its own name.

MVBench's is a notebook of Ask-Anything; the others are TempCompass, VCRBench, LVBench and CG-Bench. `python tests/test_official_scripts.py` prints the agreement."""
import ast
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from agreement import agreement, classes, verdicts

ROOT = os.environ.get("VIDEOSSR_OFFICIAL_SCRIPTS", "")


def functions(file, *names):
    "Functions of a script or notebook, without the rest of it."
    path = Path(ROOT) / file
    if not path.is_file():
        pytest.skip(f"no {file} in VIDEOSSR_OFFICIAL_SCRIPTS")
    text, scope = path.read_text(encoding="utf-8"), {"re": re, "json": json}
    parts = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"] if path.suffix == ".ipynb" else [text]
    for part in parts:
        if any(f"def {name}(" in part for name in names):
            found = [node for node in ast.parse(part).body if isinstance(node, ast.FunctionDef) and node.name in names]
            exec(compile(ast.Module(found, []), str(path), "exec"), scope)
    return SimpleNamespace(**{name: scope[name] for name in names})


def mvbench():
    script = functions("Ask-Anything/video_chat2/mvbench.ipynb", "check_ans")
    return lambda reply, item: float(script.check_ans("(" + reply.strip().split("\n")[0], f"({item.gold}) {item.options[item.answer]}"))


def tempcompass():
    yes_no, captions = functions("TempCompass/eval_yes_no.py", "extract_pred"), functions("TempCompass/eval_caption_matching.py", "eval_rule")

    def verdict(reply, item):
        text, kind = reply.replace("</s>", "").strip(), item.groups["kind"][0]
        if kind == "yes_no":
            return float(yes_no.extract_pred(text) == item.gold)
        return float(captions.eval_rule(text, item.question, f"{item.gold}: {item.options[item.answer]}") == 1)

    return verdict


def lvbench():
    script = functions("LVBench/lvbench/utils/answer_util.py", "polish_answer")
    return lambda reply, item: float(script.polish_answer(reply) == item.gold)


def cgbench():
    script = functions("CG-Bench/run/utils.py", "post_process")
    args = SimpleNamespace(task_mode="long_acc")
    script.post_process.__globals__["save_result"] = lambda args, anno, result, file: None
    return lambda reply, item: float(script.post_process(args, {"right_answer": item.gold}, reply) or 0)


def vcrbench():
    script = functions("VCRBench/process.py", "fetch_predicted_order", "str2int", "extract_following_text", "is_consecutive_in_range")

    def verdict(reply, item):
        orders = map(script.fetch_predicted_order, script.extract_following_text(reply.replace("*", ""), phrase=""))
        n = len(item.answer)
        return float(next((order for order in orders if len(order) == n and script.is_consecutive_in_range(order, 1, n)), None) == list(item.answer))

    return verdict


RULES = {"mvbench": mvbench, "tempcompass": tempcompass, "lvbench": lvbench, "cgbench": cgbench, "vcrbench": vcrbench}


def graded(name, n):
    "Without multiple-choice questions of TempCompass, whose rule stands within the script's loop, and without thoughts that never end."
    found = verdicts(name, RULES[name](), n=n, keep=lambda reply, item: item.groups.get("kind") != ("multi-choice",) or name != "tempcompass")
    return [each for each in found if each.reply.context != "truncated"]


@pytest.mark.skipif(not ROOT, reason="VIDEOSSR_OFFICIAL_SCRIPTS names no folder with the official repositories")
@pytest.mark.parametrize("name", RULES)
def test_official_is_what_the_script_says(name):
    found = graded(name, 300)
    assert agreement(found, "official", "peer") >= 0.995, classes(found, "official", "peer")


if __name__ == "__main__":
    for name in RULES:
        found = graded(name, 1000)
        print(name, len(found), f"{agreement(found, 'official', 'peer'):.2%}", *classes(found, "official", "peer"), sep="\n   ")
