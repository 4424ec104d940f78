"""The table of a model's parameters."""

import unittest

from torch import nn

from common.tools.parameters import parameter_table


class TestTable(unittest.TestCase):
    def test_table(self):
        model = nn.Sequential(nn.Conv2d(3, 400, 3), nn.BatchNorm2d(400), nn.Linear(400, 3))
        model[1].weight.requires_grad_(False)
        lines = parameter_table(model).splitlines()
        self.assertEqual(lines[0].split(), ["parameter", "shape", "count", "trained"])
        self.assertEqual(lines[1].split(), "0.weight 400 x 3 x 3 x 3 10,800 yes".split())
        self.assertEqual(lines[3].split(), "1.weight 400 400 no".split())
        self.assertEqual(lines[-1].split(), ["total", "13,203", "12,803"])


if __name__ == "__main__":
    unittest.main()
