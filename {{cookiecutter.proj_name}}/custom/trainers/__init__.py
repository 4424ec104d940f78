"""Your trainers: a file here that registers a class is found by itself."""

from common.config.registry import import_modules

import_modules(__name__)
