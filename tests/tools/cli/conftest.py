"""The command line in this process, with a user folder of its own."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("click")
pytest.importorskip("rich")

import domino_compile
from domino_compile.tools.cli.main import run


@dataclass(frozen=True)
class Said:
    """What one command left behind."""

    code: int
    out: str
    err: str

    def data(self) -> Any:
        return json.loads(self.out)


Domino = Callable[..., Said]


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "config" / "domino_compile"


@pytest.fixture
def domino(capsys: pytest.CaptureFixture[str]) -> Domino:
    def call(*arguments: str) -> Said:
        # As in a process of its own: neither reports nor sizes of batches are known from before.
        domino_compile.reset_reports()
        torch._dynamo.reset()
        try:
            code = run(arguments)
        except SystemExit as ended:  # ``run`` ends as the script does
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call
