"""Means over a whole set, and several metrics at once."""

import math
import unittest

import torch

from common.log.metric import MeanMetric, MetricSet


class Value(MeanMetric):
    """The outputs themselves."""

    def measure(self, output_dict, data_dict):
        return output_dict["y"]


class TestMeanMetric(unittest.TestCase):
    """Batches of different sizes."""

    def test_each_sample_counts_once(self):
        metric = Value()
        for batch in ([1.0, 2.0, 3.0], [10.0]):
            metric.update({"y": torch.tensor(batch)}, {})
        self.assertEqual(metric.compute(), 4.0)

    def test_booleans(self):
        metric = Value()
        metric.update({"y": torch.tensor([True, False, True, True])}, {})
        self.assertEqual(metric.compute(), 0.75)

    def test_reset(self):
        metric = Value()
        metric.update({"y": torch.ones(3)}, {})
        metric.reset()
        metric.update({"y": torch.zeros(1)}, {})
        self.assertEqual(metric.compute(), 0.0)

    def test_an_empty_set_has_no_mean(self):
        self.assertTrue(math.isnan(Value().compute()))

    def test_set(self):
        metrics = MetricSet({"a": Value(), "b": Value()})
        metrics.update({"y": torch.tensor([2.0])}, {})
        self.assertEqual(metrics.compute(), {"a": 2.0, "b": 2.0})
        metrics.reset()
        metrics.update({"y": torch.tensor([4.0])}, {})
        self.assertEqual(metrics.compute(), {"a": 4.0, "b": 4.0})
