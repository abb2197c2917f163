"""Measures the real collectives of a process group, and the rates of a device.

``settings`` says what to measure, ``ranks`` connects the processes, ``clock`` times calls,
``collectives`` and ``device`` measure, and ``run`` calls them in order. The command line is in
``tools/cli``. Nothing here is emulated: the measurements become a link table, which an emulation
can then use.
"""
