"""The commands, a module each: what may be typed, its help, and in which order things are checked.

A command's module loads what computes after its flags are read, inside `main`, so that `--help` and a mistyped flag are
answered at once. `python -m chexjax.PLACE` leads here from the module that does the work, before that loads its own
libraries; `chexjax NAME` goes by the table in `chexjax.cli`. `train`, `evaluate` and `study` take a config, whose flags
are in `chexjax.main`.
"""
