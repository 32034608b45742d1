"""Videos: what the world model dreams beside what happened, and the agent playing the real environment.

H.264 in MP4 through imageio's ffmpeg, which brings its own binary; every browser plays it.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import imageio.v2 as imageio
import numpy as np
import torch

from dream_env.agent import Agent
from dream_env.device import own_random_numbers
from dream_env.errors import ConfigError
from dream_env.filtering import stack
from dream_env.latent import Latent
from dream_env.model.world_model import WorldModel
from dream_env.real.real_rooms import in_space
from dream_env.recordings.demos import Episode

Frame = np.ndarray[Any, np.dtype[np.uint8]]
"""(H, W, 3)."""

_BAR = 24
"""Height in pixels of the captions."""
_GAP = 8
"""Pixels between pictures."""
_BACKGROUND = 24
_TEXT = (220, 220, 220)
_WIDTH = 256
"""Pictures are shown at least this wide, each pixel as a square."""


def open_loop_video(
    world_model: WorldModel,
    episode: Episode,
    path: str | Path,
    *,
    context: int = 5,
    horizon: int = 45,
    windows: int = 3,
    fps: int = 8,
    seed: int = 0,
) -> Path:
    """Truth | dream | difference: the model sees ``context`` frames, then dreams ``horizon`` more by the real actions.

    ``windows`` stretches of the episode, evenly spread, are shown one below the other. In the difference grey is
    right, brighter is too bright.

    Raises:
        SpaceError: for a model without pictures.
        ConfigError: if the episode is shorter than context and horizon together.
    """
    key = world_model.image_key
    rows = context + horizon
    if episode.num_steps + 1 < rows:
        raise ConfigError(
            f"the episode has {episode.num_steps + 1} frames; context and horizon need {rows}: make one of them smaller"
        )
    spare = episode.num_steps + 1 - rows
    starts = np.unique(np.linspace(0, spare, windows + 2).astype(int)[1:-1])
    truth, dream = _open_loop(world_model, episode, starts, context, horizon, seed)  # (T, B, H, W, C)
    difference = np.clip(127.0 + dream.astype(np.float32) - truth, 0, 255).astype(np.uint8)

    def frames() -> Iterator[Frame]:
        for t in range(rows):
            seen = t < context
            step = "looks" if seen else f"dreams, step {t - context + 1}"
            captions = ("truth", f"model {step}", "difference")
            lines = [
                _side_by_side([_enlarged(x[t, b]) for x in (truth, dream, difference)], captions if b == 0 else ())
                for b in range(len(starts))
            ]
            yield np.concatenate(lines)

    assert truth.shape[2:] == key.shape
    return write_video(frames(), path, fps=fps)


@torch.no_grad()
def _open_loop(
    world_model: WorldModel, episode: Episode, starts: np.ndarray, context: int, horizon: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    name, device = world_model.image_key.name, world_model.device
    rows = starts + np.arange(context + horizon)[:, None]  # (T, B)
    obs = {key: torch.as_tensor(np.asarray(x[rows[:context]]), device=device) for key, x in episode.obs.items()}
    actions = np.asarray(episode.action_t)
    action_tm1 = torch.as_tensor(actions[np.maximum(rows - 1, 0)], device=device)  # row 0's is masked by is_first
    is_first = torch.zeros(context, len(starts), dtype=torch.bool, device=device)
    is_first[0] = True
    noise = world_model.draw_noise(len(rows), len(starts), torch.Generator(device).manual_seed(seed))
    seen = world_model.observe(obs, action_tm1[:context], is_first, noise[:context])
    latents = [seen[t] for t in range(context)]
    for t in range(context, context + horizon):
        latents.append(world_model.imagine_step(latents[-1], action_tm1[t], noise[t]))
    dream = world_model.decode(Latent.stack(latents))[name].round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return np.asarray(episode.obs[name][rows]), dream


def agent_video(
    agent: Agent,
    environment: gymnasium.Env[Any, Any],
    path: str | Path,
    seed: int = 0,
    *,
    deterministic: bool = True,
    decoded: bool = True,
    max_steps: int = 3000,
    fps: int = 30,
) -> Path:
    """One real episode; beside it, what the world model makes of it.

    Args:
        agent: what plays.
        environment: what it plays; made with ``render_mode="rgb_array"`` its own pictures are shown, else what the
            agent sees.
        path: of the MP4.
        seed: of the episode, the filter and sampled actions.
        deterministic: take the likeliest action instead of sampling one.
        decoded: show the model's reconstruction too, where it has pictures.
        max_steps: longer episodes are cut.
        fps: frames a second; a step is a frame.
    """
    has_picture = any(key.kind == "image" for key in agent.world_model.observation_spec.keys)
    decoded = decoded and agent.policy.observes == "latent"  # the filter does not run for a policy of observations
    if environment.render_mode != "rgb_array" and not has_picture:
        raise ConfigError(
            "there is nothing to show: this environment was made without render_mode='rgb_array', and its observation "
            "has no picture"
        )

    def frames() -> Iterator[Frame]:
        observation, _ = environment.reset(seed=seed)
        state, total, over = agent.start([seed]), 0.0, False
        first = np.ones(1, dtype=bool)
        for _ in range(max_steps):
            action, state = agent.predict(stack([observation]), state, first, deterministic)
            pictures = [_real_picture(agent.world_model, environment, observation)]
            if decoded and has_picture:
                pictures.append(_enlarged(agent.world_model.render(state.latent)[0], pictures[0].shape[0]))
            yield _side_by_side(pictures, (f"return {total:g}", "what the model sees")[: len(pictures)])
            if over:
                return
            chosen = in_space(action[0], environment.action_space)
            observation, reward, terminated, truncated, _ = environment.step(chosen)
            total, over, first = total + float(reward), terminated or truncated, np.zeros(1, dtype=bool)

    with own_random_numbers(agent.world_model.device, seed):
        return write_video(frames(), path, fps=fps)


def _real_picture(world_model: WorldModel, environment: gymnasium.Env[Any, Any], observation: Any) -> Frame:
    if environment.render_mode == "rgb_array":
        return _enlarged(np.asarray(environment.render()))
    packed = world_model.observation_spec.pack(observation)
    return _enlarged(packed[world_model.image_key.name])


# -------------------------------------------------------------------------------------------------- frames and files


def write_video(frames: Iterable[Frame], path: str | Path, *, fps: int) -> Path:
    """Write frames as they come, under a temporary name until the last one is there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with _writer(temporary, fps) as writer:
            for frame in frames:
                height, width = frame.shape[:2]
                even = ((0, height % 2), (0, width % 2), (0, 0))  # what the usual pixel format of H.264 needs
                writer.append_data(np.pad(frame, even))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def _writer(path: Path, fps: int) -> Iterator[Any]:
    options = {"codec": "libx264", "macro_block_size": 1, "quality": 8}
    writer = imageio.get_writer(path, format="FFMPEG", mode="I", fps=fps, **options)
    try:
        yield writer
    finally:
        writer.close()


def _enlarged(picture: np.ndarray, height: int | None = None) -> Frame:
    """Gray or RGB to RGB; every pixel as a square until the picture is wide enough, or stretched to a height."""
    if picture.ndim == 2 or picture.shape[-1] == 1:
        picture = np.repeat(picture.reshape(*picture.shape[:2], 1), 3, axis=-1)
    if height is not None:
        width = round(picture.shape[1] * height / picture.shape[0])
        return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    scale = max(1, -(-_WIDTH // picture.shape[1]))
    return np.asarray(picture.repeat(scale, axis=0).repeat(scale, axis=1), dtype=np.uint8)


def _side_by_side(pictures: list[Frame], captions: tuple[str, ...] = ()) -> Frame:
    height = max(picture.shape[0] for picture in pictures)
    columns = []
    for i, picture in enumerate(pictures):
        column = np.full((height + _GAP + (_BAR if captions else 0), picture.shape[1] + _GAP, 3), _BACKGROUND, np.uint8)
        top = _BAR if captions else 0
        column[top : top + picture.shape[0], : picture.shape[1]] = picture
        if captions:
            cv2.putText(column, captions[i], (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _TEXT, 1, cv2.LINE_AA)
        columns.append(column)
    return np.concatenate(columns, axis=1)
