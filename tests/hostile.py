"What a model, a server or an attacker might send: replies for the tests of everything that reads them, and a pickle that tells when it is opened."
from pathlib import Path

import numpy as np

ANSWERS = {"grounding": "14.5-26.2", "counting": "3,1,4", "jigsaw": "341562"}
PIECES = [
    "", " ", "\n", "\n\n", "\t", "\u2028", "\u00a0", "\u200b", "\ufeff", "\x00", "\x1b[31m", "\ud83d", "\udc4d", "é", "٣", "三", "½", "²", "１２", "−", "–", "—", "-",
    "--", "→", "->", ",", ";", ":", ".", "..", "...", "?", "!", "(", ")", "[", "]", "{", "}", "<", ">", "<|im_end|>", "<|video_pad|>", "<think>", "</think>", "<answer>",
    "</answer>", "\\boxed{", "**", "`", "```", "$", "%", "\\", "/", "|", "'", '"', "0", "1", "9", "14.5", "26.2", "14.5-26.2", "26.2-14.5", "1e308", "1e-400", "inf", "nan",
    "-0", "00000", "3,1,4", "3, 1 and 4", "341562", "3 4 1 5 6 2", "111111", "1:02", "1:02:03", "99:99", "0:60", "seconds", "s", "to", "from", "between", "and", "start",
    "end", "frames", "circles", "squares", "triangles", "one", "twenty", "none", "no", "a", "Clip 3", "clip", "order:", "the answer is", "not", "or", "wait", "example", "if",
    "I cannot tell", "null", "None", "NaN", "True", "__import__('os')", "%s%n", "{0}", "<script>", "'; DROP TABLE", "SYSTEM:", "9" * 400, "1." * 30, "(" * 50,
]  # fmt: skip


class Trap:
    "Unpickling this writes a file."

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return Path.touch, (Path(self.place),)


def hostile_replies(n: int, seed: int = 0) -> list[str]:
    "The same ones for the same seed: pieces put together, true answers with something changed, single pieces without end, and any characters."
    rng, replies = np.random.default_rng(seed), []
    answers = list(ANSWERS.values())
    while len(replies) < n:
        kind = rng.integers(5)
        if kind == 0:
            replies.append("".join(rng.choice(PIECES, rng.integers(1, 30))))
        elif kind == 1:
            replies.append(" ".join(rng.choice(PIECES, rng.integers(1, 60))))
        elif kind == 2:  # an answer with a few places changed
            letters = list(rng.choice(answers))
            for _ in range(rng.integers(1, 4)):
                letters.insert(rng.integers(len(letters) + 1), rng.choice(PIECES))
            replies.append("".join(letters))
        elif kind == 3 and rng.random() < 0.3:  # one thing, over and over
            piece = str(rng.choice(PIECES + answers)) + str(rng.choice(["", " ", "\n", ",", "-"]))
            replies.append((piece * 20_000)[: int(10 ** rng.uniform(2, 3.6 if rng.random() < 0.9 else 4.3))])
        else:
            points = rng.integers(0, (128, 0x3000, 0x110000)[rng.integers(3)], rng.integers(0, 200))
            replies.append("".join(map(chr, points)))
    return replies
