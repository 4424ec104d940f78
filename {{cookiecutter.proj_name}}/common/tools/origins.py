"""What ``--print_config`` shows: the whole config, each value with the file or the flag that has set it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import yaml

from common.config.files import ConfigFile


def annotate(text: str, files: Sequence[ConfigFile], flags: Collection[str]) -> str:
    """Return a config's YAML with a comment behind each value that is no default: the path of a file, or ``flag``.

    Args:
        text: What ``dump_config`` has written.
        files: The config file, its base, the base of that, and so on.
        flags: The keys that the command line sets.
    """
    lines = text.split("\n")
    for key, line in _values(yaml.compose(text, yaml.SafeLoader)):
        sources = [file.path for file in files if file.find(key)[0] == len(key)]
        if any(f"{'.'.join(key)}.".startswith(f"{flag}.") for flag in flags):
            sources = ["flag"]
        for source in sources[:1]:
            lines[line] = f"{lines[line]:<47} # {ascii(source)[1:-1]}"
    return "\n".join(lines)


def _values(node: yaml.Node, *key: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the key of each value that is no section, and the line at whose end a comment on it may stand."""
    for name, value in node.value:
        if isinstance(value, yaml.MappingNode):
            yield from _values(value, *key, name.value)
        else:
            is_list = isinstance(value, yaml.SequenceNode) and value.value
            yield (*key, name.value), (name if is_list else value).end_mark.line
