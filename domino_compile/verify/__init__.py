"""Proof that the passes leave a program as it was (``check``), and that the order holds.

A pass leaves a witness (``claims``): which values after it stand for which values before. The
checker takes both graphs as plain data (``plain``, ``read``) and the witness, none of which it
trusts, and establishes each claim from those of its operands:

=============  ===================================================================================
``check``      walks through the graph after a pass; results, effects
``collectives``  none lost, none doubled, none with other ranks; waits
``slots``      the option ``transport``: waits, releases and slots (``transported``: its operations)
``part``       one thing to prove: the operations between values that are established
``elements``   by structure: both forms read the same elements in the same order (``movements``:
               where an element of a view comes from; ``reads``: what an element is computed from)
``flex``       FlexAttention, by structure
``numbers``    by numbers: both forms agree on random values in float64, on all ranks
``sizes``      small sizes in place of large ones, for the numbers
``interpret``  runs operations (``kernels``: attention kernels by their definition; ``narrow``:
               float8 and products of it)
``uninitialised``  memory that nothing has written
``verifier``   checks each pass of a compile; ``certificate``: what was established, as a file
=============  ===================================================================================

What it takes for granted: that torch's operations mean the same in both graphs and at other sizes;
that Inductor, which runs between and behind the passes, is right; and what a certificate lists as
taken to hold, such as that a norm's weight is the same on all ranks of sequence parallelism.
"""
