"""``domino_compile.enable``: what asks for Inductor compiles with domino, and nothing else does."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import compile as imported_long_ago
from torch import nn
from torch.torch_version import TorchVersion

import domino_compile
from domino_compile import switch
from domino_compile.errors import DominoError, OptionError
from domino_compile.options import ENVIRONMENT
from domino_compile.options.environment import without_effect
from tests.paths import ROOT

EAGER = {"lowering": "eager", "check_ranks": False}
X = torch.arange(12.0).reshape(3, 4)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    domino_compile.reset_reports()
    switch._warn_once.cache_clear()
    with domino_compile.disable():
        yield


class Product(nn.Module):
    """No pointwise kernel, so that Inductor calls no C++ compiler."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def compiled() -> int:
    """The graphs that domino compiled so far."""
    return len(domino_compile.reports())


def of_module(model: nn.Module) -> nn.Module:
    model.compile()
    return model


def by_dynamo(model: nn.Module) -> Any:
    return torch._dynamo.optimize("inductor")(model)


ASKED: dict[str, Callable[[nn.Module], Any]] = {
    "by default": torch.compile,
    "by name": lambda model: torch.compile(model, backend="inductor"),
    "by mode": lambda model: torch.compile(model, mode="max-autotune-no-cudagraphs"),
    "with options": lambda model: torch.compile(model, options={"max_autotune": False}),
    "by Module.compile": of_module,
    "by a name imported long ago": imported_long_ago,
    "as a decorator": lambda model: torch.compile(dynamic=False)(model.forward),
    "by Dynamo": by_dynamo,
}


@pytest.mark.parametrize("way", ASKED)
def test_what_asks_for_inductor_gets_domino(way: str) -> None:
    model = Product()
    with domino_compile.enable(**EAGER):
        program = ASKED[way](model)
    assert compiled() == 0
    if way == "by Dynamo":  # it asks anew for every graph
        with domino_compile.enable(**EAGER):
            result = program(X)
    else:
        result = program(X)  # the block is over: what counts is when it asked
    assert compiled() == 1
    torch.testing.assert_close(result, X @ model.weight)


def test_options_of_the_switch_and_of_the_compile_are_both_in_force() -> None:
    with domino_compile.enable(slices=3, inductor={"max_autotune": True}, **EAGER):
        torch.compile(Product(), options={"max_autotune": False})(X)
    (report,) = domino_compile.reports()
    options = report.options
    assert "slices=3" in options and "'max_autotune': False" in options


def test_a_mode_is_in_force() -> None:
    with domino_compile.enable(**EAGER):
        torch.compile(Product(), mode="max-autotune-no-cudagraphs")(X)
    (report,) = domino_compile.reports()
    assert "mode='max-autotune-no-cudagraphs'" in report.options


def test_other_backends_and_other_times_keep_what_they_asked_for() -> None:
    model = Product()
    before = torch.compile(model)
    with domino_compile.enable(**EAGER):
        other = torch.compile(model, backend="aot_eager")
        with domino_compile.disable():
            inside = torch.compile(model)
    after = torch.compile(model)
    for program in (before, other, inside, after):
        torch.testing.assert_close(program(X), X @ model.weight)
    assert compiled() == 0


def test_code_is_not_shared_between_inductor_and_domino() -> None:
    """The same model compiled by the same words, before, while and after the switch is on."""
    model = Product()
    torch.compile(model)(X)
    assert compiled() == 0
    with domino_compile.enable(**EAGER):
        torch.compile(model)(X)
    assert compiled() == 1
    torch.compile(model)(X)
    assert compiled() == 1


def test_layers_that_are_alike_share_what_was_compiled() -> None:
    layers = nn.Sequential(*(Product() for _ in range(12)))  # Dynamo gives up after 8
    with domino_compile.enable(**EAGER):
        for layer in layers:
            layer.compile(fullgraph=True)
    x = (X / 100).requires_grad_()  # as the input of every other layer
    torch.testing.assert_close(layers(x), x.sum(1, keepdim=True) * torch.full((4,), 4.0**11))
    assert compiled() == 1


def test_the_switch_says_what_it_does_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "domino_compile")
    with domino_compile.enable(slices=2):
        domino_compile.enable(slices=2)
        domino_compile.enable(slices=3)
        domino_compile.disable()
        domino_compile.disable()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        'backend="inductor" compiles with domino from now on (slices=2)',
        'backend="inductor" compiles with domino from now on (slices=3)',
        'backend="inductor" compiles with Inductor again',
    ]


def test_a_block_puts_back_what_was_before() -> None:
    with domino_compile.enable(**EAGER):
        with domino_compile.disable(), domino_compile.enable(slices=2):
            pass
        torch.compile(Product())(X)
    assert compiled() == 1 and "slices" not in domino_compile.reports()[0].options


def test_a_bad_option_changes_nothing() -> None:
    with pytest.raises(OptionError, match="did you mean 'slices'"):
        domino_compile.enable(slice=2)
    torch.compile(Product())(X)
    assert compiled() == 0


def test_inductors_own_order_of_collectives_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with domino_compile.enable(**EAGER):
            torch.compile(Product(), options={"reorder_for_compute_comm_overlap": True})(X)
        torch._dynamo.reset()
    assert compiled() == 2
    (said,) = caplog.records
    assert said.levelname == "WARNING" and "'reorder_for_compute_comm_overlap'" in said.message


def test_a_compile_that_domino_refuses_stays_inductors(caplog: pytest.LogCaptureFixture) -> None:
    """The user's own pass belongs to the program: it runs, and domino does not take its place."""
    seen: list[object] = []
    with domino_compile.enable():
        torch.compile(Product(), options={"post_grad_custom_post_pass": seen.append})(X)
    assert seen and compiled() == 0
    (said,) = caplog.records
    assert "post_grad_custom_post_pass" in said.message and "leave it out" in said.message
    assert "\n" not in said.message


def test_an_old_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.10.0"))
    with pytest.raises(DominoError, match=r"needs torch 2\.11 or newer, this is 2\.10\.0: upgrade"):
        domino_compile.enable()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"DOMINO_COMPILE_ENABLE": "yes"}, "DOMINO_COMPILE_ENABLE: got 'yes', allowed: '0' or '1'"),
        (
            {"DOMINO_COMPILE_ENABLE": "1", "DOMINO_COMPILE_OPTIONS": "slices=2"},
            "DOMINO_COMPILE_OPTIONS: got 'slices=2', allowed: a JSON object",
        ),
        (
            {"DOMINO_COMPILE_ENABLE": "1", "DOMINO_COMPILE_OPTIONS": '{"slices": 0}'},
            "slices: got 0, allowed: an int >= 1",
        ),
    ],
)
def test_bad_variables(variables: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        switch.enable_from_environment(variables)
    assert str(caught.value).startswith(message)


def test_variables_that_are_off() -> None:
    switch.enable_from_environment({})
    switch.enable_from_environment({"DOMINO_COMPILE_ENABLE": "0", "DOMINO_COMPILE_OPTIONS": "!"})
    torch.compile(Product())(X)
    assert compiled() == 0


LOADED = """
import sys
import torch
print("domino_compile" in sys.modules, "domino_compile.switch" in sys.modules)
assert "torch._dynamo" not in sys.modules
"""
COMPILED = """
torch.compile(lambda x: x @ x)(torch.ones(2, 2))
import domino_compile
print([report.options for report in domino_compile.reports()])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has this package's entry points, as an installation has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("installed")
    about = folder / "domino_compile-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: domino-compile\nVersion: 0\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in points.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def printed(installed: Path, program: str, **variables: str) -> str:
    path = os.pathsep.join((str(installed), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path} | variables,
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_environment_acts_on_a_program_that_imports_torch_alone(installed: Path) -> None:
    chosen = '{"lowering": "eager", "slices": 3}'
    on = {"DOMINO_COMPILE_ENABLE": "1", "DOMINO_COMPILE_OPTIONS": chosen}
    said = printed(installed, LOADED + COMPILED, **on).splitlines()
    assert said == ["True True", "[\"slices=3 lowering='eager'\"]"]


def said_by(installed: Path, **variables: str) -> tuple[int, list[str]]:
    """Return the exit code and stderr of a program that only imports torch."""
    done = subprocess.run(
        [sys.executable, "-c", "import torch"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(installed), str(ROOT)))} | variables,
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stderr.strip().splitlines()


def test_a_bad_variable_ends_the_program_with_one_line(installed: Path) -> None:
    code, said = said_by(installed, DOMINO_COMPILE_ENABLE="yes")
    assert code == 1
    assert said == ["error: DOMINO_COMPILE_ENABLE: got 'yes', allowed: '0' or '1'"]


def test_a_misspelt_variable_is_one_line(installed: Path) -> None:
    code, said = said_by(installed, DOMINO_COMPILE_ENABLED="1")
    assert code == 0
    assert said == [
        "the environment variable DOMINO_COMPILE_ENABLED has no effect; "
        "did you mean 'DOMINO_COMPILE_ENABLE'?"
    ]


def test_variables_without_effect() -> None:
    options = {"DOMINO_COMPILE_OPTIONS": '{"slices": 2}'}
    assert without_effect({**dict.fromkeys(ENVIRONMENT, "1"), "DOMINO_COMPILE_STRICT": "1"}) == []
    assert without_effect({**options, "DOMINO_COMPILE_ENABLE": "1", "HOME": "/"}) == []
    (line,) = without_effect({**options, "DOMINO_COMPILE_ENABLE": "0"})
    assert line == "DOMINO_COMPILE_OPTIONS has no effect without DOMINO_COMPILE_ENABLE=1"


def test_without_it_nothing_is_loaded(installed: Path) -> None:
    assert printed(installed, LOADED, DOMINO_COMPILE_ENABLE="0") == "True False"
