"The paper's written rules for reading replies, once more and without regular expressions: what the parsers are compared with."
import itertools
import unicodedata
from collections import Counter
from fractions import Fraction


def digit(char):
    return unicodedata.decimal(char, None)


def oracle_number(run):
    "Digits with at most one dot, rounded once from the exact fraction; None for anything else."
    whole, dot, part = run.partition(".")
    if not all(digit(char) is not None for char in whole + part) or not whole + part:
        return None
    return float(Fraction(int("".join(str(digit(char)) for char in whole + part)), 10 ** len(part)))


def oracle_interval(text):
    halves = text.split("-")
    if len(halves) != 2:
        return None
    start, end = (oracle_number(half.strip()) for half in halves)
    return (start, end) if start is not None and end is not None and start <= end else None


def oracle_counts(text, size):
    runs = ["".join(str(digit(char)) for char in group) for is_digit, group in itertools.groupby(text, lambda char: digit(char) is not None) if is_digit]
    return tuple(map(int, runs)) if len(runs) == size else None


def oracle_order(text, size):
    return text.strip() if Counter(text.strip()) == Counter("123456789"[:size]) else None
