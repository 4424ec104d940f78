"""Predictor: what comes out of a checkpoint, in batches of any size, and what is refused."""

import io

import numpy as np
import torch
from PIL import Image

from common.config.build import build_model
from common.config.errors import UserError
from common.deploy.predictor import Predictor
from common.deploy.task import mask_picture, read_picture
from common.state.file import load_exactly, read_checkpoint
from tests import needs_room
from tests.tests_common.deploy.toy import CLASSES, DeployTest, draw_pictures


class TestCheckpoint(DeployTest):
    """What a checkpoint says of itself."""

    keys = {"metric": {"some": {"type": "X", "api_key": "t0k"}}, "epochs": 1}

    def test_says_what_it_is(self):
        state = torch.load(self.checkpoint, weights_only=True)
        self.assertEqual((state["classes"], state["format"]), (CLASSES, 1))
        self.assertRegex(state["engine"], r"^\d+\.\d+")
        self.assertEqual(state["config"]["model"], {"type": "ToyColorNet"})
        self.assertEqual(state["config"]["metric"]["some"]["api_key"], "***")
        self.assertIsNone(state["config"]["resume"])


class TestPredictor(DeployTest):
    """Its answers."""

    keys = {"optim": {"ema_decay": 0.9}}

    def setUp(self):
        super().setUp()
        self.pictures, labels = draw_pictures(21, seed=1)
        self.names = [CLASSES[label] for label in labels]
        self.arrays = [picture / np.float32(255) for picture in self.pictures]
        self.predictor = Predictor.from_checkpoint(self.checkpoint, "cpu")

    def test_the_same_as_the_model_with_its_averaged_weights(self):
        model = build_model({"type": "ToyColorNet"})
        load_exactly(model, self.checkpoint)
        average = read_checkpoint(self.checkpoint)["ema"]["weights"]["classifier.weight"]
        self.assertTrue(torch.equal(model.classifier.weight, average))
        with torch.no_grad():
            expected = model.eval()(torch.from_numpy(np.stack(self.arrays))).softmax(dim=1)
        for batch_size in (1, 2, 7, 21):
            answers = self.predictor(self.arrays, batch_size)
            found = torch.tensor([[answer["probabilities"][name] for name in CLASSES] for answer in answers])
            torch.testing.assert_close(found, expected, rtol=0, atol=0 if batch_size == 21 else 1e-6)
            self.assertEqual([answer["class"] for answer in answers], self.names)

    def test_files_open_files_and_arrays_are_alike(self):
        path = self.folder / "picture.png"
        Image.fromarray(self.pictures[0].transpose(1, 2, 0)).save(path)
        np.save(self.folder / "array.npy", self.arrays[0])
        inputs = [path, str(path), io.BytesIO(path.read_bytes()), self.folder / "array.npy", self.arrays[0]]
        answers = [self.predictor(value) for value in inputs]
        self.assertEqual(answers, [answers[0]] * 5)
        self.assertIs(type(answers[0]["confidence"]), float)

    def test_sizes_may_be_mixed(self):
        sizes = [(8, 8), (9, 5), (8, 8), (31, 7), (9, 5)]
        random = np.random.default_rng(0)
        arrays = [random.random((3, *size), np.float32) for size in sizes]
        expected = [self.predictor(array)["confidence"] for array in arrays]
        found = [answer["confidence"] for answer in self.predictor(arrays)]
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_one_that_the_model_refuses_does_not_spoil_the_others(self):
        samples = [self.predictor.read(array) for array in (self.arrays[0], self.arrays[1] - 1, self.arrays[2])]
        answers = self.predictor.predict(samples)
        self.assertEqual([isinstance(answer, dict) for answer in answers], [True, False, True])
        self.assertEqual(str(answers[1]), "ToyNameColor: ValueError: pictures are not that dark")
        with self.assertRaisesRegex(UserError, "not that dark"):
            self.predictor([self.arrays[1] - 1])

    def test_what_is_no_picture(self):
        (self.folder / "text.png").write_text("hello")
        (self.folder / "folder").mkdir()
        for source, message in (
            (self.folder / "text.png", "not a picture that can be read"),
            (self.folder / "none.png", "No such file or directory"),
            (self.folder / "folder", "Is a directory"),
            (np.zeros((8, 8), np.float32), r"expected an array \(channels, height, width\), found the shape \(8, 8\)"),
        ):
            with self.subTest(source=source), self.assertRaisesRegex(UserError, message):
                self.predictor(source)

    @needs_room("vision")
    def test_transforms_are_those_of_the_evaluation(self):
        normalize = [{"type": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}]
        for name in ("transforms", "batch_transforms"):
            data = {"eval": {"type": "ToyColors", name: normalize}, "val": {"transforms": "not these"}}
            predictor = Predictor.from_checkpoint(self.checkpoint, "cpu", {"dataset": data})
            batch = predictor.prepare([predictor.read(self.arrays[0])])
            np.testing.assert_allclose(batch["image"][0], self.arrays[0] * 2 - 1, atol=1e-6)

    def test_weights_that_training_began_with_are_not_looked_for(self):
        section = {"type": "ToyColorNet", "weights": "/nowhere.pt"}
        predictor = Predictor.from_checkpoint(self.checkpoint, "cpu", {"model": section})
        self.assertEqual(predictor(self.arrays), self.predictor(self.arrays))


class TestRefused(DeployTest):
    """Checkpoints that cannot be used, each in one line."""

    keys = {"task": None, "epochs": 1}

    def assert_refused(self, message, path=None, **keys):
        with self.assertRaisesRegex(UserError, message) as caught:
            Predictor.from_checkpoint(path or self.checkpoint, "cpu", **keys)
        self.assertNotIn("\n", str(caught.exception))

    def test_tasks(self):
        self.assert_refused(r"^task: the model's config names none; give one by --task.type: .*ToyNameColor")
        self.assert_refused("did you mean 'ToyNameColor'", config={"task": {"type": "ToyNameColour"}})
        self.assert_refused("the signature is ToyNameColor", config={"task": {"type": "ToyNameColor", "drws": 1}})

    def test_files(self):
        junk, damaged, bare = (self.folder / name for name in ("junk.pt", "damaged.pt", "bare.pt"))
        junk.write_bytes(b"junk")
        (self.folder / "empty").mkdir()
        data = bytearray(self.checkpoint.read_bytes())
        data[len(data) // 2] ^= 1
        damaged.write_bytes(data)
        torch.save({"model": torch.load(self.checkpoint, weights_only=True)["model"]}, bare)
        self.assert_refused("junk.pt: no checkpoint: foreign", junk)
        self.assert_refused("damaged.pt: no checkpoint to go on from: it is damaged", damaged)
        self.assert_refused("bare.pt: holds no config; give that of its run by --config FILE", bare)
        self.assert_refused("holds neither a checkpoint nor checkpoints/", self.folder / "empty")
        self.assert_refused(r"jnk.pt: no such file, did you mean 'junk.pt'\?", self.folder / "jnk.pt")
        config = {"model": {"type": "ToyColorNet"}, "task": {"type": "ToyNameColor"}}
        Predictor.from_checkpoint(bare, "cpu", config)
        several = {**config, "model": {"first": config["model"], "second": config["model"]}}
        self.assert_refused(r"^model: several by name \(first, second\), and only a single one", bare, config=several)
        self.assert_refused("does not fit ToyPixelNet", bare, config={**config, "model": {"type": "ToyPixelNet"}})


class TestPictures(DeployTest):
    """What is read from picture files, and written to them."""

    @classmethod
    def setUpClass(cls):
        pass

    def test_upright_in_the_mode_and_size(self):
        image = Image.new("RGB", (6, 4), "red")
        image.putpixel((0, 0), (0, 0, 255))
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned clockwise
        image.save(self.folder / "turned.png", exif=exif)
        found = read_picture(self.folder / "turned.png")
        self.assertEqual((tuple(found.shape), found.dtype), ((3, 6, 4), torch.uint8))
        self.assertEqual(found[:, 0, -1].tolist(), [0, 0, 255])
        self.assertEqual(tuple(read_picture(self.folder / "turned.png", "L", 3).shape), (1, 3, 3))

    def test_masks(self):
        mask = torch.tensor([[0, 1, 2], [200, 0, 1]])
        image = Image.open(io.BytesIO(mask_picture(mask)))
        self.assertEqual(np.array(image).tolist(), mask.tolist())
        shown = np.array(image.convert("RGBA"))
        self.assertEqual(shown[..., 3].tolist(), [[0, 255, 255], [255, 0, 255]])
        self.assertEqual(len({tuple(color) for color in shown.reshape(-1, 4)}), 4)
