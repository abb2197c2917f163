"""What random programs found, shrunk."""

from __future__ import annotations

import pytest

from tests.property.programs import parse, run
from tests.property.test_eager_lowering import check

PROGRAMS = {
    # The wait of an all-reduce that stays whole was pulled: each slice waited for its part.
    "the wait of a whole collective is whole": """
    # 2 slices, training
    # x0: float[6, 3, 4]
    # self.w2: parameter[4, 4]
    # self.w3: parameter[4]
    # self.w4: parameter[4, 6]
    # self.w5: parameter[6, 4]
    def forward(self, x0):
        part = reduce_scatter(x0 @ self.w2, 0, tp)
        h = all_gather(F.layer_norm(part, (4,), self.w3), 0, tp)
        h = h + all_reduce(torch.tanh((h @ self.w4)) @ self.w5, tp)
        h = all_reduce(torch.tanh((h @ self.w4)) @ self.w5, tp)
        return (h,)
    """,
    # A view of a value whose strides the cut had changed failed in the eager lowering.
    "views of slices with other strides": """
    # 4 slices, training
    # x0: float[2, 1, 4]
    # x2: labels[2, 1] < 7
    # self.w0: parameter[4, 4]
    # self.w1: parameter[4, 4]
    # self.w2: parameter[4, 6]
    # self.w3: parameter[6, 4]
    # self.w5: parameter[6, 4]
    # self.w7: parameter[7, 4]
    def forward(self, x0, x2):
        h = x0 + x0.flip(2)
        q = (h @ self.w0).unflatten(-1, (2, -1)).permute(1, 2, 0, 3)
        k = (h @ self.w0).unflatten(-1, (2, -1)).permute(1, 2, 0, 3)
        v = (h @ self.w1).unflatten(-1, (2, -1)).permute(1, 2, 0, 3)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + all_reduce(a.permute(2, 0, 1, 3).flatten(2) @ self.w0, tp)
        h = torch.stack([h, h.tanh()], 3).sum(3)
        h = h + reduce_from(F.silu(copy_to(h, world) @ self.w2) @ self.w3, world)
        rows = h.reshape(-1, 4)
        h = h + (rows @ rows.t()).softmax(-1).matmul(rows).view(2, 1, -1)
        h = h + h.repeat(2, 1, 1).view(2, 2, 1, 4).mean(0)
        h = h + all_reduce_in_place(torch.tanh(h @ self.w2) @ self.w5, tp)
        loss = F.cross_entropy((h @ self.w7.t()).flatten(0, 1), x2.flatten(), reduction='sum')
        return (loss,)
    """,
    # The cost model took a value that is query, key and value for one operand.
    "one value is query, key and value": """
    # 2 slices, training
    # x0: grad[1, 4, 4]
    # self.w0: parameter[4, 4]
    # self.w1: parameter[4, 4]
    def forward(self, x0):
        q = (x0 @ self.w0).unflatten(-1, (2, -1)).transpose(1, 2)
        a = F.scaled_dot_product_attention(q, q, q, is_causal=True)
        h = all_reduce(a.transpose(1, 2).flatten(2) @ self.w1, tp)
        return (h.pow(2).mean(),)
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_regression(name: str) -> None:
    program = parse(PROGRAMS[name])
    check(program, run(program))
