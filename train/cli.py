"""Parse the command line of every command: help from field docstrings, and one clear line for an error."""

import argparse
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from hypernoise_core.device import is_of_memory
from hypernoise_core.settings import Message, SettingError, naming, shortened

set_parsing_settings(docstring_parse_attribute_docstrings=True)

LONGEST = 4000
"""Characters of an argument, other than a prompt. No path is longer."""


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps each command of a description on its own line."""


def parse(arguments: type, prog: str, description: str, argv: Sequence[str] | None, recipe: str | None = None):
    """An instance of the dataclass `arguments` from a command line.

    `recipe` is the path of a YAML file with defaults; arguments on the line override them.

    Raises:
        ValueError: one line that names the argument and says what to do.
    """
    argv = _bare_flags(arguments, list(sys.argv[1:] if argv is None else argv))
    try:
        namespace = _parser(arguments, prog, description, recipe).parse_args(argv)
    except Exception as error:  # jsonargparse raises several kinds of errors, its own and YAML's
        raise ValueError(_explained(_one_line(error), arguments, argv, recipe)) from error
    values = {field.name: getattr(namespace, field.name) for field in fields(arguments)}
    _check_values(arguments, values)
    return arguments(**values)


def _check_values(arguments: type, values: dict[str, object]) -> None:
    """What is right for no argument: text without a character (`MAY_BE_EMPTY` lists those that take it), or of more
    than any path has, and whole numbers that nothing can count to."""
    for name, value in values.items():
        if isinstance(value, str) and not value.strip() and name not in getattr(arguments, "MAY_BE_EMPTY", ()):
            raise ValueError(f"--{name} is {value!r}: give text, or leave it out")
        if isinstance(value, str) and len(value) > LONGEST and name != "prompt":
            raise ValueError(f"--{name} has {len(value)} characters: give at most {LONGEST}")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError(f"--{name} is {value}: give a number from 0 to 2**63 - 1")


@cache
def _parser(arguments: type, prog: str, description: str, recipe: str | None) -> ArgumentParser:
    """Kept: reading the docstrings takes longer than a line."""
    parser = ArgumentParser(
        prog=prog,
        description=description,
        exit_on_error=False,
        formatter_class=_Help,
        default_config_files=[recipe] if recipe else [],
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of the arguments below.")
    parser.add_class_arguments(arguments, None, as_group=False)
    return parser


def run_command(main: Callable[[Sequence[str] | None], None], prog: str, argv: Sequence[str] | None = None) -> int:
    """Call `main`. A ValueError becomes one line on stderr and exit code 2, after a traceback if `--debug` is among the
    arguments. So does what the system refuses: a file, or memory."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        main([word for word in words if word != "--debug"])
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_of_memory(error):
            raise
        if debug:
            traceback.print_exception(error)
        print(f"{prog}: error: {_one_line(error) or 'memory ran out'}", file=sys.stderr)
        return 2
    return 0


def in_arguments_of(arguments: type) -> AbstractContextManager:
    """An error inside names settings by the command line's arguments: `--lora_rank` for the core's `rank`."""
    return naming(_argument_name(arguments))


def reworded(text: str, arguments: type) -> str:
    """Text of the core's, in which settings are called by the command line's arguments."""
    return text.called(_argument_name(arguments)) if isinstance(text, Message) else text


def check_folders(arguments: object, *names: str) -> None:
    """Try whether what is to be written into can be a folder, before hours of work. Nothing is left behind. None is no
    folder.

    Raises:
        ValueError: a file is in the way, or the system refuses it.
    """
    for name in names:
        if getattr(arguments, name) is None:
            continue
        path = Path(getattr(arguments, name))
        try:
            there = next(place for place in (path, *path.parents) if place.exists())
            if not there.is_dir():
                raise SettingError(f"{{{name}}} is {{!r}}, and {{}} is a file: give another folder", str(path), there)
            trial = Path(tempfile.mkdtemp(dir=there, prefix=".trial-"))  # its own name: other processes try as well
            try:
                (trial / path.relative_to(there)).mkdir(parents=True, exist_ok=True)
            finally:
                shutil.rmtree(trial)
        except OSError as error:
            raise SettingError(
                f"{{{name}}} is {{!r}}, which cannot be written ({{}}): give another place",
                str(path),
                error.strerror,
            ) from error


def _argument_name(arguments: type) -> Callable[[str], str]:
    """What a setting of the core's is called there: `CALLED` says it where the names differ."""
    called = {field.name: f"--{field.name}" for field in fields(arguments)} | getattr(arguments, "CALLED", {})
    return lambda setting: called.get(setting, setting)


def option(argv: Sequence[str] | None, name: str) -> str | None:
    """The value of `--name` on a line that is not parsed yet."""
    words = [word for argument in (sys.argv[1:] if argv is None else argv) for word in argument.split("=", 1)]
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words[:-1] else None


def _bare_flags(arguments: type, argv: list[str]) -> list[str]:
    """`--use_checkpoint` alone means `--use_checkpoint=true`, as in the reference implementation."""
    flags = {f"--{field.name}" for field in fields(arguments) if bool in (field.type, *get_args(field.type))}
    following = [*argv, "--"][1:]
    return [f"{a}=true" if a in flags and b.startswith("--") else a for a, b in zip(argv, following, strict=False)]


def _explained(text: str, arguments: type, argv: Sequence[str], recipe: str | None) -> str:
    """What jsonargparse says of a line, with the argument as it was typed and what it takes."""
    kinds = {field.name: field.type for field in fields(arguments)} | {"config": Path}
    file = f"--config {config}" if (config := option(argv, "config")) else str(recipe)
    if match := re.match(r'Parser key "(\w+)": .*?(?:Got value:|Given value:|:) ?(.*)', text):
        name, value = match.groups()
        typed = option(argv, name)
        if typed is None or (name != "config" and value == _value_in(config, name)):
            return f"--{name} is {value} in {file}: give {_expected(kinds[name])}"
        return f"--{name} is {typed!r}: give {_expected(kinds[name])}"
    if match := re.match(r"argument --(\w+): expected one argument", text):
        return f"--{match[1]} has no value: give {_expected(kinds[match[1]])}"
    if match := re.match(r"the following arguments are required: (.*)", text):
        return f"--{match[1].replace(', ', ', --')} is missing: it must be given"
    if text.startswith("unrecognized arguments"):
        return f"{text}; --help lists those there are"
    if match := re.match(r"Option '(.*)' is not accepted", text):
        return f"{file} has {match[1]}, which is no argument: --help lists those there are"
    return f"{file} cannot be read: {text}" if "config" in text else text


def _value_in(config: str | None, name: str) -> str | None:
    """What a configuration file says, where it can be read at all."""
    try:
        return str(yaml.safe_load(Path(config or "").read_text("utf-8")).get(name))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):
        return None


def _expected(kind: object) -> str:
    """The values of a type, in words."""
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    words |= {str: "text", Path: "a YAML file", NoneType: "null"}
    if kind in words:
        return words[kind]
    if get_origin(kind) is Literal:
        *others, last = get_args(kind)
        return f"{', '.join(others)} or {last}" if others else last
    return ", or ".join(map(_expected, get_args(kind)))


def _one_line(error: BaseException) -> str:
    return shortened(" ".join(str(error).split()))
