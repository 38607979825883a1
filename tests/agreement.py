"""Our verdicts on replies of known meaning beside those of lmms-eval's own functions, where the package is installed.

A reply counts once for each answer that could be the right one, so that a rule which reads nothing and one which reads the wrong letter differ."""
import importlib
import os
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from reply_corpus import CONTEXTS, OPTIONS, Reply, reply_corpus

from videossr.benchmarks.core import BENCHMARKS, Item, best_tiou

CAPTIONS = ("The sun goes left.", "The sun goes right.", "No (real) sun")
MORE = (*OPTIONS, "a dog", "two dogs", "Red", "9")
MARKED = ("{x}", "({x})", "{x}.", "{x})", "{x}: {text}", "({x}) {text}", "{x}. {text}", "{text}", "Option {x}", "**{x}**")


@dataclass(frozen=True)
class Peer:
    "What grades a reply elsewhere."
    task: str  # module of lmms-eval's tasks
    doc: Callable[[Item], dict]  # its row for an item of ours
    grade: Callable[[object, dict, str], float]  # module, row, reply -> [0, 1]


def _mcq(name, metric):
    "The grade of a task whose function says what was read."
    def grade(task, doc, reply):
        found = getattr(task, name)(doc, [reply])[metric]
        return float(found["score"]) if isinstance(found, dict) and "score" in found else float(found["pred_answer"] == found["answer"] if isinstance(found, dict) else found)
    return grade


def _charades(task, doc, reply):
    return task._temporal_grounding_compute_metrics([task.temporal_grounding_process_results_generation(doc, [reply])["charades_sta_mIOU"]])["mIOU"] / 100


def _tempcompass(task, doc, reply):
    task.get_eval_result = lambda prompt: (None, 0)  # the judge, which costs a key
    kind = {"multi-choice": "multi_choice"}.get(doc["kind"], doc["kind"])
    return float(getattr(task, f"tempcompass_process_results_{kind}")(doc, [reply])["avg_accuracy"]["rating"])


def _longvideobench(task, doc, reply):
    task.random = type("Nothing", (), {"choice": staticmethod(lambda choices: "")})  # what it cannot read it draws
    found = task.longvideobench_process_results(doc, [reply])["lvb_acc"]
    return float(task.eval_multi_choice(found["answer"], found["parsed_pred"]))


def _mmmu(task, doc, reply):
    found = task.videommmu_process_results(doc, [reply])["mmmu_acc"]
    return float(task.evaluate_videommmu([found])[1]["acc"])


def _vinoground(task, doc, reply):
    "Its rule stands within a sum over 500 pairs: all of them get this reply."
    pairs = [f"{number}_{side}" for number in range(500) for side in ("pos", "neg")]
    truths = {pair: {"GT": doc["answer"]} for pair in pairs}
    task.prep_data = lambda: (truths, truths)
    made = [task.vinoground_process_results({"index": f"{pair}_{part}", "major": "", "minor": None}, [reply])["vinoground_score"] for pair in pairs for part in ("text", "video")]
    return float(task.vinoground_aggregate_results(made)[0] / 100)


def _letters(item):
    return {"answer": item.gold, "options": list(item.options), "question": item.question}


ABOUT = {"domain": "", "sub_category": "", "task_type": "", "duration": 1, "question_id": "1", "videoID": "a", "video_id": "a", "video_uid": "a", "qid": "1", "capability": "Plot Attribute"}
PEERS = {
    "mvbench": Peer("mvbench", lambda item: {"candidates": list(item.options), "answer": item.options[item.answer]}, _mcq("mvbench_process_results", "mvbench_accuracy")),
    "tvbench": Peer("tvbench", lambda item: {"candidates": list(item.options), "answer": item.options[item.answer]}, _mcq("tvbench_process_results", "tvbench_acc")),
    "tempcompass": Peer("tempcompass", lambda item: {**ABOUT, "kind": item.groups["kind"][0], "dim": "order", "question": item.question, "answer": f"{item.gold}: {item.options[item.answer]}" if item.gold.startswith("Caption") else item.gold if item.gold in ("yes", "no") else f"{item.gold}. {item.options[item.answer]}"}, _tempcompass),
    "vinoground": Peer("vinoground", _letters, _vinoground),
    "videomme": Peer("videomme", lambda item: {**ABOUT, **_letters(item)}, _mcq("videomme_process_results", "videomme_perception_score")),
    "lvbench": Peer("lvbench", _letters, _mcq("lvbench_process_results", "lvbench_score")),
    "longvideobench": Peer("longvideobench", lambda item: {"id": "1", "duration_group": 15, "question_category": "", "correct_choice": item.answer, **{f"option{n}": item.options[n] if n < len(item.options) else "N/A" for n in range(5)}}, _longvideobench),
    "cgbench": Peer("cgbench", lambda item: {**ABOUT, "right_answer": item.gold}, _mcq("cgbench_process_results", "cgbench_accuracy")),
    "charades_sta": Peer("charades_sta", lambda item: {"video": "a.mp4", "caption": item.question, "timestamp": list(item.answer[0])}, _charades),
    "video_mmmu": Peer("videommmu", lambda item: {"id": "dev_Math_1", "question_type": "multiple-choice", **_letters(item)}, _mmmu),
    "video_tt": Peer("video-tt", lambda item: {**ABOUT, **_letters(item)}, _mcq("videott_process_results", "videott_perception_score")),
    "vcrbench": Peer("vcrbench", lambda item: {"qid": "1", "goal": "Make Tea", "ground_truth": [clip - 1 for clip in item.answer]}, _mcq("vcrbench_process_results", "vcrbench_accuracy")),
}  # fmt: skip


def peer_module(name):
    "The installed module of a benchmark's task, or why there is none."
    os.environ.setdefault("HF_HOME", "none")  # two tasks want it set when they are imported; nothing is read there
    try:
        return importlib.import_module(f"lmms_eval.tasks.{PEERS[name].task}.utils"), ""
    except ImportError as error:
        return None, str(error)


def peer_verdict(name, module):
    "A function that grades as lmms-eval does, from its thoughts cut out to its sum."
    from lmms_eval.api.reasoning import strip_reasoning_tags
    from loguru import logger

    logger.disable("lmms_eval")  # a line for each reply
    peer, rows = PEERS[name], {}

    def verdict(reply, item):
        text = strip_reasoning_tags(reply, [["<think>", "</think>"], ["<analysis>", "</analysis>"]]).strip()
        doc = rows.setdefault((item.labels, item.answer, item.question), peer.doc(item))
        return peer.grade(module, doc, text) if text or name != "vinoground" else 0.0  # an empty reply ends its whole evaluation

    return verdict


# ------------------------------------------------------------------------------------------------------------ replies


def choice_item(labels, options, *, inline=False, question="Which?", **more):
    lines = [f"{label}: {option}" for label, option in zip(labels, options, strict=True)]
    return Item("1", ("a.mp4",), "\n".join([question, *lines]) if inline else question, 0, tuple(options), tuple(labels), inline, **more)


def labelled(labels, options, n, seed):
    "Replies with other labels than A to D, by the same contexts."
    rng, found = np.random.default_rng(seed), {}
    forms = [form for form in MARKED if labels[0].startswith("A") or "Option" not in form]
    while len(found) < n:
        context, (means, templates) = list(CONTEXTS.items())[len(found) % len(CONTEXTS)]
        mine, other = rng.choice(len(labels), 2, replace=False)
        form, template = str(rng.choice(forms)), str(rng.choice(templates))
        x, y = (form.format(x=labels[k], text=options[k]) for k in (mine, other))
        text = template.format(x=x, y=y)
        found[text + " " * (text in found)] = Reply("choice", form, context, text, labels[mine] if means else None)
    return list(found.values())


def corpus(name, n, seed=0):
    "Replies to a benchmark's questions, and the items that each of them is held against, one for each right answer."
    of_kind = lambda *kinds: [reply for reply in reply_corpus(n * 7, seed) if reply.kind in kinds][:n]
    if name == "charades_sta":
        mine = of_kind("moment", "interval")
        spans = [reply.meaning for reply in mine if reply.meaning][: n // 3]
        return mine, lambda k, reply: [Item("1", ("a.mp4",), "a kite rises", (span,)) for span in {reply.meaning or spans[k % len(spans)], spans[(k * 7 + 1) % len(spans)]}]
    if name == "vcrbench":
        mine = of_kind("order")
        orders = [tuple(map(int, reply.meaning)) for reply in mine if reply.meaning]
        return mine, lambda k, reply: [Item("1", ("a.mp4",), "Make Tea", order) for order in {tuple(map(int, reply.meaning or "")) or orders[k % len(orders)], orders[(k * 7 + 1) % len(orders)]}]
    kinds = [(tuple("ABCD"), OPTIONS, of_kind("choice"), {"groups": {"kind": ("multi-choice",)}})]
    if name == "tempcompass":
        kinds.append((("yes", "no"), ("yes", "no"), labelled(("yes", "no"), ("yes", "no"), n, seed), {"groups": {"kind": ("yes_no",)}}))
        names = ("Caption A", "Caption B", "Caption C")
        kinds.append((names, CAPTIONS, labelled(names, CAPTIONS, n, seed), {"groups": {"kind": ("caption_matching",)}, "inline": True}))
    elif name == "vinoground":
        kinds = [(("A", "B"), MORE[:2], labelled(("A", "B"), MORE[:2], n // 2, seed), {})]
    elif name in ("cgbench", "video_mmmu"):
        kinds.append((tuple("ABCDEFGH"), MORE, labelled(tuple("ABCDEFGH"), MORE, n, seed), {}))
    elif name in ("longvideobench", "video_tt", "mvbench", "tvbench"):
        kinds.append((tuple("ABCDE"), MORE[:5], labelled(tuple("ABCDE"), MORE[:5], n, seed), {}))
    sets = {id(reply): [replace(choice_item(labels, options, **more), answer=place) for place in range(len(labels))] for labels, options, mine, more in kinds for reply in mine}
    return [reply for *_, mine, _ in kinds for reply in mine], lambda k, reply: sets[id(reply)]


def meant(reply, item):
    "What the reply deserves by its meaning, in [0, 1]; nothing where it means no single answer."
    if reply.meaning is None:
        return 0.0
    if isinstance(item.answer, int):
        return float(reply.meaning == item.gold)
    return float(tuple(map(int, reply.meaning)) == item.answer) if isinstance(item.answer[0], int) else best_tiou(reply.meaning, item)


@dataclass(frozen=True)
class Verdicts:
    "One reply against one right answer: the grades of all."
    reply: Reply
    item: Item
    grades: dict[str, float]  # scorer, "peer" -> grade
    meant: float


def verdicts(name, peer, n=2000, seed=0, scorers=("paper", "official", "lmms-eval"), keep=lambda reply, item: True):
    "All grades of a benchmark's corpus, or of what is kept of it; `peer` may be None."
    replies, items = corpus(name, n, seed)
    bench, found = BENCHMARKS[name], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, reply in enumerate(replies):
            for item in (one for one in items(k, reply) if keep(reply, one)):
                grades = {scorer: bench.scorers[scorer].verdict(reply.text, item) or 0.0 for scorer in scorers}
                grades |= {"peer": peer(reply.text, item)} if peer else {}
                found.append(Verdicts(reply, item, grades, meant(reply, item)))
    return found


def same(one, other):
    return abs(one - other) < 1e-6


def agreement(found, one, other):
    "The share of verdicts that are the same."
    return float(np.mean([same(each.grades[one], each.grades[other]) for each in found]))


def classes(found, one, other):
    "Where two differ, by context of the reply: how often, how often the first is right, an example."
    differ = [each for each in found if not same(each.grades[one], each.grades[other])]
    counts = Counter(each.reply.context for each in differ)
    rows = []
    for context, count in counts.most_common():
        mine = [each for each in differ if each.reply.context == context]
        right = float(np.mean([abs(each.grades[one] - each.meant) < abs(each.grades[other] - each.meant) for each in mine]))
        rows.append({"context": context, "verdicts": count, f"{one} is right": round(right, 2), "example": min((each.reply.text for each in mine), key=len)})
    return rows
