"""One file from a server: with progress, resumed where it stopped, checked before it is used."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without an answer


def cache_folder() -> Path:
    """Where downloads are kept: $MASK2FORMER_CACHE, or mask2former in the user's cache."""
    own = os.environ.get("MASK2FORMER_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mask2former"


def download(url: str, path: Path, *, md5_start: str) -> None:
    """Bring a file to `path`; what an earlier attempt left beside it is gone on with.

    ConnectionError says how to do it by hand if the server cannot be reached, ValueError if what
    came is not the file (its MD5 must begin with `md5_start`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _receive(url, part)
    except (urllib.error.URLError, OSError) as e:
        reason = getattr(e, "reason", None) or e
        raise ConnectionError(
            f"{url}: cannot be downloaded ({reason}). The same command goes on where it stopped;"
            f" or download it elsewhere and put it to {path}"
        ) from None
    found = _md5(part)
    if not found.startswith(md5_start):
        part.unlink()
        raise ValueError(
            f"{url}: what came is not the file: its MD5 is {found}, but must begin with"
            f" {md5_start}. It was deleted; try again"
        )
    os.replace(part, path)


def _receive(url: str, part: Path) -> None:
    """Append to `part` what it lacks."""
    from rich.progress import (  # here: every model that is loaded would wait for it
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TransferSpeedColumn,
    )

    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as e:
        if e.code == 416:  # nothing lacks
            return
        raise
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with answer, Progress(*columns, TransferSpeedColumn()) as progress:
        resumed = answer.status == 206  # else the server begins anew
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        bar = progress.add_task(part.stem, total=total, completed=have)
        with part.open("ab" if resumed else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                progress.update(bar, advance=len(chunk))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
