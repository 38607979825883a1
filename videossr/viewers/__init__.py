"""Widgets for JupyterLab: play a sample, answer it yourself, and see what a model said beside the truth."""

from videossr.viewers.core import Reel, Viewer, pack

__all__ = ["Reel", "Viewer", "pack"]
