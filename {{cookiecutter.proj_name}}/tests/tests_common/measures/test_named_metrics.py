"""The metrics that come with the engine, against float64 references and torchmetrics' own."""

import unittest

import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassF1Score
from torchmetrics.segmentation import DiceScore, MeanIoU

from common.config.build import build_metric
from common.config.errors import UserError


def measure(section, *batches):
    """Return what a metric says after batches of (outputs, data)."""
    metrics = build_metric({"it": section})
    metrics.reset()
    for output_dict, data_dict in batches:
        metrics.update(output_dict, data_dict)
    return metrics.compute()["it"]


def overlap(predictions, truths, classes):
    """Return IoU and Dice by counting sets of pixels, averaged over the classes of an image, then over images."""
    ious, dices = [], []
    for prediction, truth in zip(predictions, truths, strict=True):
        per_class = []
        for number in classes:
            a = {tuple(place) for place in (prediction == number).nonzero().tolist()}
            b = {tuple(place) for place in (truth == number).nonzero().tolist()}
            if a | b:
                per_class.append((len(a & b) / len(a | b), 2 * len(a & b) / (len(a) + len(b))))
        means = [sum(values) / len(values) for values in zip(*per_class, strict=True)] or [1.0, 1.0]
        ious.append(means[0])
        dices.append(means[1])
    return sum(ious) / len(ious), sum(dices) / len(dices)


class TestOverlap(unittest.TestCase):
    """IoU and Dice."""

    def check(self, logits, masks, classes, **keys):
        chosen = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
        truth = masks[:, 0].long() if masks.ndim == 4 else masks
        expected = overlap(chosen, truth, classes)
        parts = [({"logits": part}, {"mask": mask}) for part, mask in zip(logits.split(2), masks.split(2), strict=True)]
        for name, value in zip(("IoU", "Dice"), expected, strict=True):
            self.assertAlmostEqual(measure({"type": name, **keys}, *parts), value, places=6)

    def test_binary(self):
        torch.manual_seed(0)
        for masks in (torch.rand(5, 1, 6, 7).round(), torch.zeros(5, 1, 6, 7), torch.ones(5, 1, 6, 7)):
            for logits in (torch.randn(5, 1, 6, 7), torch.full((5, 1, 6, 7), -1.0), torch.full((5, 1, 6, 7), 1.0)):
                self.check(logits, masks, [1])
                self.check(logits[:1], masks[:1], [1])

    def test_classes(self):
        torch.manual_seed(0)
        for masks in (torch.randint(4, (5, 6, 7)), torch.full((5, 6, 7), 2), torch.zeros(5, 6, 7).long()):
            logits = torch.randn(5, 4, 6, 7)
            self.check(logits, masks, [1, 2, 3], num_classes=4)
            self.check(logits, masks, [0, 1, 2, 3], num_classes=4, include_background=True)

    def test_torchmetrics(self):
        torch.manual_seed(0)
        logits, masks = torch.randn(6, 3, 8, 8), torch.randint(3, (6, 8, 8))
        theirs = (
            ("IoU", MeanIoU(3, include_background=False, input_format="index")),
            ("Dice", DiceScore(3, include_background=False, average="macro", input_format="index")),
        )
        for name, metric in theirs:
            ours = measure({"type": name, "num_classes": 3}, ({"logits": logits}, {"mask": masks}))
            self.assertAlmostEqual(ours, metric(logits.argmax(1), masks).item(), places=6)


class TestClasses(unittest.TestCase):
    """F1 and the confusion matrix."""

    def setUp(self):
        torch.manual_seed(0)
        self.logits, self.labels = torch.randn(40, 5), torch.randint(5, (40,))
        self.parts = list(zip(self.logits.split(7), self.labels.split(7), strict=True))

    def measure(self, labels=None, **section):
        parts = self.parts if labels is None else [(self.logits, labels)]
        return measure(section, *[({"logits": a}, {"label": b}) for a, b in parts])

    def test_f1(self):
        for average in ("macro", "weighted", "micro"):
            expected = MulticlassF1Score(5, average=average)(self.logits, self.labels).item()
            self.assertAlmostEqual(self.measure(type="F1", num_classes=5, average=average), expected, places=6)

    def test_f1_by_its_definition(self):
        chosen, scores = self.logits.argmax(1), []
        for number in range(5):
            right = ((chosen == number) & (self.labels == number)).sum().item()
            scores.append(2 * right / ((chosen == number).sum() + (self.labels == number).sum()).item())
        self.assertAlmostEqual(self.measure(type="F1", num_classes=5), sum(scores) / 5, places=6)

    def test_confusion(self):
        metrics = build_metric({"it": {"type": "ConfusionMatrix", "num_classes": 5, "names": list("abcde")}})
        for logits, labels in self.parts:
            metrics.update({"logits": logits}, {"label": labels})
        value, counts = metrics.compute()["it"], metrics._metrics["it"].counts
        self.assertTrue(counts.equal(MulticlassConfusionMatrix(5)(self.logits, self.labels)))
        recalls = counts.diagonal().double() / counts.sum(1)
        self.assertAlmostEqual(value, recalls.mean().item(), places=12)
        axis = metrics.draw()["it"].axes[0]
        self.assertEqual((axis.get_xlabel(), axis.get_ylabel()), ("predicted class", "true class"))
        self.assertEqual([label.get_text() for label in axis.get_yticklabels()], list("abcde"))
        written = {text.get_position()[::-1]: int(text.get_text()) for text in axis.texts}
        self.assertEqual(written, {(i, j): counts[i, j].item() for i, j in counts.nonzero().tolist()})

    def test_one_class_only(self):
        labels = torch.full((40,), 3)
        share = (self.logits.argmax(1) == 3).float().mean().item()
        self.assertAlmostEqual(self.measure(labels, type="ConfusionMatrix", num_classes=5), share, places=6)
        expected = MulticlassF1Score(5)(self.logits, labels).item()
        self.assertAlmostEqual(self.measure(labels, type="F1", num_classes=5), expected, places=6)

    def test_a_reset_forgets(self):
        metrics = build_metric({"it": {"type": "F1", "num_classes": 5}})
        for _ in range(2):
            metrics.reset()
            metrics.update({"logits": self.logits}, {"label": self.labels})
            value = metrics.compute()["it"]
        self.assertAlmostEqual(value, self.measure(type="F1", num_classes=5), places=6)

    def test_mistakes(self):
        with self.assertRaisesRegex(UserError, "metric.it: ConfusionMatrix: names: expected 3, one a class, found 2"):
            build_metric({"it": {"type": "ConfusionMatrix", "num_classes": 3, "names": ["a", "b"]}})
        with self.assertRaisesRegex(UserError, "metric.input_name: 'label' is neither an output nor in the batch, did"):
            measure({"type": "F1", "num_classes": 5}, ({"logits": self.logits}, {"labels": self.labels}))


class TestPSNR(unittest.TestCase):
    def test_against_the_definition(self):
        torch.manual_seed(0)
        truth = torch.rand(3, 1, 6, 6)
        pred = truth + torch.randn(3, 1, 6, 6) * torch.tensor([0.1, 0.01, 0.3]).reshape(3, 1, 1, 1)
        errors = (pred - truth).double().square().mean((1, 2, 3))
        expected = (10 * torch.log10(4 / errors)).mean().item()
        section = {"type": "PSNR", "data_range": 2.0, "input_name": ["out", "image"]}
        self.assertAlmostEqual(measure(section, ({"out": pred}, {"image": truth})), expected, places=4)
        self.assertEqual(measure(section, ({"out": truth}, {"image": truth})), float("inf"))


class TestOfSample(unittest.TestCase):
    def test_each_sample_has_its_own(self):
        torch.manual_seed(0)
        metrics = build_metric({"iou": {"type": "IoU"}, "f1": {"type": "F1", "num_classes": 2}})
        logits, masks = torch.randn(4, 1, 5, 5), torch.rand(4, 1, 5, 5).round()
        for logit, mask in zip(logits, masks, strict=True):
            found = metrics.of_sample({"logits": logit}, {"mask": mask, "path": "x"})
            self.assertEqual(set(found), {"iou"})
            self.assertAlmostEqual(
                found["iou"].item(), overlap([(logit[0] > 0).long()], [mask[0].long()], [1])[0], places=6
            )


class TestRefusals(unittest.TestCase):
    """What does not fit a metric ends an evaluation in one line that names the metric."""

    def test_classes_and_shapes(self):
        torch.manual_seed(0)
        logits, label, other = torch.randn(64, 10), torch.arange(64) % 10, torch.arange(64) % 20
        area, mask = torch.randn(2, 5, 8, 8), torch.arange(128).reshape(2, 8, 8) % 5
        pixels = {"input_name": ["logits", "label"]}
        cases = (
            ({"type": "F1", "num_classes": 3}, logits, label),
            ({"type": "F1", "num_classes": 10}, logits, other),
            ({"type": "F1", "num_classes": 10}, logits, label[:4]),
            ({"type": "ConfusionMatrix", "num_classes": 3}, logits, label),
            ({"type": "IoU", "num_classes": 3, **pixels}, area, mask),
            ({"type": "Dice", "num_classes": 5, **pixels}, area, mask + 251),
            ({"type": "IoU", "num_classes": 5, **pixels}, area, mask[:, :4]),
            ({"type": "PSNR", **pixels}, area, area[..., :4]),
        )
        for section, output, target in cases:
            with self.subTest(section), self.assertRaisesRegex(UserError, rf"^metric: {section['type']}: \S[^\n]+$"):
                measure(section, ({"logits": output}, {"label": target}))
