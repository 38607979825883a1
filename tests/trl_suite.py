"""A pytest plugin: TRL's own tests of its GRPO trainer, with this kit's trainer and tiny local models in their places.

`test_trl_suite.py` runs it. The models and datasets of the hub are folders of the same names in the working directory, so TRL's file is
run as it is. A test either passes, or is refused with a message that says why (`REFUSED`), or asks nothing of this trainer (`ELSEWHERE`).
"""

import copy
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
import trl
from datasets import Dataset
from PIL import Image
from transformers import Qwen2Config, Qwen2ForSequenceClassification
from transformers.utils import is_peft_available

from videossr.data import to_trl_dataset
from videossr.demo import demo_videos
from videossr.grpo import VideoGRPOConfig, VideoGRPOTrainer
from videossr.policy import Policy, tiny_policy
from videossr.released import write_release
from videossr.tasks import make_sample

HUB = "trl-internal-testing"  # the owner of what TRL's tests load
POLICIES = ("tiny-Qwen2ForCausalLM-2.5", "tiny-LlamaForCausalLM-3.2", "tiny-MistralForCausalLM-0.2")  # stand-ins: the tiny policy
RELEASES = {"tiny-Qwen2_5_VLForConditionalGeneration": "Qwen2.5-VL-3B", "tiny-Qwen3MoeForCausalLM": "Qwen3-VL-30B-A3B"}
REWARDS = ("tiny-Qwen2ForSequenceClassification-2.5", "tiny-Qwen3ForSequenceClassification", "tiny-LlamaForSequenceClassification-3.2")
ROWS = 4  # of a training set; a test set has 2

# part of a test's name -> what the trainer must say: every test whose name holds it must be refused so
REFUSED: dict[str, str] = {
    r"test_train_with_tools|malformed_tool_calls": "tools is given",
    r"environment_factory|multiple_environments|unknown_environment|environment_owned": "environment_factory is given",
    r"num_generations_larger_than_batch_size|prepare_input_called_with": "per_device_train_batch_size .* must be a multiple of num_generations",
    r"test_train_with_generation_kwargs": "num_beams",  # TRL's test draws by a search with beams
    r"test_train_with_chat_template_kwargs": "chat_template_kwargs: the chat template of this policy knows no 'enable_thinking'",
    r"dataset_required_without_environment": "train_dataset must be a datasets.Dataset",
    r"iterable": "whose rows can be had by number",
    r"liger|\[\w+-True\]|test_train_with_bias_correction_kl\[True\]|test_train_delta_clipping\[True\]": "use_liger_kernel is True",
    r"vllm": "use_vllm is True",
    r"continuous_batching\[": "use_transformers_continuous_batching is True",
    r"test_train_vlm": "image",  # pictures beside a sample's video would be ignored
}
# part of a test's name -> why it asks nothing of this trainer
ELSEWHERE: dict[str, str] = {
    r"Cohere|Glm4|GptOss|NemotronH|Gemma|Llava|SmolVLM|Qwen2VL|Qwen3_5|moe_peft_model": "another family of models: tests/test_released.py shows how these are refused",
    r"trust_remote_code": "a model whose code is on the hub: trust_remote_code is refused, as tests/test_grpo_fields.py shows",
    r"prefers_rollout_func|syncs_vllm_weights": "the prompts' tokens are those of the videos, whatever a rollout_func says: test_an_engine_of_one_s_own has this trainer's way",
    r"mask_truncated_completions$": "stands on transformers' generate, which is not called here: test_truncated_answers_leave_the_loss has this trainer's way",
    r"no_reward_source_raises": "there is a reward by default",
    r"entropy_bonus_flows_gradients": "scores one row without its group: the loss with entropy_coef is held against stock TRL's in tests/test_grpo_fields.py",
}


def write_hub(place: Path) -> None:
    "The folders that stand for TRL's models and datasets."
    policy = tiny_policy(0)
    for name in POLICIES:
        policy.save(place / HUB / name)
    policy.model.lm_head, policy.model.config.tie_word_embeddings = copy.deepcopy(policy.model.lm_head), False
    policy.save(place / HUB / "tiny-Qwen3ForCausalLM")  # one whose head is a matrix of its own
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


class Config(VideoGRPOConfig):
    "The configuration, with single precision where a test does not say: bfloat16, TRL's default, is slow on a CPU."

    def __post_init__(self):
        if self.bf16 is None and not torch.cuda.is_available():
            self.bf16 = False
        super().__post_init__()


def pytest_configure(config: pytest.Config) -> None:
    datasets.config.HF_DATASETS_CACHE = Path.cwd() / "cache"  # rows of another run would be taken for these
    trl.GRPOTrainer, trl.GRPOConfig = Trainer, Config
    if is_peft_available():  # for adapters that name no layers: what PEFT takes in Qwen2
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as layers

        layers.update(dict.fromkeys(("qwen3_vl", "qwen3_vl_moe", "qwen2_5_vl"), ["q_proj", "v_proj"]))
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
    with pytest.raises((ValueError, AssertionError), match=message):  # an AssertionError where TRL's test wants another message
        yield
    return True
