"""Imitation that goes on in the real environment: ``dream-env imitate … --online-steps 250000``.

The folder it leaves is an agent's like any other, with more in it: ``wm/``, the world model as it has become, ``replay/``, every
real episode, and ``metrics.csv`` counts real steps. Killed, it goes on at its last saved state.
"""

from pathlib import Path
from typing import Any

from dream_env import checkpoint
from dream_env.agent import Agent, fingerprint, save_agent
from dream_env.checkpoint import Store
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError
from dream_env.filtering import check_spaces
from dream_env.imitated import Imitated, imitated
from dream_env.learning.on_policy import resolve_learner
from dream_env.learning.online import OnlineLearner, RealWorld
from dream_env.measuring.evaluation import reward_by_step
from dream_env.model.encoded import EncodedDemos, Split, encode, load_encoded, save_encoded
from dream_env.model.recorded import recordings_of
from dream_env.model.world_model import WorldModel
from dream_env.playing.real_environment import environment_of
from dream_env.playing.real_episodes import RealEpisodes
from dream_env.plugin import Learner, Policy, Reward, load_reward
from dream_env.progress import progress_bar
from dream_env.real.environments import environment_from_spec
from dream_env.recordings.demos import Demos
from dream_env.recordings.recording import dataset_folder
from dream_env.recordings.replay import Replay, check_new_dataset
from dream_env.run_folder import Clock, MetricsLog, check_claim, claim
from dream_env.stages import ImitateStage, dream_of, imitate_identity, not_worth_a_run, usual_identity


def online_stage(
    stage: ImitateStage, reward: str | Reward | None = None, learner: str | Learner = "ppo", *, progress: bool = True
) -> Path:
    """Learn with ``stage.online_steps`` real steps; see the module for what is left.

    Raises:
        ConfigError: if the learner stays in the dream, or nobody says which environment is the real one.
    """
    out = stage.out
    learner = resolve_learner(learner) if isinstance(learner, str) else learner
    if not isinstance(learner, OnlineLearner):
        raise ConfigError(
            f"learner {type(learner).__name__} stays in the dream and makes no real steps; leave --online-steps out, or take a "
            f"learner that goes on in the real environment (`dream-env plugins` lists all)"
        )
    if stage.tail:
        raise ConfigError(
            "--tail keeps the last policies of a training in the dream; with --online-steps there is no such row"
        )
    if stage.precision != "float32":
        raise ConfigError(
            "--precision is of dreams in a model that stands still; with --online-steps the model goes on learning. Leave "
            "--precision out"
        )
    reward = load_reward(reward or type(learner).usual_reward)
    free = "online_workers", "online_dataset"  # change nothing of what is learned
    identity, usual = (of(stage, reward, learner, *free) for of in (imitate_identity, usual_identity))
    check_claim(out, "imitate", identity, usual=usual)  # before recordings are encoded
    whom = imitated(stage.wm, stage.dataset, out, stage.device, progress=progress)
    dream = dream_of(stage, whom, reward)
    whom.held_out.windows(stage.horizon)
    learner.check_online(dream)
    spec = _environment_spec(stage, dream.world_model)
    whole = Demos.load(dream.world_model.source.where, dream.world_model.observation_spec.config)
    demos = recordings_of(whole, dream.expert)
    claim(out, "imitate", identity, usual=usual, seen=fingerprint(whom.world_model))
    whom.keep()
    source = dream.world_model.source
    replay = Replay(out / "replay", dream.world_model.observation_spec, dream.world_model.action_spec, source)
    if (out / "meta.json").is_file():
        _leave_dataset(stage, replay, spec)  # or it was stopped just before
        return out  # finished before
    if stage.online_dataset:
        check_new_dataset(stage.online_dataset)
    store = Store(out)
    saved = store.latest_folder()
    start = int(saved.name) if saved else 0
    clock = Clock(out, start)
    before = fingerprint(dream.world_model)
    with (
        RealEpisodes(spec, workers=stage.online_workers) as episodes,
        MetricsLog(out, "steps", start) as log,
        progress_bar("online", stage.online_steps, "steps", start=start, enabled=progress) as advance,
    ):

        def report(policy: Policy, metrics: dict[str, float]) -> None:
            log.add({**metrics, "minutes": clock.minutes()})
            shown = {name: metrics[name] for name in ("real_return", "real_success") if name in metrics}
            advance(int(metrics["steps"]), **shown)

        real = RealWorld(demos, episodes, replay, stage.online_steps)
        policy = learner.learn_online(dream, real, seed=stage.seed, progress=report, store=store)
        # Of all tries of this run together, where the learner tells; this process knows its own alone.
        dropped = int(log.rows[-1].get("dropped", len(episodes.dropped))) if log.rows else 0
        made = int(log.rows[-1].get("steps", stage.online_steps)) if log.rows else stage.online_steps
    # Learners play their last round to its end, so more steps are made than were asked for.
    steps = {"online_steps": made, "online_steps_asked": stage.online_steps}
    wm = whom.wm
    if fingerprint(dream.world_model) != before:
        wm = _keep(dream, whole, whom, stage.seed, steps, out / "wm")
    if policy.observes == "latent":
        held_out = load_encoded(checkpoint.model_folder(wm), "held_out", stage.device)
        path = out / "reward_by_step.csv"
        with not_worth_a_run(path.name):
            reward_by_step(dream.world_model, held_out, reward, {"learner": policy}, horizon=stage.horizon, path=path)
    save_agent(Agent(dream.world_model, policy), out, world_model_folder=wm, learner=learner, meta={
        "steps": made, **steps, "dropped_episodes": dropped, "real_episodes": replay.num_episodes, "minutes": clock.minutes(),
        "reward": identity["reward"], "options": identity["learner"], "demos": demos.num_episodes,
    })  # fmt: skip
    _leave_dataset(stage, replay, spec)
    store.clear()
    return out


def _leave_dataset(stage: ImitateStage, replay: Replay, spec: str) -> None:
    """The real episodes under the id that was asked for, unless they are there already."""
    if stage.online_dataset and not dataset_folder(stage.online_dataset).exists():
        environment = environment_from_spec(spec)
        replay.to_minari(stage.online_dataset, environment)
        environment.close()


def _environment_spec(stage: ImitateStage, world_model: WorldModel) -> str:
    """JSON of the real environment: the one asked for, else the recorded one; checked to be the model's kind."""
    environment = environment_of(world_model, environment=stage.environment)()
    try:
        check_spaces(world_model, environment)
        assert environment.spec is not None
        return str(environment.spec.to_json())
    finally:
        environment.close()


def _keep(dream: DreamEnv, whole: Demos, whom: Imitated, seed: int, steps: dict[str, int], folder: Path) -> Path:
    """The world model as it has become, and the demonstrations as it sees them now."""
    parts: dict[Split, EncodedDemos] = {"train": whom.train, "held_out": whom.held_out}
    for split, before in parts.items():
        encoded = encode(dream.world_model, recordings_of(whole, before), seed=seed)
        folder.mkdir(parents=True, exist_ok=True)
        save_encoded(encoded, folder, split)
    meta: dict[str, Any] = {**checkpoint.read_json(checkpoint.model_folder(whom.wm) / "meta.json"), **steps}
    checkpoint.save(dream.world_model, folder, meta)
    return folder
