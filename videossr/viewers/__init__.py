"""Widgets for JupyterLab: play a sample, answer it yourself, and see what a model said beside the truth."""

from videossr.viewers.anomaly import AnomalyViewer
from videossr.viewers.core import Reel, Viewer, pack

__all__ = ["AnomalyViewer", "Reel", "Viewer", "pack"]
