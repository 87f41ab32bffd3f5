"""One HTML page of plots, tables and texts that is readable without network: `inspect --html`, `linformer report`.

What comes from data stands in the page as JSON, and `page.js` shows it as text, never as markup. The page's policy lets
a browser run that script and plotly, known by their hashes, and load nothing.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linformer_fairseq.errors import UsageError
from linformer_fairseq.io.files import check_target, write_text

Runs = str | Sequence[tuple[str, bool]]  # a text, or its parts, each with whether it is marked


class Page:
    """Sections, in the order in which they are added; what is added goes into the last one.

    Raises, before anything is computed for the page:
        ModuleNotFoundError: plotly is missing (the extra `report`).
        UsageError: `path` cannot be a file.
    """

    def __init__(self, title: str, path: Path) -> None:
        from plotly.offline import get_plotlyjs

        check_target(path, force=True)
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; give the page another name, such as {path}.html")
        self._path, self._title = path, title
        self._library: str = get_plotlyjs()
        self._sections: list[dict[str, Any]] = []

    def section(self, title: str, note: str = "") -> None:
        """Begin a section; `note` says what it shows, or why it is empty."""
        self._sections.append({"title": title, "note": note, "parts": []})

    def note(self, text: str) -> None:
        """A paragraph."""
        self._add("note", text=text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], fold: str = "") -> None:
        """A table of texts and numbers, None for what is not known; with `fold`, closed under that title."""
        self._add("table", columns=columns, rows=rows, fold=fold)

    def plot(self, title: str, views: Mapping[str, Sequence[Mapping[str, Any]]], **layout: Any) -> None:
        """A plot of plotly's traces. Of several views, a person chooses; the x axis has the name of the view.

        `layout` is plotly's, by the names of its sections: yaxis={"title": "documents"}.
        """
        shown = [{"name": name, "traces": traces} for name, traces in views.items()]
        self._add("plot", title=title, views=shown, layout=layout)

    def texts(self, title: str, mark: str, panes: Mapping[str, Runs]) -> None:
        """Texts side by side, by their labels, under a title with a highlighted `mark`, such as a reason."""
        parts = {label: [(runs, False)] if isinstance(runs, str) else runs for label, runs in panes.items()}
        shown = [{"label": label, "runs": runs} for label, runs in parts.items()]
        self._add("texts", title=title, mark=mark, panes=shown)

    def pictures(self, title: str, mark: str, pictures: Mapping[str, bytes]) -> None:
        """Small PNG files side by side, enlarged, by their labels, under a title as of `texts`."""
        shown = {label: base64.b64encode(content).decode() for label, content in pictures.items()}
        self._add("pictures", title=title, mark=mark, pictures=shown)

    def _add(self, kind: str, **part: Any) -> None:
        self._sections[-1]["parts"].append({"kind": kind, **part})

    def write(self) -> None:
        """Write the page atomically."""
        page, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.html", "page.js"))
        content = json.dumps({"title": self._title, "sections": self._sections}, allow_nan=False)
        parts = {
            "policy": " ".join(map(_hash, (self._library, script))),
            "library": self._library,
            "script": script,
            "content": content.replace("<", "\\u003c"),  # last: it may hold the names of the others
        }
        for name, text in parts.items():
            page = page.replace(f"{{{{{name}}}}}", text, 1)
        write_text(self._path, page)
        print(f"{self._path}: open it in a browser")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
