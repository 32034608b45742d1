"""An agent of real Pong, so small that a test needs no time: a tiny model with random weights and a linear policy."""

from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces

from dream_env.agent import Agent
from dream_env.plugin import Learner, Policy
from dream_env.real.environments import make_environment
from dream_env.tiny import tiny_world_model

PONG = spaces.Box(0, 255, (64, 64, 1), np.uint8)


@dataclass
class LinearLearner(Learner):
    def learn(self, dream, steps, *, seed=0, progress=None, store=None):
        raise NotImplementedError

    @classmethod
    def restore(cls, config, weights):
        policy = LinearPolicy(*config["shape"])
        policy.weight = weights["weight"]
        return policy


class LinearPolicy(Policy):
    def __init__(self, feat: int, actions: int) -> None:
        self.weight = torch.randn(feat, actions, generator=torch.Generator().manual_seed(0))

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        logits = torch.as_tensor(observation) @ self.weight
        if deterministic:
            return logits.argmax(dim=-1).numpy(), None
        return torch.distributions.Categorical(logits=logits).sample().numpy(), None

    def config(self):
        return {"shape": list(self.weight.shape)}

    def state_dict(self):
        return {"weight": self.weight}


def pong_model(seed: int = 0):
    return tiny_world_model(observation_space=PONG, action_space=spaces.Discrete(6), seed=seed)


def short_pong(**options):
    return make_environment("pong", max_steps=20, **options)


def linear_agent(world_model, **options):
    return Agent(world_model, LinearPolicy(world_model.feat_size, world_model.action_spec.size), **options)
