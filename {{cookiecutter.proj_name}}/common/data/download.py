"""Downloads that are taken up where they broke off, and are never taken for whole before they are."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from common.config.errors import UserError
from common.log.console import add_log


def download(path: Path, urls: Sequence[str], md5: str, timeout: float = 30.0, tries: int = 3) -> Path:
    """Return a file, downloaded first if it is not there; of several processes one does it, and the others wait.

    What has come lies in ``<path>.part`` until it is whole and its digest is right.

    Args:
        path: Where it belongs.
        urls: Its mirrors, tried one after another.
        md5: Its published digest.
        timeout: Seconds after which a silent server is given up.
        tries: How often each mirror is tried.

    Raises:
        UserError: No mirror gives it, with what each said; or the file that is there has another digest.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists():
                _fetch(path, part, list(urls), md5, timeout, tries)
            part.unlink(missing_ok=True)  # opened while another process was about to finish
    if (found := _md5(path)) != md5:
        raise UserError(f"{path}: expected the md5 digest {md5}, found {found}; remove it to download it again")
    return path


def _fetch(path: Path, part: Path, urls: list[str], md5: str, timeout: float, tries: int) -> None:
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
            os.truncate(part, 0)  # it is what the others wait for, so it stays
            faults[url] = f"{url}: the md5 digest should be {md5}, found {found}"
    if part.stat().st_size == 0:
        part.unlink()
    raise UserError(f"{path}: cannot be downloaded: {'; '.join(faults.values())}")


def _receive(url: str, part: Path, timeout: float) -> None:
    """Append to a file what it lacks, or write it anew where the server does not give parts."""
    size = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={size}-"} if size else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to give: the digest will tell
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        length = int(response.headers.get("Content-Length") or 0)
        bar = tqdm(total=file.tell() + length or None, initial=file.tell(), desc=part.stem, unit="B", unit_scale=True)
        with bar:
            while chunk := response.read(1 << 16):
                bar.update(file.write(chunk))
            if length and file.tell() < bar.total:
                raise OSError(f"broke off after {file.tell():,} of {bar.total:,} bytes")


def _reason(error: Exception) -> str:
    """Return what went wrong as a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = getattr(error, "reason", error)
    return "no answer in time" if isinstance(cause, TimeoutError) else str(cause) or type(cause).__name__


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
