"""Matrix products that are configured for the multiprocessors a collective leaves.

A library chooses a product's tiles for the whole device. Beside a collective, whose thread blocks
hold some multiprocessors, the same tiles need another wave and take 1.4 to 1.9 times as long.
The pass ``products`` tells each product during which share of its time a collective runs. When the
first product of a shape runs, ``tune`` times the algorithms that cuBLASLt has for it, alone and
beside a kernel that holds as many multiprocessors. The best one for that share is used from
then on.

================  ==============================================================================
``cublaslt``      cuBLASLt's C interface
``tune``          times algorithms, alone and beside a kernel that holds multiprocessors
``choices``       the results, kept on disk and agreed on between ranks
``op``            the operations ``mm_beside`` and ``addmm_beside``
================  ==============================================================================
"""
