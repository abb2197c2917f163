"""Measuring a process group's collectives and a device's rates, on the real thing.

``settings`` says what to measure, ``ranks`` holds the processes together, ``clock`` times,
``collectives`` and ``device`` measure, ``run`` puts them in order and ``launch`` starts ranks on
the CPU. The command line is in ``tools/cli``. Nothing here emulates: what is measured becomes a
link table that an emulation can then use.
"""
