"Near-duplicates: footage that comes back in another form is found, strangers and blank frames are not; what shares a source is never split."
import hashlib
import json
import os
import shutil
from dataclasses import replace
from itertools import combinations

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from videossr.data import (
    MIXES,
    Mix,
    MixRow,
    build_dataset,
    build_samples,
    find_groups,
    find_twins,
    find_videos,
    groups,
    known_groups,
    load_samples,
    make_plan,
    split_keys,
    split_videos,
)
from videossr.data.build import Deal, load_plan
from videossr.data.groups import Hashes, candidate_pairs, offset_distances, video_hashes
from videossr.demo import demo_videos, write_mp4
from videossr.records import Record, compare, count_videos, make_record, p_values, score
from videossr.tasks import Sample
from videossr.tasks.core import SampleSource, has_key, video_key
from videossr.video import VideoError, read_clip


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    "Hashes of these tests lie in a folder of their own."
    old = os.environ.get("VIDEOSSR_CACHE")
    os.environ["VIDEOSSR_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("VIDEOSSR_CACHE") if old is None else os.environ.__setitem__("VIDEOSSR_CACHE", old)


def roam(seed, n=120, height=96, width=128):
    "Frames of a camera that drifts over rough land, 12 a second: detail at all scales, as in pictures of real things."
    rng = np.random.default_rng(seed)
    shape = (2 * height, 3 * width)
    scale = np.hypot(*np.meshgrid(*(np.fft.fftfreq(size) for size in shape), indexing="ij"))
    spectrum = np.fft.fft2(rng.normal(size=shape)) / np.maximum(scale, 1e-9)
    spectrum[0, 0] = 0
    land = np.fft.ifft2(spectrum).real
    land = np.clip(128 + 55 * land[..., None] / land.std() * rng.uniform(0.6, 1, 3), 0, 255).astype(np.uint8)
    turns = np.arange(n)[:, None] / 120 * rng.uniform(2, 4, 2) + rng.uniform(0, 6, 2)
    path = (0.5 + 0.5 * np.sin(turns)) * [height - 1, 2 * width - 1]
    return np.stack([land[y : y + height, x : x + width] for y, x in path.astype(int)])


def encode(path, frames, codec, rate):
    with av.open(str(path), "w") as box:
        stream = box.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            box.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        box.mux(stream.encode())
    return path


def half(frames):
    return frames.reshape(len(frames), frames.shape[1] // 2, 2, frames.shape[2] // 2, 2, 3).mean((2, 4)).astype(np.uint8)


FORMS = {
    "coarse": lambda path, frames: write_mp4(path.with_suffix(".mp4"), frames, frame_rate=12, crf=38),
    "small": lambda path, frames: write_mp4(path.with_suffix(".mp4"), half(frames), frame_rate=12, crf=30),
    "avi": lambda path, frames: encode(path.with_suffix(".avi"), frames, "mpeg4", 12),
    "vp8": lambda path, frames: encode(path.with_suffix(".webm"), frames, "libvpx", 12),
    "slow": lambda path, frames: write_mp4(path.with_suffix(".mp4"), frames[::3], frame_rate=4),
    "cut": lambda path, frames: write_mp4(path.with_suffix(".mp4"), frames[17:], frame_rate=12),
    "middle": lambda path, frames: write_mp4(path.with_suffix(".mp4"), half(frames[31:80]), frame_rate=12, crf=32),
    "fast": lambda path, frames: write_mp4(path.with_suffix(".mp4"), np.repeat(frames[7:], 2, 0), frame_rate=24),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    "Two videos, each in all forms: name -> paths."
    folder = tmp_path_factory.mktemp("sources")
    made = {}
    for seed in (1, 2):
        frames = roam(seed)
        made[seed] = [write_mp4(folder / f"{seed}.mp4", frames, frame_rate=12)]
        made[seed] += [form(folder / f"{seed}-{name}", frames) for name, form in FORMS.items()]
    return made


@pytest.fixture(scope="module")
def evenings(tmp_path_factory):
    return demo_videos(12, folder=tmp_path_factory.mktemp("evenings"), progress=False)


def partition(found, paths):
    "Sets of paths that stand together."
    sets = {}
    for path in map(str, paths):
        sets.setdefault(found.get(path, path), set()).add(path)
    return {frozenset(members) for members in sets.values()}


def test_every_form_is_found_and_no_stranger(sources, evenings):
    paths = [path for made in sources.values() for path in made] + evenings
    known = {frozenset(map(str, made)) for made in sources.values()} | {frozenset([str(path)]) for path in evenings}
    assert partition(find_groups(paths), paths) == known
    assert partition(find_groups(paths[::-1]), paths) == known


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_found_by_itself_at_its_offset(sources, form):
    number = 1 + list(FORMS).index(form)
    starts = {"cut": 17 / 12, "middle": 31 / 12, "fast": 7 / 12}
    for made in sources.values():
        (twin,) = find_twins([made[0], made[number]])
        offset = twin.offset if twin.first == str(made[0]) else -twin.offset
        assert abs(offset - starts.get(form, 0)) <= 2 / groups.RATE and twin.distance <= groups.LIMIT


def test_pieces_that_share_nothing_are_strangers_until_they_are_given(tmp_path):
    frames = roam(5, 150)
    pieces = [write_mp4(tmp_path / f"{name}.mp4", part, frame_rate=12) for name, part in (("a", frames[:60]), ("b", frames[90:]))]
    assert find_twins(pieces) == []
    assert set(find_groups(pieces, dict.fromkeys(pieces, "film")).values()) == {"film"}


def test_flat_and_still_frames(tmp_path):
    "Blank videos are nobody's twin; a still picture is the twin of its re-encoding and of no other picture."
    flat = [write_mp4(tmp_path / f"flat{level}.mp4", np.full((36, 64, 96, 3), level, np.uint8), frame_rate=12) for level in (0, 1, 128, 255)]
    rng = np.random.default_rng(0)
    grain = [write_mp4(tmp_path / f"grain{k}.mp4", rng.integers(60, 64, (36, 64, 96, 3), dtype=np.uint8), frame_rate=12) for k in range(2)]
    assert find_twins([*flat, *grain]) == []
    still = {k: np.repeat(roam(k, 1), 36, 0) for k in (7, 8)}
    paths = [write_mp4(tmp_path / f"still{k}.mp4", frames, frame_rate=12) for k, frames in still.items()]
    paths.append(write_mp4(tmp_path / "again.mp4", half(still[7]), frame_rate=6, crf=32))
    assert [{twin.first, twin.second} for twin in find_twins(paths)] == [{str(paths[0]), str(paths[2])}]


def test_leaders_of_black_join_nothing(tmp_path, sources):
    "Four seconds of black before and behind each of two videos."
    dark = np.zeros((48, 96, 128, 3), np.uint8)
    framed = [write_mp4(tmp_path / f"{k}.mp4", np.concatenate([dark, roam(k), dark]), frame_rate=12) for k in (1, 2)]
    assert find_twins(framed) == []
    assert len(find_twins([framed[0], sources[1][0]])) == 1


def test_a_very_short_video_is_compared_whole(tmp_path):
    frames = roam(9, 60)
    whole = write_mp4(tmp_path / "whole.mp4", frames, frame_rate=12)
    blink = write_mp4(tmp_path / "blink.mp4", frames[20:30], frame_rate=12)  # less than a second
    instant = write_mp4(tmp_path / "instant.mp4", frames[20:22], frame_rate=12)
    assert [(twin.first, twin.second) for twin in find_twins([whole, blink, instant])] == [(str(blink), str(whole))]


def test_offsets_by_hand():
    "Distances against a plain loop over all pairs of frames."
    rng = np.random.default_rng(3)
    first, second = (Hashes(rng.integers(0, 256, (n, 32), dtype=np.uint8), rng.random(n) > 0.3) for n in (40, 25))
    offsets, distances = offset_distances(first, second)
    assert len(offsets) == 64 and offsets[0] == -24 / groups.RATE
    for offset, distance in zip((offsets * groups.RATE).astype(int), distances, strict=True):
        pairs = [(i, i - offset) for i in range(40) if 0 <= i - offset < 25 and first.clear[i] and second.clear[i - offset]]
        if len(pairs) < 12:
            assert np.isnan(distance)
        else:
            bits = [np.unpackbits(first.bits[i] ^ second.bits[j]).mean() for i, j in pairs]
            assert distance == pytest.approx(np.median(bits), abs=1e-6)


def test_candidates_share_a_word_and_only_those():
    rng = np.random.default_rng(4)
    tracks = [Hashes(rng.integers(0, 256, (20, 32), dtype=np.uint8), np.ones(20, bool)) for _ in range(6)]
    tracks[4].bits[7, 8:12] = tracks[1].bits[3, 8:12]  # the third word
    tracks[5].bits[7, 8:12] = tracks[2].bits[3, 12:16]  # the same value as another word
    tracks[3].clear[2] = False
    tracks[3].bits[2] = tracks[0].bits[2]  # in a flat frame
    assert candidate_pairs(tracks) == [(1, 4)]
    assert candidate_pairs([]) == [] and candidate_pairs(tracks[:1]) == []
    many = [tracks[0]] * 50
    linked = candidate_pairs(many)
    assert len(linked) < 50 * 5 and {number for pair in linked for number in pair} == set(range(50))


def test_hashes_are_kept_by_content(sources, tmp_path, monkeypatch):
    path = sources[1][0]
    first = video_hashes(path, tmp_path)
    monkeypatch.setattr(groups, "read_grey", None)  # not needed again
    assert np.array_equal(video_hashes(path, tmp_path).bits, first.bits)
    monkeypatch.undo()
    for kept in tmp_path.iterdir():
        kept.write_bytes(kept.read_bytes()[:100])  # torn
    assert np.array_equal(video_hashes(path, tmp_path).bits, first.bits)
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert len(video_hashes(path, tmp_path / "file" / "deeper")) == len(first)


def test_what_cannot_be_read_is_passed_over_and_what_cannot_be_hashed_is_told(sources, tmp_path, monkeypatch):
    (tmp_path / "text.mp4").write_text("no video")
    assert find_groups([tmp_path / "text.mp4", tmp_path / "absent.mp4", sources[1][0]]) == {}
    monkeypatch.setenv("VIDEOSSR_CACHE", str(tmp_path / "cache"))

    def stuck(path, *how, **reading):
        raise VideoError(path, "took longer than 60 s")

    monkeypatch.setattr(groups, "read_grey", stuck)
    with pytest.warns(UserWarning, match="1.mp4 could not be compared with the other videos .took longer"):
        assert find_groups(sources[1][:1]) == {}


def test_a_hash_is_the_sign_of_the_lowest_frequencies():
    "Against the cosine transform by way of Fourier's, of the picture and its mirror images."
    rng = np.random.default_rng(6)
    for size in ((64, 64), (96, 128), (480, 270)):
        frame = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        frame[: size[0] // 3] //= 4
        picture = np.asarray(Image.fromarray(frame).convert("L").resize((64, 64), Image.Resampling.LANCZOS)).astype(float)
        for _ in range(2):  # along both sides
            waves = np.fft.fft(np.concatenate([picture, picture[:, ::-1]], 1)) * np.exp(-0.5j * np.pi * np.arange(128) / 64)
            picture = waves.real[:, :16].T
        low = picture  # of 16 x 16
        assert np.array_equal(np.unpackbits(groups.frame_hashes([frame]).bits[0]), (low > np.median(low)).ravel())


# ------------------------------------------------------------------------------------------------------- given groups


def test_given_groups_and_twins_unite(sources, evenings):
    one, two = sources[1][:2], sources[2][:2]
    given = {one[1]: "b", two[1]: "a", evenings[0]: "a", evenings[1]: 7, evenings[2]: None, evenings[3]: float("nan")}
    found = find_groups([*one, *two, *evenings], given)
    assert {found[str(path)] for path in one} == {"b"} and {found[str(path)] for path in [*two, evenings[0]]} == {"a"}
    assert found[str(evenings[1])] == "7" and not {str(path) for path in evenings[2:]} & set(found)
    given[one[0]] = "a"
    assert set(find_groups([*one, *two], given).values()) == {"a"}
    assert find_groups([*one, *two], found) == {path: name for path, name in found.items() if path in map(str, [*one, *two])}
    with pytest.raises(ValueError, match="groups are given for 1 videos, the first .*nowhere.mp4"):
        find_groups(one, {"nowhere.mp4": "a"})


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_lists_name_groups(evenings, tmp_path, suffix):
    rows = pd.DataFrame({"path": [str(path) for path in evenings[:4]], "group": ["01", "01", None, "x"]})
    table = tmp_path / f"list{suffix}"
    rows.to_parquet(table) if suffix == ".parquet" else rows.to_csv(table, index=False, sep="\t" if suffix == ".tsv" else ",")
    assert known_groups(table) == {str(evenings[0]): "01", str(evenings[1]): "01", str(evenings[3]): "x"}
    plan = make_plan(table, "demo", {"train": 8, "validation": 4}, 0.3, near_duplicates=False)
    assert sorted(plan.groups.values()) == ["01", "01", "x"]
    by_table = make_plan(evenings[:4], "demo", {"train": 8, "validation": 4}, 0.3, groups=table, near_duplicates=False)
    assert by_table.groups == plan.groups and by_table.videos == plan.videos
    with pytest.raises(ValueError, match="groups name no group"):
        make_plan(evenings[:4], "demo", {"train": 8}, groups={})


# ------------------------------------------------------------------------------------------------------------- splits


def random_groups(rng):
    keys = [f"{number:016x}" for number in range(int(rng.integers(2, 40)))]
    return keys, {key: f"g{rng.integers(0, max(2, len(keys) // 2))}" for key in keys if rng.random() < 0.6}


def test_splits_by_key_are_whole_complete_and_near_the_share():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        keys, names = random_groups(rng)
        source = {key: names.get(key, key) for key in keys}
        share, sizes = float(rng.uniform(0.02, 0.98)), [list(source.values()).count(name) for name in set(source.values())]
        if len(sizes) < 2:
            continue
        train, held = split_keys(keys, share, seed, names)
        assert sorted(train + held) == keys and train and held
        assert not {source[key] for key in train} & {source[key] for key in held}
        assert abs(len(held) - share * len(keys)) <= max(sizes) / 2 + 1 or min(sizes) in (len(held), len(train))
        assert split_keys(keys, share, seed) == split_keys(keys, share, seed, {key: key for key in keys}), "sources of one video change nothing"


def test_every_group_is_held_out_now_and_then():
    keys = [f"{number:016x}" for number in range(30)]
    names = {key: f"g{number // 3}" for number, key in enumerate(keys[:15])}
    held = [set(split_keys(keys, 0.2, seed, names)[1]) for seed in range(100)]
    assert set().union(*held) == set(keys)
    with pytest.raises(ValueError, match="all 30 belong to one group"):
        split_keys(keys, 0.2, 0, dict.fromkeys(keys, "film"))


def test_videos_and_their_twins_are_never_split(sources, evenings):
    paths = [path for made in sources.values() for path in made[:4]] + evenings[:6]
    found = find_groups(paths)
    for seed in range(30):
        train, held = split_videos(paths, 0.3, seed, found, near_duplicates=False)
        assert not any({path in train for path in made[:4]} == {True, False} for made in sources.values())
        assert sorted(train + held) == sorted(paths)
    assert split_videos(paths, 0.3, 4) == split_videos(paths, 0.3, 4, found, near_duplicates=False)
    by_bytes = [split_videos(paths, 0.3, seed, near_duplicates=False)[1] for seed in range(10)]
    assert any(0 < len(set(held) & set(sources[1][:4])) < 4 for held in by_bytes), "what is found matters here"


def test_300_splits_of_real_clips(real_videos):
    paths = find_videos(real_videos)
    found = find_groups(paths)
    families = {name: {path for path in paths if path.name.startswith(name)} for name in ("mdn_flower", "webrtc_chrome")}
    for name, members in families.items():
        assert len({found.get(str(path)) for path in members}) == 1, name
    for twins in combinations([members for members in families.values() if members], 2):
        assert found[str(min(twins[0]))] != found[str(min(twins[1]))]
    torn = 0
    for seed in range(300):
        train, held = split_videos(paths, 0.25, seed, found, near_duplicates=False)
        names = [{found.get(str(path), str(path)) for path in side} for side in (train, held)]
        assert not names[0] & names[1] and len(train) + len(held) == len(paths)
        plain = set(split_videos(paths, 0.25, seed, near_duplicates=False)[1])
        torn += any(plain & members and members - plain for members in families.values())
    assert torn > 150, "by bytes most splits tear a family apart"


# ----------------------------------------------------------------------------------------- datasets, samples, records


@pytest.fixture(scope="module")
def dataset(sources, evenings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "built"
    paths = [*sources[1][:3], sources[2][0], *evenings[:6]]
    given = {evenings[0]: "walk", evenings[1]: "walk"}
    build_dataset(paths, folder, "demo", 40, held_out=0.3, n_validation=12, shard_size=20, seed=5, groups=given, workers=1, progress=False)
    return folder


def test_a_dataset_keeps_groups_together_and_says_so(dataset, sources):
    plan = load_plan(dataset)
    assert sorted(plan.groups.values()).count("walk") == 2 and len(plan.groups) == 5
    assert not set(plan.groups_of("train")) & set(plan.groups_of("validation"))
    group_of = {path: plan.groups.get(key) for videos in plan.videos.values() for key, path in videos}
    for split in plan.n:
        for sample in load_samples(dataset, split):
            assert sample.group == group_of[os.path.relpath(sample.video, plan.root)]
    table = pq.read_table(dataset / "videos.parquet").to_pylist()
    assert {row["video"]: row["group"] for row in table} == group_of
    card = (dataset / "README.md").read_text()
    assert "## Sources" in card and "| walk |" in card and "looked for" in card and "not looked for" not in card
    lists = [line for line in card.splitlines() if all(path.name in line for path in sources[1][:3])]
    assert len(lists) == 1 and "| 3 |" in lists[0]


def test_one_task_a_source(dataset):
    plan = load_plan(dataset)
    for split in plan.n:
        deal, names = Deal.make(plan.mix, plan.groups_of(split), one_task=True), plan.groups_of(split)
        rows = [{names[video] for video in own} for own in deal.own if len(own) < len(names)]
        assert all(not one & two for one, two in combinations(rows, 2))


def test_groups_decide_what_dataset_it_is(dataset, sources, evenings):
    paths, settings = [*sources[1][:3], sources[2][0], *evenings[:6]], {"held_out": 0.3, "n_validation": 12, "shard_size": 20, "seed": 5, "progress": False}
    with pytest.raises(ValueError, match="holds another dataset"):
        build_dataset(paths, dataset, "demo", 40, groups={evenings[0]: "other", evenings[1]: "other"}, **settings)
    with pytest.raises(ValueError, match="holds another dataset: near_duplicates differ"):
        build_dataset(paths, dataset, "demo", 40, groups={evenings[0]: "walk", evenings[1]: "walk"}, near_duplicates=False, **settings)


def test_a_dataset_of_an_earlier_release_loads(dataset, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(dataset, old)
    pq.write_table(pq.read_table(old / "videos.parquet").drop_columns("group"), old / "videos.parquet")
    for shard in (old / "samples").iterdir():
        pq.write_table(pq.read_table(shard).drop_columns("group"), shard)
    config = json.loads((old / "config.json").read_text())
    del config["near_duplicates"]
    (old / "config.json").write_text(json.dumps({**config, "format": 1}))
    assert load_plan(old).groups == {} and not load_plan(old).near_duplicates
    for split in ("train", "validation"):
        assert list(load_samples(old, split)) == [replace(sample, group=None) for sample in load_samples(dataset, split)]


def test_donors_come_from_other_sources(evenings, tmp_path):
    mix = Mix((MixRow("grounding", "swap", "demo"),))
    walk, other = list(map(str, evenings[:3])), str(evenings[3])
    settings = {"groups": dict.fromkeys(walk, "walk"), "near_duplicates": False, "progress": False}
    samples, _ = build_samples([*walk, other], mix, 12, **settings)
    build_dataset([*walk, other], tmp_path / "built", mix, 12, held_out=0, workers=1, card=False, **settings)
    for made in (samples, load_samples(tmp_path / "built")):
        donors = {sample.donor for sample in made if sample.video in walk}
        assert donors == {other} and any(sample.video == other and sample.donor in walk for sample in made)


def test_samples_and_records_name_their_source(sources, evenings):
    paths = [*sources[1][:2], *evenings[:4]]
    samples, _ = build_samples(paths, Mix((MixRow("counting", difficulty="demo"),)), 12, progress=False)
    (name,) = set(find_groups(paths).values())
    twins = [sample for sample in samples if sample.group]
    assert {sample.video for sample in twins} == set(map(str, sources[1][:2])) and {sample.group for sample in twins} == {name}
    records = [make_record(sample, sample.answer, name="one") for sample in samples]
    assert len({record.cluster for record in records}) == len({record.video for record in records}) - 1
    assert [Record.from_json(record.to_json()) for record in records] == records


def test_intervals_count_sources():
    "Twelve videos of four films give the intervals of four videos, and wider ones than twelve."
    rng = np.random.default_rng(0)
    films = rng.normal(0.5, 0.2, 4)
    rows = [(f"{k}.mp4", f"film{k % 4}", float(np.clip(films[k % 4] + rng.normal(0, 0.02), 0, 1))) for k in range(12) for _ in range(3)]
    sample = Sample("grounding", "mirror", "a.mp4", {}, "When?", "2.0-4.0")
    record = make_record(sample, "2.0-4.0", name="x")
    twelve = [replace(record, id=str(k), video=video, smooth=value) for k, (video, _, value) in enumerate(rows)]
    pieces = [replace(one, group=film) for one, (_, film, _) in zip(twelve, rows, strict=True)]
    four = [replace(one, video=film) for one, (_, film, _) in zip(twelve, rows, strict=True)]
    assert score(pieces) == score(four) != score(twelve)
    width = [score(some)["grounding"]["high"] - score(some)["grounding"]["low"] for some in (pieces, twelve)]
    assert width[0] > 1.3 * width[1]
    assert count_videos(pieces) == {"grounding": 4}
    later = [replace(one, smooth=min(1.0, one.smooth + 0.1)) for one in pieces]
    assert compare(pieces, later) == compare(four, later) and p_values(pieces, later) == p_values(four, later)


def test_viubench_counts_sources_and_tells_copies(sources, evenings, tmp_path):
    from videossr.backends import Budget
    from videossr.viubench import build_viubench, load_viubench, save_viubench

    copy = tmp_path / "zz.mp4"
    copy.write_bytes(evenings[0].read_bytes())
    given = {evenings[0]: "walk", evenings[1]: "walk"}
    bench = build_viubench([*evenings[:3], copy], per_type=3, budget=Budget(32, max_pixels=64 * 64), groups=given, progress=False)
    assert {(sample.video, sample.group) for sample in bench} == {(str(evenings[0]), "walk"), (str(evenings[1]), "walk"), (str(evenings[2]), None)}
    assert [row["detail"] for row in bench.refusals if row["reason"] == "same file"] == [f"as {evenings[0]}"]
    assert load_viubench(save_viubench(bench, tmp_path / "v.jsonl")).samples == bench.samples


def test_a_sample_without_a_group_keeps_its_bytes():
    sample = Sample("counting", "shapes", "a.mp4", {}, "How many?", "1,2,3")
    assert sample.to_json() == (
        '{"answer": "1,2,3", "donor": null, "index": 0, "question": "How many?", "recipe": {}, "seed": 0, "task": "counting", "type": "shapes", "video": "a.mp4"}'
    )
    assert Sample.from_json(sample.to_json()) == sample
    with pytest.raises(ValueError, match="the group is 7, not a text"):
        Sample.from_json(json.dumps({**json.loads(sample.to_json()), "group": 7}))


# -------------------------------------------------------------------------------------------------------- fingerprints


@pytest.mark.parametrize("size", [0, 1, 65_536, 131_072, 131_073, 140_000, 300_000, 5_000_000])
def test_fingerprints_see_the_middle(tmp_path, size):
    "Of files whose ends agree; a change that no piece covers stays unseen, and pieces are spread evenly."
    rng = np.random.default_rng(size)
    data, path = rng.integers(0, 256, size, dtype=np.uint8), tmp_path / "raw.yuv"
    path.write_bytes(data.tobytes())
    key = video_key(path)
    assert len(key) == (16 if size <= 131_072 else 20) and has_key(path, key)
    for start in np.linspace(65_536, size - 65_536, 9)[1:-1].astype(int) if size > 300_000 else []:
        other = data.copy()
        other[start - size // 14 : start + size // 14] ^= 255  # a seventh of the file
        path.write_bytes(other.tobytes())
        assert video_key(path) != key and not has_key(path, key)


def test_raw_files_with_equal_ends_are_two_videos(tmp_path):
    frames = roam(3, 40)
    pair = [encode(tmp_path / f"{name}.avi", np.concatenate([np.zeros_like(frames[:6]), body, np.zeros_like(frames[:6])]), "rawvideo", 12)
            for name, body in (("a", frames[:20]), ("b", frames[20:]))]
    ends = [(path.stat().st_size, path.read_bytes()[:65_536], path.read_bytes()[-65_536:]) for path in pair]
    assert ends[0] == ends[1] and video_key(pair[0]) != video_key(pair[1])
    train, held = split_videos(pair, 0.5, near_duplicates=False)
    assert len(train) == len(held) == 1


def test_keys_of_earlier_releases_are_checked_by_their_rule(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(200_000))
    ends = hashlib.blake2b(b"200000" + bytes(131_072), digest_size=8).hexdigest()
    assert has_key(path, ends) and video_key(path) != ends
    SampleSource(str(path), {}).check_keys([ends])
    with pytest.raises(VideoError, match="another video than the one"):
        SampleSource(str(path), {}).check_keys(["0" * 16])
    with pytest.raises(VideoError, match="another video than the one"):
        SampleSource(str(path), {}).check_keys(["0" * 20])


def test_a_copy_is_told_and_not_lost(sources, tmp_path):
    copy = tmp_path / "zz.mp4"
    copy.write_bytes(sources[1][0].read_bytes())
    _, refusals = build_samples([sources[1][0], sources[2][0], copy], MIXES["demo"], 7, progress=False)
    told = [row for row in refusals if row["reason"] == "same file"]
    assert len(told) == 1 and {told[0]["video"], told[0]["detail"].removeprefix("as ")} == {str(copy), str(sources[1][0])}
    assert read_clip(copy).n_frames
