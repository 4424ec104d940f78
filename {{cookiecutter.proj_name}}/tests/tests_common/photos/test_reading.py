"""Picture files."""

import tempfile
import unittest
from pathlib import Path

import torch
from PIL import Image

from common.photos.reading import read_image


class TestReading(unittest.TestCase):
    def test_formats(self):
        with tempfile.TemporaryDirectory() as folder:
            image = Image.new("RGB", (5, 3), (255, 0, 10))
            for name in ("a.png", "b.gif", "c.bmp"):
                image.save(Path(folder, name))
                pixels = read_image(Path(folder, name))
                self.assertEqual((pixels.shape, pixels.dtype), ((3, 3, 5), torch.uint8))
                self.assertEqual(pixels[:, 1, 2].tolist(), [255, 0, 10])
                self.assertEqual(read_image(Path(folder, name), "L").shape, (1, 3, 5))
            Path(folder, "bad.png").write_bytes(b"no picture")
            with self.assertRaises(OSError):
                read_image(Path(folder, "bad.png"))
