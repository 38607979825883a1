"""The pretext tasks. Importing this package registers grounding, counting and jigsaw in `TASKS`."""

# the order in which they are imported is their order in TASKS, and so in every table
from videossr.tasks import grounding, counting, jigsaw  # noqa: I001
from videossr.tasks.core import TASKS, Difficulty, Sample, Task, Unsolvable, make_sample, register, render

__all__ = [
    "TASKS",
    "Difficulty",
    "Sample",
    "Task",
    "Unsolvable",
    "counting",
    "grounding",
    "jigsaw",
    "make_sample",
    "register",
    "render",
]
