"""Is a checkpoint whole? And if the newest one is not, which one is?"""

import zipfile
from pathlib import Path

from linformer_fairseq.compat.checkpoints import load
from linformer_fairseq.errors import UsageError
from linformer_fairseq.training import files


def damage(path: Path) -> str | None:
    """Says in a few words what is wrong with a checkpoint; None if it is whole.

    A file without a checksum (from fairseq alone, or from a start that was killed before it wrote one) is read through:
    its parts have checksums too. No code that it may hold is run.
    """
    if path.stat().st_size == 0:
        return "it is empty"
    sha256 = files.recorded(path)
    if sha256 is not None:
        return None if files.digest(path) == sha256 else f"it does not match {files.checksum_file(path).name}"
    try:
        with path.open("rb") as file:
            content = load(file, map_location="cpu")
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
            if bad is not None:
                return f"its part {bad} is not what was written"
    except UsageError as error:
        return str(error)
    except (zipfile.BadZipFile, OSError) as error:
        return f"it cannot be read: {error}"
    if not isinstance(content, dict) or not {"model", "extra_state"} <= content.keys():
        return "it is not a checkpoint of a training"
    return None


def newest_whole(folder: Path, instead_of: Path) -> Path | None:
    """The youngest checkpoint of `folder` that is whole and not, by another name, `instead_of`."""
    paths = [path for path in folder.iterdir() if files.CHECKPOINT.fullmatch(path.name) and path.is_file()]
    others = [path for path in paths if not path.samefile(instead_of)]
    for path in sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if damage(path) is None:
            return path
    return None
