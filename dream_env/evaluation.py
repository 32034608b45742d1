"""Evaluation: real returns of an agent beside random actions and the expert, and the result rows they become.

The parts are in ``games`` (episodes of the real environment), ``closeness`` (distance to the expert inside the dream),
``selection`` (a policy chosen by that distance) and ``statistics``; this is the door to them, and the stage that
``dream-env evaluate`` runs.
"""

import json
import shlex
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console
from tyro.conf import Positional

from dream_env import results
from dream_env.agent import Agent, load_agent, load_policy, world_model_of
from dream_env.checkpoint import config_to_json, model_folder, read_json
from dream_env.closeness import action_agreement as action_agreement
from dream_env.closeness import latent_distance as latent_distance
from dream_env.closeness import reward_by_step as reward_by_step
from dream_env.encoded import load_encoded
from dream_env.environments import environment_from_spec, protocol
from dream_env.errors import CheckpointError, ConfigError, PluginError
from dream_env.game_log import GameLog
from dream_env.games import Actor, MakeEnvironment, RandomActor
from dream_env.games import EpisodeResult as EpisodeResult
from dream_env.games import evaluate as evaluate
from dream_env.plugin import available, find
from dream_env.results import Row
from dream_env.selection import SELECT, Select, select_snapshot, snapshots
from dream_env.statistics import bootstrap_interval as bootstrap_interval
from dream_env.statistics import iqm as iqm
from dream_env.statistics import normalized_score as normalized_score
from dream_env.statistics import summarize as summarize
from dream_env.tables import rich_table
from dream_env.video import agent_video
from dream_env.world_model import WorldModel, WorldModelConfig

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
    select: Select = "last"
    """Play, beside the last policy and in the same games, the one kept on the way that has the least latent distance or
    the greatest action agreement (of continuous actions, whose agreement is a squared error, the least). Both are
    measured in the dream; no policy is ever chosen by its real return."""
    parallel: int = 32
    """Most environments at once."""
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
    make = environment_of(agent.world_model)
    log = GameLog(stage.agent / "episodes.csv")
    length = _typical_length(stage.agent)
    selected = _select(stage, agent)

    def play(name: str, actor: Actor, episodes: int, *, deterministic: bool = False, steps: int = -1) -> list[float]:
        # Policies on the way play other games than those that results are made of.
        first = stage.seed if steps < 0 else stage.seed + SNAPSHOT_SEED
        wanted = range(first, first + episodes)
        log_key = (name, steps, deterministic)
        missing = [seed for seed in wanted if seed not in log.returns(*log_key)]
        if missing:
            evaluate(
                actor, make, seeds=missing, deterministic=deterministic, parallel=stage.parallel, progress=progress,
                name=f"{name} {'argmax' if deterministic else 'sampled'}", expected_length=length,
                on_episode=partial(log.add, *log_key),
            )  # fmt: skip
        played = log.returns(*log_key)
        return [played[seed] for seed in wanted]

    random = RandomActor(agent.world_model.action_spec.space, seed=stage.seed)
    returns = {
        ("random", False): play("random", random, stage.episodes),
        ("agent", False): play("agent", agent, stage.episodes),
        ("agent", True): play("agent", agent, stage.episodes, deterministic=True),
    }
    title = f"{agent.world_model.source.environment}, {stage.agent}"
    if selected is not None:
        steps, policy = selected
        title += f"; by {stage.select}: the policy after {steps:,} steps"
        for deterministic in (False, True):
            name = f"after {steps:,} steps"
            returns["selected", deterministic] = play(name, policy, stage.episodes, deterministic=deterministic)
    rows = _rows(stage, agent, returns)
    results.write(stage.agent / "evaluation.csv", rows)
    if stage.results is not None:
        results.append(stage.results, rows)
    if stage.snapshot_episodes:
        for steps, path in snapshots(stage.agent).items():
            snapshot = _with_weights(stage, agent, path)
            play(f"after {steps:,} steps", snapshot, stage.snapshot_episodes, steps=steps)
    if stage.video and not (stage.agent / "agent.mp4").is_file():
        environment = environment_of(agent.world_model, render=True)()
        try:
            agent_video(agent, environment, stage.agent / "agent.mp4", seed=stage.seed)
        except gymnasium.error.DependencyNotInstalled as error:  # pygame, of the classic-control environments
            Console().print(f"no agent.mp4: {error}")
        environment.close()
    if progress:
        Console().print(rich_table(rows, title=title))
    return stage.agent


def _select(stage: EvaluateStage, agent: Agent) -> tuple[int, Agent] | None:
    if stage.select == SELECT[0]:
        return None
    less = stage.select != "action_agreement" or not agent.world_model.action_spec.discrete
    steps, path = select_snapshot(stage.agent, stage.select, less=less)
    return steps, _with_weights(stage, agent, path)


def _with_weights(stage: EvaluateStage, agent: Agent, path: Path) -> Agent:
    """The agent with another policy of its training."""
    policy = load_policy(stage.agent, path, stage.device)
    return Agent(agent.world_model, policy, sample=agent.filter.sample)


def environment_of(world_model: WorldModel, *, render: bool = False) -> MakeEnvironment:
    """What makes the environment that a model's demonstrations were recorded in, wrappers and all.

    Raises:
        ConfigError: if the dataset does not say.
    """
    source = world_model.source
    if source.env_spec is None:
        raise ConfigError(
            f"the dataset {source.dataset} does not say which environment it was recorded in; make one yourself and "
            f"call dream_env.evaluate(agent, make_environment)"
        )
    spec = source.env_spec

    def make() -> Any:
        if not render:
            return environment_from_spec(spec)
        return environment_from_spec(spec, render_mode="rgb_array")

    return make


# ----------------------------------------------------------------------------------------------------------- rows


def _rows(stage: EvaluateStage, agent: Agent, returns: dict[tuple[str, bool], list[float]]) -> list[Row]:
    meta, run = read_json(stage.agent / "meta.json"), _read_if_there(stage.agent / "run.json")
    wm_folder = model_folder(world_model_of(stage.agent))
    wm_meta = read_json(wm_folder / "meta.json")
    expert = [float(x) for x in wm_meta.get("expert_returns", [])]
    low = summarize(returns["random", False]).mean
    high = summarize(expert).mean if expert else float("nan")
    source = agent.world_model.source
    environment = environment_of(agent.world_model)()
    shared: dict[str, Any] = {
        "experiment": stage.experiment or stage.agent.resolve().parent.name,
        "environment": source.environment, "dataset": source.dataset,
        "protocol": json.dumps(protocol(environment), sort_keys=True),
        "command": _command(), "commit": meta.get("commit", ""),
    }  # fmt: skip
    environment.close()
    reward, learner = meta.get("reward", {}), meta.get("options", {})
    rewarded = _follows_reward(learner)
    trained: dict[str, Any] = {
        "method": _reward_name(reward) if rewarded else _learner_name(learner),
        "learner": _learner_name(learner) if rewarded else "",
        "warm_start": str(learner.get("warm_start", "")),
        "options": _changed_options(*([reward] if rewarded else []), learner),
        "n_expert": int(meta.get("demos", 0)), "preset": preset_of(agent.world_model.config),
        "seed": int(run.get("seed", 0)),
        "wall_minutes": float(wm_meta.get("minutes", 0.0)) + float(meta.get("minutes", 0.0)),
    }  # fmt: skip
    chosen_by = {"select": stage.select}
    selected_options = json.dumps(json.loads(trained["options"] or "{}") | chosen_by, sort_keys=True)
    rows = []
    for (name, deterministic), played in {**returns, **({("expert", False): expert} if expert else {})}.items():
        summary = summarize(played)
        numbers: dict[str, Any] = {
            "deterministic": deterministic, "episodes": summary.episodes, "return_mean": summary.mean,
            "return_iqm": summary.iqm, "return_low": summary.low, "return_high": summary.high,
            "normalized": normalized_score(summary.mean, low, high), "returns": tuple(played),
            "eval_seed": 0 if name == "expert" else stage.seed,
        }  # fmt: skip
        kind = {"agent": trained, "selected": {**trained, "options": selected_options}}.get(name, {"method": name})
        rows.append(Row(**shared, **numbers, **kind))
    order = ("random", "expert")
    return sorted(rows, key=lambda row: order.index(row.method) if row.method in order else len(order))


def preset_of(config: WorldModelConfig) -> str:
    """small, paper, or custom for a changed one; the arithmetic it was trained in does not count."""
    for name, preset in (("small", WorldModelConfig.small()), ("paper", WorldModelConfig.paper())):
        if asdict(config) | {"precision": ""} == asdict(preset) | {"precision": ""}:
            return name
    return "custom"


def _reward_name(identity: dict[str, Any]) -> str:
    if not identity:
        return "unknown"
    try:
        return str(find("rewards", identity["class"]).name)
    except PluginError:  # a class that only the training script had
        return str(identity["class"].rpartition(":")[2]).lower()


def _follows_reward(identity: dict[str, Any]) -> bool:
    try:
        return bool(find("learners", identity["class"]).follows_reward) if identity else True
    except (PluginError, AttributeError):
        return True


def _learner_name(identity: dict[str, Any]) -> str:
    if not identity:
        return "unknown"
    names = [name for name, where in available("learners").items() if where.split(" ")[0] == identity["class"]]
    return names[0] if names else str(identity.get("algorithm", identity["class"]))


def _changed_options(*identities: dict[str, Any]) -> str:
    changed: dict[str, Any] = {}
    for identity in filter(None, identities):
        try:
            default = json.loads(json.dumps(config_to_json(find("rewards", identity["class"])()), default=str))
        except (PluginError, TypeError):
            default = {}
        given = {name: value for name, value in identity.items() if name not in ("class", "warm_start")}
        changed |= {name: value for name, value in given.items() if default.get(name) != value}
    return json.dumps(changed, sort_keys=True) if changed else ""


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _read_if_there(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _typical_length(agent_folder: Path) -> float | None:
    try:
        return float(load_encoded(model_folder(world_model_of(agent_folder)), "held_out").lengths.float().mean())
    except CheckpointError:  # no demonstrations beside the model: the bar does without a guess
        return None
