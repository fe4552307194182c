# SPDX-License-Identifier: Apache-2.0
"""`--hardware` and `--set`: from a preset's name or a TOML file, and single fields, to a hardware configuration.

A file holds fields of `HardwareConfig`, and perhaps `base`, the preset from which the others come (without it: the
fields' defaults; `lanes` must then be given). A configuration from a file bears the file's name without its ending, a
changed one a `*` behind its name; two configurations are the same hardware if their hash is the same, whatever their
names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgemoe.hw.contract.config import LISTS, PRESETS, HardwareConfig, preset
from edgemoe.models.compatibility import tomllib
from edgemoe.models.errors import EdgemoeError

TEXTS = ("name", "weight_bits", *LISTS)  # fields that are no number


def configured(given: str, changes: Sequence[str] | None = None) -> HardwareConfig:
    """The hardware of `--hardware given` and of every `--set` in `changes`;
    EdgemoeError in one line if there is no such hardware.
    """
    return changed(read(Path(given)) if given.lower().endswith(".toml") else preset(given), changes)


def changed(base: HardwareConfig, changes: Sequence[str] | None) -> HardwareConfig:
    """`base` with each of `field=value`; of a field that is given twice the last counts."""
    values: dict[str, object] = {}
    for change in changes or ():
        name, equals, value = (part.strip() for part in change.partition("="))
        if not (name and equals and value):
            raise EdgemoeError(f"--set {change[:60]!r}: expected FIELD=VALUE, as in rows=400")
        values[name] = value if name in TEXTS else _number(value)
    if not values:
        return base
    # Under the name that it will have, for messages.
    found = _named(HardwareConfig.from_fields({"name": f"{base.name.rstrip('*')}*"} | values, base))
    return base if replace(found, name=base.name) == base and "name" not in values else found


def read(path: Path) -> HardwareConfig:
    """A configuration from a TOML file."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgemoeError(f"cannot read hardware {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise EdgemoeError(f"hardware {path} is no TOML file: {error}") from error
    base = values.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise EdgemoeError(f"hardware {path}: base must be a preset's name in quotes, not {base!r}")
    try:
        name = re.sub(r"[^\w.+-]+", "-", path.stem, flags=re.ASCII)
        return _named(HardwareConfig.from_fields({"name": name} | values, None if base is None else preset(base)))
    except EdgemoeError as error:
        raise EdgemoeError(f"{path}: {error}") from error


def to_toml(config: HardwareConfig) -> str:
    """A configuration as `read` takes it."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in asdict(config).items()]
    return "\n".join(
        ["# SPDX-License-Identifier: Apache-2.0", f"# Configuration hash 0x{config.hash:08X}.", *lines, ""]
    )


def option(config: HardwareConfig, file: str) -> str:
    """What to write behind `--hardware`: the preset's name, or the file that holds a configuration which is none."""
    return config.name if PRESETS.get(config.name) == config else file


def _named(config: HardwareConfig) -> HardwareConfig:
    """The configuration, if scripts and documents can hold its name as it is."""
    if not re.fullmatch(r"[\w.+-]{1,60}\*?", config.name, re.ASCII):
        raise EdgemoeError(
            f"hardware {config.name[:80]!r}: its name must be 1 to 60 letters, digits or any of _.+-, and perhaps a * "
            f"behind them"
        )
    return config


def _number(value: str) -> object:
    try:
        return int(value)
    except ValueError:
        return value  # which the configuration refuses by name
