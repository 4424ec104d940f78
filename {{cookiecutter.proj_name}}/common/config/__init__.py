"""Configs: every key with its meaning, files and flags, names and the classes they mean."""

from common.config.console import command
from common.config.errors import UserError
from common.config.load import dump_config, load_config
from common.config.registry import find_room, open_room
from common.config.schema import Config

__all__ = ["Config", "UserError", "command", "dump_config", "find_room", "load_config", "open_room"]
