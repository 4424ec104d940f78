"""Trainers and testers: subclass one, implement its steps."""

from common.engine.tester import BaseTester, BatchTester, SingleTester
from common.engine.trainer import EpochBasedTrainer, IterBasedTrainer, Trainer

BaseTrainer = Trainer  # its name in earlier releases

__all__ = ["BaseTester", "BatchTester", "EpochBasedTrainer", "IterBasedTrainer", "SingleTester", "Trainer"]
