"""Templates that stand for words in a sentence, under the names that several Wikipedias share.

All others are dropped: what they show is a box, a citation or a note, or cannot be known without their source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence


def words(name: str, arguments: Sequence[str]) -> str:
    """The words that a template leaves in the text, or none.

    Args:
        name: lower case, with spaces for underscores.
        arguments: as written between the bars.
    """
    function, colon, value = name.partition(":")
    if colon:
        return value.strip() if function in _FUNCTIONS else ""
    if name in _SYMBOLS:
        return _SYMBOLS[name]
    rule = _RULES.get(name) or (_first if name.startswith("lang-") else None)
    if rule is None:
        return ""
    # "1=" and "text=" name what a text with an equals sign in it has to be named; other names are options.
    positional: list[str] = []
    for argument in arguments:
        option = _OPTION.match(argument)
        if option is None:
            positional.append(argument)
        elif option[1] in ("1", "2", "text", "quote", "content"):
            positional.append(argument[option.end() :])
    positional = [argument.strip() for argument in positional]
    return rule(positional) if positional else ""


def _first(arguments: Sequence[str]) -> str:
    return arguments[0]


def _last(arguments: Sequence[str]) -> str:
    return next((argument for argument in reversed(arguments) if argument), "")


def _second(arguments: Sequence[str]) -> str:
    return arguments[1] if len(arguments) > 1 else ""


def _all(arguments: Sequence[str]) -> str:
    return "".join(arguments)


def _spaced(arguments: Sequence[str]) -> str:
    return " ".join(filter(None, arguments))


def _first_or_third(arguments: Sequence[str]) -> str:
    return arguments[0] or (arguments[2] if len(arguments) > 2 else "")


def _fraction(arguments: Sequence[str]) -> str:
    whole, parts = (arguments[:1], arguments[1:]) if len(arguments) == 3 else ([], arguments)
    return " ".join([*whole, "/".join(parts if len(parts) > 1 else ["1", *parts])])


def _quantity(arguments: Sequence[str]) -> str:
    """``5|km|mi`` is 5 km, ``5|to|10|km`` is 5 to 10 km, ``6|ft|2|in`` is 6 ft 2 in."""
    shown: list[str] = []
    for argument in arguments:
        if len(argument) > 40 or not (
            _is_number(argument) or argument in _RANGE_WORDS or shown and _is_number(shown[-1])
        ):
            break
        shown.append(argument)
    return " ".join(shown[:-1] if shown and len(shown) % 2 and len(shown) > 1 else shown)


def _is_number(argument: str) -> bool:
    return _NUMBER.fullmatch(argument) is not None


_OPTION = re.compile(r"\s*([^\W\d][\w -]{0,30}|[12])\s*=")
_FUNCTIONS = {"formatnum", "lc", "uc", "lcfirst", "ucfirst"}
_NUMBER = re.compile(r"[-+−±]?[\d.,/+ ]*\d[\d.,]*(?:e[-+]?\d+)?")
_RANGE_WORDS = {"-", "–", "to", "and", "or", "by", "x", "×", "to(-)", "and(-)", "*"}

_NAMES: dict[Callable[[Sequence[str]], str], str] = {
    _first: """nowrap, nobr, nobreak, small, smaller, big, larger, em, strong, abbr, tooltip, sc, smallcaps, vanchor,
        visible anchor, linktext, sic, not a typo, w, ill, interlanguage link, lien, flag, flagcountry, nobold, mvar,
        var, keypress, sup, sub, overline, underline, formatnum, quote, blockquote, cquote, quotation, cita, citation,
        zitat, samp, mono, nombre, varserif, frs, ens, angbr, date-, script/hebrew, readings, ruby""",
    _last: """lang, langue, transl, transliteration, script, resize, wikt-lang, font color, color, colour,
        columns-list, columnslist, div col content, tlit""",
    _second: "okina text",
    _all: "chem, simplenuclide",
    _spaced: "date, unité, unidad, val",
    _first_or_third: "nihongo",
    _fraction: "frac, fraction, sfrac",
    _quantity: "convert, cvt, conv",
}
_RULES = {name.strip(): rule for rule, names in _NAMES.items() for name in names.split(",")}
_RULES |= {
    "circa": lambda a: f"c. {a[0]}",
    "c.": lambda a: f"c. {a[0]}",
    "floruit": lambda a: f"fl. {a[0]}",
    "fl.": lambda a: f"fl. {a[0]}",
    "as of": lambda a: f"As of {a[0]}",
    "us$": lambda a: f"US${a[0]}",
    "gbp": lambda a: f"£{a[0]}",
    "inr": lambda a: f"₹{a[0]}",
    "s": lambda a: f"{a[0]}e siècle",
}
_SYMBOLS = {
    "ndash": "–",
    "en dash": "–",
    "–": "–",
    "snd": " – ",
    "spnd": " – ",
    "spaced ndash": " – ",
    "mdash": "—",
    "em dash": "—",
    "mdashb": "—",
    "—": "—",
    "'": "'",
    "’": "’",
    "'s": "'s",
    "okina": "ʻ",
    "·": " · ",
    "•": " • ",
    "dot": " · ",
    "bull": " • ",
    "nbsp": " ",
    "space": " ",
    "spaces": " ",
    "thinsp": " ",
    "!": "|",
    "=": "=",
    "pipe": "|",
    "colon": ":",
    "times": "×",
    "1er": "1er",
    "1re": "1re",
    "ier": "er",
}
