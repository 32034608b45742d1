"""Recordings on disk: found, converted, sampled; written, and kept while a learner plays."""
