"""Train a small GPT on 2 processes with Inductor alone and with domino, and compare.

    make demo                                              (or: python examples/demo.py)

The model (``_demo_model.py``) is plain PyTorch with torch's own tensor parallelism, and trains on
the Python standard library's source. The two ranks are real processes that really exchange data,
but each collective is delayed to the time in a link table: the link is *emulated*. Both variants
see the same weights and batches, and alternate in blocks of steps in the same processes. Results go
to ``out/demo``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from _demo_config import RANKS, Config
from _demo_display import Display, make_display
from _demo_ranks import RankFailure, Ranks
from _demo_result import Result, make_result, print_tables
from _demo_timeline import timelines, write_page


def main() -> int:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, _interrupt)
    out = Path(options.out)
    try:
        config = prepare(options, out)
        ranks = train(config, out)
    except RankFailure as failure:
        return fail(str(failure), 1)
    except KeyboardInterrupt:
        return fail("interrupted; the ranks are stopped", 130)
    except BrokenPipeError:  # nobody reads our output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    command = shlex.join(["python", "examples/demo.py", *sys.argv[1:]])
    result = make_result(ranks, config, command)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print_tables(result)
    closing(result, out)
    show(ranks[0], result, out, options.timeline)
    return 0


def show(rank: dict[str, Any], result: Result, out: Path, picture: str | None) -> None:
    """Write the timelines as data, as a page and as a picture."""
    found = timelines(rank, result)
    (out / "timeline.json").write_text(json.dumps([t.as_dict() for t in found]) + "\n")
    try:
        write_page(found, rank, result, out / "dumps", out / "report.html")
        print(f"report (open it in a browser):  {out / 'report.html'}")
    except ImportError:
        print("report.html was not written: it needs pip install '.[report]'")
    if picture:
        from domino_compile.tools.timelines.picture import draw

        draw(found, f"One training step of the demo, rank 0: {result['link']}", Path(picture))
        print(f"timeline of one step of each variant:  {picture}")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=24, help="measured steps of each variant")
    parser.add_argument("--block", type=int, default=4, help="steps per turn of a variant")
    parser.add_argument("--warm-up", type=int, default=3, help="warm-up steps, the first compiles")
    parser.add_argument("--link", default="demo-2", help="link table to emulate: a name or a file")
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--dim", type=int, default=512, help="width of the model")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--sequence", type=int, default=128, help="bytes in a row of the batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="out/demo", help="folder for the results")
    parser.add_argument("--timeline", metavar="PNG", help="draw the timeline (needs matplotlib)")
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace, out: Path) -> Config:
    """Check everything that can be checked before a process starts, and clear old results."""
    given = {k: v for k, v in vars(options).items() if k not in ("out", "timeline")}
    config = Config(**given, dumps=str((out / "dumps").resolve()))
    if problem := config.problem():
        usage_error(problem)
    check_link(config.link)
    if not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        usage_error("Inductor needs a C++ compiler: install g++ or clang++, or name one in CXX")
    if options.timeline:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            usage_error("--timeline needs matplotlib: pip install '.[report]'")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        usage_error(f"--out: {error}")
    shutil.rmtree(out / "dumps", ignore_errors=True)
    (out / "result.json").unlink(missing_ok=True)
    return config


def check_link(name: str) -> None:
    from domino_compile.links import LinkError, load_link

    try:
        load_link(name)
    except LinkError as error:
        usage_error(str(error))


def train(config: Config, out: Path) -> list[dict[str, Any]]:
    """Run the ranks and return what each measured.

    Raises:
        RankFailure: a rank failed.
    """
    shape = (
        f"{config.layers} layers of width {config.dim}, batch {config.batch} x {config.sequence}"
    )
    print(f"byte-level GPT ({shape}) on {RANKS} ranks; emulated link {config.link}", flush=True)
    with tempfile.TemporaryDirectory(prefix="domino_demo_") as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(config.as_dict()))
        display = make_display()
        try:
            with Ranks(RANKS, folder, out) as ranks:
                follow(ranks, display)
        finally:
            display.close()
        for rank in range(RANKS):
            shutil.copy(folder / f"rank_{rank}.json", out)
        return [json.loads((folder / f"rank_{r}.json").read_text()) for r in range(RANKS)]


def follow(ranks: Ranks, display: Display) -> None:
    """Show what rank 0 says until all ranks are done."""
    for said in ranks.events(tick_s=1.0):
        if said is None:
            display.tick()
        elif said[0] == 0:
            display.show(said[1])


def closing(result: Result, out: Path) -> None:
    """Print the sentences below the tables."""
    hidden, ratio = result["hidden_fraction"], result["step_ratio"]
    print(
        f"domino's step takes {ratio:.2f} of Inductor's; {hidden:.0%} of its communication is"
        f" hidden. The link is emulated ({result['link']}): data is really exchanged, but times are"
        " the table's."
    )
    print(f"result: {out / 'result.json'}   raw times and logs of each rank: {out}/rank_*")
    print(f"dumps (graphs, schedule, plan): {out / 'dumps'}")


def usage_error(message: str) -> NoReturn:
    raise SystemExit(fail(message, 2))


def fail(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
