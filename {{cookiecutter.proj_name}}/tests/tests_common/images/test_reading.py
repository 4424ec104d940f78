"""Picture files of every kind: what becomes of their pixels."""

import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageOps

from common.images.reading import center_box, picture_suffixes, random_box, read_image


def picture(width: int = 60, height: int = 40) -> Image.Image:
    """Return a picture whose red grows to the right and whose green grows downwards."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, 0 * x], 2).astype(np.uint8))


class ReadingTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def read(self, image: Image.Image, name: str, *arguments, **keys) -> torch.Tensor:
        image.save(self.folder / name, **keys)
        return read_image(self.folder / name, *arguments)

    def assert_close(self, one: torch.Tensor, other: torch.Tensor, most: float):
        self.assertEqual(one.shape, other.shape)
        self.assertLess((one.float() - other.float()).abs().mean().item(), most)


class TestWhole(ReadingTest):
    def test_formats(self):
        image = Image.new("RGB", (5, 3), (255, 0, 10))
        for name in ("a.png", "b.gif", "c.bmp", "d.tiff", "e.webp"):
            pixels = self.read(image, name, **({"lossless": True} if name == "e.webp" else {}))
            self.assertEqual((pixels.shape, pixels.dtype), ((3, 3, 5), torch.uint8))
            self.assertEqual(pixels[:, 1, 2].tolist(), [255, 0, 10])
            self.assertEqual(read_image(self.folder / name, "L").shape, (1, 3, 5))
            self.assertIn(Path(name).suffix, picture_suffixes())
        (self.folder / "bad.png").write_bytes(b"no picture")
        with self.assertRaises(OSError):
            read_image(self.folder / "bad.png")
        self.assertFalse({".txt", ".pdf", ""} & picture_suffixes())

    def test_colors(self):
        image = picture()
        expected = self.read(image, "rgb.png")
        self.assert_close(self.read(image.quantize(256), "palette.png"), expected, 8)
        self.assert_close(self.read(image.convert("CMYK"), "cmyk.jpg", quality=95), expected, 8)
        gray = self.read(image.convert("L"), "gray.jpg")
        self.assertTrue(gray[0].equal(gray[1]) and gray[0].equal(gray[2]))
        deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        self.assert_close(self.read(deep, "deep.png"), self.read(image.convert("L"), "gray.png"), 0.6)
        with self.assertRaisesRegex(ValueError, "its values have more than 16 bits"):
            self.read(Image.new("F", (4, 4)), "float.tiff")

    def test_what_is_transparent_is_white(self):
        image = picture().convert("RGBA")
        image.paste((9, 9, 9, 0), (0, 0, 30, 40))
        for name, saved in (("rgba.png", image), ("la.png", image.convert("LA")), ("p.gif", image)):
            pixels = self.read(saved, name)
            self.assertTrue(pixels[:, :, :29].eq(255).all(), name)
            self.assertFalse(pixels[:, :, 31:].eq(255).all(), name)

    def test_orientation(self):
        for number in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = number
            for suffix in ("png", "tiff", "webp"):
                name, keys = f"{number}.{suffix}", {"lossless": True} if suffix == "webp" else {}
                pixels = self.read(picture(), name, exif=exif, **keys)
                stored = picture()
                stored.getexif()[0x0112] = number
                upright = np.array(ImageOps.exif_transpose(stored))
                self.assertEqual(pixels.permute(1, 2, 0).tolist(), upright.tolist(), name)

    def test_damaged_exif_data(self):
        whole = self.read(picture(), "a.jpg")
        data = (self.folder / "a.jpg").read_bytes()
        damaged = b"\xff\xe1\x00\x0fExif\x00\x00garbage"
        (self.folder / "b.jpg").write_bytes(data[:2] + damaged + data[2:])
        self.assertTrue(read_image(self.folder / "b.jpg").equal(whole))


class TestResized(ReadingTest):
    def test_the_middle(self):
        self.assertEqual(center_box(60, 40, 1.0), (10, 0, 50, 40))
        self.assertEqual(center_box(60, 40, 3.0), (0, 10, 60, 30))
        pixels = self.read(picture(), "a.png", "RGB", (20, 60))
        self.assert_close(pixels, read_image(self.folder / "a.png")[:, 10:30], 0.1)

    def test_a_large_jpeg_is_as_if_decoded_whole(self):
        whole = self.read(picture(1200, 800), "a.png", "RGB", 64)
        small = self.read(picture(1200, 800), "a.jpg", "RGB", 64, quality=95)
        self.assert_close(small, whole, 2)
        with mock.patch("PIL.JpegImagePlugin.JpegImageFile.draft") as draft:
            read_image(self.folder / "a.jpg", "RGB", 64)
        draft.assert_called_once_with(None, (96, 64))  # what is enough for 64 x 64 of the middle

    def test_orientation(self):
        for number in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = number
            whole = self.read(picture(600, 400), f"{number}.jpg", exif=exif, quality=95)
            for size in ((32, 48), (48, 32)):
                pixels = read_image(self.folder / f"{number}.jpg", "RGB", size)
                Image.fromarray(whole.permute(1, 2, 0).numpy()).save(self.folder / "upright.png")
                self.assert_close(pixels, read_image(self.folder / "upright.png", "RGB", size), 2)
            self.read(picture(600, 400), "turned.tiff", "RGB", (48, 32), exif=exif)
            self.assert_close(read_image(self.folder / "turned.tiff", "RGB", (48, 32)), pixels, 3)

    def test_random_parts(self):
        torch.manual_seed(0)
        choose = random_box((0.25, 0.5))
        for _ in range(200):
            left, top, right, bottom = choose(300, 200, 1.0)
            self.assertTrue(0 <= left < right <= 300 and 0 <= top < bottom <= 200)
            self.assertTrue(0.249 <= (right - left) * (bottom - top) / 60000 <= 0.501)
            self.assertTrue(0.74 <= (right - left) / (bottom - top) <= 1.34)
        self.assertEqual(random_box((1.0, 1.0))(300, 100, 1.0), (100, 0, 200, 100))  # none fits
        torch.manual_seed(1)
        one = self.read(picture(), "a.png", "RGB", 16, choose)
        self.assertFalse(one.equal(read_image(self.folder / "a.png", "RGB", 16, choose)))
        torch.manual_seed(1)
        self.assertTrue(one.equal(read_image(self.folder / "a.png", "RGB", 16, choose)))
