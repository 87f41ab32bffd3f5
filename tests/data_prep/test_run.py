"""All stages from one configuration, killed and started again, by one process and by many."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import data_prep
from data_prep.__main__ import main
from data_prep.config import bundled
from data_prep.pipeline import load_config
from linformer_fairseq.errors import UsageError

ROOT = Path(data_prep.__file__).parents[1]
CONFIG = """\
sources:
  - source: text
    inputs: [{texts}]
  - source: docstrings
    inputs: [{packages}]
file_characters: 40000
clean: {{min_words: 10}}
split: {{valid: 0.1}}
tokenizer: {{vocab_size: 512}}
binarize: {{max_item_tokens: 62, shards: 2}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with two sources, of which the first has a duplicate."""
    folder = tmp_path_factory.mktemp("run")
    texts = folder / "texts"
    texts.mkdir()
    for name in "abcdefgh":
        chance = random.Random(name)
        words = ["".join(chance.choices("aeioulmnrst", k=chance.randint(3, 8))) for _ in range(400)]
        (texts / f"{name}.txt").write_text("\n".join(" ".join(words[i : i + 20]) for i in range(0, 400, 20)))
    (texts / "copy.txt").write_text((texts / "a.txt").read_text())
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(texts=texts, packages=Path(json.__file__).parent.parent / "email"))
    return path


def command(config: Path, out: Path, workers: int) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "data_prep", "run", str(config), "--out", str(out), "--workers", str(workers)]


def made(out: Path) -> dict[str, bytes]:
    """All that a run made, but for records of how long it took."""
    files = [path for path in out.rglob("*") if path.is_file() and ".work" not in path.parts]
    kept = [path for path in files if path.suffix not in (".json", ".md") or path.name == "manifest.json"]
    return {str(path.relative_to(out)): path.read_bytes() for path in kept}


@pytest.fixture(scope="module")
def undisturbed(config: Path) -> Path:
    """A run with one process."""
    out = config.with_name("undisturbed")
    done = subprocess.run(command(config, out, 1), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_leaves_data_report_and_manifest(undisturbed: Path) -> None:
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["stages"]["dedup"]["result"]["dropped"] == {"exact duplicate": 1}
    assert {"binarize", "clean", "extract text", "extract docstrings", "split", "tokenizer"} < set(manifest["stages"])
    assert (undisturbed / "lengths.png").read_bytes().startswith(b"\x89PNG")
    report = (undisturbed / "report.md").read_text()
    assert "| binarize |" in report and "1 exact duplicate" in report and "text copy copy" in report
    assert (undisturbed / "data/shard01/train.idx").exists()


def test_a_second_run_does_nothing(config: Path, undisturbed: Path) -> None:
    report = (undisturbed / "report.md").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.parquet")}
    done = subprocess.run(command(config, undisturbed, 1), cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.count("already finished") == 7
    assert f"linformer train RECIPE {undisturbed}/data/shard00:{undisturbed}/data/shard01 --save-dir RUN" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.parquet")} == before
    assert (undisturbed / "report.md").read_bytes() == report


def test_files_that_were_emptied_removed_or_changed_are_made_again(
    config: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    words = ["run", str(config), "--out", str(out)]
    next((out / "corpus").glob("text-*.parquet")).write_bytes(b"")
    next((out / "split/train").glob("docstrings-*.parquet")).unlink()
    (out / "data/shard01/train.bin").write_bytes(b"")
    assert main(words) == 0
    assert capsys.readouterr().out.count("are made again") == 3 and made(out) == made(undisturbed)
    path = out / "data/shard00/train.bin"
    before = path.stat()
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk would do it
    assert main([*words, "--verify"]) == 0
    assert made(out) == made(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 8])
def test_bytes_do_not_depend_on_the_number_of_processes(
    config: Path, undisturbed: Path, tmp_path: Path, workers: int
) -> None:
    subprocess.run(command(config, tmp_path, workers), cwd=ROOT, check=True, capture_output=True)
    assert made(tmp_path) == made(undisturbed)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(config: Path, undisturbed: Path, tmp_path: Path) -> None:
    chance = random.Random(1)
    kills = runs = 0
    while kills < 20:
        runs += 1
        out = tmp_path / str(runs)
        records: dict[Path, int] = {}
        finished, patience = False, 1.0
        while not finished:
            # Short enough that a run is killed several times; ever longer, so that it ends on a busy machine, too.
            finished = not killed_within(chance.uniform(0.5, 3) * patience, command(config, out, 2))
            kills, patience = kills + (not finished), patience * 1.1
            # What was finished before a kill is not done again after it.
            assert all(path.stat().st_mtime_ns == stamp for path, stamp in records.items())
            records = {path: path.stat().st_mtime_ns for path in out.glob("*/.work/*.json")}
        assert made(out) == made(undisturbed)


def killed_within(seconds: float, arguments: list[str]) -> bool:
    """Whether a command had to be killed, and was; it must succeed if it ends by itself."""
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.wait(timeout=seconds) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    return False


@pytest.mark.slow
def test_the_array_script_shares_the_work_among_its_tasks(config: Path, undisturbed: Path, tmp_path: Path) -> None:
    environment = {
        "CONFIG": str(config),
        "OUT": str(tmp_path),
        "PYTHON": sys.executable,
        "PATH": "/usr/bin:/bin",
        "SLURM_SUBMIT_DIR": str(ROOT),
    }
    script = ["bash", str(ROOT / "slurm/prepare_data.sh")]
    tasks = [subprocess.Popen(script, env=environment, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [task.wait(timeout=300) for task in tasks] == [0, 0, 0]
    assert made(tmp_path) == made(undisturbed)


def test_redo_makes_a_stage_and_those_behind_it_again(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["run", str(config), "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert main([*arguments, "split.valid=0.2"]) == 1
    assert main([*arguments, "split.valid=0.2", "--redo", "split"]) == 0
    assert main([*arguments, "--redo", "nothing"]) == 1


@pytest.mark.parametrize("name", [*bundled(), *map(str, (ROOT / "recipes/measure").glob("*.yaml"))])
def test_every_configuration_that_comes_along_is_valid(name: str) -> None:
    assert load_config(name, ["input=x"]).sources


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["tokenizer.vocab=1"], "vocab"),
        (["tokenizer.vocab_size=many"], "many"),
        (["tokenizer"], "expected KEY=VALUE"),
    ],
)
def test_wrong_settings_are_refused(changes: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config("demo", changes)
    with pytest.raises(UsageError, match="no such file; give a YAML file, or one of demo"):
        load_config("absent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tokenizer.vocab_size=100", "--vocab-size 100: must be at least 320"),
        ("tokenizer.model=wordpiece", "--model wordpiece: must be one of unigram, bpe"),
        ("tokenizer.existing=/nowhere.model", "/nowhere.model: missing"),
    ],
)
def test_an_impossible_vocabulary_is_refused_before_the_first_stage(
    config: Path, tmp_path: Path, change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(config), "--out", str(tmp_path / "out"), change]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sourcs: []", "unknown key sourcs; there are on_error, file_characters, sources, clean, "),
        ("sources: [{source: text, inputs: [a], colum: b}]", "unknown key colum; there are source, inputs, "),
        ("tokenizer: {vocab: 512}", "unknown key tokenizer.vocab; there are vocab_size, "),
        ("sources: [{source: text, inputs: texts}]", "inputs: must be a list; write [VALUE]"),
        ("clean: yes", "True stands where a section has its settings (KEY: VALUE); null leaves a stage out"),
        (
            "tokenizer: {vocab_size: many}",
            "tokenizer.vocab_size: Value 'many' of type 'str' could not be converted to Integer",
        ),
    ],
)
def test_a_wrong_configuration_is_one_sentence(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    assert main(["run", str(tmp_path / "wrong.yaml"), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert f"wrong.yaml: {message}" in error and "Config" not in error and len(error.splitlines()) == 1


def test_a_run_among_its_texts_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("Some words.\n")
    assert main(["run", "folder", f"input={tmp_path}", "--out", str(tmp_path / "run")]) == 1
    assert f"--out {tmp_path / 'run'}: lies in the input {tmp_path}, " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_inspect_shows_documents_blocks_and_figures(undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(undisturbed), "--samples", "1"]) == 0
    shown = capsys.readouterr().out
    for words in ("characters per document", "tokens per item", "0.0000% unknown", "[block]", "shard01/train"):
        assert words in shown
    assert main(["inspect", str(undisturbed / "tokenizer")]) == 1
