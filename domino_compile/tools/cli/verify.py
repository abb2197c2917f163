"""``domino verify``: prove again what the certificates of a dump say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from domino_compile.tools.cli.show import examples, fail, json_option, print_json, say


@click.command(
    epilog=examples(
        "DOMINO_COMPILE_DUMP_DIR=dump torchrun --nproc-per-node 8 train.py",
        "domino verify dump",
        "domino verify dump/rank_3/graph_0 --json",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def verify(folder: Path, as_json: bool) -> None:
    """Prove that the passes left the graphs in FOLDER as they were, and the order of the code.

    FOLDER is what a compile with the option dump_dir wrote, or a part of it. The proof needs
    neither the program nor the compiler that made the dump. The exit code is 1 if it fails.
    """
    certificates = sorted(folder.glob("**/certificate.json"))
    if not certificates:
        fail(f"no certificate.json in {folder}: compile with the options dump_dir and verify='on'")
    proved = {str(path.parent.relative_to(folder)): _prove(path) for path in certificates}
    if as_json:
        print_json(proved)
    else:
        for name, result in proved.items():
            say(f"{name}: {result['verdict']}")
    failed = [name for name, result in proved.items() if not result["established"]]
    if failed:
        fail(f"not established: {', '.join(failed)}", code=1)


def _prove(path: Path) -> dict[str, Any]:
    # Registers the operations that our passes put into programs: the code is read by their schemas.
    import domino_compile.ops.materialise
    import domino_compile.ops.own_part
    import domino_compile.ops.products
    import domino_compile.ops.random_slice
    import domino_compile.ops.tokens  # noqa: F401
    from domino_compile.verify.certificate import check_again
    from domino_compile.verify.part import NotEstablished

    try:
        proved = check_again(path.read_text(encoding="utf-8"), path.parent)
    except NotEstablished as problem:
        return {"established": False, "verdict": f"not established: {problem}"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{path} cannot be read as a certificate: {type(error).__name__}: {error}")
    values = sum(len(done.how) for _, done in proved.passes)
    verdict = f"established: {values} values ({', '.join(title for title, _ in proved.passes)})"
    if proved.orders:
        verdict += f", and the order of the emitted code ({', '.join(x for x, _ in proved.orders)})"
    return {"established": True, "verdict": verdict}
