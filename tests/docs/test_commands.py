"""Every command that a document shows exists, with the options that it is shown with."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from domino_compile.tools.cli.main import domino
from domino_compile.tools.scripts.command import _parser
from tests.docs.test_documents import DOCUMENTS, each_document

CODE = re.compile(r"```[a-z]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
COMMAND = re.compile(r"(?:(?:^|[ (])domino|-m domino_compile) ([a-z]+)\b([^#\n;]*)", re.MULTILINE)


def shown(path: Path) -> list[tuple[str, str]]:
    """The name and the arguments of each command in a document's code."""
    code = "\n".join(block or inline for block, inline in CODE.findall(path.read_text()))
    return COMMAND.findall(code)


def options_of(name: str) -> set[str]:
    """All options of a command."""
    if name == "run":
        return set(_parser()._option_string_actions)
    context = click.Context(domino)
    command = domino.get_command(context, name)
    assert command is not None, f"no command {name}"
    return {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}


def own(arguments: str) -> list[str]:
    """The options in front of the script; what is behind it may be the script's."""
    words = shlex.split(arguments.replace("...", ""))
    script = next((i for i, word in enumerate(words) if word.endswith(".py")), len(words))
    return [word.partition("=")[0] for word in words[:script] if word.startswith("-")]


@each_document
def test_commands_are_shown_as_they_are(path: Path) -> None:
    for name, arguments in shown(path):
        unknown = set(own(arguments)) - options_of(name)
        assert not unknown, f"{path.name}: domino {name} has no {', '.join(unknown)}"


def test_commands_are_found_in_documents() -> None:
    names = {name for path in DOCUMENTS for name, _ in shown(path)}
    assert {"explain", "profile", "poc", "bench", "calibrate", "report", "links", "run"} <= names


@pytest.mark.parametrize(
    ("line", "options"),
    [("--ranks 8 train.py --epochs 1", ["--ranks"]), ("--link=a.json", ["--link"]), ("dump", [])],
)
def test_options_behind_a_script_are_its_own(line: str, options: list[str]) -> None:
    assert own(line) == options
