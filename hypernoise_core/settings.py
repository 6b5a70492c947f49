"""Messages about settings, in the names that the reader gave the settings by.

The core has a name for each setting. A command line or a node may call it something else, and the core does not know
what. So a message is a template: `{rank}` stands for the name of a setting, `{}` for a value. Whoever shows the message
puts in the names, by `naming`.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from string import Formatter

LONGEST_WORD = 200
"""Characters of a value that a message shows whole."""


def shortened(text: str) -> str:
    """The text with the beginning of every word that is far too long for a message."""
    return re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: f"{word[0][:60]}… ({len(word[0])} characters)", text)


class Message(str):
    """Text that names settings: as a string, by the core's names; by `called`, in those of whoever shows it.

    >>> message = Message("{rank} is {}: give at least 1", -4)
    >>> str(message)
    'rank is -4: give at least 1'
    >>> message.called("--lora_{}".format)
    '--lora_rank is -4: give at least 1'

    Args:
        template: `{name}` for each setting, `{}` for each value.
        values: in the order of the template; messages among them are renamed along with it.
    """

    _template: str
    _values: tuple[object, ...]

    def __new__(cls, template: str, *values: object):
        message = super().__new__(cls, _filled(template, values, str))
        message._template, message._values = template, values
        return message

    def __getnewargs__(self):
        return (self._template, *self._values)

    def called(self, name: Callable[[str], str]) -> str:
        """The text with `name(setting)` for each setting."""
        values = [value.called(name) if isinstance(value, Message) else value for value in self._values]
        return _filled(self._template, values, name)


class SettingError(ValueError):
    """A setting cannot be used, or not beside another one. Arguments as of `Message`."""

    def __init__(self, template: str, *values: object):
        super().__init__(Message(template, *values))


def joined(separator: str, messages: Sequence[Message]) -> Message:
    """One message of several."""
    return Message(separator.join("{}" for _ in messages), *messages)


def require(settings: object, names: Sequence[str], fits: Callable[[float], bool], expected: str) -> None:
    """Check that each of these attributes is a finite number that `fits`, or None.

    Raises:
        SettingError: one is not; `expected` says what to give, such as `at least 1`.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (math.isfinite(value) and fits(value)):
            raise SettingError(f"{{{name}}} is {{}}: give {{}}", value, expected)


@contextmanager
def about(*names: str) -> Iterator[None]:
    """A ValueError inside that names no setting at fault becomes a `SettingError` that names these; so does what the
    system says of a file."""
    try:
        yield
    except SettingError:
        raise
    except (ValueError, OSError) as error:
        told = next((text for text in error.args if isinstance(text, Message)), str(error))
        raise SettingError(", ".join(f"{{{name}}}" for name in names) + ": {}", told) from error


@contextmanager
def naming(name: Callable[[str], str]) -> Iterator[None]:
    """An error inside whose text is a `Message` is raised on with `name(setting)` for each setting."""
    try:
        yield
    except Exception as error:
        if error.args and isinstance(error.args[0], Message):
            error.args = (error.args[0].called(name), *error.args[1:])
        raise


def _filled(template: str, values: Sequence[object], name: Callable[[str], str]) -> str:
    values = [shortened(value) if isinstance(value, str) else value for value in values]
    return Formatter().vformat(template, values, _Names(name))


class _Names(dict):
    """What stands for `{name}` in a template."""

    def __init__(self, name: Callable[[str], str]):
        self._name = name

    def __missing__(self, setting: str) -> str:
        return self._name(setting)
