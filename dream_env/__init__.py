"""dream-env: world models learned from demonstrations, opened as Gymnasium environments."""
