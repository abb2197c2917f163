"""What the common parent of all ranks does once: import Inductor and let it compile something.

The same with this package, whose modules are imported when something is compiled.

At its first compile a process imports and traces patterns for some seconds. There is no backward
here, since autograd refuses to work in a process that was forked after one.
"""

import torch

from tests.environment import quicken_inductor

quicken_inductor()
torch.set_num_threads(1)
with torch.no_grad():
    torch.compile(torch.sin)(torch.ones(2))
    torch._dynamo.reset()
    torch.compile(torch.sin, backend="domino", options={"lowering": "eager"})(torch.ones(2))
torch._dynamo.reset()
