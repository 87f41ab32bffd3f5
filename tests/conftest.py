"""Fixtures for all tests: a tiny data set, and fairseq's real commands."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from hypothesis import settings

from linformer_fairseq.training import progress
from linformer_fairseq.training.progress import parse_line
from tests.forked import READ_BY_IMPORTS, SET_BY_COMPILING, Command, Server

# A busy machine is no failure.
settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")

REPOSITORY = Path(__file__).resolve().parents[1]
# The second one holds the Hydra plugin, which only an installation puts where Hydra looks.
PYTHONPATH = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "linformer_fairseq")])
NARROW = 400  # pixels, a telephone
RunFairseq = Callable[..., CompletedProcess[str]]
Losses = list[tuple[int, float]]

NOUNS = "cat dog house river garden child teacher book city bridge market winter summer letter doctor farmer".split()
VERBS = "sees finds builds follows likes opens paints carries remembers repairs visits watches".split()
ADJECTIVES = "old small green quiet heavy bright distant broken gentle narrow".split()


def english_like_lines(count: int, seed: int) -> list[str]:
    """Make `count` lines of 1 to 6 sentences (8 to 48 words), all of one pattern that can be learnt."""
    rng = random.Random(seed)

    def sentence() -> str:
        one, two = rng.sample(NOUNS, 2)
        return f"the {rng.choice(ADJECTIVES)} {one} {rng.choice(VERBS)} the {rng.choice(ADJECTIVES)} {two} ."

    return [" ".join(sentence() for _ in range(rng.randint(1, 6))) for _ in range(count)]


def fairseq_command(*argv: object) -> list[str]:
    """`argv` as strings, its programs (fairseq's and torchrun) with the folder of the running Python."""
    scripts = Path(sys.executable).parent
    return [f"{scripts / word}" if word.startswith(("fairseq-", "torchrun")) else word for word in map(str, argv)]


def fairseq_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a fairseq command: one thread, the Hydra plugin at hand, no launcher but in `changes`."""
    launchers = ("SLURM_", "TORCHELASTIC_")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        ours.pop(name, None)
    return {**ours, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH, **(changes or {})}


def losses_in(output: str, split: Literal["train", "valid"] = "train") -> Losses:
    """The updates and losses that `--log-format json` has printed, of training or of validation."""
    figures = [found for line in output.splitlines() if (found := parse_line(line)) and found["split"] == split]
    return [(int(found["num_updates"]), found["loss"]) for found in figures]


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A file or folder of the real texts and tasks in $LINFORMER_TEST_DATA; the test is skipped where it is missing."""

    def find(name: str) -> Path:
        folder = os.environ.get("LINFORMER_TEST_DATA")
        if not folder:
            pytest.skip("LINFORMER_TEST_DATA does not name a folder with real texts")
        path = Path(folder) / name
        if not path.exists():
            pytest.skip(f"LINFORMER_TEST_DATA={folder} has no {name}")
        return path

    return find


@pytest.fixture(scope="session")
def parse_losses() -> Callable[..., Losses]:
    """`losses_in`, for tests, which cannot import this file."""
    return losses_in


@pytest.fixture(scope="session")
def start_fairseq(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Command | subprocess.Popen[str]]:
    """Start a command such as `start_fairseq("fairseq-train", data, "--arch", "roberta")`, its output in `stdout`.

    It is forked from a process that has imported fairseq (`tests/forked.py`), unless the environment, to which `env`
    is added, differs from that of this process in what its imports read. `cwd` is an empty folder unless given.
    """
    empty_folder = tmp_path_factory.mktemp("cwd")
    usual = fairseq_environment()
    server = cache(lambda: Server(usual))

    def start(
        *argv: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Command | subprocess.Popen[str]:
        command, environment, folder = fairseq_command(*argv), fairseq_environment(env), cwd or empty_folder
        changed = {name for name, _ in usual.items() ^ environment.items()} - SET_BY_COMPILING
        if not any(name.startswith(READ_BY_IMPORTS) for name in changed):
            return server().start(command, environment, folder)
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture(scope="session")
def run_fairseq(start_fairseq: Callable[..., Command | subprocess.Popen[str]]) -> RunFairseq:
    """Run a command of `start_fairseq` to its end: `returncode` and, in `stdout`, all that was printed.

    With `check` (the default) a command that fails also fails the test.
    """

    def run(*argv: object, check: bool = True, **options: Any) -> CompletedProcess[str]:
        process = start_fairseq(*argv, **options)
        output, _ = process.communicate(timeout=300)
        if check:
            assert process.returncode == 0, f"{argv[0]} ended with {process.returncode}:\n{output[-5000:]}"
        return CompletedProcess([*map(str, argv)], process.returncode, output)

    return run


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium on a screen as narrow as a telephone's, driven by selenium; the test is skipped where it is missing."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no chromium with chromedriver here")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    for flag in ("--disable-background-networking", "--disable-component-update", "--disable-sync"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver))
    found.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": NARROW, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    yield found
    found.quit()


@pytest.fixture(scope="session")
def parts_of() -> Callable[..., list[dict[str, Any]]]:
    """The parts of a kind, `parts_of(page, "table")`, in the JSON of a page of `io.page`, `section` added."""

    def find(page: Path, kind: str) -> list[dict[str, Any]]:
        text = page.read_text(encoding="utf-8")
        content = json.loads(
            text.partition('<script type="application/json" id="content">')[2].partition("</script>")[0]
        )
        sections = content["sections"]
        return [{"section": s["title"], **part} for s in sections for part in s["parts"] if part["kind"] == kind]

    return find


@pytest.fixture
def open_page(browser: Any) -> Callable[[str], Any]:
    """Open an address in the browser, which must log no error and show the page without scrolling sideways."""

    def open_at(address: str) -> Any:
        browser.get(address)
        errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not errors, f"{address}: {errors}"
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= NARROW, f"{address} is {width} pixels wide on a screen of {NARROW}"
        return browser

    return open_at


@pytest.fixture(autouse=True)
def forked_programs(start_fairseq: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork also the programs of fairseq that the code under test runs."""
    scripts = Path(sys.executable).parent

    def popen(command: list[str], **options: Any) -> Any:
        if Path(command[0]).parent == scripts:
            return start_fairseq(*command, cwd=Path.cwd())
        return subprocess.Popen(command, **options)

    monkeypatch.setattr(progress, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": popen}))


@pytest.fixture(scope="session")
def srun() -> tuple[tuple[object, ...], dict[str, str]]:
    """A launcher that starts a program for each of two ranks as srun does, and its environment.

    The number of the job decides at which port the ranks meet; two sessions of tests must not share it.
    """
    environment = {
        **{
            "SLURM_JOB_ID": f"{os.getpid()}",
            "SLURM_STEP_ID": "0",
            "SLURM_JOB_NODELIST": "here",
            "SLURM_STEP_NODELIST": "here",
        },
        **{"SLURM_NNODES": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"},
        **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
    }
    return (REPOSITORY / "tests/two_ranks.py",), environment


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory, run_fairseq: RunFairseq) -> Path:
    """A binarised masked_lm data set: 400 lines to train on, 40 to validate on, about 45 words."""
    folder = tmp_path_factory.mktemp("tiny_data")
    for split, count, seed in (("train", 400, 1), ("valid", 40, 2)):
        (folder / f"{split}.txt").write_text("\n".join(english_like_lines(count, seed)) + "\n")
    run_fairseq(
        *("fairseq-preprocess", "--only-source", "--workers", 1, "--destdir", folder / "bin"),
        *("--trainpref", folder / "train.txt", "--validpref", folder / "valid.txt"),
    )
    return folder / "bin"


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dict.txt and sentencepiece.model of 320 symbols."""
    from data_prep.config import TokenizerConfig
    from data_prep.corpus import Document, write_file
    from data_prep.tokenizer import make_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    chance = random.Random(0)
    common = "the a river garden child teacher book city winter letter good bad warm cold likes sees reads".split()
    rare = ["".join(chance.choices("aeioulmnrst", k=chance.randint(3, 8))) for _ in range(600)]
    lines = (" ".join([*chance.choices(common, k=12), *chance.sample(rare, 8)]) for _ in range(400))
    write_file([Document("1", "text", "1", "\n".join(lines))], folder / "corpus/a.parquet")
    make_tokenizer(folder / "corpus", folder / "tokenizer", TokenizerConfig(320))
    return folder / "tokenizer"


@pytest.fixture(scope="session")
def checkpoint(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained linformer_roberta_tiny of 64 positions, with `tokenizer`."""
    from linformer_fairseq.checkpoints.checkpoint import Checkpoint, complete_settings, symbols, write
    from linformer_fairseq.models.linformer_roberta import LinformerRobertaEncoder, LinformerRobertaModel

    model = {"_name": "linformer_roberta_tiny", "max_positions": 64, "projected_length": "16", "dropout": 0.0}
    settings = complete_settings(model)
    torch.manual_seed(0)
    built = LinformerRobertaModel(settings, LinformerRobertaEncoder(settings, symbols(320)))
    path = tmp_path_factory.mktemp("checkpoint") / "pretrained.pt"
    write(Checkpoint(built.state_dict(), model, {"_name": "masked_lm", "data": str(tokenizer)}, 7), path)
    return path


@pytest.fixture(scope="session")
def same_end() -> Callable[[Path, Path], None]:
    """Assert that two trainings have ended in the same state, bit by bit; or that two checkpoints have it."""

    def compare(*places: Path) -> None:
        paths = [place / "checkpoint_last.pt" if place.is_dir() else place for place in places]
        ones, others = (torch.load(path, weights_only=False) for path in paths)
        for part in ("model", "last_optimizer_state"):
            assert_same(ones[part], others[part], part)
        assert ones["extra_state"]["train_iterator"] == others["extra_state"]["train_iterator"]

    return compare


def assert_same(one: Any, other: Any, where: str) -> None:
    """The two values are equal, and their tensors bit by bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}.{number}")
    else:
        assert one == other, where
