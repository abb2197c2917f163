"""The types of torch's operators, which have no public names."""

from __future__ import annotations

from typing import Any

import torch
import torch._higher_order_ops.cond  # registers it
import torch._higher_order_ops.flex_attention  # registers its two operators
import torch._inductor.inductor_prims  # registers Inductor's own operators

OpOverload = torch._ops.OpOverload
HigherOrderOperator = torch._ops.HigherOrderOperator
#: The ``prims`` namespace, which includes Inductor's operators (``inductor_random``, ...).
prims: Any = torch.ops.prims
#: The functional collectives.
c10d: Any = torch.ops._c10d_functional
flex_attention: Any = torch.ops.higher_order.flex_attention
flex_attention_backward: Any = torch.ops.higher_order.flex_attention_backward
cond: Any = torch.ops.higher_order.cond
