"""A run that is cut off in the middle, for tests of going on where it was."""

from dream_env.checkpoint import Store


class CutOff(Store):
    """Always due, and the run is cut off after some saves."""

    def __init__(self, folder, saves):
        super().__init__(folder)
        self.saves = saves

    def due(self):
        return True

    def save(self, *arguments):
        path = super().save(*arguments)
        self.saves -= 1
        if self.saves == 0:
            raise KeyboardInterrupt
        return path
