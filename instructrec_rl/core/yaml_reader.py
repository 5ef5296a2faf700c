"""The one reader of YAML: scalars as YAML 1.2's core schema has them, keys once, and no more than a file can mean.

PyYAML reads YAML 1.1, where `010` is 8, `12:30` is 750 and `yes` is true; here they are the texts that they look like.
A number with a zero in front is text too, as nobody can know which was meant. Nothing in a file names a class.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from instructrec_rl.core.json_reader import MAX_DEPTH, MAX_DIGITS

MOST_BYTES = 1 << 22
MOST_NODES = 200_000  # with what aliases stand for: 434 bytes of them may mean billions
# YAML 1.2.2, section 10.3.2, without the leading zeros of decimals
SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
}


class YamlError(ValueError):
    """What is wrong, and the line from 1 where it is known."""

    def __init__(self, reason: str, line: int | None = None):
        super().__init__(reason)
        self.line = line


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises YamlError for what is not YAML as above."""
    import yaml

    try:
        loader = _loader()(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(str(error.problem or error.context), mark.line + 1 if mark else None) from error
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise YamlError(f"nested more than {MAX_DEPTH} deep") from error
    _check_size(value)
    return value


def write_yaml(value: Any) -> str:
    """YAML that `parse_yaml` reads as it was, as a reader of YAML 1.1 does: what is a text in one only is quoted."""
    import yaml

    return yaml.dump(value, Dumper=_dumper(), sort_keys=False, allow_unicode=True)


def _check_size(value: Any) -> None:
    """Raise YamlError where lists and mappings are too deep, or with their aliases too many."""
    level, depth, nodes = [value], 0, 0
    while level:
        depth, nodes = depth + 1, nodes + len(level)
        if depth > MAX_DEPTH + 1:
            raise YamlError(f"nested more than {MAX_DEPTH} deep")
        if nodes > MOST_NODES:
            raise YamlError(f"means more than {MOST_NODES:,} values, with what its aliases stand for")
        inner: list[Any] = []
        for holder in level:
            if isinstance(holder, dict):
                inner.extend(holder.values())
            elif isinstance(holder, list):
                inner.extend(holder)
            if len(inner) > MOST_NODES:
                break
        level = inner


@functools.cache
def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's table: the first character of a scalar -> tags with their patterns."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for kind, (pattern, firsts) in SCALARS.items():
        for first in firsts:
            table.setdefault(first, []).append((f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{pattern})\Z")))
    return table


@functools.cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader with our scalars, and keys that may be there once."""

        yaml_implicit_resolvers = _resolvers()

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            """As SafeLoader's, without the merge key of YAML 1.1."""
            return _mapping(self, node, deep)

    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", _number)
    return Loader


def _mapping(loader: Any, node: Any, deep: bool) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, dict | list):
            raise _error("a key is a list or a mapping", key_node)
        if key in made:
            raise _error(f'the key "{str(key)[:80]}" is there twice', key_node)
        made[key] = loader.construct_object(value_node, deep=deep)
    return made


def _number(loader: Any, node: Any) -> int | float:
    """An integer in any base, or a float; of a bounded length."""
    text = loader.construct_scalar(node)
    if len(text) > MAX_DIGITS:
        raise _error(f"a number of more than {MAX_DIGITS} digits", node)
    if node.tag.endswith(":int"):
        return int(text, 0)
    return float(re.sub(r"\.(?=[in])", "", text.lower()))  # Python writes inf and nan without the dot


def _error(reason: str, node: Any) -> Exception:
    from yaml.constructor import ConstructorError

    return ConstructorError(None, None, reason, node.start_mark)


@functools.cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        """SafeDumper that quotes what either of YAML 1.1 and 1.2 would not read as text."""

        yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own contract)
            first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_resolvers().get(first, [])]
            for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_resolvers()}
        }

        def ignore_aliases(self, data: Any) -> bool:
            """Everything is written out."""
            return True

    Dumper.add_representer(str, _text)
    return Dumper


def _text(dumper: Any, text: str) -> Any:
    """In double quotes, with escapes, where it has what YAML takes for the end of a line, or nobody can see."""
    style = '"' if not text.isprintable() else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)
