"""Matrix products that run beside a collective: configured for the multiprocessors that are left.

A library chooses a product's tiles for the whole device. Beside a collective, whose thread blocks
hold some multiprocessors, the same tiles need another wave and take 1.4 to 1.9 times as long.
The pass ``products`` tells products for which part of their time they fly under a collective; the
first time one of a shape runs, ``tune`` times the algorithms that cuBLASLt has for it, alone and
beside a kernel that holds as many multiprocessors, and the best for that part is used from then on.

================  ==============================================================================
``cublaslt``      cuBLASLt's C interface
``tune``          times algorithms, alone and beside a kernel that holds multiprocessors
``choices``       what was found: kept on disk, agreed between ranks
``op``            the operations ``mm_beside`` and ``addmm_beside``
================  ==============================================================================
"""
