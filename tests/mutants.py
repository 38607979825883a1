"Damaged copies of video files: for the tests of everything that opens what strangers send."
import struct

import numpy as np

# Places in a file where a number decides how much is read, how large, how fast or for how long.
FIELDS = {
    "sizes": [b"tkhd", b"avc1", b"hvc1", b"mp4v", b"stsz", b"strf", b"avih", b"\xb0\x82", b"\xba\x82", b"\xe0", b"strl"],
    "rates": [b"mdhd", b"mvhd", b"stts", b"ctts", b"strh", b"avih", b"\x23\xe3\x83", b"\x2a\xd7\xb1", b"OggS"],
    "durations": [b"mvhd", b"mdhd", b"tkhd", b"elst", b"mehd", b"sidx", b"tfdt", b"trun", b"\x44\x89", b"\x9b", b"idx1"],
    "places": [b"stco", b"co64", b"stsc", b"stss", b"moov", b"trak", b"moof", b"\x1c\x53\xbb\x6b", b"\xb7", b"RIFF", b"movi", b"\x1f\x43\xb6\x75"],
}  # fmt: skip
ABSURD = [struct.pack(">I", value) for value in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFF, 0x10000)]
ABSURD += [struct.pack(">d", value) for value in (-1.0, 0.0, float("nan"), float("inf"), 1e300)]


def _range(data, rng, share=0.3):
    "First byte and the one behind the last of a part of the file, short ones more often."
    length = max(1, int(len(data) * share * rng.random() ** 3))
    start = int(rng.integers(0, max(1, len(data) - length)))
    return start, start + length


def truncate(data, rng, others):
    return data[: int(rng.integers(1, len(data)))]


def flip(data, rng, others):
    data = bytearray(data)
    for place in rng.integers(0, len(data), int(2 ** rng.uniform(0, 9))):
        data[place] ^= 1 << int(rng.integers(8))
    return bytes(data)


def noise(data, rng, others):
    start, stop = _range(data, rng)
    return data[:start] + rng.integers(0, 256, stop - start).astype(np.uint8).tobytes() + data[stop:]


def zeros(data, rng, others):
    start, stop = _range(data, rng)
    return data[:start] + bytes(stop - start) + data[stop:]


def header(data, rng, others):
    "Wrong bytes in the first or the last kilobyte, where containers keep their index."
    data, ends = bytearray(data), bool(rng.integers(2))
    for _ in range(int(rng.integers(1, 20))):
        place = int(rng.integers(min(1024, len(data))))
        data[-1 - place if ends else place] = int(rng.integers(256))
    return bytes(data)


def swap(data, rng, others):
    "Two parts change places: packets arrive out of order, or streams are exchanged."
    (a, b), (c, d) = sorted((_range(data, rng, 0.1), _range(data, rng, 0.1)))
    return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def splice(data, rng, others):
    "The beginning of one file and the end of another."
    other = others[int(rng.integers(len(others)))]
    return data[: int(rng.integers(1, len(data)))] + other[int(rng.integers(len(other))) :]


def repeat(data, rng, others):
    start, stop = _range(data, rng)
    return data[:stop] + data[start:stop] * int(rng.integers(1, 4)) + data[stop:]


def remove(data, rng, others):
    start, stop = _range(data, rng)
    return data[:start] + data[stop:]


def _field(kind):
    def change(data, rng, others):
        found = [place + len(name) for name in FIELDS[kind] if (place := data.find(name)) >= 0]
        if not found:
            return header(data, rng, others)
        data = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            value = ABSURD[int(rng.integers(len(ABSURD)))]
            place = found[int(rng.integers(len(found)))] + int(rng.integers(0, 48))
            data[place : place + len(value)] = value[: max(0, len(data) - place)]
        return bytes(data)

    change.__name__ = kind
    return change


MUTATIONS = [truncate, flip, noise, zeros, header, swap, splice, repeat, remove, *map(_field, FIELDS)]


def mutants(paths, n, seed=0, largest=1_500_000):
    "Yields (name, bytes), `n` of them and the same for the same seed; kinds and files take turns. Larger files are left out."
    rng = np.random.default_rng(seed)
    files = [(path, path.read_bytes()) for path in paths if path.stat().st_size <= largest]
    for number in range(n):
        mutation = MUTATIONS[number % len(MUTATIONS)]
        path, data = files[int(rng.integers(len(files)))]
        changed = mutation(data, rng, [other for _, other in files])
        yield f"{number:04d}-{mutation.__name__}-{path.stem}{path.suffix}", changed
