"""What data sets share: splits, labels, and what they declare of themselves."""

import unittest

import torch

from common.config.errors import UserError
from common.data import ArrayDataset, BaseDataset, check_labels, split_groups
from common.data.dataset import ALL_GENERATORS, generators_of


class TestSplits(unittest.TestCase):
    def test_groups_stay_together_and_sets_apart(self):
        groups = [f"car {i // 16}" for i in range(16 * 30)]
        for seed in range(5):
            sets = split_groups(groups, (0.7, 0.1, 0.2), seed)
            self.assertEqual([len(rows) for rows in sets], [21 * 16, 3 * 16, 6 * 16])
            self.assertEqual(sorted(row for rows in sets for row in rows), list(range(480)))
            cars = [{groups[row] for row in rows} for rows in sets]
            self.assertFalse(cars[0] & cars[1] or cars[0] & cars[2] or cars[1] & cars[2])

    def test_the_seed_alone_decides(self):
        names = [f"{i:03d}" for i in range(50)]
        self.assertEqual(split_groups(names, (0.5, 0.5), 1), split_groups(names, (0.5, 0.5), 1))
        self.assertNotEqual(split_groups(names, (0.5, 0.5), 1), split_groups(names, (0.5, 0.5), 2))

    def test_shares(self):
        self.assertEqual([len(rows) for rows in split_groups(list("abcdefghij"), (0.2, 0.3), 0)], [2, 3])
        for shares in ((0.8, 0.3), (-0.1, 0.5)):
            with self.assertRaisesRegex(ValueError, "must not be negative, nor above 1 together"):
                split_groups(["a"], shares, 0)


class TestLabels(unittest.TestCase):
    def test_out_of_range(self):
        check_labels(torch.tensor([0, 4, 2]), 5, "file")
        for labels, message in (
            ([0, 5], "file: sample 1 has label 5, expected 0 to 4"),
            ([-1], "sample 0 has label -1"),
        ):
            with self.assertRaisesRegex(UserError, message):
                check_labels(torch.tensor(labels), 5, "file")


class Base(ArrayDataset):
    """Numbers in order, with what a subclass overrides."""

    def __init__(self):
        super().__init__("data", x=torch.arange(5))


class OneByOne(Base):
    def __getitem__(self, index):
        return {"x": -super().__getitem__(index)["x"]}


class InBatches(Base):
    def __getitems__(self, indices):
        return {"x": -super().__getitems__(indices)["x"]}


class TestOverriding(unittest.TestCase):
    """What a subclass overrides decides how it is read and seeded, unless it declares the latter itself."""

    def check(self, cls, generators, batches):
        self.assertEqual(generators_of(cls()), generators, cls)
        self.assertEqual(getattr(cls(), "__getitems__", None) is not None, batches, cls)

    def test_arrays_draw_nothing(self):
        self.check(Base, (), True)

    def test_an_overridden_method(self):
        self.check(OneByOne, ALL_GENERATORS, False)
        self.check(InBatches, ALL_GENERATORS, True)

    def test_a_subclass_that_narrows(self):
        class Narrow(OneByOne):
            random_generators = ("numpy",)

        class Plain(OneByOne):
            random_generators = ()

            def __getitem__(self, index):
                return super().__getitem__(index)

        class Inherits(Narrow):
            pass

        class OverridesAgain(Narrow):
            def __getitem__(self, index):
                return super().__getitem__(index)

        self.check(Narrow, ("numpy",), False)
        self.check(Plain, (), False)
        self.check(Inherits, ("numpy",), False)
        self.check(OverridesAgain, ALL_GENERATORS, False)

    def test_batches_of_a_set_that_read_one_by_one(self):
        class Again(OneByOne):
            def __getitems__(self, indices):
                return {"x": torch.tensor(indices)}

        self.check(Again, ALL_GENERATORS, True)

    def test_a_mixin(self):
        class Mixin:
            def __getitem__(self, index):
                return {"x": index}

        class Mixed(Mixin, Base):
            pass

        self.check(Mixed, ALL_GENERATORS, False)

    def test_the_default(self):
        class Own(BaseDataset):
            pass

        self.assertEqual((Own.random_generators, hasattr(Own, "__getitems__")), (ALL_GENERATORS, False))
        self.assertEqual(generators_of(torch.utils.data.ConcatDataset([Base()])), ALL_GENERATORS)
