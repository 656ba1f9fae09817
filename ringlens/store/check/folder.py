"""Finds files and reservations that no reader uses: leftovers, orphans, abandoned commits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ringlens.store.check.finding import LITTER, SWEEP, WRONG, Finding
from ringlens.store.manifest.manifest import Commit, Manifest
from ringlens.store.storage import layout
from ringlens.store.storage.folder import Folder

NAME = re.compile(r"part-(\d+)[.-].*parquet")


def paths_in_tables(folder: Folder, names: Sequence[str]) -> list[str]:
    """Paths of all files in the folders of some tables."""
    return [
        f"{table}/{run}/{name}"
        for table in names
        for run in folder.names(table)
        for name in folder.names(f"{table}/{run}")
    ]


def commit_of(path: str) -> int | None:
    """Number of the commit that wrote a file, from its name; None if the name has none."""
    found = NAME.fullmatch(path.rsplit("/", 1)[-1])
    return int(found.group(1)) if found else None


def check_folder(folder: Folder, manifest: Manifest) -> Iterator[Finding]:
    """Find leftovers of dead writers, and files in table folders that no commit owns.

    Files of living writers are skipped.
    """
    # The folder is listed before the manifest is read. A file that is committed in between is then
    # in the manifest; in the other order it would be taken for an orphan.
    staged = {path.name: path.name.split("-")[0] for path in folder.staging.glob("*.part")}
    present = paths_in_tables(folder, layout.table_names())
    markers = [name for name in folder.names() if name.startswith(f"{layout.MARKER}.")]
    reservations = manifest.reservations()
    files = manifest.snapshot()[2]
    writers = {commit.writer for commit in reservations} | set(staged.values())
    dead = folder.dead_writers(writers)

    for name, writer in staged.items():
        if writer in dead and (folder.staging / name).exists():
            path = f"{folder.staging.name}/{name}"
            sentence = f"{path} was left by a writer that is gone"
            yield Finding(LITTER, "leftover", path, sentence, SWEEP)
    for name in markers:
        yield Finding(LITTER, "leftover", name, f"{name} was left by a writer that is gone", SWEEP)
    for commit in reservations:
        if commit.writer in dead:
            sentence = (
                f"commit {commit.commit_id} of run {commit.run_id} was started for "
                f"{commit.traces} traces by a writer that is gone; nothing of it was committed"
            )
            yield Finding(WRONG, "reservation", "", sentence, SWEEP, commit.run_id)
    known = {file.path for file in files} | set(manifest.retired(before="9999"))
    for path in present:
        if path not in known and folder.exists(path):
            yield from _orphan(path, reservations, dead)


def _orphan(path: str, reservations: Sequence[Commit], dead: set[str]) -> Iterator[Finding]:
    number = commit_of(path)
    owner = next((commit for commit in reservations if commit.commit_id == number), None)
    if owner is not None and owner.writer not in dead:
        return  # it is being committed
    if owner is not None:
        sentence = f"{path} was left by a writer that is gone"
        yield Finding(LITTER, "leftover", path, sentence, SWEEP, owner.run_id)
        return
    sentence = f"{path} belongs to no commit, so no reader sees it"
    advice = "--repair moves it to orphans/, in case the manifest is an old copy"
    yield Finding(LITTER, "orphan", path, sentence, advice)
