"""The sixteen public benchmarks of the VideoSSR paper, in its order, and seven that papers since then report. Importing this package registers them in `BENCHMARKS`."""

# the order in which they are imported is their order in BENCHMARKS, and so in every table
from videossr.benchmarks import general, long, grounding, reasoning, recent, stricter  # noqa: I001
from videossr.benchmarks.core import (
    BENCHMARKS,
    Benchmark,
    Item,
    Questions,
    Scorer,
    benchmark_card,
    blind_scores,
    load_benchmark,
    make_example,
    register_benchmark,
    score_benchmark,
)
from videossr.benchmarks.tables import benchmark_names, benchmarks_table, draw_benchmarks, evaluate_benchmarks, published_scores

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Item",
    "Questions",
    "Scorer",
    "benchmark_card",
    "benchmark_names",
    "benchmarks_table",
    "blind_scores",
    "draw_benchmarks",
    "evaluate_benchmarks",
    "general",
    "grounding",
    "load_benchmark",
    "long",
    "make_example",
    "published_scores",
    "reasoning",
    "recent",
    "register_benchmark",
    "score_benchmark",
    "stricter",
]
