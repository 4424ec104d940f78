"""Downloads from a server that breaks off, lies, is missing or is slow."""

import hashlib
import http.server
import multiprocessing
import tempfile
import threading
import time
import unittest
from pathlib import Path

from common.config.errors import UserError
from common.tools.download import download

CONTENT = bytes(range(256)) * 800
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives the content, by the ways that the path asks for; the server counts what it is asked."""

    def do_GET(self):
        way, seen = self.path.strip("/").split("/")[0], self.server.seen
        seen.append((way, self.headers.get("Range")))
        if way == "missing":
            return self.send_error(404)
        if way == "slow":
            time.sleep(1.5)
        if way == "failing" and len(seen) < 3:
            return self.send_error(503)
        start = 0
        if (wanted := self.headers.get("Range")) and way != "no-parts":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(CONTENT):
                return self.send_error(416)
        body = (CONTENT[::-1] if way == "wrong" or (way == "wrong-once" and len(seen) < 2) else CONTENT)[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        breaks = way == "breaking" or (way in ("breaks-once", "no-parts") and len(seen) < 2)
        self.wfile.write(body[: len(CONTENT) // 3] if breaks else body)

    def log_message(self, *args):
        pass


class TestDownload(unittest.TestCase):
    def setUp(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.seen = []
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.path = Path(temporary.name) / "set" / "file.gz"

    def get(self, *ways, **options):
        urls = [f"http://127.0.0.1:{self.server.server_port}/{way}/file.gz" for way in ways]
        return download(self.path, urls, MD5, **{"timeout": 0.5, "tries": 2, **options})

    def expect(self, *seen):
        self.assertEqual(self.path.read_bytes(), CONTENT)
        self.assertEqual([path.name for path in self.path.parent.iterdir()], ["file.gz"])
        self.assertEqual(self.server.seen, list(seen))

    def refused(self, message, *ways, **options):
        with self.assertRaisesRegex(UserError, message) as caught:
            self.get(*ways, **options)
        self.assertNotIn("\n", str(caught.exception))
        self.assertFalse(self.path.exists())

    def test_whole_and_only_once(self):
        self.get("good")
        self.get("good")
        self.expect(("good", None))

    def test_goes_on_where_it_broke_off(self):
        self.get("breaks-once")
        self.expect(("breaks-once", None), ("breaks-once", f"bytes={len(CONTENT) // 3}-"))

    def test_goes_on_in_another_run_and_from_another_mirror(self):
        self.refused("broke off after", "breaking", tries=1)
        self.get("good")
        self.expect(("breaking", None), ("good", f"bytes={len(CONTENT) // 3}-"))

    def test_a_server_that_gives_no_parts(self):
        self.get("no-parts")
        self.expect(("no-parts", None), ("no-parts", f"bytes={len(CONTENT) // 3}-"))

    def test_a_file_that_was_whole_but_not_renamed(self):
        self.path.parent.mkdir()
        self.path.with_name("file.gz.part").write_bytes(CONTENT)
        self.get("good")
        self.expect(("good", f"bytes={len(CONTENT)}-"))

    def test_a_wrong_digest(self):
        self.refused(f"file.gz: cannot be downloaded: .*/wrong/file.gz: the md5 digest should be {MD5}, found", "wrong")
        self.get("wrong-once")
        self.assertEqual(self.path.read_bytes(), CONTENT)

    def test_missing_and_then_a_mirror(self):
        self.refused("cannot be downloaded: http.*/missing/file.gz: HTTP 404 Not Found$", "missing")
        self.assertEqual(list(self.path.parent.iterdir()), [])
        self.server.seen.clear()
        self.get("missing", "good")
        self.expect(("missing", None), ("good", None))

    def test_failing_for_a_while(self):
        self.get("failing", tries=3)
        self.expect(*[("failing", None)] * 3)

    def test_slow(self):
        self.refused("/slow/file.gz: no answer in time", "slow", tries=1)
        self.get("slow", timeout=5)

    def test_no_server(self):
        self.server.shutdown()
        self.server.server_close()
        self.refused("/good/file.gz: .*refused", "good", tries=1)

    def test_a_damaged_file_that_is_there(self):
        self.get("good")
        self.path.write_bytes(CONTENT[:-1])
        with self.assertRaisesRegex(
            UserError, f"file.gz: expected the md5 digest {MD5}, found .*; remove it to download"
        ):
            self.get("good")

    def test_several_processes_at_once(self):
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=self.get, args=("good",)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        self.assertEqual([process.exitcode for process in processes], [0] * 4)
        self.expect(("good", None))
