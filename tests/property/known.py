"""Programs that must be cut, one form of communication or layout each."""

from __future__ import annotations

SLICED = {
    "funcol, batch first": """
    # 3 slices, training
    # x0: grad[5, 3, 4]
    # self.w0: parameter[4, 6]
    # self.w1: parameter[6, 4]
    def forward(self, x0):
        h = x0 + all_reduce(torch.tanh(x0 @ self.w0) @ self.w1, tp)
        return (h,)
    """,
    "megatron, sequence first": """
    # 4 slices, training
    # x0: tokens[3, 6] < 11
    # self.table: parameter[11, 4]
    # self.w0: parameter[4, 6]
    # self.w1: parameter[6, 4]
    def forward(self, x0):
        h = F.embedding(x0, self.table)
        h = h + reduce_from(F.gelu(copy_to(h, tp) @ self.w0) @ self.w1, tp)
        h = h + reduce_from(F.gelu(copy_to(h, tp) @ self.w0) @ self.w1, tp)
        return ((h @ self.table.t()).logsumexp(-1).mean(),)
    """,
    "in place, two rows": """
    # 2 slices, training
    # x0: float[2, 3, 4]
    # self.w0: parameter[4, 4]
    def forward(self, x0):
        h = all_reduce_in_place(x0 @ self.w0, world)
        h = all_reduce_in_place(h.sin() @ self.w0, tp)
        return (h.pow(2).mean(),)
    """,
    "sequence parallel on the first dimension": """
    # 2 slices, training
    # x0: grad[4, 3, 4]
    # self.w0: parameter[4, 4]
    # self.w1: parameter[4]
    def forward(self, x0):
        h = x0 * 1.0
        part = reduce_scatter(h.transpose(0, 1).transpose(0, 1) @ self.w0, 0, world)
        h = h + all_gather(F.layer_norm(part, (4,), self.w1), 0, world)
        return (h,)
    """,
    "sequence parallel on the second dimension": """
    # 3 slices, training
    # x0: grad[5, 4, 4]
    # self.w0: parameter[4, 4]
    # self.w1: parameter[4]
    def forward(self, x0):
        part = reduce_scatter(x0 @ self.w0, 1, tp)
        h = x0 + all_gather(F.rms_norm(part, (4,), self.w1, 1e-3), 1, tp)
        return (h,)
    """,
    "attention and masked cross entropy": """
    # 2 slices, training
    # x0: tokens[3, 4] < 15
    # x1: mask[3, 4]
    # x2: labels[3, 4] < 7
    # self.table: parameter[15, 4]
    # self.w0: parameter[4, 4]
    # self.w1: parameter[4, 4]
    # self.w2: parameter[4, 4]
    # self.w3: parameter[4, 4]
    def forward(self, x0, x1, x2):
        h = F.embedding(x0, self.table)
        q = (h @ self.w0).unflatten(-1, (2, -1)).transpose(1, 2)
        k = (h @ self.w1).unflatten(-1, (2, -1)).transpose(1, 2)
        v = (h @ self.w2).unflatten(-1, (2, -1)).transpose(1, 2)
        a = (q @ k.transpose(-1, -2)).masked_fill(~x1[:, None, None, :], -1e9).softmax(-1) @ v
        h = h + all_reduce(a.transpose(1, 2).flatten(2) @ self.w3, tp)
        loss = F.cross_entropy((h @ self.table.t()).flatten(0, 1), x2.flatten())
        return (loss,)
    """,
    "flat tokens, inference": """
    # 3 slices, inference
    # x0: float[6, 3, 4]
    # self.w0: parameter[4, 4]
    def forward(self, x0):
        flat = all_reduce((x0.reshape(-1, 4) @ self.w0).sigmoid(), tp)
        flat = all_reduce((flat @ self.w0).sigmoid(), tp)
        return (flat.view(6, 3, 4),)
    """,
    "joined around a mean and a cumulative sum of the batch": """
    # 2 slices, training
    # x0: grad[5, 3, 4]
    # self.w0: parameter[4, 4]
    # self.b0: buffer[4]
    # self.b1: buffer[4]
    def forward(self, x0):
        h = x0
        for _ in range(4): h = h + all_reduce((h @ self.w0).tanh(), tp)
        h = F.batch_norm(h.flatten(0, 1), self.b0, self.b1, training=True).view_as(h)
        h = h - h.mean(0, keepdim=True) + h.cumsum(0)
        for _ in range(4): h = h + all_reduce((h @ self.w0).tanh(), tp)
        return (h,)
    """,
}
