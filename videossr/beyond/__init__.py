"""Pretext tasks beyond the paper's. Importing this package registers them in `TASKS`, with their rewards."""

from videossr.beyond import backwards, camera, patches, segments

__all__ = ["backwards", "camera", "patches", "segments"]
