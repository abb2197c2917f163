"""Two real gloo ranks through the emulated backend; what they check is in ranks.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulate.ranks import CHECKS, SIZE

ROOT = Path(__file__).resolve().parents[2]
Results = list[dict[str, str]]
pytestmark = pytest.mark.xdist_group("emulate")  # or each worker would start ranks of its own


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Per rank, what each check said."""
    folder = tmp_path_factory.mktemp("ranks")
    files = [folder / f"{rank}.json" for rank in range(SIZE)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    command = [sys.executable, "-m", "tests.emulate.ranks"]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(folder / "rendezvous"), str(file)],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, file in enumerate(files)
    ]
    errors = []
    for process in ranks:
        try:
            errors.append(process.communicate(timeout=240)[1])
        except subprocess.TimeoutExpired:
            process.kill()
            errors.append(process.communicate()[1])
    for file, error in zip(files, errors, strict=True):
        assert file.exists(), error
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize("name", CHECKS)
def test_on_two_ranks(results: Results, name: str) -> None:
    said = [rank.get(name, "did not run") for rank in results]
    assert said == ["ok"] * SIZE, "\n".join(said)
