"""Gymnasium ids: ``Dream-<Game>-v0`` for the environments that demonstrations exist of, ``Dream-v0`` for any model.

``import dream_env`` registers them. Entry points are strings and arguments JSON-able, so registering imports neither
torch nor a game, and an ``EnvSpec`` of a dream round-trips through JSON.
"""

import gymnasium

# Every game of ale-py 0.12, so that ids exist without importing it; a test compares.
ATARI_GAMES = (
    "Adventure", "AirRaid", "Alien", "Amidar", "Assault", "Asterix", "Asteroids", "Atlantis", "Atlantis2",
    "Backgammon", "BankHeist", "BasicMath", "BattleZone", "BeamRider", "Berzerk", "Blackjack", "Bowling",
    "Boxing", "Breakout", "Carnival", "Casino", "Centipede", "ChopperCommand", "CrazyClimber", "Crossbow",
    "Darkchambers", "Defender", "DemonAttack", "DonkeyKong", "DoubleDunk", "Earthworld", "ElevatorAction",
    "Enduro", "Entombed", "Et", "FishingDerby", "FlagCapture", "Freeway", "Frogger", "Frostbite", "Galaxian",
    "Gopher", "Gravitar", "Hangman", "HauntedHouse", "Hero", "HumanCannonball", "IceHockey", "Jamesbond",
    "JourneyEscape", "Kaboom", "Kangaroo", "KeystoneKapers", "KingKong", "Klax", "Koolaid", "Krull",
    "KungFuMaster", "LaserGates", "LostLuggage", "MarioBros", "MiniatureGolf", "MontezumaRevenge", "MrDo",
    "MsPacman", "NameThisGame", "Othello", "Pacman", "Phoenix", "Pitfall", "Pitfall2", "Pong", "Pooyan",
    "PrivateEye", "Qbert", "Riverraid", "RoadRunner", "Robotank", "Seaquest", "SirLancelot", "Skiing",
    "Solaris", "SpaceInvaders", "SpaceWar", "StarGunner", "Superman", "Surround", "Tennis", "Tetris",
    "TicTacToe3D", "TimePilot", "Trondead", "Turmoil", "Tutankham", "UpNDown", "Venture", "VideoCheckers",
    "VideoChess", "VideoCube", "VideoPinball", "WizardOfWor", "WordZapper", "YarsRevenge", "Zaxxon",
)  # fmt: skip

ENVIRONMENTS: dict[str, str] = {
    **{game: f"ALE/{game}-v5" for game in ATARI_GAMES},
    "BipedalWalker": "BipedalWalker-v3",
    "FrankaKitchen": "FrankaKitchen-v1",
    "AdroitHandDoor": "AdroitHandDoor-v1",
    "AdroitHandHammer": "AdroitHandHammer-v1",
    "AdroitHandPen": "AdroitHandPen-v1",
    "AdroitHandRelocate": "AdroitHandRelocate-v1",
    "Baoding": "dream_env/Baoding-v0",
}
"""Name in the dream's id → id of the real environment; its version is not compared with a model's."""


def register_dreams() -> None:
    """Register all ids, and that of the one real environment that is ours; a second call changes nothing."""
    if "dream_env/Baoding-v0" not in gymnasium.registry:
        gymnasium.register("dream_env/Baoding-v0", "dream_env.real.baoding:Baoding", max_episode_steps=120)
    _register("Dream-v0", {})
    for name, environment in ENVIRONMENTS.items():
        _register(f"Dream-{name}-v0", {"environment": environment})


def _register(dream_id: str, kwargs: dict[str, str]) -> None:
    if dream_id not in gymnasium.registry:
        gymnasium.register(
            id=dream_id,
            entry_point="dream_env.dream.single:SingleDream",
            vector_entry_point="dream_env.dream.env:DreamEnv",
            kwargs=kwargs,
        )
