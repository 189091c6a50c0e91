"""The config that a run left: `--config=WORKDIR/config.json`, or the workdir itself, means `saved.py:THAT_FILE`."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from chexjax.configs import common
from chexjax.errors import ConfigError, reason_of


def get_config(path: str) -> ConfigDict:
    """The config in a JSON file, with the fields' own types; fields that came after it do as runs did before.

    Raises:
      ConfigError: the file is not there, or holds no config.
    """
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(saved, dict) or "networks" not in saved:
            raise ValueError("it is no config of a run")
        return common.retype(common.complete(common.complete(ConfigDict(saved), later_only=True)))
    except FileNotFoundError:
        raise ConfigError(f"the config file {path} does not exist") from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as a config: {reason_of(error)}") from None
