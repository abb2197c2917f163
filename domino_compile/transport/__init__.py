"""A transport for overlapped collectives that holds no multiprocessors.

Payloads travel between symmetric buffers by the copy engines, and signals are memory operations of
CUDA streams. ``protocol`` has the order of copies and signals and the proof that it neither
overwrites a buffer early nor deadlocks; ``wire`` runs it for one process group; ``symmetric`` and
``shared`` are the memory and the queues on GPUs and on the CPU; ``ops`` has the operations that
compiled graphs call; ``choice`` says which collectives can use them.
"""
