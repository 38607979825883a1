"Rows of one's own: text, pictures and videos in one batch, what they say reaches the policy, and a bad one is named."

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from videossr.data import to_trl_dataset
from videossr.demo import demo_videos
from videossr.grpo import VideoGRPOConfig, VideoGRPOTrainer
from videossr.policy import collate, encode_sample, never_sampled, tiny_policy
from videossr.prefix import group_logps, plain_logps
from videossr.rewards import videossr_reward
from videossr.rows import View, encode_row, row_messages, rows_dataset, see_video
from videossr.tasks import make_sample


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return [str(path) for path in demo_videos(3, folder=tmp_path_factory.mktemp("videos"), progress=False)]


@pytest.fixture(scope="module")
def rows(videos, tmp_path_factory):
    "Every kind of row."
    still = tmp_path_factory.mktemp("images") / "still.png"
    Image.fromarray(see_video(videos[0], View(n_frames=1)).frames[0]).save(still)
    sample = to_trl_dataset([make_sample("grounding", videos[0], difficulty="demo")])[0]
    return [
        {"prompt": "What is four and four?", "answer": "8", "source": "text"},
        {"prompt": [{"role": "user", "content": "What <image> is this?"}], "image": str(still), "answer": "b", "source": "still"},
        {"prompt": "Which?", "videos": videos[:2], "answer": "c"},
        {"prompt": "When?", "video": videos[2], "start": 0.5, "end": 1.5, "answer": "d"},
        {"prompt": "Both <video> and <image>?", "video": videos[1], "images": [str(still)], "answer": "e"},
        sample,
    ]


def as_text(rows):
    "Rows whose prompts are all of one form, which a table needs."
    return [row if isinstance(row["prompt"], str) else {**row, "prompt": row["prompt"][0]["content"]} for row in rows]


def length_reward(completions, **_):
    "Answers of a group differ in it."
    return [len(text) % 7 / 7 for text in completions]


def trainer_of(rows, tmp_path, reward=length_reward, **settings):
    changes = {"max_steps": 2, "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 5, "n_frames": 4, "warmup_steps": 0, "disable_tqdm": True}
    options = {name: settings.pop(name) for name in ("encode", "eval_dataset") if name in settings}
    return VideoGRPOTrainer(tiny_policy(0), reward, VideoGRPOConfig.demo(str(tmp_path), **{**changes, **settings}), rows, **options)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 0, 4, 1, 0, 3], [0, 0]])
def test_all_kinds_in_one_batch_are_scored_as_alone(rows, order):
    policy, view = tiny_policy(0), View(n_frames=4)
    prompts = [encode_row(policy, rows[index], view) for index in order]
    answers = torch.randint(20, 280, (len(order), 3, 6), generator=torch.Generator().manual_seed(0))
    mask, banned = torch.ones_like(answers), never_sampled(policy)
    mask[0, 0, 2:] = 0
    with torch.no_grad():
        together = [score(policy.model, collate(prompts, policy.pad_id), answers, mask, banned)[0] for score in (group_logps, plain_logps)]
        alone = torch.cat([group_logps(policy.model, collate([prompt], 0), answers[[at]], mask[[at]], banned)[0] for at, prompt in enumerate(prompts)])
    assert all(torch.allclose(found, alone, atol=1e-5) for found in together) and alone.abs().min() == 0


def test_what_the_prompt_says_is_what_the_policy_sees(videos):
    policy, view = tiny_policy(0), View(n_frames=4)
    system = [{"role": "system", "content": "Answer with a letter."}, {"role": "user", "content": "First <video>\nthen <video>: which?"}]
    said = policy.tokenizer.decode(encode_row(policy, {"prompt": system, "videos": videos[:2]}, view).input_ids)
    assert "Answer with a letter." in said and "<video>" not in said
    first, second = said.index("First "), said.index("then ")
    assert first < said.index("<|video_pad|>") < second < said.rindex("<|video_pad|>") < said.index(": which?")
    other = encode_row(policy, {"prompt": [*system[:1], {"role": "user", "content": "<video><video>Which?"}], "videos": videos[1::-1]}, view)
    assert not torch.equal(other.pixel_values_videos, encode_row(policy, {"prompt": system, "videos": videos[:2]}, view).pixel_values_videos)


def test_a_view_is_honoured(videos):
    seen = see_video(videos[0], View(n_frames=5, max_pixels=64 * 64, trim=0.25))
    whole = see_video(videos[0], View(n_frames=5))
    assert len(seen) == len(whole) == 5 and seen.height * seen.width <= 64 * 64 < whole.height * whole.width
    assert seen.times[0] > whole.times[0] and seen.times[-1] < whole.times[-1]
    cut = see_video(videos[0], View(n_frames=40, fps=4), start=1.0, end=2.5)
    assert len(cut) == 6 and cut.times[0] >= 0.9 and cut.times[-1] <= 2.5
    frames = np.repeat(np.arange(30, dtype=np.uint8), 64 * 64 * 3).reshape(30, 64, 64, 3)
    assert see_video(frames, View(n_frames=3), fps=10).frames[:, 0, 0, 0].tolist() == [5, 15, 25]
    assert see_video(list(map(Image.fromarray, frames)), View(fps=1), fps=10).times.tolist() == [0.5, 1.5, 2.5]


def test_the_settings_reach_the_rows(videos, tmp_path):
    rows, seen = [{"prompt": "?", "video": video} for video in videos], []
    for settings in ({"n_frames": 8}, {"n_frames": 8, "fps": 0.5}, {"n_frames": 8, "max_pixels": 64 * 64}, {"n_frames": 8, "trim": 0.3}):
        trainer = trainer_of(rows[:1] * 2, tmp_path, max_steps=1, **settings)
        trainer.train()
        expected = encode_row(trainer.policy, rows[0], View(**settings))
        assert torch.equal(trainer.prompts[0].pixel_values_videos, expected.pixel_values_videos) and torch.equal(trainer.prompts[0].input_ids, expected.input_ids)
        seen.append(expected)
    assert len({(len(one), one.pixel_values_videos.sum().item()) for one in seen}) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixed_set_is_trained_on(rows, tmp_path, workers):
    trainer = trainer_of(as_text(rows), tmp_path, per_device_train_batch_size=24, dataloader_num_workers=workers, max_steps=1)
    start = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    logged = trainer.state.log_history[0]
    assert {name for name in logged if name.startswith("reward/")} == {"reward/text", "reward/still", "reward/rows", "reward/grounding"}
    assert any(not torch.equal(weight, start[name]) for name, weight in trainer.model.named_parameters()) and logged["grad_norm"] > 0
    groups = trainer.rollouts()
    assert sorted(group["row"]["answer"] for group in groups if "row" in group) == list("8bcde") and sum("sample" in group for group in groups) == 1


def test_workers_and_memory_change_nothing(rows, tmp_path):
    weights = []
    for settings in ({}, {"dataloader_num_workers": 2}, {"share_prefix": False}):
        trainer = trainer_of(as_text(rows[:5]), tmp_path, **settings)
        trainer.train()
        weights.append(torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and torch.allclose(weights[0], weights[2], atol=1e-3) and len(weights[0]) > 1e5


def test_the_reward_gets_all_columns_and_texts_as_trl_gives_them(rows, tmp_path):
    seen = []

    def reward(prompts, completions, answer, image, weight, **columns):
        seen.append((prompts, completions, answer, image, weight, columns))
        return length_reward(completions)

    still = rows[1]["image"]
    trainer_of([{"prompt": f"{n}?", "image": still, "answer": str(n), "weight": n} for n in range(4)], tmp_path, reward, max_steps=1).train()
    prompts, completions, answer, image, weight, columns = seen[0]
    assert len(prompts) == 8 and all(isinstance(text, str) for text in completions) and image == [still] * 8
    assert [f"{n}?" for n in weight] == prompts and [str(n) for n in weight] == answer and "encoded" not in columns


def test_an_encoder_of_one_s_own(videos, tmp_path):
    def encode(policy, row):
        return encode_row(policy, {"prompt": row["prompt"].upper(), "video": videos[row["number"]]}, View(n_frames=2))

    trainer = trainer_of([{"prompt": "which?", "number": n} for n in range(3)], tmp_path, encode=encode, max_steps=1)
    trainer.train()
    assert "WHICH?" in trainer.policy.tokenizer.decode(trainer.prompts[0].input_ids)


def test_pretext_samples_are_what_they_were(videos):
    policy, sample = tiny_policy(0), make_sample("jigsaw", videos[0], difficulty="demo")
    found = encode_row(policy, to_trl_dataset([sample])[0], View(n_frames=2))
    expected = encode_sample(policy, sample)
    assert torch.equal(found.input_ids, expected.input_ids) and torch.equal(found.pixel_values_videos, expected.pixel_values_videos)


@pytest.mark.parametrize(("change", "said"), [
    ({"video": "absent.mp4"}, "row 1 of train_dataset: column 'video': there is no file absent.mp4"),
    ({"prompt": ""}, "row 1 of train_dataset: column 'prompt' is ''"),
    ({"prompt": None}, "row 1 of train_dataset: column 'prompt' is None"),
])  # fmt: skip
def test_a_bad_row_is_named_at_once(videos, tmp_path, change, said):
    good = [{"prompt": "?", "video": video} for video in videos]
    with pytest.raises(ValueError, match=said):
        trainer_of([good[0], good[1] | change, good[2]], tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("change", "said"), [
    ({"prompt": "<video> or <video>?"}, "2 places for videos, and the row brings 1"), ({"start": 99.0}, "leave nothing of"),
])  # fmt: skip
def test_a_row_that_cannot_be_encoded_is_named_when_it_comes(videos, tmp_path, change, said, workers):
    rows = [{"prompt": f"? {n}", "video": video, "start": 0.0} | (change if n == 1 else {}) for n, video in enumerate(videos)]
    with pytest.raises(ValueError, match=f"row 1 .*{said}"):
        trainer_of(rows, tmp_path, dataloader_num_workers=workers, max_steps=3).train()


def test_what_nobody_would_see_is_refused(videos, tmp_path):
    sample = to_trl_dataset([make_sample("grounding", video, difficulty="demo") for video in videos])
    for rows, settings, said in (
        ([{"prompt": "?", "clip": video} for video in videos], {}, "no row of train_dataset shows a video or an image: its columns are prompt, clip"),
        (sample.add_column("video", videos), {}, "which nobody would see"),
        (sample, {"n_frames": 8}, "n_frames would change nothing"),
        (Dataset.from_dict({"question": ["?"] * 3}), {}, r"lacks the columns \['prompt'\]"),
        ([{"prompt": "?", "video": videos[0]}] * 3, {"reward": videossr_reward}, "rows of one's own need a reward of their own"),
    ):
        with pytest.raises(ValueError, match=said):
            trainer_of(rows, tmp_path, **{"n_frames": 16, **settings})


def test_a_list_keeps_what_only_some_rows_have(videos):
    table = rows_dataset([{"prompt": "?", "video": videos[0]}, {"prompt": "?", "image": videos[1], "answer": "x"}])
    assert table[0] == {"prompt": "?", "video": videos[0], "image": None, "answer": None}
    with pytest.raises(ValueError, match="column 'answer'"):
        rows_dataset([{"prompt": "?", "answer": [1]}, {"prompt": "?", "answer": "x"}])


@pytest.mark.parametrize("prompt", [[], [{"role": "system", "content": "?"}], [{"role": "user", "content": [{"type": "audio"}]}]])
def test_a_prompt_that_asks_nothing_is_refused(prompt):
    with pytest.raises(ValueError, match="holds no message|ends with 'system'|of type 'audio'"):
        row_messages(prompt)
