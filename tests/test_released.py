"Checkpoints as they are published, and what the versions of transformers that they came with make of prompts."
import hashlib
import importlib.metadata
import importlib.util
import json

import golden
import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from videossr import released
from videossr.policy import collate, encode, load_policy, prompt_positions
from videossr.released import CONTROL_TOKENS, RELEASES, SPECIAL_TOKENS, published_config, release_processor, write_release
from videossr.video import Clip

needs_vocabulary = pytest.mark.skipif(importlib.util.find_spec("dashscope") is None, reason="the package dashscope holds the released vocabulary")
KNOWN = golden.known()
CASES = [pytest.param(case, marks=needs_vocabulary if "vocabulary" in options else ()) for case, options in golden.CASES.items()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "Writes a case of `golden.CASES` once."
    folder, written = tmp_path_factory.mktemp("releases"), {}

    def folder_of(case):
        if case not in written:
            written[case] = write_release(folder / case, golden.name_of(case), **golden.CASES[case])
        return written[case]

    return folder_of


def sums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------------- what lies in a folder


@pytest.mark.parametrize("tied", [None, True, False])
@pytest.mark.parametrize("name", RELEASES)
def test_config_has_the_keys_of_the_release(tmp_path, name, tied):
    wanted, folder = published_config(name), write_release(tmp_path, name, tied=tied)
    written = json.loads((folder / "config.json").read_text())
    assert [*written] == [*wanted]
    now_tied = wanted["tie_word_embeddings"] if tied is None else tied
    assert AutoConfig.from_pretrained(folder).tie_word_embeddings == written["tie_word_embeddings"] == now_tied
    if "text_config" in wanted:
        assert written["text_config"].keys() ^ wanted["text_config"].keys() <= {"tie_word_embeddings"}
        assert ("tie_word_embeddings" in written["text_config"]) == now_tied
        assert written["vision_config"].keys() == wanted["vision_config"].keys()
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert ("lm_head.weight" in weights.keys()) != now_tied


@pytest.mark.parametrize("name", RELEASES)
def test_tokens_lie_as_in_the_release(tmp_path, name):
    folder = write_release(tmp_path, name)
    tokenizer, config = AutoProcessor.from_pretrained(folder).tokenizer, json.loads((folder / "config.json").read_text())
    shift = published_config(name)["image_token_id"] - config["image_token_id"]
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>",
             "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    for key, token in names.items():
        assert tokenizer.convert_ids_to_tokens(config[key]) == token
        assert published_config(name)[key] == config[key] + shift
    assert tokenizer.pad_token_id < tokenizer.eos_token_id
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [tokenizer.eos_token_id, tokenizer.pad_token_id]
    added = tokenizer.added_tokens_decoder
    control = 8 if name.startswith("Qwen2.5") else 12
    assert [entry.content for _, entry in sorted(added.items())] == SPECIAL_TOKENS + CONTROL_TOKENS[:control]
    assert sum(not entry.special for entry in added.values()) == control
    assert len(tokenizer) == max(added) + 1 < config.get("text_config", config)["vocab_size"]


@pytest.mark.parametrize("name", RELEASES)
def test_every_weight_is_read(tmp_path, name):
    model, report = AutoModelForImageTextToText.from_pretrained(write_release(tmp_path, name), output_loading_info=True)
    assert not any(report.values()), report
    assert type(model).__name__ == published_config(name)["architectures"][0]
    assert sum(weight.numel() for weight in model.parameters()) < 3_000_000


def test_experts_lie_as_in_the_release(tmp_path):
    folder = write_release(tmp_path, "Qwen3-VL-30B-A3B")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    with safe_open(folder / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(f"model.language_model.layers.0.mlp.experts.{name}").get_shape() for name in ("gate_up_proj", "down_proj")]
    width, inner = text["hidden_size"], text["moe_intermediate_size"]
    assert shapes == [[text["num_experts"], width, 2 * inner], [text["num_experts"], inner, width]]


def test_a_frame_has_several_windows(tmp_path):
    "Else the window attention of Qwen2.5-VL would be the full one, and a test with the small model would see no difference."
    model = AutoModelForImageTextToText.from_pretrained(write_release(tmp_path, "Qwen2.5-VL-7B"))
    tower = model.model.visual
    assert {*range(len(tower.blocks))} - {*tower.fullatt_block_indexes}
    tower.fullatt_block_indexes = []  # windows only: what changes in one is not seen in the others
    frames = torch.randn(2 * 8 * 10, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(0)).to(tower.dtype)
    changed = frames.clone()
    changed[:4] += 1
    with torch.no_grad():
        before, after = (tower(pixels, grid_thw=torch.tensor([[2, 8, 10]])).pooler_output for pixels in (frames, changed))
    moved = (before != after).any(-1)
    assert moved.any() and not moved.all()


def test_thinking_prompts_open_the_thought():
    chat = [{"role": "user", "content": "?"}]
    for thinking, end in ((False, "assistant\n"), (True, "assistant\n<think>\n")):
        assert release_processor("Qwen3-VL-8B", thinking=thinking).apply_chat_template(chat, add_generation_prompt=True).endswith(end)


def test_the_same_each_time(tmp_path):
    first, again, other = (sums(write_release(tmp_path / str(n), "Qwen3-VL-8B", seed=n // 2)) for n in range(3))
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


# --------------------------------------------------------------------------------------------------- the real vocabulary


@needs_vocabulary
def test_files_are_the_released_ones(tmp_path):
    "All but config.json, which is of a small model, and the weights."
    found = sums(write_release(tmp_path, "Qwen3-VL-8B", vocabulary="released"))
    starts = {
        "chat_template.json": "5c72a170d2a4a1a3", "generation_config.json": "8469742d1fce0de9", "merges.txt": "599bab5407508877",
        "preprocessor_config.json": "27225450ac9c6529", "tokenizer_config.json": "c2da771801886ad9", "vocab.json": "ca10d7e9fb3ed185",
        "video_preprocessor_config.json": "7768af27c1fafa9c",
        "tokenizer.json": "aeb13307a71acd8f",  # as transformers saves it again; the first release wrote the same merges without brackets
    }  # fmt: skip
    assert {name: found[name][:16] for name in starts} == starts


@needs_vocabulary
def test_another_vocabulary_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(released._KNOWN_SUMS, "merges.txt", "0" * 16)
    with pytest.raises(ValueError, match=r"merges\.txt made from the package dashscope is not the released file"):
        write_release(tmp_path, vocabulary="released")


def test_a_missing_vocabulary_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    released._released_vocabulary.cache_clear()
    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(ImportError, match="pip install dashscope"):
        write_release(tmp_path, vocabulary="released")


# ---------------------------------------------------------------------------------------- what came out when it was released


@pytest.mark.parametrize("case", CASES)
def test_prompts_are_as_released(place, case):
    "Ids, grids, seconds, positions and logits of one prompt of each task, against transformers 4.57.1 (Qwen3-VL) and 4.49.0 (Qwen2.5-VL)."
    policy = load_policy(place(case), dtype=torch.float32, device="cpu")
    for task, clips, question, system in golden.prompts(case, Clip):
        known, prompt = KNOWN[case][task], encode(policy, clips, question, system)
        assert prompt.input_ids.tolist() == golden.unrolled(known["ids"]), task
        assert prompt.video_grid_thw.tolist() == known["grids"]
        if golden.is_timed(case):
            assert prompt.second_per_grid_ts.tolist() == pytest.approx(known["seconds"])
        batch = collate([prompt], policy.tokenizer.pad_token_id)
        positions, _ = prompt_positions(policy.model, batch)
        assert positions[:, 0].tolist() == known["positions"], task
        with torch.no_grad():
            logits = policy.model(**batch, position_ids=positions).logits[0, -1]
        assert golden.some(logits) == pytest.approx(known["logits"], abs=1e-3), task


def test_the_installed_form_is_another(place):
    "Markers that transformers >= 5.10 leaves round the frames: two tokens more a clip, three behind a label that ends in a space, and other logits."
    case = "Qwen3-VL-2B"
    policy = load_policy(place(case), dtype=torch.float32, device="cpu", markers="installed")
    start = policy.model.config.vision_start_token_id
    for task, clips, question, system in golden.prompts(case, Clip):
        known, prompt = KNOWN[case][task], encode(policy, clips, question, system)
        ids = golden.unrolled(known["ids"])
        assert prompt.input_ids.tolist().count(start) == ids.count(start) + len(clips)
        assert len(prompt) == len(ids) + (3 if len(clips) > 1 else 2) * len(clips)
        with torch.no_grad():
            logits = policy.model(**collate([prompt], policy.tokenizer.pad_token_id)).logits[0, -1]
        assert max(abs(a - b) for a, b in zip(golden.some(logits), known["logits"], strict=True)) > 0.05
