"""Runs, one file each: `--config=configs/dml.py` means `dml.py` here, unless there is such a file where it is typed.

A config of your own begins with `from chexjax.configs import common` and gives, from `get_config`, what
`common.base()` holds with other values.
"""
