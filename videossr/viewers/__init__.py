"""Widgets for JupyterLab: play a sample, answer it yourself, and see what a model said beside the truth."""

from videossr.viewers.anomaly import AnomalyViewer
from videossr.viewers.core import Reel, Viewer, pack
from videossr.viewers.counting import CountingViewer
from videossr.viewers.dataset import DatasetExplorer
from videossr.viewers.jigsaw import JigsawBoard
from videossr.viewers.live import LiveView
from videossr.viewers.rollouts import RolloutBrowser

__all__ = ["AnomalyViewer", "CountingViewer", "DatasetExplorer", "JigsawBoard", "LiveView", "Reel", "RolloutBrowser", "Viewer", "pack"]
