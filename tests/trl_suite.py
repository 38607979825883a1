"""A pytest plugin: TRL's own tests of its GRPO trainer, with this kit's trainer and tiny local models in their places.

`test_trl_suite.py` runs it. The models and datasets of the hub are folders of the same names in the working directory, so TRL's file is
run as it is. A test either passes, or is refused with a message that says why (`REFUSED`), or asks nothing of this trainer (`ELSEWHERE`).
"""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import trl
from datasets import Dataset, DatasetDict, IterableDataset
from PIL import Image
from transformers import Qwen2Config, Qwen2ForSequenceClassification

from videossr.data import to_trl_dataset
from videossr.demo import demo_videos
from videossr.grpo import VideoGRPOConfig, VideoGRPOTrainer
from videossr.policy import Policy, load_policy, tiny_policy
from videossr.released import write_release
from videossr.tasks import make_sample

HUB = "trl-internal-testing"  # the owner of what TRL's tests load
POLICIES = ("tiny-Qwen2ForCausalLM-2.5", "tiny-Qwen3ForCausalLM", "tiny-LlamaForCausalLM-3.2", "tiny-MistralForCausalLM-0.2")  # stand-ins: the tiny policy
RELEASES = {"tiny-Qwen2_5_VLForConditionalGeneration": "Qwen2.5-VL-3B", "tiny-Qwen3MoeForCausalLM": "Qwen3-VL-30B-A3B"}
REWARDS = ("tiny-Qwen2ForSequenceClassification-2.5", "tiny-Qwen3ForSequenceClassification", "tiny-LlamaForSequenceClassification-3.2")
ROWS = 6  # of a training set; a test set has 2

# part of a test's name -> what the trainer must say; every test whose name holds it must be refused so
REFUSED: dict[str, str] = {}
# part of a test's name -> why it asks nothing of this trainer
ELSEWHERE: dict[str, str] = {}


def write_hub(place: Path) -> None:
    "The folders that stand for TRL's models and datasets."
    policy = tiny_policy(0)
    for name in POLICIES:
        policy.save(place / HUB / name)
    for name, release in RELEASES.items():
        write_release(place / HUB / name, release)
    texts = {"vocab_size": len(policy.tokenizer), "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    policy.tokenizer.chat_template = policy.processor.chat_template  # which a reward model's tokenizer brings itself
    for name in REWARDS:
        model = Qwen2ForSequenceClassification(Qwen2Config(**texts, num_key_value_heads=2, num_labels=1, pad_token_id=policy.pad_id))
        model.save_pretrained(place / HUB / name)
        policy.tokenizer.save_pretrained(place / HUB / name)
    _write_rows(place)


def _write_rows(place: Path) -> None:
    "TRL's kinds of rows: its columns, and those that a row of this kit has beside them."
    videos = demo_videos(2, folder=place / "videos", progress=False)
    samples = [make_sample("grounding", videos[index % 2], difficulty="demo", index=index) for index in range(ROWS)]
    ours = to_trl_dataset(samples).remove_columns("prompt")
    words = [f"Line {index} is" for index in range(ROWS)]
    picture = Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8))
    talks = [[{"role": "user", "content": text}] for text in words]
    for name, config, columns in (
        ("zen", "standard_prompt_only", {"prompt": words}),
        ("zen", "conversational_prompt_only", {"prompt": talks}),
        ("zen-image", "conversational_prompt_only", {"prompt": talks, "image": [picture] * ROWS}),
        ("zen-multi-image", "conversational_prompt_only", {"prompt": talks, "images": [[picture] * 2] * ROWS}),
    ):
        rows = Dataset.from_dict({**columns, **ours.to_dict()})
        for split, some in (("train", rows), ("test", rows.select(range(2)))):
            some.to_parquet(place / HUB / name / config / f"{split}.parquet")
    for name in ("zen", "zen-image", "zen-multi-image"):
        configs = sorted(path.name for path in (place / HUB / name).iterdir())
        parts = [f"- config_name: {config}\n  data_dir: {config}\n" for config in configs]
        (place / HUB / name / "README.md").write_text("---\nconfigs:\n" + "".join(parts) + "---\n", encoding="utf-8")


def _with_columns(rows):
    "Rows that a test makes itself, with what a row of this kit has beside them."
    if isinstance(rows, Dataset) and "sample" not in rows.column_names:
        ours = Dataset.from_parquet(str(Path(HUB, "zen", "standard_prompt_only", "train.parquet"))).remove_columns("prompt")
        for name in ours.column_names:
            rows = rows.add_column(name, [ours[index % ROWS][name] for index in range(len(rows))])
    return rows


class Trainer(VideoGRPOTrainer):
    "The trainer as TRL's tests call it: a model's processor is the one that lies beside its weights, and there is no reward by default."

    def __init__(self, model, reward_funcs=None, args=None, train_dataset=None, eval_dataset=None, **kwargs):
        if not isinstance(model, (str, Policy)) and kwargs.get("processing_class") is None:
            config = getattr(model, "config", None)
            kwargs["processing_class"] = transformers.AutoProcessor.from_pretrained(config._name_or_path)
        given = {} if reward_funcs is None else {"reward_funcs": reward_funcs}
        super().__init__(model, args=args, train_dataset=_with_columns(train_dataset), eval_dataset=_with_columns(eval_dataset), **given, **kwargs)


def pytest_configure(config: pytest.Config) -> None:
    trl.GRPOTrainer, trl.GRPOConfig = Trainer, VideoGRPOConfig
    text_model, own = transformers.AutoModelForCausalLM, transformers.AutoModelForCausalLM.from_pretrained.__func__

    def from_pretrained(cls, name, *args, **kwargs):
        "The tiny policy is no language model alone."
        if cls is text_model and str(name).startswith(HUB):
            return transformers.AutoModelForImageTextToText.from_pretrained(name, *args, **kwargs)
        return own(cls, name, *args, **kwargs)

    text_model.from_pretrained = classmethod(from_pretrained)
    if not Path(HUB).is_dir():
        write_hub(Path.cwd())


def _found(table: dict[str, str], item: pytest.Item) -> str | None:
    return next((text for name, text in table.items() if re.search(name, item.name)), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if why := _found(ELSEWHERE, item):
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function):
    message = _found(REFUSED, pyfuncitem)
    if message is None:
        return (yield)
    with pytest.raises((ValueError, TypeError, NotImplementedError), match=message):
        yield
    return True
