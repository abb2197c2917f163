"""What holds for all commands: help, errors, exit codes, missing packages."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version

import click
import pytest

import domino_compile
from domino_compile.errors import OptionError
from domino_compile.tools.cli import main as main_module
from domino_compile.tools.cli.main import COMMANDS
from domino_compile.tools.scripts.command import _parser
from tests.paths import ROOT
from tests.tools.cli.conftest import Domino


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_help_lists_commands_and_exit_codes(domino: Domino) -> None:
    said = domino("--help")
    assert said.code == 0 and said.err == ""
    assert all(name in said.out for name in ("links", "calibrate"))
    assert all(f"  {code} " in said.out for code in ("0", "1", "2", "130"))
    assert domino() == said


def test_help_has_each_commands_summary_in_full(domino: Domino) -> None:
    said = " ".join(domino("--help").out.split())
    assert "..." not in said.partition("Commands:")[2].partition("Examples:")[0]
    assert "Run some steps of SCRIPT, unmodified, and show where their time goes." in said


def test_version_names_what_a_bug_report_needs(domino: Domino) -> None:
    said = domino("--version")
    assert said.code == 0 and said.err == ""
    assert said.out.startswith(f"domino {domino_compile.__version__} (torch {version('torch')}, ")


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_has_an_example(domino: Domino, name: str) -> None:
    said = domino(*name.split(), "--help")
    if said.code == 2 and "cannot run here" in said.err:
        pytest.skip(said.err)
    assert said.code == 0
    assert re.search(rf"^ +(domino|torchrun.* domino_compile) {name}", said.out, re.MULTILINE)
    assert "example" in said.out.lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "lnks",
            f"unknown command 'lnks'; did you mean 'links'?; known: {', '.join(COMMANDS)}",
        ),
        ("links --jsn", "--json"),
        ("links a b", "unexpected extra argument"),
        ("links h200-nvlnk-8", "unknown link 'h200-nvlnk-8'; did you mean 'h200-nvlink-8'?"),
        ("links ./missing.json", "link file missing.json: No such file"),
        ("--nonsense", "--nonsense"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    domino: Domino, arguments: str, message: str
) -> None:
    said = domino(*arguments.split())
    assert said.code == 2 and said.out == ""
    assert said.err.startswith("error: ") and message in said.err
    assert said.err.count("\n") == 1


def test_errors_of_the_package_and_interruptions(
    domino: Domino, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(error: BaseException) -> None:
        def load(_name: str) -> None:
            raise error

        monkeypatch.setattr("domino_compile.tools.cli.links.load_link", load)

    failing(OptionError("two\nlines"))
    said = domino("links", "x")
    assert (said.code, said.err) == (2, "error: two lines\n")
    failing(OSError(28, "No space left on device", "/x/y"))
    said = domino("links", "x")
    assert (said.code, said.err) == (1, "error: /x/y: No space left on device\n")
    failing(OSError("no locks here"))
    said = domino("links", "x")
    assert (said.code, said.err) == (1, "error: no locks here\n")
    failing(KeyboardInterrupt())
    said = domino("links", "x")
    assert (said.code, said.err.strip()) == (130, "error: interrupted")


@pytest.mark.parametrize(("rank", "waits"), [("0", []), ("1", [5.0])])
def test_what_fails_on_all_ranks_is_said_by_the_first(
    domino: Domino, monkeypatch: pytest.MonkeyPatch, rank: str, waits: list[float]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("domino_compile.tools.cli.main.time.sleep", waited.append)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("RANK", rank)
    for arguments in (["links", "x"], ["links", "--jsn"]):
        said = domino(*arguments)
        assert said.code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1
        assert waited == waits
        waited.clear()


README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^(?:torchrun .* -m domino_compile|domino) ([^#\n]+)", README, re.MULTILINE)
SHOWN += re.findall(r"`domino (\w+ [^`]+)`", README)


@pytest.mark.parametrize("line", SHOWN)
def test_what_the_readme_shows_is_understood(line: str) -> None:
    assert len(SHOWN) >= 8
    name, *arguments = shlex.split(line)
    command = main_module.domino.get_command(click.Context(main_module.domino), name)
    assert command is not None
    if name == "run":  # all behind it is for a parser of its own
        assert _parser().parse_args(arguments).script
        return
    found = command.make_context(name, arguments)
    script = tuple(arguments) if name == "run" else ()  # no other command's option is the script's
    assert found.params.get("arguments", ()) == script


def test_a_command_that_cannot_be_loaded_leaves_the_others(
    domino: Domino, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dict(COMMANDS) | {"bench": "domino_compile.tools.cli.missing:bench"}
    monkeypatch.setattr("domino_compile.tools.cli.main.COMMANDS", broken)
    assert domino("links", "--json").code == 0
    help_text = domino("--help")
    assert help_text.code == 0
    assert "\n  bench" not in help_text.out.partition("Commands:")[2]
    said = domino("bench", "--model", "x", "--json")
    assert said.code == 2 and said.err.startswith("error: domino bench cannot run here: No module")


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_click_or_rich_one_line_says_what_to_install(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None;"
        " from domino_compile.tools.cli import main; main()"
    )
    done = python("-c", program)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "error: domino's command line needs click and rich: run pip install '.[report]' in the"
        " folder of its source\n"
    )


def test_as_a_module_without_loading_torch() -> None:
    assert main_module is not None
    done = python("-X", "importtime", "-m", "domino_compile", "links", "--json")
    assert done.returncode == 0 and done.stdout.startswith("{")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in loaded and "torch" not in loaded


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m domino_compile links | true"
    done = subprocess.run(
        ["bash", "-c", command], check=False, capture_output=True, text=True, timeout=240
    )
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize(("asked", "code"), [("links", 0), ("nothing", 2)])
def test_a_rank_of_torchrun_ends_at_once_and_has_said_all(asked: str, code: int) -> None:
    program = (
        "import atexit, sys; from domino_compile.tools.cli import main;"
        f" atexit.register(print, 'the end'); sys.argv[1:] = [{asked!r}]; main()"
    )
    plain, rank = python("-c", program), python("-c", program, TORCHELASTIC_RUN_ID="1")
    assert plain.returncode == rank.returncode == code
    assert plain.stdout == rank.stdout + "the end\n" and plain.stderr == rank.stderr
    assert rank.stdout or rank.stderr
