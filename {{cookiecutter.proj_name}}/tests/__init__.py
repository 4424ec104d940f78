"""Tests of the project: ``python -m unittest discover tests``, or pytest. QUICK=1 in front leaves out the slow ones."""

import os
import unittest

slow = unittest.skipIf(os.environ.get("QUICK"), "QUICK is set")
