"""Trainers and testers: subclass one, implement its steps."""

from common.engine.base_tester import BaseTester
from common.engine.base_trainer import BaseTrainer
from common.engine.batch_tester import BatchTester
from common.engine.epoch_based_trainer import EpochBasedTrainer
from common.engine.iter_based_trainer import IterBasedTrainer
from common.engine.single_tester import SingleTester

__all__ = ["BaseTester", "BaseTrainer", "BatchTester", "EpochBasedTrainer", "IterBasedTrainer", "SingleTester"]
