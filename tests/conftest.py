"What all tests share. Set before anything heavy is imported: no windows, no downloads."
import os
from pathlib import Path

import pytest
from lab import lab, page  # noqa: F401 (fixtures)

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def real_videos():
    "A folder of real clips, named by VIDEOSSR_TEST_VIDEOS; without one the test is skipped."
    folder = os.environ.get("VIDEOSSR_TEST_VIDEOS", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("VIDEOSSR_TEST_VIDEOS names no folder of real clips")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def stock_trainer():
    "TRL's own trainer, to compare with; before 1.16 it scores answers on GPUs only, and without one the test is skipped."
    import torch
    import trl
    from packaging.version import Version

    if Version(trl.__version__) < Version("1.16") and not torch.cuda.is_available():
        pytest.skip(f"stock TRL {trl.__version__} needs a GPU to score answers")
    return trl.GRPOTrainer
