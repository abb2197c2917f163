"""Emitted code with conditions is followed through both ways, and refused for a fault in either."""

import pytest

from domino_compile.verify.emitted import read
from domino_compile.verify.emitted_events import Chosen
from domino_compile.verify.order import check_emitted
from domino_compile.verify.order_certificate import Promise, Rule

KERNEL = """
cpp_fused_0 = async_compile.cpp_pybinding(['const float*', 'float*'], '''''')
"""
#: Two ways of the form in which Inductor emits ``torch.cond``: in the first one the caller frees.
WAYS = """
def true_graph_0(args):
    a, weight = args
    args.clear()
    b = empty_strided_cpu((4, ), (1, ), torch.float32)
    extern_kernels.mm(a, weight, out=b)
    del a
    {then}
    return (b, )

def false_graph_0(args):
    a, weight = args
    args.clear()
    {otherwise}
    return ({other}, )
"""
CALL = """
class Runner:
    def call(self, args):
        on, x, y, weight = args
        args.clear()
        {before}
        buf3 = [None] * 1
        if on.item():

            # subgraph: true_graph_0
            true_graph_0_args = [x, weight]
            del x
            {here}
            buf3 = true_graph_0(true_graph_0_args)
        else:

            # subgraph: false_graph_0
            false_graph_0_args = [x, weight]
            buf3 = false_graph_0(false_graph_0_args)
        buf4 = buf3[0]
        del buf3
        {after}
        return (buf4, y, weight)
"""
LAUNCH = "torch.ops._c10d_functional.all_reduce_.default({}, 'sum', '0')"
WAIT = "torch.ops._c10d_functional.wait_tensor.default({})"
MADE = "c = empty_strided_cpu((4, ), (1, ), torch.float32); cpp_fused_0(a, c)"


def code(
    *,
    before: str = "pass",
    here: str = "pass",
    after: str = "pass",
    then: str = "pass",
    otherwise: str = MADE,
    other: str = "c",
) -> str:
    """A program with one condition."""
    ways = WAYS.format(then=then, otherwise=otherwise, other=other)
    return KERNEL + ways + CALL.format(before=before, here=here, after=after)


def violated(text: str) -> list[str]:
    """What is violated, but for the sequence of collectives, which no promise tells."""
    return [f.rule.name for f in check_emitted(text).findings if f.rule is not Rule.SEQUENCE]


def test_arguments_of_a_condition_are_not_its_result() -> None:
    """What a condition computed is in flight; a product reads the weight that it was given."""
    product = "buf5 = torch.ops.aten.mm.default(y, weight)"
    after = "; ".join((LAUNCH.format("buf4"), product, WAIT.format("buf4")))
    assert not violated(code(after=after))
    (chosen,) = (e for e in read(code()).events if isinstance(e, Chosen))
    assert len(chosen.ways) == 2


def test_a_collective_may_fly_over_a_condition() -> None:
    assert not violated(code(before=LAUNCH.format("y"), after=WAIT.format("y")))


@pytest.mark.parametrize(
    ("fault", "rule"),
    [("cpp_fused_0(weight, y)", "USE_AFTER_WAIT"), ("y2 = y; del y  # reuse", "NOT_REUSED")],
)
def test_a_fault_in_one_way_is_enough(fault: str, rule: str) -> None:
    launch, wait = LAUNCH.format("y"), WAIT.format("y")
    assert rule in violated(code(before=launch, here=fault, after=wait))
    assert not violated(code(before=launch, after=wait))


def test_a_way_writes_to_what_is_being_sent() -> None:
    gather = "buf0 = torch.ops._c10d_functional.all_gather_into_tensor.default(weight, 2, '0')"
    after = WAIT.format("buf0")
    assert not violated(code(before=gather, after=after))
    for way in (
        {"then": "cpp_fused_0(b, weight)"},
        {"otherwise": f"{MADE}; cpp_fused_0(c, weight)"},
    ):
        assert violated(code(before=gather, after=after, **way)) == ["NOT_OVERWRITTEN"]


def test_the_result_may_be_an_argument_in_one_way() -> None:
    after = "; ".join((LAUNCH.format("buf4"), "cpp_fused_0(weight, y)", WAIT.format("buf4")))
    assert violated(code(after=after, otherwise="pass", other="weight")) == ["USE_AFTER_WAIT"]


def test_a_result_that_one_way_leaves_empty_is_not_sent() -> None:
    empty = "c = empty_strided_cpu((4, ), (1, ), torch.float32)"
    after = "; ".join((LAUNCH.format("buf4"), WAIT.format("buf4")))
    assert not violated(code(after=after))
    assert violated(code(after=after, otherwise=empty)) == ["COMPUTED"]


@pytest.mark.parametrize("way", ["then", "otherwise"])
def test_communication_under_a_condition_is_refused(way: str) -> None:
    """Ranks may take different ways."""
    (finding,) = check_emitted(code(**{way: f"{LAUNCH.format('weight')}; c = a"})).findings
    assert finding.rule is Rule.READABLE and "under a condition" in finding.why


def test_the_way_that_needs_more_memory_counts() -> None:
    def peak(**changed: str) -> int:
        found = check_emitted(code(**changed), Promise(()))
        assert found.established, found.findings
        return found.peak_bytes

    more = "d = empty_strided_cpu((100, ), (1, ), torch.float32); cpp_fused_0({}, d); del d"
    assert peak(then=more.format("b")) == peak() + 400
    assert peak(otherwise=f"{MADE}; {more.format('c')}") == peak() + 400


def test_operands_that_only_one_way_frees_are_not_held_against_the_code() -> None:
    """Inductor keeps them in the other way: the certificate has them, the limit does not."""
    size, more = 100_000, "a2 = empty_strided_cpu((100000, ), (1, ), torch.float32)"
    late = "e = empty_strided_cpu((100000, ), (1, ), torch.float32); cpp_fused_0(y, e)"
    text = code(before=f"{more}; cpp_fused_0(y, a2)", here="del a2", after=late)
    found = check_emitted(text, Promise((), peak_bytes=4 * size))
    assert found.established, found.findings
    assert found.peak_bytes > 2 * 4 * size
    kept = code(before=f"{more}; cpp_fused_0(y, a2)", after=late)
    (finding,) = check_emitted(kept, Promise((), peak_bytes=4 * size)).findings
    assert finding.rule is Rule.PEAK


def test_results_of_one_operation_are_apart() -> None:
    """Inductor gives the memory of one to another value while the other is sent."""
    text = (
        f"{KERNEL}"
        """
class Runner:
    def call(self, args):
        x, y = args
        args.clear()
        buf0 = torch.ops.aten.{}
        buf1 = buf0[0]
        buf2 = buf0[1]
        del buf0
        buf3 = reinterpret_tensor(buf1, (2, 2), (2, 1), 0); del buf1  # reuse
        cpp_fused_0(y, buf3)
        buf4 = torch.ops._c10d_functional.all_gather_into_tensor.default(buf3, 2, '0')
        buf5 = {}; del {}  # reuse
        torch.ops._c10d_functional.wait_tensor.default(buf4)
        return (buf4, buf5)
"""
    )
    apart, views = "aminmax.default(x)", "unbind.int(x)"
    assert not violated(text.format(apart, "buf2", "buf2"))
    assert violated(text.format(apart, "buf3", "buf3")) == ["NOT_REUSED"]
    assert set(violated(text.format(views, "buf2", "buf2"))) == {"NOT_REUSED"}
    assert set(violated(text.format("unknown(x)", "buf2", "buf2"))) == {"NOT_REUSED"}
