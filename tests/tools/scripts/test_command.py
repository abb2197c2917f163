"""``domino run``: a program as it is, with domino where it asks for Inductor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import domino_compile
from domino_compile.tools.scripts.command import main
from tests.paths import ROOT

SETUP = """
import sys
import torch, torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from domino_compile import _compat
if not dist.is_initialized():
    _compat.start_fake_group(2)
class Layer(torch.nn.Module):
    def forward(self, x, w):
        return funcol.all_reduce(x @ w, "sum", dist.group.WORLD)
x = torch.ones(4, 3, 8)
"""
FAST = ["--option", "lowering=eager", "--option", "check_ranks=False"]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    domino_compile.reset_reports()


def run(folder: Path, text: str, *options: str, behind: tuple[str, ...] = ()) -> int:
    script = folder / "script.py"
    script.write_text(SETUP + text)
    return main([*FAST, *options, str(script), *behind])


@pytest.mark.parametrize(
    "asked", ["", ", backend='domino'", ", backend='domino', options={'slices': 3}"]
)
def test_a_script_compiles_with_domino(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: str
) -> None:
    text = f"print(torch.compile(Layer(){asked})(x, torch.ones(8, 8)).sum())"
    assert run(tmp_path, text, "--slices", "2") == 0
    (report,) = domino_compile.reports()
    assert "slices=2" in report.options and report.status == "sliced"
    said = capsys.readouterr()
    assert said.out == "tensor(768.)\n" and not said.err


def test_everything_behind_the_script_is_the_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    behind = ("--slices", "7", "-m", "--", "--option", "x")
    run(tmp_path, "print(sys.argv[1:])", behind=behind)
    assert capsys.readouterr().out == f"{list(behind)}\n"


def test_a_module_with_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "trainer"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text(
        SETUP + "from . import __name__ as package\nassert package == 'trainer'\n"
        "assert __name__ == '__main__' and sys.argv[1:] == ['--slices', '9']\n"
        "torch.compile(Layer())(x, torch.ones(8, 8))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main([*FAST, "-m", "trainer.main", "--slices", "9"]) == 0
    assert len(domino_compile.reports()) == 1


def test_a_script_may_take_a_compile_out(tmp_path: Path) -> None:
    text = """
import domino_compile
with domino_compile.disable():
    torch.compile(Layer())(x, torch.ones(8, 8))
torch.compile(Layer())(x, torch.ones(8, 8))
"""
    assert run(tmp_path, text) == 0
    assert len(domino_compile.reports()) == 1


def test_the_switch_ends_with_the_script(tmp_path: Path) -> None:
    run(tmp_path, "")
    torch.compile(lambda x: x @ x)(torch.ones(2, 2))
    assert not domino_compile.reports()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "compiled nothing: put"),
        ("torch.compile(abs, backend='aot_eager')", "only backend='aot_eager'"),
        ("torch.compile(abs)", "never ran"),
        ("torch.compile(lambda x: x @ x)(torch.ones(2, 2))", "no collective in 1 compiled graph"),
    ],
)
def test_a_script_that_gives_nothing_to_do_is_told_and_has_not_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    assert run(tmp_path, text) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and said in line


def test_what_fails_keeps_its_traceback_and_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "exit(3)") == 3
    assert run(tmp_path, "raise KeyError('mine')") == 1
    said = capsys.readouterr().err
    assert "KeyError: 'mine'" in said and "runpy" not in said and "warning" not in said


def test_a_file_is_not_run_to_find_out_that_it_is_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").write_text("print('run')")
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "train.py"]) == 2
    out, err = capsys.readouterr()
    assert not out and err == (
        "error: 'train.py' is a path, not a module: leave out -m, or write -m train\n"
    )


def test_a_syntax_error_shows_the_scripts_line_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "def (") == 1
    said = capsys.readouterr().err
    assert "script.py" in said and "SyntaxError" in said and "runpy" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no script: write domino run train.py"),
        (["-m"], "no script: write domino run train.py"),
        ([""], " is a folder: name a script in it"),
        ([str(ROOT)], " is a folder: name a script in it"),
        (["--slice", "2", "train.py"], "unrecognized arguments: --slice"),
        (["--slices", "two", "train.py"], "invalid int value: 'two'"),
        (["--slices", "0", "train.py"], "slices: got 0"),
        (["--option", "slices", "train.py"], "write name=value"),
        (["--option", "slises=2", "train.py"], "did you mean 'slices'?"),
        (["missing.py"], "missing.py: no such file"),
        (["-m", "missing.module"], "no module named 'missing.module'"),
        (["-m", "tests..paths"], "no module named 'tests..paths'"),
        (["-m", "tests/paths.py"], "leave out -m, or write -m tests.paths"),
        (["-m", "tests.agreement"], "is a package without __main__.py"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


def test_the_command_on_two_ranks(tmp_path: Path) -> None:
    """``torchrun -m domino_compile run``: both ranks compile, and say what they should once."""
    script = tmp_path / "train.py"
    script.write_text(
        SETUP.replace("_compat.start_fake_group(2)", "dist.init_process_group('gloo')")
        + "compiled = torch.compile(Layer())(x, torch.full((8, 8), 1.0 + dist.get_rank()))\n"
        "import domino_compile\n"
        "said = [compiled.sum().item(), len(domino_compile.reports()), sys.argv[1:]]\n"
        "sys.stdout.write(' '.join(map(str, said)) + chr(10))  # at once: ranks share the pipe\n"
        "dist.destroy_process_group()\n"
    )
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    asked = ["-m", "domino_compile", "run", "--option", "lowering=eager", "--slices", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, *asked, str(script), "--epochs", "1"],
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["2304.0 1 ['--epochs', '1']"] * 2
