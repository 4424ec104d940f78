"""Downloads that resume where they broke off, and that count as complete only once their digest is right."""

from __future__ import annotations

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from common.config.errors import UserError
from common.log.console import add_log


def download(path: Path, urls: Sequence[str], md5: str, timeout: float = 30.0, tries: int = 3) -> Path:
    """Return a file, downloaded first if it is missing. One of several processes downloads it while the others wait.

    What has arrived is kept in ``<path>.part`` until the file is complete and its digest is right.

    Args:
        path: Where the file belongs.
        urls: Its mirrors, each tried ``tries`` times in turn.
        md5: Its published digest.
        timeout: Seconds after which a silent server is given up.
        tries: Rounds over all mirrors.

    Raises:
        UserError: No mirror delivers it, or the existing file has another digest.
    """
    from filelock import FileLock

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f"{path.name}.lock")
        with FileLock(lock):
            try:
                if not path.exists():
                    _fetch(path, path.with_name(f"{path.name}.part"), list(urls), md5, timeout, tries)
            finally:
                with suppress(OSError):  # Windows keeps it until it is released, and removes it then
                    lock.unlink()
    if (found := _md5(path)) != md5:
        raise UserError(f"{path}: expected the md5 digest {md5}, found {found}; remove it to download it again")
    return path


def _fetch(path: Path, part: Path, urls: list[str], md5: str, timeout: float, tries: int) -> None:
    """Download a file from the first mirror that delivers it whole."""
    faults = {}
    for attempt in range(tries):
        time.sleep(attempt)
        for url in list(urls):
            try:
                _receive(url, part, timeout)
            except (OSError, http.client.HTTPException) as error:
                faults[url] = f"{url}: {_reason(error)}"
                add_log(f"{faults[url]}; trying again, or elsewhere", "WARNING")
                if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410):
                    urls.remove(url)
                continue
            if (found := _md5(part)) == md5:
                part.replace(path)
                return
            part.unlink()
            faults[url] = f"{url}: the md5 digest should be {md5}, found {found}"
    raise UserError(f"{path}: cannot be downloaded: {'; '.join(faults.values())}")


def _receive(url: str, part: Path, timeout: float) -> None:
    """Append what a file lacks, or write it anew where the server does not send parts."""
    size = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={size}-"} if size else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: the digest will tell
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        start, length = file.tell(), int(response.headers.get("Content-Length") or 0)
        total = start + length if length else None
        with tqdm(total=total, initial=start, desc=part.stem, unit="B", unit_scale=True) as bar:
            while chunk := response.read(1 << 16):
                bar.update(file.write(chunk))
        if total and file.tell() < total:
            raise OSError(f"broke off after {file.tell():,} of {total:,} bytes")


def _reason(error: Exception) -> str:
    """Return in a few words what went wrong."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = getattr(error, "reason", error)
    return "no answer in time" if isinstance(cause, TimeoutError) else str(cause) or type(cause).__name__


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
