"""Widgets for JupyterLab: play a sample, answer it yourself, and see what a model said beside the truth."""

from videossr.viewers.core import Reel, Viewer, pack
from videossr.viewers.rollouts import RolloutBrowser

__all__ = ["Reel", "RolloutBrowser", "Viewer", "pack"]
