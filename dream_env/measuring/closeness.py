"""How close a policy is to the expert, measured inside the dream and without the real environment.

DITTO (Fig. 2) found the distance in latent space to fall as the real return rises; that is worth looking at, not worth
believing: the dream's reward can rise while the return falls. So these numbers stand beside real returns.
"""

import copy
import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from jaxtyping import Float, Int
from torch import Tensor

from dream_env.checkpoint import write_file
from dream_env.device import own_random_numbers
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, DatasetError
from dream_env.functional import max_cosine
from dream_env.model.encoded import EncodedDemos
from dream_env.model.recorded import Recorded
from dream_env.model.world_model import WorldModel
from dream_env.plugin import Policy, Reward, Transition

Act = Callable[[Any, int], Any]
"""Observations of all dreams and the step's index to their actions."""

SEQUENCE = 16
"""Steps in a row on which a policy is compared with the expert, so that one with a memory has something to remember."""
LEAD_IN = 8
"""Steps before them that a policy of observations is shown too: the filter had the whole episode to find its state."""


def latent_distance(
    policy: Policy, dream: DreamEnv, *, deterministic: bool = False, rows: np.ndarray | None = None, seed: int = 0
) -> float:
    """``1 − (h · hᴱ) / max(‖h‖, ‖hᴱ‖)²`` averaged over one horizon of every dream: 0 on the expert's path, at most 2.

    How alike states are is DITTO's eq. 8 on h, the deterministic half of the model state. It is this whatever reward the dream
    has, so that policies which learned from different rewards can be compared; and the dream stays as it is.

    Args:
        policy: what acts.
        dream: dreams of expert windows that were held out.
        deterministic: take the likeliest action instead of sampling one.
        rows: the expert row that each dream starts on; random ones, the same for the same seed, unless given.
        seed: of dream ``0``; dream ``i`` gets ``seed + i``.
    """
    alike = DreamEnv(
        dream.num_envs, wm=dream.world_model, expert=dream.expert, reward=_Likeness(), horizon=dream.horizon,
        terminate=dream.dreams.terminate, precision=dream.dreams.precision,
    )  # fmt: skip
    return 1.0 - float(_rewards(alike, _acting(policy, deterministic), rows, seed).mean())


@dataclass
class _Likeness(Reward):
    """Where a step led, beside where the expert's led; to measure with, not to learn from."""

    def __call__(self, transition: Transition) -> Float[Tensor, " batch"]:
        return max_cosine(transition.expert_latent_tp1.deter, transition.latent_tp1.deter)


def action_agreement(
    policy: Policy,
    expert: EncodedDemos,
    *,
    recorded: Recorded | None = None,
    sequences: int = 256,
    deterministic: bool = True,
) -> float:
    """How far the policy does as the expert did in the expert's own states.

    Discrete actions: the fraction of equal ones, 1 is perfect. Box: the mean squared difference, in the environment's
    own units squared, 0 is perfect.

    Args:
        policy: what acts.
        expert: demonstrations to compare with; best those that were held out.
        recorded: their recordings, which a policy of observations is shown.
        sequences: most sequences of up to ``SEQUENCE`` steps, evenly spread.
        deterministic: compare the policy's likeliest actions, else sampled ones.
    """
    if policy.observes == "observation" and recorded is None:
        raise ConfigError(
            "this policy observes observations, and encoded demonstrations have none; pass "
            "recorded=Recorded.of(world_model, expert)"
        )
    long = expert.lengths[expert.lengths >= LEAD_IN + SEQUENCE]
    shortest = int((long if len(long) else expert.lengths).min())  # a single short episode is left out
    lead_in = min(LEAD_IN, shortest - 1) if policy.observes == "observation" else 0
    length = min(SEQUENCE, shortest - lead_in)
    # An expert that slips often is followed for fewer steps.
    while (starts := _windows(expert, lead_in + length)) is None:
        lead_in, length = lead_in // 2, max(1, length // 2)
    chosen = starts[torch.linspace(0, len(starts) - 1, min(sequences, len(starts))).long()]
    state, scores = None, []
    begin = np.ones(len(chosen), dtype=bool)
    for step in range(lead_in + length):
        seen: Any
        if policy.observes == "observation":
            assert recorded is not None
            seen = recorded.at((chosen + step).cpu().numpy())
        else:
            seen = expert.latents(chosen + step).feat.cpu().numpy()
        action, state = policy.predict(seen, state, begin if step == 0 else ~begin, deterministic)
        if step < lead_in:
            continue
        theirs = expert.actions(chosen + step).cpu()
        if not theirs.is_floating_point():
            scores.append((torch.as_tensor(action) == theirs).double().mean())
        else:
            scores.append((torch.as_tensor(action) - theirs).double().square().mean())
    return float(torch.stack(scores).mean())


def _windows(expert: EncodedDemos, steps: int) -> Int[Tensor, " windows"] | None:
    """Rows from which the expert does not slip for so many steps; None if there are none, unless it is about a single step."""
    try:
        return expert.windows(steps)
    except DatasetError:
        if steps == 1:
            raise
        return None


def reward_by_step(
    world_model: WorldModel,
    expert: EncodedDemos,
    reward: Reward,
    policies: Mapping[str, Policy],
    *,
    horizon: int = 15,
    n: int = 512,
    deterministic: bool = False,
    seed: int = 0,
    path: Path | None = None,
) -> list[dict[str, float]]:
    """Mean reward of each step of a dream, for several ways to act, from the same starts and with the same noise.

    Imitation rewards have a narrow range (DITTO's of random actions in Pong is 0.96 at the first step), so a number
    means something only beside two others: the expert's own actions replayed in the dream, which even a perfect
    learner can hardly beat, and random ones.

    Args:
        world_model: the dream's.
        expert: demonstrations to start from; best those that were held out.
        reward: a plug-in; it is copied, and what it has learned stays as it is.
        policies: further lines by name.
        horizon: steps of a dream.
        n: number of dreams.
        deterministic: take the policies' likeliest actions.
        seed: of starts, noise and random actions.
        path: where to write the rows as CSV.

    Returns:
        A row a step: ``step`` (from 1), ``expert``, ``random``, and each policy.
    """
    starts = expert.windows(horizon)
    chosen = np.random.default_rng(seed).integers(len(starts), size=n)
    rows = starts[torch.as_tensor(chosen, device=starts.device)]
    learned = reward.state_dict()

    def dream() -> DreamEnv:
        # A copy each: preparing would make an adversary forget, and its update would teach it between two lines.
        own = copy.deepcopy(reward)
        env = DreamEnv(n, wm=world_model, expert=expert, reward=own, horizon=horizon)
        if learned:
            own.load_state_dict(learned)
        return env

    space = batch_space(world_model.action_spec.space, n)
    space.seed(seed)
    ways: dict[str, Act] = {
        "expert": lambda _, step: expert.actions(rows + step),
        "random": lambda _, step: space.sample(),
        **{name: _acting(policy, deterministic) for name, policy in policies.items()},
    }
    lines = {name: _rewards(dream(), act, rows.cpu().numpy(), seed) for name, act in ways.items()}
    table = [
        {"step": float(step + 1), **{name: float(line[step].mean()) for name, line in lines.items()}}
        for step in range(horizon)
    ]
    if path is not None:
        write_file(path, _csv(table))
    return table


def _acting(policy: Policy, deterministic: bool) -> Act:
    state: tuple[np.ndarray, ...] | None = None

    def act(observation: Any, step: int) -> np.ndarray:
        nonlocal state
        seen = observation.cpu().numpy() if isinstance(observation, torch.Tensor) else observation
        action, state = policy.predict(seen, state, np.full(len(seen), step == 0), deterministic)
        return action

    return act


def _rewards(dream: DreamEnv, act: Act, rows: np.ndarray | None, seed: int) -> np.ndarray:
    """Rewards (H, N) of one horizon of all dreams; torch's random state, which learners use, stays as it was."""
    observation, _ = dream.reset(seed=seed, options=None if rows is None else {"rows": rows})
    rewards = []
    with own_random_numbers(dream.device, seed):
        for step in range(dream.horizon):
            observation, *_ = dream.step(act(observation, step))
            rewards.append(dream.last_rewards.cpu().numpy())
    return np.stack(rewards)


def _csv(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
    return text.getvalue()
