"""Models and demonstrations so small that a test needs no time: a bright square that actions move along a ring."""

import numpy as np
import torch
from gymnasium import spaces

from dream_env.device import own_random_numbers
from dream_env.latent import Latent
from dream_env.model.encoded import EncodedDemos
from dream_env.model.rssm import RSSMConfig
from dream_env.model.world_model import WorldModel, WorldModelConfig
from dream_env.plugin import Rollout, Transition
from dream_env.recordings.cache import Converted
from dream_env.recordings.demos import Demos, Source
from dream_env.spaces import ActionSpec, ObservationConfig, ObservationSpec

SIZE = 16
"""Side of the pictures."""
_ACTIONS = spaces.Discrete(3)  # left, stay, right
_SQUARE = 4


def tiny_demos(
    episodes: int = 4, steps: int = 20, *, environment: str = "ALE/Pong-v5", terminated: bool = False, seed: int = 0
) -> Demos:
    """Episodes of a square that mostly moves right, held in memory: gray pictures 16 × 16, three actions.

    Starting places and one action in five are random. The reward is 1 for each move right; learners never see it.
    """
    rng = np.random.default_rng(seed)
    actions = np.where(rng.random((episodes, steps)) < 0.8, 2, rng.integers(3, size=(episodes, steps)))
    column = np.concatenate([rng.integers(SIZE, size=(episodes, 1)), actions - 1], axis=1).cumsum(axis=1) % SIZE
    offset = (np.arange(SIZE) - column[..., None]) % SIZE < _SQUARE  # (E, T + 1, SIZE)
    rows = (np.arange(SIZE) // _SQUARE == 1)[:, None]
    images = np.where(rows & offset[..., None, :], 230, 20).astype(np.uint8)
    action_tm1 = np.concatenate([np.zeros((episodes, 1), np.int64), actions], axis=1).reshape(-1)
    spec = ObservationSpec.from_space(spaces.Box(0, 255, (SIZE, SIZE), np.uint8), ObservationConfig(size=SIZE))
    packed = images.reshape(-1, SIZE, SIZE, 1)
    meta = {
        "observation": spec.to_json(),
        "action": ActionSpec(_ACTIONS).to_json(),
        "lengths": [steps] * episodes,
        "returns": (actions == 2).sum(axis=1).tolist(),
        "terminated": [terminated] * episodes,
    }
    statistics = {"image": (packed.mean(axis=0, dtype=np.float32), packed.std(axis=0, dtype=np.float32))}
    source = Source("tiny/square-v0", environment, None, {})
    return Demos(
        source, spec.config, Converted(meta, {"image": packed}, action_tm1, np.zeros(len(action_tm1), bool), statistics)
    )


def tiny_world_model(
    *,
    observation_space: spaces.Space[np.ndarray] | None = None,
    action_space: spaces.Space[np.ndarray] | spaces.Discrete | None = None,
    environment: str = "ALE/Pong-v5",
    config: WorldModelConfig | None = None,
    ensemble: int = 1,
    continue_head: bool = False,
    gaussian: bool = False,
    seed: int = 0,
) -> WorldModel:
    """A world model with random weights and a model state of 48 numbers, for ``tiny_demos`` or any other spaces."""
    config = config or WorldModelConfig(
        rssm=RSSMConfig("gaussian" if gaussian else "categorical", 32, 4, 4, 32, ensemble=ensemble),
        width=32,
        layers=1,
        continue_head=continue_head,
    )
    pictures = spaces.Box(0, 255, (SIZE, SIZE), np.uint8)
    with own_random_numbers(torch.device("cpu"), seed):
        return WorldModel(
            config,
            ObservationSpec.from_space(observation_space or pictures, ObservationConfig(size=SIZE)),
            ActionSpec.from_space(action_space or _ACTIONS),
            Source("tiny/square-v0", environment, None, {}),
        ).eval()


@torch.no_grad()
def tiny_expert(world_model: WorldModel, episodes: int = 4, steps: int = 20, *, seed: int = 0) -> EncodedDemos:
    """Encoded demonstrations without demonstrations: what the model dreams under random actions."""
    generator = torch.Generator().manual_seed(seed)
    space = world_model.action_spec.space
    space.seed(seed)
    actions = torch.as_tensor(np.array([[space.sample() for _ in range(steps + 1)] for _ in range(episodes)]))
    actions = actions.float() if actions.is_floating_point() else actions  # as recordings are encoded
    actions[:, -1] = 0
    path = [world_model.initial(episodes)]
    for step in range(steps):
        noise = torch.rand(episodes, world_model.noise_size, generator=generator)
        path.append(world_model.imagine_step(path[-1], actions[:, step], noise))
    latent = Latent.stack(path, dim=1).map(lambda half: half.flatten(0, 1))  # (E * (T + 1), ·)
    rssm = world_model.config.rssm
    classes = 0 if rssm.latent == "gaussian" else rssm.classes
    stoch = latent.stoch
    stoch = stoch.reshape(len(stoch), -1, classes).argmax(dim=-1).to(torch.uint8) if classes else stoch.half()
    lengths = torch.full((episodes,), steps)
    return EncodedDemos(latent.deter.half(), stoch, actions.flatten(0, 1), lengths, classes, torch.arange(episodes))


@torch.no_grad()
def tiny_rollout(world_model: WorldModel, expert: EncodedDemos, num: int, horizon: int) -> Rollout:
    """Expert windows, and what random actions make of their starts."""
    generator = torch.Generator().manual_seed(0)
    starts = expert.windows(horizon)
    first = starts[torch.randint(len(starts), (num,), generator=generator)]
    rows = first + torch.arange(horizon + 1).unsqueeze(1)  # (H + 1, N)
    expert_action = expert.actions(rows[:-1])
    # The expert's own actions in another order: inside the space, whatever it is.
    action = expert_action[:, torch.randperm(num, generator=generator)]
    path = [expert.latents(first)]
    for action_t in action:
        noise = torch.rand(num, world_model.noise_size, generator=generator)
        path.append(world_model.imagine_step(path[-1], action_t, noise))
    valid = torch.ones(horizon, num, dtype=torch.bool)
    return Rollout(Latent.stack(path), action, expert.latents(rows), expert_action, valid)


def transition_of(rollout: Rollout, step: int) -> Transition:
    """One step of a rollout."""
    return Transition(
        latent_t=rollout.latent[step],
        action_t=rollout.action[step],
        latent_tp1=rollout.latent[step + 1],
        expert_latent_t=rollout.expert_latent[step],
        expert_action_t=rollout.expert_action[step],
        expert_latent_tp1=rollout.expert_latent[step + 1],
        step_t=torch.full((rollout.action.shape[1],), step),
        horizon=len(rollout.action),
    )
