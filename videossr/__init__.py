"""Self-supervised reinforcement learning on video: tasks, rewards, GRPO and evaluation, each written as a notebook."""

__version__ = "0.2.0"
