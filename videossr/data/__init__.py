"""Training data: from any folder of videos to samples, built, loaded, exported and described."""

from videossr.data.build import Built, build_dataset, finish_dataset, make_plan
from videossr.data.card import write_card
from videossr.data.export import export_easyr1, export_swift, export_verl, exported_answer
from videossr.data.groups import Twin, find_groups, find_twins
from videossr.data.load import FrameCache, Rendered, Samples, load_samples, sample_of_verl, use_frame_cache
from videossr.data.mix import (
    MIXES,
    Mix,
    MixRow,
    build_samples,
    count_refusals,
    find_videos,
    get_mix,
    known_groups,
    listed_groups,
    listed_videos,
    mix_of,
    save_samples,
    shuffled_keys,
    split_keys,
    split_videos,
    to_trl_dataset,
)
from videossr.data.sources import load_rows, split_rows
from videossr.files import VIDEO_SUFFIXES

__all__ = [
    "MIXES",
    "VIDEO_SUFFIXES",
    "Built",
    "FrameCache",
    "Mix",
    "MixRow",
    "Rendered",
    "Samples",
    "Twin",
    "build_dataset",
    "build_samples",
    "count_refusals",
    "export_easyr1",
    "export_swift",
    "export_verl",
    "exported_answer",
    "find_groups",
    "find_twins",
    "find_videos",
    "finish_dataset",
    "get_mix",
    "known_groups",
    "listed_groups",
    "listed_videos",
    "load_rows",
    "load_samples",
    "make_plan",
    "mix_of",
    "sample_of_verl",
    "save_samples",
    "shuffled_keys",
    "split_keys",
    "split_rows",
    "split_videos",
    "to_trl_dataset",
    "use_frame_cache",
    "write_card",
]
