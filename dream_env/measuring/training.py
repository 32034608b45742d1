"""How a policy was trained, as a result row tells it: names, and all that was not left as it is by default.

``options`` is one JSON object. Its keys are the flags that repeat the training:

- of ``dream-env imitate``: ``steps`` and ``num_envs``, or ``online_steps``; ``precision`` other than float32; the
  learner's options by their names (``entropy``), the reward's with its name before them (``ditto.metric``), since both may
  have one of the same name
- of ``dream-env fit``, with ``fit.`` before them: what differs from the preset, ``held_out``, ``also``; ``seed`` and
  ``dataset`` only where they are not the policy's own. ``wm`` for one that comes with the package, and where nobody knows how
  the model was fitted
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dream_env.checkpoint import SHIPPED_PREFIX, read_json
from dream_env.errors import PluginError
from dream_env.fitting.fit import FitConfig
from dream_env.model.world_model import PRESETS, WorldModelConfig
from dream_env.plugin import available, find, plugin_defaults
from dream_env.run_folder import plain
from dream_env.spaces import ObservationConfig

_FIT_NOISE = ("log_every", "test_every", "seed", "precision")
"""Options of a fit that change no result, or that a row tells elsewhere."""


def told(
    meta: dict[str, Any], run: dict[str, Any], fit: dict[str, Any], config: WorldModelConfig, dataset: str = ""
) -> dict[str, Any]:
    """Columns of a row.

    Args:
        meta: an agent's ``meta.json``.
        run: its ``run.json``.
        fit: how its world model was fitted, as the model's ``meta.json`` says; empty of one that does not.
        config: of the world model.
        dataset: of the episodes that were imitated.
    """
    reward, learner = meta.get("reward", {}), meta.get("options", {})
    rewarded = _follows_reward(learner)
    options = _amounts(run) | changed_options(learner)
    if rewarded:
        name = reward_name(reward)
        options |= {f"{name}.{option}": value for option, value in changed_options(reward).items()}
    if fit:
        options |= {f"fit.{option}": value for option, value in _fit_options(fit, run, dataset).items()}
    if "wm" in run and (not fit or str(run["wm"]).startswith(SHIPPED_PREFIX)):
        options["wm"] = run["wm"]
    return {
        "method": reward_name(reward) if rewarded else learner_name(learner),
        "learner": learner_name(learner) if rewarded else "",
        "warm_start": str(learner.get("warm_start", "")),
        "options": json.dumps(options, sort_keys=True) if options else "",
        "n_expert": int(meta.get("demos", 0)), "horizon": int(run.get("horizon", 15)),
        "preset": preset_of(config), "seed": int(run.get("seed", 0)),
    }  # fmt: skip


def read_if_there(path: Path) -> dict[str, Any]:
    """A JSON object, empty if there is no such file."""
    return dict(read_json(path)) if path.is_file() else {}


def preset_of(config: WorldModelConfig) -> str:
    """Name of the preset, or custom for a changed one; the arithmetic it was trained in does not count."""
    for name in PRESETS:
        preset = getattr(WorldModelConfig, name.replace("-", "_"))()
        if asdict(config) | {"precision": ""} == asdict(preset) | {"precision": ""}:
            return str(name)
    return "custom"


def reward_name(identity: dict[str, Any]) -> str:
    """The reward's name, from what ``plugin_identity`` gave."""
    if not identity:
        return "unknown"
    try:
        return str(find("rewards", identity["class"]).name)
    except PluginError:  # a class that only the training script had
        return str(identity["class"].rpartition(":")[2]).lower()


def learner_name(identity: dict[str, Any]) -> str:
    """The learner's name, likewise."""
    if not identity:
        return "unknown"
    names = [name for name, where in available("learners").items() if where.split(" ")[0] == identity["class"]]
    return names[0] if names else str(identity.get("algorithm", identity["class"]))


def changed_options(identity: dict[str, Any]) -> dict[str, Any]:
    """The options of a plug-in that are not at their defaults, or have none; all of them if it is not installed here."""
    if not identity:
        return {}
    try:
        default = plugin_defaults(find("rewards", identity["class"]))  # by module:Class, so of learners too
    except PluginError:
        default = {}
    given = {name: value for name, value in identity.items() if name not in ("class", "warm_start")}
    return {name: value for name, value in given.items() if default.get(name) != value}


def _follows_reward(identity: dict[str, Any]) -> bool:
    try:
        return bool(find("learners", identity["class"]).follows_reward) if identity else True
    except (PluginError, AttributeError):
        return True


def _amounts(run: dict[str, Any]) -> dict[str, Any]:
    names = ("online_steps",) if run.get("online_steps") else ("steps", "num_envs", "precision")
    return {name: run[name] for name in names if name in run and run[name] != "float32"}


def _fit_options(fit: dict[str, Any], run: dict[str, Any], dataset: str) -> dict[str, Any]:
    preset = fit["preset"].replace("-", "_")
    sizes = {"": FitConfig, "model.": WorldModelConfig, "observation.": ObservationConfig}
    given = {"": fit["train"], "model.": fit["model"], "observation.": fit["observation"]}
    options: dict[str, Any] = {"held_out": fit["held_out"]}
    options |= {"also": fit["also"]} if fit.get("also") else {}
    options |= {"dataset": fit["dataset"]} if dataset and fit["dataset"] != dataset else {}
    for prefix, config in sizes.items():
        changed = _differing(given[prefix], plain(asdict(getattr(config, preset)())))
        options |= {prefix + name: value for name, value in changed.items() if name not in _FIT_NOISE}
    if fit["train"]["seed"] != run.get("seed", 0):
        options["seed"] = fit["train"]["seed"]
    return options


def _differing(given: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """``a.b`` → value, of what is not in ``default`` just so."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(default.get(name), dict):
            found |= {f"{name}.{inner}": x for inner, x in _differing(value, default[name]).items()}
        elif name not in default or default[name] != value:
            found[name] = value
    return found
