"""Settings and fixtures shared by all tests.

The environment is set before torch is imported, and child processes inherit it: one thread per
process (workers share the cores), and one folder for what Inductor writes. Graphs do not come
from a cache, since a test must compile what it tests; but a kernel that was built once in a run is
not built again, in whatever process: building takes most of the time.
"""

import difflib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.environment import CACHES, ROOT, quick_builds, quick_processes, quicken_inductor

#: The name of the folder, for the workers of the process that made it.
_FOLDER = "DOMINO_TESTS_FOLDER"
_made = None if _FOLDER in os.environ else tempfile.mkdtemp(prefix="domino_compile_tests_")
if _made:
    os.environ[_FOLDER] = _made
    os.environ |= quick_builds(Path(_made) / "linker") | quick_processes()
os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ[_FOLDER]
os.environ |= CACHES
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
for _name in [name for name in os.environ if name.startswith("DOMINO_COMPILE_")]:
    del os.environ[_name]
os.environ["DOMINO_COMPILE_STRICT"] = "1"  # a fault of a pass fails the test: no silent fallback

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

import domino_compile  # noqa: E402
from tests import profiles  # noqa: E402, F401  (registers the profiles)

# pytest 9.1 listens to loggers that do not propagate, and torch writes out every graph of every
# compile for whoever listens to this one.
logging.getLogger("torch.__trace").propagate = True

quicken_inductor()
settings.load_profile("default")  # before the plugin applies --hypothesis-profile
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

GOLDEN = ROOT / "tests" / "golden"
# Texts that name an address, a checkout or a home differ from run to run.
UNSTABLE = re.compile(r"\b0x[0-9a-f]{8,}|/tmp/|/home/|" + re.escape(str(ROOT)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")


def pytest_unconfigure() -> None:
    if _made:
        shutil.rmtree(_made, ignore_errors=True)


def leave() -> None:
    """Destroy the default process group and forget the reports, if a module before made some."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    domino_compile.reset_reports()


@pytest.fixture(autouse=True, scope="module")
def process_group_of_its_own() -> Iterator[None]:
    """Modules that share a worker make process groups of their own, and count their own graphs."""
    leave()
    yield
    leave()


@pytest.fixture(scope="module")
def lone_rank() -> Iterator[None]:
    """The first of two ranks; collectives give numbers as ``emulate.symmetric`` says."""
    from domino_compile import emulate

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    emulate.init_lone_rank(2)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return `check(name, text)`, which compares `text` with the file tests/golden/`name`."""
    return make_golden_check(update=bool(request.config.getoption("--update-golden")))


def make_golden_check(*, update: bool) -> Callable[[str, str], None]:
    def check(name: str, text: str) -> None:
        if unstable := UNSTABLE.search(text):
            pytest.fail(f"golden {name}: {unstable.group()!r} differs from run to run")
        path = GOLDEN / name
        text = text.rstrip("\n") + "\n"
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"golden {name} does not exist; write it with: make golden")
        expected = path.read_text(encoding="utf-8")
        if text != expected:
            lines = difflib.unified_diff(
                expected.splitlines(), text.splitlines(), f"tests/golden/{name}", "now", lineterm=""
            )
            pytest.fail("\n".join([*lines, "if this is right: make golden"]), pytrace=False)

    return check
