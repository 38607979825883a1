"The first GPU hour on a CPU: what fails or has no time is a result, and the file is whole whenever the program is stopped."
import json
import weakref

import pytest
import torch

from videossr import first_gpu
from videossr.first_gpu import PARTS, SHAPES, Bench, Part, Watch, forward_flops, main, make_job, report, run_parts, take_group, update_flops
from videossr.memory import Workload
from videossr.policy import end_ids, sample_tokens

TINY = ["--size", "tiny", "--device", "cpu", "--repeats", "1"]
BENCH = Bench("tiny", torch.device("cpu"), repeats=1)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "first.json"


def test_an_out_of_memory_is_a_result_and_the_next_part_runs(monkeypatch, out, capsys):
    left = []

    def greedy(bench):
        weights = torch.zeros(1000)
        left.append(weakref.ref(weights))
        yield {"shared": {"group": 0.5}}
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setitem(PARTS, "lora", Part(greedy, 1, ""))
    assert main([*TINY, "--parts", "lora,exact", "--out", str(out)]) == 1
    parts = json.loads(out.read_text())["parts"]
    assert parts["lora"]["shared"] == {"group": 0.5} and parts["lora"]["error"].startswith("OutOfMemoryError: CUDA out of memory")
    assert "greedy" in parts["lora"]["traceback"]
    assert left[0]() is None, "the failed part still holds its tensors"
    assert parts["exact"]["nats apart"] < 1e-4
    assert "lora: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (error)" in capsys.readouterr().out


def test_real_parts_survive_the_copies_that_do_not_fit(monkeypatch):
    def no_room(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(first_gpu, "_repeated", no_room)
    found = run_parts(BENCH, ["lora"], lambda *_: None)["lora"]
    assert {"shared", "memory", "update", "error"} <= set(found) and "copied" not in found


def test_parts_without_time_are_skipped_by_name_and_others_run(monkeypatch, out):
    def quick(bench):
        yield {"ran": True}

    monkeypatch.setitem(PARTS, "machine", Part(quick, 0.001, ""))
    assert main([*TINY, "--parts", "machine,lora,kernels", "--minutes", "0.01", "--out", str(out)]) == 0
    parts = json.loads(out.read_text())["parts"]
    assert parts["machine"]["ran"] and {name for name in parts if "skipped" in parts[name]} == {"lora", "kernels"}
    assert "lora: takes about" in report(parts)


def test_a_program_that_is_stopped_keeps_what_it_had(monkeypatch, out):
    def stopped(bench):
        yield {"half": float("nan")}
        raise KeyboardInterrupt

    monkeypatch.setitem(PARTS, "full", Part(stopped, 0.01, ""))
    with pytest.raises(KeyboardInterrupt):
        main([*TINY, "--parts", "exact,full", "--out", str(out)])
    kept = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert kept["parts"]["exact"]["nats apart"] < 1e-4 and kept["parts"]["full"]["half"] == "nan"


def test_all_phases_are_timed_and_no_answer_ends(monkeypatch):
    job, watch, drawn = make_job(BENCH, lora_rank=0), Watch("cpu"), []

    def tempted(*given, generation, **options):
        eager = {"sequence_bias": {(job.policy.tokenizer.eos_token_id,): 50.0}}  # an end would be drawn wherever one may be
        drawn.append(sample_tokens(*given, generation=generation | eager, **options))
        return drawn[-1]

    monkeypatch.setattr(first_gpu, "sample_tokens", tempted)
    for shared in (True, False):
        take_group(job, watch, shared)
    assert all(list(turn) == ["encode", "prefill", "decode", "log-probs", "forward", "backward", "optimiser"] for turn in watch.turns)
    assert all(tokens.shape == (job.shape.group_size, job.shape.answer_tokens) for tokens in drawn)
    assert not any(torch.isin(tokens, torch.tensor(end_ids(job.policy))).any() for tokens in drawn)
    assert all(weight.isfinite().all() for weight in job.model.parameters())


@pytest.mark.parametrize("size", ["2B", "8B"])
def test_operations_follow_the_tokens(size):
    config = first_gpu.release_config(size)
    shape = SHAPES[size]
    works = {share: Workload(1800, 6144, shape.answer_tokens, shape.group_size, lora_rank=16, share_prefix=share) for share in (True, False)}
    shared, copied = (forward_flops(config, works[share], 256) for share in (True, False))
    written = shape.group_size * shape.answer_tokens
    assert copied["language"] / shared["language"] == pytest.approx((8 * 1800 + written) / (1800 + written))
    assert copied["vision"] == 8 * shared["vision"] and copied["vocabulary"] == shared["vocabulary"]
    done, useful = update_flops(config, works[True], 256)
    assert sum(shared.values()) < useful < done < 4 * sum(shared.values())
    # A billion weights cost two billion operations a token; the vocabulary is another matter.
    assert shared["language"] + shared["language ends"] == pytest.approx(2 * float(size[:-1]) * 1e9 * (1800 + written), rel=0.35)


def test_a_machine_with_several_gpus_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SystemExit):
        main(["--size", "8B"])
    assert "2 GPUs are visible" in capsys.readouterr().err
