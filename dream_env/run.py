"""``dream-env run pong``: all stages one after another, with defaults for two cores."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from dream_env.checkpoint import read_json, write_json
from dream_env.collecting.collect import CollectConfig, collect
from dream_env.device import check_device
from dream_env.learning.on_policy import resolve_learner
from dream_env.measuring.evaluation import EvaluateStage, evaluate_stage
from dream_env.real.environments import environment_id
from dream_env.showing.report import report
from dream_env.stages import FitStage, ImitateStage, fit_stage, imitate_stage


@dataclass(frozen=True)
class RunConfig:
    """Collect demonstrations, fit the world model, imitate in the dream, evaluate in the real game, report."""

    game: Positional[str]
    """What to play: pong, or breakout (the games with a scripted expert)."""
    out: Path
    """Folder of the run; the same command again goes on where it was."""
    quick: bool = False
    """A few minutes: shows every stage, learns too little to play well."""
    dataset: str | None = None
    """Minari id of the demonstrations; dream/<game>/slips-v1 unless given, and made if it is not there."""
    episodes: int = 48
    """Games to record."""
    explore: float = 0.05
    """Probability of a random action while the ball is away: shows many positions of the paddle, costs no points."""
    noise: float = 0.0
    """Probability of a random action in any step: shows slips and how the expert recovers, costs a few points."""
    lapse: float = 0.008
    """Probability in any step that a lapse of up to 30 steps begins: shows the ways back from far off, and what follows
    a lost ball. Recorded as slips, which nobody imitates."""
    clumsy: int = 12
    """Further games to record with lapses in them. The world model learns from these too; nobody imitates them."""
    clumsy_lapse: float = 0.03
    """``lapse`` in these."""
    workers: int = 2
    """Processes that play while recording."""
    updates: int | None = None
    """Gradient steps of the world model; the preset's unless given. Breakout's small ball wants 12,000 (measured)."""
    steps: int = 1_000_000
    """Dream steps to learn from."""
    snapshots: int = 4
    """Policies kept on the way, each of which then plays a few real games."""
    reward: str | None = None
    """Reward plug-in; the learner's usual one unless given, which for most is DITTO's."""
    learner: str = "ppo"
    """Learner plug-in."""
    warm_start: Literal["none", "bc"] | None = None
    """bc starts the policy from one cloned in the expert's latents, none at random; for ppo it is bc unless given."""
    anchor: int | float | None = None
    """Pull towards the expert's actions: of SB3's learners so many cloning steps between two updates (4 for ppo unless
    given), of ditto the weight of cloning in the actor's loss; 0 for none."""
    eval_episodes: int = 20
    """Real games for each row of the final table."""
    eval_seed: int = 10_000
    """Seed of the first of them; used for nothing else."""
    seed: int = 0
    """Seed of model, policy and dreams."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1 …"""


PLAYFIELD = {"ALE/Pong-v5": (10, 60, 0, 64), "ALE/Breakout-v5": (28, 60, 0, 64)}
"""Rows and columns of the 64 × 64 recordings without the score, which an expert's games show so little of that a model
meets most of its digits for the first time when its agent plays. Of Breakout also without the wall: its bricks were most of
what the small model had to explain, and the ball, a pixel, drowned in them (after 4500 updates 81 % of the moving pixels'
energy was unexplained; without the wall 25 % after 3000). The ball is below the wall in nine of ten steps."""

CLUMSY_SEED = 5_000
"""Seed of the first clumsy game: none of them is a game of the expert's."""

PPO_OPTIONS: dict[str, Any] = {"warm_start": "bc", "anchor": 4}
"""What ``run`` changes about ppo, its learner by default; any other is taken as its own authors left it."""

QUICK = {"episodes": 4, "clumsy": 2, "updates": 300, "steps": 100_000, "eval_episodes": 2}
"""What ``--quick`` changes."""


def run(config: RunConfig, *, progress: bool = True) -> Path:
    """Every stage in turn; each is skipped if its folder is finished already. At the end it says how long each took."""
    check_device(config.device)  # before games are recorded
    minutes = Minutes()
    if config.quick:
        plain = RunConfig(config.game, config.out)  # what was asked for by a flag of its own stays
        changes = {name: value for name, value in QUICK.items() if getattr(config, name) == getattr(plain, name)}
        config = replace(config, **changes)  # type: ignore[arg-type]
    out = config.out
    recordings = recordings_of(config)
    with minutes("recording"):
        for recording in recordings:
            collect(recording, progress=progress)
    names = [recording.dataset for recording in recordings]
    fit = replace(FitStage.of("small", names[0], out / "wm"), also=tuple(names[1:]))
    train = replace(fit.train, seed=config.seed, updates=config.updates or fit.train.updates)
    observation = replace(fit.observation, crop=PLAYFIELD.get(environment_id(config.game)))
    with minutes("fitting"):
        wm = fit_stage(replace(fit, train=train, observation=observation, device=config.device), progress=progress)
    given = {"warm_start": config.warm_start, "anchor": config.anchor}
    options = {name: value for name, value in given.items() if value is not None}
    learner = resolve_learner(config.learner, **(PPO_OPTIONS if config.learner == "ppo" else {}) | options)
    reward = config.reward or type(learner).usual_reward
    name = reward if learner.follows_reward else config.learner
    stage = ImitateStage(
        wm, out / name, steps=config.steps, snapshots=config.snapshots, seed=config.seed, device=config.device
    )  # fmt: skip
    with minutes("imitating"):
        agent = imitate_stage(stage, reward, learner, progress=progress)
    with minutes("evaluating"):
        evaluate_stage(EvaluateStage(agent, episodes=config.eval_episodes, seed=config.eval_seed), progress=progress)
        report(out)
    if progress:
        print(minutes)
    minutes.add_to(out / "minutes.json")
    return out


class Minutes:
    """How long each stage of this call took; one that was finished before takes none."""

    def __init__(self) -> None:
        self.of: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage."""
        start = time.monotonic()
        yield
        self.of[stage] = (time.monotonic() - start) / 60

    def add_to(self, path: Path) -> None:
        """Add them to those of earlier calls that came to the end."""
        path.parent.mkdir(parents=True, exist_ok=True)
        before = read_json(path) if path.is_file() else {}
        write_json(path, {stage: round(before.get(stage, 0.0) + minutes, 2) for stage, minutes in self.of.items()})

    def __str__(self) -> str:
        parts = ", ".join(f"{stage} {minutes:.1f}" for stage, minutes in self.of.items())
        return f"minutes: {parts}; {sum(self.of.values()):.1f} in all"


def recordings_of(config: RunConfig) -> list[CollectConfig]:
    """What is recorded: the expert's games, and the clumsy ones that nobody imitates."""
    name = "slips-quick-v1" if config.quick else "slips-v1"
    expert = CollectConfig(
        config.game,
        dataset=config.dataset or f"dream/{config.game}/{name}",
        episodes=config.episodes,
        explore=config.explore,
        noise=config.noise,
        lapse=config.lapse,
        workers=config.workers,
    )
    if not config.clumsy:
        return [expert]
    changes: dict[str, Any] = {
        "dataset": clumsy_dataset(expert.dataset),
        "episodes": config.clumsy,
        "seed": CLUMSY_SEED,
        "lapse": config.clumsy_lapse,
    }
    return [expert, replace(expert, **changes)]


def clumsy_dataset(dataset: str) -> str:
    """Minari id of the clumsy games that go with some demonstrations."""
    name, _, version = dataset.rpartition("-v")
    return f"{name}-clumsy-v{version}"
