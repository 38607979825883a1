"""Replies by a grammar, each with what it means: an answer, or None where no single answer is given.

A reply is an answer written in some form and put into some context. What it means follows from how it was made and never from how it is read,
so that a reader can be asked both how much it misses and what it makes up."""
from dataclasses import dataclass
from typing import Any

import numpy as np

WORDS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()
OPTIONS = ("a cup", "a kite", "nothing at all", "both of them")
WIDE = str.maketrans("0123456789.,-:<>()[]%ABCD", "０１２３４５６７８９．，－：＜＞（）［］％ＡＢＣＤ")
THIRDS = "circle", "square", "triangle"


@dataclass(frozen=True)
class Reply:
    "A reply and its meaning."
    kind: str  # key of `KINDS`
    form: str  # how the answer is written
    context: str  # what it is put into
    text: str
    meaning: Any  # None: no single answer


def seconds(value):
    return f"{value:g}" if value % 1 == 0 and value % 2 else f"{value:.1f}"


def clock(value, hours=False):
    rest = f"{value % 60:04.1f}".replace(".0", "") if value % 1 == 0 else f"{value % 60:04.1f}"
    return f"{int(value // 3600)}:{int(value // 60) % 60:02d}:{rest}" if hours else f"{int(value // 60):02d}:{rest}"


def many(count, shape):
    return f"{count} {shape}" + "s" * (count != 1)


def spelled(template, write=seconds):
    return lambda answer: template.format(a=write(answer[0]), b=write(answer[1]))


def of_counts(template):
    return lambda counts: template.format(**dict(zip("cst", counts)), **{name.upper(): many(count, shape) for name, count, shape in zip("cst", counts, THIRDS)}, **dict(zip(("cw", "sw", "tw"), (WORDS[k] for k in counts))))


def of_choice(template):
    return lambda letter: template.format(x=letter, text=OPTIONS["ABCD".index(letter)], Text=OPTIONS["ABCD".index(letter)].capitalize())


INTERVALS = {
    "as asked": [spelled("{a}-{b}")],
    "blanks and dashes": [spelled("{a} - {b}"), spelled("{a}–{b}"), spelled("{a} — {b}"), spelled("{a}−{b}"), spelled("{a} ~ {b}")],
    "units": [spelled("{a}s - {b}s"), spelled("{a} seconds to {b} seconds"), spelled("{a} to {b} s"), spelled("{a}-{b} seconds"), spelled("{a} sec - {b} sec")],
    "from ... to": [spelled("from {a} to {b}"), spelled("from {a} seconds until {b} seconds"), spelled("from {a}s till {b}s"), spelled("from {a} through {b} s")],
    "between ... and": [spelled("between {a} and {b} seconds"), spelled("between {a} s and {b} s")],
    "about": [spelled("from {a} seconds until about {b}"), spelled("from about {a} to {b} s"), spelled("approximately {a} - {b} seconds"), spelled("around {a} s to around {b} s"), spelled("between about {a} and {b} s"), spelled("~{a}s to ~{b}s"),
              spelled("from roughly {a} seconds until about {b} seconds"), spelled("about {a}-{b} s")],
    "times in brackets": [spelled("<{a} seconds> - <{b} seconds>"), spelled("<{a} seconds> to <{b} seconds>"), spelled("<{a} s>-<{b} s>"), spelled("<{a}> - <{b}>"), spelled("[{a}s] - [{b}s]"), spelled("from <{a} seconds> until <{b} seconds>"),
                          spelled("between <{a} seconds> and <{b} seconds>")],
    "pair in brackets": [spelled("[{a}, {b}]"), spelled("({a}, {b})"), spelled("<{a}-{b}>"), spelled("[{a} s, {b} s]"), spelled("<{a} seconds - {b} seconds>"), spelled("[{a}-{b}]"), spelled("[<{a} seconds>, <{b} seconds>]")],
    "mm:ss": [spelled("{a}-{b}", clock), spelled("{a} - {b}", clock), spelled("from {a} to {b}", clock), spelled("[{a}, {b}]", clock), spelled("from {a} until about {b}", clock), spelled("<{a}> - <{b}>", clock), spelled("{a}–{b}", lambda value: clock(value, True))],
    "full-width": [lambda pair, one=one: one(pair).translate(WIDE) for one in (spelled("{a}-{b}"), spelled("<{a} s> - <{b} s>"), spelled("({a}, {b})"), spelled("[{a}-{b}]"), spelled("{a}-{b}", clock))] + [lambda pair: spelled("{a}～{b}")(pair).translate(WIDE)],
    "start and end": [spelled("start: {a}, end: {b}"), spelled("Start time: {a} s\nEnd time: {b} s"), spelled("it starts at {a} seconds and ends at {b} seconds"), spelled("it begins at about {a} s and ends at about {b} s"),
                      spelled("it begins at {a} s and stops at {b} s"), spelled("starting at {a} s and ending at {b} s"), spelled('{{"start": {a}, "end": {b}}}'), spelled("start: <{a} seconds>, end: <{b} seconds>")],
    "marks": [spelled("from the {a}-second mark to the {b}-second mark"), spelled("from the {a} second mark until the {b} second mark")],
    "TeX": [spelled(r"{a}\text{{ s}} - {b}\text{{ s}}"), spelled(r"${a}$ to ${b}$"), spelled(r"[{a},\, {b}]"), spelled(r"{a} \rightarrow {b}"), spelled(r"\text{{{a}-{b}}}")],
    "minutes in words": [lambda pair: " to ".join(f"{int(value // 60)} min {value % 60:g} s" for value in pair)],
}  # fmt: skip
COUNTS = {
    "as asked": [of_counts("{c},{s},{t}")],
    "list": [of_counts("{c}, {s}, {t}"), of_counts("({c}, {s}, {t})"), of_counts("[{c},{s},{t}]"), of_counts("{c}, {s} and {t}"), of_counts("{c} {s} {t}"), of_counts("{c}.0,{s}.0,{t}.0")],
    "named": [of_counts("{C}, {S}, {T}"), of_counts("{C}, {S} and {T}"), of_counts("there are {C}, {S}, and {T}")],
    "other order": [of_counts("{T}, {C} and {S}"), of_counts("{S}, {T}, {C}"), of_counts("triangles: {t}, circles: {c}, squares: {s}")],
    "labelled": [of_counts("Circles: {c}\nSquares: {s}\nTriangles: {t}"), of_counts("circles = {c}, squares = {s}, triangles = {t}"), of_counts("- Circles: {c}\n- Squares: {s}\n- Triangles: {t}"), of_counts("circles ({c}), squares ({s}), triangles ({t})"),
                 of_counts('{{"circles": {c}, "squares": {s}, "triangles": {t}}}'), of_counts("Number of circles: {c}, number of squares: {s}, number of triangles: {t}"), of_counts("**Circles:** {c}, **Squares:** {s}, **Triangles:** {t}")],
    "words": [of_counts("{cw}, {sw}, {tw}"), of_counts("{cw} circles, {sw} squares and {tw} triangles")],
    "full-width": [lambda counts, one=one: one(counts).translate(WIDE) for one in (of_counts("{c},{s},{t}"), of_counts("({c}, {s}, {t})"))],
    "TeX": [of_counts(r"{c},\, {s},\, {t}"), of_counts(r"\text{{{c},{s},{t}}}"), of_counts(r"{c}\text{{ circles}}, {s}\text{{ squares}}, {t}\text{{ triangles}}")],
}  # fmt: skip
ORDERS = {
    "as asked": [str],
    "list": [", ".join, ",".join, "-".join, " ".join, " - ".join, lambda order: f"[{', '.join(order)}]"],
    "clips": [lambda order: ", ".join(f"Clip {clip}" for clip in order), lambda order: f"Clips {', '.join(order[:-1])} and {order[-1]}", lambda order: "Clip " + ", then Clip ".join(order)],
    "arrows": [" → ".join, " -> ".join, lambda order: " → ".join(f"Clip {clip}" for clip in order), "->".join],
    "full-width": [lambda order: order.translate(WIDE), lambda order: ",".join(order).translate(WIDE), lambda order: f"[{','.join(order)}]".translate(WIDE)],
    "TeX": [r" \rightarrow ".join, r" \to ".join, lambda order: rf"\text{{{order}}}", r",\,".join],
    "numbered lines": [lambda order: "\n".join(f"{place}. Clip {clip}" for place, clip in enumerate(order, 1))],
}  # fmt: skip
CHOICES = {
    "as asked": [of_choice("{x}")],
    "marks": [of_choice("({x})"), of_choice("{x}."), of_choice("{x})"), of_choice("[{x}]"), of_choice("({x}).")],
    "with its text": [of_choice("{x}. {text}"), of_choice("({x}) {Text}"), of_choice("{x}: {text}"), of_choice("{x}) {text}")],
    "its text": [of_choice("{text}"), of_choice("{Text}")],
    "option": [of_choice("Option {x}"), of_choice("option ({x})")],
    "full-width": [lambda letter, one=one: one(letter).translate(WIDE) for one in (of_choice("{x}"), of_choice("({x})"), of_choice("{x}."))],
    "TeX": [of_choice(r"\text{{{x}}}"), of_choice(r"\text{{({x})}}"), of_choice(r"${x}$"), of_choice(r"\mathrm{{{x}}}"), of_choice(r"\textbf{{{x}}}")],
}  # fmt: skip
NUMBERS = {
    "as asked": [lambda value: f"{value:g}"],
    "decimals": [lambda value: f"{value:.1f}", lambda value: f"+{value:g}"],
    "units": [lambda value: f"{value:g} m", lambda value: f"{value:g} apples", lambda value: f"{value:g}%", lambda value: f"{value:g} seconds", lambda value: f"${value:g}"],
    "about": [lambda value: f"about {value:g}", lambda value: f"approximately {value:g} m", lambda value: f"~{value:g}"],
    "full-width": [lambda value: f"{value:g}".translate(WIDE), lambda value: f"{value:.1f}".translate(WIDE)],
    "TeX": [lambda value: rf"{value:g}\text{{ m}}", lambda value: rf"\text{{{value:g}}}", lambda value: rf"{value:g}\,\mathrm{{cm}}", lambda value: rf"{value:g}\%"],
}  # fmt: skip
KINDS = {"interval": INTERVALS, "moment": INTERVALS, "counts": COUNTS, "order": ORDERS, "choice": CHOICES, "number": NUMBERS}

# What is meant: {x}, where "x" stands, or nothing at all, where None does. {y} is another answer in the same form.
CONTEXTS = {
    "bare": ("x", ["{x}", "{x}.", " {x}\n", "{x}<|im_end|>"]),
    "cue": ("x", ["The answer is {x}.", "Answer: {x}", "My answer: {x}.", "The correct answer is: {x}"]),
    "hedge": ("x", ["I think it is {x}.", "Probably {x}.", "I would say {x}.", "I believe that the answer is {x}."]),
    "tag": ("x", ["<answer>{x}</answer>", "<answer>\n{x}\n</answer>", "Let me see. <answer>{x}</answer>", "<answer>{x}"]),
    "boxed": ("x", [r"\boxed{{{x}}}", r"$\boxed{{{x}}}$", r"\[\boxed{{{x}}}\]", r"The answer is \boxed{{{x}}}.", r"\( \boxed{{{x}}} \)", r"<answer>\boxed{{{x}}}</answer>"]),
    "final answer": ("x", ["Final answer: {x}", "**Final Answer:** {x}", "The final answer is {x}.", "### Final Answer\n{x}", "I looked at it twice.\n\nFinal answer: {x}"]),
    "markdown": ("x", ["**{x}**", "`{x}`", "**Answer:** {x}", "```\n{x}\n```", "> {x}"]),
    "thought": ("x", ["<think>{y}? No.</think>{x}", "<think>\nFirst {y}.\n</think>\n\n<answer>{x}</answer>", "<think>{y}</think>\n\nThe answer is {x}."]),
    "preamble": ("x", ["I looked at all 48 frames. The answer is {x}.", "In the video of 61.5 s, 2 things happen. <answer>{x}</answer>", "The question has 3 parts.\n\nFinal answer: {x}"]),
    "marked among several": ("x", ["It could be {y}. Final answer: {x}", "{y} or {x}?\n\n**Final answer:** {x}", "Candidates: {y}; {x}. <answer>{x}</answer>", r"First I thought of {y}. So \boxed{{{x}}}", "{y} is possible, too.\n\n### Final Answer\n{x}"]),
    "marked correction": ("x", ["The answer is {y}. Wait, no. Final answer: {x}", "{y}... actually, no. <answer>{x}</answer>", r"{y}. Sorry, that is wrong: \boxed{{{x}}}"]),
    "correction": ("x", ["{y}. No, wait: {x}", "The answer is {y}. Wait, it is {x}.", "{y}, or rather {x}", "Not {y} but {x}.", "{y}. Scratch that. {x}"]),
    "said twice": ("x", ["The answer is {x}. <answer>{x}</answer>", "<answer>{x}</answer>\n\\boxed{{{x}}}", "The answer is {x}.\n\nFinal answer: {x}"]),
    "example first": ("x", ["An answer looks like {y}, for example. <answer>{x}</answer>", "The format is {y}.\n\nFinal answer: {x}"]),
    "explained": ("x", ["<answer>{x}</answer> This is what is seen.", "The answer is {x}. This is what is seen.", "{x}\n\nThat is when it is seen."]),
    "several": (None, ["{x} or {y}", "{x} and {y}", "{x}\n{y}", "Either {x} or {y}.", "The answer is {x}. The answer is {y}.", "Perhaps {x}, perhaps {y}.", "{x}; {y}", "Final answer: {x} or {y}", "1) {x}\n2) {y}", "Final answer: {x}\nFinal answer: {y}"]),
    "several marked": (None, ["<answer>{x}</answer><answer>{y}</answer>", "<answer>{x} or {y}</answer>", r"\boxed{{{x}}} \boxed{{{y}}}", r"<answer>{x}</answer> or \boxed{{{y}}}", r"\boxed{{{x} \text{{ or }} {y}}}", r"Final answer: {x}. \boxed{{{y}}}"]),
    "negation": (None, ["not {x}", "It is not {x}.", "The answer is not {x}.", "It cannot be {x}.", "Anything but {x}.", "{x} is wrong.", "I doubt that it is {x}.", "I don't think that it is {x}.", "The answer isn't {x}.", "Final answer: not {x}", "Surely it's never {x}.", "No, {x} is false."]),
    "marked negation": (None, ["<answer>not {x}</answer>", r"The answer is not \boxed{{{x}}}.", "It isn't <answer>{x}</answer>", r"\boxed{{\text{{not }} {x}}}", r"It can be anything except \boxed{{{x}}}."]),
    "question": (None, ["{x}?", "Is it {x}?", "<answer>{x}?</answer>", "Could it be {x}?", "Final answer: {x}?"]),
    "taken back": (None, ["<answer>{x}</answer> Wait, that is wrong.", "{x}. Sorry, that is wrong.", "Final answer: {x}. Scratch that.", r"\boxed{{{x}}}. Actually, that was a mistake.", "The answer is {x}. No, that's incorrect."]),
    "example": (None, ["For example, {x}.", "e.g. {x}", "The format is {x}.", "I should answer in a form such as {x}.", "You asked for an answer like {x}, for example.", "The task says: answer with {x}, for instance."]),
    "refusal": (None, ["I cannot determine this from the video.", "Sorry, I can't tell whether it is {x}.", "There is not enough information to say {x}.", "I'm unable to watch videos.", "N/A", "None of this can be seen.", "I see no kite, so I can't say {x}."]),
    "truncated": (None, ["<think>It may be {x}", "The answer is", "<answer>", r"\boxed{{", "<think>\nSo <answer>{x}</answer>", "Let me look at the frames one by one. At first", "", "<think>{y}</think>"]),
}  # fmt: skip
OWN = {  # kind -> context -> meaning of the numbers, templates of the answer's own numbers
    "interval": {
        "whole video": (None, ["The video runs from {a} to {b} s.", "The frames are from {a} to {b} s.", "I was shown {a} to {b} seconds of it.", "The clip lasts {a}-{b} s."]),
        "other units": (None, ["frames {a}-{b}", "{a}-{b} frames", "{a}-{b} %", "from frame {a} to frame {b}", "{a}-{b} ms", "{a} to {b} percent of the video"]),
        "one time": (None, ["at {a} s", "{a}", "It starts at {a} s and", "from {a} s until the end", "{a}-", "It starts at {a} s.", "<{a} seconds>"]),
        "no interval": (None, ["-{a}-{b}", "{a} to -{b}", "{b}-{a}", "from {b} s to {a} s", "{a}-{b}-999", "{a}-{b}, 998-999", "<{a} seconds> - <{b} seconds> - <999 seconds>", "x{a}-{b}", "{a}e3-{b}e3"]),
    },
    "counts": {
        "not all": (None, ["{C} and {T}", "{c},{s}", "{C}, {S} and", "{c},{s},{t},1", "{c} shapes"]),
        "bounds": (None, ["at least {C}, {S} and {T}", "{C}, {S} and {T} in each frame", "up to {c},{s},{t}", "more than {C}, {S}, {T}", "{c} or 99 circles, {S}, {T}"]),
        "no counts": (None, ["-{c}, -{s}, -{t}", "{c}.5,{s},{t}", "{c}-{s}-{t}", "triangles, squares, circles: {c},{s},{t}", "minus {C}, {S} and {T}", "{c}/{s}/{t}", "{C}, {C} more, {S} and {T}"]),
    },
    "order": {
        "as shown": (None, ["The clips are shown in the order {x}.", "The shuffled order is {x}.", "There are clips {comma}.", "The given sequence is {comma}."]),
        "backwards": (None, ["The reverse order is {x}.", "{x} backwards", "From last to first: {comma}"]),
        "no order": (None, ["{x}{y}", "{short}", "{twice}", "-{x}", "{x}.5", "{comma}, 1", "{places}"]),
    },
    "choice": {
        "all of them": (None, ["A, B, C, D", "A, B, C or D?", "A. a cup B. a kite C. nothing at all D. both of them", "a cup, a kite, nothing at all, both of them"]),
        "no option": (None, ["E", "X", "yes", "None of the above.", "a dog", "See above."]),
        "one of two": ("x", ["{y} is wrong, so the answer is {x}.", "Between {y} and {x}, the answer is {x}.", "It is not {y}. The answer is {x}."]),
    },
    "number": {
        "bounds": (None, ["at least {v}", "more than {v}", "up to {v}", "fewer than {v}", "at most {v}", "over {v}", "under {v}", "less than {v}"]),
        "ranges": (None, ["{v}-{w}", "{v} to {w}", "between {v} and {w}", "{v} or {w}", "{v}/{w}"]),
        "scale": ("scale", ["{v} million", "{v} thousand", "{v}k", "{v} billion", "{v} dozen", "{v} hundred"]),
        "no number": (None, ["many", "{v}:30", "x{v}", "{v}.{w}.1", "--{v}", "infinity", "nan", "half of {v}"]),
    },
}  # fmt: skip
OWN["moment"] = OWN["interval"]
SCALES = {"million": 1e6, "thousand": 1e3, "k": 1e3, "billion": 1e9, "dozen": 12, "hundred": 100}
ASKED = [  # how the paper asks the public benchmarks for a moment, in its own spelling
    "The event happens in the {x} seonds.", "The event happens in the {x}.", "The given event happens in {x}.", "The moment is {x}.", "\"a kite rises\" happens {x}.", "It can be seen {x}.",
]  # fmt: skip
SHARES = {"interval": 0.26, "moment": 0.14, "counts": 0.17, "order": 0.14, "choice": 0.17, "number": 0.12}


def an_answer(kind, rng):
    if kind in ("interval", "moment"):
        start = int(rng.integers(0, 1500)) / 10 if rng.random() < 0.6 else float(rng.integers(0, 150))
        return start, round(start + int(rng.integers(5, 300)) / 10, 1) if start % 1 else start + float(rng.integers(1, 30))
    if kind == "counts":
        return tuple(int(count) for count in rng.integers(1, 13, 3))
    if kind == "order":
        return "".join(map(str, rng.permutation(6) + 1))
    return str(rng.choice(list("ABCD"))) if kind == "choice" else float(rng.integers(2, 500))


def parts(kind, answer, other):
    "What the templates of `OWN` are filled with."
    if kind in ("interval", "moment"):
        return {"a": seconds(answer[0]), "b": seconds(answer[1])}
    if kind == "counts":
        return {**dict(zip("cst", answer)), **{name.upper(): many(count, shape) for name, count, shape in zip("cst", answer, THIRDS)}}
    if kind == "order":
        places = ", ".join(f"Clip {place}: {clip}" for place, clip in enumerate(answer, 1))
        return {"x": answer, "y": other, "comma": ", ".join(answer), "short": answer[:-1], "twice": answer[:-1] + answer[0], "places": places}
    return {"x": answer, "y": other} if kind == "choice" else {"v": f"{answer:g}", "w": f"{max(answer, other) + 1:g}"}


def a_reply(kind, number, rng):
    "Contexts and forms take turns, so that each meets each."
    answer = other = an_answer(kind, rng)
    while other == answer:
        other = an_answer(kind, rng)
    forms, contexts = KINDS[kind], {**CONTEXTS, **OWN[kind], **({"asked": ("x", ASKED)} if kind == "moment" else {})}
    form, context = list(forms)[(number + number // len(contexts)) % len(forms)], list(contexts)[number % len(contexts)]
    means, templates = contexts[context]
    template = str(rng.choice(templates))
    if context in OWN[kind]:
        text = template.format(**parts(kind, answer, other))
        scale = next((size for word, size in SCALES.items() if text.endswith(word)), 1) if means == "scale" else 1
        return Reply(kind, "", context, text, answer * scale if means == "scale" else answer if means else None)
    write = forms[form][int(rng.integers(len(forms[form])))]
    return Reply(kind, form, context, template.format(x=write(answer), y=write(other)), answer if means else None)


def reply_corpus(n: int = 2000, seed: int = 0) -> list[Reply]:
    "The same ones for the same seed; none twice."
    rng, found = np.random.default_rng(seed), {}
    for kind, share in SHARES.items():
        wanted, number, mine = round(n * share), 0, 0
        while mine < wanted:
            one = a_reply(kind, number, rng)
            number += 1
            if (kind, one.text) not in found:
                found[kind, one.text] = one
                mine += 1
    return list(found.values())
