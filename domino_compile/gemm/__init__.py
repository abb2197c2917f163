"""Matrix products that run beside a collective: configured for the multiprocessors that are left.

A library chooses a product's tiles for the whole device. Beside a collective, whose thread blocks
hold some multiprocessors, the same tiles need another wave and take 1.4 to 1.9 times as long.
The pass ``products`` marks the products that fly under a collective; the first time one of a shape
runs, ``tune`` times the algorithms that cuBLASLt has for it beside a kernel that holds as many
multiprocessors, and the best is used from then on.

================  ==============================================================================
``cublaslt``      cuBLASLt's C interface
``tune``          times algorithms beside a kernel that holds multiprocessors
``choices``       what was chosen: kept on disk, agreed between ranks
``op``            the operations ``mm_beside`` and ``addmm_beside``
================  ==============================================================================
"""
