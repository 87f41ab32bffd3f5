"""The articles of Wikipedia dumps, and of other MediaWiki dumps, as prose.

Redirects, pages outside the main namespace and disambiguation pages are left out, each counted under its reason.
Memory is bounded by the largest page, time is linear in the text.
"""

import re
from collections.abc import Iterator

from data_prep.config import MATH
from data_prep.corpus import Document
from data_prep.sources import Piece, ReadErrors, dump
from data_prep.sources.mediawiki import redirect, wiki
from data_prep.sources.wikitext import Page, prose

SUFFIXES = None  # dumps in parts have names such as …-articles1.xml-p1p41242.bz2
pieces = dump.pieces

# Names of the template at the foot of a disambiguation page. {{disambiguation needed}} and {{other uses|…}} are others.
_TEMPLATES = """disambig|disambiguation|disambiguation page|disamb|dab|(?:disambiguation|disambig)[ -]cleanup|hndis|
    geodis|numberdis|schooldis|hospitaldis|mathdab|mil-unit-dis|[\\w -]{1,40} (?:disambiguation|disambig)|
    begriffsklärung|homonymie|desambiguación|desambiguação|desambiguació|disambigua|doorverwijspagina|ujednoznacznienie|
    неоднозначность|багатозначність|пояснение|вишезначна одредница|förgrening|förgreningssida|flertydig|peker|aimai|
    曖昧さ回避|消歧义|消歧義|동음이의|توضيح|ابهام‌زدایی|rozcestník|rozlišovacia stránka|anlam ayrımı|täsmennyssivu|
    egyért|egyértelműsítő lap|פירושונים|dezambiguizare|định hướng|αποσαφήνιση|discretiva|apartigilo|razdvojba|
    disambiguasi|แก้ความกำกวม|बहुविकल्पी|দ্ব্যর্থতা নিরসন|trang định hướng|täpsustuslehekülg|argipen|
    მრავალმნიშვნელოვანი|երկիմաստություն|dəqiqləşdirmə|višeznačnost"""
_BY_LANGUAGE = {"nl": "|dp", "sv": "|gren"}  # too short to mean the same elsewhere
_TITLE_END = re.compile(
    r" \((?:disambiguation|Begriffsklärung|homonymie|desambiguación|desambiguação|disambigua|doorverwijspagina|"
    r"ujednoznacznienie|значения|значення|olika betydelser|曖昧さ回避|消歧义|消歧義)\)$"
)


def documents(piece: Piece, problems: ReadErrors, math: str | None = None) -> Iterator[Document]:
    """The articles of a piece; other pages are counted in ``problems.left_out``."""
    try:
        header = dump.header(piece.path)
    except ValueError as error:
        if piece.start == 0:  # once per file
            problems.report(str(piece.path), str(error))
        return
    of_wiki = wiki(header.language, header.namespaces)
    templates = re.sub(r"\|\s+", "|", _TEMPLATES) + _BY_LANGUAGE.get(header.language, "")
    is_disambiguation = re.compile(rf"\{{\{{\s*(?:{templates})\s*(?:\||\}}\}})", re.I)
    for page in dump.pages(piece, header.namespaces, problems):
        reason = _reason(page, is_disambiguation)
        text = "" if reason else prose(page.text, Page(of_wiki, page.title, math or MATH[0]))
        if text:
            yield Document(page.id, "wikipedia", page.title, text)
        else:
            problems.left_out[reason or "empty"] += 1


def _reason(page: dump.Page, is_disambiguation: re.Pattern[str]) -> str:
    """Why a page is left out, if it is."""
    if page.redirect or redirect().match(page.text):
        return "redirect"
    if page.namespace != 0:
        return "other namespace"
    if not page.wikitext:
        return "not wikitext"
    marked = "__DISAMBIG__" in page.text or is_disambiguation.search(page.text)
    return "disambiguation" if marked or _TITLE_END.search(page.title) else ""
