"""Pretext tasks beyond the paper's. Importing this package registers them in `TASKS`, with their rewards."""

from videossr.beyond import backwards, camera, motion, pairs, patches, segments

__all__ = ["backwards", "camera", "motion", "pairs", "patches", "segments"]
