"""How every command here reads its line: help from field docstrings, one clear line where something is wrong."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import get_args

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the commands of a description on lines of their own."""


def parse(arguments: type, prog: str, description: str, argv: Sequence[str] | None, recipe: str | None = None):
    """An instance of the dataclass `arguments` from a command line.

    `recipe` is the path of a YAML file whose values stand behind those of the line.

    Raises:
        ValueError: in one line, naming the argument and the remedy.
    """
    argv = _bare_flags(arguments, list(sys.argv[1:] if argv is None else argv))
    parser = ArgumentParser(
        prog=prog,
        description=description,
        exit_on_error=False,
        formatter_class=_Help,
        default_config_files=[recipe] if recipe else [],
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of the arguments below.")
    parser.add_class_arguments(arguments, None, as_group=False)
    try:
        namespace = parser.parse_args(argv)
    except Exception as error:  # jsonargparse raises several kinds, of its own and of YAML's
        config = option(argv, "config")  # YAML's own messages do not name the file
        origin = f"{config}: " if config and config not in str(error) and "config" in str(error) else ""
        raise ValueError(origin + _one_line(error)) from error
    values = {field.name: getattr(namespace, field.name) for field in fields(arguments)}
    return arguments(**values)


def run_command(main: Callable[[Sequence[str] | None], None], prog: str, argv: Sequence[str] | None = None) -> int:
    """Call `main`; a ValueError becomes one line on stderr and exit code 2."""
    try:
        main(argv)
    except ValueError as error:
        print(f"{prog}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def option(argv: Sequence[str] | None, name: str) -> str | None:
    """What `--name` is given on a line that is not parsed yet."""
    words = [word for argument in (sys.argv[1:] if argv is None else argv) for word in argument.split("=", 1)]
    return words[words.index(f"--{name}") + 1] if f"--{name}" in words[:-1] else None


def _bare_flags(arguments: type, argv: list[str]) -> list[str]:
    """`--use_checkpoint` alone means `--use_checkpoint=true`, as in the reference implementation."""
    flags = {f"--{field.name}" for field in fields(arguments) if bool in (field.type, *get_args(field.type))}
    following = [*argv, "--"][1:]
    return [f"{a}=true" if a in flags and b.startswith("--") else a for a, b in zip(argv, following, strict=False)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
