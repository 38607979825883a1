"""The pretext tasks. Importing this package registers grounding, counting and jigsaw in `TASKS`."""

from videossr.tasks import counting, grounding, jigsaw
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
