"""Your transforms and collate functions: a file here that registers one is found by itself."""

from common.config.registry import import_modules

import_modules(__name__)
