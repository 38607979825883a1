"""Changed files, replies and settings through every door of the kit: read, or refused by a `ValueError` that says where; nothing run, nothing opened
outside, nothing written elsewhere, bounded memory and time. A few hundred in the gate; `pytest -m slow` makes it ten thousand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource")
DOORS = 16


def fuzz(folder, n, seed):
    "Outcomes by door, and what broke a rule."
    program = Path(__file__).with_name("fuzz.py")
    home = {"HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(program), str(folder / "fuzz"), str(n), str(seed)], env={**os.environ, **home}, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return found["outcomes"], found["broken"]


def test_changed_inputs(tmp_path):
    outcomes, broken = fuzz(tmp_path, 300, 11)
    assert not broken
    assert sum(outcomes.values()) == 300 and len({name.partition(":")[0] for name in outcomes}) == DOORS


@pytest.mark.slow
def test_ten_thousand_changed_inputs(tmp_path, capsys):
    outcomes, broken = fuzz(tmp_path, 10_000, 12)
    with capsys.disabled():
        print(f"\n{outcomes}")
    assert not broken
    for kind in ("read", "refused"):  # neither all is taken nor all thrown away
        assert sum(count for name, count in outcomes.items() if name.endswith(kind)) > 2000
