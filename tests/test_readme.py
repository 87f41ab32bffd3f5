"""What the Markdown files promise exists: links, make targets, scripts, their flags, and fairseq's.

Nothing is trained: a command's flags are looked up in its `--help`, or parsed by fairseq's and Hydra's own parsers.
"""

import contextlib
import functools
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from fairseq import options

from linformer_fairseq.cli import COMMANDS as COMMANDS_OF_LINFORMER
from linformer_fairseq.cli import main
from linformer_fairseq.plugin import register

RunFairseq = Callable[..., CompletedProcess[str]]

ROOT = Path(__file__).resolve().parents[1]
USER_DIR = str(ROOT / "linformer_fairseq")
MADE = ("demo-run", "build", "site", "dist")
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(
        part.startswith(".") or part in ("demo-run", "build", "site", "dist") for part in page.relative_to(ROOT).parts
    )
)

FENCE = re.compile(r"^[ ]*```(\w*)[^\n]*\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(<?([^)\s>]+)|<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"")
OPERATORS = re.compile(r"[;&|()\n]+")
REDIRECTION = re.compile(r"[<>]+")
FAIRSEQ_PARSERS = {
    "fairseq-train": options.get_training_parser,
    "fairseq-validate": options.get_validation_parser,
    "fairseq-preprocess": options.get_preprocessing_parser,
}


@dataclass(frozen=True)
class Command:
    """One command of a Markdown page; `planned` if the text around it says that it is yet to come."""

    page: str
    words: tuple[str, ...]
    planned: bool = False

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def shell_commands(block: str) -> list[list[str]]:
    """The commands of a block as lists of words, without assignments, redirections and `…`.

    A `$(…)` is a command of its own, and its value stands in its place where we know it. A variable has the value
    that the block has given it; any other becomes 1, which passes for a number and for a path.
    """
    commands: list[list[str]] = []
    block = re.sub(r"\\\n", " ", block)
    block = re.sub(r"^[ ]*\$ ", "", block, flags=re.MULTILINE)
    block = re.sub(r"\s\d?>&\d|(?<=\s)[\d&](?=>)", "", block)

    def substitute(match: re.Match[str]) -> str:
        commands.extend(shell_commands(match[1]))
        inner = match[1].split()
        if inner[:1] == ["which"] or inner[:2] == ["command", "-v"]:
            return inner[-1]
        return USER_DIR if "env --path" in match[1] else "1"

    block = re.sub(r"\$\(([^()]*)\)", substitute, block)
    variables: dict[str, str] = {}
    words: list[str] = []

    def end_command() -> None:
        while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        if words and words[0] in ("time", "nohup", "exec", "env"):
            words.pop(0)
        if words:
            commands.append(list(words))
        words.clear()

    for line in block.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.wordchars += "$:,@%+{}[]!^…"
        skip = False
        for token in lexer:
            if OPERATORS.fullmatch(token):
                end_command()
            elif REDIRECTION.fullmatch(token):
                skip = True
            elif skip or token in ("…", "..."):
                skip = False
            else:
                known = re.sub(r"\$\{?(\w+)[^}\s/]*\}?", lambda name: variables.get(name[1], "1"), token)
                words.append(known)
        end_command()
    return commands


def commands_of(page: Path) -> list[Command]:
    """All commands in the bash blocks of a page."""
    text, found = page.read_text(encoding="utf-8"), []
    for fence in FENCE.finditer(text):
        if fence[1] not in ("bash", "sh", "shell", "console"):
            continue
        before = FENCE.sub("", text[: fence.start()]).rstrip()
        heading = re.findall(r"^#+ .*$", before, re.MULTILINE)[-1:]
        around = " ".join([*heading, before.rpartition("\n\n")[2], *re.findall(r"#.*", fence[2])])
        planned = "planned" in around.lower()
        name = str(page.relative_to(ROOT))
        found += [Command(name, tuple(words), planned) for words in shell_commands(fence[2])]
    return found


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))


@functools.cache
def help_of(program: tuple[str, ...]) -> str:
    """What `PROGRAM --help` prints."""
    ran = subprocess.run(
        [sys.executable, *program, "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, f"{' '.join(program)} --help: {ran.stderr}"
    return ran.stdout


def check_flags(program: tuple[str, ...], arguments: list[str]) -> None:
    """Every flag, and every value of a flag with choices, stands in the help of the program or its subcommand."""
    if arguments and re.fullmatch(r"[a-z][a-z-]*", arguments[0]):
        program = (*program, arguments.pop(0))
    known = help_of(program)
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if not re.match(r"--?[A-Za-z]", word):
            continue
        flag, _, value = word.partition("=")
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", known), f"{' '.join(program)} has no {flag}"
        choices = re.search(rf"{re.escape(flag)} \{{([^}}]*)\}}", known)
        assert not choices or (value or following) in choices[1].split(","), f"{flag} is one of {choices[1]}"


def check_python(arguments: list[str]) -> None:
    """`python FILE …` or `python -m MODULE …`, where these are ours."""
    if arguments[:1] == ["-m"]:
        if arguments[1] not in ("data_prep", "linformer_fairseq"):
            return
        if arguments[1] == "linformer_fairseq":
            return check_linformer(arguments[2:])
        program, rest = tuple(arguments[:2]), arguments[2:]
    elif arguments and arguments[0].endswith(".py"):
        program, rest = (arguments[0],), arguments[1:]
        assert (ROOT / arguments[0]).is_file(), f"{arguments[0]} does not exist"
    else:
        return
    check_flags(program, rest)


def check_linformer(arguments: list[str]) -> None:
    """`linformer COMMAND …`; a recipe is turned into the command of fairseq-train, which is checked as well."""
    if not arguments or arguments[0].startswith("-"):
        arguments = ["env", *arguments]
    name = arguments[0]
    assert name in COMMANDS_OF_LINFORMER, f"linformer has no {name}"
    ours, _, for_fairseq = " ".join(map(shlex.quote, arguments)).partition(" -- ")
    check_flags(("-m", "linformer_fairseq", name), shlex.split(ours)[1:])
    if name == "train" and "--list" not in arguments:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            status = main([*shlex.split(ours), "--dry-run", "--", *shlex.split(for_fairseq)])
        assert status == 0, printed.getvalue()
        train = next(words for words in shell_commands(printed.getvalue()) if words[0].endswith("fairseq-train"))
        check_fairseq("fairseq-train", train[1:])


def check_fairseq(program: str, arguments: list[str]) -> None:
    """fairseq's own parser takes the arguments, with our user-dir where it is named."""
    register()  # fairseq skips a user-dir whose package is imported already
    parser = FAIRSEQ_PARSERS[program]()
    if program == "fairseq-preprocess":
        parser.parse_args(arguments)
    else:
        options.parse_args_and_arch(parser, input_args=arguments)


def check_hydra(arguments: list[str], run_fairseq: RunFairseq) -> None:
    """Hydra composes the configuration; it refuses keys that do not exist."""
    assert "common:" in run_fairseq("fairseq-hydra-train", *arguments, "--cfg", "job", cwd=ROOT).stdout


def check(command: Command, run_fairseq: RunFairseq) -> None:
    """Fail if the command would not start as it stands in the page."""
    words = list(command.words)
    ours = next((at for at, word in enumerate(words) if Path(word).name.startswith("fairseq-")), 0)
    if words[0] in ("torchrun", "srun"):  # what they start is ours
        words = words[ours:]
    program, arguments = Path(words[0]).name, words[1:]
    slurm = program in ("sbatch", "srun") or any(word.startswith("slurm/") for word in words)
    if slurm and command.planned:
        pytest.skip("the page says that this is planned")
    for word in words:
        if re.match(r"(recipes|slurm|tests|linformer_fairseq|data_prep|constraints\.txt)\b", word) and "." in word:
            assert (ROOT / word.partition("::")[0]).exists(), f"{word} does not exist"
    if program == "make":
        targets = (ROOT / "Makefile").read_text().partition(".PHONY:")[2].partition("\n")[0].split()
        named = [word for word in arguments if "=" not in word and not word.startswith("-")]
        assert set(named) <= set(targets), f"make has no {set(named) - set(targets)}"
    elif re.fullmatch(r"python3?(\.\d+)?", program):
        check_python(arguments)
    elif program == "linformer":
        check_linformer(arguments)
    elif program == "fairseq-hydra-train":
        check_hydra(arguments, run_fairseq)
    elif program in FAIRSEQ_PARSERS:
        check_fairseq(program, arguments)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of the pages are given in the repository's folder."""
    monkeypatch.chdir(ROOT)


def test_readme_shows_the_main_commands() -> None:
    shown = {command.words[:2] for command in COMMANDS if command.page == "README.md"}
    assert {("make", "demo"), ("make", "test")} <= shown
    assert any(words[0] == "fairseq-train" for words in shown)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_of_a_page_would_start(command: Command, run_fairseq: RunFairseq) -> None:
    check(command, run_fairseq)


def slugs(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+?)\s*#*$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    for target in (one or other for one, other in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8")))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), f"{target} does not exist"
        assert not anchor or linked.suffix != ".md" or anchor in slugs(linked), f"{target} is no heading"


@pytest.mark.parametrize(
    "words",
    [
        "make nothing",
        "python recipes/nothing.py",
        "linformer nothing",
        "linformer demo --nothing 3",
        "linformer convert to-hf --nothing a b",
        "linformer train nothing DATA --save-dir RUN",
        "linformer train tiny_n512_k128 DATA --save-dir RUN -- --nothing 3",
        "python -m data_prep extract --nothing corpus",
        "python -m data_prep extract --source nothing --out corpus",
        "python -m linformer_fairseq --nothing",
        "fairseq-train DATA --user-dir linformer_fairseq --task masked_lm --arch linformer_roberta_nothing",
        "fairseq-train DATA --user-dir linformer_fairseq --task masked_lm --arch linformer_roberta_tiny --nothing 3",
        "fairseq-hydra-train --config-dir recipes/pretrain --config-name tiny_n512_k128 optimization.nothing=3",
        "sbatch slurm/nothing.sh",
    ],
)
def test_a_command_that_would_not_start_is_noticed(words: str, run_fairseq: RunFairseq) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        check(Command("README.md", tuple(words.split())), run_fairseq)


def test_shell_lines_are_understood() -> None:
    block = """\
    # a comment
    OUT=run; CUDA_VISIBLE_DEVICES=0 fairseq-train $DATA \\
        --user-dir "$(linformer env --path)" --save-dir "$OUT/a" … > log.txt 2>&1
    cd x && make demo | tee log
    """
    assert shell_commands(block) == [
        ["linformer", "env", "--path"],
        ["fairseq-train", "1", "--user-dir", USER_DIR, "--save-dir", "run/a"],
        ["cd", "x"],
        ["make", "demo"],
        ["tee", "log"],
    ]
