"""One prompt of each pretext task, and what the transformers that a model was released with makes of it.

`snapshots/released-*.json` hold the facts. They are made in two steps, the second in an environment with an old transformers (tests/README.md):

    python tests/golden.py write FOLDER
    python tests/golden.py facts FOLDER > tests/snapshots/released-4.57.1.json

transformers 4.57.1 is asked about Qwen3-VL, 4.49.0 about Qwen2.5-VL: each about the models that came with it.
"""
import itertools
import json
import sys
from pathlib import Path

import numpy as np

# How `videossr.released.write_release` makes each folder.
CASES = {
    "Qwen3-VL-2B": {},
    "Qwen3-VL-8B Thinking": {"thinking": True},
    "Qwen3-VL-30B-A3B": {},
    "Qwen3-VL-8B, released vocabulary": {"vocabulary": "released"},
    "Qwen2.5-VL-3B": {},
    "Qwen2.5-VL-7B": {},
    "Qwen2.5-VL-7B, released vocabulary": {"vocabulary": "released"},
}
DIRECTLY = "Answer directly with"
# Task: question, system prompt, frame height and width in merged patches, times of each clip's frames in seconds. Some clips are uneven, one has an
# odd number of frames, and slots lie whole numbers of seconds apart in some and not in others.
TASKS = {
    "grounding": (
        f"In one part of this video red and blue are swapped. When does that part start and end? {DIRECTLY} start-end in seconds with one decimal "
        "and nothing else, for example 12.5-17.0.",
        None, (5, 4), [[0.5, 1.0, 1.5, 2.0, 2.5, 3.0]],
    ),
    "counting": (
        "Some frames of this video have plain filled circles, squares and triangles drawn on top. Each drawn shape is on one frame only. Count them "
        f"over all frames. {DIRECTLY} the three totals as circles,squares,triangles and nothing else, for example 3,1,4.",
        "You watch videos closely.", (2, 3), [[0.4, 0.9, 1.4, 7.0, 9.25]],
    ),
    "jigsaw": (
        "One video was cut into 3 clips of equal length, shown above in shuffled order. In which order must they be played? "
        f"{DIRECTLY} the 3 clip numbers from first to last, as 3 digits and nothing else, for example 213.",
        None, (3, 2), [[4.0, 4.75, 5.5, 6.25], [0.0, 0.75, 1.5, 2.25], [12.0, 13.0, 14.0, 15.0]],
    ),
    "backwards": (
        "One video was cut into 2 clips of equal length, shown above in shuffled order. One of them plays backwards. Which one? "
        f"{DIRECTLY} its number and nothing else, for example 2.",
        None, (2, 2), [[10.0, 10.3, 10.6, 10.9], [0.0, 0.3, 0.6, 0.9]],
    ),
    "camera": (
        "The camera moves over a still picture: left, right, up, down (pixels), by 8, 16 or 32. Which way and by how much? "
        f"{DIRECTLY} the two and nothing else, for example left 16.",
        None, (3, 5), [[0.0, 1.0, 2.0, 3.0]],
    ),
    "patches": (
        "Two parts of this picture are swapped. Its parts are 2 rows of 3, with numbers from 1 to 6, row by row. Which two? "
        f"{DIRECTLY} the two numbers and nothing else, for example 1,3.",
        None, (2, 3), [[3.1, 7.7]],
    ),
}  # fmt: skip


def name_of(case):
    "The release that a case is about, one of `videossr.released.RELEASES`."
    return case.split(",")[0].removesuffix(" Thinking")


def is_timed(case):
    return case.startswith("Qwen2.5")


def prompts(case, make=lambda frames, times: (frames, times)):
    "(task, clips, question, system prompt) of each task; `make(frames, times)` makes a clip of uint8 (T, H, W, 3) and seconds, e.g. `Clip`."
    side = 28 if is_timed(case) else 32
    for task, (question, system, (rows, columns), clips) in TASKS.items():
        made = []
        for number, times in enumerate(clips):
            t, y, x, c = np.ogrid[: len(times), : rows * side, : columns * side, :3]
            made.append(make(((37 * t + 5 * y + 3 * x + 71 * c + 29 * number + y * x // 4) % 256).astype(np.uint8), np.array(times)))
        yield task, made, question, system


def talk(case, clips, question, system):
    "The conversation, written out again without the help of `videossr.policy`."
    parts = []
    for number, (_, times) in enumerate(clips):
        label = f"Clip {number + 1}: " if len(clips) > 1 else ""
        label += f"The video starts at {times[0]:.1f} seconds. " if is_timed(case) and times[0] > 0 else ""
        parts += [{"type": "text", "text": label}] * bool(label) + [{"type": "video"}]
    start = [{"role": "system", "content": system}] if system else []
    return [*start, {"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def runs(values):
    "[[value, how often in a row], ...]"
    return [[value, len(list(group))] for value, group in itertools.groupby(values)]


def unrolled(pairs):
    "The values of `runs`."
    return [value for value, n in pairs for _ in range(n)]


def some(logits):
    "Eight of a vocabulary's logits."
    return [round(value, 5) for value in logits[:: len(logits) // 8][:8].tolist()]


def known():
    "Case -> task -> facts, from the snapshots."
    files = sorted(Path(__file__).parent.glob("snapshots/released-*.json"))
    return {case: tasks for file in files for case, tasks in json.loads(file.read_text(encoding="utf-8"))["cases"].items()}


def load(folder):
    "Model, in float32, and processor."
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    return AutoModelForImageTextToText.from_pretrained(folder, torch_dtype=torch.float32).eval(), AutoProcessor.from_pretrained(folder)


def facts(case, model, processor):
    "What an old transformers makes of the prompts: task -> ids, grids, positions, logits behind the last token."
    import torch

    found, rope_index = {}, getattr(model, "get_rope_index", None) or model.model.get_rope_index
    for task, clips, question, system in prompts(case):
        if is_timed(case):
            options = {"fps": [(len(times) - 1) / (times[-1] - times[0]) for _, times in clips]}
        else:  # at one frame a second the index of a frame is its time
            from transformers.video_utils import VideoMetadata

            options = {"video_metadata": [VideoMetadata(total_num_frames=len(times), fps=1.0, frames_indices=times.tolist()) for _, times in clips]}
            options["do_sample_frames"] = False
        text = processor.apply_chat_template(talk(case, clips, question, system), tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], videos=[frames for frames, _ in clips], do_resize=False, return_tensors="pt", **options)
        names = ("input_ids", "video_grid_thw", "second_per_grid_ts", "attention_mask")
        positions, _ = rope_index(**{name: torch.as_tensor(inputs[name]) for name in names if name in inputs})
        with torch.no_grad():
            logits = model(**inputs, position_ids=positions).logits[0, -1]
        found[task] = {
            "ids": runs(inputs["input_ids"][0].tolist()), "grids": inputs["video_grid_thw"].tolist(), "positions": positions[:, 0].tolist(),
            "logits": some(logits),
        } | ({"seconds": [round(float(one), 6) for one in inputs["second_per_grid_ts"]]} if is_timed(case) else {})  # fmt: skip
    return found


def main(what, folder):
    if what == "write":
        from videossr.released import write_release

        for case, options in CASES.items():
            write_release(Path(folder) / case, name_of(case), **options)
        return
    import transformers

    # From 4.52 to 5.17 the seconds between frames of Qwen2.5-VL are rounded down before positions are counted, and 0.6 s become none.
    older = transformers.__version__ < "4.52"
    found = {case: facts(case, *load(Path(folder) / case)) for case in CASES if is_timed(case) == older}
    print(f'{{"transformers": "{transformers.__version__}", "cases": {{')
    for place, (case, tasks) in enumerate(found.items()):
        lines = [f"  {json.dumps(task)}: {json.dumps(one, separators=(',', ':'))}" for task, one in tasks.items()]
        print("," * (place > 0) + f" {json.dumps(case)}: {{", ",\n".join(lines), " }", sep="\n")
    print("}}")


if __name__ == "__main__":
    main(*sys.argv[1:])
