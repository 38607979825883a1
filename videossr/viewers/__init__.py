"""Widgets for JupyterLab: play a sample, answer it yourself, and see what a model said beside the truth."""

from videossr.viewers.core import Reel, Viewer, pack
from videossr.viewers.dataset import DatasetExplorer
from videossr.viewers.live import LiveView
from videossr.viewers.rollouts import RolloutBrowser

__all__ = ["DatasetExplorer", "LiveView", "Reel", "RolloutBrowser", "Viewer", "pack"]
