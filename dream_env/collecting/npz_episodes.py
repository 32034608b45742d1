"""Others' recordings, a folder of Dreamer-style ``.npz`` episodes (see ``npz_file``), as a Minari dataset like all of ours.

Row t of such a file holds the action that led to it, and row 0 none; Minari keeps T + 1 observations and T actions. So rows
1 … T of actions and rewards are taken, and nothing is shifted: ``Demos`` puts each action back on the row it came from.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer

from dream_env.collecting.claims import check_dataset_id, claim, finished, print_summary
from dream_env.collecting.npz_file import PICTURES, NpzEpisode, read_npz, wrong
from dream_env.errors import DatasetError
from dream_env.progress import progress_bar
from dream_env.real.environments import check_recordable, environment_id, make_environment, protocol
from dream_env.real.robots import ROBOTS, Rendering
from dream_env.recordings.recording import join_episodes, unfinished_folder, write_episode

_ROUNDING = 1e-5
"""How far outside its bounds an action may lie for float32's sake; it is put onto them."""


class Elsewhere(gymnasium.Env[Any, Any]):
    """Stands for an environment in which others played: what recording asks of one, and no more."""

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], spec: EnvSpec | None
    ) -> None:
        self.observation_space, self.action_space, self.spec = observation_space, action_space, spec


def convert(
    folder: Path,
    environment: str | None,
    dataset: str,
    *,
    rendering: Rendering | None = None,
    max_steps: int | None = None,
    progress: bool = True,
) -> minari.MinariDataset:
    """Make a Minari dataset of a folder of ``.npz`` episodes; called again it returns it, or goes on after a kill.

    All files are checked before the first one is written.

    Args:
        folder: its ``.npz`` files, in the order of their names, are the episodes; deeper folders are not looked into.
        environment: where they were played, by short name or Gymnasium id: it gives the bounds of actions, and the
            ``EnvSpec`` that agents are evaluated in. With None actions must lie in [−1, 1].
        dataset: Minari id to keep them under.
        rendering: how robots' pictures were drawn: written down, and agents are evaluated with the same. ``"default"`` unless
            given, for others' are MuJoCo's own, with shadows and smooth edges, as CMIL's of the Kitchen.
        max_steps: steps after which the environment cuts an episode off; its own limit unless given.
        progress: show a bar and the result.

    Raises:
        DatasetError: there is no file, or one is broken, incomplete, not finite, in another order, of other shapes than the
            first, or holds actions that the environment does not take.
        ConfigError: the environment cannot be made, or the dataset's id is taken by other recordings.
    """
    check_dataset_id(dataset)
    gym_id = environment and environment_id(environment)
    if rendering is None and gym_id in ROBOTS.values():
        rendering = "default"
    files = _files(folder)
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    identity = {
        "environment": gym_id or "", "files": len(files), "sha256": digest.hexdigest(), "rendering": rendering,
        "max_steps": max_steps,
    }  # fmt: skip
    converted = finished(dataset, identity)
    if converted is None:
        first = read_npz(files[0])
        env = _elsewhere(first, gym_id, rendering, max_steps)
        for path in files:
            episode = read_npz(path)
            _check_alike(first, episode)
            _actions(episode, env.action_space)
        claim(dataset, identity)
        converted = _write(files, env, dataset, identity, progress)
    if progress:
        print_summary(converted)
    return converted


def _files(folder: Path) -> list[Path]:
    folder = folder.expanduser()
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}; expected one with .npz episodes")
    files = sorted(folder.glob("*.npz"))
    if not files:
        deeper = sorted({str(path.parent) for path in folder.rglob("*.npz")})
        hint = f" There are some in {', '.join(deeper[:3])}." if deeper else ""
        raise DatasetError(f"{folder} holds no .npz episodes.{hint} Name the folder that they lie in")
    return files


def _elsewhere(
    first: NpzEpisode, environment: str | None, rendering: Rendering | None, max_steps: int | None
) -> Elsewhere:
    """Spaces as recorded, bounds and spec as the environment has them."""
    seen: dict[str, spaces.Space[Any]] = {
        name: spaces.Box(0, 255, x.shape[1:], np.uint8)
        if x.dtype == np.uint8
        else spaces.Box(-np.inf, np.inf, x.shape[1:], np.float32)
        for name, x in first.observations.items()
    }
    if environment is None:
        width = first.actions.shape[1]
        return Elsewhere(spaces.Dict(seen), spaces.Box(-1.0, 1.0, (width,), np.float32), None)
    size, channels = first.observations[PICTURES].shape[-2:]
    env = make_environment(environment, size=size, gray=channels == 1, max_steps=max_steps, rendering=rendering)
    check_recordable(env)
    alone = len(env.observation_space.shape or ()) == 3  # an Atari game shows a picture and nothing else
    space = seen[PICTURES] if alone else spaces.Dict(seen)
    stand_in = Elsewhere(space, env.action_space, env.spec)
    env.close()
    return stand_in


def _check_alike(first: NpzEpisode, episode: NpzEpisode) -> None:
    for name in sorted(first.shapes.keys() | episode.shapes.keys()):
        one, other = first.shapes.get(name, "not there"), episode.shapes.get(name, "not there")
        if one != other:
            raise wrong(episode.path, f"{name!r} is {other} a row, but {one} in {first.path.name}: not one dataset")


def _actions(episode: NpzEpisode, space: spaces.Space[Any]) -> np.ndarray:
    """The actions as the environment takes them."""
    actions, path = episode.actions, episode.path
    if isinstance(space, spaces.Discrete):
        one_hot = ((actions == 0) | (actions == 1)).all(axis=1) & (actions.sum(axis=1) == 1)
        if actions.shape[1] != space.n or not one_hot.all():
            row = 1 + int(np.argmin(one_hot))
            raise wrong(path, f"row {row} holds the action {actions[row - 1]}; expected one-hot vectors for {space}")
        choices: np.ndarray = space.start + actions.argmax(axis=1)
        return choices
    if not isinstance(space, spaces.Box) or actions.shape[1:] != space.shape:
        raise wrong(path, f"its actions are vectors of {actions.shape[1]}, but the environment takes {space}")
    outside = (actions < space.low - _ROUNDING) | (actions > space.high + _ROUNDING)
    if outside.any():
        row, entry = np.argwhere(outside)[0]
        raise wrong(
            path,
            f"row {row + 1} holds an action whose entry {entry} is {actions[row, entry]:g}, outside "
            f"{space.low[entry]:g} … {space.high[entry]:g}; name the environment that was played, or scale the actions",
        )
    inside: np.ndarray = np.clip(actions, space.low, space.high).astype(space.dtype)
    return inside


def _write(
    files: Sequence[Path], env: Elsewhere, dataset: str, identity: dict[str, Any], progress: bool
) -> minari.MinariDataset:
    folder = unfinished_folder(dataset)
    parts = [folder / f"episode_{index:05d}.hdf5" for index in range(len(files))]
    try:
        with progress_bar("convert", len(files), "episodes", enabled=progress) as advance:
            for done, (path, part) in enumerate(zip(files, parts, strict=True), start=1):
                if not part.exists():
                    write_episode(part, _buffer(read_npz(path), env), env)
                advance(done)
        drawn = {} if identity["rendering"] is None else {"rendering": identity["rendering"]}
        facts = {
            "algorithm_name": "recordings of others",
            "description": f"{len(files)} Dreamer-style .npz episodes from the folder {files[0].resolve().parent.name!r}, the "
            f"first {files[0].name}, with the pictures found there"
            + "".join(f" ({rendering} rendering)" for rendering in drawn.values()),
            "collected": identity,
            "protocol": {**protocol(env), **drawn, "pictures": "found in .npz files"},
        }
        return join_episodes(dataset, parts, env, facts)
    except OSError as error:
        raise DatasetError(
            f"could not write the recordings to {folder}: {error}. Make room or mend it; the same command goes on where "
            f"it was"
        ) from error


def _buffer(episode: NpzEpisode, env: Elsewhere) -> EpisodeBuffer:
    steps = len(episode.actions)
    not_yet = [False] * (steps - 1)
    seen = episode.observations
    return EpisodeBuffer(
        observations=seen if isinstance(env.observation_space, spaces.Dict) else seen[PICTURES],
        actions=_actions(episode, env.action_space), rewards=episode.rewards.astype(float).tolist(),
        terminations=[*not_yet, episode.terminated], truncations=[*not_yet, not episode.terminated],
    )  # fmt: skip
