"""Evaluation: real returns of an agent beside random actions and the expert, and the result rows they become.

The parts are in ``games`` (episodes of the real environment), ``closeness`` (distance to the expert inside the dream),
``selection`` (a policy chosen by that distance) and ``statistics``; this is the door to them, and the stage that
``dream-env evaluate`` runs.
"""

import json
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from tyro.conf import Positional

from dream_env.agent import Agent, load_agent, load_policy, world_model_of
from dream_env.checkpoint import model_folder, read_json
from dream_env.errors import CheckpointError, ConfigError
from dream_env.filtering import check_spaces
from dream_env.learning.tail import tail
from dream_env.measuring import results
from dream_env.measuring.closeness import action_agreement as action_agreement
from dream_env.measuring.closeness import latent_distance as latent_distance
from dream_env.measuring.closeness import reward_by_step as reward_by_step
from dream_env.measuring.results import Row
from dream_env.measuring.selection import SELECT, Select, rows_of, select_snapshot, snapshots
from dream_env.measuring.statistics import bootstrap_interval as bootstrap_interval
from dream_env.measuring.statistics import iqm as iqm
from dream_env.measuring.statistics import normalized_score as normalized_score
from dream_env.measuring.statistics import summarize as summarize
from dream_env.measuring.tables import rich_table
from dream_env.measuring.training import read_if_there, told
from dream_env.measuring.video import agent_video
from dream_env.model.encoded import Split, load_encoded
from dream_env.playing.game_log import GameLog
from dream_env.playing.games import Actor, MakeEnvironment, RandomActor
from dream_env.playing.games import EpisodeResult as EpisodeResult
from dream_env.playing.games import evaluate as evaluate
from dream_env.playing.real_environment import environment_of as environment_of
from dream_env.playing.real_environment import signature
from dream_env.real.environments import Env, protocol
from dream_env.real.robots import Rendering
from dream_env.run_folder import read_metrics

CUT = 10
"""How many times as long as the longest demonstration an episode may become, where the environment sets no limit."""
SNAPSHOT_SEED = 1_000
"""How far from the evaluation's seeds those of the snapshots' games lie."""


@dataclass(frozen=True)
class EvaluateStage:
    """Play the real environment with an agent and with random actions; write rows, a table and a video."""

    agent: Positional[Path]
    """Folder of the agent."""
    episodes: int = 20
    """Episodes for each row of the table."""
    seed: int = 10_000
    """Seed of the first of them; episode i has seed + i."""
    snapshot_episodes: int = 4
    """Episodes, with sampled actions, for each policy kept on the way: the real return through training; 0 for none."""
    tail_episodes: int = 0
    """Episodes, with sampled actions, for each of the last policies (imitate --tail), all in one further row; 0 for none.
    Policy k plays the seeds from seed + k · tail_episodes on."""
    select: Select = "last"
    """Play, beside the last policy and in the same games, the one kept on the way that has the least latent distance or
    the greatest action agreement (of continuous actions, whose agreement is a squared error, the least). Both are
    measured in the dream; no policy is ever chosen by its real return."""
    parallel: int = 32
    """Most environments at once."""
    max_steps: int | None = None
    """Steps after which an episode is cut off, where the environment has no limit of its own or a later one. Without any, a
    policy that never comes to an end would be played for ever: 10 times the longest demonstration then, unless given."""
    environment: str = ""
    """Play this one, by short name, Gymnasium id or module:Id-v0, instead of the one that was recorded: for recordings that do
    not say, or not how a robot's pictures were rendered."""
    rendering: Rendering | None = None
    """Pictures of a robot named with --environment: fast unless given; it must be what the recordings show."""
    fire: bool = False
    """Atari: press FIRE for the agent at the start and after each lost life, as the papers' preprocessing does, where it was
    not recorded so. A policy that never learned to serve would stand there for nothing."""
    video: bool = True
    """Leave agent.mp4, one more episode."""
    experiment: str = ""
    """Name of the rows; the name of the run's folder unless given."""
    results: Path | None = None
    """Append the rows to this file as well."""
    device: str = "cpu"
    """Where to run world model and policy: cpu, cuda, cuda:1 …"""


def evaluate_stage(stage: EvaluateStage, *, progress: bool = True) -> Path:
    """Leave ``evaluation.csv episodes.csv agent.mp4`` in the agent's folder; nothing is played twice."""
    agent = load_agent(stage.agent, device=stage.device)
    make = _environment(stage, agent)
    example = make()
    check_spaces(agent.world_model, example)  # before random games of another kind are played and noted
    facts, spec_id = protocol(example), example.spec.id if example.spec else ""
    cut = _cut(stage, example)
    facts |= {} if cut is None else {"max_steps": cut}
    log = _log(stage.agent / "episodes.csv", example, cut)
    if progress and cut is not None and stage.max_steps is None:
        Console().print(
            f"{spec_id} has no limit of steps: episodes are cut off after {cut:,}, {CUT} times the longest demonstration; "
            f"--max-steps sets another number"
        )
    example.close()
    length = _typical_length(stage.agent)
    selected = _select(stage, agent)
    last = _tail(stage)

    def play(
        name: str, actor: Actor, episodes: int, *, deterministic: bool = False, steps: int = -1, skip: int = 0
    ) -> list[EpisodeResult]:
        # Policies on the way play other games than those that results are made of.
        first = stage.seed + skip if steps < 0 else stage.seed + SNAPSHOT_SEED
        wanted = range(first, first + episodes)
        log_key = (name, steps, deterministic)
        missing = [seed for seed in wanted if seed not in log.played(*log_key)]
        if missing:
            evaluate(
                actor, make, seeds=missing, deterministic=deterministic, parallel=stage.parallel, progress=progress,
                max_steps=cut, name=f"{name} {'argmax' if deterministic else 'sampled'}", expected_length=length,
                on_episode=partial(log.add, *log_key),
            )  # fmt: skip
        played = log.played(*log_key)
        return [played[seed] for seed in wanted]

    random = RandomActor(agent.world_model.action_spec.space, seed=stage.seed)
    games = {
        ("random", False): play("random", random, stage.episodes),
        ("agent", False): play("agent", agent, stage.episodes),
        ("agent", True): play("agent", agent, stage.episodes, deterministic=True),
    }
    title = f"{spec_id}, {stage.agent}"
    if selected is not None:
        steps, policy = selected
        title += f"; by {stage.select}: the policy after {steps:,} steps"
        for deterministic in (False, True):
            name = f"after {steps:,} steps"
            games["selected", deterministic] = play(name, policy, stage.episodes, deterministic=deterministic)
    if last:
        games["tail", False] = [
            game
            for k, (steps, path) in enumerate(last.items())
            for game in play(
                f"tail, after {steps:,} steps", _with_weights(stage, agent, path), stage.tail_episodes,
                skip=k * stage.tail_episodes,
            )
        ]  # fmt: skip
    rows = _rows(stage, agent, games, facts, None if selected is None else selected[0])
    results.write(stage.agent / "evaluation.csv", rows)
    if stage.results is not None:
        results.append(stage.results, rows)
    if stage.snapshot_episodes:
        for steps, path in snapshots(stage.agent).items():
            snapshot = _with_weights(stage, agent, path)
            play(f"after {steps:,} steps", snapshot, stage.snapshot_episodes, steps=steps)
    if progress:
        Console().print(rich_table(rows, title=title))
    if stage.video and not (stage.agent / "agent.mp4").is_file():
        _video(stage, agent)
    return stage.agent


def _cut(stage: EvaluateStage, example: Env) -> int | None:
    """Steps after which this stage cuts an episode off; None where the environment does."""
    spec = example.spec
    limit = None if spec is None else spec.max_episode_steps
    if stage.max_steps is not None:
        return stage.max_steps if limit is None or stage.max_steps < limit else None
    if limit is not None or (spec is not None and spec.id.startswith("ALE/")):  # the emulator counts frames by itself
        return None
    lengths = _demonstrated(stage.agent, "train") + _demonstrated(stage.agent, "held_out")
    return CUT * max(lengths) if lengths else None


def _log(path: Path, example: Env, cut: int | None) -> GameLog:
    """The games so far. Those of an earlier version, which cut nothing off, are the same games if none is longer."""
    before = GameLog(path)
    games = [game for played in before.episodes.values() for game in played.values()]
    if before.environment == signature(example) and cut is not None and all(game.length <= cut for game in games):
        before.environment = signature(example, cut)
        return before
    return GameLog(path, environment=signature(example, cut))


def _video(stage: EvaluateStage, agent: Agent) -> None:
    """Leave ``agent.mp4``, or say why there is none: many an environment has no pictures, or none in this mode."""
    try:
        environment = _environment(stage, agent, render=True)()
        try:
            agent_video(agent, environment, stage.agent / "agent.mp4", seed=stage.seed)
        finally:
            environment.close()
    except Exception as error:  # the environment's own: of what it lacks (pygame, OpenGL), or does not know
        Console().print(f"no agent.mp4: {type(error).__name__}: {error}; --no-video leaves it out", markup=False)


def _select(stage: EvaluateStage, agent: Agent) -> tuple[int, Agent] | None:
    if stage.select == SELECT[0]:
        return None
    less = stage.select != "action_agreement" or not agent.world_model.action_spec.discrete
    steps, path = select_snapshot(stage.agent, stage.select, less=less)
    return steps, _with_weights(stage, agent, path)


def _tail(stage: EvaluateStage) -> dict[int, Path]:
    if not stage.tail_episodes:
        return {}
    kept = tail(stage.agent)
    if not kept:
        raise ConfigError(
            f"{stage.agent} holds no last policies (tail/*.safetensors) to play; imitate with --tail 10, or evaluate "
            f"without --tail-episodes"
        )
    return kept


def _with_weights(stage: EvaluateStage, agent: Agent, path: Path) -> Agent:
    """The agent with another policy of its training."""
    policy = load_policy(stage.agent, path, stage.device)
    return Agent(agent.world_model, policy, sample=agent.filter.sample)


def _environment(stage: EvaluateStage, agent: Agent, *, render: bool = False) -> MakeEnvironment:
    return environment_of(
        agent.world_model, environment=stage.environment, rendering=stage.rendering, fire=stage.fire, render=render
    )


# ----------------------------------------------------------------------------------------------------------- rows


Games = dict[tuple[str, bool], list[EpisodeResult]]


def _rows(stage: EvaluateStage, agent: Agent, games: Games, facts: dict[str, Any], selected: int | None) -> list[Row]:
    meta, run = read_json(stage.agent / "meta.json"), read_if_there(stage.agent / "run.json")
    wm_folder = model_folder(world_model_of(stage.agent))
    wm_meta = read_json(wm_folder / "meta.json")
    expert = [float(x) for x in wm_meta.get("expert_returns", [])]
    source = agent.world_model.source
    numbers_of = {key: _numbers(played, stage.seed) for key, played in games.items()}
    if expert:
        known = {name: source.protocol.get(name) for name in ("success", "tasks")}
        numbers_of["expert", False] = {**_returns(expert), **known, "eval_seed": 0}
    low = numbers_of["random", False]["return_mean"]
    high = numbers_of["expert", False]["return_mean"] if expert else float("nan")
    shared: dict[str, Any] = {
        "experiment": stage.experiment or stage.agent.resolve().parent.name,
        "environment": facts["environment"], "dataset": source.dataset, "protocol": json.dumps(facts, sort_keys=True),
        "command": _command(), "commit": meta.get("commit", ""),
    }  # fmt: skip
    fit = wm_meta.get("fit") or read_if_there(wm_folder / "run.json")  # models of before have it there alone
    trained: dict[str, Any] = {
        **told(meta, run, fit, agent.world_model.config, source.dataset),
        "wall_minutes": float(wm_meta.get("minutes", 0.0)) + float(meta.get("minutes", 0.0)),
    }
    options = json.loads(trained["options"] or "{}")
    last = len(games.get(("tail", False), ())) // max(1, stage.tail_episodes)

    def chosen(**more: Any) -> dict[str, str]:
        return {"options": json.dumps(options | more, sort_keys=True)}

    kinds = {
        "agent": trained | _measured(stage.agent),
        "selected": trained | _measured(stage.agent, selected) | chosen(select=stage.select),
        "tail": trained | chosen(tail=last),  # of many policies, which were not measured together
    }
    rows = []
    for (name, deterministic), numbers in numbers_of.items():
        normalized = normalized_score(numbers["return_mean"], low, high)
        kind = kinds.get(name, {"method": name})
        rows.append(Row(**shared, **numbers, **kind, deterministic=deterministic, normalized=normalized))
    order = ("random", "expert")
    return sorted(rows, key=lambda row: order.index(row.method) if row.method in order else len(order))


def _measured(agent_folder: Path, steps: int | None = None) -> dict[str, Any]:
    """What training noted of the last policy, or of that after so many steps."""
    path = agent_folder / "metrics.csv"
    rows = read_metrics(path) if path.is_file() else []
    found = rows[-1:] if steps is None else list(rows_of(rows, [steps]).values())
    if not found:
        return {}
    counted = {name: int(found[0][name]) for name in ("steps", "updates") if name in found[0]}
    return {**counted, **{name: found[0].get(name) for name in ("latent_distance", "action_agreement")}}


def _numbers(games: list[EpisodeResult], first_seed: int) -> dict[str, Any]:
    numbers = _returns([game.return_ for game in games])
    successes, tasks = [game.success for game in games], [game.tasks for game in games]
    return {**numbers, "success": _mean(successes), "tasks": _mean(tasks), "eval_seed": first_seed}


def _returns(returns: list[float]) -> dict[str, Any]:
    summary = summarize(returns)
    return {
        "episodes": summary.episodes, "return_mean": summary.mean, "return_iqm": summary.iqm, "return_low": summary.low,
        "return_high": summary.high, "returns": tuple(returns),
    }  # fmt: skip


def _mean(values: list[float | None]) -> float | None:
    """None if the environment did not say it of every episode."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _typical_length(agent_folder: Path) -> float | None:
    lengths = _demonstrated(agent_folder, "held_out")
    return float(np.mean(lengths)) if lengths else None


def _demonstrated(agent_folder: Path, split: Split) -> list[int]:
    """Steps of the episodes that the agent imitates or is measured on."""
    try:
        return [int(length) for length in load_encoded(model_folder(world_model_of(agent_folder)), split).lengths]
    except CheckpointError:  # no demonstrations beside the model: one does without
        return []
