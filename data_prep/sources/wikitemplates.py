"""Templates that stand for words in a sentence, under the names that Wikipedias share, or that one language has.

All others are dropped: they show a box, a citation or a note, or their words cannot be known without their source.
"""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from data_prep.sources.mediawiki import named

T = TypeVar("T")
Rule = Callable[[Sequence[str]], str]  # what the arguments become

_OPTION = re.compile(r"\s*([^\W\d][\w -]{0,30}|[12])\s*=")
_NUMBER = re.compile(r"[-+−±]?[\d.,/+ ]*\d[\d.,]*(?:e[-+]?\d+)?")
_ORDINAL = re.compile(r"([ivxl]*|\d+)((?:e|er|re)(?: siècle)?)")  # {{XIXe siècle}}, 2{{e}}
_RANGE_WORDS = {"-", "–", "to", "and", "or", "by", "x", "×", "to(-)", "and(-)", "*"}


def words(name: str, arguments: Sequence[str], language: str = "", title: str = "") -> str:
    """The words that a template leaves in the text, or none; its name in lower case, with spaces for underscores.

    A name that means something else on another wiki counts only on the wikis of its language.
    """
    function, colon, value = name.partition(":")
    if colon:
        return value.strip() if function in named("value") else ""
    if name in named("title"):
        return title
    if language == "fr" and (ordinal := _ORDINAL.fullmatch(name)):
        return ordinal[1].upper() + ordinal[2]
    key = name[:5] if name.startswith(("lang-", "link-")) else name
    rule = _OF_LANGUAGE.get(language, {}).get(key) or _RULES.get(key)
    prefix = _PREFIXES.get(name, "")
    if rule is None and not prefix:
        return _SYMBOLS.get(name, "")
    # "1=" and "text=" precede a text that has an equals sign in it; other names are options.
    taken = ("1", "2", "text", "quote", "content", *(("u", "ul") if name in ("val", "m") else ()))
    positional: list[str] = []
    for argument in arguments:
        option = _OPTION.match(argument)
        if option is None:
            positional.append(argument.strip())
        elif option[1] in taken:
            positional.append(argument[option.end() :].strip())
    if not positional:
        return _SYMBOLS.get(name, "")
    return rule(positional) if rule else f"{prefix}{positional[0]}"


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


_FIRST = """nowrap, nobr, nobreak, small, smaller, big, larger, em, strong, abbr, tooltip, sc, smallcaps, vanchor,
visible anchor, linktext, sic, not a typo, ill, interlanguage link, lien, flag, flagcountry, nobold, mvar, var,
keypress, sup, sub, overline, underline, formatnum, nts, plainlist, quote, blockquote, cquote, quotation, cita,
citation, zitat, samp, mono, nombre, varserif, frs, ens, angbr, date-, script/hebrew, readings, ruby, lang-, math,
unicode, iast, polytonic, citation needed span, fact span, citation bloc, citazione, citat, citát, citaat, citação,
цитата, num, число, нобр, аббр, юникод, флагификация, référence nécessaire, refnec, référence souhaitée, refsou,
guil, petites capitales, versalita, versalitas, إنج, نص عربي, به انگلیسی"""
_LAST = """lang, langue, transl, transliteration, script, resize, wikt-lang, font color, color, colour, columns-list,
columnslist, div col content, tlit, cizojazyčně, vjazyce2, språk, мова, dil"""
_RULES: dict[str, Rule] = _by_name([
    (_FIRST, lambda a: a[0]),
    (_LAST, lambda a: next(filter(None, reversed(a)), "")),
    ("okina text, langx", lambda a: a[1] if len(a) > 1 else ""),
    ("chem, chem2, simplenuclide, gaps", "".join),
    ("date, unité, unidad, val", lambda a: " ".join(filter(None, a))),
    ("nihongo", lambda a: a[0] or (a[2] if len(a) > 2 else "")),
    ("frac, fraction, sfrac", _fraction),
    ("convert, cvt, conv", _quantity),
    ("sortname", lambda a: " ".join(a[:2])),
    ("hlist, flatlist", lambda a: ", ".join(filter(None, a))),
    ("bulleted list, ubl, unbulleted list", lambda a: "\n" + "\n".join(a) + "\n"),
])  # fmt: skip
# To an article: the label, or the title. To an article of another wiki: the label, or the title there.
_LINK: tuple[str, Rule] = ("w, wp", lambda a: a[-1])
_FOREIGN: tuple[str, Rule] = (
    "нп, нп1, нп2, нп3, нп4, нп5, не переведено, не перекладено, iw, iw2",
    lambda a: next(filter(None, a[1:2]), a[0]),
)
_SPACED: tuple[str, Rule] = ("s, comment", lambda a: a[0])
# A word in another language, by its code.
_GERMAN = """", ars, bgs, css, das, els, ess, fas, fis, grcs, hes, hrs, hus, its, jas, kos, las, nls, nos, pls, pts,
ros, rus, sks, sls, srs, svs, trs, uks, zhs"""
_JAPANESE = """仮リンク, 読み仮名, ルビ, ふりがな, 要出典範囲, 拡張漢字, サロゲートペア, jis2004フォント, jis90フォント,
補助漢字フォント, cp932フォント"""
_OF_LANGUAGE: dict[str, dict[str, Rule]] = {
    "cs": _by_name([("j", " ".join)]),
    "de": _by_name([(_GERMAN, lambda a: a[0])]),
    "en": _by_name([_LINK]),
    "es": _by_name([("esd", lambda a: a[0]), ("siglo", lambda a: f"siglo {a[0]}")]),
    "fr": _by_name([("s, s-, siècle", lambda a: f"{a[0]}e siècle"), ("nb", " ".join)]),
    "it": _by_name([_LINK, ("m", " ".join), ("citazione necessaria, senza fonte, chiarire", lambda a: a[0])]),
    "ja": _by_name([(_JAPANESE, lambda a: a[0])]),
    "ko": _by_name([("llang", lambda a: a[-1]), ("한자, 루비", lambda a: a[0])]),
    "pt": _by_name([
        ("séc", lambda a: f"século {a[0]}"), ("dtlink, dtext", "/".join), ("fmtn", " ".join),
        ("pbpe, pepb", lambda a: a[0]),
    ]),
    "ru": _by_name([_LINK, _FOREIGN, _SPACED]),
    "uk": _by_name([_FOREIGN, _SPACED]),
    "zh": _by_name([("le, link-", lambda a: a[2] if len(a) > 2 else a[0]), ("tsl", lambda a: a[-1])]),
}  # fmt: skip
# What comes before the first argument.
_PREFIXES = _by_name([
    ("circa, c.", "c. "), ("floruit, fl.", "fl. "), ("as of", "As of "),
    ("hms", "HMS "), ("uss", "USS "), ("m.", "M. "), ("mme", "Mme "), ("mlle", "Mlle "), ("n°", "n° "),
    ("us$, usd", "US$"), ("gbp, £", "£"), ("€, eur, euro", "€"), ("¥, jpy", "¥"), ("inr", "₹"),
])  # fmt: skip
# What stands for itself, whatever its arguments.
_SYMBOLS = _by_name([
    ("ndash, en dash, –", "–"), ("snd, spnd, spaced ndash", " – "), ("mdash, em dash, mdashb, —", "—"), ("okina", "ʻ"),
    ("'", "'"), ("’", "’"), ("'s", "'s"), ("·, dot", " · "), ("•, bull", " • "), ("nbsp, space, spaces, thinsp", " "),
    ("!, pipe", "|"), ("=", "="), ("colon", ":"), ("times", "×"), ("1er", "1er"), ("n°", "n°"),
    ("m.", "M."), ("mme", "Mme"), ("mlle", "Mlle"), ("av jc", "av. J.-C."), ("apr jc", "apr. J.-C."), ("тире", " — "),
    ("1re", "1re"), ("ier", "er"),
])  # fmt: skip
