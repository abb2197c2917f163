"""What Inductor emits for carried collectives: all commands, in the planned order."""

import re

import pytest

from domino_compile.verify.order import check_emitted
from tests.emitted.harness import body
from tests.transport.carried_model import Compiled, compile_carried
from tests.verify.transport_mutants import CODE_FAULTS, CODE_HARMLESS, code_mutants

COMMAND = re.compile(r"torch\.ops\.domino_compile\.(\w+?)(?:_only)?\.default\((\w+)")
MATMUL = re.compile(r"extern_kernels\.(?:mm|addmm|bmm)\(")


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_carried()


def commands(code: str) -> list[tuple[str, str]]:
    """The commands with the buffer that they are about, and matrix products."""
    found = []
    for line in body(code):
        if match := COMMAND.search(line):
            made = re.match(r"(\w+) = ", line)
            found.append((match[1], made[1] if made else match[2]))
        elif MATMUL.search(line):
            found.append(("product", ""))
    return found


def test_each_start_is_waited_for_and_released(
    compiled: Compiled,
) -> None:
    codes, report, _ = compiled
    carried = [re.match(r"(\d+) of", schedule.transport) for schedule in report.schedules]
    kinds = set()
    for code, counted in zip(codes, carried, strict=True):
        found = commands(code)
        starts = [place for place, (name, _) in enumerate(found) if name.endswith("start")]
        assert counted is not None and len(starts) == int(counted[1]) > 0
        for place in starts:
            kind = found[place][0].removesuffix("_start")
            kinds.add(kind)
            rest = [(n, p) for p, (n, b) in enumerate(found) if b == found[place][1] and p > place]
            (wait, waited), (release, released) = rest[:2]
            slot = "gather" if kind == "gather" else "inbox"
            assert (wait, release) == (f"{slot}_wait", f"{slot}_release")
            assert any(name == "product" for name, _ in found[place:waited])
            if slot == "inbox":
                # The result is made between the two, before anything else is launched.
                assert not any(name.endswith("start") for name, _ in found[waited:released])
    assert kinds == {"gather", "exchange", "scatter"}


def test_what_lies_in_a_slot_is_read_only_between_its_wait_and_its_release(
    compiled: Compiled,
) -> None:
    for code in compiled[0]:
        lines = list(body(code))
        for place, line in enumerate(lines):
            if not (match := COMMAND.search(line)) or not match[1].endswith("start"):
                continue
            made = re.match(r"(\w+) = ", line)
            assert made is not None
            uses = [
                COMMAND.search(text)
                for at, text in enumerate(lines)
                if at > place
                and re.search(rf"\b{made[1]}\b", text)
                and not re.match(r"\s*(del|assert_\w+\()", text)
            ]
            names = [command[1] if command else "" for command in uses]
            assert names[0].endswith("_wait") and names[-1].endswith("_release")
            assert len(names) > 2, "nothing reads it"


def test_a_slot_is_used_again_only_after_its_release(
    compiled: Compiled,
) -> None:
    """The second rule of the protocol against deadlocks."""
    for code in compiled[0]:
        holder: dict[str, str] = {}
        for line in body(code):
            if not (match := COMMAND.search(line)):
                continue
            slot = re.findall(r", (\d+), '", line)[-1] + str("gather" in line)
            if match[1].endswith("start"):
                assert slot not in holder
                made = re.match(r"(\w+) = ", line)
                assert made is not None
                holder[slot] = made[1]
            elif match[1].endswith("release"):
                assert holder.pop(slot) == match[2]


def test_a_received_buffer_is_never_reused(
    compiled: Compiled,
) -> None:
    for code in compiled[0]:
        received = {buffer for name, buffer in commands(code) if name.endswith("start")}
        reused = re.findall(
            r"= (buf\d+); del \1  # reuse|= reinterpret_tensor\((buf\d+).*# reuse", code
        )
        assert received and not received & {name for pair in reused for name in pair}


def test_the_order_is_established(compiled: Compiled) -> None:
    for checked in compiled.checked:
        certificate = checked.certificate
        assert certificate.established, certificate.findings
        assert certificate.waits == len(checked.promise.collectives)
        carried = [c for c in checked.promise.collectives if c.slot]
        assert len(carried) >= 5
        assert "what lies in a slot is read until its release" in certificate.as_text()


def test_faults_in_the_code_are_refused(compiled: Compiled) -> None:
    seen = set()
    for checked in compiled.checked:
        for kind, code, harmless in code_mutants(checked.code, most=2):
            found = check_emitted(code, checked.promise, checked.names)
            assert found.established == harmless, (kind, found.findings)
            seen.add(kind)
    assert len(seen) == len(CODE_FAULTS) + len(CODE_HARMLESS), seen


def test_code_from_a_cache_is_read_without_the_graph(compiled: Compiled) -> None:
    """Then the sizes of slots are not known: slots with one number count as one."""
    for checked in compiled.checked:
        assert check_emitted(checked.code).established
        for kind, code, _ in code_mutants(checked.code, most=1):
            if kind in ("wait dropped", "release before its readers", "slot in use"):
                assert not check_emitted(code).established, kind
