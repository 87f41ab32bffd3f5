"""What MediaWiki calls things in every language: namespaces, redirects, switches such as __NOTOC__, magic words.

A dump names the namespaces of its wiki, but not their other names ([[Image:…]] is [[File:…]]), nor the magic words.
They are in `mediawiki.json`, made from the message files of MediaWiki (GPL-2.0-or-later; https://www.mediawiki.org), by

    python -m data_prep.sources.mediawiki MEDIAWIKI/languages/messages
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).with_name("mediawiki.json")
_ENGLISH = ("media", "file", "image", "category")  # on every wiki
# Magic words that leave something in the text, by what it is.
_MAGIC = {
    "value": ("formatnum", "lc", "uc", "lcfirst", "ucfirst"),
    "title": ("pagename", "fullpagename", "basepagename", "subjectpagename", "rootpagename"),
}
_MAGIC_WORDS = re.compile(r"\$magicWords\s*=\s*(?:\[|array\()(.*?)\n?(?:\]|\));", re.S)
_STRING = re.compile(r"'((?:\\.|[^'\\])*)'|\"((?:\\.|[^\"\\])*)\"")
_NAMESPACE = re.compile(r"(['\"])((?:\\.|(?!\1).)*)\1\s*=>\s*NS_(?:MEDIA|FILE|CATEGORY)\b")
_NAMED = re.compile(r"NS_(?:MEDIA|FILE|CATEGORY)\s*=>\s*(['\"])((?:\\.|(?!\1).)*)\1")
_WORD = re.compile(r"['\"](\w+)['\"]\s*=>\s*(?:\[|array\()\s*['\"]?[01]['\"]?\s*,(.*?)(?:\]|\))\s*(?:,|$)", re.M)


class Wiki(NamedTuple):
    """What the markup of one wiki means."""

    language: str  # its code, as in fr.wikipedia.org; empty if it is not known
    dropped: frozenset[str]  # prefixes, in lower case, of links that show no words


def wiki(language: str = "", names: Mapping[int, str] | None = None) -> Wiki:
    """The wiki of a language, given its names of namespaces by number; with the names of all if it is not known."""
    table: dict[str, str] = _table()["namespaces"]
    own = table.get(language, "") if language else "|".join(table.values())
    given = [names[number].lower() for number in (-2, 6, 14) if names and names.get(number)]
    return Wiki(language, frozenset([*_ENGLISH, *given, *own.split("|")]) - {""})


@cache
def _table() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return content


@cache
def named(kind: str) -> frozenset[str]:
    """What is called so in any language, in lower case.

    `switches` stand between double underscores and show nothing. Magic words are for the `value` that follows their
    colon, or for the `title` of the page.
    """
    return frozenset(_table()[kind].split("|"))


@cache
def redirect() -> re.Pattern[str]:
    """The beginning of a redirect, in any language."""
    words = "|".join(map(re.escape, _table()["redirects"].split("|"))).replace("İ", "[İi]")
    return re.compile(rf"\s*(?:{words})\s*:?\s*\[\[", re.I)


def make_table(folder: Path) -> dict[str, Any]:
    """The table, from MediaWiki's folder of message files."""
    own: dict[str, set[str]] = {}
    fallbacks: dict[str, list[str]] = {}
    words: dict[str, set[str]] = defaultdict(set)
    for path in sorted(folder.glob("Messages*.php")):
        text = re.sub(r"/\*.*?\*/|^\s*(?:#|//).*?$", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
        language = path.stem.removeprefix("Messages").lower().replace("_", "-")
        fallbacks[language] = re.split(r",\s*", (re.findall(r"\$fallback\s*=\s*'([^']*)'", text) or [""])[0])
        names = [*_NAMED.findall(text), *_NAMESPACE.findall(text)]
        own[language] = {name.replace("_", " ").lower() for _, name in names}
        for array in _MAGIC_WORDS.findall(text):
            for key, values in _WORD.findall(array):
                words[key].update(a or b for a, b in _STRING.findall(values))
    switches = {word for found in words.values() for word in found if word[:2] == "__" == word[-2:]}
    return {
        "source": f"MediaWiki, languages/messages/Messages*.php ({len(own)} files)",
        "licence": "GPL-2.0-or-later",
        "namespaces": {code: "|".join(sorted(found)) for code in own if (found := _of(code, own, fallbacks))},
        "redirects": "|".join(sorted(words["redirect"], key=lambda word: (-len(word), word))),
        "switches": "|".join(sorted(word[2:-2].strip().lower() for word in switches)),
        **{kind: _lower(words, keys) for kind, keys in _MAGIC.items()},
    }


def _of(code: str, own: Mapping[str, set[str]], fallbacks: Mapping[str, list[str]]) -> set[str]:
    """The names of a language, of those that it falls back to, and of its variants in other scripts."""
    found = {other for other in own if other.partition("-")[0] == code.partition("-")[0]}
    todo = [code, *found]
    while todo:
        one = todo.pop()
        found.add(one)
        todo += [other for other in fallbacks.get(one, ()) if other in own and other not in found and other != "en"]
    return set().union(*(own.get(one, set()) for one in found)) - set(_ENGLISH)


def _lower(words: Mapping[str, set[str]], keys: Sequence[str]) -> str:
    found = {word.rstrip(":;").replace("_", " ").lower() for key in keys for word in words[key]}
    # A short one may be a template elsewhere.
    return "|".join(sorted(word for word in found if len(word) > 2 or word in keys))


if __name__ == "__main__":
    made = json.dumps(make_table(Path(sys.argv[1])), ensure_ascii=False, indent=0)
    TABLE.write_text(f"{made}\n", encoding="utf-8")
