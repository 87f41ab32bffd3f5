"""The command `upload`: a finished folder to storage that fsspec writes, such as s3://, gs:// or hf://.

The stages themselves work in a folder of the machine, since claims and renames need a file system.
"""

from pathlib import Path

from fsspec.core import url_to_fs
from tqdm import tqdm

from linformer_fairseq.errors import AGAIN, UsageError
from linformer_fairseq.io.records import WORK


def upload(folder: Path, address: str) -> None:
    """Copy what is not there yet; a file there counts if it has the same size and is not older.

    Claims, unfinished files and others below `.work` stay here. Records of stages come last: who sees one there sees
    all that it names. UsageError if `folder` has nothing to copy, a stage is still at work in it, or the storage fails.
    """
    if "://" not in address:
        raise UsageError(f"{address}: no address; give one such as s3://bucket/corpus, or copy folders with cp")
    below = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if claims := [path for path in below if path.suffix == ".claim" and path.parent.name == WORK]:
        stage = claims[0].parent.parent
        raise UsageError(f"{stage}: a stage is at work there, or was killed; finish it with the same command first")
    files = [path for path in below if WORK not in path.relative_to(folder).parts and path.suffix != ".partial"]
    if not files:
        raise UsageError(f"{folder}: no files to upload; give the output folder of a stage or of run")
    files.sort(key=lambda path: path.suffix == ".json")
    try:
        storage, top = url_to_fs(address)
        storage.auto_mkdir = True  # of file://: as elsewhere, folders need not be there
        sizes = {name: found["size"] for name, found in storage.find(top, detail=True).items()}
        copied = 0
        with tqdm(total=sum(path.stat().st_size for path in files), desc="upload", unit="B", unit_scale=True) as bar:
            for path in files:
                goal, stat = f"{top.rstrip('/')}/{path.relative_to(folder).as_posix()}", path.stat()
                # S3 knows whole seconds.
                if sizes.get(goal) != stat.st_size or storage.modified(goal).timestamp() < int(stat.st_mtime):
                    storage.put_file(str(path), goal)
                    copied += 1
                bar.update(stat.st_size)
    except Exception as error:  # those of any storage
        reason = " ".join(str(error).split())
        raise UsageError(f"{address}: cannot be written ({reason}); check address and access; {AGAIN}") from error
    print(f"upload: {copied:,} files copied, {len(files) - copied:,} were there, in {address}")
