"""The stages of a run as functions: each takes one config, leaves one folder, and goes on where it was if called again.

collect → a Minari dataset        fit → wm/        imitate → ditto/        evaluate → ditto/evaluation.csv
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from tyro.conf import Positional

from dream_env import checkpoint
from dream_env.agent import Agent, fingerprint, save_agent
from dream_env.checkpoint import Store, config_to_json
from dream_env.device import check_device, fast_precision, own_random_numbers
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, DatasetError, nearest
from dream_env.fitting.fit import FitConfig, fit
from dream_env.fitting.graphed import Graph
from dream_env.fitting.parallel import Processes, joined
from dream_env.imitated import Imitated, imitated
from dream_env.learning.on_policy import resolve_learner
from dream_env.learning.tail import Tail
from dream_env.measuring.evaluation import action_agreement, latent_distance, reward_by_step
from dream_env.measuring.video import open_loop_video
from dream_env.model.encoded import encode, save_encoded
from dream_env.model.recorded import Recorded
from dream_env.model.world_model import PRESETS, Precision, Preset, WorldModel, WorldModelConfig
from dream_env.plugin import Learner, Policy, Reward, load_reward, plugin_defaults, plugin_identity
from dream_env.progress import progress_bar
from dream_env.recordings.demos import Demos
from dream_env.recordings.mixture import Mixture
from dream_env.run_folder import Clock, MetricsLog, check_claim, claim, plain, read_metrics
from dream_env.spaces import ObservationConfig

# ------------------------------------------------------------------------------------------------------------------ fit


Flat = tyro.conf.arg(name="")
"""On the command line, options of a nested config without its name before them: --updates, not --train.updates."""


@dataclass(frozen=True)
class FitStage:
    """Fit a world model to a Minari dataset."""

    dataset: Positional[str]
    """Id of the dataset, as "dream/pong/scripted-v0"; downloaded if it is not on this machine."""
    out: Path
    """Folder to leave the world model in."""
    preset: Preset = "small"
    """Where all sizes start: small for a CPU, paper for DITTO's (a GPU); with -gaussian those for robots, CMIL's latent and an
    ensemble whose disagreement can be asked for. Every other flag changes one thing about it."""
    model: WorldModelConfig = field(default_factory=WorldModelConfig.small)
    train: Annotated[FitConfig, Flat] = field(default_factory=FitConfig.small)
    observation: ObservationConfig = field(default_factory=ObservationConfig.small)
    held_out: int = 2
    """Episodes kept back to measure on."""
    also: tuple[str, ...] = ()
    """Further datasets of the same environment that the model learns from and nobody imitates: any policy's, the more
    different from the expert the better."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1 …; with torchrun cuda means a GPU for each process."""
    precision: Precision | None = None
    """Arithmetic of matrix products in training; chosen by the processor unless given."""
    graph: Graph = "auto"
    """On a GPU: record a training step once and launch it as a whole from then on (auto), or run operation by operation (off)."""

    @classmethod
    def of(cls, preset: str, dataset: str, out: Path) -> "FitStage":
        """A stage with all sizes of a preset."""
        if preset not in PRESETS:
            raise ConfigError(f"there is no preset {preset!r}.{nearest(preset, PRESETS)} One of: {', '.join(PRESETS)}")
        sizes = [
            getattr(config, preset.replace("-", "_"))() for config in (WorldModelConfig, FitConfig, ObservationConfig)
        ]
        return cls(dataset, out, preset, *sizes)


def fit_stage(stage: FitStage, *, progress: bool = True) -> Path:
    """Fit, encode the demonstrations, and leave the model with ``expert_*.safetensors metrics.csv open_loop.mp4``.

    Under torchrun every process makes this call; they train together and the first one writes (``dream_env.fitting.parallel``).
    """
    check_device(stage.device)  # before a conversion that may take minutes, as all that can be checked now
    with joined(stage.device) as (processes, device):
        _fit_together(replace(stage, device=device), processes, progress=progress and processes.first)
        processes.wait()  # until the first has written everything
    return stage.out


def _fit_together(stage: FitStage, processes: Processes, *, progress: bool) -> None:
    out = stage.out
    identity = _fit_identity(stage)
    usual = _fit_identity(FitStage.of(stage.preset, stage.dataset, out)) if stage.preset in PRESETS else {}
    processes.once(lambda: check_claim(out, "fit", identity, usual=usual))
    demos, *others = processes.first_then_others(
        lambda: [Demos.load(name, stage.observation, progress=progress) for name in (stage.dataset, *stage.also)]
    )
    if not 1 <= stage.held_out < demos.num_episodes:
        raise DatasetError(
            f"{stage.dataset} has {demos.num_episodes} episodes, of which {stage.held_out} are to be held out; it needs at "
            f"least one to learn from and one to measure on"
        )
    recordings = Mixture([demos, *others])
    recordings.windows(stage.train.length)
    if progress and (short := recordings.too_short(stage.train.length)):
        print(
            f"{short} of {recordings.num_episodes} episodes are shorter than {stage.train.length} rows and are not drawn from"
        )
    processes.check(stage.train.batch)
    precision = stage.precision or fast_precision(stage.device)
    torch.manual_seed(stage.train.seed)
    train, held_out = demos.split(stage.held_out)
    learned = Mixture([train, *others])
    learned.windows(stage.train.length)  # the only long episode may be one that is held out
    world_model = WorldModel(  # made before the folder is taken: sizes may not fit
        stage.model, demos.observation_spec, demos.action_spec, demos.source, recordings.statistics
    ).with_precision(precision).to(stage.device)  # fmt: skip
    seen = " ".join(part.fingerprint() for part in (demos, *others))
    processes.once(lambda: claim(out, "fit", identity, usual=usual, seen=seen))
    if (out / "meta.json").is_file():
        if progress:
            print(f"{out} was finished before; to fit it anew delete it")
        return
    store = Store(out)
    rows = fit(
        world_model, learned, stage.train, held_out=held_out, store=store, graph=stage.graph,
        processes=processes,
    )  # fmt: skip
    if not processes.first:
        for _ in rows:  # the first logs them
            pass
        return
    saved = store.latest_folder()
    start = int(saved.name) if saved else 0
    clock = Clock(out, start)
    with (
        MetricsLog(out, "update", start) as log,
        progress_bar("fit", stage.train.updates, "updates", start=start, enabled=progress) as advance,
    ):
        for metrics in rows:
            log.add({**metrics, "minutes": clock.minutes()})
            advance(int(metrics["update"]), loss=metrics["loss"], **_shown(metrics))
    for split, episodes in (("train", train), ("held_out", held_out)):
        save_encoded(encode(world_model, episodes, seed=stage.train.seed), out, split)  # type: ignore[arg-type]
    if any(key.kind == "image" for key in world_model.observation_spec.keys):
        episode = held_out.episode(int(held_out.lengths.argmax()))
        context = min(5, episode.num_steps)  # of an episode shorter than the usual 50 frames, what there is
        horizon = min(45, episode.num_steps + 1 - context)
        with not_worth_a_run("open_loop.mp4"):
            open_loop_video(world_model, episode, out / "open_loop.mp4", context=context, horizon=horizon)
    summary = read_metrics(out / "metrics.csv")[-1]
    meta = {
        "preset": stage.preset, "also": list(stage.also), "updates": stage.train.updates,
        "precision": precision, "episodes": train.num_episodes, "minutes": clock.minutes(),
        "expert_returns": [float(x) for x in demos.returns], "metrics": summary, "fit": identity,
    }  # fmt: skip
    checkpoint.save(world_model, out, meta)
    store.clear()


@contextmanager
def not_worth_a_run(file: str) -> Iterator[None]:
    """Tell why a file is missing that only shows what was learned, and go on: the model or agent is yet to be saved."""
    try:
        yield
    except Exception as error:  # no ffmpeg, a reward of somebody's own, whatever
        print(f"no {file}: {type(error).__name__}: {error}")


def _fit_identity(stage: FitStage) -> dict[str, Any]:
    options = {
        "dataset": stage.dataset, "also": list(stage.also), "preset": stage.preset, "held_out": stage.held_out,
        "observation": config_to_json(stage.observation), "model": config_to_json(stage.model),
        "train": config_to_json(stage.train),
    }  # fmt: skip
    identity: dict[str, Any] = plain(options)
    return identity


def _shown(metrics: dict[str, float]) -> dict[str, float]:
    moving = [value for name, value in metrics.items() if name.startswith("unexplained_moving/")]
    return {"moving": moving[0]} if moving else {}


# -------------------------------------------------------------------------------------------------------------- imitate


@dataclass(frozen=True)
class ImitateStage:
    """Learn a policy inside a dream."""

    wm: Positional[Path]
    """Folder of the world model, or shipped:pong for the one that comes with this package."""
    out: Path
    """Folder to leave the agent in."""
    dataset: str = ""
    """Imitate the episodes of this Minari dataset instead of those the world model was fitted to; two are held out."""
    steps: int = 2_000_000
    """Dream steps to learn from, over all dreams together."""
    num_envs: int = 512
    """Dreams side by side."""
    horizon: int = 15
    """Steps of a dream (DITTO table 1)."""
    demos: int | None = None
    """Use only the first so many expert episodes."""
    seed: int = 0
    """Seed of the policy's weights, its actions and the dreams."""
    device: str = "cpu"
    """Where to dream and learn: cpu, cuda, cuda:1 …"""
    precision: Precision = "float32"
    """Arithmetic of the matrix products of a dream's steps: bfloat16 is 1.4 times (small preset) to 1.8 times (paper) as fast
    where the processor has units for it. Learners that branch off recorded states by themselves (cmil, vmail) stay in
    float32."""
    snapshots: int = 10
    """Policies kept on the way, so that `evaluate` can show the real return through training; 0 keeps none."""
    tail: int = 0
    """Policies kept at the end: those of the learner's last so many reports, which ditto, bc and dbc make after each of their
    last updates (SB3's learners after each rollout); others do not, and are refused. `evaluate --tail-episodes` plays them; 10
    of 20 episodes each is the paper's protocol."""
    online_steps: int = 0
    """Real steps to make, for learners that can go on in the real environment; they then decide themselves how much they
    dream, and steps and snapshots mean nothing. 0, the default, is fully offline."""
    online_workers: int = 1
    """Online: processes that step the real environment."""
    online_dataset: str = ""
    """Online: Minari id to leave the real episodes under, as dream/door/online-v0; they stay in the agent's folder only
    unless given."""
    environment: str = ""
    """Online: what to play, by short name or Gymnasium id; the one that was recorded unless given."""


def imitate_stage(
    stage: ImitateStage, reward: str | Reward | None = None, learner: str | Learner = "ppo", *, progress: bool = True
) -> Path:
    """Learn and leave ``config.json policy.safetensors meta.json metrics.csv reward_by_step.csv snapshots/``.

    The reward is the one that the learner is usually used with (``Learner.usual_reward``) unless given.
    """
    out = stage.out
    if stage.online_steps:
        raise ConfigError("online_steps are for dream_env.online_stage.online_stage; imitate_stage stays in the dream")
    learner = resolve_learner(learner) if isinstance(learner, str) else learner
    reward = load_reward(reward or type(learner).usual_reward)
    _check_tail(stage.tail, learner)
    identity, usual = imitate_identity(stage, reward, learner), usual_identity(stage, reward, learner)
    check_claim(out, "imitate", identity, usual=usual)  # before recordings are encoded
    whom = imitated(stage.wm, stage.dataset, out, stage.device, progress=progress)
    dream = dream_of(stage, whom, reward)
    held_out = whom.held_out
    held_out.windows(stage.horizon)
    if progress and (short := whom.train.too_short(stage.horizon)):
        few = f"{short} of {whom.train.num_episodes} episodes"
        print(f"{few} are shorter than a dream of {stage.horizon} steps, and none begins in them")
    finished = (out / "meta.json").is_file()
    if not finished:
        learner.check(dream)
    claim(out, "imitate", identity, usual=usual, seen=fingerprint(whom.world_model))
    if finished:
        if progress:
            print(f"{out} was finished before; to learn it anew delete it")
        return out
    whom.keep()
    store = Store(out)
    saved = store.latest_folder()
    start = int(saved.name) if saved else 0
    clock = Clock(out, start)
    last = Tail(out, stage.tail, start)
    with (
        MetricsLog(out, "steps", start) as log,
        progress_bar("imitate", stage.steps, "steps", start=start, enabled=progress) as advance,
    ):
        # Looked at until the last report, not until the saved state: learners also save between two reports.
        seen = int(log.rows[-1]["steps"]) if log.rows else None
        watch = _Watch(dream, held_out, out / "snapshots", stage, seen)

        def report(policy: Policy, metrics: dict[str, float]) -> None:
            row = {**metrics, **watch(policy, int(metrics["steps"])), "minutes": clock.minutes()}
            log.add(row)
            last.add(int(metrics["steps"]), policy.state_dict())
            shown = {name: row[name] for name in ("dream_reward", "latent_distance") if name in row}
            advance(int(metrics["steps"]), **shown)

        policy = learner.learn(dream, stage.steps, seed=stage.seed, progress=report, store=store)
    # A policy of observations has no line: a dream shows model states, and what it would do on decoded ones says little.
    lines = {"learner": policy} if policy.observes == "latent" else {}
    with not_worth_a_run("reward_by_step.csv"):
        path = out / "reward_by_step.csv"
        reward_by_step(dream.world_model, held_out, reward, lines, horizon=stage.horizon, path=path)
    agent = Agent(dream.world_model, policy)
    save_agent(agent, out, world_model_folder=whom.wm, learner=learner, meta={
        "steps": stage.steps, "minutes": clock.minutes(), "reward": identity["reward"],
        "options": identity["learner"], "demos": dream.expert.num_episodes,
    })  # fmt: skip
    store.clear()
    return out


def dream_of(stage: ImitateStage, whom: Imitated, reward: Reward) -> DreamEnv:
    """The dreams of a run; a reward that draws its first weights draws them from the run's seed."""
    with own_random_numbers(whom.world_model.device, stage.seed):
        return DreamEnv(
            stage.num_envs, wm=whom.world_model, expert=whom.train, reward=reward, horizon=stage.horizon,
            episodes=stage.demos, precision=stage.precision,
        )  # fmt: skip


def _check_tail(count: int, learner: Learner) -> None:
    """See that the learner's last so many reports are those after its last so many updates.

    Raises:
        ConfigError: if it reports less often, or does not say how often.
    """
    if not count or learner.reports_each_update:
        return
    reported = getattr(learner, "report_last", None)
    if reported is None:
        raise ConfigError(
            f"--tail {count} keeps the policies after the last {count} updates, and {type(learner).__name__} does not report "
            f"each of its last updates (it has no report_last), so those kept would lie further apart; leave --tail out, or "
            f"take a learner that does"
        )
    if count > reported:
        raise ConfigError(
            f"--tail {count} keeps the policies after the last {count} updates, and this learner reports each of its "
            f"last {reported} alone; give --report-last {count} too"
        )


def imitate_identity(stage: ImitateStage, reward: Reward, learner: Learner, *but: str) -> dict[str, Any]:
    """What makes a run this one, as ``run.json`` has it: all options but where it goes, what it runs on, and ``but``."""
    identity = {**config_to_json(stage), "reward": plugin_identity(reward), "learner": plugin_identity(learner)}
    left_out = ("out", "device", *but, *([] if stage.dataset else ["dataset"]))
    found: dict[str, Any] = plain({name: value for name, value in identity.items() if name not in left_out})
    return found


def usual_identity(stage: ImitateStage, reward: Reward, learner: Learner, *but: str) -> dict[str, Any]:
    """The same of a run that leaves all options as they are, but for the precision: runs of before do not tell theirs."""
    usual = config_to_json(ImitateStage(stage.wm, stage.out, precision=stage.precision))
    plugins = {"reward": plugin_defaults(type(reward)), "learner": plugin_defaults(type(learner))}
    found: dict[str, Any] = plain({name: value for name, value in (usual | plugins).items() if name not in but})
    return found


class _Watch:
    """Now and then: how far the learner is from held-out expert windows, and a copy of its policy."""

    def __init__(self, dream: DreamEnv, held_out: Any, folder: Path, stage: ImitateStage, seen: int | None) -> None:
        """``seen`` is the step of the last report so far, if there was any: its marks and those before are done."""
        self.folder = folder
        self.held_out = held_out
        self._recorded: Recorded | None = None  # of the held-out episodes; opened for a policy that observes them
        self.dream = DreamEnv(256, wm=dream.world_model, expert=held_out, horizon=stage.horizon)
        count = max(1, stage.snapshots)
        self.keep = stage.snapshots > 0
        self.marks = [round(stage.steps * i / count) for i in range(count + 1)]
        self.marks = [mark for mark in self.marks if seen is None or mark > seen]

    def __call__(self, policy: Policy, steps: int) -> dict[str, float]:
        if not self.marks or steps < self.marks[0]:
            return {}
        while self.marks and steps >= self.marks[0]:
            self.marks.pop(0)
        with own_random_numbers(self.dream.device, 0):  # looking must not change what is learned
            metrics = self._measure(policy)
        if self.keep:
            self.folder.mkdir(exist_ok=True)
            checkpoint.write_tensors(self.folder / f"{steps:09d}.safetensors", policy.state_dict())
        return metrics

    def _measure(self, policy: Policy) -> dict[str, float]:
        if policy.observes == "observation":
            # No latent distance: it is measured in a dream, whose states the policy would have to see decoded, and what
            # the decoder blurs would count as the policy's mistake.
            self._recorded = self._recorded or Recorded.of(self.dream.world_model, self.held_out)
            return {"action_agreement": action_agreement(policy, self.held_out, recorded=self._recorded)}
        return {
            "latent_distance": latent_distance(policy, self.dream),
            "action_agreement": action_agreement(policy, self.held_out),
        }
