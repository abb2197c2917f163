"""The check of the emitted order: real code passes, and every kind of fault in it is rejected."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from domino_compile.verify.order import check_emitted
from domino_compile.verify.order_certificate import Collective, Names, Promise, Rule
from tests.emitted import test_order
from tests.emitted.harness import Checked
from tests.verify.order_mutants import FAULTS, HARMLESS, mutants
from tests.verify.programs import sequence_parallel

pytestmark = pytest.mark.xdist_group("emitted")

PROGRAMS: dict[str, Callable[[], list[Checked]]] = {
    "two slices": lambda: test_order.step(2).checked,
    "three slices": lambda: test_order.step(3).checked,
    "sequence parallel": sequence_parallel,
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_real_code_is_established(program: str) -> None:
    forward, backward = PROGRAMS[program]()
    for checked in (forward, backward):
        certificate = checked.certificate
        assert certificate.established, certificate.findings
        assert certificate.waits == len(checked.promise.collectives)
        names = [c.name for c in checked.promise.collectives]
        assert [x.split()[-1] for x in certificate.order["0"]] == names


@pytest.mark.parametrize("program", PROGRAMS)
def test_peak_is_close_to_the_prediction(program: str) -> None:
    for checked in PROGRAMS[program]():
        assert checked.promise.peak_bytes
        assert 0.8 < checked.certificate.peak_bytes / checked.promise.peak_bytes < 1.1


@pytest.mark.parametrize("program", ["two slices", "sequence parallel"])
def test_faults_are_rejected_and_harmless_changes_accepted(program: str) -> None:
    seen: Counter[str] = Counter()
    for checked in PROGRAMS[program]():
        for mutant in mutants(checked.code, most=2):
            found = check_emitted(mutant.code, checked.promise, checked.names)
            assert found.established == mutant.harmless, (mutant.kind, found.findings)
            seen[mutant.kind] += 1
    assert len(seen) >= len(FAULTS) + len(HARMLESS) - 7, seen


def test_a_certificate_is_readable() -> None:
    checked = PROGRAMS["two slices"]()[0]
    text = checked.certificate.as_text()
    assert "a result is used after its wait" in text and "all_reduce sum all_reduce_s0" in text
    broken = next(m for m in mutants(checked.code, 1) if m.kind == "order: wait dropped")
    text = check_emitted(broken.code, checked.promise, checked.names).as_text()
    assert "not established" in text and "before the wait for all_reduce" in text


def test_what_is_violated_is_named() -> None:
    checked = PROGRAMS["two slices"]()[0]
    rules = {
        mutant.kind: check_emitted(mutant.code, checked.promise, checked.names).findings[0].rule
        for mutant in mutants(checked.code, most=1)
        if not mutant.harmless
    }
    assert rules["order: use before wait"] == Rule.USE_AFTER_WAIT
    assert rules["order: freed in flight"] == Rule.NOT_FREED
    assert rules["order: reused in flight"] == Rule.NOT_REUSED
    assert rules["order: collective dropped"] == Rule.SEQUENCE
    assert rules["order: sent before it is computed"] == Rule.COMPUTED
    assert rules["order: more memory"] == Rule.PEAK
    assert rules["order: other communication"] == Rule.READABLE


def test_alike_collectives_are_told_apart_by_their_nodes() -> None:
    """Both have the same kind, reduction and size; only Inductor's names say which is which."""
    checked = PROGRAMS["two slices"]()[0]
    kind = "order: swapped with another"
    mutant = next(m for m in mutants(checked.code, most=1) if m.kind == kind)
    assert check_emitted(mutant.code, checked.promise).established
    assert not check_emitted(mutant.code, checked.promise, checked.names).established


HEAD = """
class Runner:
    def call(self, args):
        arg0_1, arg1_1 = args
        args.clear()
"""


def established(*lines: str, promise: Promise | None = None) -> list[str]:
    """The violations of a program of these lines."""
    code = HEAD + "".join(f"        {line}\n" for line in lines)
    found = check_emitted(code, promise or Promise(()), Names()).findings
    return [finding.rule.name for finding in found if finding.rule is not Rule.SEQUENCE]


LAUNCH = "torch.ops._c10d_functional.all_reduce_.default(arg0_1, 'sum', '0')"
GATHER = "buf0 = torch.ops._c10d_functional.all_gather_into_tensor.default(arg0_1, 2, '0')"
WAIT = "torch.ops._c10d_functional.wait_tensor.default(arg0_1)"


def test_partitions_are_followed_into() -> None:
    """CUDA graphs split the code into functions that are called one after the other."""
    code = """
def partition_0(args):
    arg0_1, = args
    args.clear()
    buf0 = empty_strided_cuda((4, ), (1, ), torch.float32)
    extern_kernels.mm(arg0_1, arg0_1, out=buf0)
    del arg0_1
    return (buf0, )

class Runner:
    def call(self, args):
        arg0_1, = args
        args.clear()
        partition0_args = [arg0_1]
        del arg0_1
        (buf0,) = self.partitions[0](partition0_args)
        del partition0_args
        torch.ops._c10d_functional.all_reduce_.default(buf0, 'sum', '0')
        buf1 = buf0; del buf0  # reuse
        return (buf1, )
"""
    rules = [f.rule for f in check_emitted(code, Promise(())).findings]
    assert Rule.NOT_REUSED in rules and Rule.WAITED in rules


def test_a_wait_for_an_input_is_for_an_earlier_graphs_collective() -> None:
    assert not established(WAIT, "return (arg0_1, )")


def test_a_result_is_not_read_through_a_view_before_its_wait() -> None:
    view = "view = reinterpret_tensor(arg0_1, (2, 2), (2, 1), 0)"
    use = "triton_poi_fused_add_0.run(view, arg1_1, 4, stream=stream0)"
    assert established(view, LAUNCH, use, WAIT, "return (view, )") == ["USE_AFTER_WAIT"]
    assert not established(view, LAUNCH, WAIT, use, "return (view, )")


def test_triton_kernels_say_what_they_write() -> None:
    source = "def triton_(in_ptr0, out_ptr0, xnumel, XBLOCK : tl.constexpr):\\n    pass"
    kernel = f"triton_poi_fused_0 = async_compile.triton('triton_poi_fused_0', '{source}')\n"
    wait = "torch.ops._c10d_functional.wait_tensor.default(buf0)"
    for first, second, rules in (
        ("arg0_1", "arg1_1", []),
        ("arg1_1", "arg0_1", ["NOT_OVERWRITTEN"]),
        ("buf0", "arg1_1", ["USE_AFTER_WAIT"]),
    ):
        use = f"triton_poi_fused_0.run({first}, {second}, 4, stream=stream0)"
        lines = "".join(f"        {x}\n" for x in (GATHER, use, wait, "return (buf0, )"))
        found = check_emitted(kernel + HEAD + lines, Promise(())).findings
        assert [f.rule.name for f in found if f.rule is not Rule.SEQUENCE] == rules


def test_operations_of_torch_say_what_they_write() -> None:
    copy = "torch.ops.aten.copy_.default({}, arg1_1)"
    wait = "torch.ops._c10d_functional.wait_tensor.default(buf0)"
    end = "return (buf0, )"
    assert established(GATHER, copy.format("arg0_1"), wait, end) == ["NOT_OVERWRITTEN"]
    read = "buf1 = torch.ops.aten.relu.default(arg0_1)"
    assert not established(GATHER, read, wait, end)
    unknown = "unknown_function(arg0_1)"
    assert established(GATHER, unknown, wait, end) == ["NOT_OVERWRITTEN"]


@pytest.mark.parametrize(
    "call",
    [
        "run_and_save_rng_state({}, {})",
        "run_with_rng_state(arg1_1, {}, {})",
        "graphsafe_run_with_rng_state({}, {}, rng_state=arg1_1)",
    ],
)
def test_checkpointed_attention_writes_what_its_operation_writes(call: str) -> None:
    """Recomputed on a GPU, it runs with the random numbers' state of the first time."""
    wait = "torch.ops._c10d_functional.wait_tensor.default(buf0)"
    wrapped = f"buf1 = torch.ops.higher_order.{call}"
    read = wrapped.format("torch.ops.aten.relu.default", "arg0_1")
    assert not established(GATHER, read, wait, "return (buf0, buf1)")
    write = wrapped.format("torch.ops.aten.relu_.default", "arg0_1")
    assert established(GATHER, write, wait, "return (buf0, buf1)") == ["NOT_OVERWRITTEN"]


def test_one_collective_without_a_wait_excuses_no_other() -> None:
    """The program waits for the first one itself; what the second one sends is overwritten."""
    gather = "buf{} = torch.ops._c10d_functional.all_gather_into_tensor.default(arg{}_1, 2, '0')"
    lines = (
        *(gather.format(0, 0), gather.format(1, 1), "buf2 = arg1_1; del arg1_1  # reuse"),
        *("torch.ops._c10d_functional.wait_tensor.default(buf1)", "return (buf0, buf1, buf2)"),
    )
    code = HEAD + "".join(f"        {line}\n" for line in lines)
    kind, settings = "all_gather_into_tensor", (2, "0")
    promise = Promise(
        (Collective("first", kind, settings, waited=False), Collective("second", kind, settings))
    )
    names = Names({"buf0": ("first",), "buf1": ("second",)}, {})
    (finding,) = check_emitted(code, promise, names).findings
    assert finding.rule is Rule.NOT_REUSED and "arg1_1" in finding.why


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("cpp_wrapper_src = ''", "cpp_wrapper"),
        ("def other(args):\n    pass", "no function 'call'"),
        ("def call(args:", "not Python"),
        ("def call(args):\n    torch.ops.symm_mem.one_shot(args)", "symm_mem"),
        (
            "def call(args):\n    torch.ops.domino_compile.gather_start(args)",
            "gather_start",
        ),
    ],
)
def test_what_is_not_understood_is_not_established(code: str, why: str) -> None:
    (finding,) = check_emitted(code, Promise(())).findings
    assert finding.rule is Rule.READABLE and why in finding.why


def test_sources_share_nothing_with_the_scheduler() -> None:
    from domino_compile.verify import emitted, order

    sources = sorted(Path(emitted.__file__).parent.glob("emitted*.py"))
    assert len(sources) == 5
    for source in (*sources, Path(order.__file__)):
        lines = source.read_text().splitlines()
        imported = [x.split()[1] for x in lines if x.startswith("from domino_compile")]
        assert all(name.startswith("domino_compile.verify.") for name in imported), imported
