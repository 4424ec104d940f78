"""Your testers: a file here that registers a class is found by itself, under the name of the trainer it goes with."""

from common.config.registry import import_modules

import_modules(__name__)
