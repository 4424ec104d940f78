"""The set of fabrics is drawn once, always the same."""

import hashlib
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

from common.config.errors import UserError
from common.images import fabrics


@mock.patch.object(fabrics, "PHOTOGRAPHS", 2)
class TestFabrics(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name) / "data" / "fabrics"

    def digests(self) -> dict[str, str]:
        files = sorted(self.folder.rglob("*.jpg"))
        return {str(file.relative_to(self.folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    def test_always_the_same_and_once(self):
        fabrics.draw_fabrics(self.folder)
        digests = self.digests()
        self.assertEqual(len(set(digests.values())), 2 * len(fabrics.PATTERNS))
        self.assertIn("striped/001.jpg", digests)
        with mock.patch.object(fabrics, "draw_photo", side_effect=AssertionError):
            fabrics.draw_fabrics(self.folder)
        other = fabrics.draw_photo("striped", 1)
        self.assertEqual(other.size, (480, 360))
        self.folder = self.folder.with_name("again")
        fabrics.draw_fabrics(self.folder)
        self.assertEqual(self.digests(), digests)

    def test_an_unfinished_folder_does_not_count(self):
        interrupted = mock.patch.object(fabrics, "draw_photo", side_effect=KeyboardInterrupt)
        with interrupted, self.assertRaises(KeyboardInterrupt):
            fabrics.draw_fabrics(self.folder)
        self.assertFalse(self.folder.exists())
        fabrics.draw_fabrics(self.folder)
        self.assertEqual(len(self.digests()), 2 * len(fabrics.PATTERNS))

    def test_two_at_once(self):
        counted = mock.patch.object(fabrics, "draw_photo", side_effect=fabrics.draw_photo)
        with counted as draw, ThreadPoolExecutor(2) as pool:
            list(pool.map(fabrics.draw_fabrics, [self.folder, self.folder]))
        self.assertEqual(draw.call_count, 2 * len(fabrics.PATTERNS))

    def test_a_folder_that_cannot_be_made(self):
        self.folder.parent.mkdir()
        self.folder.parent.joinpath("file").write_text("")
        with self.assertRaisesRegex(UserError, "file/fabrics: cannot be drawn: "):
            fabrics.draw_fabrics(self.folder.parent / "file" / "fabrics")
