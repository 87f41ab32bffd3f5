"""Templates that stand for words in a sentence, under the names that several Wikipedias share.

All others are dropped: they show a box, a citation or a note, or their words cannot be known without their source.
"""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

_OPTION = re.compile(r"\s*([^\W\d][\w -]{0,30}|[12])\s*=")
_NUMBER = re.compile(r"[-+−±]?[\d.,/+ ]*\d[\d.,]*(?:e[-+]?\d+)?")
_RANGE_WORDS = {"-", "–", "to", "and", "or", "by", "x", "×", "to(-)", "and(-)", "*"}


def words(name: str, arguments: Sequence[str]) -> str:
    """The words that a template leaves in the text, or none; its name in lower case, with spaces for underscores."""
    function, colon, value = name.partition(":")
    if colon:
        return value.strip() if function in _FUNCTIONS else ""
    rule = _RULES.get("lang-" if name.startswith("lang-") else name)
    if rule is None:
        return _SYMBOLS.get(name, "")
    # "1=" and "text=" precede a text that has an equals sign in it; other names are options.
    positional: list[str] = []
    for argument in arguments:
        option = _OPTION.match(argument)
        if option is None:
            positional.append(argument.strip())
        elif option[1] in ("1", "2", "text", "quote", "content"):
            positional.append(argument[option.end() :].strip())
    return rule(positional) if positional else ""


def _fraction(arguments: Sequence[str]) -> str:
    whole, parts = (arguments[:1], arguments[1:]) if len(arguments) == 3 else ([], arguments)
    return " ".join([*whole, "/".join(parts if len(parts) > 1 else ["1", *parts])])


def _quantity(arguments: Sequence[str]) -> str:
    """``5|km|mi`` is 5 km, ``5|to|10|km`` is 5 to 10 km, ``6|ft|2|in`` is 6 ft 2 in."""
    shown: list[str] = []
    for argument in arguments:
        unit = shown and _NUMBER.fullmatch(shown[-1])
        if len(argument) > 40 or not (unit or argument in _RANGE_WORDS or _NUMBER.fullmatch(argument)):
            break
        shown.append(argument)
    return " ".join(shown[:-1] if len(shown) % 2 and len(shown) > 1 else shown)


def _by_name(groups: Sequence[tuple[str, T]]) -> dict[str, T]:
    return {name.strip(): value for names, value in groups for name in names.split(",")}


_FUNCTIONS = {"formatnum", "lc", "uc", "lcfirst", "ucfirst"}
_FIRST = """nowrap, nobr, nobreak, small, smaller, big, larger, em, strong, abbr, tooltip, sc, smallcaps, vanchor,
visible anchor, linktext, sic, not a typo, w, ill, interlanguage link, lien, flag, flagcountry, nobold, mvar, var,
keypress, sup, sub, overline, underline, formatnum, quote, blockquote, cquote, quotation, cita, citation, zitat, samp,
mono, nombre, varserif, frs, ens, angbr, date-, script/hebrew, readings, ruby, lang-"""
_LAST = """lang, langue, transl, transliteration, script, resize, wikt-lang, font color, color, colour, columns-list,
columnslist, div col content, tlit"""
_RULES: dict[str, Callable[[Sequence[str]], str]] = _by_name([
    (_FIRST, lambda a: a[0]),
    (_LAST, lambda a: next(filter(None, reversed(a)), "")),
    ("okina text", lambda a: a[1] if len(a) > 1 else ""),
    ("chem, simplenuclide", "".join),
    ("date, unité, unidad, val", lambda a: " ".join(filter(None, a))),
    ("nihongo", lambda a: a[0] or (a[2] if len(a) > 2 else "")),
    ("frac, fraction, sfrac", _fraction),
    ("convert, cvt, conv", _quantity),
    ("circa, c.", lambda a: f"c. {a[0]}"),
    ("floruit, fl.", lambda a: f"fl. {a[0]}"),
    ("as of", lambda a: f"As of {a[0]}"),
    ("us$", lambda a: f"US${a[0]}"),
    ("gbp", lambda a: f"£{a[0]}"),
    ("inr", lambda a: f"₹{a[0]}"),
    ("s", lambda a: f"{a[0]}e siècle"),
])  # fmt: skip
_SYMBOLS = _by_name([
    ("ndash, en dash, –", "–"),
    ("snd, spnd, spaced ndash", " – "),
    ("mdash, em dash, mdashb, —", "—"),
    ("'", "'"),
    ("’", "’"),
    ("'s", "'s"),
    ("okina", "ʻ"),
    ("·, dot", " · "),
    ("•, bull", " • "),
    ("nbsp, space, spaces, thinsp", " "),
    ("!, pipe", "|"),
    ("=", "="),
    ("colon", ":"),
    ("times", "×"),
    ("1er", "1er"),
    ("1re", "1re"),
    ("ier", "er"),
])  # fmt: skip
