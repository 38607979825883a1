"""Answers behind one copy of their prompt: the same numbers under every attention, whatever leaves, and each setting honoured or refused."""

import copy
import gc
import inspect
import math

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, GenerationConfig, Qwen3VLForConditionalGeneration
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

from videossr import policy as policy_module
from videossr.policy import (
    Policy,
    SharedPrompt,
    check_generation,
    collate,
    encode,
    end_ids,
    let_share,
    load_policy,
    never_sampled,
    sample_answers,
    sample_tokens,
    tiny_policy,
)
from videossr.video import Clip

ATTENTIONS = ("eager", "sdpa", "flash_attention_alike")


def _alike(module, query, key, value, attention_mask, scaling=None, **options):
    "Takes what FlashAttention takes, a mask of two axes or none, and looks up its kernels by the name in the config, as that does."
    assert module.config._attn_implementation == "flash_attention_alike"
    causal = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])[None, None]
    if attention_mask is not None:
        causal = causal & attention_mask[:, None, None].bool() | torch.eye(len(causal[0, 0]), dtype=torch.bool)  # a padded row sees itself
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, causal, scale=scaling).transpose(1, 2), None


AttentionInterface.register("flash_attention_alike", _alike)
AttentionMaskInterface.register("flash_attention_alike", flash_attention_mask)


def policy_with(attention="sdpa", key_heads=4):
    "A tiny policy with this attention in its language model, and fewer key heads than query heads where asked."
    policy = tiny_policy(0)
    if key_heads != 4:
        config = copy.deepcopy(policy.model.config)
        config.text_config.num_key_value_heads = key_heads
        torch.manual_seed(0)
        policy = Policy(Qwen3VLForConditionalGeneration(config).eval(), policy.processor)
    policy.model.set_attn_implementation({"text_config": attention})
    return policy


def clip_of(n_frames, seed=0):
    return Clip(np.random.default_rng(seed).integers(0, 256, (n_frames, 64, 96, 3), dtype=np.uint8), np.arange(n_frames) * 0.5)


def prompts_of(policy, as_images=False):
    "Three prompts of different lengths, one with two clips."
    clips = [[clip_of(4)], [clip_of(2, 1), clip_of(6, 2)], [clip_of(2, 3)]]
    questions = ["What happens?", "In which order must they be played?", "When? " * 9]
    return [encode(policy, seen, question, as_images=as_images) for seen, question in zip(clips, questions, strict=True)]


def scored_alone(policy, prompt, tokens, settings=None, temperature=1.0):
    "Log-probabilities and entropies of one answer, from one pass over the prompt and the answer alone."
    alone, banned = collate([prompt], 0), never_sampled(policy, settings)
    ids = torch.cat([alone["input_ids"], tokens[None]], 1)
    kinds = torch.cat([alone["mm_token_type_ids"], torch.zeros_like(tokens)[None]], 1)
    with torch.no_grad():
        logits = policy.model(**{**alone, "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}).logits
    logps = (logits[0, -len(tokens) - 1 : -1] / temperature).masked_fill(banned, -torch.inf).log_softmax(-1)
    return logps.gather(1, tokens[:, None])[:, 0], -(logps.exp() * logps.masked_fill(banned, 0)).sum(-1)


def ending(policy, bias):
    "Settings under which answers end after some tokens."
    return {"sequence_bias": {(policy.tokenizer.eos_token_id,): bias}}


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_sharing_is_the_original_without_a_packing(attention):
    model = policy_with(attention).model
    batch = collate(prompts_of(policy_with()), 0)
    with torch.no_grad():
        before = model(**batch).logits
        let_share(model)
        let_share(model)
        after, copied = model(**batch).logits, copy.deepcopy(model)(**batch).logits
    assert model.config.text_config._attn_implementation == f"packed_{attention}" and model.config._attn_implementation == "sdpa"
    assert not batch["attention_mask"].all() and torch.equal(before, after) and torch.equal(before, copied)


def test_sharing_reaches_through_wrappers(tmp_path):
    peft = pytest.importorskip("peft")
    policy = tiny_policy(0)
    model = peft.get_peft_model(policy.model, peft.LoraConfig(target_modules=["q_proj"], r=2))
    let_share(torch.nn.Sequential(model))
    assert policy.model.config.text_config._attn_implementation == "packed_sdpa"
    tokens = sample_tokens(Policy(model.eval(), policy.processor), collate(prompts_of(policy), 0), 2, max_new_tokens=3, temperature=0)
    assert torch.equal(tokens, sample_tokens(tiny_policy(0), collate(prompts_of(policy), 0), 2, max_new_tokens=3, temperature=0))
    policy.save(tmp_path)  # the name of the function is no part of a checkpoint
    assert "packed" not in (tmp_path / "config.json").read_text()
    assert load_policy(tmp_path, device="cpu").model.config.text_config._attn_implementation == "sdpa"


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("key_heads", (4, 2))
def test_scores_are_those_of_a_full_pass(attention, key_heads):
    "Also where rows have left, so that prompts have different numbers of them, and one has none."
    policy, plain = policy_with(attention, key_heads), policy_with("sdpa", key_heads)
    prompts, worst = prompts_of(policy), 0.0
    torch.manual_seed(1)
    settings = ending(policy, 3.5)
    answers = sample_answers(policy, collate(prompts, policy.pad_id), 5, temperature=0.8, max_new_tokens=25, generation=settings, scores=True)
    assert len({*answers.lengths.tolist()}) > 4 and answers.ended.any()
    for row, length in enumerate(answers.lengths.tolist()):
        found = scored_alone(plain, prompts[row // 5], answers.tokens[row, :length], settings, 0.8)
        for ours, theirs in zip((answers.logps, answers.entropies), found, strict=True):
            worst = max(worst, (ours[row, :length] - theirs).abs().max().item(), ours[row, length:].abs().sum().item())
        assert (answers.tokens[row, length:] == policy.pad_id).all()
        assert answers.ended[row] == (answers.tokens[row, length - 1] == policy.tokenizer.eos_token_id)
    assert worst < 1e-4


def test_every_attention_draws_the_same():
    drawn = []
    for attention in ATTENTIONS:
        torch.manual_seed(2)
        policy = policy_with(attention)
        drawn.append(sample_tokens(policy, collate(prompts_of(policy), 0), 4, max_new_tokens=12))
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("as_images", (False, True))
def test_greedy_answers_are_generates_while_others_leave(as_images):
    policy = tiny_policy(0)
    batch, banned = collate(prompts_of(policy, as_images), policy.pad_id), never_sampled(policy).nonzero()[:, 0].tolist()
    assert ("pixel_values" in batch) == as_images
    settings = ending(policy, 2.0) | {"repetition_penalty": 1.3}
    ours = sample_answers(policy, batch, 3, temperature=0, max_new_tokens=30, generation=settings)
    theirs = policy.model.generate(**batch, do_sample=False, max_new_tokens=30, suppress_tokens=banned, **settings)[:, batch["input_ids"].shape[1] :]
    assert len({*ours.lengths.tolist()}) > 1  # some have left before others
    assert torch.equal(ours.tokens, theirs.repeat_interleave(3, 0))


SETTINGS = [  # some name tokens: those that stand first in answers without the setting, or anywhere
    {"top_k": 2}, {"top_p": 0.1}, {"min_p": 0.9}, {"top_h": 0.1}, {"typical_p": 0.1}, {"epsilon_cutoff": 0.02}, {"eta_cutoff": 0.99},
    {"repetition_penalty": 9.0}, {"no_repeat_ngram_size": 1}, {"bad_words_ids": lambda first, all: [[token] for token in first]},
    {"begin_suppress_tokens": lambda first, all: first}, {"sequence_bias": lambda first, all: {(first[0],): 9.0}}, {"temperature": 0.3},
    {"suppress_tokens": lambda first, all: first}, {"min_new_tokens": 5}, {"max_new_tokens": 3}, {"eos_token_id": lambda first, all: all[:2]},
    {"exponential_decay_length_penalty": (1, 9.0)}, {"renormalize_logits": True}, {"remove_invalid_values": True}, {"do_sample": True},
    {"do_sample": False}, {"stop_strings": lambda first, all: STRINGS([[token] for token in all[2:4]])}, {"top_k": 20, "top_p": 0.7, "temperature": 1.5, "repetition_penalty": 1.4},
]  # fmt: skip
STRINGS = tiny_policy(0).tokenizer.batch_decode  # tokens as texts
ENDS = {"eos_token_id", "min_new_tokens", "exponential_decay_length_penalty", "stop_strings"}  # held against greedy answers, where rows may leave
IDLE = {"renormalize_logits", "remove_invalid_values"}  # change no chance of finite logits


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "+".join(settings))
def test_a_setting_means_what_it_means_in_generate(settings):
    "One random state, one order of draws, so the very tokens of `generate`, and other ones than without the setting."
    policy = tiny_policy(0)
    batch, ends, end = collate(prompts_of(policy)[:2], policy.pad_id), bool(ENDS & {*settings}), policy.tokenizer.eos_token_id
    base = {} if ends else {"suppress_tokens": [end]}  # where nothing ends nothing leaves, and draws stay in step
    base |= ending(policy, 20.0) if "min_new_tokens" in settings else {}

    def ours(given):
        torch.manual_seed(3)
        return sample_answers(policy, batch, 3, temperature=0 if ends else 1.0, max_new_tokens=6, generation=given).tokens

    without = ours(base)
    first, written = without[:, 0].tolist(), [token for token in without.flatten().tolist() if token not in (end, policy.pad_id)]
    settings = {name: value(first, written) if callable(value) else value for name, value in settings.items()}
    suppressed = {"suppress_tokens": [*base.get("suppress_tokens", []), *settings.get("suppress_tokens", [])]}
    found = ours(base | settings | suppressed)
    banned = {"suppress_tokens": never_sampled(policy, base | settings | suppressed).nonzero()[:, 0].tolist()}
    arguments = {"max_new_tokens": 6, "do_sample": not ends, "top_k": 0} | base | settings | banned
    tokenizer = {"tokenizer": policy.tokenizer} if "stop_strings" in settings else {}
    torch.manual_seed(3)
    theirs = policy.model.generate(**batch, **tokenizer, num_return_sequences=3 if arguments["do_sample"] else 1, **arguments)
    theirs = theirs[:, batch["input_ids"].shape[1] :].repeat_interleave(1 if arguments["do_sample"] else 3, 0)
    assert torch.equal(found, theirs)
    assert torch.equal(found, without) == ({*settings} <= IDLE or settings == {"do_sample": True})


def test_a_config_is_taken_as_a_dict_is():
    policy = tiny_policy(0)
    batch, drawn = collate(prompts_of(policy), 0), []
    for settings in ({"top_k": 3, "max_new_tokens": 4}, GenerationConfig(top_k=3, max_new_tokens=4, do_sample=True)):
        torch.manual_seed(4)
        drawn.append(sample_tokens(policy, batch, 2, generation=settings))
    assert drawn[0].shape[1] == 4 and torch.equal(*drawn)


def test_no_setting_of_transformers_is_passed_over():
    "Each name that its `GenerationConfig` knows, and one that it does not, is honoured here or refused by name."
    odd = {"num_beams": 2, "num_return_sequences": 2, "guidance_scale": 1.5, "num_beam_groups": 2, "use_cache": False}
    good = {name: value([3], [3, 4]) if callable(value) else value for settings in SETTINGS for name, value in settings.items()} | {"do_sample": True}
    names = {name for name in vars(GenerationConfig()) if not name.startswith("_") and name != "transformers_version"} | {"top_pp"}
    for name in sorted(names):
        if name in good:
            check_generation({name: good[name]})
        else:
            with pytest.raises(ValueError, match=f"^{name}="):
                check_generation({name: odd.get(name, "static" if name == "cache_implementation" else 7)})
    assert {*good} <= names


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": 0.0}, "temperature=0.0 makes all answers of a group the same"), ({"do_sample": False}, "do_sample=False"),
        ({"temperature": -1.0}, "temperature=-1.0"), ({"top_p": 1.2}, "top_p=1.2"), ({"top_k": -1}, "top_k=-1"), ({"top_k": 2.5}, "top_k"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"), ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens=5"),
        ({"bad_words_ids": [3]}, "bad_words_ids"), ({"penalty_alpha": 0.6}, "draws no sample"), ({"cache_implementation": "static"}, "cache of its own"),
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        check_generation(settings)


def test_tokens_in_settings_must_exist():
    policy = tiny_policy(0)
    batch, size = collate(prompts_of(policy), 0), len(policy.tokenizer)
    for settings in ({"eos_token_id": size}, {"suppress_tokens": [size]}, {"suppress_tokens": ["x"]}, {"eos_token_id": []}):
        with pytest.raises(ValueError, match=f"^{next(iter(settings))}=.*must name tokens"):
            sample_tokens(policy, batch, generation=settings)
    with pytest.raises(ValueError, match="leaves no token"):
        never_sampled(policy, {"suppress_tokens": [*range(size)]})


def test_settings_reach_the_ban():
    policy = tiny_policy(0)
    end, clip = policy.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|vision_start|>"])
    banned = never_sampled(policy, {"suppress_tokens": [end], "eos_token_id": clip})
    assert banned[end] and not banned[clip] and never_sampled(policy)[clip]


def test_a_prompt_is_held_once():
    "Keys of a prompt are counted while answers are written: one copy, whatever the number of answers; room for theirs is at most doubled."
    policy, n, longest, seen, steps = tiny_policy(0), 16, 100, [], []
    batch = collate(prompts_of(policy)[:1], 0)
    size, text = batch["input_ids"].shape[1], policy.model.config.text_config
    token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim  # numbers of one token's keys and values

    def count(ended):
        steps.append(1)
        if len(steps) in (2, 66, longest - 1):
            objects = gc.get_objects()
            (shared,) = [one for one in objects if type(one) is SharedPrompt]
            assert not [one for one in objects if type(one).__name__ == "DynamicLayer" and getattr(one, "keys", None) is not None]
            seen.append([sum(part.numel() for pair in pairs for part in pair) for pairs in (shared.prompts, shared.own)])
        return False

    sample_tokens(policy, batch, n, max_new_tokens=longest, generation={"suppress_tokens": end_ids(policy)}, stop=count)
    prompt, own = zip(*seen, strict=True)
    assert {*prompt} == {size * token}
    assert own == (n * 64 * token, n * longest * token, n * longest * token)  # never more room than the longest answer takes


def test_ended_rows_leave_and_prompts_with_them(monkeypatch):
    policy, seen = tiny_policy(0), []
    inside = SharedPrompt.attend

    def attend(self, module, query, *rest, **options):
        seen.append((len(query), self.table.prompts, len(self.own[0][0][0]) if self.own else len(query)))
        return inside(self, module, query, *rest, **options)

    monkeypatch.setattr(SharedPrompt, "attend", attend)
    torch.manual_seed(0)
    batch = collate([*prompts_of(policy), *prompts_of(policy)], 0)
    answers = sample_answers(policy, batch, 4, max_new_tokens=40, generation=ending(policy, 4.0))
    rows = [row for row, _, _ in seen[:: policy.model.config.text_config.num_hidden_layers]]
    writing = [int((answers.lengths > step).sum()) for step in range(1, answers.tokens.shape[1])]
    assert rows[0] >= writing[0] and rows == sorted(rows, reverse=True)
    assert all(live <= row <= math.ceil(live * 8 / 7) for row, live in zip(rows, writing, strict=True))
    assert len({prompts for _, prompts, _ in seen}) > 1 and all(own == row for row, _, own in seen)


def test_processes_that_share_weights_compute_as_often_as_each_other():
    "With a `stop` of its own, the sampler goes on though all its answers have ended, and changes none of them."
    policy, passes = tiny_policy(0), []
    batch, settings = collate(prompts_of(policy), 0), ending(policy, 20.0)
    alone = sample_answers(policy, batch, 2, max_new_tokens=12, generation=settings, scores=True)
    policy.model.register_forward_pre_hook(lambda *_: passes.append(1))
    torch.manual_seed(0)
    waiting = sample_answers(policy, batch, 2, max_new_tokens=12, generation=settings, scores=True, stop=lambda ended: False)
    assert len(passes) == 12 and alone.tokens.shape[1] < 12 and waiting.ended.all()
    assert torch.equal(waiting.lengths, alone.lengths)
    for row, length in enumerate(waiting.lengths.tolist()):
        assert (waiting.tokens[row, length:] == policy.pad_id).all() and not waiting.logps[row, length:].any() and not waiting.entropies[row, length:].any()


def test_a_model_that_keeps_no_cache_says_so():
    "Some releases of transformers turn the cache off where gradient checkpointing is on in training mode."
    policy, drawn = tiny_policy(0), []
    policy.model.gradient_checkpointing_enable()
    batch = collate(prompts_of(policy), 0)
    for training in (False, True):
        policy.model.train(training)
        try:
            drawn.append(sample_tokens(policy, batch, temperature=0, max_new_tokens=4))
        except ValueError as error:
            assert training and "call model.eval()" in str(error)
    assert torch.equal(drawn[0], drawn[-1])
    with pytest.raises(ValueError, match="call model.eval()"):
        policy_module._cache_of({"cache": None})


def test_chat_templates_are_told_what_they_ask_for(tmp_path):
    policy = tiny_policy(0)
    policy.processor.chat_template += "{% if enable_thinking %}{{ '<think>\\n' }}{% endif %}"
    thinker = Policy(policy.model, policy.processor, chat_template_kwargs={"enable_thinking": True})
    assert (policy.thought, thinker.thought) == ("", "<think>\n")
    tail = policy.tokenizer("<think>\n", add_special_tokens=False)["input_ids"]
    assert encode(thinker, [clip_of(2)], "?").input_ids[-len(tail) :].tolist() == tail
    assert load_policy(thinker.save(tmp_path), device="cpu").thought == "<think>\n"
    assert load_policy(tmp_path, device="cpu", chat_template_kwargs={}).thought == ""
    for wish in ({"enable_thinkin": True}, {"messages": []}, {"tokenize": True}):
        with pytest.raises(ValueError, match=f"chat_template_kwargs: .*{next(iter(wish))}"):
            Policy(policy.model, policy.processor, chat_template_kwargs=wish)


def test_tokens_alone_are_those_of_the_answers():
    assert {*inspect.signature(sample_tokens).parameters} == {"policy", "batch", "n", "options"}
    policy, drawn = tiny_policy(0), []
    for draw in (sample_tokens, lambda *given, **options: sample_answers(*given, **options).tokens):
        torch.manual_seed(5)
        drawn.append(draw(policy, collate(prompts_of(policy), 0), 2, max_new_tokens=4))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("n", [1, 5])
def test_a_recorded_step_gives_the_same_answers(autocast, n):
    policy, how = tiny_policy(0), {"temperature": 0, "max_new_tokens": 150, "scores": True, "generation": ending(tiny_policy(0), 0.5)}
    batch = collate(prompts_of(policy), 0)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        computed, recorded = (sample_answers(policy, batch, n, record=record, **how) for record in (False, True))
    assert computed.tokens.tolist() == recorded.tokens.tolist() and computed.tokens.shape[1] > 64  # there was no more room once
    assert (computed.logps - recorded.logps).abs().max() < 1e-4


def test_a_recorded_step_holds_for_its_rows_alone():
    policy, made = tiny_policy(0), []
    batch = collate(prompts_of(policy), 0)
    recorded = policy_module._recorded

    def note(call, device):
        made.append(1)
        return recorded(call, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_module, "_recorded", note)
        torch.manual_seed(0)
        answers = sample_answers(policy, batch, 8, max_new_tokens=60, record=True, generation=ending(policy, 4.0), scores=True)
    assert len({*answers.lengths.tolist()}) > 3 and 1 < len(made) < 8  # half of the rows leave, and half of the rest
    greedy = {"temperature": 0, "max_new_tokens": 60, "generation": ending(policy, 4.0)}
    assert sample_tokens(policy, batch, 8, record=True, **greedy).tolist() == sample_tokens(policy, batch, 8, **greedy).tolist()


def test_a_step_that_cannot_be_recorded_is_computed_and_says_so(monkeypatch):
    def refuse(call, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    policy, how = tiny_policy(0), {"temperature": 0, "max_new_tokens": 9, "generation": {"suppress_tokens": end_ids(tiny_policy(0))}}
    batch = collate(prompts_of(policy), 0)
    expected = sample_tokens(policy, batch, 2, **how)
    monkeypatch.setattr(policy_module, "_recorded", refuse)
    with pytest.warns(UserWarning, match="cannot be recorded on cpu, and is slower for it: operation not permitted"):
        assert sample_tokens(policy, batch, 2, record=True, **how).tolist() == expected.tolist()


def test_shared_weights_and_cpus_are_not_recorded(monkeypatch):
    monkeypatch.setattr(policy_module, "_recorded", lambda *_: pytest.fail("a step was recorded"))
    policy = tiny_policy(0)
    batch = collate(prompts_of(policy), 0)
    sample_tokens(policy, batch, 2, max_new_tokens=6)
    sample_tokens(policy, batch, 2, max_new_tokens=6, stop=lambda ended: False)
