"""The site builds without a warning, and a browser opens every page without an error, on a narrow screen too."""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_generated_pages_say_what_the_code_says(generator: ModuleType) -> None:
    for path, content in generator.pages().items():
        assert (ROOT / "docs" / path).read_text(encoding="utf-8") == content, f"run python docs/generate.py ({path})"


def test_configurations_that_pages_name_exist() -> None:
    bundled = {path.stem for path in ROOT.glob("data_prep/configs/*.yaml")}
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("slurm/*.sh")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"(?:prepare run|data_prep run|\bCONFIG=)\s*([\w./-]+)", text)) - {"CONFIG"}
    assert len(named) >= 3 and {name for name in named if not (ROOT / name).is_file()} <= bundled
    corpus = (ROOT / "docs/tutorials/corpus.md").read_text(encoding="utf-8")
    assert [name for name in bundled if f"`{name}`" not in corpus] == []


@pytest.mark.parametrize(
    "page", ["README.md", "CHANGELOG.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]
)
def test_a_page_that_names_gpus_says_what_has_run_on_them(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert re.search("CUDA: (not yet run|run on one H100)", text) or not re.search(
        r"\b(CUDA|GPUs?|V100|A100|H100|NCCL|tensor cores)\b", text
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the site is built by the extra docs: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing of each request."""

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_a_browser_opens_every_page(site: Path, address: str, open_page: Callable[[str], Any]) -> None:
    pages = sorted(path.relative_to(site) for path in site.rglob("index.html"))
    assert len(pages) > 20
    links: set[str] = set()
    for page in pages:
        browser = open_page(f"{address}/{page}")
        found = browser.execute_script("return [...document.querySelectorAll('a[href]')].map(a => a.href)")
        links |= {link.partition("#")[0] for link in found if link.startswith(address)}
    for link in links:
        path = site / link.removeprefix(address).strip("/")
        assert path.is_file() or (path / "index.html").is_file(), f"{link} leads nowhere"
